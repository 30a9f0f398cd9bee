"""The figures of 07: the spectrum of an update, training curves, the rank sweep, times, the rank slider, the variants
beside plain LoRA, seven places before and after, and turned digits."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle

from lessonlib.display import to_numpy
from lessonlib.evaluation import (
    Accuracy,
    cumulative_energy,
    mean_difference,
    rank_at_energy,
    shares_right,
    text_interval,
)

from .style import BLUE, GREY, INK, OCHRE, SKY, VERMILION, YELLOW, Picture, listed

# --- spectrum --------------------------------------------------------------------------------------------------------


def draw_spectrum(ax, update: Sequence[float], noise: Sequence[float], level: float = 0.9) -> str:
    """Energy held by the largest singular values: a real update beside noise of the same shape."""
    ranks = np.arange(1, len(update) + 1)
    for values, colour, line, name in (
        (update, BLUE, "-", "the update"),
        (noise, GREY, "--", "random noise"),
    ):
        share, rank = cumulative_energy(values), rank_at_energy(values, level)
        ax.plot(ranks, 100 * share, color=colour, linestyle=line)
        ax.plot([rank], [100 * share[rank - 1]], "o", color=colour)
        # The update's name goes to the left where there is room, so that the two never meet.
        left = values is update and rank > len(values) ** 0.5
        ax.annotate(
            f"{name}: rank {rank}",
            (rank, 100 * share[rank - 1]),
            (-8, 4) if left else (8, -6),
            textcoords="offset points",
            ha="right" if left else "left",
            va="bottom" if left else "top",
            color=colour,
        )
    ax.axhline(100 * level, color=INK, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", ylim=(0, 103), xlabel="rank kept (log scale)", ylabel="energy held, %")
    ax.set_xticks([1, 10, 100, len(update)], ["1", "10", "100", str(len(update))])
    ours, random = (rank_at_energy(v, level) for v in (update, noise))
    ax.set_title(f"{100 * level:.0f} % of the update's energy is in {ours} of {len(update)} directions")
    return (
        f"Two rising curves of energy against rank kept, on a logarithmic axis. The update of full fine-tuning reaches "
        f"{100 * level:.0f} per cent at rank {ours} of {len(update)}, random noise of the same shape at rank {random}."
    )


def spectrum(update: Sequence[float], noise: Sequence[float]) -> Picture:
    """The cumulative energy of an update's singular values, beside those of noise of the same shape."""
    return Picture(draw_spectrum, update, noise)


# --- learning curves -------------------------------------------------------------------------------------------------


def draw_learning_curves(ax, curves: dict[str, Sequence[float]], window: int = 8) -> str:
    """Training loss by step, smoothed by a running mean, several runs in one picture."""
    parts, ends = [], []
    for (name, losses), colour, line in zip(curves.items(), (BLUE, VERMILION, GREY, OCHRE), ("-", "--", "-.", ":")):
        losses = np.asarray(losses, dtype=float)
        smooth = np.array([losses[max(0, i - window + 1) : i + 1].mean() for i in range(len(losses))])
        steps = np.arange(1, len(losses) + 1)
        ax.plot(steps, losses, ".", color=colour, alpha=0.25, markersize=4)
        ax.plot(steps, smooth, color=colour, linestyle=line)
        ends.append((smooth[-1], steps[-1], name, colour))
        parts.append(f"{name} falls from {smooth[0]:.2f} to {smooth[-1]:.2f}")
    ax.set(xlabel="step", ylabel="loss, nats", ylim=(0, None))
    lowest = 0.0
    for height, step, name, colour in sorted(ends):
        height = max(height, lowest)
        ax.annotate(name, (step, height), (6, 0), textcoords="offset points", color=colour, va="center")
        lowest = height + 0.07 * ax.get_ylim()[1]  # names of curves that end together stand one above the other
    longest = max(len(losses) for losses in curves.values())
    ax.set_xlim(0, longest * (1.02 + 0.018 * max(len(name) for name in curves)))
    ax.set_title("Training loss")
    return f"Training loss by step: {'; '.join(parts)}."


def learning_curves(curves: dict[str, Sequence[float]]) -> Picture:
    """Training losses of one run or several, by name."""
    return Picture(draw_learning_curves, curves)


# --- rank sweep ------------------------------------------------------------------------------------------------------


def by_rank(runs) -> dict[int, list]:
    """Recorded runs of LoRA, grouped by their rank."""
    groups = defaultdict(list)
    for run in runs:
        groups[run.settings["r"]].append(run)
    return dict(sorted(groups.items()))


def draw_rank_sweep(ax, runs, reference=None, chosen: int | None = None) -> str:
    """Test accuracy by rank: each seed a point, their mean a line; full fine-tuning as a band."""
    groups = by_rank(runs)
    means = {r: np.mean([run.accuracy for run in group]) for r, group in groups.items()}
    for r, group in groups.items():
        ax.plot([r] * len(group), [100 * run.accuracy for run in group], "o", color=SKY, markeredgecolor=BLUE)
    ax.plot(list(means), [100 * m for m in means.values()], color=BLUE)
    parts = ", ".join(f"{100 * m:.0f} at r = {r}" for r, m in means.items())
    if chosen in means:
        ax.plot([chosen], [100 * means[chosen]], "D", color=VERMILION, markersize=9)
    if reference:
        level = 100 * np.mean([run.accuracy for run in reference])
        ax.axhline(level, color=GREY, linestyle="--")
        ax.annotate("full fine-tuning", (min(means), level), (0, 4), textcoords="offset points", color=GREY)
        parts += f"; full fine-tuning {level:.0f}"
    ax.set(xscale="log", xlabel="rank r (log scale)", ylabel="test accuracy, %", ylim=(0, 100))
    ax.set_xticks(list(groups), [str(r) for r in groups])
    ax.minorticks_off()
    spread = 100 * (max(means.values()) - min(means.values()))
    ax.set_title(f"From r = {min(means)} to {max(means)} the mean moves by {spread:.0f} points")
    counts = sorted({len(group) for group in groups.values()})
    seeds = f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"
    return (
        f"Test accuracy in per cent by rank, means over {seeds}: {parts}. "
        f"From r = {min(means)} to {max(means)} the mean moves by {spread:.0f} points."
    )


def rank_sweep(runs, reference=None) -> Picture:
    """Accuracy against rank from recorded runs, with full fine-tuning's as a line."""
    return Picture(draw_rank_sweep, runs, reference)


# --- times -----------------------------------------------------------------------------------------------------------


def draw_times(ax, milliseconds: dict[str, float], title: str) -> str:
    """Bars of milliseconds, labelled directly."""
    names, values = list(milliseconds), list(milliseconds.values())
    bars = ax.barh(
        names[::-1],
        values[::-1],
        color=[BLUE, SKY, YELLOW, VERMILION, GREY][: len(names)][::-1],
        edgecolor=INK,
    )
    ax.bar_label(bars, [f"{value:.0f} ms" for value in values[::-1]], padding=4)
    ax.set(xlabel="milliseconds", xlim=(0, max(values) * 1.18))
    ax.grid(axis="y", visible=False)
    ax.set_title(title)
    return f"Bars of milliseconds: {', '.join(f'{n} {v:.0f}' for n, v in milliseconds.items())}."


def benchmark_times(milliseconds: dict[str, float], title: str) -> Picture:
    """Milliseconds of several ways to do one thing."""
    return Picture(draw_times, milliseconds, title, size=(7.2, 2.4))


# --- the rank slider -------------------------------------------------------------------------------------------------


def draw_rank(axes, r: int, shape: tuple[int, int], update: Sequence[float], runs) -> str:
    """W, B and A to scale at rank r; the energy a rank-r matrix can hold; the accuracy measured at r."""
    left, middle, right = axes
    d_out, d_in = shape
    left.set_axis_off()
    left.add_patch(Rectangle((0, 0), d_in, d_out, facecolor="#DDDDDD", edgecolor=INK))
    left.text(d_in / 2, d_out / 2, f"W\n{d_out} × {d_in}\nfrozen", ha="center", va="center")
    gap, thin = 0.16 * d_in, max(r, 6)
    left.add_patch(Rectangle((d_in + gap, 0), thin, d_out, facecolor=BLUE, edgecolor=INK))
    left.text(d_in + gap + thin / 2, -0.06 * d_out, "B", ha="center", va="top", color=BLUE, weight="bold")
    left.add_patch(Rectangle((d_in + 1.6 * gap + thin, d_out - thin), d_in, thin, facecolor=VERMILION, edgecolor=INK))
    left.text(
        2 * d_in + 1.75 * gap + thin,
        d_out - thin / 2,
        "A",
        ha="left",
        va="center",
        color=VERMILION,
        weight="bold",
    )
    numbers = r * (d_in + d_out)
    percent = f"{100 * numbers / (d_in * d_out):.2g}"
    left.text(d_in + 1.6 * gap + thin, d_out * 0.45, f"r = {r}\n{numbers:,} numbers\n{percent} % of W")
    left.set(xlim=(-0.05 * d_in, 2.45 * d_in + thin), ylim=(-0.25 * d_out, 1.05 * d_out), aspect="equal")
    share = cumulative_energy(update)
    middle.plot(np.arange(1, len(share) + 1), 100 * share, color=BLUE)
    middle.plot([r], [100 * share[r - 1]], "D", color=VERMILION, markersize=9)
    middle.set(xscale="log", ylim=(0, 103), xlabel="rank", ylabel="energy of a full update, %")
    middle.set_title(f"{100 * share[r - 1]:.0f} % fits into rank {r}")
    draw_rank_sweep(right, runs, chosen=r)
    measured = [run.accuracy for run in runs if run.settings["r"] == r]
    right.set_title(f"{100 * np.mean(measured):.0f} % measured")
    return (
        f"Rank {r}: B is {d_out} by {r} and A {r} by {d_in}, {numbers} numbers, {percent} per cent of those "
        f"in W. Rank {r} holds {100 * share[r - 1]:.0f} per cent of a full update's energy; the tuned model scored "
        f"{100 * np.mean(measured):.0f} per cent, mean of {len(measured)} runs."
    )


def rank_slider(shape: tuple[int, int], update: Sequence[float], runs):
    """Slide the rank: the matrices to scale, the energy they can hold, the accuracy that was measured."""
    from .widgets import slider

    ranks = list(by_rank(runs))
    return slider(
        "rank r",
        ranks,
        lambda r: Picture(draw_rank, r, shape, update, runs, size=(11, 3.6), columns=3, dpi=80),
        start=8 if 8 in ranks else ranks[0],
    )


# --- variants --------------------------------------------------------------------------------------------------------

Answers = Mapping[str, Sequence[Accuracy]]


def apart_from(answers: Answers, plain: str) -> dict[str, tuple[float, float, float]]:
    """The variants whose paired difference to `plain` has an interval without zero, each with that difference."""
    differences = {name: mean_difference(a, answers[plain]) for name, a in answers.items() if name != plain}
    return {name: d for name, d in differences.items() if d[1] > 0 or d[2] < 0}


def draw_variants(ax, answers: Answers, plain: str) -> str:
    """One row a variant: its mean over seeds with a 95 % interval; a diamond where it differs from plain LoRA."""
    clear, parts = apart_from(answers, plain), []
    level = 100 * shares_right(answers[plain]).mean()
    ax.axvline(level, color=GREY, linestyle="--")
    for row, (name, seeds) in enumerate(answers.items()):
        value, low, high = (100 * x for x in text_interval(shares_right(seeds)))
        colour, mark = (VERMILION, "D") if name in clear else (BLUE, "o")
        colour = INK if name == plain else colour
        ax.plot([low, high], [row, row], color=colour)
        ax.plot([100 * one.value for one in seeds], [row] * len(seeds), "|", color=colour, markersize=9)
        ax.plot([value], [row], mark, color=colour, markersize=7)
        parts.append(f"{name} {value:.0f}")
    ax.set_yticks(range(len(answers)), list(answers))
    ax.set(ylim=(len(answers) - 0.4, -0.6), xlim=(0, 102), xlabel="test accuracy, %")
    ax.grid(axis="y", visible=False)
    n, seeds = answers[plain][0].n, len(answers[plain])
    ax.set_title(f"{len(clear)} of {len(answers) - 1} differ from plain LoRA (diamonds)")
    return (
        f"Test accuracy in per cent, n = {n}, seeds averaged: {seeds}, with 95 per cent intervals, a dashed line at plain "
        f"LoRA's {level:.0f}: {listed(parts)}. {len(clear)} of {len(answers) - 1} have a paired difference to plain LoRA "
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
    parts = []
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
        parts.append(f"{place} (n = {next(iter(ways.values())).n}): {figures}")
    ax.axhline(split - 0.5, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(places)), list(places))
    ax.set(ylim=(len(places) - 0.4, -0.6), xlim=(-2, 128), xlabel="right on rows that training never saw, %")
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="y", visible=False)
    ax.set_title("Above the line: said to work. Below: said to fail")
    return f"Right answers in per cent on held-out rows, with 95 per cent intervals. {'; '.join(parts)}."


def places_before_after(places: dict[str, dict[str, Accuracy]], split: int) -> Picture:
    """Several places, each answered before training, after it and perhaps in a third way.

    places: by name, {way: answers}. split: how many of the first are said to work; a line stands behind them.
    """
    return Picture(draw_places, places, split, size=(8.4, 1.3 + 0.62 * len(places)))


# --- digits ----------------------------------------------------------------------------------------------------------


def draw_digits(axes, rows: dict[str, Sequence], side: int) -> str:
    """Small images in grey, a block of axes a row of them."""
    for ax, (name, images) in zip(axes, rows.items()):
        squares = [np.pad(to_numpy(image).reshape(side, side), 1) for image in images]
        ax.imshow(np.concatenate(squares, axis=1), cmap="Greys")
        ax.set_axis_off()
        ax.set_title(name, fontsize=11)
    counts = listed([f"{len(images)} {name}" for name, images in rows.items()])
    return f"Scanned digits of {side} × {side} pixels, side by side: {counts}."


def digit_rows(rows: dict[str, Sequence], side: int = 8) -> Picture:
    """Images beside their likes: {"upright": images, "turned": images}, each image a row of pixels."""
    return Picture(draw_digits, rows, side, size=(10, 1.7), columns=len(rows))
