"""What every picture of the course must be, whatever it shows; each file of figure tests says for which pictures."""

import base64
import html
import io
import re
from itertools import combinations
from typing import ClassVar

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from lessonlib.figures import style


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
