"""The exercises: a check that never raises, graded hints, the solution on demand.

An exercise's cell defines a name, wrong or right or not at all, and ends with `name = check(id, name)`: the learner's
own object comes back if it is right, the reference if it is not yet. So the notebook runs through for everyone.
"""

import importlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from IPython.display import Code


class NotYet(Exception):
    """Raised by an exercise's verification with what is wrong, in the learner's terms."""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    name: what the cell defines. stub: the cell's code before anything is done. solution: the code that does it.
    verify(answer): raises NotYet with the likely mistake. wrong: code that a learner may well write, each with the
    words that the check must say of it (the tests hold it to that).
    """

    id: str
    title: str
    name: str
    difficulty: int
    minutes: int
    stub: str
    solution: str
    verify: Callable
    hints: tuple[str, str]
    wrong: dict[str, str]
    praise: str = ""

    @property
    def reference(self):
        return execute(self.solution)[self.name]

    @property
    def level(self) -> str:
        return f"Exercise {self.id} · {'●' * self.difficulty}{'○' * (3 - self.difficulty)} · {self.minutes} minutes"


def code(block: str) -> str:
    """The code of a cell, written as an indented block: without the indentation and the first line's break.

    >>> code("\\n    def f(x):\\n        return x\\n    ")
    'def f(x):\\n    return x\\n'
    """
    return textwrap.dedent(block).lstrip("\n").rstrip() + "\n"


def execute(source: str) -> dict:
    """Run an exercise's code by itself, with the imports that its cell may rely on."""
    from torch import nn
    from torch.nn import functional as F

    names = {"torch": torch, "nn": nn, "F": F}
    exec(source, names)
    return names


def exercises(lesson: str) -> dict[str, Exercise]:
    """The exercises of a lesson by id."""
    module = importlib.import_module(f"{__name__}.lesson{lesson}")
    return {exercise.id: exercise for exercise in module.EXERCISES}


def lessons_with_exercises() -> list[str]:
    """The lessons that have exercises so far."""
    return sorted(path.stem.removeprefix("lesson") for path in Path(__file__).parent.glob("lesson*.py"))


def _get(id: str) -> Exercise:
    lesson = str(id).partition(".")[0]
    known = exercises(lesson) if lesson in lessons_with_exercises() else {}
    if id not in known:
        raise KeyError(f"no exercise {id!r}; there are {', '.join(known) or 'none of that lesson'}")
    return known[id]


def check(id: str, answer):
    """Say whether the answer is right, and why not; return it if it is, the reference otherwise. Never raises for
    whatever the answer is; raises KeyError for an id that does not exist.
    """
    exercise = _get(id)
    try:
        if answer is ...:
            raise NotYet("nothing is filled in")
        # The same verdict after any seed, and the learner's random numbers go on as if nothing had been asked.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            exercise.verify(answer)
    except NotYet as problem:
        verdict = str(problem)
    except (Exception, SystemExit) as problem:
        verdict = f"it stopped with {type(problem).__name__}: {problem}"
    else:
        print(f"✓ {id} right. {exercise.praise}".rstrip())
        return answer
    stop = "" if verdict.endswith(("?", ".")) else "."
    print(f"○ {id} not yet: {verdict}{stop}\n  Stuck? hint('{id}', 1). The notebook goes on with the reference.")
    return exercise.reference


def hint(id: str, level: int = 1) -> None:
    """Print the first hint (where to look) or the second (nearly there)."""
    hints = _get(id).hints
    if level not in range(1, len(hints) + 1):
        print(f"There are {len(hints)} hints for {id}; after them comes solution('{id}').")
    else:
        print(f"Hint {level} of {len(hints)}: {hints[level - 1]}")


def solution(id: str) -> Code:
    """Show one way to do it."""
    return Code(_get(id).solution.strip(), language="python")
