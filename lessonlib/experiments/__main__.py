"""`python -m lessonlib.experiments [lesson06_adapters ...]`: record the runs that are missing, one after another."""

import sys

from .registry import modules


def main(names: list[str]) -> None:
    """Record what is missing in the modules of these names, or in all. Raises SystemExit for an unknown name."""
    known = {module.__name__.rpartition(".")[2]: module for module in modules()}
    for name in names:
        if name not in known:
            raise SystemExit(f"no module of experiments {name!r}; there are {', '.join(known)}")
    for name in names or known:
        known[name].record_all()


if __name__ == "__main__":
    main(sys.argv[1:])
