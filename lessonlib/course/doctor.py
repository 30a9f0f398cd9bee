"""The report at set-up: each line [OK], or [FAIL] with what to do. Also `python -m lessonlib.course.doctor`."""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator

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
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(cache).free / 1e9
    yield (
        disk >= NEEDED_GB_DISK,
        f"{disk:.0f} GB of disk free",
        f"free {NEEDED_GB_DISK} GB, or set LESSONLIB_CACHE",
    )
    if fetch:
        yield _attempt(lambda: f"base model in {find_base()}")


def _attempt(step: Callable[[], str]) -> tuple[bool, str, str]:
    try:
        return True, step(), ""
    except Exception as problem:
        return False, "base model", str(problem)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fetch", action="store_true", help="fetch the base model if it is not here")
    failed = 0
    for fine, found, remedy in examine(parser.parse_args().fetch):
        print(f"[OK]   {found}" if fine else f"[FAIL] {found}: {remedy}", flush=True)
        failed += not fine
    return failed


if __name__ == "__main__":
    sys.exit(main())
