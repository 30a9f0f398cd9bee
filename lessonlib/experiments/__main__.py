"""`python -m lessonlib.experiments [lesson06_adapters ...]`: record the runs that are missing, one after another."""

import sys

from .registry import modules


def main(names: list[str]) -> int:
    """Record what is missing in the modules of these names, or in all: 0, or 2 for an unknown name, which a line says."""
    known = {module.__name__.rpartition(".")[2]: module for module in modules()}
    for name in names:
        if name not in known:
            print(f"no module of experiments {name!r}; there are {', '.join(known)}", file=sys.stderr)
            return 2
    for name in names or known:
        known[name].record_all()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
