"""Experiments and their recorded runs: complete, of these data, of this code, and repeatable."""

import json

import pytest

from lessonlib import corpora, runs
from lessonlib.evaluation import Accuracy
from lessonlib.experiments import (
    ExperimentError,
    experiment,
    experiments,
    find,
    modules,
    outdated,
    record,
    rerun,
)
from lessonlib.experiments import lesson07_ranks as ranks
from lessonlib.experiments.trials import chosen

FILES = sorted(runs.DIRECTORY.glob("*.json"))


def fake(value=0.9, n=200, **settings):
    """An experiment that is made in no time."""
    right = round(value * n)
    return {"score": Accuracy([1] * right + [0] * (n - right), [1] * n), "settings seen": settings}


@pytest.fixture
def recorder(tmp_path, monkeypatch, stand_in):
    monkeypatch.setattr(runs, "DIRECTORY", tmp_path)
    stand_in("fake", fake)
    return lambda **settings: record("fake", **settings)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_run_is_what_was_written(path):
    run = runs.Run(**json.loads(path.read_text("utf8")))
    assert run.id == path.stem == runs.identity(run.experiment, run.settings)
    judge = corpora.fingerprint(run.results.get("corpus", "tickets"))
    assert run.data == judge, "the data changed: record this run anew"
    answers = run.answers()
    assert answers.value == run.score["value"] and list(answers.interval) == run.score["interval"]
    right = list(find(run.experiment).right_answers(run))
    assert answers.targets == right[: len(answers.targets)] and len(answers.targets) >= 60
    assert run.environment["torch"] and run.environment["processor"] and run.seconds > 0
    assert run.code == runs.INHERITED or len(run.code) == 12


def test_the_recorded_runs_are_those_that_the_modules_of_experiments_ask_for(monkeypatch):
    asked = set()

    def look_up(name, **settings):
        asked.add(runs.identity(name, settings))
        return runs._read(runs.DIRECTORY / f"{runs.identity(name, settings)}.json")

    for module in modules():
        monkeypatch.setattr(module, "record", look_up)
        module.record_all()  # reads only: a run that is missing raises FileNotFoundError
    assert {path.stem for path in FILES} == asked


def test_every_experiment_has_runs_and_every_run_an_experiment():
    assert {path.stem.rpartition("-")[0] for path in FILES} == set(experiments())


def test_no_run_is_older_than_its_code():
    assert outdated([runs._read(path) for path in FILES]) == []


def test_every_inherited_run_is_held_to_the_code_of_the_day_it_was_taken_over():
    inherited = {run.experiment for run in map(runs._read, FILES) if run.code == runs.INHERITED}
    assert set(runs.taken_over()) == inherited


def test_every_rank_got_the_same_trials_and_seeds():
    for r in ranks.RANKS:
        trials = runs.load_runs("lora", r=r, seed=0, **ranks.LORA)
        assert [run.settings["learning_rate"] for run in trials] == list(ranks.LORA_RATES)
        kept = chosen("lora", r=r, **ranks.LORA)
        assert sorted(run.settings["seed"] for run in kept) == list(ranks.SEEDS)
    full = runs.load_runs("full_fine_tuning", seed=0, **ranks.FULL)
    assert len(full) == len(ranks.LORA_RATES)


def test_a_run_is_recorded_once_and_read_back(recorder):
    first = recorder(r=2)
    assert first == recorder(r=2)
    assert first.accuracy == 0.9 and first.settings == {"r": 2} and first.results["settings seen"] == {"r": 2}


def test_a_new_run_knows_its_code(recorder):
    assert recorder(r=2).code == find("fake").code == "fakexxxxxxxx"


def test_a_run_that_dies_leaves_no_file(recorder, stand_in, tmp_path):
    def dies(**_):
        raise KeyboardInterrupt

    stand_in("fake", dies)
    with pytest.raises(KeyboardInterrupt):
        recorder(r=2)
    assert not list(tmp_path.iterdir())


def test_an_unknown_experiment_is_named_with_those_that_there_are(recorder):
    with pytest.raises(LookupError, match=r"no experiment 'houlsbi'; there are .*houlsby"):
        find("houlsbi")
    with pytest.raises(LookupError, match="no recorded run 'fake-0'"):
        rerun("fake-0")


def test_two_experiments_of_one_name_are_refused(recorder):
    def houlsby():
        return {}

    with pytest.raises(ExperimentError, match=r"'houlsby' stands in lessonlib\.experiments\.lesson06_adapters"):
        experiment(right_answers=lambda run: [])(houlsby)
    assert find("houlsby").function is not houlsby


@pytest.mark.parametrize("again, inside", [(0.9, True), (0.86, True), (0.75, False), (0.99, False)])
def test_a_repetition_is_held_to_the_band(recorder, stand_in, again, inside):
    run = recorder(r=2)
    stand_in("fake", lambda **settings: fake(again))
    assert rerun(run.id).inside is inside


def test_a_run_whose_code_has_changed_is_named_until_it_is_signed_off(recorder, tmp_path, monkeypatch):
    run = recorder(r=2)
    assert outdated([run]) == []
    find("fake").__dict__["code"] = "0123456789ab"
    (line,) = outdated([run])
    assert line.startswith(f"{run.id}: fake has changed since (code {run.code}, now 0123456789ab)")
    signatures = tmp_path / "signed_off.toml"
    monkeypatch.setattr(runs, "SIGNED_OFF", signatures)
    signatures.write_text(
        '[taken_over]\n[signed_off.fake]\ncode = "0123456789ab"\nreason = "only a name changed"\n', "utf8"
    )
    assert outdated([run]) == []
    signatures.write_text('[taken_over]\n[signed_off.fake]\ncode = "ffff"\nreason = "an older change"\n', "utf8")
    assert len(outdated([run])) == 1


def test_an_inherited_run_is_older_than_code_that_changed_after_it_was_taken_over(recorder, tmp_path, monkeypatch):
    run = runs.Run(**vars(recorder(r=2)) | {"code": runs.INHERITED})
    signatures = tmp_path / "signed_off.toml"
    monkeypatch.setattr(runs, "SIGNED_OFF", signatures)
    signatures.write_text(f'[signed_off]\n[taken_over]\nfake = "{find("fake").code}"\n', "utf8")
    assert outdated([run]) == []
    signatures.write_text('[signed_off]\n[taken_over]\nfake = "0123456789ab"\n', "utf8")
    assert len(outdated([run])) == 1


@pytest.mark.robust
def test_one_point_of_notebook_07_falls_in_its_band_again():
    point = next(run for run in ranks.rank_runs() if run.settings["r"] == 8)
    again = rerun(point.id)
    assert again.inside, again


def test_a_module_that_there_is_not_is_one_line_and_exit_code_2(capsys):
    from lessonlib.experiments.__main__ import main

    assert main(["lesson99"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no module of experiments 'lesson99'; there are lesson02_in_context, ")
