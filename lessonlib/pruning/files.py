"""Sparse files: of a masked parameter a bit for each weight, and the values that are left."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from lessonlib.models.surgery import read_tensors

from .masks import Masks, PruningError, refuse_strangers, size


def save_sparse(network: nn.Module, masks: Masks, path: str | Path) -> Path:
    """Write the network as safetensors: of a masked parameter a bit for each weight, and the values that are left.

    Everything else in the state dict is written whole. Returns the path. Raises PruningError where a pruned weight is
    not zero, for the file would forget it.
    """
    refuse_strangers(network, masks)
    tensors, shapes = {}, {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        if name not in masks:
            tensors[name] = value
            continue
        mask = masks[name].cpu()
        if (alive := int((value.masked_fill(mask, 0) != 0).sum())) > 0:
            raise PruningError(f"{alive} pruned weights of {name} are not zero: hold the masks while you train")
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
    missing = "{path} does not exist: give the path that save_sparse returned"
    tensors, about = read_tensors(path, PruningError, missing)
    if "masked" not in about:
        raise PruningError(f"{path} says nothing of masks: it is a dense file, load it with safetensors")
    return tensors, json.loads(about["masked"])


def _unpacked(name: str, bits, values, shape, path) -> torch.Tensor:
    if bits is None or values is None:
        raise PruningError(f"{path} lacks the bits or the values of {name}: the file is not whole")
    size = int(np.prod(shape))
    if len(bits) != -(-size // 8):
        raise PruningError(f"{path} holds {len(bits)} bytes of bits for {size} weights of {name}: it is damaged")
    mask = torch.from_numpy(np.unpackbits(bits.numpy(), count=size)).bool().view(shape)
    if (count := int(mask.sum())) != len(values):
        raise PruningError(f"{path} holds {len(values)} values for {count} weights of {name}: it is damaged")
    return mask


def _refuse_other_network(network: nn.Module, state: dict, path) -> None:
    expected = network.state_dict()
    if missing := sorted(expected.keys() ^ state.keys()):
        raise PruningError(f"{path} and this network differ in {missing[0]!r}: the file is of another network")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise PruningError(
                f"{name} is {size(value)} in {path} and {size(expected[name])} here: the file is of another network"
            )
