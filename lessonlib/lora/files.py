"""A LoRA adapter in files of PEFT's own format: adapter_config.json and adapter_model.safetensors."""

import functools
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from lessonlib.models.pinned import known_to_differ
from lessonlib.models.surgery import (
    CONFIG,
    WEIGHTS,
    read_object,
    read_tensors,
    refuse_not_finite,
    written_together,
)

from .layer import (
    LoRAError,
    LoRALinear,
    LowRank,
    beside_A_and_B,
    linear_paths,
    lora_layers,
    put_layers,
    refuse_base,
    refuse_diverged,
    required_layers,
)
from .settings import settings

PREFIX = "base_model.model."
# What load_lora understands in PEFT's configuration; any other field that departs from its default is refused.
UNDERSTOOD = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "task_type", "peft_type", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "auto_mapping", "peft_version", "runtime_config", "eva_config",
}  # fmt: skip
SCALES = "scales"  # of the modules, kept beside the weights: a configuration of another run is then noticed
# The others (PiSSA, OLoRA, ...) change the base's weights too, which the file does not hold.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def save_lora(model: nn.Module, directory: str | Path) -> Path:
    """Write the adapter as PEFT does: adapter_config.json and adapter_model.safetensors.

    Ranks and scales may differ between layers; what layers share is written for each. The two files are written aside
    and take their places together, so that a full disk costs no older adapter. Returns the directory.
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
    scales = {path: layer.scale for path, layer in layers}
    with written_together(directory) as aside:
        save_tensors(tensors, aside / WEIGHTS, {"format": "pt", SCALES: json.dumps(scales)})
        config.save_pretrained(aside)
    return directory


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, beside: Mapping[str, str]) -> None:
    """Write a safetensors file with these words beside its tensors: the same bytes for the same content.

    The format's own writer draws the order of the words anew for each file.
    """
    save_file(dict(tensors), path, metadata=dict(beside))
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(beside.items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


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
    (names or shapes that do not fit), files of two adapters (ranks, scales or targets that do not belong together),
    values that are not finite, and whatever a plain LoRA layer cannot express (DoRA, biases, modules_to_save, ...), by
    name. Warns where the file names another base than this model is known to be.
    """
    directory = Path(directory)
    config = read_config(directory)
    said = settings(config, directory / CONFIG)
    tensors, stored = _read_weights(directory / WEIGHTS)
    if next(lora_layers(model), None):
        raise LoRAError("this model has LoRA already: call remove_lora(model) first, or load a fresh one")
    modules, build = dict(model.named_modules()), {}
    for path in sorted({name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}):
        A, B = (tensors.get(f"{PREFIX}{path}.lora_{side}.weight") for side in "AB")
        if A is None or B is None:
            raise LoRAError(f"{directory / WEIGHTS} lacks lora_A or lora_B of {path}: the file is not whole")
        _refuse_pair(path, modules.get(path), A, B)
        said.refuse_other_rank(path, len(A))
        scale = said.scale(path, len(A))
        if not math.isclose(scale, was := stored.get(path, scale), rel_tol=1e-6):
            raise LoRAError(
                f"{path} was saved with the scale {was:g}, and {said.file} makes it {scale:g}: the two files are of "
                "different adapters, save it again"
            )
        build[path] = functools.partial(_layer, layer, path, modules[path], A, B, scale)
    said.refuse_other_targets(build, modules, linear_paths(model))
    _warn_of_another_base(config, model)
    return put_layers(model, build)


def _refuse_pair(path: str, base: nn.Module | None, A: torch.Tensor, B: torch.Tensor) -> None:
    if base is None:
        raise LoRAError(f"the adapter changes {path}, which this model does not have: it is for another base")
    if A.ndim != 2 or B.ndim != 2:
        raise LoRAError(f"{path} has A {tuple(A.shape)} and B {tuple(B.shape)}, expected matrices: save it again")
    if len(A) != B.shape[1] or not len(A):
        raise LoRAError(
            f"{path} has A of rank {len(A)} and B of rank {B.shape[1]}: the file is damaged, save it again"
        )
    refuse_base(path, base, len(A))
    if (B.shape[0], A.shape[1]) != (base.out_features, base.in_features):
        raise LoRAError(
            f"{path}: the adapter is for a {B.shape[0]} × {A.shape[1]} matrix, here it is {base.out_features} × "
            f"{base.in_features}: it is for another base"
        )


def _layer(layer, path: str, base: nn.Module, A: torch.Tensor, B: torch.Tensor, scale: float) -> nn.Module:
    adapted = layer(base, len(A), scale * len(A))
    adapted.scale = scale  # the file's, whatever this class would make of alpha and r
    with torch.no_grad():
        adapted.A.copy_(A)
        adapted.B.copy_(B)
    refuse_diverged(path, adapted)
    return adapted


def _warn_of_another_base(config: dict, model: nn.Module) -> None:
    theirs, ours = config.get("base_model_name_or_path"), getattr(model, "name_or_path", None)
    if isinstance(theirs, str) and theirs and ours and known_to_differ(theirs, str(ours)):
        warnings.warn(
            f"the adapter was trained on {theirs}, this base is {ours}: where their weights differ, so do the answers; "
            "load the base that it was trained on",
            stacklevel=3,
        )


def read_config(directory: Path) -> dict:
    """The configuration of a directory's adapter, if it is a plain LoRA's. Raises LoRAError, by name, where it is not."""
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
    return config


def _read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The matrices by name; and the scales of the modules, where `save_lora` wrote them."""
    tensors, beside = read_tensors(
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
        if not tensor.is_floating_point():
            raise LoRAError(f"{path}: {name} holds {tensor.dtype}, expected floating point: save the adapter again")
        refuse_not_finite({f"{path}: {name}": tensor}, LoRAError, "the training diverged, train again")
    try:
        return tensors, {module: float(scale) for module, scale in json.loads(beside.get(SCALES, "{}")).items()}
    except (ValueError, TypeError, AttributeError) as cause:
        raise LoRAError(f"{path} holds scales that cannot be read ({cause}): save the adapter again") from cause
