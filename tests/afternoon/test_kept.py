"""Claims of lessonlib.afternoon about what it keeps: damaged, half written, of another base or at work elsewhere, each
is named with its cure or made anew. On a tiny model."""

import json
import time

import pytest
from own_files import CLASSES, ROWS, write
from safetensors import SafetensorError
from tiny_models import tiny_model, tiny_tokenizer

from lessonlib import afternoon
from lessonlib.afternoon import AfternoonError, kept, pipeline, trials
from lessonlib.corpora import own
from lessonlib.models.cache import fingerprint
from lessonlib.serving.report import Check, Report

DAMAGES = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[: len(raw) // 2],
    "zeros": lambda raw: b"\0" * len(raw),
    "bytes": lambda raw: b"\xff" * 9,
    "a list": lambda raw: b"[1, 2]",
    "other names": lambda raw: b'{"x": 1}',
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


# --- small files -----------------------------------------------------------------------------------------------------


@damaged
def test_a_damaged_threshold_is_said_and_stated_anew(tmp_path, capsys, damage):
    path = tmp_path / "threshold.json"
    first = afternoon.state_threshold(tmp_path, 0.8)
    path.write_bytes(damage(path.read_bytes()))
    again = afternoon.state_threshold(tmp_path, 0.7)
    assert again.value == 0.7 and again.stated > first.stated
    assert capsys.readouterr().out.startswith(f"{path} is damaged")
    assert afternoon.state_threshold(tmp_path, 0.6) == again


@damaged
def test_a_damaged_state_is_named_with_its_cure(tmp_path, damage):
    path = afternoon.begin(tmp_path / "out", {"steps": 3}) / "afternoon.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AfternoonError, match=r"afternoon\.json is damaged .* name another directory with --out"):
        afternoon.begin(tmp_path / "out", {"steps": 3})


@damaged
def test_a_damaged_watch_and_a_damaged_prompt_are_named_with_their_cure(tmp_path, tokenizer, damage):
    kept.keep(tmp_path / "watch.json", {"labels": [], "level": 0.01, "predictions": []})
    afternoon.question(tokenizer, CLASSES).write(tmp_path)
    for name, read in (("watch", afternoon.read_watch), ("task", lambda path: afternoon.read_task(tokenizer, path))):
        path = tmp_path / f"{name}.json"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(AfternoonError, match=rf"{name}\.json is damaged .* call the .*command again"):
            read(tmp_path)


def test_what_a_kill_left_is_nobody_elses_and_is_removed(tmp_path):
    left = tmp_path / "afternoon.json.7-0a1b2c3d.partial"
    left.write_text("{")
    afternoon.begin(tmp_path, {"steps": 3})
    for name in ("trials/rate-0.001.7-0a1b2c3d.partial", "merged.7-0a1b2c3d.partial"):
        (tmp_path / name).mkdir(parents=True)
    afternoon.begin(tmp_path, {"steps": 3})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["afternoon.json", "trials"]


def test_one_directory_is_one_calls_at_a_time(tmp_path, cache):
    with kept.held(tmp_path / "out"), kept.held(tmp_path / "other"):
        with pytest.raises(AfternoonError, match=r"another process is at the afternoon in .*out: wait for it"):
            with kept.held(tmp_path / "x" / ".." / "out"):
                pass
    with kept.held(tmp_path / "out"):
        pass


def test_where_no_lock_can_be_kept_the_afternoon_goes_on_without(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONLIB_WORK", "/dev/null")
    with kept.held(tmp_path):
        pass


# --- trials ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tried(tmp_path, cache):
    """tried(): a trial of two steps on three classes, from its directory where that is whole; and the directory."""
    splits = own.split(own.read(write(tmp_path / "mine.csv", ROWS), text="body", label="topic"))

    def fresh():
        return tiny_model(max_position_embeddings=1024), tiny_tokenizer()

    def tried(**settings):
        task = afternoon.question(tiny_tokenizer(), CLASSES)
        (trial,) = afternoon.train(fresh, task, splits, tmp_path / "trials", rates=[1e-3], steps=2, **settings)
        return trial

    return tried, tmp_path / "trials" / "rate-0.001"


@pytest.mark.parametrize("name", ["trial.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_trial_is_said_and_trained_anew(tried, capsys, monkeypatch, name):
    trial, directory = tried
    first = trial()
    for damage in (*DAMAGES.values(), None):
        if damage:
            (directory / name).write_bytes(damage((directory / name).read_bytes()))
        else:
            (directory / name).unlink()
        again = trial()
        assert again.ended > first.ended and (again.losses, again.files) == (first.losses, first.files)
        assert not damage or "trained anew" in capsys.readouterr().out
    assert not list(directory.parent.glob("*.partial"))
    monkeypatch.setattr(trials, "fit", None)
    assert trial() == again


def test_adapter_and_trial_come_together(tried, monkeypatch):
    trial, directory = tried
    monkeypatch.setattr(trials, "keep", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space"):
        trial()
    assert list(directory.parent.iterdir()) == []


def test_no_trial_ends_before_its_threshold_was_stated_though_the_clock_was_set_back(tried):
    tomorrow = time.time() + 24 * 3600
    assert tried[0](after=tomorrow).ended > tomorrow


# --- whose base ------------------------------------------------------------------------------------------------------


def test_a_base_is_known_by_its_files_and_not_by_its_path(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tiny_model(seed).save_pretrained(tmp_path / name)
    (tmp_path / "b" / "README.md").write_text("the same")
    a, b, c = (fingerprint(tmp_path / name) for name in "abc")
    assert a == b != c
    tiny_model(1).save_pretrained(tmp_path / "a")
    assert fingerprint(tmp_path / "a") == c


def test_other_weights_under_the_same_path_are_another_base(tmp_path, cache, capsys):
    file, out, base = write(tmp_path / "mine.csv", ROWS), tmp_path / "out", tmp_path / "base"
    arguments = [str(file), "--text", "body", "--label", "topic", "--out", str(out), "--model", str(base)]
    tiny_model().save_pretrained(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "tune", lambda *_, **__: (_ for _ in ()).throw(AfternoonError("stopped here")))
        assert afternoon.main(arguments) == afternoon.main(arguments) == 2
        assert capsys.readouterr().err.splitlines() == ["stopped here"] * 2
        tiny_model(1).save_pretrained(base)
        assert afternoon.main(arguments) == 2
    assert "holds an afternoon with another base (" in capsys.readouterr().err
    assert json.loads((out / "afternoon.json").read_text("utf8"))["model"] == str(base)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--steps", "0"], "--steps 0: give a whole number from 1"),
        (["--steps", "-3"], "--steps -3: give a whole number from 1"),
        (["--threshold", "nan"], "--threshold nan: give an accuracy from 0 to 1, such as 0.85"),
        (["--threshold", "85"], "--threshold 85.0: give an accuracy from 0 to 1, such as 0.85"),
        (["--threshold", "-0.1"], "--threshold -0.1: give an accuracy from 0 to 1, such as 0.85"),
        (["--seed", "-1"], "--seed -1: give a whole number from 0 to 4294967295"),
        (["--seed", "4294967296"], "--seed 4294967296: give a whole number from 0 to 4294967295"),
    ],
)
def test_a_number_out_of_range_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, line):
    assert afternoon.main([str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.splitlines() == [line]
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_or_of_another_kind_is_one_line_and_exit_code_2(tmp_path, capsys, cache):
    file, base, columns = (
        write(tmp_path / "mine.csv", ROWS),
        tmp_path / "base",
        ["--text", "body", "--label", "topic"],
    )
    tiny_model().save_pretrained(base)
    here, out = ["--model", str(base)], ["--out", str(tmp_path / "out")]
    for arguments, words in (
        ([str(file), *columns, *out, "--model", str(tmp_path / "nowhere")], "nowhere"),
        ([str(tmp_path), *columns, *out, *here], str(tmp_path)),
        ([str(tmp_path / "other.csv"), *columns, *out, *here], "other.csv"),
        ([str(file), "--text", "boddy", "--label", "topic", *out, *here], "boddy"),
        ([str(file), *columns, *here, "--out", str(file)], "mine.csv exists and is not an afternoon's"),
        ([str(file), *columns, *here, "--out", str(file / "below")], "mine.csv"),
    ):
        assert afternoon.main(arguments) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: no space")])
def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, error):
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: (_ for _ in ()).throw(error))
    assert afternoon.main(["mine.csv"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "space" in line and "the same command goes on from here" in line


@pytest.mark.parametrize(
    ("passed", "arguments", "code"), [(False, [], 0), (False, ["--strict"], 1), (True, ["--strict"], 0)]
)
def test_a_failed_check_can_fail_a_pipeline(monkeypatch, capsys, passed, arguments, code):
    report = Report("Afternoon", [Check("quality", passed, "0.5", "0.6")])
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: report)
    assert afternoon.main(["mine.csv", *arguments]) == code
    assert "Afternoon: " in capsys.readouterr().out
