"""Masks, lottery tickets by iterative magnitude pruning, and sparse files."""

from .files import load_sparse, save_sparse
from .lottery import Ticket, iterative_magnitude_pruning, lottery_round, rewind, snapshot
from .masks import (
    Masks,
    PruningError,
    full_masks,
    gradient_times_weight,
    hold,
    holding,
    layer_shares,
    left,
    magnitudes,
    prune_to,
    shuffled,
    smallest_of_all,
    smallest_of_each_layer,
    sparsity,
)

__all__ = [
    "Masks",
    "PruningError",
    "Ticket",
    "full_masks",
    "gradient_times_weight",
    "hold",
    "holding",
    "iterative_magnitude_pruning",
    "layer_shares",
    "left",
    "load_sparse",
    "lottery_round",
    "magnitudes",
    "prune_to",
    "rewind",
    "save_sparse",
    "shuffled",
    "smallest_of_all",
    "smallest_of_each_layer",
    "snapshot",
    "sparsity",
]
