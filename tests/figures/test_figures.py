"""The figures: each draws, says in words what it shows, keeps its text inside, and follows its control."""

import base64
import html
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import PictureChecks
from widget_events import controls, description, shown

from lessonlib import figures
from lessonlib.costs import EIGHT_BIT_ADAM, MASTER_WEIGHTS, MIXED, Memory
from lessonlib.figures import Picture
from lessonlib.figures.lesson01 import draw_plan
from lessonlib.figures.widgets import chooser, slider

RANKS = (1, 2, 4, 8, 16, 64)


def runs_of(means: dict[int, float], seeds=(-0.01, 0.0, 0.01)) -> list:
    """Synthetic recorded runs of LoRA, in no order."""
    runs = [SimpleNamespace(settings={"r": r, "seed": 0}, accuracy=m + s) for r, m in means.items() for s in seeds]
    random.Random(0).shuffle(runs)
    return runs


def spectrum_of(rank: int, size: int = 576, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """Singular values of a matrix of low rank and noise."""
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(size, rank)) @ rng.normal(size=(rank, size)) / rank**0.5
    return np.linalg.svd(low + noise * rng.normal(size=(size, size)), compute_uv=False)


UPDATE, NOISE = spectrum_of(12), spectrum_of(1, noise=100.0, seed=1)
RUNS = runs_of(dict(zip(RANKS, (0.80, 0.84, 0.86, 0.88, 0.87, 0.86))))
FULL = [SimpleNamespace(settings={}, accuracy=accuracy) for accuracy in (0.90, 0.92, 0.88)]
STEPS = np.arange(60)
CURVES = {"full fine-tuning": 2 * np.exp(-STEPS / 20) + 0.3, "LoRA, r = 8": 2.4 * np.exp(-STEPS / 10) + 0.35}
TIMES = {"base": 40.2, "merged": 40.9, "LoRA, unmerged": 55.1, "adapters": 61.8}

SIZES = (1e8, 1e9, 1e10, 1e11)
PLANS = {
    "full fine-tuning": Memory(350e9, 350e9, 1400e9, 275e9),
    "LoRA, r = 8": Memory(350e9, 1e8, 2e8, 8e9),
    "QLoRA, r = 8": Memory(9e10, 1e8, 2e8, 8e9),
}
CHOICES = [
    ("llama2-7b", "full fine-tuning", MIXED.name, "no", "A100-80GB"),
    ("gpt3-175b", "full fine-tuning", MASTER_WEIGHTS.name, "no", "T4"),
    ("gpt3-175b", "QLoRA, r = 8", MIXED.name, "yes", "H200"),
    ("smollm2-135m", "prompt tuning, 100", EIGHT_BIT_ADAM.name, "yes", "T4"),
]


def plan_of(*choice):
    return Picture(draw_plan, *choice, size=(9, 2.9), dpi=80)


PICTURES = {
    "spectrum": lambda: figures.spectrum(UPDATE, NOISE),
    "spectrum of noise": lambda: figures.spectrum(NOISE.copy(), NOISE),
    "spectrum of rank 20": lambda: figures.spectrum(spectrum_of(30), NOISE),
    "spectrum of rank 150": lambda: figures.spectrum(spectrum_of(230), NOISE),
    "spectrum of rank 1": lambda: figures.spectrum(spectrum_of(1, noise=1e-4), NOISE),
    "small spectrum": lambda: figures.spectrum(spectrum_of(2, size=32), spectrum_of(1, size=32, noise=100.0)),
    "learning curves": lambda: figures.learning_curves(CURVES),
    "one learning curve": lambda: figures.learning_curves({"LoRA, r = 8": CURVES["LoRA, r = 8"]}),
    "curves that end together": lambda: figures.learning_curves(
        dict.fromkeys(("A", "rank 64", "B", "both"), STEPS[::-1])
    ),
    "curves that end at zero": lambda: figures.learning_curves(
        {"first": STEPS[::-1] * 0.0 + 1e-9, "second": STEPS[::-1]}
    ),
    "curve with a long name": lambda: figures.learning_curves({"LoRA with alpha not divided by r": STEPS[::-1]}),
    "rank sweep": lambda: figures.rank_sweep(RUNS, FULL),
    "rank sweep alone": lambda: figures.rank_sweep(RUNS),
    "rank sweep from 4": lambda: figures.rank_sweep(runs_of({4: 0.5, 8: 0.6}), FULL),
    "rank sweep near the top": lambda: figures.rank_sweep(runs_of({1: 0.98, 2: 0.99}, (0,)), FULL),
    "times": lambda: figures.benchmark_times(TIMES, "One forward pass of several texts"),
    "times far apart": lambda: figures.benchmark_times({"merged": 1.0, "a name of some length": 12345.0}, "Two ways"),
    # The builder draws every position at once; with one rank there is one figure to look at.
    "rank slider at 1": lambda: figures.rank_slider((576, 576), UPDATE, runs_of({1: 0.80})).still,
    "rank slider at 8": lambda: figures.rank_slider((576, 576), UPDATE, runs_of({8: 0.88})).still,
    "rank slider at 64": lambda: figures.rank_slider((576, 576), UPDATE, runs_of({64: 0.86})).still,
    "cost bars": lambda: figures.cost_bars(PLANS).still,
    "cost bars of one plan": lambda: figures.cost_bars({"a plan": PLANS["full fine-tuning"]}).still,
    "predicted and measured": lambda: figures.predicted_and_measured(
        {"weights": (5e8, 5e8), "activations": (4.1e8, 4.4e8)}
    ),
    "scaling": lambda: figures.scaling(
        SIZES, {"full fine-tuning": [6 * n for n in SIZES], "LoRA": [4 * n for n in SIZES]}, "FLOPs a token"
    ),
    **{f"plan: {', '.join(choice)}": lambda choice=choice: plan_of(*choice) for choice in CHOICES},
}


class TestPictures(PictureChecks):
    pictures = PICTURES


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_spectrum_counts_the_directions_that_hold_nine_tenths():
    # 3 x 100 + 98 x 1 = 398, nine tenths are 358.2: three large ones and 59 small ones. Of 101 equal ones 91.
    alt = figures.spectrum([10.0] * 3 + [1.0] * 98, [1.0] * 101).alt
    assert "rank 62 of 101" in alt and "at rank 91." in alt


def test_spectrum_does_not_depend_on_order_or_scale():
    values = np.array([5.0, 1.0, 3.0, 2.0] * 8)
    assert figures.spectrum(values, values).alt == figures.spectrum(np.sort(values) * 7, values).alt


def test_learning_curves_say_the_first_and_the_last_mean():
    # The running mean of 8 begins with the first loss alone and ends with the mean of 0.1 ... 0.8.
    alt = figures.learning_curves({"LoRA": [3.0, *[1.0] * 20, *np.arange(8, 0, -1) / 10]}).alt
    assert "LoRA falls from 3.00 to 0.45" in alt


def test_rank_sweep_says_means_seeds_and_reference():
    alt = figures.rank_sweep(runs_of({1: 0.60, 8: 0.75}), FULL).alt
    assert "60 at r = 1, 75 at r = 8; full fine-tuning 90" in alt and "means over 3 seeds" in alt
    assert "moves by 15 points" in alt
    assert "means over 2 seeds" in figures.rank_sweep(runs_of({1: 0.6, 8: 0.7}, (0.0, 0.1))).alt


def test_times_say_each_time():
    alt = figures.benchmark_times(TIMES, "One forward pass").alt
    assert all(f"{name} {milliseconds:.0f}" in alt for name, milliseconds in TIMES.items())


def test_rank_picture_says_what_the_update_costs_holds_and_scores():
    # r (d_in + d_out) = 8 x 10 = 80 of 24 numbers in W; of 16 + 9 + 1 + 1 the first holds 59 per cent.
    alt = figures.rank_slider((4, 6), [4.0, 3.0, 1.0, 1.0], runs_of({1: 0.70, 2: 0.80})).still.alt
    assert "Rank 1: B is 4 by 1 and A 1 by 6, 10 numbers, 42 per cent of those in W" in alt
    assert "holds 59 per cent" in alt and "scored 70 per cent, mean of 3 runs" in alt


def test_hostile_names_cannot_leave_the_alt_attribute():
    page = figures.benchmark_times({'"><script>': 1.0, "a & b": 2.0}, "Names").html()
    assert page.count("<") == 1 + page.count("<script>")  # within quotes a "<" is plain text
    assert re.search('alt="[^"]*&quot;>', page) and "a &amp; b" in page


# --- the slider -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rank_slider():
    return figures.rank_slider((576, 576), UPDATE, RUNS)


def parts(interactive):
    return controls(interactive)[1], lambda: (
        description(interactive),
        base64.b64decode(re.search('base64,([^"]*)', shown(interactive))[1]),
    )


def test_the_slider_offers_the_measured_ranks_and_starts_at_8(rank_slider):
    control, shown = parts(rank_slider)
    assert list(control.options) == list(RANKS) and control.value == 8
    assert shown() == (rank_slider.still.alt, rank_slider.still.png)
    assert parts(figures.rank_slider((8, 8), [2.0, 1.0, 1.0], runs_of({2: 0.5, 3: 0.6})))[0].value == 2


def test_every_value_has_its_own_image_and_description(rank_slider):
    control, shown = parts(rank_slider)
    seen = {}
    for index, rank in enumerate(RANKS):
        control.set_state({"index": index})  # as a front end sends it
        seen[rank] = shown()
        assert seen[rank][0].startswith(f"Rank {rank}: ") and seen[rank][1].startswith(b"\x89PNG")
    assert len({alt for alt, _ in seen.values()}) == len({png for _, png in seen.values()}) == len(RANKS)


def test_any_sequence_of_events_ends_with_the_chosen_picture(rank_slider):
    control, shown = parts(rank_slider)
    first = {}
    draw = random.Random(11)
    for _ in range(80):
        index = draw.randrange(len(RANKS))
        if draw.random() < 0.5:
            control.set_state({"index": index})
        else:
            control.value = RANKS[index]
        assert shown()[0].startswith(f"Rank {RANKS[index]}: ")
        assert shown() == first.setdefault(index, shown())


def test_a_picture_is_drawn_once_for_each_value():
    calls = []

    def draw(ax, value):
        calls.append(value)
        ax.plot([0, value])
        return f"A line from 0 up to {value}, drawn for the test and nothing else."

    control, shown = parts(slider("value", [1, 2, 3], lambda value: Picture(draw, value), start=2))
    for value in (1, 2, 3, 1, 3, 2):
        control.value = value
        assert f"up to {value}," in shown()[0]
    assert sorted(calls) == [1, 2, 3]


def test_without_a_front_end_the_first_picture_stands_still(rank_slider):
    data, metadata = rank_slider._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == rank_slider.still.png
    assert data["text/plain"] == metadata["image/png"]["alt"] == rank_slider.still.alt
    assert "model_id" in data["application/vnd.jupyter.widget-view+json"]


# --- the lists -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planner():
    return figures.memory_planner()


def test_every_list_of_the_planner_changes_picture_and_description(planner):
    *_, image_box = planner.box.children
    lists = planner.box.children[0].children
    assert [control.description for control in lists] == [
        "model",
        "method",
        "precision",
        "recomputation",
        "GPU",
    ]
    for control in lists:
        first = image_box.value
        seen = {first}
        for option in control.options[:3]:
            control.value = option
            seen.add(image_box.value)
        assert len(seen) >= 2, control.description


@pytest.mark.slow
def test_any_choice_can_be_planned(planner):
    draw = random.Random(3)
    lists = planner.box.children[0].children
    for _ in range(25):
        for control in lists:
            control.value = draw.choice(control.options)
        assert lists[0].value in planner.box.children[1].value


def test_a_choice_seen_before_is_not_drawn_again():
    asked = []

    def picture(*choice):
        asked.append(choice)
        return Picture(lambda ax: f"A picture of {choice} with nothing else that is worth saying, 1.")

    found = chooser({"a": ["x", "y"], "b": ["1"]}, picture, start=["x", "1"])
    control = found.box.children[0].children[0]
    for value in ("y", "x", "y"):
        control.value = value
    assert asked == [("x", "1"), ("y", "1")]


def test_cost_bars_spell_out_the_chosen_plan():
    found = figures.cost_bars(PLANS)
    found.box.children[0].children[0].value = "QLoRA, r = 8"
    assert "Chosen is QLoRA, r = 8: weights 90 GB" in html.unescape(found.box.children[1].value)


def test_scaling_says_the_slope():
    alt = figures.scaling(SIZES, {"cubic": [n**3 for n in SIZES]}, "cost").alt
    assert "slope 3.00" in alt
