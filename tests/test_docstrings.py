"""Public docstrings say what a caller has to know: what is raised, and the shape of every tensor."""

import ast
import re
from pathlib import Path

import pytest

import lessonlib

LIBRARY = Path(lessonlib.__file__).parent
FILES = sorted(LIBRARY.rglob("*.py"))
TENSOR = re.compile(r"\b(Tensor|ndarray)\b")
SHAPE = re.compile(r"\((\.\.\.|[\w.]+),[^()]*\)|\b(shapes?|scalar)\b")


def public(tree):
    """Public functions and methods of a module's public classes, with the docstrings that speak for them."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            about = ast.get_docstring(node) or ""
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and (part.name == "__init__" or not part.name.startswith("_")):
                    yield part, about + (ast.get_docstring(part) or "")


def raises(function) -> bool:
    """Whether the function's own lines raise a new error (not one that it caught)."""
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(function))


def tensors(function) -> list[str]:
    """The names of the arguments that are annotated as one tensor."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [
        a.arg
        for a in arguments
        if a.annotation is not None
        and TENSOR.search(ast.unparse(a.annotation))
        and not re.search(r"(list|dict|Sequence|Iterable|Mapping|Callable|tuple)\[", ast.unparse(a.annotation))
    ]


def silent(path) -> list[str]:
    """What the docstrings of a file leave out."""
    found = []
    for function, docstring in public(ast.parse(path.read_text("utf8"))):
        where = f"{path.relative_to(LIBRARY)}:{function.lineno} {function.name}"
        if raises(function) and not re.search(r"\b[Rr]aises?\b", docstring):
            found.append(f"{where} raises, and its docstring does not say so")
        if tensors(function) and not SHAPE.search(docstring):
            found.append(f"{where}: no shape of {', '.join(tensors(function))}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_a_public_function_says_what_it_raises_and_the_shapes_of_its_tensors(path):
    assert silent(path) == []


def test_silence_is_heard(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "LIBRARY", tmp_path)
    path = tmp_path / "module.py"
    path.write_text('def f(x: torch.Tensor):\n    """Do it."""\n    raise ValueError(x)\n', "utf8")
    assert [line.partition(" ")[2] for line in silent(path)] == [
        "f raises, and its docstring does not say so",
        "f: no shape of x",
    ]
    path.write_text(
        'def f(x: torch.Tensor):\n    """x (n, d). Raises ValueError."""\n    raise ValueError(x)\n', "utf8"
    )
    assert silent(path) == []
