"""What notebook 05 promises beyond what holds for all notebooks."""

import numpy as np
import pytest
import torch
from lesson_cells import definitions
from torch import nn

from lessonlib import pruning
from lessonlib.corpora import digits
from lessonlib.evaluation import seed_interval
from lessonlib.experiments import (
    lesson05_lottery as experiments_pruning,
)
from lessonlib.experiments import (
    lesson05_subspace as experiments_subspace,
)
from lessonlib.experiments import rerun
from lessonlib.experiments.lesson05_lottery import (
    HIGH_RATE,
    NINETY,
    RATE,
    SCHEDULE,
    SEEDS,
    SHORTER,
    TRIED,
    best_mean_rate,
    compared_rounds,
    controls,
    curves,
    learning_rate_trial,
)
from lessonlib.networks.mlp import digit_network, learn
from lessonlib.pruning import holding, iterative_magnitude_pruning, magnitudes, remaining, shuffled, snapshot
from lessonlib.runs import load_runs

IMAGES = digits.Images(digits.digits("train").x[:200], digits.digits("train").y[:200])
LOTTERY = [
    {"data": "mnist1d", "learning_rate": RATE["mnist1d"], **SCHEDULE},
    {"data": "digits", "learning_rate": RATE["digits"], **SCHEDULE},
    {"data": "mnist1d", "learning_rate": HIGH_RATE, **SHORTER},
]


def tickets(source: str):
    """Three rounds by the round that the notebook's cells define."""
    names = {"torch": torch, "nn": nn, "magnitudes": magnitudes, "rewind": pruning.rewind}
    exec(source, names)
    network = digit_network(64)

    def train(network, masks):
        learn(network, IMAGES, optimizer=holding(network, masks), steps=5)
        return [p.detach().abs().sum().item() for p in network.parameters()]

    return iterative_magnitude_pruning(network, train, 2, 0.3, one_round=names["lottery_round"])


@pytest.mark.parametrize(
    "line, edited",
    [
        ("masked_fill(~mask, torch.inf)", "masked_fill(~mask, 0)"),
        ("largest=False", "largest=True"),
        ("round(amount[name] * mask.sum().item())", "round(0.5 * amount[name] * mask.sum().item())"),
        ("rewind(network, start, masks)", "pass"),
        ("masks = prune(score(network, masks), masks, amount)", "pass"),
    ],
)
def test_an_edit_in_the_notebooks_own_round_changes_the_outcome(line, edited):
    source = definitions("05", "lessonlib.pruning")
    assert line in source

    def outcome(text):
        return [(remaining(ticket.masks), ticket.result) for ticket in tickets(text)]

    before = outcome(source)
    assert outcome(source) == before
    assert outcome(source.replace(line, edited)) != before


def test_each_control_differs_from_the_ticket_in_one_thing_only():
    network, seen = digit_network(64), []
    start, other = snapshot(network), snapshot(digit_network(64, seed=9))
    found = iterative_magnitude_pruning(network, lambda network, masks: None, rounds=2, amount=0.5)

    def watch(network, masks):
        seen.append((snapshot(network), masks))

    scores = magnitudes(network, found[0].masks)
    controls(
        network, found[1:2], watch, start=start, other_start=other, dense_scores=scores,
        shuffle=lambda masks: shuffled(masks, 0),
    )  # fmt: skip
    (reborn, same), (randomly, places), (cut, at_once) = seen
    masks = found[1].masks
    for name, mask in masks.items():
        assert mask.sum() == same[name].sum() == places[name].sum() == at_once[name].sum()
        assert torch.equal(same[name], mask) and not torch.equal(places[name], mask)
        assert torch.equal(reborn[name], other[name] * mask)
        assert torch.equal(randomly[name], start[name] * places[name])
        assert torch.equal(cut[name], start[name] * at_once[name])
        kept, gone = scores[name][at_once[name]], scores[name][~at_once[name]]
        assert kept.min() >= gone.max()


@pytest.mark.parametrize("settings", LOTTERY, ids=lambda s: f"{s['data']}-{s['learning_rate']}")
def test_the_recorded_tickets_are_of_all_seeds_and_one_sparsity(settings):
    runs = load_runs("lottery", **settings)
    assert sorted(run.settings["seed"] for run in runs) == list(SEEDS)
    assert len({tuple(run.results["sparsity"]) for run in runs}) == 1
    for run in runs:
        assert run.results["rounds"] == compared_rounds(run.settings["rounds"])
        place = run.results["rounds"].index(NINETY)
        assert run.results["accuracy"]["winning ticket"][place] == run.accuracy
        assert 0.905 < run.results["sparsity"][place] < 0.915
        total = sum(run.results["left"][0].values())
        kept = [sum(layers.values()) / total for layers in run.results["left"]]
        np.testing.assert_allclose(kept, 1 - np.array(run.results["sparsity"]))
        # Without a weight pruned the random mask and the single cut are the dense network.
        assert len({run.results["accuracy"][way][0] for way in ("winning ticket", "random mask", "one cut")}) == 1


@pytest.mark.parametrize("way", ["rewound", "across_layers", "by_gradient"])
def test_the_other_ways_have_as_many_seeds_as_the_ticket(way):
    runs = load_runs(way, data="mnist1d", learning_rate=RATE["mnist1d"], **SHORTER)
    assert sorted(run.settings["seed"] for run in runs) == list(SEEDS)


@pytest.mark.parametrize("data", digits.SETS)
def test_the_learning_rate_won_on_validation_images_with_as_many_trials_as_any(data):
    for rate in TRIED:
        trials = load_runs("learning_rate_trial", data=data, learning_rate=rate)
        assert sorted(run.settings["seed"] for run in trials) == list(SEEDS)
    assert RATE[data] == best_mean_rate(data)
    assert TRIED[0] < RATE[data] < TRIED[-1]  # not at an end of what was tried


def test_a_trial_sees_no_test_image(monkeypatch):
    asked = []

    def one_set(split):
        asked.append(split)
        return IMAGES

    monkeypatch.setitem(digits.SETS, "digits", one_set)
    monkeypatch.setitem(experiments_pruning.STEPS, "digits", 2)
    answers = learning_rate_trial("digits", learning_rate=1e-3, seed=0)["score"]
    assert set(asked) == {"train"} and answers.targets == IMAGES.y[160:].tolist()


def test_a_free_weight_moves_as_in_a_subspace_that_is_the_whole_space():
    base, x = nn.Linear(6, 4), torch.randn(3, 6)
    free = experiments_subspace.FreeLinear(base)
    assert torch.equal(free(x), base(x))
    assert [p.shape for p in free.parameters() if p.requires_grad] == [base.weight.shape]
    nn.init.normal_(free.move)
    torch.testing.assert_close(free(x), nn.functional.linear(x, base.weight + free.move, base.bias))


def test_subspaces_and_full_training_got_the_same_number_of_trials():
    room = experiments_subspace
    for experiment, (_, name, rates) in room.TRIALS.items():
        assert sorted(run.settings[name] for run in room.trials(experiment)) == sorted(rates)
    assert len({len(rates) for _, _, rates in room.TRIALS.values()}) == 1


def test_the_headline_holds_in_the_recorded_runs():
    sparsity, ways = curves(data="mnist1d", learning_rate=RATE["mnist1d"], **SCHEDULE)
    place = compared_rounds(SCHEDULE["rounds"]).index(NINETY)
    at = {name: seed_interval([values[place] for values in seeds]) for name, seeds in ways.items()}
    dense = seed_interval([values[0] for values in ways["winning ticket"]])
    assert sparsity[place] > 0.9 and at["winning ticket"][0] > dense[0] - 0.01
    assert at["winning ticket"][1] > max(at["re-initialized"][2], at["random mask"][2])


def test_mean_interval_is_students():
    # t with 4 degrees of freedom is 2.776 at 95 %; deviation of 1 to 5 is 1.5811, over the root of 5 0.7071.
    mean, low, high = seed_interval([1, 2, 3, 4, 5])
    assert mean == 3 and high - mean == pytest.approx(2.776 * 0.7071, abs=1e-3)
    assert mean - low == pytest.approx(high - mean)


@pytest.mark.model
def test_a_recorded_run_repeats_itself_inside_its_band():
    again = rerun(load_runs("rewound", seed=0)[0].id)
    assert again.inside, again
