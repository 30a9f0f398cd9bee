"""Low-rank adaptation (Hu et al., 2021, arXiv:2106.09685, section 4.1).

    h = W x + (alpha / r) B A x        W (d_out, d_in) frozen,  A (r, d_in),  B (d_out, r)

B starts at zero, so a fresh LoRALinear computes exactly what its base layer does.
"""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn


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


@runtime_checkable
class LowRank(Protocol):
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
    found, chosen = set(), []
    for path, module in model.named_modules():
        names = {path, path.rpartition(".")[2]} & set(targets)
        if not names:
            continue
        found |= names
        _refuse_base(path, module, r)
        chosen.append((path, module))
    if missing := set(targets) - found:
        linear = {p.rpartition(".")[2] for p, m in model.named_modules() if isinstance(m, nn.Linear)}
        raise LoRAError(
            f"no module is called {sorted(missing)[0]!r}; the linear ones are {', '.join(sorted(linear))}"
        )
    if not chosen:
        raise LoRAError("targets is empty: name at least one linear module, such as 'q_proj'")
    model.requires_grad_(False)
    for path, module in chosen:
        model.set_submodule(path, layer(module, r, alpha))
    return model


def _refuse_base(path: str, module: nn.Module, r: int) -> None:
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
    if module.weight.is_floating_point() and not torch.isfinite(module.weight).all():
        raise LoRAError(
            f"{path}.weight holds NaN or infinity: the base model's file is damaged, load it anew"
        )


def remove_lora(model: nn.Module) -> nn.Module:
    """Take the LoRA layers out; the base is then what it was, bit for bit, merged or not. All is frozen still."""
    for path, layer in _all_or_raise(model):
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
    todo = [(path, layer) for path, layer in _all_or_raise(model) if model.get_submodule(path) is layer]
    if not todo:
        raise LoRAError("this model is merged already: call unmerge_lora(model) before merging again")
    for path, layer in todo:
        _refuse_not_finite(path, layer)
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
    for path, layer in _all_or_raise(model):
        model.set_submodule(path, layer)
    return model


def _all_or_raise(model: nn.Module) -> list[tuple[str, nn.Module]]:
    if not (layers := list(lora_layers(model))):
        raise LoRAError("this model has no LoRA layers: call add_lora(model, ...) first")
    return layers


def _refuse_not_finite(path: str, layer: nn.Module) -> None:
    for name in ("A", "B"):
        if not torch.isfinite(getattr(layer, name)).all():
            raise LoRAError(f"{path}.{name} holds NaN or infinity: train again with a smaller learning rate")


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


def _refuse_more_than_A_and_B(path: str, layer: nn.Module) -> None:
    if more := beside_A_and_B(layer):
        raise LoRAError(
            f"{path} is a {type(layer).__name__} with {more[0]} beside A and B, which a plain LoRA file cannot hold: "
            "a DoRALinear is written by save_dora"
        )


# --- files, in PEFT's own format -----------------------------------------------------------------------------------

PREFIX = "base_model.model."
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# What load_lora understands in PEFT's configuration; any other field that departs from its default is refused.
UNDERSTOOD = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "task_type", "peft_type", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "auto_mapping", "peft_version", "runtime_config",
}  # fmt: skip
# The others (PiSSA, OLoRA, ...) change the base's weights too, which the file does not hold.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def save_lora(model: nn.Module, directory: str | Path) -> Path:
    """Write the adapter as PEFT does: adapter_config.json and adapter_model.safetensors.

    Ranks and scales may differ between layers; what layers share is written for each. Returns the directory.
    Raises LoRAError for a model without LoRA, for a layer with parameters beside A and B (DoRA has `save_dora`), and
    for values that are not finite; nothing is then written.
    """
    from peft import LoraConfig

    layers, directory = _all_or_raise(model), Path(directory)
    for path, layer in layers:
        _refuse_not_finite(path, layer)
        _refuse_more_than_A_and_B(path, layer)
    ranks = {path: layer.A.shape[0] for path, layer in layers}
    alphas = {path: layer.scale * layer.A.shape[0] for path, layer in layers}
    r, alpha = (
        max(ranks.values(), key=list(ranks.values()).count),
        max(alphas.values(), key=list(alphas.values()).count),
    )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=getattr(model, "name_or_path", None) or None,
        r=r,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        target_modules=_targets(model, [path for path, _ in layers]),
        rank_pattern={path: rank for path, rank in ranks.items() if rank != r},
        alpha_pattern={path: a for path, a in alphas.items() if a != alpha},
    )
    tensors = {}
    for path, layer in layers:
        for side in "AB":  # cloned, since layers that share a matrix each have their own in the file
            own = getattr(layer, side).detach().cpu().clone(memory_format=torch.contiguous_format)
            tensors[f"{PREFIX}{path}.lora_{side}.weight"] = own
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(directory)
    return directory


def _targets(model: nn.Module, paths: list[str]) -> list[str]:
    """Attribute names where all modules of that name are adapted, whole paths where only some are."""
    every = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | LowRank) and not path.endswith(".base"):
            every.setdefault(path.rpartition(".")[2], set()).add(path)
    adapted = {name: {path for path in paths if path.rpartition(".")[2] == name} for name in every}
    return sorted(t for name in every for t in ([name] if adapted[name] == every[name] else adapted[name]))


def load_lora(model: nn.Module, directory: str | Path, layer=LoRALinear) -> nn.Module:
    """Add the adapter that `save_lora` or PEFT wrote: LoRA, with rank and alpha patterns, rsLoRA's scale too.

    Raises LoRAError, and leaves the model as it was, for a missing or damaged file, an adapter of another base
    (names or shapes that do not fit), values that are not finite, and whatever a plain LoRA layer cannot express
    (DoRA, biases, modules_to_save, ...), by name.
    """
    from peft.utils.other import get_pattern_key

    directory = Path(directory)
    config = _read_config(directory)
    tensors = _read_weights(directory / WEIGHTS)
    if next(lora_layers(model), None):
        raise LoRAError("this model has LoRA already: call remove_lora(model) first, or load a fresh one")
    modules, plan = dict(model.named_modules()), []
    for path in sorted({name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}):
        A, B = (tensors.get(f"{PREFIX}{path}.lora_{side}.weight") for side in "AB")
        if A is None or B is None:
            raise LoRAError(f"{directory / WEIGHTS} lacks lora_A or lora_B of {path}: the file is not whole")
        base = modules.get(path)
        if base is None:
            raise LoRAError(
                f"the adapter changes {path}, which this model does not have: it is for another base"
            )
        r = A.shape[0]
        _refuse_base(path, base, r)
        if (B.shape[0], A.shape[1]) != (base.out_features, base.in_features) or B.shape[1] != r:
            raise LoRAError(
                f"{path}: the adapter is for a {B.shape[0]} × {A.shape[1]} matrix, here it is {base.out_features} × "
                f"{base.in_features}: it is for another base"
            )
        alpha = config["alpha_pattern"].get(
            get_pattern_key(config["alpha_pattern"], path), config["lora_alpha"]
        )
        # rsLoRA scales by alpha / sqrt(r) (Kalajdzievski, 2023): the same as alpha sqrt(r) in a plain layer.
        plan.append((path, base, r, alpha * math.sqrt(r) if config["use_rslora"] else alpha, A, B))
    model.requires_grad_(False)
    for path, base, r, alpha, A, B in plan:
        adapted = layer(base, r, alpha)
        adapted.scale = alpha / r  # the file's, whatever this class would make of alpha and r
        with torch.no_grad():
            adapted.A.copy_(A)
            adapted.B.copy_(B)
        _refuse_not_finite(path, adapted)
        model.set_submodule(path, adapted)
    return model


def _read_config(directory: Path) -> dict:
    from peft import LoraConfig

    path = directory / CONFIG
    if not path.exists():
        raise LoRAError(f"{directory} has no {CONFIG}: give the directory that save_lora or PEFT wrote")
    try:
        config = dict(json.loads(path.read_text("utf8")))
    except (ValueError, TypeError) as cause:
        raise LoRAError(
            f"{path} is not a JSON object ({cause}): it is damaged, save the adapter again"
        ) from cause
    if (kind := config.get("peft_type")) != "LORA":
        raise LoRAError(f"{path} describes {kind}, not LORA: use PEFT itself to load it")
    defaults = LoraConfig().to_dict()
    for name, value in config.items():
        plain = PLAIN_STARTS if name == "init_lora_weights" else (defaults.get(name), None, False, [], {})
        if name not in UNDERSTOOD and value not in plain:
            raise LoRAError(
                f"{path} sets {name} = {value!r}, which a plain LoRA layer cannot express: use PEFT itself"
            )
    return {"alpha_pattern": {}, "use_rslora": False, "lora_alpha": defaults["lora_alpha"]} | config


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.exists():
        raise LoRAError(
            f"{path} does not exist: an adapter directory holds {WEIGHTS} (pickled .bin files are not read)"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as cause:
        raise LoRAError(f"{path} is damaged ({cause}): save the adapter again") from cause
    if not tensors:
        raise LoRAError(f"{path} holds no tensors: save the adapter again")
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX) or not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise LoRAError(
                f"{path} holds {name}, which a plain LoRA layer cannot express: use PEFT itself to load it"
            )
        if not torch.isfinite(tensor.float()).all():
            raise LoRAError(f"{path}: {name} holds NaN or infinity: the training diverged, train again")
    return tensors
