"""The figures of 07's second half: the checks of tests/pictures.py, and what their descriptions say by hand arithmetic."""

import random

from pictures import PictureChecks

from lessonlib import figures
from lessonlib.corpora.digits import digits
from lessonlib.evaluation import Accuracy
from lessonlib.figures.lesson07 import apart_from
from lessonlib.networks.vision_transformer import turned


def answers(right: int, n: int = 200, seed: int = 0) -> Accuracy:
    """So many right answers, in an order of their own."""
    given = [1] * right + [0] * (n - right)
    random.Random(seed).shuffle(given)
    return Accuracy(given, [1] * n)


NAMES = (
    "queries, values",
    "attention",
    "feed-forward",
    "last ten layers",
    "LoRA+, ratio 16",
    "rsLoRA, rank 64",
)
VARIANTS = {"LoRA": [answers(130), answers(126, seed=9)]} | {
    name: [answers(count, seed=i), answers(count - 5, seed=i)]
    for i, (name, count) in enumerate(zip(NAMES, (128, 140, 10, 60, 199, 131)), 1)
}
PLACES = {
    "vocabulary": {"before": answers(30, 75), "LoRA": answers(60, 75, 1)},
    "records": {"before": answers(0, 100), "LoRA": answers(70, 100, 1)},
    "new facts": {"before": answers(2, 80), "LoRA": answers(9, 80, 1), "looked up": answers(60, 80, 2)},
    "new skill": {"before": answers(1, 100), "LoRA": answers(5, 100, 1), "LoRA, r = 128": answers(9, 100, 2)},
}
SIX = digits("test").x[:6]
PICTURES = {
    "variants": lambda: figures.variants_compared(VARIANTS),
    "two variants": lambda: figures.variants_compared({"LoRA": [answers(0)], "DoRA": [answers(200)]}),
    "variants alike": lambda: figures.variants_compared({name: [answers(100)] for name in ("LoRA", *NAMES)}),
    "places": lambda: figures.places_before_after(PLACES, 2),
    "places at the ends": lambda: figures.places_before_after(
        {"one": {"before": answers(0), "LoRA": answers(200)}, "two": {"before": answers(200), "LoRA": answers(0)}}, 1
    ),
    "digits": lambda: figures.digit_rows({"upright": SIX, "turned": turned(digits("test")).x[:6]}),
}  # fmt: skip


class TestPictures(PictureChecks):
    pictures = PICTURES
    width, height = (500, 1200), (150, 800)


def test_a_variant_is_apart_when_its_paired_interval_leaves_out_zero():
    # The same 100 right answers and 50 more: the gain is 0.25 on each resample within a few points.
    plain, more = Accuracy([1] * 100 + [0] * 100, [1] * 200), Accuracy([1] * 150 + [0] * 50, [1] * 200)
    one_more = Accuracy([1] * 101 + [0] * 99, [1] * 200)
    found = apart_from({"LoRA": [plain], "far": [more], "near": [one_more]}, "LoRA")
    assert list(found) == ["far"] and found["far"][0] == 0.25
    assert (
        "1 of 2 have a paired difference"
        in figures.variants_compared({"LoRA": [plain], "far": [more], "near": [one_more]}).alt
    )


def test_places_say_n_and_every_way():
    alt = figures.places_before_after(PLACES, 2).alt
    assert "new facts (n = 80): before 2, LoRA 11, looked up 75" in alt
    assert "vocabulary (n = 75): before 40, LoRA 80" in alt
