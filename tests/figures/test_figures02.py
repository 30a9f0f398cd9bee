"""The figures of 02: each draws, says in words what it shows, and keeps its text inside and apart."""

from types import SimpleNamespace

import numpy as np
from pictures import PictureChecks
from widget_events import controls, description

from lessonlib import figures

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


class TestPictures(PictureChecks):
    pictures = PICTURES


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_tasks_say_every_count():
    assert "first letter 0 at 0, 3 at 1, 10 at 2, 14 at 4, 16 at 8" in PICTURES["tasks"]().alt


def test_sweep_says_the_mean_of_each_group():
    # 0.20 with -0.05, 0 and +0.04 has the mean 0.1967.
    alt = PICTURES["sweep"]().alt
    assert "34 with 0" in alt and "20 with 2" in alt and "chance is 12" in alt


def test_the_slider_follows_its_control():
    found = figures.shots_slider(RUNS, 1 / 8)
    control, _ = controls(found)
    for shots in SHOTS:
        control.value = shots
        page = description(found)
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
