"""Arithmetic word problems of one to six steps, each with a chain of thought, a program and an answer.

A problem is a short story about one running number: an opening sets it, events change it, a closing asks for
it. The sentences stand in data/word_problems/phrases.toml. Each says which sums it wants, in four letters:

    v the running value    n, m the sentence's own numbers    p the result of its sum before

so "n*m, v+p" is "then 3 boxes with 4 lamps each arrive": 3 * 4 = 12, and v + 12. Question, chain and program
are written from the same sums; every result on the way is a whole number of at least 1.

`python -m tools.word_problems` writes the three files of data/word_problems.
"""

import functools
import json
import operator
import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent.parent / "data" / "word_problems"
FROZEN = {"train": (1800, 1), "validation": (200, 2), "test": (300, 3)}  # (problems, seed)
MOST_STEPS = 6
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
PYTHON = {"/": "//"}  # so that a program's answer is a whole number

# What n and m are drawn from; of these pairs, those whose results are whole and of a fitting size.
NUMBERS = {
    "opening": {
        "": (range(5, 61), range(1)),
        "n*m": (range(2, 10), range(2, 13)),
        "n/m": (range(8, 91), range(2, 9)),
        "n+m": (range(3, 41), range(3, 41)),
        "n-m": (range(8, 61), range(2, 31)),
    },
    "event": {
        "v+n": (range(1, 31), range(1)),
        "v-n": (range(1, 31), range(1)),
        "v*n": (range(2, 6), range(1)),
        "v/n": (range(2, 7), range(1)),
        "n*m, v+p": (range(2, 7), range(2, 10)),
        "n*m, v-p": (range(2, 7), range(2, 10)),
    },
    "closing": {
        "": (range(1), range(1)),
        "n-v": (range(5, 151), range(1)),
        "v*n": (range(2, 6), range(1)),
        "v/n": (range(2, 11), range(1)),
        "v+n, v+p": (range(2, 21), range(1)),
        "v-n, v+p": (range(2, 21), range(1)),
        "v*n, v+p": (range(2, 5), range(1)),
        "v/n, v+p": (range(2, 6), range(1)),
    },
}
EVENT_KINDS = (*NUMBERS["event"], "v/n")  # twice: few numbers can be divided
USUAL_LIMIT, RARE_LIMIT = 120, 400  # of all results; the second in one problem of ten

NAMES = {
    "she": ("Mia", "Noor", "Ada", "Ines", "Hana", "Lucy", "Priya", "Zoe"),
    "he": ("Tom", "Ravi", "Leo", "Omar", "Ben", "Karl", "Sam", "Yusuf"),
}
PRONOUNS = {
    "she": {"she": "she", "She": "She", "her": "her", "him": "her", "hers": "hers", "herself": "herself"},
    "he": {"she": "he", "She": "He", "her": "his", "him": "him", "hers": "his", "herself": "himself"},
}
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth"}
BY_NUMBER = re.compile(r"\[([^/\]]*)/([^\]]*)\]")  # "[come/comes]"
CONNECTIVES = ("then ", "after that, ", "next, ", "later, ")
CONNECTED = re.compile(r"(then|after|next|later|at|by|in|on|for|with|before|many|some|only)\b", re.IGNORECASE)


def work_out(sums: str, v: int, n: int = 0, m: int = 0) -> list[tuple[int, str, int, int]]:
    """(a, operator, b, result) of each sum; a division is rounded down.

    >>> work_out("n*m, v+p", v=5, n=3, m=4)
    [(3, '*', 4, 12), (5, '+', 12, 17)]
    """
    values, done = {"v": v, "n": n, "m": m}, []
    for left, sign, right in _split(sums, ","):
        a, b = values[left], values[right]
        values["p"] = OPERATORS[sign](a, b)
        done.append((a, sign, b, values["p"]))
    return done


def _split(text: str, mark: str) -> list[str]:
    return [part.strip() for part in text.split(mark)] if text else []


@functools.cache
def suitable(role: str, sums: str, v: int, limit: int) -> list[tuple[int, int, int]]:
    """All (n, m, last result) with each result whole, from 2 (1 where a gap is asked for) to limit."""
    first, second = NUMBERS[role][sums]
    allowed = range(1 if sums == "n-v" else 2, limit + 1)
    worked_out = [(n, m, work_out(sums, v, n, m)) for n in first for m in second]
    return [(n, m, done[-1][-1] if done else v) for n, m, done in worked_out if _fits(done, allowed)]


def _fits(done, allowed: range) -> bool:
    return all(c in allowed and (sign != "/" or b * c == a) for a, sign, b, c in done)


@dataclass(frozen=True)
class Phrase:
    """A sentence, where it stands ("opening", "event" or "closing"), and the sums that it asks for.

    leads: what stands before each sum in the chain; names: the variable of its result in the program.
    """

    role: str
    sums: str
    text: str
    leads: str = ""
    names: str = ""

    @functools.cached_property
    def parts(self) -> list[tuple[str, str, str]]:
        """(sum, lead, name) of each sum."""
        columns = _split(self.sums, ","), _split(self.leads, "|"), _split(self.names, "|")
        return list(zip(*columns, strict=True))


@functools.cache
def settings() -> dict[str, dict]:
    """Each setting of phrases.toml: its items, its phrases by role, its distractors."""
    tables = tomllib.loads((DIRECTORY / "phrases.toml").read_text("utf8"))
    return {
        name: {
            **table,
            **{f"{role}s": [Phrase(role, *row) for row in table[f"{role}s"]] for role in NUMBERS},
        }
        for name, table in tables.items()
    }


def _pick(rng: random.Random, choices: Sequence):
    # Python promises the same numbers in every version for random() alone, not for choice() and shuffle().
    return choices[int(rng.random() * len(choices))]


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("x", "s", "ch", "sh")) else "s")


class _Story:
    """A problem in the making: sentences, sums and program lines so far, and the running value."""

    def __init__(self, rng: random.Random):
        self.rng, self.setting = rng, settings()[_pick(rng, list(settings()))]
        self.limit = RARE_LIMIT if rng.random() < 0.1 else USUAL_LIMIT
        self.in_words = rng.random() < 0.3  # numbers up to twelve as words
        self.words = self._people() | self._item()
        self.sentences, self.chain, self.program = [], [], []
        self.values, self.variable = [], ""  # the running value as it was and is; what the program calls it

    @property
    def value(self) -> int:
        return self.values[-1] if self.values else 0

    def _people(self) -> dict[str, str]:
        # The other person is of the other gender, so that a pronoun can mean one of them only.
        who, other = _pick(self.rng, [("she", "he"), ("he", "she")])
        return {"name": _pick(self.rng, NAMES[who]), "other": _pick(self.rng, NAMES[other])} | PRONOUNS[who]

    def _item(self) -> dict[str, str]:
        short, _, long = _pick(self.rng, self.setting["items"]).partition("/")
        return {"item": short, "items": _plural(short), "longs": _plural(long or short)}

    def number(self, n: int) -> str:
        return WORDS[n] if self.in_words and n < len(WORDS) else str(n)

    def fill(self, text: str, n: int = 0, m: int = 0) -> str:
        """The text as a sentence: words and numbers filled in, plural or singular by n, a capital first."""
        words = self.words | {
            "n": self.number(n),
            "m": self.number(m),
            "noun": self.words["item" if n == 1 else "items"],
            "times": "twice" if n == 2 else f"{self.number(n)} times",
            "fraction": FRACTIONS.get(n, ""),
            "now": " now" if len(self.sentences) > 1 else "",
        }
        text = BY_NUMBER.sub(r"\2" if n == 1 else r"\1", text).format_map(words)
        return text[0].upper() + text[1:]

    def choices(self, phrase: Phrase) -> list[tuple[int, int, int]]:
        """(n, m, last result) that fit the phrase here; an event does not lead back to an earlier value."""
        found = suitable(phrase.role, phrase.sums, self.value, self.limit)
        return [choice for choice in found if phrase.role != "event" or choice[2] not in self.values]

    def tell(self, phrase: Phrase) -> bool:
        """Add the phrase, with numbers that suit; False if there are none."""
        if not (choices := self.choices(phrase)):
            return False
        n, m, _ = _pick(self.rng, choices)
        self.sentences.append(self.fill(self._connective(phrase) + phrase.text, n, m))
        if phrase.role == "opening" and not phrase.sums:
            self.values, self.variable = [n], str(n)
        self._add_sums(phrase, n, m)
        return True

    def _connective(self, phrase: Phrase) -> str:
        if phrase.role != "event" or len(self.sentences) < 2:
            return ""
        connected = any(CONNECTED.match(text) for text in (phrase.text, self.sentences[-1]))
        return "" if connected or self.rng.random() < 0.6 else _pick(self.rng, CONNECTIVES)

    def _add_sums(self, phrase: Phrase, n: int, m: int) -> None:
        sources = {"v": self.variable, "n": str(n), "m": str(m)}
        for (form, lead, name), (a, sign, b, c) in zip(phrase.parts, work_out(phrase.sums, self.value, n, m)):
            self.chain.append(f"{self.fill(lead, n)} {a} {sign} {b} = {c}.")
            self.program.append((name, f"{sources[form[0]]} {PYTHON.get(sign, sign)} {sources[form[2]]}"))
            sources["p"], result = name, c
        if phrase.sums:
            self.variable = name
            self.values.append(result)

    def distract(self) -> None:
        """Put a sentence that has nothing to do with the question between the opening and the closing."""
        text = self.fill(_pick(self.rng, self.setting["distractors"]), n=_pick(self.rng, range(2, 21)))
        later = range(1, len(self.sentences))
        free = [i for i in later if not self.sentences[i].lower().startswith(CONNECTIVES)]
        self.sentences.insert(_pick(self.rng, free), text)


def _tell_story(rng: random.Random, steps: int) -> _Story | None:
    """One attempt at a problem of exactly `steps` sums; None where no numbers fit."""
    story = _Story(rng)
    events = list(story.setting["events"])
    opening = _pick(rng, _of_size(story.setting["openings"], _pick(rng, (0, 0, 1)), steps))
    closing = _pick(rng, _of_size(story.setting["closings"], _pick(rng, (0, 0, 1, 2)), steps - len(opening.parts)))
    if not story.tell(opening):
        return None
    while left := steps - len(story.chain) - len(closing.parts):
        event = _pick_event(story, [event for event in events if len(event.parts) <= left])
        if not event:
            return None
        story.tell(event)
        events.remove(event)  # nothing happens twice
    return story if story.tell(closing) else None


def _of_size(phrases: list[Phrase], size: int, most: int) -> list[Phrase]:
    return [phrase for phrase in phrases if len(phrase.parts) == min(size, most)]


def _pick_event(story: _Story, events: list[Phrase]) -> Phrase | None:
    """One that suits: first its kind, so that no kind is rare, then the event."""
    possible = [event for event in events if story.choices(event)]
    if not possible:
        return None
    kind = _pick(story.rng, [kind for kind in EVENT_KINDS if any(event.sums == kind for event in possible)])
    return _pick(story.rng, [event for event in possible if event.sums == kind])


def _problem(rng: random.Random, steps: int) -> dict:
    while (story := _tell_story(rng, steps)) is None:
        pass
    distractor = rng.random() < 0.3
    if distractor:
        story.distract()
    names = [name for name, _ in story.program[:-1]] + ["answer"]
    return {
        "question": " ".join(story.sentences),
        "steps": steps,
        "chain": " ".join(story.chain),
        "program": "\n".join(f"{name} = {right}" for name, (_, right) in zip(names, story.program)),
        "answer": story.value,
        "distractor": distractor,
    }


def _step_counts(rng: random.Random, steps: int | None) -> Iterator[int]:
    """`steps` for ever; or 1 to 6, each once in every six, in random order."""
    while True:
        left = [steps] if steps else list(range(1, MOST_STEPS + 1))
        while left:
            yield left.pop(int(rng.random() * len(left)))


def generate(n: int, seed: int, steps: int | None = None) -> list[dict]:
    """n different word problems; the same ones for the same seed.

    steps: how many sums each takes, 1 to 6; None: each number equally often. A problem has an `id`, the
    `question`, `steps`, a `chain` of thought with one sentence a step, a `program` with one assignment a
    step, the last `answer = ...`, the `answer` (1 to 400), and `distractor`: whether a sentence has nothing
    to do with the question.

    Raises ValueError for n below 1 and for steps outside 1 to 6.

    >>> [problem] = generate(1, seed=8, steps=2)
    >>> problem["chain"]
    'The neighbours get 2 * 4 = 8. That leaves 15 - 8 = 7.'
    >>> print(problem["program"])
    to_neighbours = 2 * 4
    answer = 15 - to_neighbours
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; ask for a whole number of problems, at least 1")
    if steps is not None and not (isinstance(steps, int) and 1 <= steps <= MOST_STEPS):
        raise ValueError(f"steps is {steps!r}; a problem has 1 to {MOST_STEPS}, or None for all of these")
    rng, problems = random.Random(seed), {}
    for count in _step_counts(rng, steps):
        problem = _problem(rng, count)
        while problem["question"] in problems:
            problem = _problem(rng, count)
        problems[problem["question"]] = {"id": f"W{seed}-{len(problems) + 1:04}"} | problem
        if len(problems) == n:
            return list(problems.values())


def freeze(directory: Path = DIRECTORY) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    for split, (n, seed) in FROZEN.items():
        lines = [json.dumps(problem, ensure_ascii=False) + "\n" for problem in generate(n, seed)]
        (directory / f"{split}.jsonl").write_text("".join(lines), "utf8", newline="\n")


if __name__ == "__main__":
    freeze()
