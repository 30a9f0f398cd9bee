"""The figures of 04: each draws, says in words what it shows, and keeps its text inside and apart."""

import base64
import html
import io
import re
from itertools import combinations

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from lessonlib import figures
from lessonlib.figures import style

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
TASKS = {
    m: {t: TASKS[m][t] for t in TASKS["PaLM 540B"] if t in TASKS[m]} for m in ("PaLM 540B", "GPT-3 175B")
}
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
every_picture = pytest.mark.parametrize("name", PICTURES)


@pytest.fixture(scope="module")
def drawn():
    """Each picture with the matplotlib figures that were made for it."""
    made, kept = {}, []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            kept.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "Figure", Kept)
        for name, make in PICTURES.items():
            kept.clear()
            made[name] = (make(), list(kept))
    return made


def extents(figure):
    """Where the texts of the figure stand, tick labels left out."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        labels = (ax.xaxis.label, ax.yaxis.label) if ax.axison else ()
        for text in (*ax.texts, ax.title, ax._left_title, ax._right_title, *labels):
            if text.get_visible() and text.get_text().strip():
                yield text.get_text(), text.get_window_extent()


@every_picture
def test_the_picture_is_a_png_of_sensible_size_and_not_blank(drawn, name):
    pixels = image.imread(io.BytesIO(drawn[name][0].png))[..., :3]
    assert 600 <= pixels.shape[1] <= 1200 and 200 <= pixels.shape[0] <= 800
    assert 0.01 < (pixels.min(axis=2) < 0.99).mean() < 0.6


@every_picture
def test_the_description_is_a_sentence_with_numbers(drawn, name):
    alt = drawn[name][0].alt
    assert len(alt) >= 40 and alt.endswith(".") and re.search(r"\d", alt)
    assert "nan" not in alt and "\n" not in alt


@every_picture
def test_numbers_written_in_the_picture_are_in_its_description(drawn, name):
    picture, made = drawn[name]
    said = set(re.findall(r"\d+(?:\.\d+)?", picture.alt.replace(",", "")))
    for ax in made[0].axes:
        written = " ".join(text.get_text() for text in (ax._left_title, *ax.texts)).replace(",", "")
        assert set(re.findall(r"\d+(?:\.\d+)?", written)) <= said, written


@every_picture
def test_all_text_lies_inside_the_figure(drawn, name):
    for figure in drawn[name][1]:
        for text, box in extents(figure):
            assert box.x0 >= -1 and box.y0 >= -1, text
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
        for ax in figure.axes:  # tick labels as well
            box = ax.get_tightbbox()
            assert box.x0 >= -1 and box.y0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


@every_picture
def test_no_text_lies_upon_another(drawn, name):
    for figure in drawn[name][1]:
        for (one, a), (other, b) in combinations(extents(figure), 2):
            width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width <= 2 or height <= 2, (one, other)


@every_picture
def test_no_legend_covers_a_mark(drawn, name):
    for figure in drawn[name][1]:
        figure.draw_without_rendering()
        for ax in figure.axes:
            if not (legend := ax.get_legend()):
                continue
            box = legend.get_window_extent()
            for line in ax.lines:
                points = (
                    ax.transData.transform(line.get_xydata()) if line.get_transform() == ax.transData else []
                )
                assert not any(box.contains(*point) for point in points), line.get_label()


@every_picture
def test_image_and_description_go_together_into_a_notebook(drawn, name):
    picture = drawn[name][0]
    data, metadata = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == picture.png
    assert data["text/plain"] == metadata["image/png"]["alt"] == picture.alt


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
