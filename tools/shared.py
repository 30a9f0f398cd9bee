"""What the notebooks share: the modules of the library that several of them import, for docs/contributing.md."""

import ast
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from .files import ROOT, paths, write_between

PAGE = ROOT / "docs" / "contributing.md"
SEVERAL = 3  # notebooks, from which on a module counts as shared


def imported(source: str) -> Iterator[str]:
    """The modules of the library that code imports, in it or in its functions; a face counts, not the file behind it.

    >>> sorted(imported("import torch\\nfrom lessonlib.lora import add_lora\\nfrom lessonlib import runs, start"))
    ['lessonlib', 'lessonlib.lora', 'lessonlib.runs']
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] == "lessonlib")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lessonlib":
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if _is_module(inner) else node.module


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a file and no package
        return False


def users() -> dict[str, list[str]]:
    """The two-digit numbers of the notebooks that import a module, by module."""
    found: dict[str, list[str]] = {}
    for path in paths():
        for module in sorted(set(imported(_code(path)))):
            found.setdefault(module, []).append(path.name[:2])
    return found


def _code(path: Path) -> str:
    cells = json.loads(path.read_text("utf8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").split("\n")
    return "\n".join(line for line in lines if not line.startswith(("%", "!")))


def listed(several: int = SEVERAL) -> str:
    """The modules that so many notebooks import, as a list in Markdown, the most shared first.

    lessonlib.bootstrap is left out: the first cell, the same in all notebooks, imports it.
    """
    many = {module: numbers for module, numbers in users().items() if len(numbers) >= several}
    many.pop("lessonlib.bootstrap", None)
    order = sorted(many, key=lambda module: (-len(many[module]), module))
    return "\n".join(f"- `{module}`: {_numbers(many[module])}" for module in order)


def _numbers(numbers: list[str]) -> str:
    return "all" if len(numbers) == len(paths()) else " ".join(numbers)


def write() -> None:
    """Write the list into docs/contributing.md."""
    write_between("shared", listed(), PAGE)
