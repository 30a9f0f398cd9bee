"""The figures of 03: the grid of prompts, the orders of four examples, biases, calibration, and the prompt's toggles."""

import textwrap
from collections.abc import Callable, Sequence

import numpy as np

from .style import BLUE, GREY, INK, SKY, VERMILION, YELLOW, Picture

CHANCE = 50
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # under a text that a line would cross


def _chance(ax, level: float = CHANCE) -> None:
    ax.axvline(level, color=INK, linewidth=0.8, linestyle=":")


# --- groups of measurements ------------------------------------------------------------------------------------------


def draw_groups(ax, groups: dict[str, Sequence[float]], xlabel: str, chance: float | None = None) -> str:
    """One row a group: each measurement a dot, their mean a bar across."""
    names, values = list(groups), [100 * np.asarray(group, dtype=float) for group in groups.values()]
    for row, group in enumerate(values):
        ax.plot(group, [row] * len(group), "o", color=SKY, markeredgecolor=BLUE, alpha=0.75)
        ax.plot([group.mean()] * 2, [row - 0.32, row + 0.32], color=VERMILION, linewidth=3)
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.4, -0.6), xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    if chance is not None:
        _chance(ax, 100 * chance)
    means = [group.mean() for group in values]
    ax.set_title(f"Means from {min(means):.0f} to {max(means):.0f} %")
    parts = "; ".join(
        f"{name} {group.mean():.0f} on average, from {group.min():.0f} to {group.max():.0f} ({len(group)})"
        for name, group in zip(names, values)
    )
    return f"Dots of accuracy in per cent by group, a bar at each mean: {parts}. Means from {min(means):.0f} to {max(means):.0f}."


def measured_groups(
    groups: dict[str, Sequence[float]], xlabel: str = "accuracy, %", chance: float | None = None
) -> Picture:
    """Measurements by group, such as several draws of each way to choose examples. Values are shares of 1."""
    return Picture(draw_groups, groups, xlabel, chance, size=(7.2, 1.3 + 0.42 * len(groups)))


# --- the parts of a prompt -------------------------------------------------------------------------------------------


def by_level(cells: Sequence[tuple[dict, float]], factor: str) -> dict[str, np.ndarray]:
    """Accuracies, in per cent, of the cells that share a level of one factor."""
    levels = dict.fromkeys(settings[factor] for settings, _ in cells)
    return {
        level: np.array([100 * value for settings, value in cells if settings[factor] == level]) for level in levels
    }


def draw_factors(ax, cells: Sequence[tuple[dict, float]], factors: dict[str, str]) -> str:
    """A row for each level of each factor: all cells with it as dots, their mean as a bar."""
    row, ticks, parts = 0.0, {}, []
    for factor, title in factors.items():
        groups = by_level(cells, factor)
        for level, values in groups.items():
            ax.plot(values, [row] * len(values), "o", color=SKY, markeredgecolor=BLUE, alpha=0.5, markersize=5)
            ax.plot([values.mean()] * 2, [row - 0.35, row + 0.35], color=VERMILION, linewidth=3)
            ticks[row] = f"{title}: {level}"
            row += 1
        means = ", ".join(f"{level} {values.mean():.0f}" for level, values in groups.items())
        parts.append(f"{title}: {means}")
        row += 0.6
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set(ylim=(row - 0.8, -0.8), xlabel="accuracy, %")
    ax.grid(axis="y", visible=False)
    _chance(ax)
    every = [100 * value for _, value in cells]
    ax.set_title(f"One model, {len(cells)} prompts: {min(every):.0f} to {max(every):.0f} %")
    return (
        f"Accuracy of one model with {len(cells)} prompts, from {min(every):.0f} to {max(every):.0f} per cent, a row "
        f"for each choice; mean by choice, {'; '.join(parts)}."
    )


def prompt_factors(cells: Sequence[tuple[dict, float]], factors: dict[str, str]) -> Picture:
    """All cells of a grid, once for each of its factors. factors: the settings' names and how to call them."""
    rows = sum(len(by_level(cells, factor)) for factor in factors)
    return Picture(draw_factors, cells, factors, size=(7.6, 1.2 + 0.32 * rows))


# --- the orders ------------------------------------------------------------------------------------------------------


def draw_orders(ax, orders: dict[str, tuple[float, float]]) -> str:
    """One place an order, sorted by its raw accuracy: raw as a circle, calibrated as a diamond."""
    ranked = sorted(orders.items(), key=lambda item: item[1][0])
    for place, (_, (raw, after)) in enumerate(ranked):
        ax.plot([place, place], [100 * raw, 100 * after], color="#BBBBBB", linewidth=1.2, zorder=1)
        ax.plot([place], [100 * raw], "o", color=VERMILION, label="as it is" if not place else None)
        ax.plot([place], [100 * after], "D", color=BLUE, markersize=5, label="calibrated" if not place else None)
    ax.axhline(CHANCE, color=INK, linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(ranked)), [name for name, _ in ranked], rotation=90, fontsize=9)
    ax.set(xlabel="order of the four examples", ylabel="accuracy, %")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper left", frameon=False, ncols=2)
    raw, after = (100 * np.array([values[i] for values in orders.values()]) for i in (0, 1))
    ax.set_ylim(min(raw.min(), after.min()) - 4, max(raw.max(), after.max()) + 12)
    ax.set_title(f"{len(orders)} orders: {raw.min():.0f} to {raw.max():.0f} %")
    return (
        f"Accuracy of {len(orders)} orders of the same four examples. As they are they reach {raw.min():.0f} to "
        f"{raw.max():.0f} per cent, standard deviation {raw.std():.1f} points; calibrated {after.min():.0f} to "
        f"{after.max():.0f}, {after.std():.1f} points. The lowest is {ranked[0][0]}, the highest {ranked[-1][0]}."
    )


def example_orders(orders: dict[str, tuple[float, float]]) -> Picture:
    """All orders of a few examples: (raw, calibrated) accuracy by the order's name."""
    return Picture(draw_orders, orders, size=(7.6, 3.9))


# --- biases ----------------------------------------------------------------------------------------------------------


def draw_label_rates(ax, rates: dict[str, Sequence[float]]) -> str:
    """Share of answers "positive" by number of positive examples, one line for each last label."""
    parts = []
    for last, word, colour, line, mark in (
        ("P", "positive", BLUE, "-", "o"),
        ("N", "negative", VERMILION, "--", "s"),
    ):
        groups = {}
        for labels, values in rates.items():
            if labels.endswith(last):
                groups.setdefault(labels.count("P"), []).extend(100 * value for value in values)
        counts = sorted(groups)
        means = [np.mean(groups[n]) for n in counts]
        for n in counts:
            ax.plot([n] * len(groups[n]), groups[n], mark, color=colour, alpha=0.25, markersize=4)
        ax.plot(counts, means, line, marker=mark, color=colour, label=f"last example {word}")
        parts.append(f"with a {word} one last " + ", ".join(f"{m:.0f} at {n}" for n, m in zip(counts, means)))
    ax.axhline(CHANCE, color=INK, linewidth=0.8, linestyle=":")
    ax.set(xlabel="positive examples among four", ylabel='answers "positive", %', ylim=(-4, 122))
    ax.set_xticks(range(5))
    ax.set_yticks(range(0, 101, 25))
    ax.legend(loc="upper left", frameon=False, ncols=2)
    ax.set_title("Half of the tickets are positive")
    return (
        "Share of tickets called positive, in per cent, by the number of positive examples among four: "
        f"{'; '.join(parts)}. Half of the tickets are positive."
    )


def label_rates(rates: dict[str, Sequence[float]]) -> Picture:
    """Majority-label and recency bias in one picture. rates: shares of "positive" by the examples' labels, as "PPPN"."""
    return Picture(draw_label_rates, rates)


# --- before and after calibration ------------------------------------------------------------------------------------


def draw_calibration(ax, pairs: Sequence[tuple[float, float]]) -> str:
    """Each prompt a point: accuracy as it is against accuracy calibrated; below the diagonal calibration hurt."""
    raw, after = 100 * np.array(pairs, dtype=float).T
    better = after >= raw
    ax.plot(raw[better], after[better], "o", color=BLUE, alpha=0.6)
    ax.plot(raw[~better], after[~better], "s", color=VERMILION, alpha=0.8)
    low, high = min(raw.min(), after.min()) - 3, max(raw.max(), after.max()) + 3
    ax.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=":")
    ax.set(xlabel="accuracy as it is, %", ylabel="calibrated, %", xlim=(low, high), ylim=(low, high))
    ax.text(low + 1, high - 1.5, "calibration helps", color=BLUE, va="top", bbox=PLAIN)
    ax.text(high - 1, low + 1.5, "it hurts", color=VERMILION, ha="right", bbox=PLAIN)
    ax.set_title(
        f"Mean {raw.mean():.0f} → {after.mean():.0f} %, spread {raw.std(ddof=1):.1f} → {after.std(ddof=1):.1f}"
    )
    return (
        f"A point for each of {len(raw)} prompts, accuracy as it is against calibrated. The mean goes from "
        f"{raw.mean():.0f} to {after.mean():.0f} per cent, the standard deviation from {raw.std(ddof=1):.1f} to "
        f"{after.std(ddof=1):.1f} points; {int((after > raw).sum())} prompts gain, {int((~better).sum())} lose."
    )


def calibration_effect(pairs: Sequence[tuple[float, float]]) -> Picture:
    """(raw, calibrated) accuracy of many prompts, shares of 1."""
    return Picture(draw_calibration, pairs, size=(5.6, 4.6))


# --- the toggles -----------------------------------------------------------------------------------------------------

LINES, CHARACTERS = 21, 62


def _excerpt(prompt: str) -> str:
    """The prompt as lines that fit into the picture; empty lines are kept, the middle is left out where it is long."""
    lines = [part for line in prompt.split("\n") for part in (textwrap.wrap(line, CHARACTERS) or [""])]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 5], "…", *lines[-4:]]
    return "\n".join(lines).replace("$", r"\$")


def draw_meter(axes, prompt: str, values: dict[str, tuple[float, float, float]], n: int) -> str:
    """The prompt's text, and beside it a bar for each way to read its answers, with its 95 % interval."""
    left, right = axes
    left.set_axis_off()
    left.text(0, 1, _excerpt(prompt), family="DejaVu Sans Mono", fontsize=8, va="top", linespacing=1.25)
    left.set(xlim=(0, 1), ylim=(0, 1))
    names = list(values)
    for row, (name, (value, low, high)) in enumerate(values.items()):
        right.barh(row, 100 * value, color=(YELLOW, SKY, GREY)[row], edgecolor=INK, height=0.55)
        right.plot([100 * low, 100 * high], [row, row], color=INK, linewidth=1.5)
        right.text(2, row - 0.38, f"{name}: {100 * value:.0f} %", va="bottom")
    _chance(right)
    right.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.85), xlabel=f"accuracy on {n} tickets, %")
    right.set_yticks([])
    first, second = (100 * values[name][0] for name in names[:2])
    right.set_title(f"{first:.0f} %, {names[1]} {second:.0f} %")
    parts = ", ".join(
        f"{name} {100 * v:.0f} per cent ({100 * a:.0f} to {100 * b:.0f})" for name, (v, a, b) in values.items()
    )
    text = " / ".join(line for line in prompt.split("\n") if line.strip())
    return f"Accuracy on {n} tickets, with 95 per cent intervals: {parts}; chance is {CHANCE}. The prompt: {text}."


def prompt_toggles(
    controls: dict[str, Sequence[str]],
    prompt: Callable[..., str],
    measured: Callable[..., dict[str, tuple[float, float, float]]],
    n: int,
    start: Sequence[str],
):
    """Choose the parts of a prompt: its text, and the accuracy that was measured with it.

    prompt, measured: called with one option of each list; measured gives (accuracy, low, high) by way of reading.
    """
    from .widgets import chooser

    def picture(*parts):
        return Picture(draw_meter, prompt(*parts), measured(*parts), n, size=(11, 4.4), columns=2, dpi=80)

    return chooser(controls, picture, start)
