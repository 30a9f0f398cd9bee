"""What every picture of the course must be, whatever it shows; each file of figure tests says for which pictures."""

import base64
import html
import io
import re
from itertools import combinations
from typing import ClassVar

import numpy as np
import pytest
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from lessonlib.figures import style

LEAST_CONTRAST = 4.5  # of words and what is behind them: WCAG 2.2, criterion 1.4.3, level AA


def numbers(text: str) -> set[str]:
    """The numbers that a text holds; "1,234" is one."""
    return {found.replace(",", "") for found in re.findall(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?", text)}


def texts(figure):
    """The texts that stand in the figure, tick labels left out."""
    if figure._suptitle is not None:
        yield figure._suptitle
    for ax in figure.axes:
        labels = (ax.xaxis.label, ax.yaxis.label) if ax.axison else ()
        for text in (*ax.texts, ax.title, ax._left_title, ax._right_title, *labels):
            if text.get_visible() and text.get_text().strip():
                yield text


def extents(figure):
    """(text, where it stands) for each text of the figure."""
    figure.draw_without_rendering()
    return [(text.get_text(), text.get_window_extent()) for text in texts(figure)]


def inside(box, figure) -> bool:
    right, top = figure.bbox.x1 + 1, figure.bbox.y1 + 1
    return box.x0 >= -1 and box.y0 >= -1 and box.x1 <= right and box.y1 <= top


def luminance(rgb) -> np.ndarray:
    """Relative luminance of sRGB colours (..., 3 or 4) with values 0 to 1: WCAG 2.2, its definition of the word."""
    rgb = np.asarray(rgb, dtype=float)[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(one, other) -> np.ndarray:
    """WCAG's contrast ratio, 1 to 21, of colours as `luminance` takes them."""
    a, b = luminance(one) + 0.05, luminance(other) + 0.05
    return np.maximum(a, b) / np.minimum(a, b)


def words(figure):
    """All texts that are seen: those of `texts`, of legends, and at the ticks of axes that are drawn."""
    yield from texts(figure)
    for ax in figure.axes:
        ticks = (*ax.get_xticklabels(), *ax.get_yticklabels()) if ax.axison else ()
        legend = ax.get_legend().get_texts() if ax.get_legend() else ()
        yield from (text for text in (*ticks, *legend) if text.get_visible() and text.get_text().strip())


def grounds(figure) -> list[tuple]:
    """(text, the pixels that it stands on, 0 to 1) for all words of a figure."""
    found = list(words(figure))
    colours = [text.get_color() for text in found]
    canvas = FigureCanvasAgg(figure)
    for text in found:
        text.set_color("none")
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3] / 255
    for text, colour in zip(found, colours):
        text.set_color(colour)
    boxes = [np.clip(text.get_window_extent().extents, 0, None).astype(int) for text in found]
    return [(text, pixels[y0 : y1 + 1, x0 : x1 + 1]) for text, (x0, y0, x1, y1) in zip(found, boxes)]


def look(mark) -> tuple:
    """What tells a line or an area from others in grey: the line's dash and mark, the area's hatch."""
    if hasattr(mark, "get_marker"):
        dash, sign = mark.get_linestyle(), mark.get_marker()
        return tuple("" if kind in ("None", "none", " ", None) else str(kind) for kind in (dash, sign))
    return (str(mark.get_hatch() or ""),) if hasattr(mark, "get_hatch") else ()


def colour(mark) -> tuple:
    """The colour of a line, or that of an area's inside."""
    return tuple(to_rgba(mark.get_color() if hasattr(mark, "get_marker") else mark.get_facecolor()))


def bars_of(ax) -> list[tuple]:
    """(bar, its place along the axis of names) for each bar."""
    places = []
    for container in ax.containers:
        if isinstance(container, BarContainer):
            across = container.orientation == "horizontal"
            for bar in container:
                middle = bar.get_y() + bar.get_height() / 2 if across else bar.get_x() + bar.get_width() / 2
                places.append((bar, round(middle, 3)))
    return places


def row_of(ax, mark) -> float | None:
    """The place of the named row that a line lies in; None where it has none."""
    names = {y: text.get_text() for y, text in zip(ax.get_yticks(), ax.get_yticklabels())}
    rows = [y for y, name in names.items() if re.search("[a-z]", name)]
    heights = np.asarray(mark.get_ydata(), dtype=float) if hasattr(mark, "get_ydata") else np.empty(0)
    return next((y for y in rows if heights.size and (abs(heights - y) < 0.4).all()), None)


def told_by_colour_alone(ax) -> list[str]:
    """Pairs of lines, bars or legend entries that nothing but their hue tells apart.

    Enough is: a dash, a mark or a hatch of one's own; a name beside the line in its own colour; a row with a name, or a
    bar's own place; or lightness, at least 1.5 to 1.
    """
    lines = [(line, line.get_label()) for line in ax.lines if line.get_transform() == ax.transData]
    named, entries, found = [to_rgba(text.get_color()) for text in ax.texts], [], []
    if key := ax.get_legend():
        entries = [(mark, text.get_text()) for mark, text in zip(key.legend_handles, key.get_texts())]
    for (one, name), (other, another) in (*combinations(lines, 2), *combinations(entries, 2)):
        rows = row_of(ax, one), row_of(ax, other)
        own_rows = None not in rows and rows[0] != rows[1]
        if look(one) != look(other) or colour(one)[:3] == colour(other)[:3] or own_rows:
            continue
        both_named = colour(one) in named and colour(other) in named
        if contrast(colour(one), colour(other)) < 1.5 and not both_named:
            found.append(f"{name} and {another}")
    for (one, here), (other, there) in combinations(bars_of(ax), 2):
        same = look(one) == look(other) and here == there and colour(one)[:3] != colour(other)[:3]
        if same and contrast(colour(one), colour(other)) < 1.5:
            found.append(f"two bars at {here}")
    return found


class PictureChecks:
    """Subclass it as `class TestPictures(PictureChecks)` and set `pictures`: what makes each, by a name.

    The bounds are the house's; a picture that must be smaller or darker sets its own.
    """

    pictures: ClassVar[dict]
    width, height = (600, 1200), (200, 800)  # pixels
    most_ink = 0.6  # share of the pixels that are not white
    figure_shown: ClassVar[dict] = {}  # of a builder that draws several figures, which of them is described

    def pytest_generate_tests(self, metafunc):
        metafunc.parametrize("name", list(self.pictures))

    @pytest.fixture(scope="class")
    @classmethod
    def drawn(cls):
        """Each picture with the matplotlib figures that were made for it."""
        made, kept = {}, []

        class Kept(Figure):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                kept.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(style, "Figure", Kept)
            for name, make in cls.pictures.items():
                kept.clear()
                made[name] = (make(), list(kept))
        return made

    def test_the_picture_is_a_png_of_sensible_size_and_not_blank(self, drawn, name):
        png = drawn[name][0].png
        pixels = image.imread(io.BytesIO(png))[..., :3]
        assert self.width[0] <= pixels.shape[1] <= self.width[1]
        assert self.height[0] <= pixels.shape[0] <= self.height[1]
        assert 4_000 < len(png) < 150_000
        assert 0.01 < (pixels.min(axis=2) < 0.99).mean() < self.most_ink

    def test_the_description_is_a_sentence_with_numbers(self, drawn, name):
        alt = drawn[name][0].alt
        assert len(alt) >= 40 and alt.endswith(".") and re.search(r"\d", alt)
        assert "nan" not in alt and "\n" not in alt

    def test_numbers_written_in_the_picture_are_in_its_description(self, drawn, name):
        picture, made = drawn[name]
        said, shown = numbers(picture.alt), self.figure_shown.get(name)
        for ax in (ax for figure in (made if shown is None else [made[shown]]) for ax in figure.axes):
            written = " ".join(text.get_text() for text in (ax._left_title, *ax.texts))
            assert numbers(written) <= said, written

    def test_the_description_says_more_than_the_titles(self, drawn, name):
        titles = [ax._left_title.get_text() for figure in drawn[name][1] for ax in figure.axes]
        assert all(len(drawn[name][0].alt) > len(title) for title in titles)

    def test_words_stand_out_from_what_is_behind_them(self, drawn, name):
        # Three quarters of the ground, since a line of the grid may pass; and words must not vanish in a tenth of it.
        for figure in drawn[name][1]:
            for text, ground in grounds(figure):
                if ground.size:
                    ratio = contrast(to_rgba(text.get_color()), ground)
                    assert (ratio >= LEAST_CONTRAST).mean() >= 0.75, (
                        text.get_text(),
                        text.get_color(),
                        ratio.min(),
                    )
                    assert (ratio >= 1.5).mean() >= 0.9, f"{text.get_text()!r} vanishes in what is behind it"

    def test_nothing_is_told_by_colour_alone(self, drawn, name):
        for figure in drawn[name][1]:
            for ax in figure.axes:
                assert told_by_colour_alone(ax) == []

    def test_maps_of_numbers_run_from_light_to_dark(self, drawn, name):
        for ax in (ax for figure in drawn[name][1] for ax in figure.axes):
            for shown in (shown for shown in ax.images if shown.get_array().ndim == 2):
                steps = np.diff(luminance(shown.cmap(np.linspace(0, 1, 9))))
                assert (steps > 0).all() or (steps < 0).all(), shown.cmap.name

    def test_all_text_lies_inside_the_figure(self, drawn, name):
        for figure in drawn[name][1]:
            assert [text for text, box in extents(figure) if not inside(box, figure)] == []
            for ax in figure.axes:  # tick labels as well
                assert inside(ax.get_tightbbox(), figure)

    def test_no_text_lies_upon_another(self, drawn, name):
        for figure in drawn[name][1]:
            for (one, a), (other, b) in combinations(extents(figure), 2):
                width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
                assert width <= 2 or height <= 2, (one, other)

    def test_notes_point_into_the_axes(self, drawn, name):
        # matplotlib leaves out a note whose point lies outside, without a word.
        for ax in (ax for figure in drawn[name][1] for ax in figure.axes):
            (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
            for note in ax.texts:
                if hasattr(note, "xy") and note.xycoords == "data":
                    assert left <= note.xy[0] <= right and bottom <= note.xy[1] <= top, note.get_text()

    def test_no_legend_covers_a_mark(self, drawn, name):
        for figure in drawn[name][1]:
            figure.draw_without_rendering()
            for ax in (ax for ax in figure.axes if ax.get_legend()):
                box = ax.get_legend().get_window_extent()
                for line in (line for line in ax.lines if line.get_transform() == ax.transData):
                    points = ax.transData.transform(line.get_xydata())
                    assert not any(box.contains(*point) for point in points), line.get_label()

    def test_image_and_description_go_together_into_a_notebook(self, drawn, name):
        picture = drawn[name][0]
        data, metadata = picture._repr_mimebundle_()
        assert base64.b64decode(data["image/png"]) == picture.png
        assert data["text/plain"] == metadata["image/png"]["alt"] == picture.alt
        assert html.unescape(re.search('alt="([^"]*)"', picture.html())[1]) == picture.alt
