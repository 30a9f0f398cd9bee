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
from pathlib import Path

from lessonlib.corpora import DATA
from lessonlib.costs import MASTER_WEIGHTS, FullFineTuning, LoRA, QLoRA, fits
from lessonlib.display import Table

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

_WORDS = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}
_PARTS = {"first": str, "questions": dict, "advice": dict, "set_aside": dict}
_QUESTION = {"text": str, "asks": str, "answers": list, "rests_on": list}
_ADVICE = {"what": str, "why": str, "methods": list, "rests_on": list}
_ANSWER = {"label": str, "then": str, "values": list}
_NUMBER = {"label": str, "then": str, "at_least": int, "below": int}


class _File:
    """data/decision.toml, whose names are followed; each refusal says where in the file something is wrong."""

    def __init__(self, path: Path):
        self.path = path
        try:
            parts = tomllib.loads(path.read_text("utf8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path.name} is not TOML: {error}") from error
        self.parts = self.checked("", parts, _PARTS)
        self.built: dict[str, Question | Advice] = {}
        twice = sorted(self.parts["questions"].keys() & self.parts["advice"].keys())
        if twice:
            raise self.wrong("", f"{twice[0]!r} is a question and advice; expected one of them")

    def wrong(self, where: str, what: str) -> ValueError:
        return ValueError(f"{self.path.name}: {where}{': ' if where else ''}{what}")

    def checked(self, where: str, entry: dict, kinds: dict[str, type], optional=()) -> dict:
        """The entry, once it has the keys that it needs, no other, and each of its kind."""
        if not isinstance(entry, dict):
            raise self.wrong(where, f"{entry!r} stands there; expected a table of {', '.join(kinds)}")
        for key in [*entry, *kinds]:
            if key not in kinds:
                raise self.wrong(where, f"{key!r} is not known; expected {', '.join(kinds)}")
            if key not in entry and key not in optional:
                raise self.wrong(where, f"{key!r} is missing")
            if key in entry and type(entry[key]) is not kinds[key]:
                raise self.wrong(where, f"{key} is {entry[key]!r}; expected {_WORDS[kinds[key]]}")
        return entry

    def evidence(self, where: str, names: list) -> tuple[Measured | Published | Counted, ...]:
        for name in names:
            if name not in EVIDENCE:
                raise self.wrong(where, f"it rests on {name!r}; expected names of lessonlib/choosing/rows.py")
        return tuple(EVIDENCE[name] for name in names)

    def node(self, where: str, name: str, way: tuple[str, ...] = ()) -> Question | Advice:
        """The question or advice of that name, with all that follows; the same object for the same name."""
        if name in way:
            raise self.wrong(where, f"it leads back to {name!r}, and so in a circle")
        if name not in self.built:
            if name in self.parts["advice"]:
                self.built[name] = self.advice(name)
            elif name in self.parts["questions"]:
                self.built[name] = self.question(name, (*way, name))
            else:
                raise self.wrong(where, f"it leads to {name!r}; expected the name of a question or of advice")
        return self.built[name]

    def advice(self, name: str) -> Advice:
        where = f"advice {name!r}"
        entry = self.checked(where, self.parts["advice"][name], _ADVICE)
        methods, rests_on = tuple(entry["methods"]), self.evidence(where, entry["rests_on"])
        return Advice(entry["what"], entry["why"], methods, rests_on)

    def question(self, name: str, way: tuple[str, ...]) -> Question:
        where = f"question {name!r}"
        entry = self.checked(where, self.parts["questions"][name], _QUESTION, optional=("rests_on",))
        if entry["asks"] not in FACTS:
            raise self.wrong(where, f"it asks for {entry['asks']!r}; expected one of {', '.join(FACTS)}")
        answers = tuple(self.answer(where, entry["asks"], answer, way) for answer in entry["answers"])
        return Question(
            entry["text"], entry["asks"], answers, self.evidence(where, entry.get("rests_on", []))
        )

    def answer(self, where: str, asks: str, entry: dict, way: tuple[str, ...]) -> Answer:
        if asks in LEAST:
            entry = self.checked(where, entry, _NUMBER, optional=("below",))
            values = range(entry["at_least"], entry.get("below", MOST))
        else:
            values = tuple(self.checked(where, entry, _ANSWER)["values"])
            for value in values:
                if value not in KNOWN[asks]:
                    raise self.wrong(where, f"{asks} is {value!r}; expected one of {_listed(KNOWN[asks])}")
        return Answer(
            entry["label"], values, self.node(f"{where}, answer {entry['label']!r}", entry["then"], way)
        )

    def check_answers(self, node: Question | Advice, left: dict[str, list]) -> None:
        """Whether one answer stands for each value that the questions before have left."""
        if isinstance(node, Advice):
            return
        where = f"question {next(name for name, built in self.built.items() if built is node)!r}"
        for value in left[node.asks]:
            standing = sum(value in answer.values for answer in node.answers)
            if standing != 1:
                raise self.wrong(where, f"{standing} answers stand for {node.asks} {value!r}; expected one")
        for answer in node.answers:
            values = [value for value in left[node.asks] if value in answer.values]
            if not values:
                raise self.wrong(where, f"nothing that gets there is answered by {answer.label!r}")
            self.check_answers(answer.then, left | {node.asks: values})

    def limits(self, fact: str) -> list[int]:
        """The numbers at which an answer begins or ends: between them nothing changes."""
        questions = [node for node in self.built.values() if isinstance(node, Question) and node.asks == fact]
        ends = {end for q in questions for a in q.answers for end in (a.values.start, a.values.stop)}
        return sorted(end for end in {LEAST[fact], *ends} if LEAST[fact] <= end < MOST)


def read_tree(path: Path = FILE) -> tuple[Question, dict[str, tuple[Measured | Published | Counted, ...]]]:
    """The tree of a file, and the methods that no advice uses with what that rests on.

    Raises ValueError that names the place in the file, what stands there and what was expected: for a key that is
    missing, unknown or of another kind, a name that leads nowhere or in a circle, what nothing leads to, and a value
    for which not exactly one answer stands.
    """
    file = _File(path)
    tree = file.node("first", file.parts["first"])
    for name in [*file.parts["questions"], *file.parts["advice"]]:
        if name not in file.built:
            raise file.wrong("", f"nothing leads to {name!r}")
    file.check_answers(
        tree, {fact: list(values) for fact, values in KNOWN.items()} | {f: file.limits(f) for f in LEAST}
    )
    aside = {
        method: file.evidence(f"set_aside, {method}", names)
        for method, names in file.parts["set_aside"].items()
    }
    return tree, aside


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


def cheat_sheet() -> Table:
    """Every way through the tree as a line: if, then, because, and how much of what that rests on holds."""
    rows = []
    for path, advice in leaves():
        if_ = "; ".join(f"{FACTS[question.asks]}: {answer.label}" for question, answer in path)
        held = [one.holds() for one in advice.rests_on]
        rows.append((if_, advice.what, advice.why, f"{held.count(True)} of {len(held)}"))
    return Table(("if", "then", "because", "holds"), rows)
