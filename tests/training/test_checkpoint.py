"""Claims of lessonlib.training.checkpoint about the places where runs are kept: whose they are, and what happens where
they fail. That a run resumes to the same losses is held in test_loop."""

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from tiny_models import Tokens, next_token_loss, tiny_model

from lessonlib import training
from lessonlib.lora import add_lora
from lessonlib.training import checkpoint, fit, work_directory


def batches(steps=6):
    generator = torch.Generator().manual_seed(1)
    return [Tokens(torch.randint(0, 512, (2, 8), generator=generator)) for _ in range(steps)]


class Interrupted(KeyboardInterrupt):
    pass


STOP = {"after": None}  # not part of the loss: that is the same code with another number


def loss(model, batch):
    if STOP["after"] is not None:
        if not STOP["after"]:
            raise Interrupted
        STOP["after"] -= 1
    return next_token_loss(model, batch)


def train(stop=None, learning_rate=1e-2, resume="run"):
    """Six steps, or an interruption before step `stop`."""
    torch.manual_seed(0)
    model = add_lora(tiny_model(), r=4)
    STOP["after"] = stop
    if stop is None:
        return fit(model, batches(), learning_rate=learning_rate, loss=loss, resume=resume)
    with pytest.raises(Interrupted):
        fit(model, batches(), learning_rate=learning_rate, loss=loss, resume=resume)


@pytest.fixture
def eager(cache, monkeypatch):
    """The test's own unfinished work, and a checkpoint after every step."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    return work_directory() / "unfinished"


@pytest.fixture
def whole(cache):
    return train(resume=None).losses


# --- whose directory ----------------------------------------------------------------------------------------


def test_unfinished_work_lies_in_a_persons_own_directory_and_never_beside_the_models(eager, cache):
    train(stop=3)
    assert len(list(eager.iterdir())) == 1
    assert not cache.exists()


def test_the_directory_is_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv("LESSONLIB_CACHE", "/somewhere/shared")
    for name in ("LESSONLIB_WORK", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert work_directory() == tmp_path / ".local" / "state" / "lessonlib"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert work_directory() == tmp_path / "state" / "lessonlib"
    monkeypatch.setenv("LESSONLIB_WORK", str(tmp_path / "work"))
    assert work_directory() == tmp_path / "work"


# --- where it fails, the training goes on -------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_is_said_in_one_line_and_the_training_goes_on(
    eager, whole, monkeypatch, capfd
):
    monkeypatch.setenv("LESSONLIB_WORK", "/dev/null")
    assert train().losses == whole
    out, err = capfd.readouterr()
    (line,) = [line for line in out.splitlines() if not line.startswith("Training done")]
    assert (
        line.startswith("This run is not kept on its way (")
        and "set LESSONLIB_WORK to a directory of your own" in line
    )
    assert err == ""


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error"), ValueError("odd state")]
)
def test_a_disk_that_fills_up_is_said_once_and_the_training_goes_on(eager, whole, monkeypatch, capfd, error):
    def full(tensors, path, **rest):
        calls.append(path)
        if len(calls) > 2:
            path.write_bytes(b"a part of it")
            raise error
        real(tensors, path, **rest)

    calls, real = [], checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", full)
    train(stop=5)
    assert len(calls) == 3  # no fourth try on a disk that is full
    (kept,) = eager.iterdir()
    assert kept.suffix == ".safetensors"
    lines = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("Training")]
    assert len(lines) == 1 and lines[0].startswith("This run is not kept any further (")
    again = train()
    assert (again.resumed_at, again.losses) == (2, whole)


def other_format(raw):
    return save({"weight": torch.zeros(3)})


def zeros_at_its_end(raw):
    return raw[:-100] + b"\0" * 100


@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: raw[: len(raw) // 2], lambda raw: b"\0" * len(raw), zeros_at_its_end, other_format],
)
def test_a_damaged_checkpoint_is_said_and_the_run_begins_anew(eager, whole, capfd, damage):
    train(stop=4)
    (kept,) = eager.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    again = train()
    assert (again.resumed_at, again.losses) == (0, whole)
    assert f"{kept} is damaged (" in capfd.readouterr().out
    assert list(eager.iterdir()) == []


def test_without_a_home_and_a_known_user_the_training_goes_on(eager, whole, monkeypatch, capfd):
    monkeypatch.delenv("LESSONLIB_WORK")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    assert train().losses == whole
    assert "not kept on its way (there is no home directory): set LESSONLIB_WORK" in capfd.readouterr().out


def test_a_slow_disk_is_asked_less_often(eager, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.01)
    kept = checkpoint.Checkpoint("run-0123456789abcdef")
    saves = []
    monkeypatch.setattr(kept, "save", lambda *_: saves.append(time.sleep(0.05)))
    kept.saved, kept.took = time.perf_counter() - 1, 200.0
    kept.save_when_due(None, None)
    assert not saves
    kept.took = 50.0
    kept.save_when_due(None, None)
    assert len(saves) == 1 and 0.05 <= kept.took < 1


# --- two at once --------------------------------------------------------------------------------------------


def hold(started, end):
    """In a process of its own: the same run, which stands still after its second step."""
    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = 0.0
    real = checkpoint.Checkpoint.save

    def save(self, steps, history):
        real(self, steps, history)
        if len(history.losses) == 2:
            started.set()
            end.wait(120)

    checkpoint.Checkpoint.save = save
    train()


@pytest.fixture
def other(eager):
    """Another process in the midst of the same run; other(kill) ends it."""
    context = multiprocessing.get_context("spawn")
    started, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(started, end))
    process.start()
    assert started.wait(120)

    def finish(kill: bool):
        process.kill() if kill else end.set()
        process.join(120)
        return process.exitcode

    yield finish
    process.kill()
    process.join()


@pytest.mark.slow
def test_two_processes_with_one_run_do_not_take_each_others(eager, other, whole, capfd):
    (kept,) = eager.iterdir()
    before = kept.read_bytes()
    mine = train()
    assert (mine.resumed_at, mine.losses) == (0, whole)
    assert "Another process trains run-" in capfd.readouterr().out
    assert kept.read_bytes() == before
    for rate in (1e-3, 2e-3, 3e-3, 4e-3):  # nor is it cleared as abandoned
        os.utime(kept, (0, 0))
        train(stop=3, learning_rate=rate)
    assert kept.exists()
    assert [run.running for run in checkpoint.unfinished() if run.name == kept.stem] == [True]
    assert checkpoint.clear(checkpoint.unfinished()) and kept.exists()
    assert other(kill=False) == 0
    assert not kept.exists()


@pytest.mark.slow
def test_what_a_killed_process_left_is_taken_up(eager, other, whole):
    other(kill=True)
    again = train()
    assert (again.resumed_at, again.losses) == (2, whole)
    assert [*eager.iterdir(), *Path(eager.parent / "running").iterdir()] == []


# --- what nobody takes up -----------------------------------------------------------------------------------


def test_of_a_name_two_others_are_kept_and_the_rest_cleared_in_one_line(eager, capfd):
    for n in range(1, 7):
        train(stop=3, learning_rate=1e-3 * n)
    assert len(list(eager.iterdir())) == 3
    assert train(learning_rate=4e-3).resumed_at == train(learning_rate=6e-3).resumed_at == 3
    train(learning_rate=1e-3)
    said = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("Training")]
    assert said == [f"Removed from {eager}: unfinished runs that nobody took up, 1 of them"] * 3


def test_other_names_stay_unless_they_have_lain_for_two_weeks(eager):
    train(stop=3, resume="another")
    (eager / "third-0123456789abcdef.safetensors.7-0a1b2c3d.partial").write_bytes(b"killed at its first checkpoint")
    train()
    assert len(list(eager.iterdir())) == 2
    two_weeks = time.time() - (checkpoint.DAYS + 0.1) * 24 * 3600
    for path in eager.iterdir():
        os.utime(path, (two_weeks, two_weeks))
    train()
    assert list(eager.iterdir()) == []


def test_what_a_kill_left_beside_a_checkpoint_goes_with_it(eager, whole):
    train(stop=3)
    (kept,) = eager.iterdir()
    kept.with_name(f"{kept.name}.7-0a1b2c3d.partial").write_bytes(b"half of the next")
    assert [(run.name, run.running) for run in checkpoint.unfinished()] == [(kept.stem, False)]
    assert checkpoint.unfinished()[0].bytes == kept.stat().st_size + 16
    assert train().losses == whole
    assert list(eager.iterdir()) == []


def test_a_clock_that_was_set_back_makes_nothing_old_or_younger_than_now(eager):
    train(stop=3)
    (kept,) = eager.iterdir()
    tomorrow = time.time() + 24 * 3600
    os.utime(kept, (tomorrow, tomorrow))
    assert [run.seconds for run in checkpoint.unfinished()] == [0.0]
    train(resume="another")
    assert kept.exists()


@pytest.mark.parametrize("error", [KeyError("state"), KeyboardInterrupt()])
def test_a_checkpoint_that_stops_the_call_is_not_held(eager, monkeypatch, error):
    train(stop=3)
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(checkpoint, "load_file", lambda path: (_ for _ in ()).throw(error))
        train()
    assert train().resumed_at == 3
