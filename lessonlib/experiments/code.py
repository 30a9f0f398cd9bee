"""A hash of an experiment's code: of its function, and of all that this uses among the experiments.

It is taken over syntax trees without docstrings, imports, and the names of modules, so that comments, layout and a
move to another file change nothing; a changed line, constant or default does. What stands outside of the experiments
(the loop, a method, the base model) is not part of it: tests hold that.
"""

import ast
import copy
import functools
import hashlib
import importlib
import importlib.util
import symtable
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = __package__.partition(".")[0]


def code_hash(function: Callable) -> str:
    """Twelve hexadecimal digits for a module's function and what it uses among the experiments.

    Raises LookupError for a function that its module does not define by its name, such as one made in another function.
    """
    seen: dict[tuple[str, str], str] = {}
    _follow(function.__module__, function.__name__, seen)
    if not seen:
        raise LookupError(f"{function.__module__} defines no {function.__name__!r} on its own level: no code to hash")
    return hashlib.sha256("\0".join(sorted(seen.values())).encode()).hexdigest()[:12]


def _follow(module: str, name: str, seen: dict) -> None:
    """Put into `seen` what the name means in the module, and what that uses."""
    source = _source(module)
    if (module, name) in seen:
        return
    if name in source.definitions:
        seen[module, name] = "\n".join(source.bare(node) for node in source.definitions[name])
        for used in sorted({used for node in source.definitions[name] for used in source.uses(node)}):
            _follow(*used, seen)
    elif name in source.imported and _is_of_experiments(source.imported[name][0]):
        _follow(*source.imported[name], seen)


def _is_of_experiments(module: str) -> bool:
    return module == __package__ or module.startswith(f"{__package__}.")


class _Source:
    """A module's top-level definitions, what it imports from the library, and its names for the library's modules."""

    def __init__(self, module: str, text: str, package: str):
        self.module = module
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, tuple[str, str]] = {}  # name here: module, name there
        self.modules: dict[str, str] = {}
        tree = ast.parse(text)
        for node in _statements(tree.body):
            for name in _bound(node):
                self.definitions.setdefault(name, []).append(_without_registration(node))
        for node in ast.walk(tree):  # imports inside of functions as well
            if isinstance(node, ast.Import):
                ours = [one for one in node.names if _is_ours(one.name)]
                self.modules |= {one.asname or ROOT: one.name if one.asname else ROOT for one in ours}
            elif isinstance(node, ast.ImportFrom):
                origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                self._import(origin, node.names)

    def _import(self, origin: str, names: list[ast.alias]) -> None:
        for one in names if _is_ours(origin) else ():
            if _is_module(origin, one.name):
                self.modules[one.asname or one.name] = f"{origin}.{one.name}"
            else:
                self.imported[one.asname or one.name] = (origin, one.name)

    def uses(self, node: ast.stmt) -> Iterator[tuple[str, str]]:
        """What a definition takes from outside of itself, as (module of the experiments, name)."""
        names = set(_outer_names(symtable.symtable(ast.unparse(node), self.module, "exec")))
        yield from ((self.module, name) for name in names)
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and (found := self.of_module(part)):
                if _is_of_experiments(found[0]):
                    yield found

    def of_module(self, node: ast.Attribute) -> tuple[str, str] | None:
        """(module, name) of an attribute of one of the library's modules, None for any other attribute."""
        path = ast.unparse(node).split(".")
        if path[0] not in self.modules:
            return None
        module, rest = self.modules[path[0]], path[1:]
        while len(rest) > 1 and _is_module(module, rest[0]):
            module, rest = f"{module}.{rest[0]}", rest[1:]
        return None if len(rest) > 1 or _is_module(module, rest[0]) else (module, rest[0])

    def bare(self, node: ast.stmt) -> str:
        """The definition as text, without what does not change what it does."""
        return _text(_Bare(self).visit(copy.deepcopy(node)))


@functools.cache
def _source(module: str) -> _Source:
    loaded = importlib.import_module(module)
    return _Source(module, Path(loaded.__file__).read_text("utf8"), loaded.__spec__.parent)


def _is_ours(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


@functools.cache
def _is_module(package: str, name: str) -> bool:
    has_modules = hasattr(importlib.import_module(package), "__path__")
    return has_modules and importlib.util.find_spec(f"{package}.{name}") is not None


# --- what a module defines, and what a definition needs ------------------------------------------------------------------


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module's level, those under an `if`, a `with`, a `try` or a loop by themselves."""
    for node in body:
        inner = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
        inner += [handler.body for handler in getattr(node, "handlers", [])]
        if isinstance(node, ast.FunctionDef | ast.ClassDef) or not any(inner):
            yield node
        else:
            yield from (one for part in inner for one in _statements(part))


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement defines or changes: `f` of a function, `TABLE` of `TABLE["a"] = 1` and `TABLE.update(…)`."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {name for target in node.targets for name in _roots(target)}
    if isinstance(node, ast.AnnAssign | ast.AugAssign):
        return set(_roots(node.target))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return set(_roots(node.value.func)) if isinstance(node.value.func, ast.Attribute) else set()
    return set()


def _roots(target: ast.expr) -> Iterator[str]:
    while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        target = target.value
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple | ast.List):
        yield from (name for one in target.elts for name in _roots(one))


def _outer_names(table: symtable.SymbolTable) -> Iterator[str]:
    """The names that a statement takes from its module: global ones, and what it imports itself."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_imported() or (symbol.is_referenced() if top else symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _outer_names(child)


def _without_registration(node: ast.stmt) -> ast.stmt:
    """The statement without `@experiment(…)`: what judges a run is not what makes it."""
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = [one for one in node.decorator_list if not _registers(one)]
    return node


def _registers(decorator: ast.expr) -> bool:
    return (
        isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "experiment"
    )


# --- a definition as text ------------------------------------------------------------------------------------------------


class _Bare(ast.NodeTransformer):
    """Takes out what does not change what code does: docstrings, imports, and how the library's names are imported."""

    def __init__(self, source: _Source):
        self.source = source

    def visit_Import(self, node):
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node):
        # A string that stands alone: a docstring.
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Attribute(self, node):
        if found := self.source.of_module(node):  # module.name, as if the name had been imported by itself
            return ast.Name(found[1])
        return self.generic_visit(node)

    def visit_Name(self, node):
        return ast.Name(self.source.imported.get(node.id, ("", node.id))[1])


def _text(node) -> str:
    """A syntax tree as text that is the same in all versions of Python: `ast.dump` and `ast.unparse` differ.

    A newer version has fields that an older one does not know; where they are empty, they are left out.
    """
    if isinstance(node, ast.AST):
        fields = sorted((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind"))
        is_constant = isinstance(node, ast.Constant)
        parts = [f"{name}={_text(value)}" for name, value in fields if is_constant or value not in (None, [])]
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_text, node))}]"
    return ascii(node)
