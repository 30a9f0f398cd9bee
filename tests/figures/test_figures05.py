"""The figures of 05's tickets: each draws, says in words what it shows, and keeps its text inside and apart."""

from typing import ClassVar

import torch
from matplotlib.figure import Figure
from pictures import PictureChecks
from widget_events import controls, description

from lessonlib import figures
from lessonlib.corpora import digits
from lessonlib.experiments.lesson05_lottery import compared_rounds
from lessonlib.networks.mlp import digit_network
from lessonlib.pruning import full_masks, iterative_magnitude_pruning, snapshot

NETWORK = digit_network(40)
TICKETS = iterative_magnitude_pruning(NETWORK, lambda network, masks: None, rounds=13, amount=0.2)
TICKETS = [TICKETS[k] for k in compared_rounds(13)]
SPARSITY = [ticket.sparsity for ticket in TICKETS]
ONE = {
    "winning ticket": [0.635, 0.644, 0.624, 0.651, 0.662, 0.651, 0.640, 0.625],
    "re-initialized": [0.651, 0.653, 0.646, 0.641, 0.624, 0.582, 0.520, 0.514],
    "random mask": [0.635, 0.635, 0.642, 0.627, 0.573, 0.552, 0.511, 0.474],
    "one cut": [0.635, 0.644, 0.652, 0.651, 0.643, 0.665, 0.608, 0.558],
}
FIVE = {
    name: [[v + 0.004 * k * (-1) ** i for i, v in enumerate(values)] for k in range(5)]
    for name, values in ONE.items()
}
# The scanned digits: lines near each other, near the top.
CLOSE = {
    name: [[0.98 + 0.1 * (v - 0.64) + 0.001 * k for v in values] for k in range(5)] for name, values in ONE.items()
}
FASTER = {
    name: [[0.68 + 0.5 * (v - 0.64) + 0.004 * k for v in values] for k in range(5)] for name, values in ONE.items()
}
WAYS = dict(zip(("winning ticket", "rewound to step 30", "whole network", "gradient × weight"), FIVE.values()))
LINES = {
    "the smallest first": [0.64, 0.64, 0.60, 0.5, 0.3, 0.15],
    "least gradient × weight first": [0.64, 0.64, 0.63, 0.6, 0.5, 0.3],
    "at random": [0.64, 0.5, 0.3, 0.2, 0.12, 0.1],
}
EDGES = [TICKETS[0], TICKETS[-1]]

PICTURES = {
    "signals": lambda: figures.signals(digits.mnist1d("test")),
    "one seed": lambda: figures.ticket_curves(SPARSITY, ONE),
    "five seeds": lambda: figures.ticket_curves(SPARSITY, FIVE),
    "close together": lambda: figures.ticket_curves(SPARSITY, CLOSE),
    "other ways": lambda: figures.ticket_curves(SPARSITY, WAYS),
    "two settings": lambda: figures.two_settings(
        SPARSITY, {"learning rate 0.005": FIVE, "learning rate 0.02": FASTER}
    ),
    "cuts": lambda: figures.cuts([0, 0.2, 0.5, 0.65, 0.8, 0.9], LINES),
    # The builder draws every position at once; with one ticket there is one figure to look at.
    "slider, dense": lambda: slider(slice(0, 1)).still,
    "slider, sparse": lambda: slider(slice(6, 8)).still,
}


def slider(part=slice(None)):
    curves = {name: values[part] for name, values in ONE.items()}
    return figures.sparsity_slider(snapshot(NETWORK), TICKETS[part], curves, "0.weight")


class TestPictures(PictureChecks):
    pictures = PICTURES
    height = (100, 800)
    most_ink = 0.7
    figure_shown: ClassVar = {"slider, sparse": 0}


# --- what the descriptions say, from hand arithmetic ------------------------------------------------------------------


def test_curves_say_dense_the_sparsity_nearest_to_what_was_asked_and_last():
    # Round 11 leaves 42,000 × 0.8^11 + 1,000 × 0.9^11 of 43,000 weights: 91 per cent are gone.
    alt = PICTURES["one seed"]().alt
    assert "one seed" in alt and "winning ticket 63.5 dense, 64.0 at 91, 62.5 last" in alt
    assert "5 seeds, with 95 per cent intervals" in PICTURES["five seeds"]().alt


def test_curves_say_the_mean_over_seeds():
    assert "ticket 65.0 dense" in figures.ticket_curves([0, 0.9], {"ticket": [[0.6, 0.4], [0.7, 0.5]]}).alt


def test_the_slider_follows_its_control_and_counts_the_weights():
    found = slider()
    control, _ = controls(found)
    for ticket, name in zip(TICKETS, [f"{100 * s:.0f} %" for s in SPARSITY], strict=True):
        control.value = name
        page = description(found)
        assert f"{int(ticket.masks['0.weight'].sum())} of 12000 left" in page


def test_the_slider_starts_nearest_to_nine_tenths():
    assert slider().box.children[0].children[0].value == "91 %"


def test_pruned_weights_are_white_in_the_picture_and_others_are_not():
    masks = full_masks(NETWORK)
    masks["0.weight"][:150] = False
    axes = Figure().subplots(1, 2)
    weights = NETWORK[0].weight.detach().numpy()
    figures.lesson05.draw_weights(axes, 0, weights, masks["0.weight"].numpy(), [0.0, 0.5], {"t": [0.6, 0.5]})
    colours = torch.tensor(axes[0].images[0].get_array())  # (40, 300, 4)
    pruned = colours[:, :150]
    assert (pruned == pruned[0, 0]).all() and not (colours[:, 150:] == pruned[0, 0]).all(-1).any()
