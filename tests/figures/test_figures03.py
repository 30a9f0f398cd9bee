"""The figures of 03: the same checks as those of tests/pictures.py, and what their descriptions say by hand arithmetic."""

import html
import itertools
import random
import re

from pictures import PictureChecks

from lessonlib import figures
from lessonlib.figures.lesson03 import LINES, _excerpt, by_level

FACTORS = {"words": "label words", "order": "order"}
WORDS, ORDERS = ("negative / positive", "unhappy / happy", "0 / 1"), ("NNPP", "PPNN", "PNPN")


def cells_of(seed=0, low=0.4, high=0.9):
    rng = random.Random(seed)
    pairs = itertools.product(WORDS, ORDERS)
    return [({"words": w, "order": o}, rng.uniform(low, high)) for w, o in pairs for _ in range(4)]


def orders_of(n, spread):
    names = [" ".join(p) for p in itertools.permutations(("N1", "N2", "P1", "P2"))][:n]
    rng = random.Random(1)
    return {name: (0.5 + spread * rng.random(), 0.6 + spread * rng.random() / 2) for name in names}


def rates_of(seeds=2):
    rng = random.Random(2)
    patterns = map("".join, itertools.product("NP", repeat=4))
    return {s: [min(1, s.count("P") / 5 + 0.2 * rng.random()) for _ in range(seeds)] for s in patterns}


LONG = "Decide how the customer feels.\n\n" + "".join(
    f"Ticket: My parcel {i} cost $4 and {'has not come ' * 9}\nSentiment: negative\n\n" for i in range(4)
)
VALUES = {"as it is": (0.5, 0.37, 0.63), "calibrated": (0.9259, 0.82, 0.97)}


def toggles(prompt=lambda words, order: f"{words} {order}\n{LONG}", values=lambda words, order: VALUES):
    lists = {"label words": WORDS, "order": ORDERS}
    return figures.prompt_toggles(lists, prompt, values, 54, ("0 / 1", "PPNN"))


PICTURES = {
    "factors": lambda: figures.prompt_factors(cells_of(), FACTORS),
    "factors all alike": lambda: figures.prompt_factors([(s, 0.5) for s, _ in cells_of()], FACTORS),
    "orders": lambda: figures.example_orders(orders_of(24, 0.4)),
    "orders all alike": lambda: figures.example_orders(orders_of(24, 0.0)),
    "six orders": lambda: figures.example_orders(orders_of(6, 0.5)),
    "label rates": lambda: figures.label_rates(rates_of()),
    "one seed": lambda: figures.label_rates(rates_of(1)),
    "rates at the ends": lambda: figures.label_rates({s: [float(s[-1] == "P")] for s in rates_of()}),
    "calibration": lambda: figures.calibration_effect([(0.5 + i / 100, 0.7 - i / 200) for i in range(30)]),
    "calibration that only helps": lambda: figures.calibration_effect([(0.5, 0.9), (0.55, 0.93)]),
    "calibration in a corner": lambda: figures.calibration_effect([(0.50, 0.51), (0.51, 0.50), (0.52, 0.52)]),
    "groups": lambda: figures.measured_groups({"random": [0.5, 0.6], "similar": [0.7]}, chance=0.5),
    "groups with long names": lambda: figures.measured_groups(
        {"random, two of each label, no more": [0.31, 1.0], "half edge cases, half of them random": [0.7]}
    ),
    "toggles": lambda: toggles().still,
    "toggles of a short prompt": lambda: toggles(lambda words, order: "Ticket: {text}").still,
    "toggles at the ends": lambda: (
        toggles(values=lambda *_: {"as it is": (0.0, 0.0, 0.07), "calibrated": (1.0, 0.93, 1.0)}).still
    ),
}


class TestPictures(PictureChecks):
    pictures = PICTURES
    width, height = (500, 1200), (150, 800)


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_factors_say_extremes_and_means():
    cells = [
        ({"words": "a", "order": "x"}, 0.5),
        ({"words": "a", "order": "y"}, 0.7),
        ({"words": "b", "order": "x"}, 0.9),
    ]
    alt = figures.prompt_factors(cells, FACTORS).alt
    assert "3 prompts, from 50 to 90 per cent" in alt
    assert "label words: a 60, b 90; order: x 70, y 70" in alt
    assert by_level(cells, "order")["x"].tolist() == [50, 90]


def test_orders_say_range_spread_and_ends():
    # Of 0.5 and 0.7 the standard deviation is 10 points, of 0.62 and 0.64 one.
    alt = figures.example_orders({"N P": (0.5, 0.64), "P N": (0.7, 0.62)}).alt
    assert "reach 50 to 70 per cent, standard deviation 10.0 points; calibrated 62 to 64, 1.0 points" in alt
    assert "The lowest is N P, the highest P N." in alt


def test_label_rates_keep_the_last_label_apart():
    alt = figures.label_rates({"NP": [0.9, 0.7], "PN": [0.2], "PP": [1.0], "NN": [0.0]}).alt
    assert "with a positive one last 80 at 1, 100 at 2" in alt
    assert "with a negative one last 0 at 0, 20 at 1" in alt


def test_calibration_says_means_spreads_and_losers():
    alt = figures.calibration_effect([(0.5, 0.8), (0.7, 0.8), (0.9, 0.8)]).alt
    assert "from 70 to 80 per cent, the standard deviation from 20.0 to 0.0 points; 2 prompts gain, 1 lose" in alt


def test_groups_say_mean_range_and_number():
    alt = figures.measured_groups({"random": [0.5, 0.7], "similar": [0.8]}).alt
    assert "random 60 on average, from 50 to 70 (2); similar 80 on average, from 80 to 80 (1)" in alt


# --- the toggles ------------------------------------------------------------------------------------------------------


def test_a_long_prompt_keeps_its_beginning_and_its_end():
    lines = _excerpt(LONG + "Ticket: {text}\nSentiment:").split("\n")
    assert len(lines) == LINES and lines[0].startswith("Decide") and lines[-1] == "Sentiment:"
    assert _excerpt("a\n\nb") == "a\n\nb"


def test_any_choice_shows_its_own_prompt_and_measurement():
    def values(words, order):
        return {
            "as it is": (ORDERS.index(order) / 10, 0, 0.5),
            "calibrated": (WORDS.index(words) / 5, 0, 0.5),
        }

    made = toggles(values=values)
    (words, order), shown = made.box.children[0].children, made.box.children[1]
    for i, j in [(2, 0), (0, 1), (1, 2), (2, 2), (0, 0)]:
        order.set_state({"index": j})  # as a front end sends it
        words.set_state({"index": i})
        alt = html.unescape(re.search('alt="([^"]*)"', shown.value)[1])
        assert f"as it is {10 * j} per cent" in alt and f"calibrated {20 * i} per cent" in alt
        assert f"The prompt: {WORDS[i]} {ORDERS[j]} / Decide" in alt
