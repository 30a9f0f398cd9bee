"""Recorded runs: one JSON file a run in data/runs, made by the functions that the notebooks show.

An experiment is a plain function of keyword arguments that returns a dictionary with at least `score` (an
`evaluation.Accuracy`). `record` runs it and writes what came out, untouched; `rerun` runs it again and holds the new
score to the recorded one's band. What judged it is the corpus that the dictionary names (`corpus`), else the tickets.
A module of experiments also has `record_all()`, which records what is missing, and `targets(run)`, the right answers
read anew from the data.
"""

import functools
import hashlib
import importlib
import json
import platform
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from . import corpora, hardware
from .evaluation import Accuracy, wilson_interval

DIRECTORY = corpora.DATA / "runs"
PACKAGES = ("torch", "transformers", "peft")
PAGE = 92  # letters in a printed line


@dataclass(frozen=True)
class Run:
    """One recorded run: what was asked, where it ran, what came out."""

    id: str
    experiment: str
    settings: dict
    environment: dict
    data: str
    seconds: float
    score: dict
    results: dict

    @property
    def accuracy(self) -> float:
        return self.score["value"]

    @property
    def band(self) -> tuple[float, float]:
        """Where another processor's score may fall: the 99 % interval of the recorded count."""
        right = round(self.score["value"] * self.score["n"])
        return wilson_interval(right, self.score["n"], level=0.99)

    def answers(self) -> Accuracy:
        """The run's single answers, for paired comparisons."""
        return Accuracy(self.score["predictions"], self.score["targets"])

    def __repr__(self):
        low, high = self.score["interval"]
        settings = ", ".join(
            f"{name} {value}" for name, value in self.settings.items() if not isinstance(value, list)
        )
        line = f"{self.id}: {self.accuracy:.3f} ({low:.3f} to {high:.3f}, n = {self.score['n']}) · {settings}"
        return textwrap.fill(line, PAGE, subsequent_indent=" " * 4)


def identity(experiment: str, settings: dict) -> str:
    """A run's name: the experiment, and a hash of the settings."""
    text = json.dumps(settings, sort_keys=True)
    return f"{experiment.rpartition(':')[2]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def record(experiment: str, **settings) -> Run:
    """Run `experiment` ("module:function") with the settings and keep the result, unless it is kept already.

    The file is written only when the run has ended, so a runner that is stopped goes on where it stood.
    """
    path = DIRECTORY / f"{identity(experiment, settings)}.json"
    if not path.exists():
        run = _perform(experiment, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".partial")
        part.write_text(json.dumps(vars(run), indent=1) + "\n", "utf8")
        part.replace(path)
    return _read(path)


def _perform(experiment: str, settings: dict) -> Run:
    module, _, name = experiment.partition(":")
    function = getattr(importlib.import_module(module), name)
    start = time.perf_counter()
    results = function(**settings)
    seconds = time.perf_counter() - start
    answers = results.pop("score")
    score = {
        "value": answers.value,
        "n": answers.n,
        "interval": list(answers.interval),
        "predictions": answers.predictions,
        "targets": answers.targets,
    }
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "processor": hardware.processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(hardware.dtype()).removeprefix("torch."),
    }
    data = corpora.fingerprint(results.get("corpus", "tickets"))
    return Run(
        identity(experiment, settings), experiment, settings, environment, data, seconds, score, results
    )


@functools.cache
def _read(path: Path) -> Run:
    return Run(**json.loads(path.read_text("utf8")))


def load_runs(experiment: str, **settings) -> list[Run]:
    """The recorded runs of an experiment (its function's name) whose settings include the given ones.

    Raises LookupError where there is none, with what there is.
    """
    runs = [_read(path) for path in sorted(DIRECTORY.glob(f"{experiment}-*.json"))]
    chosen = [run for run in runs if settings.items() <= run.settings.items()]
    if not chosen:
        raise LookupError(
            f"no recorded run of {experiment!r} with {settings}; {len(runs)} of it are in {DIRECTORY}"
        )
    return sorted(chosen, key=lambda run: json.dumps(run.settings, sort_keys=True))


def best_on_validation(trials: Sequence[Run]) -> Run:
    """The trial with the best validation accuracy; where the loss was recorded, the lower one decides ties."""
    return max(trials, key=lambda run: (run.results["validation"], -run.results.get("validation_loss", 0.0)))


@dataclass(frozen=True)
class Rerun:
    """A recorded run beside its repetition here."""

    recorded: Run
    again: Run

    @property
    def inside(self) -> bool:
        low, high = self.recorded.band
        return low <= self.again.accuracy <= high

    def __repr__(self):
        low, high = self.recorded.band
        place = "inside" if self.inside else "OUTSIDE"
        return (
            f"recorded {self.recorded.accuracy:.3f}, here {self.again.accuracy:.3f}: {place} its band "
            f"{low:.3f} to {high:.3f} ({self.again.seconds:.0f} s)"
        )


def rerun(id: str) -> Rerun:
    """Run a recorded run again, here, with its settings. Nothing is written."""
    path = DIRECTORY / f"{id}.json"
    if not path.exists():
        raise LookupError(f"no recorded run {id!r} in {DIRECTORY}")
    run = _read(path)
    return Rerun(run, _perform(run.experiment, run.settings))


def experiment_modules() -> list:
    """The library's modules of experiments, in the order of their names."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("experiments*.py"))
    return [importlib.import_module(f"{__package__}.{name}") for name in names]


if __name__ == "__main__":
    for module in experiment_modules():
        module.record_all()
