"""LoRA+ (Hayou et al., 2024, arXiv:2402.12354): B learns faster than A.

    learning rate of A:  eta        of B:  lambda eta,  lambda well above 1

What changes against LoRA is the optimizer alone, so any LoRA layer will do. A reads x, which is large, and B starts at
zero: with one rate for both, a wide model's B moves too little.
"""

import functools
from collections.abc import Callable

import torch
from torch import nn

from .layer import LoRAError, lora_layers

RATIO = 16.0  # as in the example of PEFT's own LoRA+


def lora_plus(model: nn.Module, ratio: float = RATIO) -> Callable:
    """What `training.fit` takes as `optimizer`: AdamW with B's learning rate `ratio` times that of everything else.

    `fit(learning_rate=)` is A's rate; warm-up and decay scale both. Raises LoRAError where the model has no LoRA, and
    ValueError for a ratio that is not positive.

    >>> fit(model, batches, learning_rate=2e-4, optimizer=lora_plus(model, ratio=16))  # doctest: +SKIP
    """
    if not ratio > 0:
        raise ValueError(f"ratio is {ratio}; B's learning rate must be a positive multiple of A's")
    if not next(lora_layers(model), None):
        raise LoRAError("this model has no LoRA layers: call add_lora(model, ...) first")
    # A partial, and not a closure, so that a run that resumes knows its ratio.
    return functools.partial(_two_rates, model, ratio=ratio)


def _two_rates(model, parameters, *, lr: float, ratio: float, weight_decay: float = 0.0):
    is_B = {layer.B for _, layer in lora_layers(model)}
    fast = [p for p in parameters if p in is_B]
    rest = [p for p in parameters if p not in is_B]
    groups = [{"params": rest, "lr": lr}, {"params": fast, "lr": ratio * lr}]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=weight_decay)
