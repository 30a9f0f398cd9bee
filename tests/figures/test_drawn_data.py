"""What is drawn is the data: every picture of the library is drawn from small data and read back from its axes."""

import functools
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
from drawn import Panel, bare_axes, compare
from drawn_01_to_05 import DRAWN as FIRST_HALF
from drawn_06_to_10 import DRAWN as SECOND_HALF
from drawn_06_to_10 import LIT, PLACES, SEEN
from matplotlib.figure import Figure

from lessonlib import figures
from lessonlib.figures.playground import as_html

DRAWN = [*FIRST_HALF, *SECOND_HALF]
NAMES = [f"{builder.__name__}: {row.__name__.replace('_', ' ')}" for builder, row in DRAWN]


@functools.cache
def drawn(i: int):
    """The picture of a row, and what its axes must show."""
    builder, row = DRAWN[i]
    with bare_axes():
        made, *panels = row(builder)
    return getattr(made, "still", made), panels


@pytest.mark.parametrize("i", range(len(DRAWN)), ids=NAMES)
def test_what_is_drawn_is_the_data(i):
    picture, panels = drawn(i)
    assert len(picture.axes) == len(panels)
    for ax, panel in zip(picture.axes, panels):
        compare(ax, panel)


def test_every_builder_of_the_library_is_drawn_here():
    functions = {one for one in vars(figures).values() if inspect.isfunction(one)}
    builders = functions - {figures.cheat_sheet}  # a table, no picture
    assert builders == {builder for builder, _ in DRAWN}


def test_every_function_that_draws_is_drawn_here():
    modules = [
        importlib.import_module(found.name) for found in pkgutil.iter_modules(figures.__path__, "lessonlib.figures.")
    ]
    draws = {name for module in modules for name in vars(module) if name.startswith("draw_")}
    assert len(draws) > 40
    assert draws == {drawn(i)[0].draw for i in range(len(DRAWN))}


def test_the_playground_that_moves_shows_what_its_still_shows():
    page = as_html(SEEN)
    squares = re.findall(r'<rect x="(\d+)" y="(\d+)" width="13" height="13" fill="(#\w+)"', page)
    assert [((int(x) - 78) / 15, int(y) / 15) for x, y, _ in squares] == PLACES
    assert [fill for *_, fill in squares] == LIT
    x, y = np.transpose([point.split(",") for point in re.search('points="([^"]*)"', page)[1].split()]).astype(float)
    assert x == pytest.approx([65, 135])  # the first two of four steps, on 280 pixels from 30 on
    assert 180 - y == pytest.approx(170 * np.array(SEEN.losses) / (1.05 * 2.5), abs=0.06)  # from the axis upwards


# --- the reading sees what it is for ---------------------------------------------------------------------------------

SHOWN = Panel(
    lines=[("mean", [1, 10], [20, 40])], bars=[(None, 1, 0, 30)], spans=[(1, 10, 1, 30)], bands=[([1, 10], [15, 35], [25, 45])],
    levels=[50], places=[2], scale=("log", "linear"), columns={"one": 1, "ten": 10}, words=[("mean", 10, 40)], marks=["o"],
)  # fmt: skip


def shown(
    x=(1, 10),
    y=(20, 40),
    bar=(1, 30),
    low=10,
    band=35,
    level=50,
    place=2,
    scale="log",
    ticks=("one", "ten"),
    mark="o",
):
    ax = Figure().subplots()
    ax.plot(x, y, mark, color="black")
    ax.bar(bar[0], bar[1])
    ax.vlines(1, low, 30)
    ax.fill_between([1, 10], [15, band], [25, 45])
    ax.axhline(level)
    ax.axvline(place)
    ax.annotate("mean 40", (10, 40), color="black")
    ax.set_xscale(scale)
    ax.set_xticks([1, 10], ticks)
    ax.set_xlim(0.1, 20)
    return ax


def test_what_is_as_it_must_be_passes():
    compare(shown(), SHOWN)


@pytest.mark.parametrize(
    "wrong",
    [
        {"y": (10, 20)}, {"y": (40, 20)}, {"x": (10, 1)}, {"bar": (1, 15)}, {"bar": (10, 30)}, {"low": 20}, {"band": 25},
        {"level": 5}, {"place": 5}, {"scale": "linear"}, {"ticks": ("ten", "one")}, {"mark": "D"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_drawn_otherwise_is_seen(wrong):
    with pytest.raises(AssertionError):
        compare(shown(**wrong), SHOWN)


def test_a_name_a_stray_line_and_what_lies_outside_are_seen():
    ax = shown()
    ax.texts[0].set_color("red")
    with pytest.raises(AssertionError, match="mean"):
        compare(ax, SHOWN)
    ax = shown()
    ax.plot([1], [20])
    with pytest.raises(AssertionError, match="2 of them, expected 1"):
        compare(ax, SHOWN)
    ax = shown()
    ax.set_ylim(0, 30)
    with pytest.raises(AssertionError, match="outside"):
        compare(ax, SHOWN)
