"""The figures of 04: each draws, says in words what it shows, and keeps its text inside and apart."""

import html

from pictures import PictureChecks

from lessonlib import figures

STEPS = {
    "with the chain": {2: (2000, 2000), 4: (2000, 2000), 8: (1998, 2000)},
    "answer only": {2: (640, 2000), 4: (486, 2000), 8: (508, 2000)},
    "dots": {2: (638, 2000), 4: (494, 2000), 8: (486, 2000)},
}
TUNED = {
    "program": {1: (48, 50), 2: (43, 50), 3: (31, 50), 4: (24, 50)},
    "chain": {1: (47, 50), 2: (40, 50), 3: (27, 50), 4: (22, 50)},
    "answer": {1: (40, 50), 2: (11, 50), 3: (2, 50), 4: (0, 50)},
}
SIZES = {
    "LaMDA": {0.42: -2.2, 2: -1.7, 8: -1.6, 68: 2.5, 137: 7.8},
    "GPT-3": {0.35: -1.7, 1.3: -1.9, 6.7: -1.6, 175: 31.3},
    "PaLM": {8: -0.8, 62: 20.3, 540: 39.0},
}
TASKS = {
    "GPT-3 175B": {"MultiArith": 57.9, "GSM8K": 31.3, "CSQA": -6.0, "SingleOp": -2.1},
    "PaLM 540B": {"MultiArith": 52.5, "GSM8K": 39.0, "last letters": 91.8, "CSQA": 1.8, "SingleOp": 0.0},
}
TASKS = {m: {t: TASKS[m][t] for t in TASKS["PaLM 540B"] if t in TASKS[m]} for m in ("PaLM 540B", "GPT-3 175B")}
KINDS = {
    "arithmetic": {
        "direct, no examples": (3, 120),
        "step by step": (5, 120),
        "direct": (2, 120),
        "chain": (8, 120),
    },
    "logic": {
        "direct, no examples": (10, 60),
        "step by step": (16, 60),
        "direct": (14, 60),
        "chain": (15, 60),
    },
    "recall": {
        "direct, no examples": (50, 60),
        "step by step": (26, 60),
        "direct": (60, 60),
        "chain": (45, 60),
    },
}
CHANCE = {"logic": 0.25, "recall": 0.25}
VOTES = {1: 0.30, 2: 0.30, 4: 0.38, 8: 0.42, 16: 0.44}
OUTCOMES = {
    "symbolic, complete": (50, 50, 1043),
    "symbolic, 5 kept": (38, 50, 121),
    "tuned, searched": (21, 50, 64),
    "tuned, greedy": (3, 50, 4),
}
PROBLEMS = {
    "short": "Karl has 31 badges. A year later the collection is 3 times as large. How many badges does he have now?",
    "long": "Noor has 26 open messages at the Quillhaven support desk. On Monday there are 3 times as many messages. "
    "She sorts the messages into 6 equal groups and keeps only one group. For 3 hours, she answers 3 messages an hour. "
    "A firmware update brings 30 more messages. Some hours later, only half of the messages are still open. How many "
    "messages does Noor have now?",
}
WROTE = {
    "answer only": (" 93.", "93", True),
    "chain": (
        " On Monday there are 26 * 3 = 78. One group has 78 / 6 = 13. She answers 3 * 3 = 9. That leaves 13 - 9 = 4. "
        "With the update there are 4 + 30 = 34. Half are 34 / 2 = 17. The answer is 17.",
        "17",
        True,
    ),
    "program": ("on_monday = 26 * 3\ngroup = on_monday // 6\nanswer = group - $5", "nothing", False),
}
METERS = {"answer only": (31, 200), "chain": (104, 200), "program": (130, 200)}


def toggle(name, way):
    return figures.chain_toggle(PROBLEMS, lambda name, way: WROTE[way], METERS, (name, way)).still


PICTURES = {
    "steps": lambda: figures.accuracy_by_steps(STEPS, 1 / 10),
    "tuned": lambda: figures.accuracy_by_steps(TUNED),
    "one line": lambda: figures.accuracy_by_steps({"chain": TUNED["chain"]}),
    "gains": lambda: figures.published_gains(SIZES, TASKS),
    "kinds": lambda: figures.kinds_and_ways(KINDS, CHANCE),
    "votes": lambda: figures.votes_curve(VOTES, 0.35, 100),
    "votes that lose": lambda: figures.votes_curve(VOTES, 0.6, 100),
    "searches": lambda: figures.searches(OUTCOMES),
    "toggle, short": lambda: toggle("short", "answer only"),
    "toggle, long": lambda: toggle("long", "chain"),
    "toggle, program": lambda: toggle("long", "program"),
}


class TestPictures(PictureChecks):
    pictures = PICTURES


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_steps_say_the_share_of_each_length():
    # 640 of 2000 are 32 per cent, 508 of 2000 are 25.4.
    assert "answer only 32 at 2, 24 at 4, 25 at 8" in PICTURES["steps"]().alt
    assert "chance is 10" in PICTURES["steps"]().alt and "chance" not in PICTURES["tuned"]().alt


def test_kinds_say_every_share_and_where_chance_lies():
    alt = PICTURES["kinds"]().alt
    assert "logic direct, no examples 17, step by step 27, direct 23, chain 25 (chance 25)" in alt
    assert "arithmetic direct, no examples 2, step by step 4, direct 2, chain 7;" in alt


def test_searches_say_solved_and_states():
    assert "tuned, searched 21 solved with 64 states" in PICTURES["searches"]().alt


def test_the_toggle_follows_its_controls():
    found = figures.chain_toggle(PROBLEMS, lambda name, way: WROTE[way], METERS, ("short", "answer only"))
    rows, picture = found.box.children
    problem, way = rows.children
    problem.value, way.value = "long", "program"
    page = html.unescape(picture.value)
    assert "Noor has 26 open messages" in page and "nothing, which is wrong" in page
    way.value = "chain"
    assert "Read from it: 17, which is right" in html.unescape(picture.value)
