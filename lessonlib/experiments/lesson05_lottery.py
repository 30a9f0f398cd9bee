"""The recorded runs of 05: lottery tickets of two sets of digits, with their controls.

One run is one seed: the network's start, the order of its batches and the random masks all come from it. Each round
prunes a fifth of what is left, so the sparsities are the same in all runs. The learning rate is, for each set, the one at
which the dense network did best on training images held out of its training; no test image took part in the choice.
"""

from collections.abc import Callable

import numpy as np
import torch

from lessonlib.corpora import digits
from lessonlib.display import Bar
from lessonlib.evaluation import Accuracy
from lessonlib.networks.mlp import digit_network, learn, score
from lessonlib.pruning import (
    Masks,
    global_masks,
    holding,
    iterative_magnitude_pruning,
    lottery_round,
    magnitudes,
    prune_to,
    rewind,
    shuffled,
    snapshot,
    snip_scores,
)
from lessonlib.runs import Run, load_runs

from .registry import experiment, record

ROUNDS, SHARE = 17, 0.2
NINETY = 11  # the first round after which more than 90 % of the weights are gone
RATE = {"mnist1d": 5e-3, "digits": 2e-2}  # the best on validation images, see `learning_rate_trial`
HIGH_RATE = 2e-2  # four times as much as suits MNIST-1D
SEEDS = (0, 1, 2, 3, 4)
STEPS = {"mnist1d": 600, "digits": 300}  # of training, for each network


def _held_out_classes(run: Run) -> list[int]:
    return held_out(run.settings["data"])[1].y.tolist()


def _test_classes(run: Run) -> list[int]:
    return digits.SETS[run.settings["data"]]("test").y.tolist()


def trainer(data: str, seed: int, learning_rate: float) -> Callable:
    """train(network, masks): train on the set's images and give the answers to its test images."""
    images, unseen = digits.SETS[data]("train"), digits.SETS[data]("test")

    def train(network, masks: Masks) -> Accuracy:
        settings = {"learning_rate": learning_rate, "steps": STEPS[data], "seed": seed}
        learn(network, images, optimizer=holding(network, masks), **settings)
        return score(network, unseen)

    return train


def held_out(data: str) -> tuple[digits.Images, digits.Images]:
    """The set's training images as two parts: four fifths to learn from, the last fifth to choose a learning rate by.

    >>> [len(part) for part in held_out("digits")]
    [1040, 260]
    """
    images = digits.SETS[data]("train")
    n = len(images) * 4 // 5
    return digits.Images(images.x[:n], images.y[:n]), digits.Images(images.x[n:], images.y[n:])


@experiment(right_answers=_held_out_classes)
def learning_rate_trial(data: str, learning_rate: float, seed: int) -> dict:
    """The dense network at one learning rate, judged by training images that it has not seen: no test image is used."""
    images, unseen = held_out(data)
    network = _network(data, seed)
    learn(network, images, learning_rate=learning_rate, steps=STEPS[data], seed=seed)
    return {"corpus": data, "score": score(network, unseen)}


def controls(network, tickets, train, *, start, other_start, dense_scores, shuffle, progress=lambda: None) -> dict:
    """Three networks beside each ticket, as sparse as it is in each layer; for each the results of its training.

    re-initialized: the ticket's mask, another start. random mask: the ticket's start, as many weights in random places.
    one cut: the ticket's start, the mask from a single cut of the trained dense network, whose scores are given.
    shuffle(masks) puts as many weights in random places.
    """
    results = {"re-initialized": [], "random mask": [], "one cut": []}
    full = {name: torch.ones_like(mask) for name, mask in tickets[0].masks.items()}
    for ticket in tickets:
        left = {name: int(mask.sum()) for name, mask in ticket.masks.items()}
        ways = {
            "re-initialized": (other_start, ticket.masks),
            "random mask": (start, shuffle(ticket.masks)),
            "one cut": (start, prune_to(dense_scores, full, left)),
        }
        for name, (origin, masks) in ways.items():
            rewind(network, origin, masks)
            results[name].append(train(network, masks))
            progress()
    return results


@experiment(right_answers=_test_classes)
def lottery(data: str, seed: int, learning_rate: float, rounds: int, share: float) -> dict:
    """Winning tickets round by round, and the three controls beside the dense network and every second ticket."""
    network, train = _network(data, seed), trainer(data, seed, learning_rate)
    start, other = snapshot(network), snapshot(_network(data, seed + 1000))
    compared = compared_rounds(rounds)
    bar = Bar(total=rounds + 1 + 3 * len(compared), desc="Training")
    scores = {}

    def one_round(*given):
        return lottery_round(*given, score=remembered)

    def remembered(network, masks):
        sizes = magnitudes(network, masks)
        scores.setdefault("dense", {name: size.clone() for name, size in sizes.items()})
        return sizes

    tickets = iterative_magnitude_pruning(network, train, rounds, share, one_round=one_round, progress=bar.update)
    beside = controls(
        network, [tickets[k] for k in compared], train, start=start, other_start=other,
        dense_scores=scores["dense"], shuffle=lambda masks: shuffled(masks, seed), progress=bar.update,
    )  # fmt: skip
    bar.finish(f"{bar.total} networks trained on {data}")
    return _results(data, tickets, compared, beside)


def compared_rounds(rounds: int) -> list[int]:
    """The dense network, and every second round from the first on; NINETY is one of them.

    >>> compared_rounds(6)
    [0, 1, 3, 5]
    """
    return [0, *range(1, rounds + 1, 2)]


@experiment(right_answers=_test_classes)
def rewound(data: str, seed: int, learning_rate: float, rounds: int, share: float, steps: int) -> dict:
    """Tickets that go back not to the start, but to the weights after some steps of training."""
    network = _network(data, seed)
    learn(network, digits.SETS[data]("train"), learning_rate=learning_rate, steps=steps, seed=seed)
    return _rounds(data, seed, learning_rate, rounds, share, network=network)


@experiment(right_answers=_test_classes)
def by_gradient(data: str, seed: int, learning_rate: float, rounds: int, share: float) -> dict:
    """Tickets whose weights are chosen by |gradient × weight| on the training images, not by their size."""
    score = snip_scores(digits.SETS[data]("train"))
    return _rounds(data, seed, learning_rate, rounds, share, score=score)


@experiment(right_answers=_test_classes)
def across_layers(data: str, seed: int, learning_rate: float, rounds: int, share: float) -> dict:
    """Tickets from the smallest weights of the whole network, whatever layer they are in."""
    return _rounds(data, seed, learning_rate, rounds, share, prune=global_masks)


def _rounds(data, seed, learning_rate, rounds, share, network=None, **changes) -> dict:
    def one_round(*given):
        return lottery_round(*given, **changes)

    bar = Bar(total=rounds + 1, desc="Training")
    tickets = iterative_magnitude_pruning(
        network or _network(data, seed), trainer(data, seed, learning_rate), rounds, share, one_round=one_round,
        progress=bar.update,
    )  # fmt: skip
    bar.finish(f"{bar.total} networks trained on {data}")
    return _results(data, tickets, compared_rounds(rounds), {})


def _network(data: str, seed: int):
    return digit_network(digits.SETS[data]("train").x.shape[1], seed)


def _results(data: str, tickets, compared: list[int], beside: dict) -> dict:
    chosen = [tickets[k] for k in compared]
    ways = {"winning ticket": [ticket.result for ticket in chosen], **beside}
    layers = [{name: int(mask.sum()) for name, mask in ticket.masks.items()} for ticket in chosen]
    return {
        "corpus": data,
        "score": tickets[min(NINETY, len(tickets) - 1)].result,
        "rounds": compared,
        "sparsity": [ticket.sparsity for ticket in chosen],
        "left": layers,
        "accuracy": {name: [result.value for result in results] for name, results in ways.items()},
    }


# --- which runs are recorded -----------------------------------------------------------------------------------------

SCHEDULE, SHORTER = {"rounds": ROUNDS, "share": SHARE}, {"rounds": NINETY, "share": SHARE}
LATE_STEPS = 30
TRIED = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)


def rate_means(data: str) -> dict[float, float]:
    """By learning rate, the mean validation accuracy of the dense networks of all seeds."""
    return {
        rate: float(
            np.mean([run.accuracy for run in load_runs("learning_rate_trial", data=data, learning_rate=rate)])
        )
        for rate in TRIED
    }


def best_mean_rate(data: str) -> float:
    """The learning rate with the best mean validation accuracy of the dense network."""
    means = rate_means(data)
    return max(means, key=means.get)


def curves(experiment: str = "lottery", **settings) -> tuple[list[float], dict[str, list[list[float]]]]:
    """Sparsities, and by the name of a network its accuracies at each of them, one list a seed."""
    runs = load_runs(experiment, **settings)
    ways = runs[0].results["accuracy"]
    return runs[0].results["sparsity"], {way: [run.results["accuracy"][way] for run in runs] for way in ways}


def record_all() -> None:
    """Record every run of 05's first half that is not there yet."""
    asked = [("learning_rate_trial", {"data": data, "learning_rate": rate}) for data in digits.SETS for rate in TRIED]
    asked += [("lottery", {"data": data, "learning_rate": rate, **SCHEDULE}) for data, rate in RATE.items()]
    asked += [("lottery", {"data": "mnist1d", "learning_rate": HIGH_RATE, **SHORTER})]
    others = {"data": "mnist1d", "learning_rate": RATE["mnist1d"], **SHORTER}
    asked += [("rewound", {"steps": LATE_STEPS, **others})]
    asked += [(way, others) for way in ("across_layers", "by_gradient")]
    for name, settings in asked:
        for seed in SEEDS:
            record(name, seed=seed, **settings)
