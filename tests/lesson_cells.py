"""The cells of a notebook, for the tests of what that notebook promises."""

import nbformat

from tools import notebooks


def cells(number: str) -> list:
    """All cells of notebook "01" to "10"."""
    return nbformat.read(notebooks.paths([number])[0], as_version=4).cells


def definitions(number: str, module: str = "lessonlib.") -> str:
    """The cells of a notebook that define what belongs to the library's module, one after another."""
    tag = f"definition:{module}"
    return "\n\n".join(c.source for c in cells(number) if any(t.startswith(tag) for t in notebooks.tags(c)))


def definition(number: str, name: str) -> str:
    """The cell of a notebook that defines `name`; StopIteration where none does."""
    return next(c.source for c in cells(number) if any(t.endswith(f":{name}") for t in notebooks.tags(c)))
