"""The recorded runs of 05 on intrinsic dimension: the language model trained through d numbers, and without that limit.

What moves is the same in all runs, the matrices of the last eight layers; so are the shorter tickets that it learns from
and the number of steps. Validation tickets chose the learning rate of full training and that of the subspaces among four
each, the latter at one d and scaled so that a step is as long for every d.
"""

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib.models import load_base
from lessonlib.pruning.subspace import add_subspace
from lessonlib.runs import Run, load_runs
from lessonlib.training import seed_everything

from .registry import experiment, record
from .tickets import test_intents, train_and_judge
from .trials import best

LAST = 8  # layers that move: what stands below them needs no backward pass


@experiment(right_answers=test_intents)
def subspace(d: int, rate: float, seed: int, steps: int, batch_size: int) -> dict:
    """The last eight layers' matrices, 28.3 million weights, moved through d numbers on the tickets' intents.

    rate: the learning rate is rate / sqrt(d), so that a step is as long for every d.
    """
    seed_everything(seed)
    model, tokenizer = load_base()
    add_subspace(model, last_matrices(model), d, seed)
    return train_and_judge(model, tokenizer, "intent", seed, rate / d**0.5, steps, batch_size)


@experiment(right_answers=test_intents)
def every_weight(learning_rate: float, seed: int, steps: int, batch_size: int) -> dict:
    """The same matrices, each weight free to move: what the subspaces are held to."""
    seed_everything(seed)
    model, tokenizer = load_base()
    model.requires_grad_(False)
    for path in last_matrices(model):
        model.set_submodule(path, FreeLinear(model.get_submodule(path)))
    return train_and_judge(model, tokenizer, "intent", seed, learning_rate, steps, batch_size)


def last_matrices(model: nn.Module) -> list[str]:
    """The paths of the last layers' linear modules."""
    layers = range(model.config.num_hidden_layers - LAST, model.config.num_hidden_layers)
    starts = tuple(f"model.layers.{layer}." for layer in layers)
    return [path for path, m in model.named_modules() if path.startswith(starts) and isinstance(m, nn.Linear)]


class FreeLinear(nn.Module):
    """A frozen linear layer beside a move of each of its weights, in float32 as z is: only the subspace is missing.

    x (..., d_in) -> (..., d_out)
    """

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.move = nn.Parameter(torch.zeros_like(base.weight, dtype=torch.float32))

    def forward(self, x):
        return self.base(x) + F.linear(x, self.move.to(x.dtype))


# --- which runs are recorded -----------------------------------------------------------------------------------------

TRAINING = {"steps": 60, "batch_size": 16}
DIMENSIONS = (1000, 10_000, 100_000, 300_000, 1_000_000)
SEEDS = (0, 1)
# Of each experiment: what the trials have in common, the setting that they vary, and its values.
TRIALS = {
    "subspace": ({"d": 10_000}, "rate", (6.0, 20.0, 60.0, 180.0)),
    "every_weight": ({}, "learning_rate", (1e-4, 3e-4, 1e-3, 3e-3)),
}


def trials(experiment: str) -> list[Run]:
    """The recorded trials of an experiment, all with seed 0."""
    return load_runs(experiment, seed=0, **TRIALS[experiment][0], **TRAINING)


def rate_of(experiment: str) -> dict:
    """The rate that won on validation among the trials, under the name that the experiment has for it."""
    common, name, _ = TRIALS[experiment]
    return {name: best(name, experiment, **common, **TRAINING)}


def chosen(experiment: str, **settings) -> list[Run]:
    """The recorded runs, all seeds, at the rate that won on validation."""
    return load_runs(experiment, **rate_of(experiment), **settings, **TRAINING)


def record_all() -> None:
    """Record every run that is not there yet: the trials, then every d and full training at the rate that won."""
    for way, (common, setting, rates) in TRIALS.items():
        for rate in rates:
            record(way, seed=0, **{setting: rate}, **common, **TRAINING)
    for seed in SEEDS:
        record("every_weight", seed=seed, **rate_of("every_weight"), **TRAINING)
        for d in DIMENSIONS:
            record("subspace", d=d, seed=seed, **rate_of("subspace"), **TRAINING)
