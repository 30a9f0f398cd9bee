"""The figures of 04: answers by number of steps, published gains, kinds of tasks, votes, searches, and a chain to toggle."""

import textwrap
from collections.abc import Callable

import numpy as np

from lessonlib.evaluation import wilson_interval

from .style import BLUE, INK, LOOKS, SKY, VERMILION, Picture, apart, listed

PALE = "#E3EDF4"


# --- right answers by number of steps --------------------------------------------------------------------------------


def draw_by_steps(ax, counts: dict[str, dict[int, tuple[int, int]]], chance: float | None) -> str:
    """Share of right answers by number of steps, a line a way to answer, with 95 per cent intervals."""
    values = {
        name: {steps: 100 * right / n for steps, (right, n) in by_steps.items()} for name, by_steps in counts.items()
    }
    longest = max(steps for by_steps in counts.values() for steps in by_steps)
    ends = apart([max(3, by_steps[max(by_steps)]) for by_steps in values.values()], 8)
    for (name, by_steps), (colour, mark), end in zip(values.items(), LOOKS, ends):
        intervals = [wilson_interval(*counts[name][steps]) for steps in by_steps]
        low, high = 100 * np.transpose(intervals)
        ax.fill_between(list(by_steps), low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(list(by_steps), list(by_steps.values()), mark, color=colour)
        ax.text(longest * 1.04 + 0.05, end, name, color=colour, va="center")
    if chance is not None:
        ax.axhline(100 * chance, color=INK, linewidth=0.8, linestyle=":")
    every = sorted({steps for by_steps in counts.values() for steps in by_steps})
    ax.set_xticks(every, [str(steps) for steps in every])
    room = 0.02 * longest * max(map(len, counts))
    ax.set(xlabel="steps of the problem", ylabel="right answers, %", ylim=(0, 104))
    ax.set_xlim(every[0] - 0.04 * longest, longest * 1.06 + room)
    last = [f"{name} {by_steps[max(by_steps)]:.0f} %" for name, by_steps in values.items()]
    ax.set_title(f"{longest} steps: {listed(last)}")
    parts = [
        f"{name} {listed([f'{value:.0f} at {steps}' for steps, value in by_steps.items()])}"
        for name, by_steps in values.items()
    ]
    ending = "" if chance is None else f"; chance is {100 * chance:.0f}"
    return f"Right answers in per cent by the number of steps, up to {longest}: {'; '.join(parts)}{ending}."


def accuracy_by_steps(counts: dict[str, dict[int, tuple[int, int]]], chance: float | None = None) -> Picture:
    """Right answers by number of steps. counts: for each way to answer, (right, n) by number of steps."""
    return Picture(draw_by_steps, counts, chance)


# --- published gains -------------------------------------------------------------------------------------------------


def draw_gains(axes, by_size: dict[str, dict[float, float]], by_task: dict[str, dict[str, float]]) -> str:
    """Points that chains add: left by model size, a line a family; right by task, a mark a model."""
    left, right = axes
    names = []
    for (family, gains), (colour, mark) in zip(by_size.items(), LOOKS):
        left.plot(list(gains), list(gains.values()), mark, color=colour, label=family)
        names.append(f"{family} {listed([f'{gain:+.1f} at {size:g} billion' for size, gain in gains.items()])}")
    left.axhline(0, color=INK, linewidth=0.8)
    left.set(xscale="log", xlabel="parameters, billions (log scale)", ylabel="chain minus direct, points")
    left.set_xticks([0.35, 1, 10, 100, 540], ["0.35", "1", "10", "100", "540"])
    left.minorticks_off()
    left.legend(frameon=False, loc="upper left")
    left.set_title("GSM8K: nothing, then much")
    tasks = list(next(iter(by_task.values())))
    for (model, gains), (colour, mark) in zip(by_task.items(), LOOKS):
        rows = [len(tasks) - 1 - tasks.index(task) for task in gains]
        right.plot(list(gains.values()), rows, mark[0], color=colour, label=model)
        names.append(f"{model} {listed([f'{task} {gain:+.1f}' for task, gain in gains.items()])}")
    right.axvline(0, color=INK, linewidth=0.8)
    right.set_yticks(range(len(tasks)), tasks[::-1])
    right.set(xlabel="chain minus direct, points", ylim=(-0.6, len(tasks) - 0.4))
    right.legend(frameon=False, loc="lower right")
    right.set_title("By task: from harm to much")
    return f"Points that chains add in published tables. On GSM8K by size and then by task: {'; '.join(names)}."


def published_gains(by_size: dict[str, dict[float, float]], by_task: dict[str, dict[str, float]]) -> Picture:
    """What a chain of thought adds to a direct answer in published tables, in points.

    by_size: gains by billions of parameters for each family. by_task: gains by task for each model.
    """
    return Picture(draw_gains, by_size, by_task, size=(11, 4.6), columns=2, dpi=80)


# --- kinds of tasks --------------------------------------------------------------------------------------------------


def draw_kinds(ax, measured: dict[str, dict[str, tuple[int, int]]], chance: dict[str, float]) -> str:
    """Accuracy with 95 per cent intervals: a group a kind of task, a mark a way to ask, a tick for chance."""
    kinds, ways = list(measured), list(next(iter(measured.values())))
    parts = []
    for way, (colour, mark), shift in zip(ways, LOOKS, np.linspace(0.27, -0.27, len(ways))):
        rows = [len(kinds) - 1 - i + shift for i in range(len(kinds))]
        shares = [100 * measured[kind][way][0] / measured[kind][way][1] for kind in kinds]
        ends = 100 * np.transpose([wilson_interval(*measured[kind][way]) for kind in kinds])
        ax.hlines(rows, *ends, color=colour, linewidth=1.6)
        ax.plot(shares, rows, mark[0], color=colour, label=way)
    for row, kind in enumerate(kinds):
        place = len(kinds) - 1 - row
        if chance.get(kind):
            ax.vlines(100 * chance[kind], place - 0.4, place + 0.4, color=INK, linestyle=":", linewidth=1.4)
        each = [f"{way} {100 * measured[kind][way][0] / measured[kind][way][1]:.0f}" for way in ways]
        ending = f" (chance {100 * chance[kind]:.0f})" if chance.get(kind) else ""
        parts.append(f"{kind} {listed(each)}{ending}")
    ax.set_yticks(range(len(kinds)), kinds[::-1])
    ax.set(xlabel="right answers, % (dotted: chance)", xlim=(-1, 101), ylim=(-0.6, len(kinds) - 0.4))
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_title("Four ways to ask a small model")
    return f"Right answers in per cent by kind of task and way to ask: {'; '.join(parts)}."


def kinds_and_ways(measured: dict[str, dict[str, tuple[int, int]]], chance: dict[str, float]) -> Picture:
    """Kinds of tasks, each asked in several ways.

    measured: (right, n) for each kind of task and way to ask. chance: a share, of the kinds that have options.
    """
    return Picture(draw_kinds, measured, chance, size=(9.4, 4.8), dpi=90)


# --- votes -----------------------------------------------------------------------------------------------------------


def draw_votes(ax, accuracies: dict[int, float], greedy: float, n: int) -> str:
    """Accuracy of the vote by number of chains, with 95 per cent intervals; the one greedy chain as a line."""
    votes, values = list(accuracies), [100 * value for value in accuracies.values()]
    low, high = 100 * np.transpose([wilson_interval(round(value * n), n) for value in accuracies.values()])
    ax.fill_between(votes, low, high, color=SKY, alpha=0.3, linewidth=0)
    ax.plot(votes, values, "o-", color=BLUE)
    ax.axhline(100 * greedy, color=VERMILION, linestyle="--")
    below = 100 * greedy > values[-1]
    ax.annotate(
        "one greedy chain", (votes[-1], 100 * greedy), (0, 4 if below else -4), textcoords="offset points",
        color=VERMILION, ha="right", va="bottom" if below else "top",
    )  # fmt: skip
    ax.set(xscale="log", xlabel="sampled chains that vote (log scale)", ylabel="right answers, %")
    ax.set_xticks(votes, [str(v) for v in votes])
    ax.minorticks_off()
    ax.set_ylim(min(0.0, *low), min(104, 1.25 * max(*high, 100 * greedy)))
    ax.set_title(f"1 sampled chain: {values[0]:.0f} %, {votes[-1]} that vote: {values[-1]:.0f} %")
    parts = listed([f"{value:.0f} with {v}" for v, value in zip(votes, values)])
    return (
        f"Right answers in per cent of {n} problems by number of votes: {parts}; one greedy chain {100 * greedy:.0f}."
    )


def votes_curve(accuracies: dict[int, float], greedy: float, n: int) -> Picture:
    """What a vote over several sampled chains gets right.

    accuracies: of the vote by number of chains. greedy: of one chain without sampling. n: problems.
    """
    return Picture(draw_votes, accuracies, greedy, n)


# --- searches --------------------------------------------------------------------------------------------------------


def draw_searches(axes, outcomes: dict[str, tuple[int, int, float]]) -> str:
    """Hands solved, with intervals, and states looked at, a bar a way to search."""
    names = list(outcomes)[::-1]
    left, right = axes
    shares = [100 * outcomes[name][0] / outcomes[name][1] for name in names]
    ends = 100 * np.transpose([wilson_interval(*outcomes[name][:2]) for name in names])
    spread = [np.maximum(0, shares - ends[0]), np.maximum(0, ends[1] - shares)]
    left.barh(names, shares, color=[SKY] * len(names), edgecolor=INK, xerr=spread, error_kw={"ecolor": INK})
    left.set(xlabel="hands solved, %", xlim=(0, 104))
    left.set_title(f"Of {outcomes[names[0]][1]} hands")
    nodes = [outcomes[name][2] for name in names]
    bars = right.barh(names, nodes, color=[PALE] * len(names), edgecolor=INK)
    right.bar_label(bars, [f"{node:,.0f}" for node in nodes], padding=4)
    right.set(xlabel="states looked at, median", xlim=(0, 1.3 * max(nodes)))
    right.set_yticks([])
    right.set_title("What the search cost")
    for ax in axes:
        ax.grid(axis="y", visible=False)
    parts = [f"{name} {outcomes[name][0]} solved with {outcomes[name][2]:.0f} states" for name in reversed(names)]
    return f"Hands solved of {outcomes[names[0]][1]} and the median number of states looked at: {listed(parts)}."


def searches(outcomes: dict[str, tuple[int, int, float]]) -> Picture:
    """What searches solve and cost. outcomes: (solved, hands, median of the states looked at) for each way to search."""
    return Picture(draw_searches, outcomes, size=(10, 0.9 + 0.5 * len(outcomes)), columns=2, dpi=90)


# --- a chain to toggle -----------------------------------------------------------------------------------------------


def _wrapped(text: str) -> list[str]:
    """A text as lines that fit into half a picture; a dollar is a dollar and not the start of a formula."""
    lines = [part for line in text.strip().split("\n") for part in textwrap.wrap(line, 60) or [""]]
    return [line.replace("$", r"\$") for line in lines]


def draw_toggle(
    axes, question: str, wrote: str, found: str, right: bool, meters: dict[str, tuple[int, int]], chosen: str
) -> str:
    """Left a problem and what was written; right what each way got right of all problems, the chosen one dark."""
    text, meter = axes
    text.set_axis_off()
    asked, below = _wrapped(f"Q: {question}"), _wrapped(wrote)
    lines = len(asked) + 1 + len(below)
    height = min(0.068, 1 / lines)  # of a line, so that long texts fit
    for place, (line, colour) in enumerate([(line, INK) for line in [*asked, ""]] + [(line, BLUE) for line in below]):
        text.text(
            0,
            1 - place * height,
            line,
            va="top",
            fontsize=160 * height,
            color=colour,
            transform=text.transAxes,
        )
    mark = "right" if right else "wrong"
    text.set_title(f"Read from it: {found}, {mark}", color=BLUE if right else VERMILION)
    names = list(meters)[::-1]
    shares = [100 * meters[name][0] / meters[name][1] for name in names]
    ends = 100 * np.transpose([wilson_interval(*meters[name]) for name in names])
    spread = [np.maximum(0, shares - ends[0]), np.maximum(0, ends[1] - shares)]
    colours = [BLUE if name == chosen else PALE for name in names]
    meter.barh(names, shares, color=colours, edgecolor=INK, xerr=spread, error_kw={"ecolor": INK})
    meter.set(xlabel="right answers of all test problems, %", xlim=(0, 104))
    meter.grid(axis="y", visible=False)
    parts = listed([f"{name} {share:.0f}" for name, share in zip(names[::-1], shares[::-1])])
    written = " ".join(wrote.split())
    meter.set_title(f"{shares[names.index(chosen)]:.0f} % with: {chosen}")
    return (
        f"The problem: {question} With {chosen} was written: {written} Read from it: {found}, which is {mark}. "
        f"Of all {meters[chosen][1]} problems in per cent: {parts}."
    )


def chain_toggle(
    problems: dict[str, str],
    wrote: Callable[[str, str], tuple[str, str, bool]],
    meters: dict[str, tuple[int, int]],
    start: tuple[str, str],
):
    """Choose a problem, and whether a chain is written: the text, what was read from it, and how often that is right.

    problems: the questions by name. wrote(name, way): (text, what was read, whether it is right). meters: (right, n)
    of each way on all test problems.
    """
    from .widgets import chooser

    def picture(name, way):
        return Picture(draw_toggle, problems[name], *wrote(name, way), meters, way, size=(11, 4.4), columns=2, dpi=80)

    return chooser({"problem": list(problems), "written": list(meters)}, picture, start)
