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
