"""A LoRA adapter apart from any model: for each module that it changes, the pair A, B and the scale.

    ΔW = scale · B A        A (r, d_in),  B (d_out, r),  ΔW (d_out, d_in)

What serves, merges, routes and stacks adapters works on these. Files are PEFT's, read and written by `lora`.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lessonlib.models.surgery import refuse_not_finite, shallow_copy

from .files import load_lora, save_lora
from .layer import LoRAError, add_lora, beside_A_and_B, lora_layers, remove_lora, required_layers


class Delta(NamedTuple):
    """What an adapter does to one module: A (r, d_in), B (d_out, r), scale."""

    A: torch.Tensor
    B: torch.Tensor
    scale: float = 1.0

    @property
    def r(self) -> int:
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix that it changes, (d_out, d_in)."""
        return self.B.shape[0], self.A.shape[1]

    def dense(self) -> torch.Tensor:
        """scale · B A, written out, (d_out, d_in).

        >>> Delta(torch.ones(1, 3), torch.ones(2, 1), scale=4.0).dense().tolist()
        [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
        """
        return self.scale * self.B @ self.A


Deltas = dict[str, Delta]  # by the module's path in the base model


def deltas_of(model: nn.Module) -> Deltas:
    """A copy of the LoRA layers' numbers, merged or not; the model stays as it is.

    Raises LoRAError for a model without LoRA, and for layers with parameters beside A and B (DoRA), which B A does
    not describe.
    """
    return {path: delta_of(path, layer) for path, layer in required_layers(model)}


def delta_of(path: str, layer: nn.Module) -> Delta:
    """A copy of one LoRA layer's numbers; raises as `deltas_of` does."""
    if more := beside_A_and_B(layer):
        raise LoRAError(f"{path} is a {type(layer).__name__} with {more[0]} beside A and B: plain LoRA only")
    return Delta(layer.A.detach().clone(), layer.B.detach().clone(), float(layer.scale))


def put_deltas(model: nn.Module, adapter: Deltas) -> nn.Module:
    """Add the adapter to a model without LoRA, as LoRALinear layers that can train. Returns the same model.

    Raises LoRAError, and leaves the model as it was, where the adapter does not fit it or is not finite.
    """
    modules = dict(model.named_modules())
    for path, update in adapter.items():
        refuse_misfit(path, update, modules.get(path))
    add_lora(model, list(adapter), r=1)
    for path, layer in lora_layers(model):
        A, B, scale = adapter[path]
        device = layer.A.device
        layer.A = nn.Parameter(A.to(device, torch.float32, copy=True))
        layer.B = nn.Parameter(B.to(device, torch.float32, copy=True))
        layer.scale = scale
    return model


def refuse_misfit(path: str, update: Delta, module: nn.Module | None) -> None:
    """Raise LoRAError where there is no such module, the shapes differ, or the numbers are not finite."""
    if module is None:
        raise LoRAError(f"the adapter changes {path}, which this model does not have: it is for another base")
    here = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if update.shape != here or update.A.shape[0] != update.B.shape[1]:
        raise LoRAError(
            f"{path}: A {tuple(update.A.shape)} and B {tuple(update.B.shape)} do not fit a matrix {here}: the adapter "
            "is for another base"
        )
    pair = {f"{path}.A": update.A, f"{path}.B": update.B}
    refuse_not_finite(pair, LoRAError, "the training diverged, train again")


def read_deltas(directory: str | Path, model: nn.Module) -> Deltas:
    """The adapter of a directory that `save_lora` or PEFT wrote, checked against this base, which stays as it is.

    Raises LoRAError as `load_lora` does.

    >>> read_deltas("adapters/billing", model)  # doctest: +SKIP
    """
    return deltas_of(load_lora(bare_copy(model), directory))


def write_deltas(adapter: Deltas, directory: str | Path, model: nn.Module) -> Path:
    """Write the adapter as PEFT does, for this base, which stays as it is. Returns the directory."""
    return save_lora(put_deltas(bare_copy(model), adapter), directory)


def bare_copy(model: nn.Module) -> nn.Module:
    """A shallow copy of the model, without LoRA."""
    twin = shallow_copy(model)
    return remove_lora(twin) if next(lora_layers(twin), None) else twin
