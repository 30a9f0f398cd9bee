"""What the pictures of 06 to 10 must show: small data for each builder, and the numbers that belong on its axes."""

from types import SimpleNamespace

import numpy as np
import torch
from drawn import Panel, drawings, wilson
from scipy import stats
from tiny_models import tiny_model, tiny_tokenizer

from lessonlib import figures
from lessonlib.choosing import Advice, Answer, Question
from lessonlib.corpora.published import Paper
from lessonlib.costs import Memory
from lessonlib.evaluation import Accuracy, shares_right, text_interval
from lessonlib.figures.lesson09 import even_steps
from lessonlib.figures.playground import IN_FRONT, Seen, Way
from lessonlib.figures.style import BLUE, GREY, INK, SKY, VERMILION
from lessonlib.quantization.formats import Absmax, Measured, measure
from lessonlib.quantization.nf4 import in_blocks, normal_float, normalize
from lessonlib.serving.monitoring import Verdict

drawing, DRAWN = drawings()


def runs(setting: str, accuracies: dict[int, tuple]) -> list:
    """Recorded runs by one of their settings, the largest first."""
    return [
        SimpleNamespace(settings={setting: value}, accuracy=accuracy)
        for value in sorted(accuracies, reverse=True)
        for accuracy in accuracies[value]
    ]


def answers(right: int, n: int = 10) -> Accuracy:
    return Accuracy([1] * right + [0] * (n - right), [1] * n)


# --- 06 --------------------------------------------------------------------------------------------------------------

WIDTHS = runs("m", {2: (0.3, 0.6, 0.75), 5: (0.8,)})
BY_WIDTH = [(None, [2] * 3, [30, 60, 75]), (None, [5], [80]), (None, [2, 5], [55, 80])]
WIDE = {"scale": ("log", "linear"), "columns": {"2": 2, "5": 5}}


@drawing(figures.width_sweep)
def widths_have_a_dot_a_seed_and_the_line_of_their_means(build):
    return build(WIDTHS, 0.2), Panel(lines=BY_WIDTH, levels=[20], words=[("no adapter", 5, 20)], **WIDE)


@drawing(figures.adapter_slider)
def the_block_is_folded_and_one_adapter_is_drawn_to_scale(build):
    sublayers = [(y, name) for y, name in ((0.0, "attention"), (4.1, "feed-forward"))]
    arrows = [
        arrow
        for y, _ in sublayers
        for arrow in (
            [(0.4, y - 0.65), (0.4, y + 2.75)],
            [(0.4, y - 0.5), (3, y - 0.42)],
            [(3, y + 0.4), (3, y + 0.9)],
            [(3, y + 1.7), (0.65, y + 2.95)],
        )
    ]
    folded = Panel(
        boxes=[(1.9, y + up, 2.2, 0.8) for y, _ in sublayers for up in (-0.4, 0.9)],
        shapes=[*arrows, [(0.4, 7.35), (0.4, 8.5)]],
        words=[word for y, name in sublayers for word in ((name, 3, y), ("adapter", 3, y + 1.3), ("+", 0.4, y + 3))],
    )
    unfolded = Panel(
        boxes=[(-0.5, -0.05, 1, 0.1), (-0.5, 0.95, 1, 0.1), (-0.1, 0.45, 0.2, 0.1)],  # m is a fifth of d
        shapes=[
            [(-0.5, 0.05), (0.5, 0.05), (0.1, 0.45), (-0.1, 0.45), (-0.5, 0.05)],
            [(-0.5, 0.95), (0.5, 0.95), (0.1, 0.55), (-0.1, 0.55), (-0.5, 0.95)],
            [(0.53, 0), (0.53, 1)],
        ],
        words=[
            ("x: 10", 0, 0), ("x + detour: 10", 0, 1), ("down: 20 weights", 0, 0.162), ("up: 20 weights", 0, 0.838),
            ("m = 2", -0.14, 0.5), ("x", 0.7, 0.5), ("52 numbers", 0, -0.13),
        ],
    )  # fmt: skip
    measured = Panel(lines=[*BY_WIDTH, (None, [2], [55])], marks=["o", "o", "None", "D"], **WIDE)
    return build(10, 4, 1000, WIDTHS), folded, unfolded, measured


@drawing(figures.start_scales)
def starts_stand_on_a_logarithmic_axis_from_the_smallest(build):
    panel = Panel(
        lines=[(None, [0.01, 1], [97, 10])], scale=("log", "linear"), columns={"0.01": 0.01, "1": 1},
        words=[("97", 0.01, 97), ("10", 1, 10)],
    )  # fmt: skip
    return build({1.0: 0.1, 0.01: 0.97}), panel


def interval(name: str | None, right: int, row: float, n: int = 10) -> list:
    """The line of an interval, and the mark of the share upon it."""
    return [(name, wilson(right, n), [row, row]), (name, [100 * right / n], [row])]


@drawing(figures.tasks_before_after)
def tasks_stand_without_and_with_their_adapters(build):
    before, after = {"intent": 4, "urgency": 6}, {"intent": 7, "urgency": 9}
    ways = ((before, "base alone", -0.16), (after, "with its adapters", 0.16))
    lines = [
        line
        for row, task in enumerate(before)
        for right, name, up in ways
        for line in interval(name, right[task], row + up)
    ]
    words = [("base alone", wilson(4, 10)[1], -0.16), ("with its adapters", wilson(7, 10)[1], 0.16)]
    picture = build(*({task: answers(n) for task, n in right.items()} for right in (before, after)))
    return picture, Panel(lines=lines, words=words, rows={"intent": 0, "urgency": 1})


@drawing(figures.call_overheads)
def calls_have_a_bar_a_method(build):
    bars = [(None, -0.2, 0, 40), (None, 0.2, 0, 60), (None, 0.8, 0, 7), (None, 1.2, 0, 12)]
    words = [("+40 % adapters", 40, -0.2), ("+60 % LoRA", 60, 0.2), ("+7 %", 7, 0.8), ("+12 %", 12, 1.2)]
    picture = build({"1 × 1": {"adapters": 40, "LoRA": 60}, "8 × 8": {"adapters": 7, "LoRA": 12}})
    return picture, Panel(bars=bars, words=words, rows={"1 × 1": 0, "8 × 8": 1})


# --- 07 --------------------------------------------------------------------------------------------------------------


@drawing(figures.spectrum)
def energy_adds_up_over_a_logarithmic_axis(build):
    # Of 9 + 1 + 1 + 1 three directions hold 11 twelfths; of four equal ones only all hold nine tenths.
    lines = [
        ("the update", [1, 2, 3, 4], [75, 1000 / 12, 1100 / 12, 100]), ("the update: rank 3", [3], [1100 / 12]),
        ("random noise", [1, 2, 3, 4], [25, 50, 75, 100]), ("random noise: rank 4", [4], [100]),
    ]  # fmt: skip
    return build([1, 3, 1, 1], [1, 1, 1, 1]), Panel(lines=lines, levels=[90], scale=("log", "linear"))


@drawing(figures.learning_curves)
def losses_are_dots_under_their_running_mean_of_eight(build):
    losses, means = [9, 8, 7, 6, 5, 4, 3, 2, 1], [9, 8.5, 8, 7.5, 7, 6.5, 6, 5.5, 4.5]
    lines = [("LoRA", range(1, 10), losses), ("LoRA", range(1, 10), means)]
    lines += [("whole", [1, 2], [3, 1]), ("whole", [1, 2], [3, 2])]
    panel = Panel(lines=lines, words=[("whole", 2, 2), ("LoRA", 9, 4.5)])
    return build({"LoRA": losses, "whole": [3, 1]}), panel


RANKS = runs("r", {4: (0.3, 0.6, 0.75), 8: (0.8,)})
BY_RANK = [(None, [4] * 3, [30, 60, 75]), (None, [8], [80]), (None, [4, 8], [55, 80])]
RANKED = {"scale": ("log", "linear"), "columns": {"4": 4, "8": 8}}


@drawing(figures.rank_sweep)
def ranks_have_a_dot_a_seed_and_the_line_of_their_means(build):
    full = [SimpleNamespace(settings={}, accuracy=accuracy) for accuracy in (0.8, 0.9)]
    return build(RANKS, full), Panel(lines=BY_RANK, levels=[85], words=[("full fine-tuning", 4, 85)], **RANKED)


@drawing(figures.benchmark_times)
def times_are_bars_in_their_order(build):
    panel = Panel(bars=[(None, 0, 0, 55), (None, 1, 0, 40)], rows={"base": 1, "LoRA": 0}, title="One pass")
    return build({"base": 40.0, "LoRA": 55.0}, "One pass"), panel


@drawing(figures.rank_slider)
def matrices_are_drawn_to_scale_beside_what_they_hold_and_score(build):
    # W is 40 by 60; B, 40 by 8, stands 0.16 of W's width beside it; A, 8 by 60, another 0.6 of that further.
    matrices = Panel(
        boxes=[(0, 0, 60, 40), (69.6, 0, 8, 40), (83.36, 32, 60, 8)],
        words=[
            ("W\n40 × 60", 30, 20),
            ("B", 73.6, -2.4),
            ("A", 144.8, 36),
            ("r = 8\n800 numbers", 83.36, 18),
        ],
    )
    held = Panel(lines=[(None, range(1, 11), np.arange(10, 101, 10)), (None, [8], [80])], scale=("log", "linear"))
    measured = Panel(lines=[*BY_RANK, (None, [8], [80])], marks=["o", "o", "None", "D"], **RANKED)
    return build((40, 60), [1.0] * 10, RANKS), matrices, held, measured


@drawing(figures.variants_compared)
def variants_have_a_stroke_a_seed_and_a_diamond_where_they_differ(build):
    variants = {"LoRA": [answers(90, 200), answers(110, 200)], "far": [answers(150, 200), answers(170, 200)]}
    lines = []
    for row, (seeds, shares) in enumerate(zip(variants.values(), ([45, 55], [75, 85]))):
        _, low, high = text_interval(shares_right(seeds))
        lines += [
            (None, [100 * low, 100 * high], [row, row]), (None, shares, [row, row]), (None, [np.mean(shares)], [row]),
        ]  # fmt: skip
    panel = Panel(
        lines=lines, places=[50], rows={"LoRA": 0, "far": 1}, marks=["None", "|", "o", "None", "|", "D"],
        inks=[INK] * 3 + [VERMILION] * 3,
    )  # fmt: skip
    return build(variants), panel


@drawing(figures.places_before_after)
def places_stand_before_and_after_above_and_below_the_line(build):
    counts = {"records": {"before": 1, "LoRA": 8}, "facts": {"before": 2, "LoRA": 3, "looked up": 7}}
    ways = {"before": -0.22, "LoRA": 0.0, "looked up": 0.22}
    lines = [
        line
        for row, place in enumerate(counts.values())
        for way, right in place.items()
        for line in interval(way, right, row + ways[way])
    ]
    ends = (("before", 1, -0.22), ("LoRA", 8, 0), ("looked up", 7, 1.22))
    words = [(way, wilson(right, 10)[1], row) for way, right, row in ends]
    panel = Panel(lines=lines, levels=[0.5], words=words, rows={"records": 0, "facts": 1})
    return build({name: {w: answers(n) for w, n in ways.items()} for name, ways in counts.items()}, 1), panel


@drawing(figures.digit_rows)
def digits_stand_side_by_side_with_a_frame(build):
    upright = Panel(images=[[[0] * 8, [0, 1, 2, 0, 0, 5, 6, 0], [0, 3, 4, 0, 0, 7, 8, 0], [0] * 8]], title="upright")
    turned = Panel(images=[[[0] * 4, [0, 4, 3, 0], [0, 2, 1, 0], [0] * 4]], title="turned")
    return build({"upright": [[1, 2, 3, 4], [5, 6, 7, 8]], "turned": [[4, 3, 2, 1]]}, 2), upright, turned


# --- 08 --------------------------------------------------------------------------------------------------------------

SCORES = {"zero-shot": (0.4, 0.3, 0.5), "LoRA": (0.8, 0.7, 0.85), "whole": (0.7, 0.6, 0.75)}


@drawing(figures.ways_compared)
def ways_are_diamonds_on_their_intervals_with_a_dot_a_seed(build):
    seeds = {"zero-shot": (0.4,), "LoRA": (0.75, 0.85), "whole": (0.7, 0.7)}
    lines = [
        (None, [40], [0]), (None, [40], [0]), (None, [75, 85], [1, 1]), (None, [80], [1]), (None, [70, 70], [2, 2]),
        (None, [70], [2]),
    ]  # fmt: skip
    panel = Panel(
        lines=lines, spans=[(30, 0, 50, 0), (70, 1, 85, 1), (60, 2, 75, 2)], places=[12.5], marks=["o", "D"] * 3,
        rows={"zero-shot": 0, "LoRA": 1, "whole": 2},
    )  # fmt: skip
    return build(SCORES, seeds), panel


@drawing(figures.accuracy_by_examples)
def means_rise_with_the_examples_on_a_logarithmic_axis(build):
    curves = {"LoRA": {10: (0.2, 0.4, 0.45), 100: (0.7,)}, "prompt": {10: (0.2,), 100: (0.3,)}}
    lines = [
        ("LoRA", [10, 100], [35, 70]), ("LoRA", [10] * 3, [20, 40, 45]), ("LoRA", [100], [70]),
        ("prompt", [10, 100], [20, 30]), ("prompt", [10], [20]), ("prompt", [100], [30]),
    ]  # fmt: skip
    panel = Panel(lines=lines, levels=[50], scale=("log", "linear"), columns={"10": 10, "100": 100})
    return build(curves, ("calibrated", 0.5)), panel


@drawing(figures.gaps)
def gaps_are_intervals_about_zero(build):
    panel = Panel(
        lines=[(None, [1], [0]), (None, [-8], [1])], spans=[(-3, 0, 5, 0), (-12, 1, -4, 1)], places=[0],
        rows={"as it was": 0, "another task": 1},
    )  # fmt: skip
    return build({"as it was": (0.01, -0.03, 0.05), "another task": (-0.08, -0.12, -0.04)}), panel


@drawing(figures.forgotten)
def what_is_forgotten_is_the_way_from_the_base(build):
    rows = {"LoRA": 0, "whole": 1}
    left = Panel(
        lines=[(None, [25], [0]), (None, [40], [1])],
        spans=[(20, 0, 25, 0), (20, 1, 40, 1)],
        places=[20],
        rows=rows,
    )
    right = Panel(lines=[(None, [60], [0]), (None, [50], [1])], spans=[(70, 0, 60, 0), (70, 1, 50, 1)], places=[70])
    perplexity, sentiment = (
        {"zero-shot": 20, "LoRA": 25, "whole": 40},
        {"zero-shot": 0.7, "LoRA": 0.6, "whole": 0.5},
    )
    return build(perplexity, sentiment), left, right


@drawing(figures.cost_accuracy)
def those_that_nobody_beats_are_joined_in_the_order_of_their_cost(build):
    costs = {"megabytes held": {"LoRA": 300, "whole": 900, "zero-shot": 100}}
    panel = Panel(
        lines=[(None, [100, 300], [40, 80]), (None, [300], [80]), (None, [900], [70]), (None, [100], [40])],
        spans=[(300, 70, 300, 85), (900, 60, 900, 75), (100, 30, 100, 50)], marks=["None", "D", "o", "D"],
        inks=[SKY, BLUE, GREY, BLUE], words=[("LoRA", 300, 80), ("whole", 900, 70), ("zero-shot", 100, 40)],
    )  # fmt: skip
    return build(costs, SCORES), panel


@drawing(figures.cost_accuracy)
def parameters_stand_on_an_axis_that_is_logarithmic_and_has_a_zero(build):
    costs = {"trained parameters (log scale)": {"zero-shot": 0, "LoRA": 1e6, "whole": 1e8}}
    panel = Panel(
        lines=[(None, [0, 1e6], [40, 80]), (None, [0], [40]), (None, [1e6], [80]), (None, [1e8], [70])],
        spans=[(0, 30, 0, 50), (1e6, 70, 1e6, 85), (1e8, 60, 1e8, 75)], scale=("symlog", "linear"),
        columns={"0": 0, "10 thousand": 1e4, "1 million": 1e6, "100 million": 1e8},
    )  # fmt: skip
    return build(costs, SCORES), panel


def edge(start: tuple, end: tuple) -> tuple:
    """A line from a question to what follows, with a bend at 4.4 from its start."""
    (x0, y0), (x1, y1) = start, end
    return None, [x0, x0 + 4.4, x0 + 4.4, x1], [y0, y0, y1, y1]


@drawing(figures.decision_tree)
def the_tree_stands_from_left_to_right_and_the_chosen_way_is_blue(build):
    ask, train, tune = (Advice(what, "why", (), ()) for what in ("ask", "train", "tune"))
    second = Question("GPU?", "gpu", (Answer("no", (), train), Answer("yes", (), tune)))
    first = Question("Rows?", "n", (Answer("few", (), ask), Answer("many", (), second)))
    root, then = (3.4, 0.75), (18.0, 1.5)  # a question stands at the middle of its answers
    panel = Panel(
        lines=[edge(root, (85, 0)), edge(root, then), edge(then, (85, 1)), edge(then, (85, 2))],
        inks=["#B5B5B5", BLUE, "#B5B5B5", BLUE], title="Advised: tune",
        words=[
            ("Rows?", *root), ("few", 8.2, 0), ("ask", 86, 0), ("many", 8.2, 1.5), ("GPU?", *then), ("no", 22.8, 1),
            ("train", 86, 1), ("yes", 22.8, 2), ("tune", 86, 2),
        ],
    )  # fmt: skip
    return build([(first, first.answers[1]), (second, second.answers[1])], first), panel


# At 1e-4 of its size what has moved is white, at 1 dark blue; half-way, at 1e-2, the mean of the two.
SEEN = Seen(
    "LoRA",
    4,
    2,
    ("query",),
    [2.5, 2.0],
    {(0, "query"): 1e-2, (1, "query"): 1.0, (1, "norms"): 1e-5},
    5,
    9,
    1.0,
)
PLACES = [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (1, 4), (0, 5), (1, 5)]
HALF, FULL, STILL, GONE = "#809EBC", "#003C78", "#FFFFFF", "#E4E4E4"
LIT = [GONE, HALF, FULL, GONE, GONE, GONE, GONE, GONE, GONE, GONE, STILL]


@drawing(figures.playground)
def squares_are_lit_by_how_far_they_moved(build):
    shown = build(lambda: (tiny_model(), tiny_tokenizer()), {"LoRA": Way(None, 0.1)}, [None] * 4)
    shown.trial.seen = SEEN
    names = (IN_FRONT, "query", "adapter 1", "adapter 2", "prefix", "norms")
    cells = Panel(
        boxes=[(column, row, 0.9, 0.9) for column, row in PLACES], faces=LIT, title="LoRA",
        rows={name: row + 0.45 for row, name in enumerate(names)}, columns={"1": 0.45},
    )  # fmt: skip
    return shown.still(), cells, Panel(lines=[(None, [1, 2], [2.5, 2.0])])


# --- 09 --------------------------------------------------------------------------------------------------------------

W = 0.02 * torch.randn(8, 128, generator=torch.Generator().manual_seed(0))


def histogram(values, edges, **settings) -> list:
    """The bars of a histogram."""
    heights, edges = np.histogram(values, edges, **settings)
    return [(None, (low + high) / 2, 0, height) for low, high, height in zip(edges, edges[1:], heights)]


@drawing(figures.code_book)
def values_of_the_code_book_stand_under_the_normal_curve(build):
    codebook = torch.tensor([-1.0, -0.25, 0.0, 0.5, 1.0])
    weights = 0.02 * torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    x, grid = (weights / weights.std()).flatten().numpy(), np.linspace(-4, 4, 400)
    places = stats.norm.ppf(0.9677) * codebook.numpy()
    normal = lambda z: np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5  # noqa: E731
    panel = Panel(
        bars=histogram(x, np.linspace(-4, 4, 81), density=True),
        lines=[(None, grid, normal(grid)), (None, places, [-0.012] * 5)],
        spans=[(place, 0, place, normal(place)) for place in places],
    )
    return build(weights, codebook), panel


@drawing(figures.bits_slider)
def values_of_so_many_bits_stand_over_the_weights_and_errors_by_bits(build):
    blocks, books = normalize(in_blocks(W, 64))[0], {"NormalFloat": normal_float, "even steps": even_steps}
    errors = {name: [100 * measure(W, Absmax(name, book(b))).error for b in (2, 4)] for name, book in books.items()}
    bars = histogram(blocks.numpy().ravel(), np.linspace(-1, 1, 101), density=True)
    top = 1.05 * max(high for *_, high in bars)
    weights = Panel(bars=bars, spans=[(value, 0, value, top) for value in normal_float(4).tolist()])
    lines = [(name, [2, 4], values) for name, values in errors.items()]
    ring = (None, [4, 4], [values[1] for values in errors.values()])
    panel = Panel(lines=[*lines, ring], scale=("linear", "log"), columns={"2": 2, "4": 4})
    return build(W, bits=(2, 4)), weights, panel


def measured(bits: float, error: float) -> Measured:
    return Measured("one", bits, error / 100, 0.2)


@drawing(figures.formats)
def errors_on_normal_weights_stand_above_those_on_real_ones(build):
    bars = [
        ("normal weights", 1.2, 0, 9), ("normal weights", 0.2, 0, 12), ("real weights", 0.8, 0, 10),
        ("real weights", -0.2, 0, 14),
    ]  # fmt: skip
    words = [("9.0", 9.14, 1.2), ("10.0", 10.14, 0.8), ("12.0", 12.14, 0.2), ("14.0", 14.14, -0.2)]
    panel = Panel(bars=bars, words=words, rows={"NF4, 4.50 bits": 1, "FP4, 4.25 bits": 0})
    pairs = {"NF4": (measured(4.5, 9), measured(4.5, 10)), "FP4": (measured(4.25, 12), measured(4.25, 14))}
    return build(pairs), panel


@drawing(figures.block_sizes)
def error_and_bits_stand_by_block_size(build):
    axis = {"places": [64], "scale": ("log", "linear"), "columns": {"16": 16, "256": 256}}
    error, bits = (
        Panel(lines=[(None, [16, 256], [8, 11])], **axis),
        Panel(lines=[(None, [16, 256], [6, 4.25])], **axis),
    )
    return build({16: measured(6, 8), 256: measured(4.25, 11)}), error, bits


@drawing(figures.read_losses)
def losses_reach_from_the_base_to_their_mark(build):
    lines = [
        (None, [3.8, 4.2], [0, 0]), (None, [4.2], [0]), (None, [3.8, 4.0], [1, 1]), (None, [4.0], [1]),
        (None, [3.8, 3.9], [2, 2]), (None, [3.9], [2]),
    ]  # fmt: skip
    panel = Panel(lines=lines, places=[3.8], rows={"Q4": 2, "NF4": 1, "NF3": 0}, marks=["None", "o"] * 3)
    return build({"NF4": 4.0, "NF3": 4.2, "Q4": 3.9}, 3.8), panel


@drawing(figures.read_losses)
def a_loss_far_off_is_an_arrow_at_the_edge(build):
    # The second largest is 0.2 above the base; five quarters of that is where the arrow stands.
    lines = [
        (None, [3.8, 4.05], [0, 0]), (None, [4.05], [0]), (None, [3.8, 4.0], [1, 1]), (None, [4.0], [1]),
        (None, [3.8, 3.9], [2, 2]), (None, [3.9], [2]),
    ]  # fmt: skip
    panel = Panel(
        lines=lines, places=[3.8], rows={"Q4": 2, "NF4": 1, "NF2": 0}, marks=["None", ">", "None", "o", "None", "o"],
        words=[("9.00", 4.055, 0), ("4.00", 4.005, 1), ("3.90", 3.905, 2)],
    )  # fmt: skip
    return build({"NF4": 4.0, "NF2": 9.0, "Q4": 3.9}, 3.8), panel


@drawing(figures.update_and_step)
def two_histograms_in_per_cent_share_a_logarithmic_axis(build):
    small, half = 0.01 * W.abs().flatten().numpy(), np.array([0.003, 0.003, 0.006])
    edges = np.geomspace(max(small.min(), 0.006 / 1e5), 1.2 * 0.006, 70)
    steps = np.histogram(half, edges, weights=np.full(3, 100 / 3))[0]
    outline = np.transpose([np.repeat(edges, 2), [0, *np.repeat(steps, 2), 0]])
    bars = histogram(small, edges, weights=np.full(small.size, 100 / small.size))
    return build(-0.01 * W, torch.tensor(half)), Panel(bars=bars, shapes=[outline], scale=("log", "linear"))


@drawing(figures.cards)
def plans_stand_by_method_on_a_logarithmic_axis_with_the_cards_as_lines(build):
    gigabytes = {"7B": {"whole": 81, "LoRA": 15, "QLoRA": 5}, "70B": {"whole": 829, "LoRA": 142, "QLoRA": 41}}
    plans = {m: {way: Memory(1e9 * size, 0, 0, 0) for way, size in each.items()} for m, each in gigabytes.items()}
    lines = [
        ("whole", [81, 829], [1.22, 0.22]),
        ("LoRA", [15, 142], [1, 0]),
        ("QLoRA", [5, 41], [0.78, -0.22]),
    ]
    panel = Panel(lines=lines, places=[14.6, 84.4], scale=("log", "linear"), rows={"7B": 1, "70B": 0})
    return build(plans, {"16 GB": 14.6, "80 GB": 84.4}), panel


@drawing(figures.outweigh)
def an_adapters_share_of_its_base_stands_by_rank(build):
    # 2 bytes for each of the 2 d r numbers of an adapter, half a byte for each of the d² of its base: 8 r / d.
    panel = Panel(
        lines=[("d = 8", [1, 2], [100, 200]), ("d = 16", [1, 2], [50, 100])], levels=[100], scale=("log", "log"),
        columns={"1": 1, "2": 2},
    )  # fmt: skip
    return build((8, 16), (1, 2)), panel


@drawing(figures.gradients_before_and_after)
def gradients_stand_side_by_side_before_and_after(build):
    bars = [
        ("before an evaluation", -0.2, 0, 0.3), ("before an evaluation", 0.8, 0, 0.2), ("after it", 0.2, 0, 0.1),
        ("after it", 1.2, 0, 0),
    ]  # fmt: skip
    return build([0.3, 0.2], [0.1, 0.0]), Panel(bars=bars)


# --- 10 --------------------------------------------------------------------------------------------------------------


@drawing(figures.traffic)
def requests_are_crossed_where_their_adapter_was_not_held(build):
    held = {1: [False, False, False], 2: [False, False, True]}
    left = Panel(lines=[("adapter is held", [3], [1]), ("adapter has to be loaded", [1, 2], [1, 2])])
    right = Panel(lines=[(None, [1, 2], [0, 100 / 3]), (None, [2], [100 / 3])], columns={"1": 1, "2": 2})
    return build([0, 1, 0], lambda trace, k: held[k], held=(1, 2), start=2), left, right


@drawing(figures.requests_over_time)
def requests_that_overlap_lie_beside_each_other_in_their_band(build):
    lines = [(None, [2, 5], [-0.06, -0.06]), (None, [3], [0.06]), (None, [4], [1])]
    spans = [(0, -0.06, 2, -0.06), (3, -0.06, 5, -0.06), (1, 0.06, 3, 0.06), (2, 1, 4, 1)]
    panel = Panel(lines=lines, spans=spans, rows={"base": 0, "topic": 1})
    return build([("base", 3, 5), ("base", 0, 2), ("topic", 2, 4), ("base", 1, 3)]), panel


@drawing(figures.ways_to_serve)
def time_and_size_have_a_bar_a_way(build):
    time = Panel(bars=[(None, 1, 0, 20), (None, 0, 0, 60)], rows={"base": 1, "4 bits": 0}, title="Time")
    size = Panel(bars=[(None, 1, 0, 270), (None, 0, 0, 100)], title="Smallest: 4 bits")
    return build({"base": (20, 270), "4 bits": (60, 100)}), time, size


@drawing(figures.by_question)
def questions_are_marks_on_the_row_of_their_way(build):
    panel = Panel(
        lines=[("intent", [60, 40], [0, 1]), ("urgency", [50, 70], [0, 1])], spans=[(50, 0, 60, 0), (40, 1, 70, 1)],
        rows={"one": 0, "sum": 1},
    )  # fmt: skip
    return build({"one": {"intent": 0.6, "urgency": 0.5}, "sum": {"intent": 0.4, "urgency": 0.7}}), panel


@drawing(figures.after_each_task)
def each_task_is_a_line_from_when_it_was_learned(build):
    columns = {"after intent": 1, "after urgency": 2}
    left = Panel(lines=[("intent", [1, 2], [60, 40]), ("urgency", [2], [50])], columns=columns, title="stacked")
    right = Panel(lines=[("intent", [1, 2], [70, 65]), ("urgency", [2], [80])], columns=columns, title="one")
    ways = {"stacked": [[0.6], [0.4, 0.5]], "one": [[0.7], [0.65, 0.8]]}
    return build(ways, ("intent", "urgency")), left, right


@drawing(figures.drift)
def windows_stand_in_units_of_their_threshold(build):
    lines = [("fair", [1, 2], [0.4, 0.5]), ("shifted", [1, 2], [4, 2])]
    fair = [Verdict(0.02, 0.05, 0.4, False), Verdict(0.05, 0.1, 0.4, False)]
    shifted = [Verdict(0.2, 0.05, 0.001, True), Verdict(0.2, 0.1, 0.001, True)]
    return build({"fair": fair, "shifted": shifted}), Panel(lines=lines, levels=[1])


@drawing(figures.timeline)
def papers_stand_at_their_month_in_the_line_of_the_first_notebook(build):
    papers = [
        Paper("houlsby2019", 2019, 7, "Houlsby", "Adapters", "ICML", "", ("06", "08"), "adapters"),
        Paper("hu2021", 2021, 1, "Hu", "LoRA", "ICLR", "", ("07",), "LoRA"),
    ]
    date = 2019 + 6.5 / 12
    panel = Panel(
        lines=[(None, [date], [0]), (None, [2021 + 0.5 / 12], [1])], marks=["D", "o"], rows={"06": 0, "07": 1},
        words=[("adapters", date, 0)],
    )  # fmt: skip
    return build(papers, {"houlsby2019": "adapters"}), panel
