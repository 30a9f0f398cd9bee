"""The figures of 05's second half: the checks of tests/test_figures.py, and descriptions by hand arithmetic."""

import io
import random
import re
from itertools import combinations

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure
from test_figures import extents

from lessonlib import figures
from lessonlib.figures import style

SCORES = {10: [0.30, 0.34], 100: [0.70, 0.74], 300: [0.88, 0.90], 3000: [0.95, 0.97]}
HEADS = {
    "least important to the topic": {0: (0.8, 12.3), 0.2: (0.7, 20.1), 0.4: (0.5, 44.0), 0.6: (0.2, 900.0)},
    "random": {0: (0.8, 12.3), 0.4: (0.2, 3000.0)},
}
IMPORTANCE = np.random.default_rng(0).random((2, 30, 9))


def maps(importance, correlation=0.37):
    return figures.head_maps(dict(zip(("topic", "sentiment"), importance)), correlation)


PICTURES = {
    "subspaces": lambda: figures.subspace_curve(SCORES, 0.98, 50_610),
    "subspaces that do not reach": lambda: figures.subspace_curve({10: [0.2], 100: [0.3]}, 0.85, 26_542_080),
    "one subspace": lambda: figures.subspace_curve({100: [0.9]}, 0.9, 1000),
    "full training near the top": lambda: figures.subspace_curve({10: [0.0], 10_000: [1.0]}, 1.0, 10**8),
    "full training that is poor": lambda: figures.subspace_curve(SCORES, 0.12, 50_610),
    "heads": lambda: figures.retention(HEADS, "heads"),
    "weights": lambda: figures.retention({"smallest": HEADS["random"]}, "weights"),
    "all gone": lambda: figures.retention({"a": {0: (1, 1.0), 1: (0, 1e9)}, "b": {0: (1, 1.0), 1: (1, 2.0)}}, "layers"),
    "layers": lambda: figures.layer_costs([9e5, 60.0, *np.linspace(21, 30, 28)], 20.3),
    "two layers": lambda: figures.layer_costs([21.0, 22.0], 20.3),
    "maps": lambda: maps(IMPORTANCE),
    "small maps of opposite tasks": lambda: maps([np.eye(3), 1 - np.eye(3)], -1.0),
}  # fmt: skip
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


@every_picture
def test_the_picture_is_a_png_of_sensible_size_and_not_blank(drawn, name):
    pixels = image.imread(io.BytesIO(drawn[name][0].png))[..., :3]
    assert 600 <= pixels.shape[1] <= 1200 and 200 <= pixels.shape[0] <= 800
    assert 4_000 < len(drawn[name][0].png) < 150_000
    assert 0.01 < (pixels.min(axis=2) < 0.99).mean() < 0.8


@every_picture
def test_the_description_is_a_sentence_with_the_numbers_of_the_picture(drawn, name):
    picture, made = drawn[name]
    assert len(picture.alt) >= 40 and picture.alt.endswith(".") and "\n" not in picture.alt
    said = set(re.findall(r"\d+(?:\.\d+)?", picture.alt))
    for ax in (ax for figure in made for ax in figure.axes):
        written = " ".join(text.get_text() for text in (ax._left_title, *ax.texts)).replace(",", "")
        assert set(re.findall(r"\d+(?:\.\d+)?", written)) <= said, written


@every_picture
def test_all_text_lies_inside_the_figure_and_none_upon_another(drawn, name):
    for figure in drawn[name][1]:
        boxes = extents(figure)
        for text, box in boxes.items():
            assert box.x0 >= -1 and box.y0 >= -1, text
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
        for (one, a), (other, b) in combinations(boxes.items(), 2):
            width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width <= 2 or height <= 2, (one, other)
        for ax in figure.axes:
            box = ax.get_tightbbox()
            assert box.x0 >= -1 and box.y0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


@every_picture
def test_image_and_description_go_together_into_a_notebook(drawn, name):
    data, metadata = drawn[name][0]._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == drawn[name][0].alt


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_the_dimension_that_reaches_nine_tenths_is_named():
    # Means 32, 72, 89 and 96 per cent; nine tenths of 98 are 88.2.
    alt = figures.subspace_curve(SCORES, 0.98, 50_610).alt
    assert "32 at d = 10, 72 at d = 100, 89 at d = 300, 96 at d = 3000" in alt and "2 seeds" in alt
    assert "(d90) is reached from d = 300 on" in alt
    assert "by no d up to 3000" in figures.subspace_curve(SCORES, 1.1, 50_610).alt


def test_accuracy_and_perplexity_are_said_for_each_order():
    alt = figures.retention(HEADS, "heads").alt
    assert "test accuracy, least important to the topic: 80 at 0, 70 at 20, 50 at 40, 20 at 60" in alt
    assert "perplexity, random: 12 at 0, 3000 at 40" in alt


def test_the_costliest_layer_is_named():
    alt = figures.layer_costs([50.0, 24.0, 7000.0, 26.0], 20.3).alt
    assert "Whole it has 20.3; without layer 2 it has 7000" in alt
    assert "from 24 to 50, 38 in the middle" in alt  # between 26 and 50


def test_points_are_drawn_in_the_order_of_the_share():
    points = list(HEADS["random"].items())
    random.Random(1).shuffle(points)
    assert figures.retention({"r": dict(points)}, "heads").alt == figures.retention(
        {"r": HEADS["random"]}, "heads"
    ).alt.replace("random", "r")


def test_the_head_that_stands_out_is_named():
    one = np.zeros((3, 2))
    one[2, 1] = 1.0
    alt = maps([one, one[::-1]], 0.5).alt
    assert "for topic head 1 of layer 2 stands out, for sentiment head 1 of layer 0" in alt
    assert "3 layers by 2 heads" in alt and "is 0.50." in alt
