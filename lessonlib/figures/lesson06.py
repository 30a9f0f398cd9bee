"""The figures of 06: the block folded and unfolded, widths, starts, tasks before and after, and what a call costs."""

from collections import defaultdict

import numpy as np
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle

from lessonlib.evaluation import Accuracy

from .style import BLUE, GREY, INK, SKY, VERMILION, YELLOW, Picture

FROZEN = "#DDDDDD"

# --- widths ----------------------------------------------------------------------------------------------------------


def by_width(runs) -> dict[int, list]:
    """Recorded runs of adapters, grouped by the width of their bottleneck."""
    groups = defaultdict(list)
    for run in runs:
        groups[run.settings["m"]].append(run)
    return dict(sorted(groups.items()))


def draw_widths(ax, runs, base: float | None = None, chosen: int | None = None) -> str:
    """Test accuracy by width: each seed a point, their mean a line, the base model's a dashed line."""
    groups = by_width(runs)
    means = {m: 100 * np.mean([run.accuracy for run in group]) for m, group in groups.items()}
    for m, group in groups.items():
        ax.plot([m] * len(group), [100 * run.accuracy for run in group], "o", color=SKY, markeredgecolor=BLUE)
    ax.plot(list(means), list(means.values()), color=BLUE)
    parts = ", ".join(f"{mean:.0f} at m = {m}" for m, mean in means.items())
    if chosen in means:
        ax.plot([chosen], [means[chosen]], "D", color=VERMILION, markersize=9)
    if base is not None:
        ax.axhline(100 * base, color=GREY, linestyle="--")
        place = (max(means), 100 * base)
        ax.annotate("no adapter", place, (0, 4), textcoords="offset points", color=GREY, ha="right")
        parts += f"; without adapters {100 * base:.0f}"
    ax.set(xscale="log", xlabel="width m (log scale)", ylabel="test accuracy, %", ylim=(0, 100))
    ax.set_xticks(list(groups), [str(m) for m in groups])
    ax.minorticks_off()
    spread = max(means.values()) - min(means.values())
    ax.set_title(f"From m = {min(means)} to {max(means)} the means span {spread:.0f} points")
    counts = sorted({len(group) for group in groups.values()})
    seeds = f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"
    return (
        f"Test accuracy in per cent by width of the bottleneck, means over {seeds}: {parts}. "
        f"From m = {min(means)} to {max(means)} the means span {spread:.0f} points."
    )


def width_sweep(runs, base: float | None = None) -> Picture:
    """Accuracy against the bottleneck's width from recorded runs, with the base model's as a line."""
    return Picture(draw_widths, runs, base)


# --- the block -------------------------------------------------------------------------------------------------------


def _box(ax, x: float, y: float, name: str, colour: str, height: float = 0.8) -> None:
    ax.add_patch(Rectangle((x - 1.1, y - height / 2), 2.2, height, facecolor=colour, edgecolor=INK))
    ink = "white" if colour == BLUE else INK
    ax.text(x, y, name, ha="center", va="center", color=ink, fontsize=10)


def _arrow(ax, start, end, bend: float = 0.0, colour: str = INK) -> None:
    style = f"arc3,rad={bend}"
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=colour, connectionstyle=style)
    )


def _folded(ax) -> None:
    """One layer from below upwards: two sublayers, an adapter behind each, before the residual sums."""
    ax.set_axis_off()
    ax.set(xlim=(-0.6, 5.2), ylim=(-0.7, 8.6))
    for y, name in ((0.0, "attention"), (4.1, "feed-forward")):
        _arrow(ax, (0.4, y - 0.65), (0.4, y + 2.75))
        _arrow(ax, (0.4, y - 0.5), (3.0, y - 0.42), 0.0)
        _box(ax, 3.0, y, name, FROZEN)
        _arrow(ax, (3.0, y + 0.4), (3.0, y + 0.9))
        _box(ax, 3.0, y + 1.3, "adapter", BLUE)
        _arrow(ax, (3.0, y + 1.7), (0.65, y + 2.95))
        ax.text(0.4, y + 3.0, "+", ha="center", va="center", fontsize=14, weight="bold")
    _arrow(ax, (0.4, 7.35), (0.4, 8.5))
    ax.set_title("One layer, folded")


def _unfolded(ax, d: int, m: int) -> None:
    """The adapter from below upwards, its widths to scale: d, m, d, and the way around."""
    ax.set_axis_off()
    ax.set(xlim=(-0.72, 1.0), ylim=(-0.16, 1.2))
    wide, narrow = 0.5, max(0.5 * m / d, 0.006)
    for y, half, name, colour in ((0.0, wide, f"x: {d}", FROZEN), (1.0, wide, f"x + detour: {d}", FROZEN)):
        ax.add_patch(Rectangle((-half, y - 0.05), 2 * half, 0.1, facecolor=colour, edgecolor=INK))
        ax.text(0, y, name, ha="center", va="center", fontsize=10)
    for low, high, name in ((0.05, 0.45, "down"), (0.95, 0.55, "up")):
        corners = [(-wide, low), (wide, low), (narrow, high), (-narrow, high)]
        ax.add_patch(Polygon(corners, facecolor=SKY, edgecolor=INK, alpha=0.55))
        ax.text(0, low + (high - low) * 0.28, f"{name}: {d * m:,} weights", ha="center", va="center", fontsize=10)
    ax.add_patch(Rectangle((-narrow, 0.45), 2 * narrow, 0.1, facecolor=VERMILION, edgecolor=INK))
    ax.text(-narrow - 0.04, 0.5, f"m = {m}", ha="right", va="center", color=VERMILION, weight="bold")
    _arrow(ax, (0.53, 0.0), (0.53, 1.0), 0.5, GREY)
    ax.text(0.7, 0.5, "x", ha="left", va="center", color=GREY, weight="bold")
    ax.set_title("The adapter, unfolded")


def draw_block(axes, m: int, d: int, modules: int, base: int, runs) -> str:
    """The layer with its adapters, one adapter to scale, and the accuracy that was measured at this width."""
    left, middle, right = axes
    _folded(left)
    _unfolded(middle, d, m)
    one = 2 * d * m + m + d
    share = f"{100 * modules * one / base:.2g}"
    middle.text(0, -0.13, f"{one:,} numbers, biases included", ha="center", va="top", fontsize=10)
    draw_widths(right, runs, chosen=m)
    measured = [run.accuracy for run in runs if run.settings["m"] == m]
    right.set_title(f"{share} % more, {100 * np.mean(measured):.0f} % right")
    return (
        f"Width m = {m}: an adapter goes from d = {d} down to {m} and up again, {d * m:,} weights each way, {one:,} numbers with "
        f"biases. One stands behind attention and one behind the feed-forward part, each before the residual sum (+). "
        f"All {modules} add {share} per cent to the model, which was {100 * np.mean(measured):.0f} per cent right, "
        f"mean of {len(measured)} runs."
    )


def adapter_slider(d: int, modules: int, base: int, runs):
    """Slide the width: the block folded and unfolded to scale, what it costs, and the accuracy that was measured.

    modules: adapters in the model. base: its parameters. runs: recorded runs with `m` among their settings.
    """
    from .widgets import slider

    widths = list(by_width(runs))
    return slider(
        "width m",
        widths,
        lambda m: Picture(draw_block, m, d, modules, base, runs, size=(11, 4.2), columns=3, dpi=80),
        start=64 if 64 in widths else widths[0],
    )


# --- starts ----------------------------------------------------------------------------------------------------------


def draw_starts(ax, same: dict[float, float]) -> str:
    """By the scale of the random start: the share of next words that are still the base's."""
    same = {scale: 100 * share for scale, share in sorted(same.items())}
    ax.plot(list(same), list(same.values()), "o-", color=BLUE)
    for scale, share in same.items():
        ax.annotate(f"{share:.0f}", (scale, share), (0, 8), textcoords="offset points", color=BLUE, ha="center")
    ax.set(xscale="log", ylim=(0, 115), xlabel="standard deviation of the start (log scale)")
    ax.set(ylabel="same next word as the base, %")
    ax.set_xticks(list(same), [f"{scale:g}" for scale in same])
    ax.set_yticks(range(0, 101, 20))
    ax.minorticks_off()
    near = [scale for scale, share in same.items() if share >= 90]
    ax.set_title(f"Up to {max(near):g} the model hardly notices" if near else "Every start is noticed")
    words = ", ".join(f"{scale:g}: {share:.0f}" for scale, share in same.items())
    return (
        "The share of next words, in per cent, that an untrained model with adapters has in common with its base, by "
        f"the standard deviation of the adapters' start. {words}."
    )


def start_scales(same: dict[float, float]) -> Picture:
    """How far a random start takes the untrained model from its base.

    same: the share of next words in common, by standard deviation of the start.
    """
    return Picture(draw_starts, same, size=(7.2, 3.4))


# --- tasks -----------------------------------------------------------------------------------------------------------


def draw_tasks(ax, before: dict[str, Accuracy], after: dict[str, Accuracy]) -> str:
    """One row a task: accuracy without and with its adapters, each with its 95 % interval."""
    parts = []
    for row, name in enumerate(before):
        for answers, offset, colour, mark in (
            (before[name], -0.16, GREY, "s"),
            (after[name], 0.16, BLUE, "o"),
        ):
            low, high = answers.interval
            ax.plot([100 * low, 100 * high], [row + offset] * 2, color=colour)
            ax.plot([100 * answers.value], [row + offset], mark, color=colour, markersize=8)
        parts.append(f"{name} {100 * before[name].value:.0f} without and {100 * after[name].value:.0f} with")
    first = next(iter(before))
    for answers, name, offset, colour in (
        (before, "base alone", -0.16, GREY),
        (after, "with its adapters", 0.16, BLUE),
    ):
        high = answers[first].interval[1]
        place = (100 * high, offset)
        ax.annotate(name, place, (6, 0), textcoords="offset points", color=colour, va="center")
    ax.set_yticks(range(len(before)), list(before))
    ax.set(xlim=(0, 130), ylim=(len(before) - 0.5, -0.5), xlabel="test accuracy, %")
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="y", visible=False)
    n = next(iter(after.values())).n
    ax.set_title(f"{len(before)} tasks, one frozen base")
    return (
        f"Accuracy in per cent on {n} test texts, with 95 per cent intervals, for {len(before)} tasks over one frozen "
        f"base: {'; '.join(parts)}."
    )


def tasks_before_after(before: dict[str, Accuracy], after: dict[str, Accuracy]) -> Picture:
    """Several tasks without and with their own adapters."""
    return Picture(draw_tasks, before, after, size=(7.2, 1.4 + 0.62 * len(before)))


# --- calls -----------------------------------------------------------------------------------------------------------


def draw_overheads(ax, overheads: dict[str, dict[str, float]]) -> str:
    """Bars of the time that each method adds to a forward pass, in per cent, by the size of the call."""
    names = list(next(iter(overheads.values())))
    colours = dict(zip(names, (BLUE, YELLOW, VERMILION, GREY)))
    height, parts, top = 0.8 / len(names), [], max(max(group.values()) for group in overheads.values())
    for row, (size, group) in enumerate(overheads.items()):
        for i, name in enumerate(names):
            y = row + (i - (len(names) - 1) / 2) * height
            ax.barh(y, group[name], height * 0.9, color=colours[name], edgecolor=INK)
            label = f"{group[name]:+.0f} % {name if not row else ''}".rstrip()
            ax.annotate(label, (max(group[name], 0), y), (5, 0), textcoords="offset points", va="center")
        parts.append(f"{size}: {', '.join(f'{name} {value:+.0f}' for name, value in group.items())}")
    ax.set_yticks(range(len(overheads)), list(overheads))
    low = min(0.0, *(value for group in overheads.values() for value in group.values()))
    ax.set(ylim=(len(overheads) - 0.5, -0.5), xlabel="time added to the base's, %")
    ax.set(xlim=(1.1 * low, 1.6 * max(top, 1)))
    ax.grid(axis="y", visible=False)
    ax.set_title("The smaller the call, the dearer the detour" if _falls(overheads) else "Time of a call")
    return f"Bars of the time added to a forward pass, in per cent of the base's, by batch and length. {'; '.join(parts)}."


def _falls(overheads: dict[str, dict[str, float]]) -> bool:
    first = [next(iter(group.values())) for group in overheads.values()]
    return first == sorted(first, reverse=True) and first[0] > first[-1]


def call_overheads(overheads: dict[str, dict[str, float]]) -> Picture:
    """Per cent that methods add to a forward pass, by the size of the call: {"1 × 128": {"adapters": 30, ...}, ...}."""
    rows = len(overheads) * len(next(iter(overheads.values())))
    return Picture(draw_overheads, overheads, size=(7.2, 1.4 + 0.32 * rows))
