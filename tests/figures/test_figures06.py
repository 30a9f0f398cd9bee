"""The figures of 06: the same checks as those of tests/pictures.py, and what their descriptions say by hand arithmetic."""

from types import SimpleNamespace
from typing import ClassVar

from pictures import PictureChecks
from widget_events import controls, description

from lessonlib import figures
from lessonlib.evaluation import Accuracy
from lessonlib.figures import Picture
from lessonlib.figures.lesson06 import by_width, draw_block

WIDTHS = (8, 16, 32, 64, 128, 256)


def runs_of(means: dict[int, float], seeds=(-0.01, 0.01)) -> list:
    return [
        SimpleNamespace(settings={"m": m, "seed": i}, accuracy=mean + s)
        for m, mean in means.items()
        for i, s in enumerate(seeds)
    ]


def answers(right: int, n: int = 200) -> Accuracy:
    return Accuracy([1] * right + [0] * (n - right), [1] * n)


def block(m: int, runs):
    return Picture(draw_block, m, 576, 60, 134_515_008, runs, size=(11, 4.2), columns=3, dpi=80)


RUNS = runs_of(dict(zip(WIDTHS, (0.62, 0.66, 0.64, 0.70, 0.69, 0.72))))
SIZES = ("1 × 1", "1 × 128", "8 × 128")
CALLS = {size: {"adapters": a, "LoRA, unmerged": b} for size, a, b in zip(SIZES, (40, 18, 7.0), (60, 30, 12))}
TASKS = ("intent", "sentiment", "urgency")
PICTURES = {
    "widths": lambda: figures.width_sweep(RUNS, 0.21),
    "widths without a base": lambda: figures.width_sweep(RUNS),
    "two widths": lambda: figures.width_sweep(runs_of({8: 0.98, 256: 0.99}, (0,)), 0.1),
    "slider": lambda: figures.adapter_slider(576, 60, 134_515_008, RUNS).still,
    "block at 8": lambda: block(8, RUNS),
    "block at 256": lambda: block(256, RUNS),
    "starts": lambda: figures.start_scales({1e-4: 1.0, 0.001: 1.0, 0.01: 0.99, 0.1: 0.4, 1.0: 0.0}),
    "starts that all disturb": lambda: figures.start_scales({0.1: 0.5, 1.0: 0.1}),
    "tasks": lambda: figures.tasks_before_after(
        {n: answers(k) for n, k in zip(TASKS, (40, 90, 120))},
        {n: answers(k) for n, k in zip(TASKS, (140, 150, 180))},
    ),
    "tasks at the ends": lambda: figures.tasks_before_after({"intent": answers(0)}, {"intent": answers(200)}),
    "calls": lambda: figures.call_overheads(CALLS),
    "calls that cost nothing": lambda: figures.call_overheads({s: {"adapters": -1.0} for s in SIZES}),
}


class TestPictures(PictureChecks):
    pictures = PICTURES
    width, height = (500, 1200), (150, 800)
    figure_shown: ClassVar = {"slider": WIDTHS.index(64)}


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_widths_say_means_and_span():
    alt = figures.width_sweep(runs_of({8: 0.5, 64: 0.7}), 0.2).alt
    assert "means over 2 seeds: 50 at m = 8, 70 at m = 64; without adapters 20" in alt
    assert "the means span 20 points" in alt
    assert list(by_width(RUNS)) == list(WIDTHS)


def test_the_block_counts_weights_biases_and_share():
    # 576 x 64 = 36,864 each way; 2 x 36,864 + 64 + 576 = 74,368; 60 of them are 3.3 per cent of 134,515,008.
    alt = block(64, RUNS).alt
    assert "36,864 weights each way, 74,368 numbers" in alt
    assert "All 60 add 3.3 per cent" in alt and "70 per cent right, mean of 2 runs" in alt


def test_starts_say_what_is_still_the_bases_from_the_smallest_scale():
    alt = figures.start_scales({1.0: 0.1, 0.01: 0.97}).alt
    assert alt.endswith("0.01: 97, 1: 10.")


def test_tasks_say_both_accuracies_and_n():
    alt = figures.tasks_before_after({"intent": answers(40)}, {"intent": answers(150)}).alt
    assert "on 200 test texts" in alt and "intent 20 without and 75 with" in alt


def test_calls_say_per_cent_by_size():
    alt = figures.call_overheads(CALLS).alt
    assert "1 × 1: adapters +40, LoRA, unmerged +60; 1 × 128: adapters +18" in alt


def test_the_slider_shows_what_is_chosen():
    made = figures.adapter_slider(576, 60, 134_515_008, RUNS)
    control, _ = controls(made)
    for i in (0, 5, 2):
        control.set_state({"index": i})  # as a front end sends it
        assert f"Width m = {WIDTHS[i]}:" in description(made)
