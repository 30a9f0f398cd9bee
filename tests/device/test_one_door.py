"""Figures take a tensor's numbers through one door, `display.to_numpy`, whatever device it lies on."""

import ast
from pathlib import Path

import pytest

FIGURES = sorted((Path(__file__).parents[2] / "lessonlib" / "figures").glob("*.py"))


def other_doors(source: str) -> list[int]:
    """Lines that ask a tensor for numpy's numbers themselves."""
    asked = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return sorted(node.lineno for node in asked if node.attr in ("numpy", "from_numpy", "__array__"))


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_knows_no_other_door(path):
    assert not other_doors(path.read_text("utf8"))


def test_another_door_is_seen():
    assert other_doors("def draw(ax, W):\n    ax.hist(W.float().numpy())\n    ax.plot(to_numpy(W))") == [2]
