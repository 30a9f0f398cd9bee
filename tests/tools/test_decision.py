"""Claims of tools.decision: data/decision.toml is sound, and what is wrong in such a file is named with its place."""

import pytest

from lessonlib.choosing.tree import FILE
from tools.decision import problems

TEXT = FILE.read_text("utf8")


def test_nothing_is_wrong_in_the_file():
    assert problems() == []


def test_all_that_one_look_finds_is_named(tmp_path):
    path = tmp_path / "decision.toml"
    path.write_text(TEXT.replace("at_least = 2,", "from = 2,").replace("below = 30,", "below = 3.5,"), "utf8")
    assert problems(path) == [
        "decision.toml: question 'enough examples': below is 3.5; expected a whole number",
        "decision.toml: question 'tasks': 'from' is not known; expected label, then, at_least, below",
        "decision.toml: question 'tasks': 'at_least' is missing",
    ]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('first = "access"', "first = access", "is not TOML: Invalid value"),
        ('first = "access"', "", "'first' is missing"),
        ('first = "access"', "first = 3", "first is 3; expected a text"),
        ('first = "access"', 'start = "access"\nfirst = "access"', "'start' is not known; expected first, "),
        ('first = "access"', 'first = "acess"', "first: it leads to 'acess'; expected the name of a question"),
        ('asks = "latency"', 'asks = "speed"', "question 'latency': it asks for 'speed'; expected one of access"),
        ('values = ["text"]', 'values = ["api"]', "question 'access': access is 'api'; expected one of 'text', "),
        ("at_least = 2,", "from = 2,", "question 'tasks': 'from' is not known; expected label, then, at_least, "),
        ("at_least = 2,", 'at_least = "2",', "question 'tasks': at_least is '2'; expected a whole number"),
        ('"TOO_FEW"', '"TO_FEW"', "question 'enough examples': it rests on 'TO_FEW'; expected names of "),
        ('["SMALL_FILES"', '["SMALL"', "advice 'LoRA, unmerged': it rests on 'SMALL'; expected names of "),
        ('adapter = ["AS', 'adapter = ["IS', "set_aside, adapter: it rests on 'IS_GOOD_AS_AN_ADAPTER'"),
        ('then = "LoRA, copies"', 'then = "memory"', "question 'latency', answer 'no': it leads back to 'memory'"),
        ('then = "LoRA, copies"', 'then = "LoRA, unmerged"', "nothing leads to 'LoRA, copies'"),
        ("[advice.QLoRA]", "[advice.latency]", "'latency' is a question and advice; expected one of them"),
        ("what = \"LoRA, unmerged", "that = \"LoRA, unmerged", "advice 'LoRA, unmerged': 'that' is not known; expected what, why, "),
        ("below = 30", "below = 31", "question 'enough examples': 2 answers stand for examples 30"),
        ("below = 30", "below = 29", "question 'enough examples': 0 answers stand for examples 29; expected one"),
        ("values = [true]", "values = [false]", "question 'far': 2 answers stand for far False"),
        ("values = [true]", "values = []", "question 'far': 0 answers stand for far True; expected one"),
        (
            '"LoRA, high rank" },', '"LoRA, high rank" },\n{ label = "no", values = ["nothing"], then = "both" },',
            "question 'memory, far': nothing that gets there is answered by 'no'",
        ),
        ('{ label = "yes", values = ["relaxed"], then = "LoRA, unmerged" }', '"yes"', "'yes' stands there; expected a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_named(tmp_path, old, new, message):
    assert TEXT.count(old) == 1
    path = tmp_path / "decision.toml"
    path.write_text(TEXT.replace(old, new), "utf8")
    found = problems(path)
    assert message in found[0]
    assert all(one.startswith("decision.toml") for one in found)
