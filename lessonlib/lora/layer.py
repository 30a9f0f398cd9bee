"""Low-rank adaptation (Hu et al., 2021, arXiv:2106.09685, section 4.1).

    h = W x + (alpha / r) B A x        W (d_out, d_in) frozen,  A (r, d_in),  B (d_out, r)

B starts at zero, so a fresh LoRALinear computes exactly what its base layer does.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from lessonlib.models.surgery import find_targets, refuse_not_finite


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable update of rank r.

    x (..., d_in) -> (..., d_out)

    A and B are float32 whatever the base's dtype (small updates vanish in bfloat16), cast to x's dtype.
    """

    def __init__(self, base, r=8, alpha=16.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(r, base.in_features, device=base.weight.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, r, device=base.weight.device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scale = alpha / r

    def forward(self, x):
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        return self.base(x) + self.scale * (x @ A.T) @ B.T

    @torch.no_grad()
    def merged(self):
        """A plain linear layer with weight W + scale * B A; self is left as it was."""
        linear = copy.deepcopy(self.base)
        linear.weight += self.scale * self.B @ self.A
        return linear


class _ByMembers(type):
    """A class whose instances are all that have its members.

    typing's runtime protocols are not enough: from Python 3.12 on they overlook the parameters of an nn.Module.
    """

    def __instancecheck__(cls, instance) -> bool:
        return all(hasattr(instance, name) for name in cls.__annotations__)


class LowRank(metaclass=_ByMembers):
    """What makes a module a LoRA layer: its members, not its name, so that a class of your own counts as well."""

    base: nn.Module
    A: nn.Parameter
    B: nn.Parameter
    scale: float


class LoRAError(ValueError):
    """An adapter cannot be added, merged, saved or loaded; the message says why and what would do."""


def lora_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, layer) of each LoRA layer in the model, merged ones included."""
    for path, module in model.named_modules():
        if isinstance(module, LowRank):
            yield path, module
        elif "unmerged" in vars(module):
            yield path, vars(module)["unmerged"]


def add_lora(
    model: nn.Module,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    r: int = 8,
    alpha: float = 16.0,
    layer=LoRALinear,
) -> nn.Module:
    """Freeze the model and put `layer(base, r, alpha)` around each linear module whose attribute name is a target.

    targets: attribute names, matched exactly ("q_proj"), or whole paths ("model.layers.29.self_attn.q_proj").
    layer: the class to build; your own works if it has `base`, `A`, `B` and `scale`.

    Returns the same model. Raises LoRAError for r < 1 or larger than a matrix, a target that matches nothing or no
    linear layer, weights that are not finite, and a model that has LoRA already; the model is then unchanged.

    >>> model = nn.Sequential(nn.Linear(6, 4))
    >>> add_lora(model, targets=["0"], r=2)[0].A.shape
    torch.Size([2, 6])
    """
    if next(lora_layers(model), None):
        raise LoRAError("this model has LoRA already: call remove_lora(model) first, or load a fresh one")
    if not isinstance(r, int) or r < 1:
        raise LoRAError(f"r is {r!r}; the rank must be a whole number of at least 1")
    if isinstance(targets, str):
        raise LoRAError(f"targets is {targets!r}; expected a list of names, such as [{targets!r}]")
    chosen, missing = find_targets(model, targets)
    for path, module in chosen:
        refuse_base(path, module, r)
    if missing:
        linear = {p.rpartition(".")[2] for p, m in model.named_modules() if isinstance(m, nn.Linear)}
        raise LoRAError(f"no module is called {missing[0]!r}; the linear ones are {', '.join(sorted(linear))}")
    if not chosen:
        linear_names(model)
        raise LoRAError("targets is empty: name at least one linear module, such as 'q_proj'")
    return put_layers(model, {path: functools.partial(layer, module, r, alpha) for path, module in chosen})


def linear_paths(model: nn.Module) -> list[str]:
    """The paths of all linear layers but the head: what PEFT's "all-linear" means."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [path for path, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]


def linear_names(model: nn.Module) -> list[str]:
    """The attribute names of all linear layers but the head: what LoRA can be put on.

    Raises LoRAError, with the cure, for a model that has none. Ask before any work is begun.

    >>> linear_names(nn.ModuleDict({"q_proj": nn.Linear(2, 2), "act": nn.ReLU()}))
    ['q_proj']
    """
    names = {path.rpartition(".")[2] for path in linear_paths(model)}
    if not names:
        weighty = {type(module).__name__ for module in model.modules() if getattr(module, "weight", None) is not None}
        others = sorted(weighty - {"Linear"})
        raise LoRAError(
            f"{type(model).__name__} has no nn.Linear in its blocks (its weights are in {', '.join(others)}; GPT-2's "
            "Conv1D stores them transposed), and LoRA is put on those alone: take a model such as SmolLM2, Qwen2.5 or "
            "Llama"
        )
    return sorted(names)


def put_layers(model: nn.Module, build: Mapping[str, Callable[[], nn.Module]]) -> nn.Module:
    """Freeze the model and put what each call builds in the place of its path. Returns the same model.

    Where one of the calls raises, the model is left as it was.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        layers = {path: call() for path, call in build.items()}
    except Exception:
        for p in trained:
            p.requires_grad_(True)
        raise
    model.requires_grad_(False)
    for path, layer in layers.items():
        model.set_submodule(path, layer)
    return model


def refuse_base(path: str, module: nn.Module, r: int) -> None:
    """Raise LoRAError for what cannot carry LoRA of rank r: no nn.Linear, too small a matrix, weights not finite."""
    if not isinstance(module, nn.Linear):
        raise LoRAError(
            f"{path} is a {type(module).__name__}, not nn.Linear (GPT-2's Conv1D stores its weight transposed): "
            "name linear modules, or give a `layer` class and model that fit"
        )
    smaller = min(module.in_features, module.out_features)
    if r > smaller:
        raise LoRAError(
            f"r = {r} is larger than {path} ({module.out_features} × {module.in_features}): at most {smaller}"
        )
    cure = "the base model's file is damaged, load it anew"
    refuse_not_finite({f"{path}.weight": module.weight}, LoRAError, cure)


def remove_lora(model: nn.Module) -> nn.Module:
    """Take the LoRA layers out; the base is then what it was, bit for bit, merged or not. All is frozen still."""
    for path, layer in required_layers(model):
        model.set_submodule(path, layer.base)
    return model


def merge_lora(model: nn.Module) -> nn.Module:
    """Put a plain linear layer of weight W + scale B A in each LoRA layer's place: no cost is left in the forward pass.

    The LoRA layer is kept aside for `unmerge_lora`, so merging never loses the base's bits.
    Raises LoRAError for a merged model, an update that is not finite, one to a weight that another module shares, and a
    plain LoRALinear over a base in 4 bits (lessonlib.quantization.qlora.QLoRALinear merges that).
    """
    owners = {}
    for path, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            owners.setdefault(module.weight.data_ptr(), set()).add(path.removesuffix(".base"))
    todo = [(path, layer) for path, layer in required_layers(model) if model.get_submodule(path) is layer]
    if not todo:
        raise LoRAError("this model is merged already: call unmerge_lora(model) before merging again")
    for path, layer in todo:
        refuse_diverged(path, layer)
        _refuse_a_sum_with_codes(path, layer)
        if others := owners[layer.base.weight.data_ptr()] - {path}:
            raise LoRAError(
                f"{path} shares its weight with {sorted(others)[0]}, merging would change both or untie them: "
                "leave it unmerged, or leave it out of the targets"
            )
    for path, layer in todo:
        linear = layer.merged() if hasattr(layer, "merged") else LoRALinear.merged(layer)
        vars(linear)["unmerged"] = layer  # in __dict__: neither a submodule nor in the state dict
        model.set_submodule(path, linear)
    return model


def unmerge_lora(model: nn.Module) -> nn.Module:
    """Put the LoRA layers back in the place of the merged ones; the base's weights are as before, bit for bit."""
    for path, layer in required_layers(model):
        model.set_submodule(path, layer)
    return model


def required_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All of `lora_layers`; raises LoRAError where there are none."""
    if not (layers := list(lora_layers(model))):
        raise LoRAError("this model has no LoRA layers: call add_lora(model, ...) first")
    return layers


def refuse_diverged(path: str, layer: nn.Module) -> None:
    """Raise LoRAError where A or B of this layer holds NaN or infinity."""
    pair = {f"{path}.A": layer.A, f"{path}.B": layer.B}
    refuse_not_finite(pair, LoRAError, "train again with a smaller learning rate")


def _refuse_a_sum_with_codes(path: str, layer: nn.Module) -> None:
    plain = getattr(type(layer), "merged", LoRALinear.merged) is LoRALinear.merged
    if plain and not layer.base.weight.is_floating_point():
        raise LoRAError(
            f"{path} has its base in 4 bits, codes to which nothing can be added: build it with "
            "add_lora(model, ..., layer=QLoRALinear) from lessonlib.quantization.qlora, then merge"
        )


def beside_A_and_B(layer: nn.Module) -> list[str]:
    """Names of a LoRA layer's other parameters of its own, such as DoRA's magnitudes, which B A does not describe."""
    own = {name for name, _ in layer.named_parameters() if not name.startswith("base.")}
    return sorted(own - {"A", "B"})
