"""The figures of 02: each draws, says in words what it shows, and keeps its text inside and apart."""

import base64
import html
import io
import re
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from lessonlib import figures
from lessonlib.figures import style

SHOTS = (0, 1, 2, 4, 8, 16)
TOPICS = ["feedback", "delivery", "cancellation", "billing", "question", "refund", "technical", "account"]


def runs_of(means: dict[int, float], spread=(-0.05, 0.0, 0.04)) -> dict:
    """Synthetic recorded runs, three draws for each number of examples but none."""
    return {
        shots: [
            SimpleNamespace(
                accuracy=mean + s,
                results={"shown": (TOPICS * 2)[:shots], "prompt_tokens": 31 + 64 * shots},
            )
            for s in (spread if shots else (0,))
        ]
        for shots, mean in means.items()
    }


RUNS = runs_of(dict(zip(SHOTS, (0.34, 0.07, 0.2, 0.15, 0.16, 0.12))))
LABELS = {"right labels": RUNS[8], "random labels": runs_of({8: 0.15})[8]}
TASKS = {
    "capital": {0: 0, 1: 0, 2: 1, 4: 14, 8: 14},
    "first letter": {0: 0, 1: 3, 2: 10, 4: 14, 8: 16},
    "in capitals": {0: 0, 1: 1, 2: 5, 4: 5, 8: 5},
    "backwards": dict.fromkeys((0, 1, 2, 4, 8), 0),
}
PARTS = ["first token", "instruction", "The food was excellent → Positive", "The pasta was bland →"]
ATTENTION = np.random.default_rng(0).dirichlet((8, 1, 1, 3), size=30)
SIZES = ["Small", "Med", "Large", "XL", "2.7B", "6.7B", "13B", "175B"]
AVERAGES = {
    "few-shot": [50.2, 56.2, 56.8, 60.0, 64.3, 63.6, 66.9, 73.2],
    "one-shot": [54.4, 55.1, 56.7, 57.8, 61.2, 59.7, 64.3, 68.9],
    "zero-shot": [40.6, 47.4, 46.8, 49.6, 50.1, 52.3, 54.4, 58.2],
}
GAINS = {
    "all tasks": [9.6, 8.8, 10.0, 10.4, 14.2, 11.3, 12.5, 15.0],
    "no CB, WiC": [-1.4, 1, 2, 3, 4, 3, 5, 6.6],
}
P = [i / 100 for i in range(101)]
ERRORS = {
    "the network": [2.26, 1.56, 1.05, 0.76, 0.63],
    "least squares": [2.26, 2.59, 2331.95, 2.62, 0.73],
    "ridge, the best": [2.26, 1.54, 0.97, 0.66, 0.51],
}

PICTURES = {
    "tasks": lambda: figures.tasks_by_shots(TASKS, 16),
    "one task": lambda: figures.tasks_by_shots({"capital": TASKS["capital"]}, 16),
    "sweep": lambda: figures.shots_sweep(RUNS, 1 / 8),
    "sweep near the top": lambda: figures.shots_sweep(runs_of({0: 0.5, 8: 0.95}), 1 / 2),
    # The builder draws every position at once; with one group there is one figure to look at.
    "slider at 0": lambda: figures.shots_slider(runs_of({0: 0.3}), 1 / 8).still,
    "slider at 8": lambda: figures.shots_slider(runs_of({8: 0.2}), 1 / 8).still,
    "slider at 16": lambda: figures.shots_slider(runs_of({16: 0.12}), 1 / 8).still,
    "labels": lambda: figures.label_pairs(LABELS, 1 / 8),
    "attention": lambda: figures.attention_by_part(ATTENTION, PARTS),
    "scale": lambda: figures.scale_trend(SIZES, AVERAGES, GAINS),
    "metric": lambda: figures.metric_and_emergence(P, {k: [p**k for p in P] for k in (1, 5, 20)}),
    "errors": lambda: figures.regression_errors(ERRORS, 2, 0.5),
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
    said = set(re.findall(r"\d+(?:\.\d+)?", picture.alt))
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
def test_image_and_description_go_together_into_a_notebook(drawn, name):
    picture = drawn[name][0]
    data, metadata = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == picture.png
    assert data["text/plain"] == metadata["image/png"]["alt"] == picture.alt


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_tasks_say_every_count():
    assert "first letter 0 at 0, 3 at 1, 10 at 2, 14 at 4, 16 at 8" in PICTURES["tasks"]().alt


def test_sweep_says_the_mean_of_each_group():
    # 0.20 with -0.05, 0 and +0.04 has the mean 0.1967.
    alt = PICTURES["sweep"]().alt
    assert "34 with 0" in alt and "20 with 2" in alt and "chance is 12" in alt


def test_the_slider_follows_its_control():
    found = figures.shots_slider(RUNS, 1 / 8)
    control, picture = found.box.children
    for shots in SHOTS:
        control.value = shots
        page = html.unescape(picture.value)
        assert f"A prompt of {31 + 64 * shots} tokens with {shots} examples" in page


def test_attention_says_the_mean_over_layers():
    alt = figures.attention_by_part(np.array([[0.9, 0.1], [0.5, 0.5]]), ["first token", "the rest"]).alt
    assert "first token 70, the rest 30" in alt


def test_metric_says_where_half_is_passed():
    # 0.5 ** (1 / 5) is 0.871 and 0.5 ** (1 / 20) is 0.966: the next hundredths are 88 and 97.
    alt = PICTURES["metric"]().alt
    assert "5 tokens passes 50 per cent at 88" in alt and "20 tokens passes 50 per cent at 97" in alt


def test_errors_say_the_ratio_at_the_last_example():
    assert "has 0.86 times the error of the second" in PICTURES["errors"]().alt
