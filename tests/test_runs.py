"""Records: written whole, read whole, found by their settings; what is no record is named."""

import json

import pytest
from scipy.stats import binomtest

from lessonlib import runs
from lessonlib.evaluation import Accuracy


def made(value=0.9, n=200, **settings):
    right = round(value * n)
    answers = Accuracy([1] * right + [0] * (n - right), [1] * n)
    score = {"value": answers.value, "n": n, "interval": list(answers.interval)}
    score |= {"predictions": answers.predictions, "targets": answers.targets}
    return runs.Run(runs.identity("fake", settings), "fake", settings, {"torch": "2"}, "d", "c", 1.0, score, {})


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "DIRECTORY", tmp_path)
    return tmp_path


def test_a_run_is_read_back_as_it_was_kept(directory):
    run = runs.keep(made(r=2))
    assert run == made(r=2) == runs.kept(run.id) == runs.load_runs("fake")[0]
    assert [path.name for path in directory.iterdir()] == [f"{run.id}.json"]


def test_a_run_made_anew_stands_in_the_old_ones_place(directory):
    runs.keep(made(0.5, r=2))
    assert runs.keep(made(0.9, r=2)).accuracy == runs.load_runs("fake")[0].accuracy == 0.9


def test_a_run_that_was_not_recorded_is_none(directory):
    assert runs.kept("fake-00000000") is None


def test_other_settings_are_another_run(directory):
    runs.keep(made(r=2)), runs.keep(made(r=4))
    assert [run.settings for run in runs.load_runs("fake", r=4)] == [{"r": 4}]
    assert [run.settings["r"] for run in runs.load_runs("fake")] == [2, 4]


def test_an_identity_is_the_name_and_a_hash_of_the_settings_in_any_order():
    assert runs.identity("e", {"a": 1, "b": 2}) == runs.identity("e", {"b": 2, "a": 1})
    assert runs.identity("e", {"a": 1}) != runs.identity("e", {"a": 2})
    # The id of a record made before experiments had stable names, from its file.
    assert runs.identity("zero_shot", {}) == "zero_shot-44136fa3"


def test_missing_runs_are_named(directory):
    runs.keep(made(r=2))
    with pytest.raises(LookupError, match=r"no recorded run of 'fake' with .*99.*; 1 of it are in"):
        runs.load_runs("fake", r=99)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_record_cut_short_is_named_with_its_cure(directory, share):
    path = directory / f"{runs.keep(made(r=2)).id}.json"
    whole = path.read_text("utf8")
    path.write_text(whole[: int(len(whole) * share)], "utf8")
    runs._read.cache_clear()
    with pytest.raises(runs.RunError, match=rf"{path.name} is not a whole record \(.*git checkout -- {path.name}"):
        runs.load_runs("fake")


def test_a_pointer_in_a_records_place_is_named_with_its_cure(directory):
    path = directory / "fake-00000000.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "utf8")
    with pytest.raises(runs.RunError, match="is a pointer and not the record: call `git lfs pull`"):
        runs.kept("fake-00000000")


@pytest.mark.parametrize("text", ["[]", "{}", '{"id": "fake-00000000"}'])
def test_another_json_file_in_a_records_place_is_named(directory, text):
    (directory / "fake-00000000.json").write_text(text, "utf8")
    with pytest.raises(runs.RunError, match=r"fake-00000000.json holds .*; a record holds \["):
        runs.kept("fake-00000000")


def test_a_record_without_its_code_is_not_read(directory):
    path = directory / f"{runs.keep(made(r=2)).id}.json"
    record = json.loads(path.read_text("utf8"))
    del record["code"]
    path.write_text(json.dumps(record), "utf8")
    runs._read.cache_clear()
    with pytest.raises(runs.RunError, match="holds"):
        runs.load_runs("fake")


def test_the_band_is_wilsons_at_99_per_cent():
    theirs = binomtest(180, 200).proportion_ci(0.99, method="wilson")
    assert made(0.9, 200).band == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_signature_needs_a_reason(tmp_path, monkeypatch):
    path = tmp_path / "signed_off.toml"
    monkeypatch.setattr(runs, "SIGNED_OFF", path)
    path.write_text('[taken_over]\n[signed_off.houlsby]\ncode = "abc"\nreason = "a name changed"\n', "utf8")
    assert runs.signed_off() == {"houlsby": "abc"}
    path.write_text('[taken_over]\n[signed_off.houlsby]\ncode = "abc"\nreason = " "\n', "utf8")
    with pytest.raises(runs.RunError, match="houlsby is signed off without a reason"):
        runs.signed_off()
