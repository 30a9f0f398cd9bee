"""Which experiments there are, what makes their runs, and how a run is made, repeated, and held to its code.

An experiment is a plain function of keyword arguments that returns a dictionary with at least `score` (an
`evaluation.Accuracy`); the dictionary may name the corpus that judged it (`corpus`), else it is the tickets. A module
lessonNN_topic registers its experiments by a decorator, and its `record_all()` records those runs that are missing.
"""

import functools
import importlib
import pkgutil
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType

import torch

from lessonlib import corpora, hardware, runs
from lessonlib.runs import Run

from .code import code_hash

PACKAGES = ("torch", "transformers", "peft")


class ExperimentError(ValueError):
    """Two experiments bear one name: their runs could not be told apart."""


@dataclass(frozen=True)
class Experiment:
    """A registered experiment: what makes its runs, and `right_answers(run)`, read anew from the data."""

    name: str
    function: Callable[..., dict]
    right_answers: Callable[[Run], list]

    @functools.cached_property
    def code(self) -> str:
        """A hash of the function and of what it calls among the experiments."""
        return code_hash(self.function)


_registered: dict[str, Experiment] = {}


def experiment(*, right_answers: Callable[[Run], list]) -> Callable:
    """Register the decorated function as an experiment under its own name, for good: the name stands in its records.

    right_answers: gives a recorded run's right answers anew from the data, so that a test can hold the two equal.

    Raises ExperimentError where another function has registered the name already.
    """

    def register(function: Callable[..., dict]) -> Callable[..., dict]:
        name = function.__name__
        other = _registered.get(name)
        if other is not None and other.function.__module__ != function.__module__:
            raise ExperimentError(
                f"an experiment {name!r} stands in {other.function.__module__} already: give the one in "
                f"{function.__module__} another name, or their recorded runs could not be told apart"
            )
        _registered[name] = Experiment(name, function, right_answers)
        return function

    return register


@functools.cache
def modules() -> tuple[ModuleType, ...]:
    """The modules of experiments that record runs, in the order of their names. Imports all lessonNN_topic modules."""
    package = importlib.import_module(__package__)
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    lessons = [importlib.import_module(f"{__package__}.{name}") for name in names if name.startswith("lesson")]
    return tuple(module for module in lessons if hasattr(module, "record_all"))


def experiments() -> dict[str, Experiment]:
    """All registered experiments by name."""
    modules()  # a module registers its experiments when it is imported
    return dict(_registered)


def find(name: str) -> Experiment:
    """The experiment of this name.

    Raises LookupError where there is none, with the names that there are.
    """
    known = experiments()
    if name not in known:
        raise LookupError(f"no experiment {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


def record(name: str, **settings) -> Run:
    """Run the experiment with the settings and keep the result, unless it is kept already.

    The file is written only when the run has ended, so a runner that is stopped goes on where it stood.
    Raises LookupError for an unknown experiment.
    """
    recorded = runs.kept(runs.identity(name, settings))
    return runs.keep(perform(name, settings)) if recorded is None else recorded


def perform(name: str, settings: dict) -> Run:
    """Run the experiment here and now; nothing is written.

    Raises LookupError for an unknown experiment.
    """
    asked = find(name)
    start = time.perf_counter()
    results = asked.function(**settings)
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
        id=runs.identity(name, settings),
        experiment=name,
        settings=settings,
        environment=environment,
        data=data,
        code=asked.code,
        seconds=seconds,
        score=score,
        results=results,
    )


@dataclass(frozen=True)
class Rerun:
    """A recorded run beside its repetition here."""

    recorded: Run
    again: Run

    @property
    def inside(self) -> bool:
        """Whether the new score falls in the recorded one's band."""
        low, high = self.recorded.band
        return low <= self.again.accuracy <= high

    def __repr__(self):
        low, high = self.recorded.band
        where = "inside" if self.inside else "OUTSIDE"
        return (
            f"recorded {self.recorded.accuracy:.3f}, here {self.again.accuracy:.3f}: {where} its band "
            f"{low:.3f} to {high:.3f} ({self.again.seconds:.0f} s)"
        )


def rerun(id: str) -> Rerun:
    """Run a recorded run again, here, with its settings. Nothing is written.

    Raises LookupError for an unknown run.
    """
    run = runs.kept(id)
    if run is None:
        raise LookupError(f"no recorded run {id!r} in {runs.DIRECTORY}")
    return Rerun(run, perform(run.experiment, run.settings))


# --- runs that are older than their code -------------------------------------------------------------------------------


def outdated(recorded: list[Run]) -> list[str]:
    """For each run whose experiment's code has changed since, and that nobody has signed off: a line that says so.

    A run that was made before runs knew their code ("inherited") is held to the code of the day on which it was taken
    over, as data/runs/signed_off.toml has it.
    """
    inherited, signed = runs.taken_over(), runs.signed_off()
    lines = []
    for run in recorded:
        now = find(run.experiment).code
        then = inherited.get(run.experiment) if run.code == runs.INHERITED else run.code
        if now != then and signed.get(run.experiment) != now:
            lines.append(
                f"{run.id}: {run.experiment} has changed since (code {then}, now {now}): delete its records and call "
                f"`make runs`, or sign it off in {runs.SIGNED_OFF.name} with the reason why they still stand"
            )
    return lines
