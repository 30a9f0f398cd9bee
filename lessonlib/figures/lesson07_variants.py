"""The figures of 07's second half: the variants of LoRA beside plain LoRA, seven places before and after, turned digits."""

from collections.abc import Mapping, Sequence

import numpy as np

from lessonlib.evaluation import Accuracy, mean_difference, shares_right, text_interval

from .style import BLUE, GREY, INK, VERMILION, Picture, listed

# --- variants --------------------------------------------------------------------------------------------------------


Answers = Mapping[str, Sequence[Accuracy]]


def apart_from(answers: Answers, plain: str) -> dict[str, tuple[float, float, float]]:
    """The variants whose paired difference to `plain` has an interval without zero, each with that difference."""
    differences = {name: mean_difference(a, answers[plain]) for name, a in answers.items() if name != plain}
    return {name: d for name, d in differences.items() if d[1] > 0 or d[2] < 0}


def draw_variants(ax, answers: Answers, plain: str) -> str:
    """One row a variant: its mean over seeds with a 95 % interval; a diamond where it differs from plain LoRA."""
    clear, said = apart_from(answers, plain), []
    level = 100 * shares_right(answers[plain]).mean()
    ax.axvline(level, color=GREY, linestyle="--")
    for row, (name, seeds) in enumerate(answers.items()):
        value, low, high = (100 * x for x in text_interval(shares_right(seeds)))
        colour, mark = (VERMILION, "D") if name in clear else (BLUE, "o")
        colour = INK if name == plain else colour
        ax.plot([low, high], [row, row], color=colour)
        ax.plot([100 * one.value for one in seeds], [row] * len(seeds), "|", color=colour, markersize=9)
        ax.plot([value], [row], mark, color=colour, markersize=7)
        said.append(f"{name} {value:.0f}")
    ax.set_yticks(range(len(answers)), list(answers))
    ax.set(ylim=(len(answers) - 0.4, -0.6), xlim=(0, 102), xlabel="test accuracy, %")
    ax.grid(axis="y", visible=False)
    n, seeds = answers[plain][0].n, len(answers[plain])
    ax.set_title(f"{len(clear)} of {len(answers) - 1} differ from plain LoRA (diamonds)")
    return (
        f"Test accuracy in per cent, n = {n}, seeds averaged: {seeds}, with 95 per cent intervals, a dashed line at plain "
        f"LoRA's {level:.0f}: {listed(said)}. {len(clear)} of {len(answers) - 1} have a paired difference to plain LoRA "
        f"whose interval leaves out 0{': ' + listed(list(clear)) if clear else ''}."
    )


def variants_compared(answers: Answers, plain: str = "LoRA") -> Picture:
    """Accuracies of variants on the same texts or images, those that differ from the plain one marked.

    answers: by name one Accuracy a seed, the plain one among them.
    """
    return Picture(draw_variants, answers, plain, size=(8, 1.3 + 0.29 * len(answers)))


# --- places ----------------------------------------------------------------------------------------------------------

MARKS = ((-0.22, GREY, "s"), (0.0, BLUE, "o"), (0.22, VERMILION, "D"))


def draw_places(ax, places: dict[str, dict[str, Accuracy]], split: int) -> str:
    """One row a place: the same held-out rows answered in two or three ways, each with its 95 % interval."""
    said = []
    for row, (place, ways) in enumerate(places.items()):
        for (way, answers), (offset, colour, mark) in zip(ways.items(), MARKS):
            low, high = (100 * bound for bound in answers.interval)
            ax.plot([low, high], [row + offset] * 2, color=colour)
            ax.plot([100 * answers.value], [row + offset], mark, color=colour, markersize=7)
            if row == 0 or way not in next(iter(places.values())):
                ax.annotate(
                    way,
                    (high, row + offset),
                    (7, 0),
                    textcoords="offset points",
                    color=colour,
                    va="center",
                    fontsize=10,
                )
        figures = listed([f"{way} {100 * answers.value:.0f}" for way, answers in ways.items()])
        said.append(f"{place} (n = {next(iter(ways.values())).n}): {figures}")
    ax.axhline(split - 0.5, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(places)), list(places))
    ax.set(ylim=(len(places) - 0.4, -0.6), xlim=(-2, 128), xlabel="right on rows that training never saw, %")
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="y", visible=False)
    ax.set_title("Above the line: said to work. Below: said to fail")
    return f"Right answers in per cent on held-out rows, with 95 per cent intervals. {'; '.join(said)}."


def places_before_after(places: dict[str, dict[str, Accuracy]], split: int) -> Picture:
    """Several places, each answered before training, after it and perhaps in a third way.

    places: by name, {way: answers}. split: how many of the first are said to work; a line stands behind them.
    """
    return Picture(draw_places, places, split, size=(8.4, 1.3 + 0.62 * len(places)))


# --- digits ----------------------------------------------------------------------------------------------------------


def draw_digits(axes, rows: dict[str, Sequence], side: int) -> str:
    """Small images in grey, a block of axes a row of them."""
    for ax, (name, images) in zip(axes, rows.items()):
        squares = [np.pad(np.asarray(image).reshape(side, side), 1) for image in images]
        ax.imshow(np.concatenate(squares, axis=1), cmap="Greys")
        ax.set_axis_off()
        ax.set_title(name, fontsize=11)
    counts = listed([f"{len(images)} {name}" for name, images in rows.items()])
    return f"Scanned digits of {side} × {side} pixels, side by side: {counts}."


def digit_rows(rows: dict[str, Sequence], side: int = 8) -> Picture:
    """Images beside their likes: {"upright": images, "turned": images}, each image a row of pixels."""
    return Picture(draw_digits, rows, side, size=(10, 1.7), columns=len(rows))
