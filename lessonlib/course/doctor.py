"""The report at set-up: each line [OK], or [FAIL] with what to do. Also `python -m lessonlib.course.doctor`."""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lessonlib.bootstrap import PYTHON, bounds, missing

NEEDED_GB_MEMORY = 7.0
# Once the packages are there: 0.5 GB while the model is fetched (0.1) and unpacked (0.3), then 0.3 and checkpoints.
NEEDED_GB_DISK = 1.0


def examine(fetch: bool = False) -> Iterator[tuple[bool, str, str]]:
    """Yields (fine, what was found, what to do if it is not). With `fetch` the base model is fetched if need be."""
    yield sys.version_info >= PYTHON, f"Python {sys.version.split()[0]}", "use Python 3.11.5 or newer"
    lacking = missing()
    yield (
        not lacking,
        f"{len(bounds()) - len(lacking)} of {len(bounds())} packages",
        f"run `make setup`: {', '.join(lacking)}",
    )
    if lacking:
        return
    import torch

    from lessonlib import hardware
    from lessonlib.models import cache_directory, find_base

    yield True, f"torch {torch.__version__}, {hardware.threads()} threads, {hardware.processor()}", ""
    speed = hardware.bfloat16_speed()
    chosen = str(hardware.dtype()).removeprefix("torch.")
    yield True, f"bfloat16 runs {speed:.1f} × as fast as float32 here, so the course uses {chosen}", ""
    if torch.cuda.is_available():
        yield True, f"GPU {torch.cuda.get_device_name()}, {hardware.memory_gb():.0f} GB free", ""
    else:
        yield True, "no GPU, none is needed", ""
    free = hardware.memory_gb(torch.device("cpu"))
    yield (
        free >= NEEDED_GB_MEMORY,
        f"{free:.1f} GB of memory free",
        f"close programs: {NEEDED_GB_MEMORY} GB are needed",
    )
    yield _attempt("a place for base models", lambda: _disk(cache_directory()))
    yield _unfinished()
    if fetch:
        yield _attempt("base model", lambda: (True, f"base model in {find_base()}", ""))


def _disk(cache: Path) -> tuple[bool, str, str]:
    cache.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(cache).free / 1e9
    remedy = f"free {NEEDED_GB_DISK} GB, or set LESSONLIB_CACHE"
    return disk >= NEEDED_GB_DISK, f"{disk:.0f} GB of disk free", remedy


def _unfinished() -> tuple[bool, str, str]:
    from lessonlib.training.checkpoint import OWN, unfinished

    try:
        runs = unfinished()
    except OSError as cause:
        return False, f"unfinished runs ({cause})", f"set {OWN}"
    if not runs:
        return True, "no unfinished runs", ""
    lines = [f"{len(runs)} unfinished runs, which the same cell takes up; `--clear` removes them:", *map(str, runs)]
    return True, "\n       ".join(lines), ""


def _attempt(what: str, step: Callable[[], tuple[bool, str, str]]) -> tuple[bool, str, str]:
    try:
        return step()
    except Exception as problem:
        return False, what, str(problem)


def clear() -> int:
    """Remove all unfinished runs but those that a living process is at, and say which; how many could not be removed."""
    from lessonlib.training.checkpoint import OWN, clear, unfinished, work_directory

    try:
        runs = unfinished()
        removed = clear(runs)
    except OSError as problem:
        print(f"[FAIL] unfinished runs ({problem}): set {OWN}")
        return 1
    for run in runs:
        print(f"{'removed' if run in removed else 'kept'} {run}")
    size = sum(run.bytes for run in removed)
    print(f"{len(removed)} of {len(runs)} unfinished runs removed from {work_directory()}, {size / 1e6:.1f} MB")
    return len([run for run in runs if run not in removed and not run.running])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; how many of its lines failed."""
    parser = argparse.ArgumentParser(prog="lessonlib.course.doctor", description=__doc__)
    parser.add_argument("--fetch", action="store_true", help="fetch the base model if it is not here")
    parser.add_argument(
        "--clear", action="store_true", help="remove unfinished training that no process is at, and end"
    )
    options, failed = parser.parse_args(arguments), 0
    if options.clear:
        return clear()
    for fine, found, remedy in examine(options.fetch):
        print(f"[OK]   {found}" if fine else f"[FAIL] {found}: {remedy}", flush=True)
        failed += not fine
    return failed


if __name__ == "__main__":
    sys.exit(main())
