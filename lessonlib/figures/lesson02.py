"""The figures of 02: answers by number of examples, attention on the prompt, published scale, errors of estimators."""

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from .style import BLUE, GREY, INK, LOOKS, SKY, VERMILION, Picture, apart, listed

PALE = "#DCEBF5"


# --- small tasks by number of examples -------------------------------------------------------------------------------


def draw_tasks(ax, right: dict[str, dict[int, float]], n: int) -> str:
    """Right answers of n by number of examples, a line a task."""
    shots = list(next(iter(right.values())))
    ends = apart([counts[shots[-1]] for counts in right.values()], 0.07 * n)
    for (task, counts), (colour, mark), end in zip(right.items(), LOOKS, ends):
        ax.plot(range(len(shots)), list(counts.values()), mark, color=colour)
        ax.text(len(shots) - 0.9, end, task, color=colour, va="center")
    ax.set_xticks(range(len(shots)), [str(k) for k in shots])
    ax.set(xlabel="examples in the prompt", ylabel=f"right of {n}", ylim=(-0.6, 1.12 * n))
    ax.set_xlim(-0.2, len(shots) - 0.7 + 0.085 * max(map(len, right)))
    ax.set_title("Same words, same weights: the examples say what is asked")
    parts = [f"{task} {listed([f'{right} at {k}' for k, right in c.items()])}" for task, c in right.items()]
    return f"Right answers of {n} by the number of examples: {'; '.join(parts)}."


def tasks_by_shots(right: dict[str, dict[int, float]], n: int) -> Picture:
    """Right answers to small tasks by number of examples. right: for each task, of n, by number of examples."""
    return Picture(draw_tasks, right, n)


# --- tickets by number of examples -----------------------------------------------------------------------------------


def draw_shots(ax, groups: dict[int, Sequence[float]], chance: float, chosen: int | None = None) -> str:
    """Test accuracy by number of examples: each draw a point, their mean a line."""
    means = [100 * np.mean(group) for group in groups.values()]
    for place, group in enumerate(groups.values()):
        ax.plot([place] * len(group), [100 * a for a in group], "o", color=SKY, markeredgecolor=BLUE)
    ax.plot(range(len(groups)), means, color=BLUE)
    if chosen is not None:
        place = list(groups).index(chosen)
        ax.plot([place], [means[place]], "D", color=VERMILION, markersize=9)
    ax.axhline(100 * chance, color=GREY, linestyle="--")
    beside = ax.get_yaxis_transform()  # the curve may be anywhere inside
    ax.text(1.01, 100 * chance, "chance", color=GREY, va="center", transform=beside)
    ax.set_xticks(range(len(groups)), [str(k) for k in groups])
    top = 1.15 * max(100 * max(group) for group in groups.values())
    ax.set(xlabel="examples in the prompt", ylabel="test accuracy, %", ylim=(0, max(top, 40)))
    first, last = min(groups), max(groups)
    ax.set_title(f"{means[0]:.0f} % with {first} examples, {means[-1]:.0f} % with {last}")
    parts = listed([f"{m:.0f} with {k}" for k, m in zip(groups, means)])
    most = max(map(len, groups.values()))
    return (
        f"Test accuracy in per cent by the number of examples, means over up to {most} draws: {parts}; chance is "
        f"{100 * chance:.0f}."
    )


def shots_sweep(runs: dict[int, Sequence], chance: float) -> Picture:
    """Accuracy against the number of examples, from recorded runs."""
    return Picture(draw_shots, {k: [run.accuracy for run in group] for k, group in runs.items()}, chance)


def draw_growing_prompt(axes, shown: Sequence[str], tokens: int, groups: dict, chance: float, room: int) -> str:
    """Left the prompt, a box an example; right the accuracy that was measured with as many."""
    left, right = axes
    left.set_axis_off()
    rows = ["topics named", *shown, "the new message"]
    for row, text in enumerate(rows):
        edge = row in (0, len(rows) - 1)
        left.add_patch(
            Rectangle((0, -row), 1, -0.86, facecolor="#EEEEEE" if edge else PALE, edgecolor=INK, linewidth=0.7)
        )
        if not edge:
            left.text(0.04, -row - 0.43, "message", va="center", fontsize=8, style="italic")
        left.text(0.96, -row - 0.43, text, va="center", ha="right", fontsize=8)
    left.set(xlim=(-0.02, 1.02), ylim=(-room - 2, 0.1))
    left.set_title(f"{len(shown)} examples, {tokens:,} tokens")
    alt = draw_shots(right, groups, chance, chosen=len(shown))
    mean = 100 * np.mean(groups[len(shown)])
    right.set_title(f"{mean:.0f} % measured")
    return (
        f"A prompt of {tokens} tokens with {len(shown)} examples ({listed(shown) or 'none'}), beside the accuracy "
        f"measured with as many, {mean:.0f} per cent. {alt}"
    )


def shots_slider(runs: dict[int, Sequence], chance: float):
    """Slide the number of examples: the prompt grows, and the measured accuracy follows."""
    from .widgets import slider

    groups = {k: [run.accuracy for run in group] for k, group in runs.items()}
    room = max(groups)

    def picture(k):
        first = runs[k][0].results
        data = first["shown"], first["prompt_tokens"], groups, chance, room
        return Picture(draw_growing_prompt, *data, size=(9.6, 4.4), columns=2, dpi=80)

    return slider("examples", list(groups), picture, start=8 if 8 in groups else room)


# --- right and random labels -----------------------------------------------------------------------------------------


def draw_pairs(ax, pairs: dict[str, Sequence[float]], chance: float) -> str:
    """Two accuracies a draw, joined: the same examples in two ways."""
    (one, first), (other, second) = pairs.items()
    for a, b in zip(first, second):
        ax.plot([0, 1], [100 * a, 100 * b], "o-", color=SKY, markeredgecolor=BLUE, linewidth=1)
    means = 100 * np.mean(first), 100 * np.mean(second)
    ax.plot([0, 1], means, "D-", color=VERMILION, markersize=8)
    ax.axhline(100 * chance, color=GREY, linestyle="--")
    ax.text(1.45, 100 * chance, "chance", color=GREY, va="bottom", ha="right")
    ax.set_xticks([0, 1], [one, other])
    ax.set(xlim=(-0.5, 1.5), ylim=(0, None), ylabel="test accuracy, %")
    ax.set_title(f"{one} {means[0]:.0f} %, {other} {means[1]:.0f} %")
    each = listed([f"{100 * a:.0f} and {100 * b:.0f}" for a, b in zip(first, second)])
    return (
        f"Accuracy in per cent with {one} and with {other}, {len(first)} draws: {each}; means {means[0]:.0f} and "
        f"{means[1]:.0f}."
    )


def label_pairs(runs: dict[str, Sequence], chance: float) -> Picture:
    """Recorded runs of the same draws, with right and with random labels."""
    accuracies = {name: [run.accuracy for run in group] for name, group in runs.items()}
    return Picture(draw_pairs, accuracies, chance, size=(6.2, 3.6))


# --- attention of the last token -------------------------------------------------------------------------------------


def draw_attention(ax, shares: np.ndarray, parts: Sequence[str]) -> str:
    """Shares of the last token's attention, (layers, parts), averaged over heads: darker is more."""
    shares = np.asarray(shares)
    ax.imshow(100 * shares.T, aspect="auto", cmap="Blues", vmin=0, vmax=100)
    ax.set_yticks(range(len(parts)), parts)
    ax.set(xlabel="layer (0 is the first)")
    ax.grid(visible=False)
    means = 100 * shares.mean(0)
    for row, mean in enumerate(means):
        ax.annotate(f"{mean:.0f} %", (len(shares) - 0.5, row), (6, 0), textcoords="offset points", va="center")
    top = int(np.argmax(means))
    ax.set_title(f"The last token looks most at: {parts[top]}")
    each = listed([f"{part} {mean:.0f}" for part, mean in zip(parts, means)])
    return (
        f"A grid of {len(shares)} layers by {len(parts)} parts of the prompt, darker where the last token's attention "
        f"goes. Means over layers in per cent: {each}."
    )


def attention_by_part(shares: np.ndarray, parts: Sequence[str]) -> Picture:
    """Where the last token looks. shares (layers, parts): of its attention, on each part of the prompt."""
    return Picture(draw_attention, shares, parts, size=(8.6, 1.3 + 0.34 * len(parts)))


# --- published scale -------------------------------------------------------------------------------------------------


def draw_scale(axes, sizes: dict[str, float], averages: dict, gains: dict) -> str:
    """Left averages by model size, a line a setting; right the gain from examples, a line a choice of tasks."""
    parts = []
    for ax, lines, title in zip(axes, (averages, gains), ("No jump in the averages", "The gain hangs on two tasks")):
        ends = apart([values[-1] for values in lines.values()], 0.07 * _span(lines))
        for (name, values), (colour, mark), end in zip(lines.items(), LOOKS, ends):
            ax.plot(range(len(sizes)), values, mark, color=colour)
            ax.text(len(sizes) - 0.75, end, name, color=colour, va="center", fontsize=10)
            parts.append(f"{name} {listed([f'{value:.1f}' for value in values])}")
        ax.set_xticks(range(len(sizes)), list(sizes), rotation=45, ha="right", fontsize=9)
        ax.set(xlabel="model", xlim=(-0.3, len(sizes) - 0.5 + 0.25 * max(map(len, lines))))
        ax.set_title(title)
    axes[0].set(ylabel="SuperGLUE, dev set")
    axes[1].set(ylabel="few-shot minus zero-shot, points")
    axes[1].axhline(0, color=INK, linewidth=0.8)
    return f"Published results by model size, {listed(list(sizes))}: {'; '.join(parts)}."


def _span(lines: dict) -> float:
    values = [value for line in lines.values() for value in line]
    return max(values) - min(values)


def scale_trend(sizes: dict[str, float], averages: dict, gains: dict) -> Picture:
    """Averages and gains from examples at each model size."""
    return Picture(draw_scale, sizes, averages, gains, size=(11, 4), columns=2, dpi=80)


def draw_metric(ax, p: Sequence[float], lengths: dict[int, Sequence[float]]) -> str:
    """Exact match of answers of several lengths against the accuracy of one token."""
    p, parts = np.asarray(p), []
    for (length, values), (colour, mark), height in zip(lengths.items(), LOOKS, (0.7, 0.45, 0.15, 0.9)):
        values = np.asarray(values)
        half, there = (float(p[np.argmax(values >= level)]) for level in (0.5, height))
        ax.plot(100 * p, 100 * values, mark[1:], color=colour)
        name = f"{length} token" + ("s" if length > 1 else "")
        ax.annotate(name, (100 * there, 100 * height), (-8, 2), textcoords="offset points", color=colour, ha="right")
        parts.append(f"{name} passes 50 per cent at {100 * half:.0f}")
    ax.set(xlabel="accuracy of one token, %", ylabel="exact match, %", xlim=(0, 100), ylim=(0, 103))
    ax.set_title("One smooth rise, and the jump that an exact match makes of it")
    return f"Exact match against the accuracy of one token, both in per cent: {'; '.join(parts)}."


def metric_and_emergence(p: Sequence[float], lengths: dict[int, Sequence[float]]) -> Picture:
    """How a metric makes a jump of a smooth rise. lengths: for each length of answer the exact match at each p."""
    return Picture(draw_metric, p, lengths)


# --- errors of estimators --------------------------------------------------------------------------------------------


def draw_errors(ax, errors: dict[str, Sequence[float]], d: int, noise: float) -> str:
    """Mean squared error by number of examples, a line an estimator; the noise's own variance as the floor."""
    parts, last = [], len(next(iter(errors.values()))) - 1
    for (name, values), (colour, mark) in zip(errors.items(), LOOKS):
        ax.plot(range(len(values)), values, mark, color=colour, label=name)
        parts.append(f"{name} {listed([f'{value:.2f}' for value in values])}")
    ax.axhline(noise**2, color=INK, linewidth=0.8, linestyle=":")
    ax.set(xlabel=f"examples seen (d = {d})", ylabel="mean squared error (log scale)", yscale="log")
    ax.set_xticks(range(last + 1))
    ax.set_ylim(0.7 * noise**2, 3 * (d + noise**2))
    ax.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.legend(facecolor="white", edgecolor="none", framealpha=1, loc="lower left")
    network, reference = (list(errors.values())[i][last] for i in (0, 1))
    ax.set_title(f"At {last} examples: {network / reference:.2f} times the error of {list(errors)[1]}")
    return (
        f"Mean squared error by number of examples, 0 to {last}, d = {d}: {'; '.join(parts)}. At {last} examples the first "
        f"has {network / reference:.2f} times the error of the second; the noise alone is {noise**2:.2f}."
    )


def regression_errors(errors: dict[str, Sequence[float]], d: int, noise: float) -> Picture:
    """Errors of estimators of d weights.

    errors: for each its mean squared error after 0, 1, 2, ... examples, the network's first. noise: its standard
    deviation.
    """
    return Picture(draw_errors, errors, d, noise)
