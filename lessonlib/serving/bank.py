"""Many LoRA adapters over one base in one batch, by gather and batched products.

    h_n = W x_n + B_{a(n)} A_{a(n)} x_n        a(n): the adapter that row n of the batch asked for

The base's product, by far the largest, is done once for all rows. The small ones differ from row to row: the matrices
of each row's adapter are gathered once for the batch, and two batched products apply them, token after token. (For
GPUs Punica has one kernel that gathers and multiplies: Chen et al., 2023, arXiv:2310.18547.)
"""

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from lessonlib.lora import LoRAError, lora_layers
from lessonlib.lora.deltas import Delta, Deltas, bare_copy, deltas_of, read_deltas, refuse_misfit
from lessonlib.models.writing import generate_tokens

BASE = -1  # the row of a batch that wants no adapter


class BankedLinear(nn.Module):
    """A frozen linear layer and n low-rank updates, one of them for each row of the batch.

    x (N, T, d_in) -> (N, T, d_out)

    A (n, r, d_in) and B (n, d_out, r) hold the adapters, each scale within its B. The last one is zero: index -1 is
    the base itself.
    """

    def __init__(self, base, A, B):
        super().__init__()
        self.base, self.A, self.B = base, A, B
        self.choose([-1])

    def choose(self, rows):
        """Gather the matrices of each row's adapter; a single one is for all rows."""
        self.chosen = self.A[rows], self.B[rows]

    def forward(self, x):
        A, B = self.chosen  # (N, r, d_in), (N, d_out, r)
        h = self.base(x)
        return h + (x @ A.mT @ B.mT).view_as(h)  # view_as: more rows than x has are an error


def _alone(method: Callable) -> Callable:
    """The method of a bank while no other thread uses it."""

    @functools.wraps(method)
    def waiting(bank, *args, **kwargs):
        with bank._in_use:
            return method(bank, *args, **kwargs)

    return waiting


class LoRABank:
    """A base model with many LoRA adapters in it, each under a number; -1 is the bare base.

    Threads may share a bank: they take turns, each with the whole of its `using` block or call. (Coroutines of one
    thread may not: leave the block before an `await`.) The model itself, outside of `using`, is the bare base only
    while no thread is inside.

    model: without LoRA; it is frozen, and given back by `close`. adapters: directories in PEFT's format, models with
    LoRA, or adapters in memory (`Deltas`); they get the numbers 0, 1, ... r: the largest rank that the bank
    takes (None: the largest of these); smaller ones are padded with zeros. layer: the class to build; your own works
    if it has `choose` and what BankedLinear keeps.

    Raises LoRAError where two adapters change other modules, where one is for another base, larger than r or not
    finite; the model is then unchanged.

    >>> bank = LoRABank(model, ["adapters/billing", "adapters/refunds"])  # doctest: +SKIP
    >>> bank.generate([[12, 7], [12, 7, 9]], rows=[1, -1])  # doctest: +SKIP
    [[44, 3], [17, 29]]
    """

    def __init__(self, model: nn.Module, adapters: Sequence, r: int | None = None, layer=BankedLinear):
        if not adapters:
            raise LoRAError("a bank needs at least one adapter, to know which modules are changed")
        if any(hasattr(module, "choose") for module in model.modules()):
            raise LoRAError("this model is in a bank already: add the adapter to that one, or close it first")
        if next(lora_layers(model), None):
            raise LoRAError("this model has LoRA itself: call remove_lora(model) first, or load a fresh one")
        self.model, self._bare, self._in_use = model, bare_copy(model), threading.RLock()
        read = [self._read(adapter) for adapter in adapters]
        self.paths = sorted(read[0])
        self.r = max(update.r for adapter in read for update in adapter.values()) if r is None else r
        for adapter in read:
            self._refuse(adapter)
        self.used, self._rows = [True] * len(read), [BASE]
        self.model.requires_grad_(False)
        self.layers = {}
        for path in self.paths:
            padded = [self._padded(path, adapter[path]) for adapter in read]
            A, B = (torch.stack([*side, torch.zeros_like(side[0])]) for side in zip(*padded, strict=True))
            self.layers[path] = layer(model.get_submodule(path), A, B)
        self.put(self.layers)

    @property
    def numbers(self) -> list[int]:
        """The adapters' numbers; there are gaps where one was removed."""
        return [number for number, used in enumerate(self.used) if used]

    def put(self, modules: dict[str, nn.Module]) -> None:
        """Put modules in the places of the model that they are named after, for a while: the layers, or others."""
        for path, module in modules.items():
            self.model.set_submodule(path, module)

    # --- adapters come and go ----------------------------------------------------------------------------------------

    @_alone
    def add(self, adapter) -> int:
        """Take in one more, while the others stay as they are. Returns its number: a free one, or a new one.

        Raises LoRAError as the bank itself does; the bank is then unchanged.
        """
        adapter = self._read(adapter)
        self._refuse(adapter)
        if False not in self.used:
            self.used.append(False)
            for layer in self.layers.values():  # a new slot before the last, which is the base's
                layer.A, layer.B = (torch.cat([t, torch.zeros_like(t[:1])]) for t in (layer.A, layer.B))
        index = self.used.index(False)
        self._write(index, adapter)
        return index

    @_alone
    def replace(self, index: int, adapter) -> None:
        """Put another adapter under this number; requests that come now get the new one."""
        self._refuse_number(index)
        adapter = self._read(adapter)
        self._refuse(adapter)
        self._write(index, adapter)

    @_alone
    def remove(self, index: int) -> None:
        """Drop the adapter of this number: the others keep theirs, and this one is refused from now on."""
        self._refuse_number(index)
        for layer in self.layers.values():
            layer.A[index], layer.B[index] = 0, 0
        self.used[index] = False

    @_alone
    def close(self) -> nn.Module:
        """The base, bit for bit what it was, and frozen; the bank is empty from now on."""
        self.put({path: layer.base for path, layer in self.layers.items()})
        self.layers, self.used = {}, []
        return self.model

    # --- requests ----------------------------------------------------------------------------------------------------

    @contextmanager
    def using(self, rows: Sequence[int]):
        """Inside, the model applies to row n of a batch the adapter of number rows[n]; a single one is for all rows.

        The matrices are gathered once, here, which takes the memory of one adapter a row; an adapter that is replaced
        or removed meanwhile serves these rows to their end. Outside, the model is the bare base. Raises LoRAError for
        a number that no adapter has.

        >>> with bank.using([0, 0, 2, -1]):  # doctest: +SKIP
        ...     logits = model(input_ids).logits
        """
        rows = list(rows)
        with self._in_use:
            for index in set(rows) - {BASE}:
                self._refuse_number(index)
            before = self._rows
            self._choose(rows)
            try:
                yield self.model
            finally:
                self._choose(before)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], max_new_tokens: int = 20
    ) -> list[list[int]]:
        """What each row's adapter says after its prompt: greedy, with the key-value cache, all rows together.

        prompts: token numbers, of unequal lengths; they are padded on the left. Each reply ends at max_new_tokens or
        before the model's end-of-text token. Raises LoRAError where rows and prompts are not as many, for a number
        that no adapter has, and for a prompt without tokens.
        """
        if len(rows) != len(prompts):
            raise LoRAError(f"{len(rows)} adapter numbers for {len(prompts)} prompts: give one for each")
        if not prompts or not all(len(prompt) for prompt in prompts):
            raise LoRAError("a prompt without tokens: give each at least one")
        with self.using(rows):
            replies = generate_tokens(self.model, prompts, pad_token_id=self._pad, max_new_tokens=max_new_tokens)
        return [self._until_end(reply) for reply in replies]

    # --- within ------------------------------------------------------------------------------------------------------

    def _choose(self, rows: list[int]) -> None:
        self._rows, index = rows, torch.tensor(rows)
        for layer in self.layers.values():
            layer.choose(index)

    def _read(self, adapter) -> Deltas:
        if isinstance(adapter, str | Path):
            return read_deltas(adapter, self._bare)
        return deltas_of(adapter) if isinstance(adapter, nn.Module) else adapter

    def _refuse(self, adapter: Deltas) -> None:
        if odd := sorted(set(self.paths) ^ set(adapter)):
            raise LoRAError(
                f"{odd[0]} is changed by one adapter and not by another: a bank holds adapters of the same targets"
            )
        modules = dict(self._bare.named_modules())
        for path, update in adapter.items():
            refuse_misfit(path, update, modules.get(path))
            if update.r > self.r:
                raise LoRAError(
                    f"{path} has rank {update.r}, this bank takes at most {self.r}: build it with r={update.r}"
                )

    def _refuse_number(self, index: int) -> None:
        if not (0 <= index < len(self.used) and self.used[index]):
            raise LoRAError(f"no adapter has the number {index}: there are {self.numbers}, and {BASE} for the base")

    def _padded(self, path: str, update: Delta) -> tuple[torch.Tensor, torch.Tensor]:
        """A (self.r, d_in) and B (d_out, self.r), the scale within B, as the base's numbers are kept."""
        weight = self._bare.get_submodule(path).weight
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        missing = self.r - update.r
        A = nn.functional.pad(update.A.detach(), (0, 0, 0, missing))
        B = nn.functional.pad(update.scale * update.B.detach(), (0, missing))
        return A.to(weight.device, dtype), B.to(weight.device, dtype)

    def _write(self, index: int, adapter: Deltas) -> None:
        for path, layer in self.layers.items():
            layer.A[index], layer.B[index] = self._padded(path, adapter[path])
        self.used[index] = True

    @property
    def _ends(self) -> list[int]:
        end = self.model.generation_config.eos_token_id
        return end if isinstance(end, list) else [] if end is None else [end]

    @property
    def _pad(self) -> int:
        own = self.model.generation_config.pad_token_id
        return own if own is not None else (self._ends or [0])[0]

    def _until_end(self, reply: list[int]) -> list[int]:
        return reply[: min((reply.index(end) for end in self._ends if end in reply), default=len(reply))]
