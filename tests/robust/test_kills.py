"""A training and an afternoon that are killed at any moment: called again, each goes on to the result of one that nobody
stopped, and leaves nothing else behind. `make robust` kills at twenty moments each, the ordinary tests at two."""

import json
import multiprocessing
import os
import random
import re
import time

import pytest
import torch
from own_files import ROWS, write
from tiny_models import Tokens, next_token_loss, tiny_model, tiny_tokenizer

from lessonlib import afternoon, training
from lessonlib.lora import add_lora
from lessonlib.serving import engine
from lessonlib.serving.report import Report

CHECKPOINTS = 0.05  # seconds between two: many moments fall into one that is being written


def moments(many: int) -> list[float]:
    """Shares of a whole run, one drawn from each of as many stretches, so that none is left out."""
    draw = random.Random(many)
    return [(i + draw.random()) / many for i in range(many)]


at_moments = pytest.mark.parametrize(
    "share",
    [
        *(pytest.param(share, marks=pytest.mark.slow, id=f"{share:.3f}") for share in moments(2)),
        *(pytest.param(share, marks=pytest.mark.robust, id=f"{share:.3f}") for share in moments(20)),
    ],
)


@pytest.fixture(scope="module")
def apart():
    """Processes that begin with everything imported, and are forked from one that has trained nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lessonlib.afternoon", "tiny_models", "own_files"])
    first = context.Process(target=print)  # so that no measured one waits for the imports
    first.start()
    first.join()
    return context


def places(place) -> dict[str, str]:
    return {"LESSONLIB_CACHE": f"{place}/cache", "LESSONLIB_WORK": f"{place}/work", "LESSONLIB_DTYPE": "float32"}


def within(place, work, *arguments) -> None:
    """In a process of its own, which has the environment of the one that it was forked from."""
    os.environ.update(places(place))
    os.environ.pop("CI", None)
    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = CHECKPOINTS
    work(place, *arguments)


def to_its_end(apart, place, work) -> float:
    """The seconds of a call that nobody stops."""
    process, began = apart.Process(target=within, args=(place, work)), time.monotonic()
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return time.monotonic() - began


def killed(apart, place, work, after: float) -> None:
    process = apart.Process(target=within, args=(place, work))
    process.start()
    process.join(after)
    process.kill()
    process.join()


def left(place) -> list[str]:
    """Files among a person's unfinished work, and what was not written to its end anywhere."""
    return [
        str(path)
        for path in place.rglob("*")
        if path.name.endswith(".partial") or (place / "work" in path.parents and path.is_file())
    ]


# --- a training ------------------------------------------------------------------------------------------------------


def train(place) -> None:
    torch.manual_seed(0)
    model = add_lora(tiny_model(), r=4)
    generator = torch.Generator().manual_seed(1)
    batches = [Tokens(torch.randint(0, 512, (2, 8), generator=generator)) for _ in range(60)]
    history = training.fit(model, batches, learning_rate=1e-2, loss=slow_loss, resume="run")
    (place / "losses.json").write_text(json.dumps(history.losses))


def slow_loss(model, batch):
    time.sleep(0.02)
    return next_token_loss(model, batch)


@pytest.fixture(scope="module")
def trained(apart, tmp_path_factory):
    """The losses of a training that nobody stopped, and its seconds."""
    place = tmp_path_factory.mktemp("whole")
    seconds = to_its_end(apart, place, train)
    return (place / "losses.json").read_text(), seconds


@at_moments
def test_a_training_that_was_killed_goes_on_to_the_same_losses(apart, trained, tmp_path, share):
    losses, seconds = trained
    killed(apart, tmp_path, train, share * seconds)
    to_its_end(apart, tmp_path, train)
    assert (tmp_path / "losses.json").read_text() == losses
    assert left(tmp_path) == []


# --- an afternoon ----------------------------------------------------------------------------------------------------


def spend(place) -> None:
    engine.serving_python = lambda: None
    arguments = [str(place / "mine.csv"), "--text", "body", "--label", "topic", "--out", str(place / "out")]
    assert afternoon.main([*arguments, "--model", str(place / "base"), "--steps", "6", "--merged"]) == 0


def prepared(place):
    """A file and a base for an afternoon."""
    tiny_model(max_position_embeddings=1024).save_pretrained(place / "base")
    tiny_tokenizer().save_pretrained(place / "base")
    write(place / "mine.csv", ROWS)
    return place


def came_out(place) -> tuple:
    """What an afternoon left that does not depend on the clock: files, checks and figures."""
    out = place / "out"
    report = Report.read(out)
    weights = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")}
    checks = [(check.name, check.passed) for check in report.checks]
    figures = {name: value for name, value in report.facts.items() if not re.search(r"seconds|median ms", name)}
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    return files, weights, checks, figures


@pytest.fixture(scope="module")
def spent(apart, tmp_path_factory):
    """What came out of an afternoon that nobody stopped, and its seconds."""
    place = prepared(tmp_path_factory.mktemp("whole"))
    seconds = to_its_end(apart, place, spend)
    return came_out(place), seconds


@at_moments
def test_an_afternoon_that_was_killed_goes_on_to_the_same_report(apart, spent, tmp_path, share):
    expected, seconds = spent
    prepared(tmp_path)
    killed(apart, tmp_path, spend, share * seconds)
    to_its_end(apart, tmp_path, spend)
    for ours, theirs in zip(came_out(tmp_path), expected, strict=True):
        assert ours == theirs
    assert left(tmp_path) == []
