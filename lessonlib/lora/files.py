"""A LoRA adapter in files of PEFT's own format: adapter_config.json and adapter_model.safetensors."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from lessonlib.models.surgery import CONFIG, WEIGHTS, read_object, read_tensors, refuse_not_finite

from .layer import (
    LoRAError,
    LoRALinear,
    LowRank,
    beside_A_and_B,
    lora_layers,
    refuse_base,
    refuse_diverged,
    required_layers,
)

PREFIX = "base_model.model."
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

    layers, directory = required_layers(model), Path(directory)
    for path, layer in layers:
        refuse_diverged(path, layer)
        _refuse_more_than_A_and_B(path, layer)
    ranks = {path: layer.A.shape[0] for path, layer in layers}
    alphas = {path: layer.scale * layer.A.shape[0] for path, layer in layers}
    r = max(ranks.values(), key=list(ranks.values()).count)
    alpha = max(alphas.values(), key=list(alphas.values()).count)
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


def _refuse_more_than_A_and_B(path: str, layer: nn.Module) -> None:
    if more := beside_A_and_B(layer):
        raise LoRAError(
            f"{path} is a {type(layer).__name__} with {more[0]} beside A and B, which a plain LoRA file cannot hold: "
            "a DoRALinear is written by save_dora"
        )


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
            raise LoRAError(f"the adapter changes {path}, which this model does not have: it is for another base")
        r = A.shape[0]
        refuse_base(path, base, r)
        if (B.shape[0], A.shape[1]) != (base.out_features, base.in_features) or B.shape[1] != r:
            raise LoRAError(
                f"{path}: the adapter is for a {B.shape[0]} × {A.shape[1]} matrix, here it is {base.out_features} × "
                f"{base.in_features}: it is for another base"
            )
        alpha = config["alpha_pattern"].get(get_pattern_key(config["alpha_pattern"], path), config["lora_alpha"])
        # rsLoRA scales by alpha / sqrt(r) (Kalajdzievski, 2023): the same as alpha sqrt(r) in a plain layer.
        plan.append((path, base, r, alpha * math.sqrt(r) if config["use_rslora"] else alpha, A, B))
    model.requires_grad_(False)
    for path, base, r, alpha, A, B in plan:
        adapted = layer(base, r, alpha)
        adapted.scale = alpha / r  # the file's, whatever this class would make of alpha and r
        with torch.no_grad():
            adapted.A.copy_(A)
            adapted.B.copy_(B)
        refuse_diverged(path, adapted)
        model.set_submodule(path, adapted)
    return model


def _read_config(directory: Path) -> dict:
    from peft import LoraConfig

    path = directory / CONFIG
    config = read_object(
        path,
        LoRAError,
        missing="{path.parent} has no {path.name}: give the directory that save_lora or PEFT wrote",
        damaged="{path} is not a JSON object ({cause}): it is damaged, save the adapter again",
    )
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
    tensors, _ = read_tensors(
        path,
        LoRAError,
        missing="{path} does not exist: an adapter directory holds {path.name} (pickled .bin files are not read)",
        damaged="{path} is damaged ({cause}): save the adapter again",
    )
    if not tensors:
        raise LoRAError(f"{path} holds no tensors: save the adapter again")
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX) or not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise LoRAError(
                f"{path} holds {name}, which a plain LoRA layer cannot express: use PEFT itself to load it"
            )
        refuse_not_finite({f"{path}: {name}": tensor}, LoRAError, "the training diverged, train again")
    return tensors
