"""Adapters (Houlsby et al., 2019, arXiv:1902.00751, section 2).

    x + W_up f(W_down x + b_down) + b_up        W_down (m, d),  W_up (d, m),  m much smaller than d

Two of them stand in every layer of a frozen model, behind attention and behind the feed-forward part, each before the
residual sum. W_up and b_up start at zero, so a fresh adapter gives back exactly what it gets.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from lessonlib.models.surgery import read_tensors, refuse_not_finite


class Bottleneck(nn.Module):
    """x plus what comes back from a detour through m dimensions.

    x (..., d) -> (..., d)

    The weights are float32 whatever x is (small updates vanish in bfloat16) and are cast to x's dtype.
    """

    def __init__(self, d, m):
        super().__init__()
        self.down, self.up = nn.Linear(d, m), nn.Linear(m, d)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        down, up = self.down, self.up
        narrow = F.gelu(F.linear(x, down.weight.to(x.dtype), down.bias.to(x.dtype)))  # (..., m)
        return x + F.linear(narrow, up.weight.to(x.dtype), up.bias.to(x.dtype))  # (..., d)


class NearIdentity(Bottleneck):
    """A bottleneck that starts as Houlsby et al. start theirs (section 3.6): nearly, not exactly, the identity.

    x (..., d) -> (..., d)

    Both matrices are drawn from a Gaussian of standard deviation `std`, cut off at two of them; biases are zero.
    """

    def __init__(self, d, m, std=0.01):
        super().__init__(d, m)
        self.std = std
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(linear.bias)


class AdapterError(ValueError):
    """Adapters cannot be added, swapped, saved or loaded; the message says why and what would do."""


class AdapterLayer(nn.Module):
    """A frozen module of the base and, beside it, what belongs to a task: `adapter`, which can be swapped."""

    def __init__(self, base: nn.Module, adapter: nn.Module):
        super().__init__()
        self.base = base
        self.adapter = adapter


class Adapted(AdapterLayer):
    """The last projection of a sublayer with an adapter of width m behind it.

    x (..., d_in) -> (..., d)
    """

    def __init__(self, base: nn.Module, adapter: nn.Module, m: int):
        super().__init__(base, adapter)
        self.m = m

    def forward(self, x):
        return self.adapter(self.base(x))


class TrainedNorm(AdapterLayer):
    """A layer norm whose gain (and bias) trains as a float32 copy; the base's own stays as it is.

    x (..., d) -> (..., d)
    """

    def __init__(self, base: nn.Module):
        copies = {name: nn.Parameter(p.detach().to(torch.float32, copy=True)) for name, p in base.named_parameters()}
        super().__init__(base, nn.ParameterDict(copies))

    def forward(self, x):
        values = {name: p.to(x.dtype) for name, p in self.adapter.items()}
        return torch.func.functional_call(self.base, values, (x,))


# --- where they stand ------------------------------------------------------------------------------------------------

# The projection that ends each sublayer, as the last parts of its path: what it gives goes into the residual sum.
# Families: Llama (also Mistral, Qwen, SmolLM); OPT; GPT-2 and GPT-3; BERT and RoBERTa.
AFTER_ATTENTION = ("self_attn.o_proj", "self_attn.out_proj", "attn.c_proj", "attention.output.dense")
AFTER_FEED_FORWARD = ("mlp.down_proj", "fc2", "mlp.c_proj", "output.dense")


def insertion_points(model: nn.Module, ends: tuple[str, ...]) -> list[str]:
    """Paths of the modules whose path ends in one of these, part by part; the longest known ending decides."""
    known = sorted(AFTER_ATTENTION + AFTER_FEED_FORWARD, key=len, reverse=True)
    found = []
    for path, _ in model.named_modules():
        ending = next((end for end in known if f".{path}".endswith(f".{end}")), None)
        if ending in ends:
            found.append(path)
    return found


def add_adapters(model: nn.Module, m: int, module: Callable = Bottleneck) -> nn.Module:
    """Freeze the model and put `module(d, m)` at Houlsby's two places: behind attention, behind the feed-forward part.

    m: the width of the bottleneck. module: what to build; a class of your own works if it maps (..., d) to (..., d).

    Returns the same model. Raises AdapterError for m < 1, a model that has adapters already, a family whose places
    are not known, and weights that are not finite; the model is then unchanged.

    >>> from lessonlib.costs import meta_model
    >>> bert = add_adapters(meta_model("bert-large"), m=64)
    >>> sum(p.numel() for p in bert.parameters() if p.requires_grad)
    6343680
    """
    return _add(model, m, module, AFTER_ATTENTION + AFTER_FEED_FORWARD)


def add_adapters_after_feed_forward(model: nn.Module, m: int, module: Callable = Bottleneck) -> nn.Module:
    """Freeze the model and put one `module(d, m)` in each layer, behind the feed-forward part only.

    The placement of Pfeiffer et al. (2020, arXiv:2005.00247): half the modules, so twice the m for as many parameters.
    Raises as `add_adapters` does.
    """
    return _add(model, m, module, AFTER_FEED_FORWARD)


def _add(model: nn.Module, m: int, module: Callable, ends: tuple[str, ...]) -> nn.Module:
    if any(isinstance(part, Adapted) for part in model.modules()):
        raise AdapterError("this model has adapters already: call remove_adapters(model), or swap_adapters")
    if not isinstance(m, int) or isinstance(m, bool) or m < 1:
        raise AdapterError(f"m is {m!r}; the width of a bottleneck must be a whole number of at least 1")
    if not (paths := insertion_points(model, ends)):
        raise AdapterError(
            f"no place for adapters is known in a {type(model).__name__}: expected modules that end in "
            f"{', '.join(ends)}; add yours to lessonlib.adapters.AFTER_ATTENTION or AFTER_FEED_FORWARD"
        )
    for path in paths:
        weight = {f"{path}.weight": model.get_submodule(path).weight}
        refuse_not_finite(weight, AdapterError, "load the base model anew")
    built = {path: _adapted(model.get_submodule(path), m, module) for path in paths}
    _freeze_base(model)
    for path, part in built.items():
        model.set_submodule(path, part)
    return model


def _adapted(base: nn.Module, m: int, module: Callable) -> Adapted:
    with torch.device(base.weight.device):
        return Adapted(base, module(width(base), m), m)


def _freeze_base(model: nn.Module) -> None:
    for parameter in base_parameters(model):
        parameter.requires_grad_(False)


def width(base: nn.Module) -> int:
    """The width d of what a projection gives: a linear layer's, or that of GPT-2's transposed Conv1D."""
    return base.nf if hasattr(base, "nf") else base.out_features


def train_layer_norms(model: nn.Module) -> nn.Module:
    """Freeze the base and let a float32 copy of each layer norm's gain and bias train; adapters go on training.

    Houlsby et al. train them with the adapters (section 2.1). Raises AdapterError where they train already or there
    are none.
    """
    if any(isinstance(part, TrainedNorm) for part in model.modules()):
        raise AdapterError("the layer norms of this model train already: call remove_adapters(model) first")
    tasks = {id(inner) for _, part in adapter_layers(model) for inner in part.adapter.modules()}
    norms = [(path, part) for path, part in model.named_modules() if _is_norm(part) and id(part) not in tasks]
    if not norms:
        raise AdapterError(f"a {type(model).__name__} has no layer norm with weights to train")
    _freeze_base(model)
    for path, norm in norms:
        model.set_submodule(path, TrainedNorm(norm))
    return model


def _is_norm(module: nn.Module) -> bool:
    # Each family of transformers has an RMSNorm class of its own, with no common parent.
    kind = isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith("RMSNorm")
    return kind and any(True for _ in module.parameters())


def remove_adapters(model: nn.Module) -> nn.Module:
    """Take adapters and trained layer norms out; the base is then what it was, bit for bit. All is frozen still."""
    for path, part in _all_or_raise(model):
        model.set_submodule(path, part.base)
    return model


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """(path, module) of everything in the model that carries something of a task."""
    return ((path, part) for path, part in model.named_modules() if isinstance(part, AdapterLayer))


def _all_or_raise(model: nn.Module) -> list[tuple[str, AdapterLayer]]:
    if not (found := list(adapter_layers(model))):
        raise AdapterError("this model has no adapters: call add_adapters(model, m) first")
    return found


# --- several tasks over one base -------------------------------------------------------------------------------------


def adapters_of(model: nn.Module) -> dict[str, nn.Module]:
    """What belongs to the task, by the path where it stands: the modules themselves, not copies."""
    return {path: part.adapter for path, part in _all_or_raise(model)}


def swap_adapters(model: nn.Module, adapters: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Put another task's adapters in the place of those that stand there, and give these back.

    adapters: as `adapters_of` or `read_adapters` gives them. Only references change hands; no number is copied.
    Raises AdapterError where they are for other places; the model is then unchanged.

    >>> sentiment = swap_adapters(model, urgency)  # doctest: +SKIP
    """
    standing = _all_or_raise(model)
    if {path for path, _ in standing} != set(adapters):
        strange = sorted({path for path, _ in standing} ^ set(adapters))[0]
        raise AdapterError(
            f"the adapters stand at other places than this model's ({strange}): remove_adapters, then load them"
        )
    for path, part in standing:
        _refuse_other_width(path, part.adapter, adapters[path])
    before = {path: part.adapter for path, part in standing}
    for path, part in standing:
        part.adapter = adapters[path]
    return before


def _refuse_other_width(path: str, one: nn.Module, other: nn.Module) -> None:
    if hasattr(one, "up") and hasattr(other, "up") and width(one.up) != width(other.up):
        raise AdapterError(
            f"{path}: the adapter is for width {width(other.up)}, here it is {width(one.up)}: it is for another base"
        )


def base_digest(model: nn.Module) -> str:
    """sha256 of every byte of the base's parameters, whatever adapters stand beside them."""
    digest = hashlib.sha256()
    for parameter in base_parameters(model):
        values = parameter.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(values.view(torch.uint8).numpy()))
    return digest.hexdigest()


def base_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the base, in the order of its modules, those of tasks left out."""
    own = {id(p) for _, part in adapter_layers(model) for p in part.adapter.parameters()}
    return [p for p in model.parameters() if id(p) not in own]


# --- files -----------------------------------------------------------------------------------------------------------


def save_adapters(model: nn.Module, file: str | Path) -> Path:
    """Write what belongs to the task, and nothing of the base, as one safetensors file. Returns its path.

    Raises AdapterError for a model without adapters and for values that are not finite; nothing is then written.
    """
    file, tensors = Path(file), {}
    for path, adapter in adapters_of(model).items():
        for name, tensor in adapter.state_dict().items():
            tensors[f"{path}.{name}"] = tensor.detach().cpu().contiguous()
    refuse_not_finite(tensors, AdapterError, "train again with a smaller learning rate")
    widths = {path: getattr(part, "m", None) for path, part in adapter_layers(model)}  # None: a layer norm's
    about = {"base": _fingerprint(model), "m": json.dumps(widths)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"format": "pt"} | about)
    return file


def _fingerprint(model: nn.Module) -> str:
    """Tells bases apart: a hash of the shapes and of 64 values of each parameter, the same in float32 and bfloat16."""
    digest = hashlib.sha256()
    for parameter in base_parameters(model):
        sample = parameter.detach().flatten()[:64].cpu().bfloat16()
        digest.update(repr(tuple(parameter.shape)).encode() + sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def read_adapters(model: nn.Module, file: str | Path, module: Callable = Bottleneck) -> dict[str, nn.Module]:
    """A task's adapters from a file that `save_adapters` wrote, built for this model but not put into it.

    The result is what `swap_adapters` takes. Raises AdapterError for a missing or damaged file, adapters of another
    base or width, a `module` with other tensors, and values that are not finite.
    """
    return {path: part.adapter for path, part in _parts(model, file, module).items()}


def load_adapters(model: nn.Module, file: str | Path, module: Callable = Bottleneck) -> nn.Module:
    """Freeze the model and put the adapters of a file into it. Returns the same model.

    Raises as `read_adapters` does, and for a model that has adapters already; the model is then unchanged.
    """
    if next(adapter_layers(model), None):
        raise AdapterError("this model has adapters already: call remove_adapters(model), or swap_adapters")
    parts = _parts(model, file, module)
    _freeze_base(model)
    for path, part in parts.items():
        model.set_submodule(path, part)
    return model


def _parts(model: nn.Module, file: str | Path, module: Callable) -> dict[str, AdapterLayer]:
    """What stands at each path of the file, filled with its values."""
    tensors, about = _read(Path(file))
    bases = dict(model.named_modules()) | {path: part.base for path, part in adapter_layers(model)}
    parts = {}
    for path, m in json.loads(about["m"]).items():
        values = {n.removeprefix(f"{path}."): t for n, t in tensors.items() if n.startswith(f"{path}.")}
        if path not in bases:
            raise AdapterError(f"the file has an adapter for {path}, which this model does not have: another base")
        part = TrainedNorm(bases[path]) if m is None else _adapted(bases[path], m, module)
        parts[path] = _filled(path, part, values)
    if about["base"] != _fingerprint(model):
        raise AdapterError(
            f"{Path(file).name} was trained over a base of the same shape with other weights: load that base"
        )
    return parts


def _filled(path: str, part: AdapterLayer, values: dict[str, torch.Tensor]) -> AdapterLayer:
    own = part.adapter.state_dict()
    if own.keys() != values.keys():
        names = f"{', '.join(sorted(values))}; this module has {', '.join(sorted(own))}"
        raise AdapterError(f"{path}: the file holds {names}: give the `module` that was saved")
    for name, tensor in values.items():
        if own[name].shape != tensor.shape:
            raise AdapterError(
                f"{path}.{name} has the shape {tuple(tensor.shape)}, here it would be {tuple(own[name].shape)}: "
                "it is for a base of another width"
            )
    part.adapter.load_state_dict(values)
    return part


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors, about = read_tensors(
        file,
        AdapterError,
        missing="there is no file {path}: give the path that save_adapters returned",
        damaged="{path} is damaged or no safetensors file ({cause}): save it again",
    )
    if not {"base", "m"} <= about.keys():
        raise AdapterError(f"{file} does not say which base it is for: it was not written by save_adapters")
    refuse_not_finite(tensors, AdapterError, "the training diverged, train again")
    return tensors, about
