"""A LoRA adapter apart from any model: for each module that it changes, the pair A, B and the scale.

    ΔW = scale · B A        A (r, d_in),  B (d_out, r),  ΔW (d_out, d_in)

What serves, merges, routes and stacks adapters works on these. Files are PEFT's, read and written by `lora`.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lessonlib.surgery import refuse_not_finite, shallow_copy

from .files import load_lora, save_lora
from .layer import LoRAError, add_lora, beside_A_and_B, lora_layers, remove_lora, required_layers


class Update(NamedTuple):
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

    def delta(self) -> torch.Tensor:
        """scale · B A, written out, (d_out, d_in).

        >>> Update(torch.ones(1, 3), torch.ones(2, 1), scale=4.0).delta().tolist()
        [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
        """
        return self.scale * self.B @ self.A


Adapter = dict[str, Update]  # by the module's path in the base model


def adapter_of(model: nn.Module) -> Adapter:
    """A copy of the LoRA layers' numbers, merged or not; the model stays as it is.

    Raises LoRAError for a model without LoRA, and for layers with parameters beside A and B (DoRA), which B A does
    not describe.
    """
    return {path: update_of(path, layer) for path, layer in required_layers(model)}


def update_of(path: str, layer: nn.Module) -> Update:
    """A copy of one LoRA layer's numbers; raises as `adapter_of` does."""
    if more := beside_A_and_B(layer):
        raise LoRAError(f"{path} is a {type(layer).__name__} with {more[0]} beside A and B: plain LoRA only")
    return Update(layer.A.detach().clone(), layer.B.detach().clone(), float(layer.scale))


def put_adapter(model: nn.Module, adapter: Adapter) -> nn.Module:
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


def refuse_misfit(path: str, update: Update, module: nn.Module | None) -> None:
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


def read_adapter(directory: str | Path, model: nn.Module) -> Adapter:
    """The adapter of a directory that `save_lora` or PEFT wrote, checked against this base, which stays as it is.

    Raises LoRAError as `load_lora` does.

    >>> read_adapter("adapters/billing", model)  # doctest: +SKIP
    """
    return adapter_of(load_lora(shell(model), directory))


def write_adapter(adapter: Adapter, directory: str | Path, model: nn.Module) -> Path:
    """Write the adapter as PEFT does, for this base, which stays as it is. Returns the directory."""
    return save_lora(put_adapter(shell(model), adapter), directory)


def shell(model: nn.Module) -> nn.Module:
    """A shallow copy of the model, without LoRA."""
    twin = shallow_copy(model)
    return remove_lora(twin) if next(lora_layers(twin), None) else twin
