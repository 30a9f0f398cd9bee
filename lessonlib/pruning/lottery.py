"""Lottery tickets (Frankle and Carbin, 2019, arXiv:1803.03635, section 1).

Train, prune the smallest weights, put the others back to the values that they had before training, and again:
`lottery_round` is one such round, `iterative_magnitude_pruning` all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .masks import (
    Masks,
    PruningError,
    full_masks,
    layer_amounts,
    layerwise_masks,
    magnitudes,
    refuse_strangers,
    sparsity,
)


def lottery_round(network, masks, start, train, amount, score=magnitudes, prune=layerwise_masks):
    """Train what the masks leave, prune a share of it, and put the rest back to where it started.

    Returns what `train(network, masks)` gave, and the new masks.
    """
    result = train(network, masks)
    masks = prune(score(network, masks), masks, amount)
    rewind(network, start, masks)
    return result, masks


def snapshot(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers, to go back to."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def rewind(network: nn.Module, start: Mapping[str, torch.Tensor], masks: Masks) -> None:
    """Put the weights back to `start`, the pruned ones at zero."""
    refuse_strangers(network, masks)
    network.load_state_dict(start)
    for name, mask in masks.items():
        network.get_parameter(name).masked_fill_(~mask, 0)


@dataclass(frozen=True)
class Ticket:
    """The network of one round: its masks, and what training it under them gave."""

    masks: Masks
    result: object

    @property
    def sparsity(self) -> float:
        return sparsity(self.masks)


def iterative_magnitude_pruning(
    network: nn.Module,
    train: Callable,
    rounds: int = 11,
    amount: float = 0.2,
    *,
    start: Mapping[str, torch.Tensor] | None = None,
    one_round: Callable = lottery_round,
    progress: Callable = lambda: None,
) -> list[Ticket]:
    """Round after round, from the dense network on; the last ticket is trained and not pruned any more.

    train(network, masks): trains in place, holding the masks (`holding` builds an optimizer that does), and returns
    what is to be kept. amount: of the weights that are left, at each round; half of it in the last layer. start: what to
    rewind to, the network's present weights unless given (late rewinding: those after a few steps). one_round: your own
    form of `lottery_round`. progress() is called after each training.

    Returns rounds + 1 tickets, dense first. Raises PruningError for an amount that is not between 0 and 1, and where a
    round would leave a layer without a weight; ValueError where a weight is not finite.

    >>> network = nn.Linear(10, 10)
    >>> tickets = iterative_magnitude_pruning(network, lambda network, masks: None, rounds=2, amount=0.5)
    >>> [round(ticket.sparsity, 2) for ticket in tickets]
    [0.0, 0.25, 0.44]
    """
    masks = full_masks(network)
    amounts = layer_amounts(masks, amount)
    if rounds < 0:
        raise PruningError(f"rounds = {rounds}: give 0 (the dense network alone) or more")
    start = snapshot(network) if start is None else start
    tickets = []
    rewind(network, start, masks)
    for _ in range(rounds):
        result, pruned = one_round(network, masks, start, train, amounts)
        _refuse_empty(pruned, len(tickets) + 1)
        tickets.append(Ticket(masks, result))
        masks = pruned
        progress()
    tickets.append(Ticket(masks, train(network, masks)))
    progress()
    return tickets


def _refuse_empty(masks: Masks, number: int) -> None:
    for name, mask in masks.items():
        if not mask.any():
            raise PruningError(
                f"round {number} leaves no weight in {name}, and nothing would pass: use fewer rounds or a smaller amount"
            )
