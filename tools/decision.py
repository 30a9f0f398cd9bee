"""What is wrong with data/decision.toml, which lessonlib.choosing reads and trusts.

`python -m tools.decision` says it of the file that stands there; run it after each change of the file.
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from lessonlib.choosing import EVIDENCE, FACTS, MOST
from lessonlib.choosing.tree import FILE, KNOWN, LEAST, values_of

WORDS = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}
PARTS = {"first": str, "questions": dict, "advice": dict, "set_aside": dict}
QUESTION = {"text": str, "asks": str, "answers": list, "rests_on": list}
ADVICE = {"what": str, "why": str, "methods": list, "rests_on": list}
ANSWER = {"label": str, "then": str, "values": list}
NUMBER = {"label": str, "then": str, "at_least": int, "below": int}


def problems(path: Path = FILE) -> list[str]:
    """What is wrong in a file: each time the place, what stands there and what was expected; [] if nothing is.

    The looks rely on those before them, so all that is named was found by the first look that finds anything.
    """
    try:
        parts = tomllib.loads(path.read_text("utf8"))
    except tomllib.TOMLDecodeError as error:
        return [f"{path.name} is not TOML: {error}"]
    for look in LOOKS:
        if found := dict.fromkeys(look(parts)):  # a place that is reached on two ways is named once
            return [f"{path.name}: {one}" for one in found]
    return []


# --- keys and their kinds ----------------------------------------------------------------------------------------------


def odd_keys(where: str, entry: dict, kinds: dict[str, type], optional: tuple[str, ...] = ()) -> Iterator[str]:
    """Keys of an entry that are unknown, missing, or of another kind. where: what the lines begin with."""
    if not isinstance(entry, dict):
        yield f"{where}{entry!r} stands there; expected a table of {', '.join(kinds)}"
        return
    for key, value in entry.items():
        if key not in kinds:
            yield f"{where}{key!r} is not known; expected {', '.join(kinds)}"
        elif type(value) is not kinds[key]:
            yield f"{where}{key} is {value!r}; expected {WORDS[kinds[key]]}"
    yield from (f"{where}{key!r} is missing" for key in kinds if key not in entry and key not in optional)


def odd_parts(parts: dict) -> Iterator[str]:
    """The file itself."""
    yield from odd_keys("", parts, PARTS)


def odd_entries(parts: dict) -> Iterator[str]:
    """Each question and each piece of advice, and the fact that a question asks for."""
    for name, advice in parts["advice"].items():
        yield from odd_keys(f"advice {name!r}: ", advice, ADVICE)
    for name, question in parts["questions"].items():
        found = list(odd_keys(f"question {name!r}: ", question, QUESTION, optional=("rests_on",)))
        if not found and question["asks"] not in FACTS:
            found = [f"question {name!r}: it asks for {question['asks']!r}; expected one of {', '.join(FACTS)}"]
        yield from found


def odd_answers(parts: dict) -> Iterator[str]:
    """Each answer, and the values that it lists."""
    for name, question in parts["questions"].items():
        where, fact = f"question {name!r}: ", question["asks"]
        for answer in question["answers"]:
            kinds = NUMBER if fact in LEAST else ANSWER
            found = list(odd_keys(where, answer, kinds, optional=("below",)))
            if not found and fact in KNOWN:
                strange = [value for value in answer["values"] if value not in KNOWN[fact]]
                found = [
                    f"{where}{fact} is {value!r}; expected one of {', '.join(map(repr, KNOWN[fact]))}"
                    for value in strange
                ]
            yield from found


# --- names -------------------------------------------------------------------------------------------------------------


def ways_on(parts: dict, name: str) -> list[tuple[str, str]]:
    """(place, name of what follows) for each answer to a question; none behind advice."""
    answers = parts["questions"].get(name, {"answers": []})["answers"]
    return [(f"question {name!r}, answer {answer['label']!r}", answer["then"]) for answer in answers]


def lost_names(parts: dict) -> Iterator[str]:
    """Names that stand for two things or for nothing."""
    questions, advice = parts["questions"], parts["advice"]
    for name in sorted(questions.keys() & advice.keys()):
        yield f"{name!r} is a question and advice; expected one of them"
    resting = [(f"question {name!r}", one.get("rests_on", [])) for name, one in questions.items()]
    resting += [(f"advice {name!r}", one["rests_on"]) for name, one in advice.items()]
    resting += [(f"set_aside, {method}", names) for method, names in parts["set_aside"].items()]
    for where, names in resting:
        for name in names:
            if name not in EVIDENCE:
                yield f"{where}: it rests on {name!r}; expected names of lessonlib/choosing/rows.py"
    for where, name in [
        ("first", parts["first"]),
        *(way for one in questions for way in ways_on(parts, one)),
    ]:
        if name not in questions | advice:
            yield f"{where}: it leads to {name!r}; expected the name of a question or of advice"


def circles(parts: dict, name: str = "", way: tuple[str, ...] = ()) -> Iterator[str]:
    """Answers that lead back to a question on the way to them. name: where to begin, else at the first one."""
    name = name or parts["first"]
    for where, then in ways_on(parts, name):
        if then in (*way, name):
            yield f"{where}: it leads back to {then!r}, and so in a circle"
        else:
            yield from circles(parts, then, (*way, name))


def unreached(parts: dict) -> Iterator[str]:
    """Questions and advice to which no way leads."""
    reached, new = set(), {parts["first"]}
    while new:
        reached |= new
        new = {then for name in new for _, then in ways_on(parts, name)} - reached
    for name in [*parts["questions"], *parts["advice"]]:
        if name not in reached:
            yield f"nothing leads to {name!r}"


# --- one answer for each value -----------------------------------------------------------------------------------------


def limits(parts: dict, fact: str) -> list[int]:
    """The numbers at which an answer begins or ends: between them nothing changes."""
    asking = [question for question in parts["questions"].values() if question["asks"] == fact]
    spans = [values_of(answer) for question in asking for answer in question["answers"]]
    ends = {LEAST[fact]} | {end for span in spans for end in (span.start, span.stop)}
    return sorted(end for end in ends if LEAST[fact] <= end < MOST)


def unanswered(parts: dict, name: str = "", left: dict[str, list] | None = None) -> Iterator[str]:
    """Values with no answer or with two, and answers to no value. left: the values that the questions before leave."""
    name = name or parts["first"]
    left = left or {fact: list(values) for fact, values in KNOWN.items()} | {f: limits(parts, f) for f in LEAST}
    if name in parts["advice"]:
        return
    where, fact = f"question {name!r}", parts["questions"][name]["asks"]
    answers = [(one["label"], values_of(one), one["then"]) for one in parts["questions"][name]["answers"]]
    for value in left[fact]:
        standing = sum(value in values for _, values, _ in answers)
        if standing != 1:
            yield f"{where}: {standing} answers stand for {fact} {value!r}; expected one"
    for label, values, then in answers:
        if kept := [value for value in left[fact] if value in values]:
            yield from unanswered(parts, then, left | {fact: kept})
        else:
            yield f"{where}: nothing that gets there is answered by {label!r}"


LOOKS = (odd_parts, odd_entries, odd_answers, lost_names, circles, unreached, unanswered)

if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or f"{FILE.name}: nothing is wrong")
    sys.exit(bool(found))
