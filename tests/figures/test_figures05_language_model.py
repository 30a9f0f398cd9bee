"""The figures of 05's second half: the checks of tests/pictures.py, and descriptions by hand arithmetic."""

import random

import numpy as np
from pictures import PictureChecks

from lessonlib import figures

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


class TestPictures(PictureChecks):
    pictures = PICTURES
    most_ink = 0.8


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_the_dimension_that_reaches_nine_tenths_is_named():
    # Means 32, 72, 89 and 96 per cent; nine tenths of 98 are 88.2.
    alt = figures.subspace_curve(SCORES, 0.98, 50_610).alt
    assert "32 at d = 10, 72 at d = 100, 89 at d = 300, 96 at d = 3000" in alt and "2 seeds" in alt
    assert "(d90) is reached from d = 300 on" in alt
    assert "is not held from any d up to 3000 on" in figures.subspace_curve(SCORES, 1.1, 50_610).alt


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
