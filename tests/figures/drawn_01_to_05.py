"""What the pictures of 01 to 05 must show: small data for each builder, and the numbers that belong on its axes."""

from types import SimpleNamespace

import numpy as np
import torch
from drawn import Panel, drawings, wilson

from lessonlib import figures
from lessonlib.costs import MIXED, FullFineTuning, Memory, fits, training_memory
from lessonlib.figures.style import BLUE, VERMILION

drawing, DRAWN = drawings()


def runs(*accuracies: float) -> list:
    return [SimpleNamespace(accuracy=accuracy) for accuracy in accuracies]


# --- 01 --------------------------------------------------------------------------------------------------------------

PARTS = ("weights", "gradients", "optimizer", "activations")


@drawing(figures.cost_bars)
def plans_are_stacked_part_by_part(build):
    plans = {"whole": Memory(2e9, 1e9, 4e9, 1e9), "LoRA": Memory(2e9, 0.5e9, 0.25e9, 1e9)}
    whole, small = (
        [(1, 0, 2), (1, 2, 3), (1, 3, 7), (1, 7, 8)],
        [(0, 0, 2), (0, 2, 2.5), (0, 2.5, 2.75), (0, 2.75, 3.75)],
    )
    stacked = [(part, *bar) for plan in (small, whole) for part, bar in zip(PARTS, plan)]
    return build(plans), Panel(bars=stacked, rows={"whole": 1, "LoRA": 0})


@drawing(figures.predicted_and_measured)
def what_was_predicted_stands_above_what_was_measured(build):
    bars = [
        ("predicted", 1.2, 0, 500),
        ("predicted", 0.2, 0, 300),
        ("measured", 0.8, 0, 400),
        ("measured", -0.2, 0, 600),
    ]
    pairs = {"weights": (5e8, 4e8), "activations": (3e8, 6e8)}
    return build(pairs), Panel(bars=bars, rows={"weights": 1, "activations": 0})


@drawing(figures.scaling)
def cost_rises_on_two_logarithmic_axes(build):
    sizes, lines = (1e8, 1e9), {"whole": (6e8, 6e9), "LoRA": (4e8, 4e10)}
    slopes = [("whole: slope 1.00", 1e9, 6e9), ("LoRA: slope 2.00", 1e8, 4e8)]
    expected = [(name, sizes, values) for name, values in lines.items()]
    return build(sizes, lines, "FLOPs"), Panel(lines=expected, scale=("log", "log"), words=slopes)


@drawing(figures.memory_planner)
def a_plan_stands_above_the_nearest_that_fits_and_the_card_is_a_line(build):
    plan = training_memory("llama2-7b", FullFineTuning(), precision=MIXED, tokens=1024)
    fit = fits("llama2-7b", "A100-80GB", FullFineTuning(), precision=MIXED, tokens=1024)
    bars = []
    for row, memory in enumerate((fit.nearest_memory, plan)):
        ends = np.cumsum([0, *vars(memory).values()]) / 1e9
        bars += [(part, row, low, high) for part, low, high in zip(PARTS, ends, ends[1:])]
    return build(), Panel(bars=bars, places=[fit.usable / 1e9], rows={"this plan": 1, "nearest that fits": 0})


# --- 02 --------------------------------------------------------------------------------------------------------------


@drawing(figures.tasks_by_shots)
def tasks_rise_with_the_examples(build):
    lines = [("capital", [0, 1], [1, 9]), ("backwards", [0, 1], [0, 2])]
    right = {"capital": {0: 1, 4: 9}, "backwards": {0: 0, 4: 2}}
    return build(right, 10), Panel(lines=lines, columns={"0": 0, "4": 1})


# The mean of three that lie unevenly is not the one in the middle.
SHOTS = [
    (None, [0], [30]),
    (None, [1] * 3, [40, 50, 90]),
    (None, [0, 1], [30, 60]),
]  # two dots, and the line of the means


@drawing(figures.shots_sweep)
def draws_are_dots_and_their_means_a_line(build):
    panel = Panel(lines=SHOTS, levels=[12.5], columns={"0": 0, "2": 1})
    return build({0: runs(0.3), 2: runs(0.4, 0.5, 0.9)}, 1 / 8), panel


@drawing(figures.shots_slider)
def the_prompt_has_a_box_an_example_and_its_accuracy_is_marked(build):
    groups = {0: runs(0.3), 2: runs(0.4, 0.5, 0.9)}
    for group, shown in ((groups[0], []), (groups[2], ["billing", "refund"])):
        group[0].results = {"shown": shown, "prompt_tokens": 40}
    words = [
        ("topics named", 0.96, -0.43), ("message", 0.04, -1.43), ("billing", 0.96, -1.43), ("message", 0.04, -2.43),
        ("refund", 0.96, -2.43), ("the new message", 0.96, -3.43),
    ]  # fmt: skip
    prompt = Panel(boxes=[(0, -row, 1, -0.86) for row in range(4)], words=words)
    measured = Panel(lines=[*SHOTS, (None, [1], [60])], levels=[12.5], marks=["o", "o", "None", "D"])
    return build(groups, 1 / 8), prompt, measured


@drawing(figures.label_pairs)
def each_draw_is_joined_with_itself(build):
    lines = [(None, [0, 1], [60, 50]), (None, [0, 1], [80, 40]), (None, [0, 1], [70, 45])]
    panel = Panel(lines=lines, levels=[12.5], columns={"right": 0, "random": 1})
    return build({"right": runs(0.6, 0.8), "random": runs(0.5, 0.4)}, 1 / 8), panel


@drawing(figures.attention_by_part)
def attention_is_a_row_a_part_and_a_column_a_layer(build):
    shares = [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]
    panel = Panel(
        images=[[[90, 50, 10], [10, 50, 90]]], rows={"first token": 0, "the rest": 1},
        words=[("50 %", 2.5, 0), ("50 %", 2.5, 1)],
    )  # fmt: skip
    return build(shares, ["first token", "the rest"]), panel


@drawing(figures.scale_trend)
def published_averages_and_gains_stand_by_size(build):
    averages, gains = {"few-shot": [50, 60], "zero-shot": [40, 45]}, {"all tasks": [10, 15]}
    left = Panel(lines=[("few-shot", [0, 1], [50, 60]), ("zero-shot", [0, 1], [40, 45])], columns={"S": 0, "L": 1})
    right = Panel(lines=[("all tasks", [0, 1], [10, 15])], levels=[0], columns={"S": 0, "L": 1})
    return build(["S", "L"], averages, gains), left, right


@drawing(figures.metric_and_emergence)
def an_exact_match_is_drawn_against_the_accuracy_of_a_token(build):
    p = np.linspace(0, 1, 11)
    lines = [("1 token", 100 * p, 100 * p), ("2 tokens", 100 * p, 100 * p**2)]
    words = [("1 token", 70, 70), ("2 tokens", 70, 45)]  # 0.6² is below 0.45, 0.7² above it
    return build(p, {1: p, 2: p**2}), Panel(lines=lines, words=words)


@drawing(figures.regression_errors)
def errors_stand_on_a_logarithmic_axis_above_the_noise(build):
    errors = {"the network": [2.0, 1.0, 0.5], "least squares": [2.0, 90.0, 0.4]}
    lines = [(name, [0, 1, 2], values) for name, values in errors.items()]
    panel = Panel(lines=lines, levels=[0.25], scale=("linear", "log"), beyond=True)
    return build(errors, 2, 0.5), panel


# --- 03 --------------------------------------------------------------------------------------------------------------


@drawing(figures.measured_groups)
def groups_are_dots_with_a_bar_at_the_mean(build):
    lines = [
        (None, [40, 50, 90], [0] * 3), (None, [60, 60], [-0.32, 0.32]),
        (None, [80], [1]), (None, [80, 80], [0.68, 1.32]),
    ]  # fmt: skip
    panel = Panel(lines=lines, places=[50], rows={"random": 0, "similar": 1})
    return build({"random": [0.4, 0.5, 0.9], "similar": [0.8]}, chance=0.5), panel


@drawing(figures.prompt_factors)
def all_cells_stand_in_a_row_of_each_factor(build):
    cells = [({"words": w, "order": o}, value) for w, o, value in (("a", "x", 0.5), ("a", "y", 0.7), ("b", "x", 0.9))]
    lines = [
        (None, [50, 70], [0, 0]), (None, [60, 60], [-0.35, 0.35]), (None, [90], [1]), (None, [90, 90], [0.65, 1.35]),
        (None, [50, 90], [2.6, 2.6]), (None, [70, 70], [2.25, 2.95]), (None, [70], [3.6]), (None, [70, 70], [3.25, 3.95]),
    ]  # fmt: skip
    rows = {"label words: a": 0, "label words: b": 1, "order: x": 2.6, "order: y": 3.6}
    return build(cells, {"words": "label words", "order": "order"}), Panel(lines=lines, places=[50], rows=rows)


@drawing(figures.example_orders)
def orders_are_sorted_and_stand_as_they_are_and_calibrated(build):
    lines = [
        (None, [0, 0], [50, 62]), ("as it is", [0], [50]), ("calibrated", [0], [62]),
        (None, [1, 1], [70, 64]), ("as it is", [1], [70]), ("calibrated", [1], [64]),
    ]  # fmt: skip
    panel = Panel(lines=lines, levels=[50], columns={"P N": 0, "N P": 1})
    return build({"N P": (0.7, 0.64), "P N": (0.5, 0.62)}), panel


@drawing(figures.label_rates)
def answers_stand_by_count_and_last_label(build):
    lines = [
        (None, [1, 1], [90, 70]), (None, [2], [100]), ("last example positive", [1, 2], [80, 100]),
        (None, [0], [0]), (None, [1], [20]), ("last example negative", [0, 1], [0, 20]),
    ]  # fmt: skip
    return build({"NP": [0.9, 0.7], "PN": [0.2], "PP": [1.0], "NN": [0.0]}), Panel(lines=lines, levels=[50])


@drawing(figures.calibration_effect)
def a_prompt_that_gains_stands_above_the_diagonal(build):
    lines = [("calibration helps", [50, 70], [80, 80]), ("it hurts", [90], [80]), (None, [47, 93], [47, 93])]
    return build([(0.5, 0.8), (0.7, 0.8), (0.9, 0.8)]), Panel(lines=lines)


@drawing(figures.prompt_toggles)
def a_prompt_stands_beside_a_bar_for_each_reading(build):
    values = {"as it is": (0.5, 0.37, 0.63), "calibrated": (0.9, 0.8, 0.97)}
    picture = build({"words": ["a", "b"]}, lambda word: f"Feel: {word}", lambda word: values, 54, ["b"])
    meter = Panel(
        bars=[(None, 0, 0, 50), (None, 1, 0, 90)], lines=[(None, [37, 63], [0, 0]), (None, [80, 97], [1, 1])],
        places=[50], words=[("as it is: 50 %", 2, -0.38), ("calibrated: 90 %", 2, 0.62)],
    )  # fmt: skip
    return picture, Panel(words=[("Feel: b", 0, 1)]), meter


# --- 04 --------------------------------------------------------------------------------------------------------------


@drawing(figures.accuracy_by_steps)
def right_answers_fall_with_the_steps_within_wilsons_bands(build):
    counts = {"chain": {1: (9, 10), 4: (6, 10)}, "answer": {1: (5, 10), 4: (1, 10)}}
    lines = [("chain", [1, 4], [90, 60]), ("answer", [1, 4], [50, 10])]
    bands = [
        ([1, 4], *np.transpose([wilson(9, 10), wilson(6, 10)])),
        ([1, 4], *np.transpose([wilson(5, 10), wilson(1, 10)])),
    ]
    return build(counts, 0.1), Panel(lines=lines, bands=bands, levels=[10], columns={"1": 1, "4": 4})


@drawing(figures.published_gains)
def gains_stand_by_size_and_by_task(build):
    by_size = {"GPT-3": {0.35: -1, 175: 30}, "PaLM": {8: 1, 540: 39}}
    by_task = {"GPT-3 175B": {"sums": 5, "facts": -6}, "PaLM 540B": {"facts": 2}}
    left = Panel(
        lines=[("GPT-3", [0.35, 175], [-1, 30]), ("PaLM", [8, 540], [1, 39])], levels=[0], scale=("log", "linear"),
        columns={"0.35": 0.35, "1": 1, "10": 10, "100": 100, "540": 540},
    )  # fmt: skip
    right = Panel(
        lines=[("GPT-3 175B", [5, -6], [1, 0]), ("PaLM 540B", [2], [0])],
        places=[0],
        rows={"sums": 1, "facts": 0},
    )
    return build(by_size, by_task), left, right


@drawing(figures.kinds_and_ways)
def kinds_have_a_mark_a_way_with_its_interval_and_a_tick_at_chance(build):
    measured = {
        "sums": {"direct": (1, 10), "chain": (6, 10)},
        "logic": {"direct": (3, 10), "chain": (2, 10)},
    }
    places = {"direct": (1.27, 0.27), "chain": (0.73, -0.27)}
    spans = [
        (low, place, high, place)
        for way in places
        for kind, place in zip(measured, places[way])
        for low, high in [wilson(*measured[kind][way])]
    ]
    lines = [("direct", [10, 30], places["direct"]), ("chain", [60, 20], places["chain"])]
    panel = Panel(lines=lines, spans=[*spans, (25, -0.4, 25, 0.4)], rows={"sums": 1, "logic": 0})
    return build(measured, {"logic": 0.25}), panel


@drawing(figures.votes_curve)
def votes_rise_on_a_logarithmic_axis_beside_one_greedy_chain(build):
    panel = Panel(
        lines=[(None, [1, 4], [30, 50])], bands=[([1, 4], *np.transpose([wilson(3, 10), wilson(5, 10)]))], levels=[40],
        scale=("log", "linear"), columns={"1": 1, "4": 4}, words=[("one greedy chain", 4, 40)],
    )  # fmt: skip
    return build({1: 0.3, 4: 0.5}, 0.4, 10), panel


@drawing(figures.searches)
def hands_solved_have_their_interval_and_their_cost_beside(build):
    left = Panel(
        bars=[(None, 0, 0, 20), (None, 1, 0, 80)],
        spans=[(low, row, high, row) for row, right in ((0, 1), (1, 4)) for low, high in [wilson(right, 5)]],
        rows={"complete": 1, "greedy": 0},
    )
    right = Panel(bars=[(None, 0, 0, 4), (None, 1, 0, 1000)], words=[("4", 4, 0), ("1,000", 1000, 1)])
    return build({"complete": (4, 5, 1000), "greedy": (1, 5, 4)}), left, right


@drawing(figures.chain_toggle)
def a_chain_is_written_beside_what_each_way_got_right(build):
    picture = build(
        {"short": "How many?"}, lambda name, way: (f"{way}: 3.", "3", True), {"answer": (2, 10), "chain": (7, 10)},
        ("short", "chain"),
    )  # fmt: skip
    text = Panel(words=[("Q: How many?", 0, 1), ("", 0, 1 - 0.068), ("chain: 3.", 0, 1 - 2 * 0.068)])
    spans = [(low, row, high, row) for row, right in ((0, 7), (1, 2)) for low, high in [wilson(right, 10)]]
    meter = Panel(
        bars=[(None, 0, 0, 70), (None, 1, 0, 20)],
        spans=spans,
        rows={"answer": 1, "chain": 0},
        faces=[BLUE, "#E3EDF4"],
    )
    return picture, text, meter


# --- 05 --------------------------------------------------------------------------------------------------------------

SPARSITY = (0.0, 0.5, 0.875)
HALVINGS = (0, 1, 3)  # how often the weights were halved: the places of these sparsities
PRUNED = {"0": 0, "50": 1, "80": -np.log2(0.2)}


@drawing(figures.signals)
def each_digit_shows_its_first_signal(build):
    x, y = torch.arange(60.0).reshape(12, 5), torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 9])
    panels = [Panel(lines=[(None, range(5), x[9 - digit])], title=str(digit)) for digit in range(10)]
    return build(SimpleNamespace(x=x, y=y)), *panels


def curve(name: str, first, second) -> tuple:
    """(line, band) of two seeds' accuracies in per cent: Student's t with one degree of freedom, by hand."""
    middle, half = np.mean([first, second], axis=0), 12.706204736 * np.abs(np.subtract(first, second)) / 2
    return (name, HALVINGS, middle), (HALVINGS, middle - half, middle + half)


TICKET, MASK = ([60, 62, 50], [62, 62, 51]), ([60, 50, 40], [60, 51, 41])
SEEDS = {
    "ticket": [[v / 100 for v in seed] for seed in TICKET],
    "mask": [[v / 100 for v in seed] for seed in MASK],
}
TICKETS = dict(zip(("lines", "bands"), zip(curve("ticket", *TICKET), curve("mask", *MASK))))


@drawing(figures.ticket_curves)
def each_halving_of_the_weights_is_as_wide(build):
    return build(SPARSITY, SEEDS), Panel(**TICKETS, columns=PRUNED)


@drawing(figures.two_settings)
def two_settings_have_their_own_curves(build):
    other = dict(zip(("lines", "bands"), zip(curve("mask", *MASK))))
    panels = Panel(**TICKETS, columns=PRUNED, title="slow"), Panel(**other, columns=PRUNED, title="fast")
    return build(SPARSITY, {"slow": SEEDS, "fast": {"mask": SEEDS["mask"]}}), *panels


@drawing(figures.cuts)
def cuts_fall_by_halvings_towards_chance(build):
    lines = [("smallest first", HALVINGS, [60, 50, 30]), ("at random", HALVINGS, [60, 30, 20])]
    panel = Panel(lines=lines, levels=[10], columns=PRUNED)
    return build(SPARSITY, {"smallest first": [0.6, 0.5, 0.3], "at random": [0.6, 0.3, 0.2]}), panel


@drawing(figures.sparsity_slider)
def weights_are_dark_or_light_by_sign_and_white_where_pruned(build):
    weights = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])  # (hidden, inputs)
    left = torch.tensor([[True, True, False], [False, True, False]])
    tickets = [SimpleNamespace(sparsity=s, masks={"w": mask}) for s, mask in ((0.0, left | True), (0.5, left))]
    dark, light, white = (
        np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in ("#00264D", "#E69F00", "#FFFFFF")
    )
    grid = np.insert([[light, white], [dark, light], [white, white]], 3, 1, axis=2)  # (inputs, hidden, colour)
    curves = Panel(
        lines=[("ticket", [0, 1], [60, 50]), ("mask", [0, 1], [60, 40]), (None, [1], [50])],
        bands=[([0, 1], [60, 50], [60, 50]), ([0, 1], [60, 40], [60, 40])], places=[1], columns={"0": 0, "50": 1},
    )  # fmt: skip
    picture = build({"w": weights}, tickets, {"ticket": [0.6, 0.5], "mask": [0.6, 0.4]}, "w")
    return picture, Panel(images=[grid], title="3 of 6"), curves


@drawing(figures.subspace_curve)
def subspaces_rise_to_full_training_and_nine_tenths_of_it(build):
    lines = [(None, [10] * 3, [20, 40, 45]), (None, [100, 100], [80, 90]), (None, [10, 100], [35, 85])]
    panel = Panel(lines=lines, levels=[90, 81], scale=("log", "linear"), columns={"10": 10, "100": 100})
    return build({10: [0.2, 0.4, 0.45], 100: [0.8, 0.9]}, 0.9, 500), panel


@drawing(figures.retention)
def accuracy_falls_and_perplexity_rises_with_what_is_removed(build):
    scores = {"least": {0.5: (0.4, 30), 0: (0.8, 10)}, "random": {0: (0.8, 10), 0.5: (0.2, 90)}}
    accuracy = Panel(lines=[("least", [0, 50], [80, 40]), ("random", [0, 50], [80, 20])])
    perplexity = Panel(lines=[(None, [0, 50], [10, 30]), (None, [0, 50], [10, 90])], scale=("linear", "log"))
    return build(scores, "heads"), accuracy, perplexity


@drawing(figures.layer_costs)
def each_layer_rises_from_the_whole_models_perplexity(build):
    panel = Panel(
        bars=[(None, 0, 20, 30), (None, 1, 20, 200), (None, 2, 20, 25)], levels=[20], scale=("linear", "log"),
        faces=[BLUE, VERMILION, BLUE],
    )  # fmt: skip
    return build([30.0, 200.0, 25.0], 20.0), panel


@drawing(figures.head_maps)
def heads_are_rows_and_layers_columns(build):
    topic, sentiment = [[1, 2, 3], [4, 5, 6]], [[6, 5, 4], [3, 2, 1]]  # (layers, heads)
    first = Panel(images=[[[1, 4], [2, 5], [3, 6]]], title="topic")
    second = Panel(images=[[[6, 3], [5, 2], [4, 1]]], title="sentiment", words=[("rank correlation -1.00", 1, 1.03)])
    return build({"topic": topic, "sentiment": sentiment}, -1.0), first, second
