"""Which way to adapt a model: questions, answers and advice as data, and `recommend`, which walks them.

A question looks at one fact of a situation and has an answer for each value; behind an answer stands the next question
or the advice. What they say stands in data/decision.toml; the picture of the tree is drawn from the same `TREE`. Each
piece of advice names what it rests on (`rows`), and all of it can be asked again: `evidence.holds()` reads the runs and
the tables anew.

Asked here is how to adapt a model, once it is clear that it has to be. New facts belong in the prompt (notebook 10).
"""

import tomllib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lessonlib.corpora import DATA
from lessonlib.costs import MASTER_WEIGHTS, FullFineTuning, LoRA, QLoRA, fits

from .evidence import Counted, Measured, Published
from .rows import EVIDENCE

# --- the parts of a tree -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """What to do, why, and what that rests on. methods: those of the head-to-head that it uses."""

    what: str
    why: str
    methods: tuple[str, ...]
    rests_on: tuple[Measured | Published | Counted, ...]


@dataclass(frozen=True)
class Answer:
    """The values that it stands for, and what follows."""

    label: str
    values: Container
    then: "Question | Advice"


@dataclass(frozen=True)
class Question:
    """asks: the fact of a situation that it looks at. rests_on: what its answers' limits rest on."""

    text: str
    asks: str
    answers: tuple[Answer, ...]
    rests_on: tuple[Measured | Published | Counted, ...] = ()

    def answer(self, value) -> Answer:
        """The answer that stands for a value."""
        return next(answer for answer in self.answers if value in answer.values)


ACCESS = ("text", "probabilities", "weights")
MEMORY = ("nothing", "4-bit LoRA", "LoRA", "full fine-tuning")  # the most that can be trained
LATENCY = ("strict", "relaxed")
MOST = 10**12  # no number of examples or tasks reaches it

# The facts of a situation in the words of the cheat sheet, the least of those that are numbers, the values of the others.
FACTS = {
    "access": "the model gives", "examples": "examples", "memory": "can be trained", "far": "new language or skill",
    "tasks": "tasks", "latency": "answers may be slower",
}  # fmt: skip
LEAST = {"examples": 0, "tasks": 1}
KNOWN = {"access": ACCESS, "memory": MEMORY, "far": (False, True), "latency": LATENCY}


def _listed(values: tuple) -> str:
    return ", ".join(map(repr, values))


@dataclass(frozen=True)
class Situation:
    """examples: labelled ones. access: what the model gives. memory: the most that can be trained, of `MEMORY`.
    far: a new language or skill for the base. latency: "strict" where no answer may take longer than the base's.
    tasks: how many one server has to know."""

    examples: int
    access: str = "weights"
    memory: str = "full fine-tuning"
    far: bool = False
    latency: str = "strict"
    tasks: int = 1

    def __post_init__(self):
        for name, least in LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < MOST:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")
        for name, values in KNOWN.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {_listed(values)}")


# --- the file ----------------------------------------------------------------------------------------------------------

FILE = DATA / "decision.toml"


def values_of(answer: dict) -> Container:
    """The values that an answer of the file stands for: those that it lists, or the numbers between its limits."""
    if "values" in answer:
        return tuple(answer["values"])
    return range(answer["at_least"], answer.get("below", MOST))


def _evidence(names: list[str]) -> tuple[Measured | Published | Counted, ...]:
    return tuple(EVIDENCE[name] for name in names)


def read_tree(path: Path = FILE) -> tuple[Question, dict[str, tuple[Measured | Published | Counted, ...]]]:
    """The tree of a file, and the methods that no advice uses with what that rests on.

    The file is trusted; whether it may be, `tools.decision` tells. A name stands for one object wherever it is called.
    """
    parts = tomllib.loads(path.read_text("utf8"))

    @cache
    def node(name: str) -> Question | Advice:
        if name in parts["advice"]:
            advice = parts["advice"][name]
            methods = tuple(advice["methods"])
            return Advice(advice["what"], advice["why"], methods, _evidence(advice["rests_on"]))
        asked = parts["questions"][name]
        answers = tuple(Answer(one["label"], values_of(one), node(one["then"])) for one in asked["answers"])
        return Question(asked["text"], asked["asks"], answers, _evidence(asked.get("rests_on", [])))

    return node(parts["first"]), {method: _evidence(names) for method, names in parts["set_aside"].items()}


TREE, SET_ASIDE = read_tree()

# --- the function ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recommendation:
    """The advice, the situation, and the questions that led there with their answers."""

    advice: Advice
    situation: Situation
    path: tuple[tuple[Question, Answer], ...] = field(repr=False)

    def __repr__(self):
        marks = {True: "holds", False: "DOES NOT HOLD", None: "not recorded yet"}
        lines = [f"{self.advice.what}", f"  {self.advice.why}"]
        lines += [f"  · {question.text} {answer.label}" for question, answer in self.path]
        lines += [f"  – {one.says} ({marks[one.holds()]})" for one in self.advice.rests_on]
        return "\n".join(lines)


def recommend(
    examples: int,
    access: str = "weights",
    *,
    base="llama2-7b",
    gpu: str | float = "T4",
    far: bool = False,
    latency: str = "strict",
    tasks: int = 1,
    tokens: int = 512,
) -> Recommendation:
    """What to do with so many labelled examples.

    access: "text" where the model gives answers only, "probabilities" where it gives those of words too, "weights".
    base: anything that `costs.architecture` takes. gpu: a name of data/gpus.json, or gigabytes. far: a new language or
    skill for the base. latency: "strict" where no answer may take longer than the base's, else "relaxed".
    tasks: how many one server has to know. tokens: of a training text.

    Raises ValueError that names the value, and what `costs.fits` raises for an unknown base or GPU.

    >>> recommend(500, base="llama2-13b", gpu="T4").advice.what
    'QLoRA: LoRA over a base in 4 bits'
    >>> recommend(500, base="llama2-7b", gpu=80.0, tasks=40, latency="relaxed").advice.what
    'LoRA, unmerged: one base, one small file a task'
    """
    memory = trainable(base, gpu, tokens) if access == "weights" else "nothing"
    return decide(Situation(examples, access, memory, far, latency, tasks))


def decide(situation: Situation) -> Recommendation:
    """Walk the tree."""
    node, path = TREE, []
    while isinstance(node, Question):
        answer = node.answer(getattr(situation, node.asks))
        path.append((node, answer))
        node = answer.then
    return Recommendation(node, situation, tuple(path))


def trainable(base, gpu: str | float, tokens: int = 512) -> str:
    """The most of `MEMORY` that fits a GPU, one text at a time and with recomputation."""
    full = {"method": FullFineTuning(), "precision": MASTER_WEIGHTS}
    plans = {"full fine-tuning": full, "LoRA": {"method": LoRA(r=16)}, "4-bit LoRA": {"method": QLoRA(r=16)}}
    fitting = (name for name, plan in plans.items() if fits(base, gpu, tokens=tokens, recompute=True, **plan))
    return next(fitting, "nothing")


def leaves(node: Question | Advice = TREE, path: tuple = ()) -> Iterator[tuple[tuple, Advice]]:
    """((question, answer), …) and the advice behind them, for every way through the tree."""
    if isinstance(node, Advice):
        yield path, node
        return
    for answer in node.answers:
        yield from leaves(answer.then, (*path, (node, answer)))


def all_evidence() -> list[Measured | Published | Counted]:
    """All that the tree and what it sets aside rest on, each once."""
    found = [one for path, advice in leaves() for one in advice.rests_on]
    found += [one for path, _ in leaves() for question, _ in path for one in question.rests_on]
    found += [one for reasons in SET_ASIDE.values() for one in reasons]
    return list({id(one): one for one in found}.values())
