"""Recorded runs: untouched, of these data, and repeatable."""

import json

import pytest

from lessonlib import corpora, experiments, runs
from lessonlib.evaluation import Accuracy

MODULES = {module.__name__: module for module in runs.experiment_modules()}
FILES = sorted(runs.DIRECTORY.glob("*.json"))


def fake(value=0.9, n=200, **settings):
    right = round(value * n)
    return {"score": Accuracy([1] * right + [0] * (n - right), [1] * n), "settings seen": settings}


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "DIRECTORY", tmp_path)
    monkeypatch.setattr(experiments, "fake", fake, raising=False)
    return lambda **settings: runs.record("lessonlib.experiments:fake", **settings)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_run_is_what_was_written(path):
    run = runs.Run(**json.loads(path.read_text("utf8")))
    assert run.id == path.stem == runs.identity(run.experiment, run.settings)
    judge = corpora.fingerprint(run.results.get("corpus", "tickets"))
    assert run.data == judge, "the data changed: record this run anew"
    answers = run.answers()
    assert answers.value == run.score["value"] and list(answers.interval) == run.score["interval"]
    right = list(MODULES[run.experiment.partition(":")[0]].targets(run))
    assert answers.targets == right[: len(answers.targets)] and len(answers.targets) >= 60
    assert run.environment["torch"] and run.environment["processor"] and run.seconds > 0


def test_the_recorded_runs_are_those_that_the_modules_of_experiments_ask_for(monkeypatch):
    asked = set()

    def look_up(experiment, **settings):
        asked.add(runs.identity(experiment, settings))
        return runs._read(runs.DIRECTORY / f"{runs.identity(experiment, settings)}.json")

    for module in MODULES.values():
        monkeypatch.setattr(module, "record", look_up)
        module.record_all()  # reads only: a run that is missing raises FileNotFoundError
    assert {path.stem for path in FILES} == asked


def test_every_rank_got_the_same_trials_and_seeds():
    for r in experiments.RANKS:
        trials = runs.load_runs("lora", r=r, seed=0, **experiments.LORA)
        assert [run.settings["learning_rate"] for run in trials] == list(experiments.LORA_RATES)
        kept = experiments.chosen("lora", r=r, **experiments.LORA)
        assert sorted(run.settings["seed"] for run in kept) == list(experiments.SEEDS)
    full = runs.load_runs("full_fine_tuning", seed=0, **experiments.FULL)
    assert len(full) == len(experiments.LORA_RATES)


def test_a_run_is_recorded_once_and_read_back(recorder):
    first = recorder(r=2)
    assert first == recorder(r=2)
    assert first.accuracy == 0.9 and first.settings == {"r": 2} and first.results["settings seen"] == {"r": 2}


def test_other_settings_are_another_run(recorder):
    assert recorder(r=2).id != recorder(r=4).id
    assert [run.settings for run in runs.load_runs("fake", r=4)] == [{"r": 4}]


def test_a_run_that_dies_leaves_no_file(recorder, monkeypatch, tmp_path):
    def dies(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "fake", dies)
    with pytest.raises(KeyboardInterrupt):
        recorder(r=2)
    assert not list(tmp_path.iterdir())


def test_missing_runs_are_named(recorder):
    recorder(r=2)
    with pytest.raises(LookupError, match="no recorded run of 'fake' with"):
        runs.load_runs("fake", r=99)


@pytest.mark.parametrize("again, inside", [(0.9, True), (0.86, True), (0.75, False), (0.99, False)])
def test_a_repetition_is_held_to_the_band(recorder, monkeypatch, again, inside):
    run = recorder(r=2)
    monkeypatch.setattr(experiments, "fake", lambda **settings: fake(again))
    assert runs.rerun(run.id).inside is inside


@pytest.mark.notebook
def test_one_point_of_notebook_07_falls_in_its_band_again():
    point = next(run for run in experiments.rank_runs() if run.settings["r"] == 8)
    again = runs.rerun(point.id)
    assert again.inside, again
