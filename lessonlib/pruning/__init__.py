"""Masks, lottery tickets by iterative magnitude pruning, and sparse files."""

from .files import load_sparse, save_sparse
from .lottery import Ticket, iterative_magnitude_pruning, lottery_round, rewind, snapshot
from .masks import (
    Masks,
    PruningError,
    full_masks,
    global_masks,
    hold,
    holding,
    layer_amounts,
    layerwise_masks,
    magnitudes,
    prune_to,
    remaining,
    shuffled,
    snip_scores,
    sparsity,
)

__all__ = [
    "Masks",
    "PruningError",
    "Ticket",
    "full_masks",
    "global_masks",
    "hold",
    "holding",
    "iterative_magnitude_pruning",
    "layer_amounts",
    "layerwise_masks",
    "load_sparse",
    "lottery_round",
    "magnitudes",
    "prune_to",
    "remaining",
    "rewind",
    "save_sparse",
    "shuffled",
    "snapshot",
    "snip_scores",
    "sparsity",
]
