"""A hash of an experiment's code: of its function, and of all that this calls among the experiments.

It is taken over syntax trees without docstrings, imports, and the names of modules, so that comments, layout and a
move to another file change nothing; a changed line, constant or default does. What stands outside of the experiments
(the loop, a method, the base model) is not part of it: tests hold that.
"""

import ast
import copy
import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator

ROOT = __package__.partition(".")[0]


def code_hash(function: Callable) -> str:
    """Twelve hexadecimal digits for the function and what it calls among the experiments."""
    seen: dict[tuple[str, str], str] = {}
    _follow(function.__module__, function.__name__, seen)
    return hashlib.sha256("\0".join(sorted(seen.values())).encode()).hexdigest()[:12]


def _follow(module: str, name: str, seen: dict) -> None:
    """Put into `seen` the definition of `name` in the module, and those that it uses."""
    source = _sources(module)
    if (module, name) in seen or name not in source.definitions:
        return
    bare = _Bare(source.modules)
    seen[module, name] = "\n".join(ast.dump(bare.visit(copy.deepcopy(d))) for d in source.definitions[name])
    for used in sorted({found for d in source.definitions[name] for found in _names(d)}):
        if used in source.imported:
            _follow(*source.imported[used], seen)
        elif "." in used and used.split(".")[0] in source.modules:
            alias, attribute = used.split(".", 1)
            if _is_of_experiments(source.modules[alias]):
                _follow(source.modules[alias], attribute, seen)
        else:
            _follow(module, used, seen)


def _names(tree: ast.AST) -> Iterator[str]:
    """Names and `module.name` pairs that stand in a definition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def _is_of_experiments(module: str) -> bool:
    return module == __package__ or module.startswith(f"{__package__}.")


class _Source:
    """A module's top-level definitions, what it imports from other experiments, and its names for modules."""

    def __init__(self, module: str):
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.modules: dict[str, str] = {}
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
        for node in tree.body:
            for name in _defined(node):
                self.definitions.setdefault(name, []).append(node)
        for node in ast.walk(tree):  # imports inside of functions as well
            if isinstance(node, ast.ImportFrom):
                self._import(module, node)

    def _import(self, module: str, node: ast.ImportFrom) -> None:
        origin = node.module or ""
        if node.level:
            parent = module.rsplit(".", node.level)[0]
            origin = f"{parent}.{origin}".rstrip(".")
        if not origin.startswith(ROOT):
            return
        for alias in node.names:
            name, whole = alias.asname or alias.name, f"{origin}.{alias.name}"
            if _is_module(origin, alias.name):
                self.modules[name] = whole
            elif _is_of_experiments(origin):
                self.imported[name] = (origin, alias.name)


@functools.cache
def _sources(module: str) -> _Source:
    return _Source(module)


@functools.cache
def _is_module(package: str, name: str) -> bool:
    has_modules = hasattr(importlib.import_module(package), "__path__")
    return has_modules and importlib.util.find_spec(f"{package}.{name}") is not None


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if _assigns(node) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _assigns(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign | ast.AugAssign)


class _Bare(ast.NodeTransformer):
    """Takes out what does not change what code does: docstrings, imports, names of the library's modules."""

    def __init__(self, modules: dict[str, str]):
        self.modules = modules

    def visit_Import(self, node):
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node):
        # A string that stands alone: a docstring.
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            node.value.id = "module"
            return node
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.decorator_list = [d for d in node.decorator_list if not _registers(d)]
        return self.generic_visit(node)


def _registers(decorator: ast.expr) -> bool:
    """Whether this is `@experiment(...)`: what judges a run is not what makes it."""
    return (
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Name)
        and decorator.func.id == "experiment"
    )
