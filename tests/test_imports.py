"""What benchmarks, tools, notebooks and documents take from the library is there, and takes what it is given.

Seen without running any of them: a renamed function or argument is found in seconds, not after a notebook's minutes.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

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


MISSING = object()


def misfits(code: str) -> list[str]:
    """Attributes of the library's modules and classes that are not there, and calls that cannot be made like this."""
    tree = ast.parse(code)
    names = _imported(tree)
    for node in ast.walk(tree):  # what the code itself defines or assigns is not the library's any more
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.pop(node.name, None)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.pop(node.id, None)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _meant(node, names) is MISSING:
            found.append(f"{ast.unparse(node)} is not there")
        if isinstance(node, ast.Call) and callable(meant := _meant(node.func, names)):
            found += [f"{ast.unparse(node)}: {problem}" for problem in _refused(meant, node)]
    return found


def _imported(tree: ast.AST) -> dict[str, object]:
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("lessonlib"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name) and _is_there(node.module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = getattr(module, alias.name, None)
    return names


def _meant(node: ast.expr, names: dict[str, object]):
    """The object of the library that a name or an attribute means; None for all that is not the library's."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _meant(node.value, names)
        return getattr(owner, node.attr, MISSING) if isinstance(owner, ModuleType | type) else None
    return None


def _refused(meant, call: ast.Call) -> list[str]:
    """What Python would say of the call's arguments, values aside."""
    try:
        signature = inspect.signature(meant)
    except (TypeError, ValueError):  # some types have none
        return []
    positional = [None for argument in call.args if not isinstance(argument, ast.Starred)]
    named_ones = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    open_end = len(positional) < len(call.args) or len(named_ones) < len(call.keywords)
    try:
        (signature.bind_partial if open_end else signature.bind)(*positional, **named_ones)
    except TypeError as problem:
        return [str(problem)]
    return []


def cells(path: Path) -> str:
    """The code of a notebook, without its magics."""
    sources = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return "\n".join(re.sub(r"^[%!].*$", "", source, flags=re.M) for source in sources)


@named("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_script_takes_what_is_there_as_it_is(path):
    code = path.read_text("utf8")
    assert absent(code) == [] and misfits(code) == []


@named("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_takes_what_is_there_as_it_is(path):
    assert absent(cells(path)) == [] and misfits(cells(path)) == []


@named("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_imports_what_is_there(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text("utf8"), flags=re.S):
        assert absent(block) == []


def test_what_is_not_there_is_named():
    code = (
        "from lessonlib.lora import add_lora, add_lore\nfrom lessonlib.nowhere import x\nfrom lessonlib import lora"
    )
    assert absent(code) == ["lessonlib.lora.add_lore", "lessonlib.nowhere.x"]


@named(
    "line, words",
    [
        ("from lessonlib import figures\nfigures.nothing()", "figures.nothing is not there"),
        ("from lessonlib.lora import add_lora\nadd_lora(model, [], rank=8)", "unexpected keyword argument 'rank'"),
        ("from lessonlib.lora import add_lora\nadd_lora()", "missing a required argument: 'model'"),
        ("from lessonlib import lora\nlora.add_lora(1, 2, 3, 4, 5, 6, 7, 8)", "too many positional arguments"),
    ],
)
def test_a_call_that_cannot_be_made_is_named(line, words):
    (found,) = misfits(line)
    assert words in found


def test_what_a_notebook_defines_itself_is_its_own():
    assert misfits("from lessonlib.lora import add_lora\ndef add_lora(): ...\nadd_lora(1, 2, 3)") == []
