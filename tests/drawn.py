"""A picture read back as numbers: the lines, bars, bands and squares on its axes, where they stand and on which scale.

Pictures are drawn on bare axes here, and never made into pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from lessonlib.figures.style import Picture

# What has a place has a name too where the picture names it, in a key or by words in its colour; None is not looked up.
Line = tuple[str | None, Sequence, Sequence]  # x, y
Bar = tuple[str | None, float, float, float]  # where it stands, from, to


@dataclass
class Panel:
    """All that one pair of axes must show, in the order in which it is drawn, in the units of its axes.

    What is left out must not be there; rows, columns and words are looked at only where they are given.
    """

    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    levels: Sequence[float] = ()  # of lines from left to right
    places: Sequence[float] = ()  # of lines from the bottom to the top
    spans: Sequence[tuple] = ()  # x0, y0, x1, y1
    bands: Sequence[tuple] = ()  # x, low, high: one sequence each
    boxes: Sequence[tuple] = ()  # x, y, width, height
    shapes: Sequence[Sequence] = ()  # corners of what is neither bar nor box
    images: Sequence = ()
    scale: tuple[str, str] = ("linear", "linear")
    rows: dict[str, float] | None = None  # ticks from the top to the bottom
    columns: dict[str, float] | None = None  # ticks from the left to the right
    words: Sequence[tuple] | None = None  # how a text begins, x, y
    title: str | None = None  # how it begins
    marks: Sequence[str] | None = None  # of the lines
    inks: Sequence[str] | None = None  # colours of the lines
    faces: Sequence[str] | None = None  # colours of the bars and boxes
    beyond: bool = False  # whether something lies outside on purpose


# --- a row a drawing -------------------------------------------------------------------------------------------------


def drawings() -> tuple[Callable, list]:
    """A decorator and the list that it fills: what stands under it takes a builder of the library, and returns the
    picture that this makes of small data, and a Panel for each of its axes."""
    rows = []
    return lambda builder: lambda row: rows.append((builder, row)) or row, rows


def wilson(right: int, n: int) -> np.ndarray:
    """Wilson's 95 % interval of a share, (low, high) in per cent, from the formula (1927)."""
    z = stats.norm.ppf(0.975)
    middle, half = right + z**2 / 2, z * (right * (n - right) / n + z**2 / 4) ** 0.5
    return 100 * np.array([middle - half, middle + half]) / (n + z**2)


# --- drawing without pixels ------------------------------------------------------------------------------------------


@contextmanager
def bare_axes() -> Iterator[None]:
    """Within it a Picture draws on bare axes, which it keeps, and has no pixels."""

    def drawn(picture, draw, *data, size=(7.2, 3.8), columns=1, dpi=100):
        axes = Figure(figsize=size, dpi=dpi).subplots(1, columns)
        picture.axes, picture.draw, picture.png = list(np.ravel(axes)), draw.__name__, b""
        picture.alt = draw(axes, *data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Picture, "__init__", drawn)
        yield


# --- reading back ----------------------------------------------------------------------------------------------------


def _in_data(ax: Axes) -> list[Line2D]:
    return [line for line in ax.lines if line.get_transform() == ax.transData]


def lines(ax: Axes) -> list[tuple]:
    """(names, x, y) of each line, marks without a line included."""
    return [(names(ax, line), *map(np.asarray, line.get_data())) for line in _in_data(ax)]


def bars(ax: Axes) -> list[tuple]:
    """(names, where it stands, from, to) of each bar."""
    found = []
    for container in ax.containers:
        for bar in container if isinstance(container, BarContainer) else ():
            (x0, y0), (x1, y1) = bar.get_bbox().get_points()
            across = container.orientation == "horizontal"
            ends = ((y0 + y1) / 2, x0, x1) if across else ((x0 + x1) / 2, y0, y1)
            found.append((names(ax, bar), *ends))
    return found


def levels(ax: Axes) -> list[float]:
    """Heights of the lines that run through the axes from left to right."""
    return [line.get_ydata()[0] for line in ax.lines if line.get_transform() == ax.get_yaxis_transform("grid")]


def places(ax: Axes) -> list[float]:
    """Places of the lines that run through the axes from bottom to top."""
    return [line.get_xdata()[0] for line in ax.lines if line.get_transform() == ax.get_xaxis_transform("grid")]


def spans(ax: Axes) -> list[tuple]:
    """(x0, y0, x1, y1) of the strokes that are drawn as a collection: intervals, and bars of an error."""
    strokes = [one for one in ax.collections if isinstance(one, LineCollection)]
    return [tuple(np.ravel(stroke)) for one in strokes for stroke in one.get_segments()]


def bands(ax: Axes) -> list[tuple]:
    """(x, low, high) of each filled band."""
    found = []
    for band in (one for one in ax.collections if isinstance(one, PolyCollection)):
        corners = np.concatenate([path.vertices for path in band.get_paths()])
        x = np.unique(corners[:, 0])
        heights = [corners[corners[:, 0] == place, 1] for place in x]
        found.append((x, [min(each) for each in heights], [max(each) for each in heights]))
    return found


def _apart_from_bars(ax: Axes) -> list:
    drawn = {id(bar) for one in ax.containers if isinstance(one, BarContainer) for bar in one}
    return [patch for patch in ax.patches if id(patch) not in drawn]


def boxes(ax: Axes) -> list[tuple]:
    """(x, y, width, height) of each rectangle that is no bar."""
    return [
        (*box.get_xy(), box.get_width(), box.get_height())
        for box in _apart_from_bars(ax)
        if hasattr(box, "get_width")
    ]


def shapes(ax: Axes) -> list[np.ndarray]:
    """Corners of each polygon, and the two ends of each arrow."""
    found = []
    for shape in (one for one in _apart_from_bars(ax) if not hasattr(one, "get_width")):
        ends = getattr(shape, "_posA_posB", None)
        found.append(np.array(shape.get_xy() if ends is None else ends, dtype=float))
    return found


def images(ax: Axes) -> list[np.ndarray]:
    """The numbers, or the colours, of each image."""
    return [np.asarray(image.get_array()) for image in ax.images]


def names(ax: Axes, mark) -> list[str]:
    """What a line or a bar is called: by the key, or by words beside it in its colour."""
    key = ax.get_legend()
    entries = zip(key.legend_handles, key.get_texts()) if key else ()
    called = [text.get_text() for handle, text in entries if _look(handle) == _look(mark)]
    if isinstance(mark, Line2D):
        called += [text.get_text() for text in ax.texts if to_rgba(text.get_color()) == _look(mark)[0][:4]]
    return called


def _look(mark) -> tuple:
    if isinstance(mark, Line2D):
        return to_rgba(mark.get_color()), mark.get_marker()
    return to_rgba(mark.get_facecolor()), mark.get_hatch() or ""


def _ticks(axis, ends: tuple[float, float]) -> dict[str, float]:
    """Places by label, from the first end of the axis to the other."""
    labels = [label.get_text() for label in axis.get_ticklabels()]
    sign = 1 if ends[0] <= ends[1] else -1
    found = sorted(zip(axis.get_ticklocs(), labels), key=lambda tick: sign * tick[0])
    return {label: place for place, label in found}


def rows(ax: Axes) -> dict[str, float]:
    """Ticks of the vertical axis by their labels, from the top to the bottom."""
    return _ticks(ax.yaxis, ax.get_ylim()[::-1])


def columns(ax: Axes) -> dict[str, float]:
    """Ticks of the horizontal axis by their labels, from the left to the right."""
    return _ticks(ax.xaxis, ax.get_xlim())


def words(ax: Axes) -> list[tuple]:
    """(text, x, y) of each text that stands at a place of the data, or points to one."""
    return [(text.get_text(), *getattr(text, "xy", text.get_position())) for text in ax.texts]


def title(ax: Axes) -> str:
    """The title, at whichever side it stands."""
    return "".join(ax.get_title(loc=side) for side in ("left", "center", "right"))


def marks(ax: Axes) -> list[str]:
    """The mark of each line, "None" where it has none."""
    return [str(line.get_marker()) for line in _in_data(ax)]


def inks(ax: Axes) -> list[str]:
    """The colour of each line, as #rrggbb."""
    return [to_hex(line.get_color()) for line in _in_data(ax)]


def faces(ax: Axes) -> list[str]:
    """The colour inside of each bar and box, as #rrggbb."""
    return [to_hex(patch.get_facecolor()) for patch in ax.patches if hasattr(patch, "get_width")]


# --- comparing -------------------------------------------------------------------------------------------------------

NUMBERS = (lines, bars, levels, places, spans, bands, boxes, shapes, images, rows, columns, words)
LOOKS = (marks, inks, faces)


def compare(ax: Axes, panel: Panel) -> None:
    """Fails where the axes do not show what they must."""
    assert (ax.get_xscale(), ax.get_yscale()) == panel.scale, f"scale: {ax.get_xscale(), ax.get_yscale()}"
    assert panel.title is None or title(ax).startswith(panel.title), f"title: {title(ax)}"
    for read in NUMBERS:
        if (expected := getattr(panel, read.__name__)) is not None:
            _same(read(ax), expected, read.__name__)
    for read in LOOKS:
        if (expected := getattr(panel, read.__name__)) is not None:
            seen = read(ax)
            wanted = [one.lower() if one.startswith("#") else one for one in expected]
            assert seen == wanted, f"{read.__name__}: {seen}, expected {wanted}"
    assert panel.beyond or not hidden(ax), f"outside of the axes: {hidden(ax)}"


def _same(found, expected, what: str) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), f"{what}: {list(found)}"
        found, expected = found.values(), expected.values()
    assert len(found) == len(expected), f"{what}: {len(found)} of them, expected {len(expected)}: {found}"
    for i, (one, other) in enumerate(zip(found, expected)):
        if isinstance(other, tuple) and isinstance(other[0], str | None):
            (called, *one), (name, *other) = one, other
            known = [called] if isinstance(called, str) else called
            assert name is None or any(word.startswith(name) for word in known), f"{what} {i}: {name}, not {known}"
        for a, b in zip(one, other, strict=True) if isinstance(other, tuple | list) else [(one, other)]:
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9, err_msg=f"{what} {i}")


def hidden(ax: Axes) -> list[tuple]:
    """Points of lines, bars and strokes that lie outside of what the axes show."""
    points = [point for _, x, y in lines(ax) for point in zip(x, y)]
    points += [tuple(corner) for patch in ax.patches for corner in _corners(patch)]
    points += [end for x0, y0, x1, y1 in spans(ax) for end in ((x0, y0), (x1, y1))]
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    slack = 0.03 * (right - left), 0.03 * (top - bottom)  # a mark may be pinned to the edge from outside
    return [
        (x, y)
        for x, y in points
        if not (left - slack[0] <= x <= right + slack[0] and bottom - slack[1] <= y <= top + slack[1])
    ]


def _corners(patch) -> np.ndarray:
    return patch.get_bbox().get_points() if hasattr(patch, "get_bbox") else np.empty((0, 2))
