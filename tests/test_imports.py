"""What benchmarks, tools, notebooks and documents take from the library is there: seen without running any of them."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("data/**/*.py")]
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/*.ipynb"))
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/**/*.md")]
named = pytest.mark.parametrize


def absent(code: str) -> list[str]:
    """The names that `from lessonlib... import name` lines ask for and that are not there."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("lessonlib"):
            found += [f"{node.module}.{alias.name}" for alias in node.names if not _is_there(node.module, alias.name)]
    return found


def _is_there(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


def cells(path: Path) -> str:
    """The code of a notebook, without its magics."""
    sources = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return "\n".join(re.sub(r"^[%!].*$", "", source, flags=re.M) for source in sources)


@named("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_script_imports_what_is_there(path):
    assert absent(path.read_text("utf8")) == []


@named("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_what_is_there(path):
    assert absent(cells(path)) == []


@named("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_imports_what_is_there(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text("utf8"), flags=re.S):
        assert absent(block) == []


def test_what_is_not_there_is_named():
    code = (
        "from lessonlib.lora import add_lora, add_lore\nfrom lessonlib.nowhere import x\nfrom lessonlib import lora"
    )
    assert absent(code) == ["lessonlib.lora.add_lore", "lessonlib.nowhere.x"]
