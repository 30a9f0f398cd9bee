"""The experiments of notebook 06: adapters on three tasks of the tickets, their width, places and start.

All train on the shorter tickets (a step then takes half the time) and are scored on all test tickets. Learning rates
are chosen on the validation tickets, by the same number of trials for every width and placement.
`python -m lessonlib.experiments lesson06_adapters` records what is missing; it resumes where it was stopped.
"""

import functools

from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.adapters import (
    Bottleneck,
    NearIdentity,
    add_adapters,
    add_adapters_after_feed_forward,
    train_layer_norms,
)
from lessonlib.models import load_base
from lessonlib.runs import Run
from lessonlib.training import seed_everything

from .registry import experiment, record
from .tickets import TASKS, scores, ticket_task, train_and_judge
from .trials import best_rate


def _labels_of_task(run: Run) -> list[int]:
    return list(corpora.tickets("test")[run.results["task"]])


@experiment(right_answers=_labels_of_task)
def no_adapter(task: str = "intent") -> dict:
    """The base model as it comes."""
    model, tokenizer = load_base()
    return {"task": task} | scores(model, ticket_task(tokenizer, task), task)


@experiment(right_answers=_labels_of_task)
def houlsby(m: int, seed: int, task: str = "intent", **training) -> dict:
    """Adapters behind attention and behind the feed-forward part. training: learning_rate, steps, batch_size."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(add_adapters(model, m), tokenizer, task, seed, **training)


@experiment(right_answers=_labels_of_task)
def pfeiffer(m: int, seed: int, **training) -> dict:
    """Adapters behind the feed-forward part only."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(add_adapters_after_feed_forward(model, m), tokenizer, "intent", seed, **training)


@experiment(right_answers=_labels_of_task)
def norms_alone(seed: int, **training) -> dict:
    """Only the gains of the layer norms train."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(train_layer_norms(model), tokenizer, "intent", seed, **training)


@experiment(right_answers=_labels_of_task)
def houlsby_and_norms(m: int, seed: int, **training) -> dict:
    """Adapters at both places and the layer norms, as in the paper."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(train_layer_norms(add_adapters(model, m)), tokenizer, "intent", seed, **training)


@experiment(right_answers=_labels_of_task)
def houlsby_started(std: float, m: int, seed: int, **training) -> dict:
    """Adapters whose two matrices start at random, at this scale."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_adapters(model, m, module=functools.partial(NearIdentity, std=std))
    return train_and_judge(model, tokenizer, "intent", seed, **training)


class ReLUBottleneck(Bottleneck):
    """A bottleneck with ReLU between its two layers.

    x (..., d) -> (..., d)
    """

    def forward(self, x):
        down, up = self.down, self.up
        narrow = F.relu(F.linear(x, down.weight.to(x.dtype), down.bias.to(x.dtype)))
        return x + F.linear(narrow, up.weight.to(x.dtype), up.bias.to(x.dtype))


class LinearBottleneck(Bottleneck):
    """A bottleneck with nothing between its two layers.

    x (..., d) -> (..., d)
    """

    def forward(self, x):
        down, up = self.down, self.up
        narrow = F.linear(x, down.weight.to(x.dtype), down.bias.to(x.dtype))
        return x + F.linear(narrow, up.weight.to(x.dtype), up.bias.to(x.dtype))


BETWEEN = {"GELU": Bottleneck, "ReLU": ReLUBottleneck, "nothing": LinearBottleneck}


@experiment(right_answers=_labels_of_task)
def houlsby_between(between: str, m: int, seed: int, **training) -> dict:
    """Adapters with another function, or none, between their two layers."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(add_adapters(model, m, module=BETWEEN[between]), tokenizer, "intent", seed, **training)


# --- which runs are recorded -----------------------------------------------------------------------------------------

WIDTHS = (8, 16, 32, 64, 128, 256)
TWICE = (8, 64, 256)  # widths with a second seed
RATES = (1e-3, 3e-3)
NORM_RATE = 1e-2  # gains start at one and have further to go
TOO_HIGH = 3e-2  # shown as such: it is no trial of any other width, and wins nowhere
TRAINING = {"steps": 40, "batch_size": 8}
STARTS = (0.01, 1.0)


def _trials(experiment: str, rates=RATES, seed: int = 0, **settings) -> None:
    for rate in rates:
        record(experiment, learning_rate=rate, seed=seed, **settings, **TRAINING)


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for task in TASKS:
        record("no_adapter", task=task)
    for m in WIDTHS:
        _trials("houlsby", m=m, task="intent")
    _trials("houlsby", (TOO_HIGH,), m=64, task="intent")
    rate = best_rate("houlsby", m=64, task="intent")
    _trials("pfeiffer", m=128)
    relu = {"between": "ReLU", "m": 64}
    _trials("houlsby_between", **relu)
    _trials("houlsby_between", (best_rate("houlsby_between", **relu),), seed=1, **relu)
    for m in TWICE:
        _trials("houlsby", (best_rate("houlsby", m=m, task="intent"),), seed=1, m=m, task="intent")
    for std in STARTS:
        _trials("houlsby_started", (rate,), std=std, m=64)
    for task in ("sentiment", "urgency"):
        _trials("houlsby", (rate,), m=64, task=task)
    _trials("norms_alone", (NORM_RATE,))
    _trials("houlsby_and_norms", (rate,), m=64)
