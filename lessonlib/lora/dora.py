"""Weight-decomposed low-rank adaptation, DoRA (Liu et al., 2024, arXiv:2402.09353, section 4, equation 5).

    h = m (W + s B A) x / ||W + s B A||        s = alpha / r,  W (d_out, d_in) frozen,  A (r, d_in),  B (d_out, r)

What changes against LoRA: the length of each row of the weight is a parameter of its own, m (d_out,), and B A moves
its direction alone. m starts at the lengths of W's rows and B at zero, so a fresh layer computes what its base does.
The norm is that of each row of torch's (d_out, d_in), one an output, as in the authors' code and in PEFT.
"""

import copy
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from lessonlib.models.surgery import CONFIG, WEIGHTS, read_object, read_tensors, shallow_copy, written_together

from .files import PREFIX, load_lora, save_lora, save_tensors
from .layer import LoRAError, LoRALinear, lora_layers

MAGNITUDE = ".lora_magnitude_vector"
UNREADABLE = "{path} cannot be read ({cause}): give what save_dora or PEFT wrote"


class DoRALinear(LoRALinear):
    """A frozen linear layer, the direction of its rows trained by an update of rank r, their length by m.

    x (..., d_in) -> (..., d_out)

    The norm is a constant to the gradient, as section 4.3 of the paper has it: that saves memory. Raises LoRAError for
    a base whose weight is packed in bits.
    """

    def __init__(self, base, r=8, alpha=16.0):
        if not base.weight.is_floating_point():
            raise LoRAError(f"{type(base).__name__} holds packed bits, whose rows have no length: use LoRALinear")
        super().__init__(base, r, alpha)
        self.m = nn.Parameter(self.norm())

    @torch.no_grad()
    def norm(self):
        """||W + s B A||, the length of each row, (d_out,)."""
        return (self.base.weight.float() + self.scale * self.B @ self.A).norm(dim=1)

    def forward(self, x):
        A, B, W = self.A.to(x.dtype), self.B.to(x.dtype), self.base.weight.to(x.dtype)
        y = F.linear(x, W) + self.scale * (x @ A.T) @ B.T  # (..., d_out)
        y = (self.m / self.norm()).to(x.dtype) * y
        return y if self.base.bias is None else y + self.base.bias.to(x.dtype)

    @torch.no_grad()
    def merged(self):
        """A plain linear layer with weight m (W + s B A) / ||W + s B A||; self is left as it was."""
        linear = copy.deepcopy(self.base)
        moved = linear.weight.float() + self.scale * self.B @ self.A
        linear.weight.copy_((self.m / self.norm())[:, None] * moved)
        return linear


# --- files, in PEFT's own format -------------------------------------------------------------------------------------


def save_dora(model: nn.Module, directory: str | Path) -> Path:
    """Write the adapter as PEFT does: LoRA's two files, m with A and B, `use_dora` in the configuration.

    Returns the directory. Raises LoRAError for a model without DoRA, one where only some layers are DoRA's, and
    values that are not finite; nothing is then written.
    """
    layers, directory = dict(lora_layers(model)), Path(directory)
    if not layers:
        raise LoRAError("this model has no DoRA layers: call add_lora(model, ..., layer=DoRALinear) first")
    for path, layer in layers.items():
        if not isinstance(layer, DoRALinear):
            raise LoRAError(f"{path} is a {type(layer).__name__}, not a DoRALinear: use save_lora")
        _refuse_m(path, layer.m, len(layer.B))
    magnitudes = {f"{PREFIX}{path}{MAGNITUDE}": layer.m.detach().cpu() for path, layer in layers.items()}
    with written_together(directory) as aside:
        save_lora(_without_m(model, layers), aside)
        tensors, beside = read_tensors(aside / WEIGHTS, LoRAError, UNREADABLE, UNREADABLE)
        save_tensors(tensors | magnitudes, aside / WEIGHTS, beside)
        _write_config(aside, _config(aside) | {"use_dora": True})
    return directory


def _without_m(model: nn.Module, layers: dict[str, DoRALinear]) -> nn.Module:
    """The model over the same tensors with plain LoRA layers, for `save_lora`; the model itself stays as it is."""
    twin = shallow_copy(model)
    for path, layer in layers.items():
        plain = LoRALinear.__new__(LoRALinear)
        nn.Module.__init__(plain)
        plain.base, plain.A, plain.B, plain.scale = layer.base, layer.A, layer.B, layer.scale
        twin.set_submodule(path, plain)
    return twin


def load_dora(model: nn.Module, directory: str | Path) -> nn.Module:
    """Add the adapter that `save_dora` or PEFT wrote.

    Raises LoRAError as `load_lora` does, and for a plain LoRA adapter; the model is then as it was.
    """
    directory = Path(directory)
    config = _config(directory)
    if config.get("use_dora") is not True:
        raise LoRAError(f"{directory / CONFIG} does not set use_dora: load it with load_lora")
    tensors, beside = read_tensors(directory / WEIGHTS, LoRAError, UNREADABLE, UNREADABLE)
    m = {name.removesuffix(MAGNITUDE): tensors.pop(name) for name in list(tensors) if name.endswith(MAGNITUDE)}
    d_out = {name.removesuffix(".lora_B.weight"): len(B) for name, B in tensors.items() if "lora_B" in name}
    if odd := sorted(m.keys() ^ d_out.keys()):
        raise LoRAError(f"{directory / WEIGHTS} lacks B or the magnitudes of {odd[0]}: the file is not whole")
    for path, magnitudes in m.items():
        _refuse_m(path.removeprefix(PREFIX), magnitudes, d_out[path])
    with tempfile.TemporaryDirectory() as plain:
        _write_config(Path(plain), config | {"use_dora": False})
        save_file(tensors, Path(plain) / WEIGHTS, metadata=beside)
        load_lora(model, plain, layer=DoRALinear)
    for path, layer in lora_layers(model):
        with torch.no_grad():
            layer.m.copy_(m[PREFIX + path])
    return model


def _config(directory: Path) -> dict:
    return read_object(directory / CONFIG, LoRAError, UNREADABLE, UNREADABLE)


def _write_config(directory: Path, config: dict) -> None:
    (directory / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), "utf8")


def _refuse_m(path: str, m: torch.Tensor, d_out: int) -> None:
    if m.shape != (d_out,) or not torch.isfinite(m).all():
        raise LoRAError(f"{path}: {tuple(m.shape)} magnitudes, expected {d_out} finite numbers: train or save again")
