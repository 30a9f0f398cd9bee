"""The checks of pictures see what they are for: each is shown a picture that fails it, and one that passes."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from pictures import LEAST_CONTRAST, contrast, grounds, luminance, told_by_colour_alone

from lessonlib.figures import style


def axes():
    return Figure(figsize=(4, 3)).subplots()


def test_contrast_is_that_of_the_standard():
    # WCAG 2.2: black on white is 21 to 1, a colour on itself 1 to 1; #767676 is the lightest grey that passes on white.
    white, black = (1, 1, 1), (0, 0, 0)
    assert contrast(black, white) == pytest.approx(21) and contrast(white, white) == 1
    assert contrast((0x76 / 255,) * 3, white) == pytest.approx(4.54, abs=0.01)
    assert luminance((1, 0, 0)) == pytest.approx(0.2126) and luminance([(0, 1, 0), (0, 0, 1)]).shape == (2,)


def ground_of(put) -> tuple:
    ax = axes()
    ax.set_axis_off()
    text = put(ax)
    (found,) = [ground for seen, ground in grounds(ax.figure) if seen is text]
    return found


def test_the_ground_of_a_text_is_what_it_stands_on_and_not_its_own_ink():
    def on_a_dark_patch(ax):
        ax.axvspan(0, 1, color="#123456")
        return ax.text(0.5, 0.5, "words", color="white")

    assert np.allclose(ground_of(on_a_dark_patch), [0x12 / 255, 0x34 / 255, 0x56 / 255], atol=0.01)
    assert np.allclose(ground_of(lambda ax: ax.text(0.5, 0.5, "words", color="black")), 1)
    boxed = {"facecolor": "black", "edgecolor": "black"}
    assert ground_of(lambda ax: ax.text(0.5, 0.5, "words", bbox=boxed)).max() < 0.01


def test_a_look_at_the_ground_leaves_the_figure_as_it_was():
    ax = axes()
    text = ax.text(0.5, 0.5, "words", color="#123456")
    grounds(ax.figure)
    assert text.get_color() == "#123456"


@pytest.mark.parametrize("colour", ["INK", "BLUE", "VERMILION", "GREY", "OCHRE"])
def test_the_colours_of_the_house_for_words_stand_out_from_white(colour):
    rgb = [int(getattr(style, colour)[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert contrast(rgb, (1, 1, 1)) >= LEAST_CONTRAST


def test_the_looks_of_lines_differ_in_dash_and_mark_and_their_names_can_be_read():
    ax = axes()
    for colour, mark in style.LOOKS:
        ax.plot([0, 1], [0, 1], mark, color=colour)
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert contrast(rgb, (1, 1, 1)) >= LEAST_CONTRAST
    assert told_by_colour_alone(ax) == []
    assert len({line.get_marker() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 4


def two_lines(**second):
    ax = axes()
    ax.plot([0, 1], [0, 1], color=style.BLUE, label="one")
    ax.plot([0, 1], [1, 0], color=style.VERMILION, label="two", **second)
    return ax


def test_lines_that_only_their_hue_tells_apart_are_seen():
    assert told_by_colour_alone(two_lines()) == ["one and two"]
    assert told_by_colour_alone(two_lines(linestyle="--")) == []
    assert told_by_colour_alone(two_lines(marker="s")) == []
    named = two_lines()
    named.text(1, 1, "one", color=style.BLUE)
    named.text(1, 0, "two", color=style.VERMILION)
    assert told_by_colour_alone(named) == []


def in_rows(*rows):
    ax = axes()
    for row, colour in zip(rows, (style.BLUE, style.VERMILION)):
        ax.plot([1, 2], [row, row], color=colour)
    ax.set_yticks([0, 1], ["first", "second"])
    return ax


def test_a_named_row_tells_lines_apart_and_two_in_one_row_are_not():
    assert told_by_colour_alone(in_rows(0, 1)) == []
    assert len(told_by_colour_alone(in_rows(0, 0.2))) == 1


def stacked(**second):
    ax = axes()
    ax.barh([0, 1], [1, 2], color=style.BLUE, label="one")
    ax.barh([0, 1], [1, 2], left=[1, 2], color=style.VERMILION, label="two", **second)
    return ax


def test_bars_and_entries_that_only_their_hue_tells_apart_are_seen():
    assert told_by_colour_alone(stacked()) == ["two bars at 0.0", "two bars at 1.0"]
    assert told_by_colour_alone(stacked(hatch="//")) == []
    with_key = stacked()
    with_key.legend()
    assert "one and two" in told_by_colour_alone(with_key)
    apart = axes()
    apart.barh(["one", "two"], [1, 2], color=[style.BLUE, style.VERMILION])  # each has its name beside it
    assert told_by_colour_alone(apart) == []
