"""Claims of lessonlib.course.doctor: what it says of places and of unfinished training, and what `--clear` removes."""

import os
import time

import pytest

from lessonlib.course import doctor
from lessonlib.training import checkpoint, work_directory


@pytest.fixture
def lying(cache):
    """Two unfinished runs of a person, one of them three days old, with what a kill left beside it."""
    directory = work_directory() / "unfinished"
    directory.mkdir(parents=True)
    for name, size in (("old", 1_000_000), ("new", 2_000_000)):
        (directory / f"{name}-0123456789abcdef.safetensors").write_bytes(b"0" * size)
    left = directory / "old-0123456789abcdef.safetensors.7-0a1b2c3d.partial"
    left.write_bytes(b"0" * 500_000)
    for path in directory.glob("old*"):
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    return directory


def test_unfinished_runs_are_listed_with_size_and_age(lying):
    fine, found, _ = doctor._unfinished()
    assert fine and found.splitlines() == [
        "2 unfinished runs, which the same cell takes up; `--clear` removes them:",
        "       new-0123456789abcdef: 2.0 MB, 0.0 hours old",
        "       old-0123456789abcdef: 1.5 MB, 3 days old",
    ]


def test_clear_removes_them_and_says_what(lying, capsys):
    assert doctor.main(["--clear"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "removed new-0123456789abcdef: 2.0 MB, 0.0 hours old",
        "removed old-0123456789abcdef: 1.5 MB, 3 days old",
        f"2 of 2 unfinished runs removed from {work_directory()}, 3.5 MB",
    ]
    assert list(lying.iterdir()) == [] and doctor._unfinished() == (True, "no unfinished runs", "")


def test_what_a_process_is_at_stays(lying, capsys):
    busy = checkpoint.Checkpoint("old-0123456789abcdef")
    assert busy.claim()
    assert doctor.main(["--clear"]) == 0
    out = capsys.readouterr().out
    assert "kept old-0123456789abcdef: 1.5 MB, 3 days old, a process is at it" in out and "1 of 2" in out
    assert len(list(lying.iterdir())) == 2
    busy.release()


def test_places_that_cannot_be_are_lines_with_a_cure(cache, monkeypatch, capsys):
    monkeypatch.setenv("LESSONLIB_CACHE", "/dev/null/below")
    monkeypatch.setattr(doctor, "missing", list)
    lines = {found: (fine, remedy) for fine, found, remedy in doctor.examine()}
    fine, remedy = lines["a place for base models"]
    assert not fine and "/dev/null/below" in remedy
    monkeypatch.delenv("LESSONLIB_WORK")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert doctor.main(["--clear"]) == 1
    assert "set LESSONLIB_WORK" in capsys.readouterr().out
