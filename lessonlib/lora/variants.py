"""Variants of LoRA, each of which changes one thing against h = W x + (alpha / r) B A x.

    rsLoRA         the scale is alpha / sqrt(r)
    LoRA-FA        A stays as it was drawn, B alone trains
    with dropout   the update reads dropout(x), the frozen product all of x
    LoRA+          B's learning rate is a multiple of A's
    tied           the layers of one name share one A and one B

Three are layers, for `add_lora(model, layer=...)`; LoRA+ is an optimizer, and a pair is tied after `add_lora`.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .layer import LoRAError, LoRALinear, lora_layers, required_layers

# --- the scale: rsLoRA -----------------------------------------------------------------------------------------------


class RsLoRALinear(LoRALinear):
    """Rank-stabilized LoRA (Kalajdzievski, 2023, arXiv:2312.03732): an update that is scaled by alpha / sqrt(r).

        h = W x + (alpha / sqrt(r)) B A x

    x (..., d_in) -> (..., d_out)

    Divided by r, the update of a higher rank learns more and more slowly; divided by sqrt(r), it learns about equally
    fast at every rank, by the paper's account.
    `save_lora` writes its scale, so the file loads as a plain LoRALinear: `load_lora(model, directory)`.
    """

    def __init__(self, base, r=8, alpha=16.0):
        super().__init__(base, r, alpha)
        self.scale = alpha / math.sqrt(r)


# --- half of the pair: LoRA-FA ---------------------------------------------------------------------------------------


class LoRAFALinear(LoRALinear):
    """LoRA with a frozen A, LoRA-FA (Zhang et al., 2023, arXiv:2308.03303): B alone trains.

        h = W x + (alpha / r) B A x        A (r, d_in) frozen as it was drawn,  B (d_out, r) trained

    x (..., d_in) -> (..., d_out)

    B's gradient needs only A x, which has r numbers a token, so the layer need not keep x, which has d_in: that is
    where memory is saved. (The paper's first version; a later one also corrects B's gradient, as PEFT's optimizer of
    this name does.)
    """

    def __init__(self, base, r=8, alpha=16.0):
        super().__init__(base, r, alpha)
        self.A.requires_grad_(False)


# --- dropout ---------------------------------------------------------------------------------------------------------


class DropoutLoRALinear(LoRALinear):
    """A LoRA layer that, in training, zeroes a share p of the numbers that its update reads; the rest grow by 1 / (1 - p).

        h = W x + (alpha / r) B A dropout(x)

    x (..., d_in) -> (..., d_out)

    Dropout stands where PEFT has it; the frozen product W x sees all of x. In evaluation, and once merged, this is
    plain LoRA. Raises ValueError for a p outside 0 to 1, or 1 itself.

    >>> layer = functools.partial(DropoutLoRALinear, p=0.1)  # what add_lora takes: add_lora(model, layer=layer)
    """

    def __init__(self, base, r=8, alpha=16.0, p=0.05):
        super().__init__(base, r, alpha)
        if not 0 <= p < 1:
            raise ValueError(f"p is {p}; the share of dropped numbers must be at least 0 and below 1")
        self.p = p

    def forward(self, x):
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        kept = F.dropout(x, self.p, self.training)
        return self.base(x) + self.scale * (kept @ A.T) @ B.T


# --- two learning rates: LoRA+ ---------------------------------------------------------------------------------------

RATIO = 16.0  # as in the example of PEFT's own LoRA+


def lora_plus(model: nn.Module, ratio: float = RATIO) -> Callable:
    """LoRA+ (Hayou et al., 2024, arXiv:2402.12354), as what `training.fit` takes for `optimizer`: B learns faster than A.

        learning rate of A:  eta        of B:  lambda eta,  lambda well above 1

    AdamW with B's learning rate `ratio` times that of everything else; any LoRA layer will do. A reads x, which is
    large, and B starts at zero: with one rate for both, a wide model's B moves too little. `fit(learning_rate=)` is
    A's rate; warm-up and decay scale both. Raises LoRAError where the model has no LoRA, and ValueError for a ratio
    that is not positive.

    >>> fit(model, batches, learning_rate=2e-4, optimizer=lora_plus(model, ratio=16))  # doctest: +SKIP
    """
    if not ratio > 0:
        raise ValueError(f"ratio is {ratio}; B's learning rate must be a positive multiple of A's")
    required_layers(model)
    # A partial, and not a closure, so that a run that resumes knows its ratio.
    return functools.partial(_two_rates, model, ratio=ratio)


def _two_rates(model, parameters, *, lr: float, ratio: float, weight_decay: float = 0.0):
    is_B = {layer.B for _, layer in lora_layers(model)}
    fast = [p for p in parameters if p in is_B]
    rest = [p for p in parameters if p not in is_B]
    groups = [{"params": rest, "lr": lr}, {"params": fast, "lr": ratio * lr}]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=weight_decay)


# --- one pair for all layers: tied -----------------------------------------------------------------------------------


def tie_lora(model: nn.Module) -> nn.Module:
    """Let all LoRA layers of one name ("q_proj") share the A and B of the first. Returns the same model.

        h_l = W_l x + (alpha / r) B A x        one A and one B for the query projections of all layers l, one for the values, …

    As many times fewer parameters as the model has layers. After Tied-LoRA (Renduchintala et al., 2023,
    arXiv:2311.09578), whose variants that add trained vectors for each layer are left out.

    Call it right after `add_lora`: the pairs of the other layers are dropped. `merge_lora`, `remove_lora` and the
    optimizer need not know. Raises LoRAError for a model without LoRA, one that is merged, pairs of one name that
    differ in shape or scale, and pairs that were trained already; the model is then unchanged.

    >>> from lessonlib.lora import add_lora
    >>> model = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(8, 8)}) for _ in range(30))
    >>> tied = tie_lora(add_lora(model, ["q_proj"], r=2))
    >>> sum(p.numel() for p in tied.parameters() if p.requires_grad)
    32
    """
    names = {}
    for path, layer in required_layers(model):
        names.setdefault(path.rpartition(".")[2], []).append((path, layer))
    for layers in names.values():
        for path, layer in layers:
            _refuse_to_tie(model, path, layer, layers[0][1])
    for (_, first), *others in names.values():
        for _, layer in others:
            layer.A, layer.B = first.A, first.B
    return model


def _refuse_to_tie(model: nn.Module, path: str, layer: nn.Module, first: nn.Module) -> None:
    if model.get_submodule(path) is not layer:
        raise LoRAError(f"{path} is merged: call unmerge_lora(model) before tying")
    mine, theirs = ((tuple(one.A.shape), tuple(one.B.shape), one.scale) for one in (layer, first))
    if mine != theirs:
        raise LoRAError(
            f"{path} has A, B and scale {mine}, the first layer of its name {theirs}: only equal ones can be tied"
        )
    if layer.B.any():
        raise LoRAError(f"{path}.B is trained already and would be lost: tie right after add_lora")
