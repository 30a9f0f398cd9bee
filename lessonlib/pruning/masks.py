"""Pruning: networks most of whose weights are zero, and stay zero.

    W * mask        W (d_out, d_in) a weight matrix,  mask (d_out, d_in) True where a weight is left

A lottery ticket (Frankle and Carbin, 2019, arXiv:1803.03635, section 1): train, prune the smallest weights, put the
others back to the values that they had before training, and again. `lottery_round` is one such round.

Masks go by the names of the parameters. They hold because zero is written after each step of the optimizer: masking
the gradients would not do, since an optimizer also moves weights by what it remembers.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

Masks = dict[str, torch.Tensor]


class PruningError(ValueError):
    """Something cannot be pruned, held, saved or loaded; the message says why and what would do."""


# --- the idea ----------------------------------------------------------------------------------------------------------


def smallest_of_each_layer(scores, masks, share):
    """Masks with `share[name]` of the weights that are left pruned, those of the lowest scores, layer by layer."""
    pruned = {}
    for name, mask in masks.items():
        left = scores[name].masked_fill(~mask, torch.inf)  # no weight is pruned twice
        k = round(share[name] * mask.sum().item())
        lowest = left.flatten().topk(k, largest=False, sorted=False).indices
        pruned[name] = mask.flatten().index_fill(0, lowest, False).view_as(mask)
    return pruned


def magnitudes(network, masks):
    """The score of each weight: how large it is."""
    return {name: network.get_parameter(name).detach().abs() for name in masks}


def lottery_round(network, masks, start, train, share, score=magnitudes, prune=smallest_of_each_layer):
    """Train what the masks leave, prune a share of it, and put the rest back to where it started.

    Returns what `train(network, masks)` gave, and the new masks.
    """
    result = train(network, masks)
    masks = prune(score(network, masks), masks, share)
    rewind(network, start, masks)
    return result, masks


# --- masks that hold -----------------------------------------------------------------------------------------------------


def full_masks(network: nn.Module, kinds=(nn.Linear,)) -> Masks:
    """Masks that leave every weight of the linear layers (or of modules of other `kinds`); biases have none.

    >>> {name: mask.shape for name, mask in full_masks(nn.Sequential(nn.Linear(3, 2))).items()}
    {'0.weight': torch.Size([2, 3])}
    """
    found = [path for path, module in network.named_modules() if isinstance(module, kinds)]
    masks = {f"{path}.weight".lstrip("."): None for path in found}
    if not masks:
        raise PruningError(
            f"no {' or '.join(kind.__name__ for kind in kinds)} in this network: nothing to prune"
        )
    return {name: torch.ones_like(network.get_parameter(name), dtype=torch.bool) for name in masks}


def sparsity(masks: Masks) -> float:
    """The share of the masked weights that is zero.

    >>> sparsity({"W": torch.tensor([[True, False, False, False]])})
    0.75
    """
    return 1 - left(masks) / sum(mask.numel() for mask in masks.values())


def left(masks: Masks) -> int:
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
    _refuse_strangers(network, masks)
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


def snapshot(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers, to go back to."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def rewind(network: nn.Module, start: Mapping[str, torch.Tensor], masks: Masks) -> None:
    """Put the weights back to `start`, the pruned ones at zero."""
    _refuse_strangers(network, masks)
    network.load_state_dict(start)
    for name, mask in masks.items():
        network.get_parameter(name).masked_fill_(~mask, 0)


def _refuse_strangers(network: nn.Module, masks: Masks) -> None:
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise PruningError(f"the network has no parameter {name!r}: these masks are of another network")
        if mask.shape != parameters[name].shape:
            raise PruningError(
                f"the mask of {name} is {_shape(mask)}, the parameter {_shape(parameters[name])}: these masks are of "
                "another network"
            )


def _shape(tensor: torch.Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


# --- other scores, other shares --------------------------------------------------------------------------------------


def smallest_of_all(scores, masks, share):
    """As `smallest_of_each_layer`, but the lowest scores of the whole network go, wherever they are.

    share: one number, or the shares of the layers, whose total is then taken.
    """
    sizes = [mask.numel() for mask in masks.values()]
    every = torch.cat([scores[name].masked_fill(~mask, torch.inf).flatten() for name, mask in masks.items()])
    if isinstance(share, Mapping):
        k = sum(round(share[name] * int(mask.sum())) for name, mask in masks.items())
    else:
        k = round(share * left(masks))
    stays = torch.cat([mask.flatten() for mask in masks.values()])
    stays[every.topk(k, largest=False, sorted=False).indices] = False
    return {name: part.view_as(masks[name]) for name, part in zip(masks, stays.split(sizes))}


def gradient_times_weight(images) -> Callable:
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


def layer_shares(masks: Masks, share: float) -> dict[str, float]:
    """The same share for each layer, half as much for the last, which has few weights (Frankle and Carbin, section 2).

    Raises PruningError for a share that is negative, or leaves nothing.
    """
    if not 0 <= share < 1:
        raise PruningError(
            f"share = {share!r}: give a number from 0 (nothing goes) to below 1 (everything would)"
        )
    *_, last = masks
    return {name: share / 2 if name == last else share for name in masks}


def prune_to(scores, masks: Masks, kept: Mapping[str, int]) -> Masks:
    """One cut: leave the `kept[name]` highest scores of each layer.

    Raises PruningError for a layer that would keep none, or more than are left.
    """
    for name, mask in masks.items():
        if not 1 <= kept[name] <= mask.sum():
            raise PruningError(
                f"{name} would keep {kept[name]} of {int(mask.sum())} weights: a layer keeps at least one, and no more "
                "than it has"
            )
    share = {name: 1 - kept[name] / int(mask.sum()) for name, mask in masks.items()}
    return smallest_of_each_layer(scores, masks, share)


def shuffled(masks: Masks, seed: int = 0) -> Masks:
    """As many weights in each layer, in random places: the control that asks whether the places matter."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=draw)].view_as(mask)
        for name, mask in masks.items()
    }


# --- round after round --------------------------------------------------------------------------------------------------


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
    share: float = 0.2,
    *,
    start: Mapping[str, torch.Tensor] | None = None,
    one_round: Callable = lottery_round,
    progress: Callable = lambda: None,
) -> list[Ticket]:
    """Round after round, from the dense network on; the last ticket is trained and not pruned any more.

    train(network, masks): trains in place, holding the masks (`holding` builds an optimizer that does), and returns
    what is to be kept. share: of the weights that are left, at each round; half of it in the last layer. start: what to
    rewind to, the network's present weights unless given (late rewinding: those after a few steps). one_round: your own
    form of `lottery_round`. progress() is called after each training.

    Returns rounds + 1 tickets, dense first. Raises PruningError for a share that is not between 0 and 1, and where a
    round would leave a layer without a weight; ValueError where a weight is not finite.

    >>> network = nn.Linear(10, 10)
    >>> tickets = iterative_magnitude_pruning(network, lambda network, masks: None, rounds=2, share=0.5)
    >>> [round(ticket.sparsity, 2) for ticket in tickets]
    [0.0, 0.25, 0.44]
    """
    masks = full_masks(network)
    shares = layer_shares(masks, share)
    if rounds < 0:
        raise PruningError(f"rounds = {rounds}: give 0 (the dense network alone) or more")
    start = snapshot(network) if start is None else start
    tickets = []
    rewind(network, start, masks)
    for _ in range(rounds):
        result, pruned = one_round(network, masks, start, train, shares)
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
                f"round {number} leaves no weight in {name}, and nothing would pass: use fewer rounds or a smaller share"
            )


# --- files that shrink ---------------------------------------------------------------------------------------------------


def save_sparse(network: nn.Module, masks: Masks, path: str | Path) -> Path:
    """Write the network as safetensors: of a masked parameter a bit for each weight, and the values that are left.

    Everything else in the state dict is written whole. Returns the path. Raises PruningError where a pruned weight is
    not zero, for the file would forget it.
    """
    _refuse_strangers(network, masks)
    tensors, shapes = {}, {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        if name not in masks:
            tensors[name] = value
            continue
        mask = masks[name].cpu()
        if (alive := int((value.masked_fill(mask, 0) != 0).sum())) > 0:
            raise PruningError(
                f"{alive} pruned weights of {name} are not zero: hold the masks while you train"
            )
        tensors[f"{name}.bits"] = torch.from_numpy(np.packbits(mask.numpy()))
        tensors[f"{name}.values"] = value[mask]
        shapes[name] = list(value.shape)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt", "masked": json.dumps(shapes)})
    return path


def load_sparse(network: nn.Module, path: str | Path) -> Masks:
    """Read what `save_sparse` wrote into a network of the same shape, and give back the masks, to be held again.

    Raises PruningError, and leaves the network as it was, for a missing or damaged file and one of another network.
    """
    tensors, shapes = _read_sparse(Path(path))
    state, masks = {}, {}
    for name, shape in shapes.items():
        bits, values = (tensors.pop(f"{name}.{part}", None) for part in ("bits", "values"))
        masks[name] = mask = _unpacked(name, bits, values, shape, path)
        state[name] = torch.zeros(shape, dtype=values.dtype).masked_scatter(mask, values)
    state |= tensors
    _refuse_other_network(network, state, path)
    network.load_state_dict(state)
    device = next(network.parameters()).device
    return {name: mask.to(device) for name, mask in masks.items()}


def _read_sparse(path: Path) -> tuple[dict, dict]:
    if not path.exists():
        raise PruningError(f"{path} does not exist: give the path that save_sparse returned")
    try:
        with safe_open(path, "pt") as file:
            shapes = (file.metadata() or {}).get("masked")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as cause:
        raise PruningError(f"{path} is damaged ({cause}): save it again") from cause
    if shapes is None:
        raise PruningError(f"{path} says nothing of masks: it is a dense file, load it with safetensors")
    return tensors, json.loads(shapes)


def _unpacked(name: str, bits, values, shape, path) -> torch.Tensor:
    if bits is None or values is None:
        raise PruningError(f"{path} lacks the bits or the values of {name}: the file is not whole")
    size = int(np.prod(shape))
    if len(bits) != -(-size // 8):
        raise PruningError(
            f"{path} holds {len(bits)} bytes of bits for {size} weights of {name}: it is damaged"
        )
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), count=size)).bool().view(shape)
    if (count := int(mask.sum())) != len(values):
        raise PruningError(f"{path} holds {len(values)} values for {count} weights of {name}: it is damaged")
    return mask


def _refuse_other_network(network: nn.Module, state: dict, path) -> None:
    expected = network.state_dict()
    if missing := sorted(expected.keys() ^ state.keys()):
        raise PruningError(
            f"{path} and this network differ in {missing[0]!r}: the file is of another network"
        )
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise PruningError(
                f"{name} is {_shape(value)} in {path} and {_shape(expected[name])} here: the file is of another network"
            )
