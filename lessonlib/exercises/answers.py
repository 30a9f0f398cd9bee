"""What an answer has to be before its value is looked at. Each raises NotYet in the learner's terms."""

import math
from collections.abc import Mapping
from numbers import Real

import torch

from . import NotYet


def answered(value):
    """The value, if there is one; raises NotYet otherwise."""
    if value is None:
        raise NotYet("nothing comes back; does the function end in a return?")
    if value is ...:
        raise NotYet("nothing is filled in yet; the function gives back ...")
    return value


def number(value) -> float:
    """The value, if it is a number, or a tensor of one; raises NotYet otherwise."""
    value = answered(value)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, str):
        raise NotYet(f"the text {value!r} comes back; make a number of it with int()")
    if not isinstance(value, Real) or isinstance(value, bool):
        raise NotYet(f"a {type(value).__name__} comes back where a number is asked for")
    return value


def refuse_slips(value: float, slips: Mapping[float, str]) -> None:
    """Raises NotYet with what went wrong, where the value is one that a well-known slip gives."""
    for slip, said in slips.items():
        if math.isclose(value, slip):
            raise NotYet(said)


def shaped(value, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """The value, if it is a tensor of this shape; raises NotYet otherwise."""
    value = answered(value)
    if not isinstance(value, torch.Tensor) or value.shape != shape:
        raise NotYet(f"{what} should have the shape {shape}; yours is {getattr(value, 'shape', value)}")
    return value


def close(a, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Whether a is a tensor of b's shape with b's values."""
    return isinstance(a, torch.Tensor) and a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=tolerance)
