"""Pruning: networks most of whose weights are zero, and stay zero.

    W * mask        W (d_out, d_in) a weight matrix,  mask (d_out, d_in) True where a weight is left

A criterion scores each weight (`magnitudes`), and the lowest scores go, of each layer or of the whole network.

Masks go by the names of the parameters. They hold because zero is written after each step of the optimizer: masking
the gradients would not do, since an optimizer also moves weights by what it remembers.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

Masks = dict[str, torch.Tensor]


class PruningError(ValueError):
    """Something cannot be pruned, held, saved or loaded; the message says why and what would do."""


# --- the idea ----------------------------------------------------------------------------------------------------------


def layerwise_masks(scores, masks, amount):
    """Masks with `amount[name]` of the weights that are left pruned, those of the lowest scores, layer by layer."""
    pruned = {}
    for name, mask in masks.items():
        unpruned = scores[name].masked_fill(~mask, torch.inf)  # no weight is pruned twice
        k = round(amount[name] * mask.sum().item())
        lowest = unpruned.flatten().topk(k, largest=False, sorted=False).indices
        pruned[name] = mask.flatten().index_fill(0, lowest, False).view_as(mask)
    return pruned


def magnitudes(network, masks):
    """The score of each weight: how large it is."""
    return {name: network.get_parameter(name).detach().abs() for name in masks}


# --- masks that hold -----------------------------------------------------------------------------------------------------


def full_masks(network: nn.Module, kinds=(nn.Linear,)) -> Masks:
    """Masks that leave every weight of the linear layers (or of modules of other `kinds`); biases have none.

    Raises PruningError for a network without any.

    >>> {name: mask.shape for name, mask in full_masks(nn.Sequential(nn.Linear(3, 2))).items()}
    {'0.weight': torch.Size([2, 3])}
    """
    found = [path for path, module in network.named_modules() if isinstance(module, kinds)]
    masks = {f"{path}.weight".lstrip("."): None for path in found}
    if not masks:
        raise PruningError(f"no {' or '.join(kind.__name__ for kind in kinds)} in this network: nothing to prune")
    return {name: torch.ones_like(network.get_parameter(name), dtype=torch.bool) for name in masks}


def sparsity(masks: Masks) -> float:
    """The share of the masked weights that is zero.

    >>> sparsity({"W": torch.tensor([[True, False, False, False]])})
    0.75
    """
    return 1 - remaining(masks) / sum(mask.numel() for mask in masks.values())


def remaining(masks: Masks) -> int:
    """How many weights the masks leave."""
    return sum(int(mask.sum()) for mask in masks.values())


def hold(network: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer):
    """Write zero into the pruned weights, now and after each step of this optimizer.

    So they are zero whatever momentum or weight decay did. Returns a handle; its `remove()` lets the weights go.
    Raises PruningError where the masks are not of this network.

    >>> network = nn.Linear(3, 2)
    >>> optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    >>> handle = hold(network, {"weight": torch.eye(2, 3).bool()}, optimizer)
    >>> network(torch.ones(1, 3)).sum().backward()
    >>> optimizer.step()
    >>> (network.weight != 0).int().tolist()
    [[1, 0, 0], [0, 1, 0]]
    """
    refuse_strangers(network, masks)
    pairs = [(network.get_parameter(name), ~mask) for name, mask in masks.items()]

    @torch.no_grad()
    def write_zeros(*_):
        for W, pruned in pairs:
            W.masked_fill_(pruned, 0)

    write_zeros()
    return optimizer.register_step_post_hook(write_zeros)


def holding(network: nn.Module, masks: Masks, optimizer: Callable = torch.optim.Adam) -> Callable:
    """What builds an optimizer that holds the masks, for `mlp.learn(optimizer=)` and `training.fit(optimizer=)`."""

    def build(parameters, **settings):
        built = optimizer(parameters, **settings)
        hold(network, masks, built)
        return built

    return build


def refuse_strangers(network: nn.Module, masks: Masks) -> None:
    """Raise PruningError for masks that are not of this network."""
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise PruningError(f"the network has no parameter {name!r}: these masks are of another network")
        if mask.shape != parameters[name].shape:
            raise PruningError(
                f"the mask of {name} is {size(mask)}, the parameter {size(parameters[name])}: these masks are of "
                "another network"
            )


def size(tensor: torch.Tensor) -> str:
    """The shape of a tensor as it is read in a message: "300 × 40"."""
    return " × ".join(map(str, tensor.shape))


# --- other scores, other amounts -------------------------------------------------------------------------------------


def global_masks(scores, masks, amount):
    """As `layerwise_masks`, but the lowest scores of the whole network go, wherever they are.

    amount: one number, or the amounts of the layers, whose total is then taken.
    """
    sizes = [mask.numel() for mask in masks.values()]
    every = torch.cat([scores[name].masked_fill(~mask, torch.inf).flatten() for name, mask in masks.items()])
    if isinstance(amount, Mapping):
        k = sum(round(amount[name] * int(mask.sum())) for name, mask in masks.items())
    else:
        k = round(amount * remaining(masks))
    stays = torch.cat([mask.flatten() for mask in masks.values()])
    stays[every.topk(k, largest=False, sorted=False).indices] = False
    return {name: part.view_as(masks[name]) for name, part in zip(masks, stays.split(sizes))}


def snip_scores(images) -> Callable:
    """Scores by |gradient × weight|: how much the loss on the images would change, to first order, without the weight.

    (The measure of SNIP: Lee, Ajanthan and Torr, 2018, arXiv:1810.02340, equation 6.)
    """

    def score(network, masks):
        network.zero_grad()
        F.cross_entropy(network(images.x), images.y).backward()
        weights = {name: network.get_parameter(name) for name in masks}
        scores = {name: (W * W.grad).detach().abs() for name, W in weights.items()}
        network.zero_grad()
        return scores

    return score


def layer_amounts(masks: Masks, amount: float) -> dict[str, float]:
    """The same amount for each layer, half as much for the last, which has few weights (Frankle and Carbin, section 2).

    Raises PruningError for an amount that is negative, or leaves nothing.
    """
    if not 0 <= amount < 1:
        raise PruningError(f"amount = {amount!r}: give a number from 0 (nothing goes) to below 1 (everything would)")
    *_, last = masks
    return {name: amount / 2 if name == last else amount for name in masks}


def prune_to(scores, masks: Masks, kept: Mapping[str, int]) -> Masks:
    """One-shot pruning: leave the `kept[name]` highest scores of each layer.

    Raises PruningError for a layer that would keep none, or more than are left.
    """
    for name, mask in masks.items():
        if not 1 <= kept[name] <= mask.sum():
            raise PruningError(
                f"{name} would keep {kept[name]} of {int(mask.sum())} weights: a layer keeps at least one, and no more "
                "than it has"
            )
    amount = {name: 1 - kept[name] / int(mask.sum()) for name, mask in masks.items()}
    return layerwise_masks(scores, masks, amount)


def shuffled(masks: Masks, seed: int = 0) -> Masks:
    """As many weights in each layer, in random places: the control that asks whether the places matter."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=draw)].view_as(mask)
        for name, mask in masks.items()
    }
