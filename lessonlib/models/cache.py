"""The files of base models: where they are kept, and that they are whole."""

import functools
import hashlib
import json
import os
from pathlib import Path

from lessonlib.display import synced

MANIFEST = "lessonlib.json"
LARGE = 500_000_000  # bytes of a file that takes longer to hash than to load


class ModelFileError(RuntimeError):
    """A file of the base model is missing, truncated or not the one that was pinned."""


def cache_directory() -> Path:
    """Where base models are kept: $LESSONLIB_CACHE, else ~/.cache/lessonlib. It may be shared and read-only.

    Raises ModelFileError where neither is known.
    """
    try:
        return Path(os.environ.get("LESSONLIB_CACHE") or Path.home() / ".cache" / "lessonlib")
    except RuntimeError as cause:  # no HOME, and a user that the system does not know
        raise ModelFileError(
            "there is no home directory to keep base models in: set LESSONLIB_CACHE to a directory that you can write"
        ) from cause


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file, which is read once a process as long as it is not touched."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(directory: Path) -> str:
    """What a base model is, whatever its directory is called: a sha256 over its weights, configuration and tokenizer."""
    kinds = ("*.safetensors", "*.bin", "config.json", "tokenizer*")
    files = {path.name: sha256(path) for kind in kinds for path in directory.glob(kind) if path.is_file()}
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def write_manifest(directory: Path, gguf: Path) -> None:
    """Write beside the files of a converted model what each must be, and from which 4-bit file they came.

    All of them are on the disk then, so that the directory can take its name.
    """
    files = {path.name: sha256(path) for path in sorted(directory.iterdir())}
    large = {name: seen for name in files if (seen := _seen(directory / name))[0] > LARGE}
    about = {"gguf_sha256": sha256(gguf), "files": files} | ({"seen": large} if large else {})
    (directory / MANIFEST).write_text(json.dumps(about, indent=1), "utf8")
    synced(directory)


def verify(directory: Path) -> None:
    """Raises ModelFileError, with the remedy, where a file of a converted model is missing or altered.

    A large file is hashed only where its size or time is not what the conversion left, as in a copy.
    """
    manifest = directory / MANIFEST
    remedy = f"delete the directory {directory} and call again: it is made anew"
    if not manifest.exists():
        raise ModelFileError(f"{directory} has no {MANIFEST}, so it was not written by this library: {remedy}")
    try:
        about = json.loads(manifest.read_text("utf8"))
        files, seen = about["files"], about.get("seen", {})
    except (ValueError, KeyError, TypeError) as cause:
        raise ModelFileError(f"{manifest} is damaged ({cause!r}): {remedy}") from cause
    for file, expected in files.items():
        path = directory / file
        if not path.exists():
            raise ModelFileError(f"{path} is missing: {remedy}")
        if seen.get(file) == _seen(path):
            continue
        if (digest := sha256(path)) != expected:
            raise ModelFileError(f"{path} is damaged (sha256 {digest[:12]}…, expected {expected[:12]}…): {remedy}")


def _seen(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
