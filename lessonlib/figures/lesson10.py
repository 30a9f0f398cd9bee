"""The figures of 10: traffic over adapters, requests over time, ways to serve, experts made one, forgetting, drift,
and the course's papers on a line of time."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from .style import BLUE, INK, LOOKS, SKY, VERMILION, Picture, apart, listed

# --- traffic and adapters --------------------------------------------------------------------------------------------


def draw_traffic(axes, trace: Sequence[int], hits: dict[int, Sequence[bool]], held: int) -> str:
    """Each request as a mark in its adapter's line, crossed where the adapter had to be loaded; and hits by size."""
    left, right = axes
    found = np.array(hits[held], dtype=bool)
    x, y = np.arange(1, len(trace) + 1), np.array(trace) + 1
    left.plot(x[found], y[found], "o", color=SKY, markersize=4, label="adapter is held")
    left.plot(x[~found], y[~found], "X", color=VERMILION, markersize=5, label="adapter has to be loaded")
    left.set(xlabel="request", ylabel="adapter, the most wanted first", ylim=(max(trace) + 1.7, 0.3))
    left.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    left.set_title(f"{held} held: {(~found).sum()} of {len(trace)} wait for a load")
    rates = {k: 100 * float(np.mean(each)) for k, each in hits.items()}
    right.plot(list(rates), list(rates.values()), "o-", color=BLUE)
    right.plot([held], [rates[held]], "o", color=INK, markersize=12, fillstyle="none")
    right.set(xlabel="adapters held", ylabel="requests that find theirs, %", ylim=(0, 104))
    right.set_xticks(list(rates))
    right.set_title(f"{rates[held]:.0f} % find theirs")
    asked = Counter(trace)
    return (
        f"Left: {len(trace)} requests over {len(asked)} adapters, the most wanted asked {max(asked.values())} times. "
        f"With {held} held, {(~found).sum()} requests wait for a load. Right: per cent of the requests that find "
        f"their adapter, by adapters held: {listed([f'{rate:.0f} at {k}' for k, rate in rates.items()])}."
    )


def traffic(trace: Sequence[int], found: Callable, held: Sequence[int] = (1, 2, 4, 6, 8, 12), start: int = 4):
    """Move the number of adapters that are held at once, over the same requests.

    trace: the number of the adapter that each request asks for, 0 the most wanted. found(trace, k): for each request
    whether its adapter is among the k held, such as `traffic.lru_hits`.
    """
    from .widgets import slider

    hits = {k: list(found(trace, k)) for k in held}
    return slider(
        "adapters held",
        held,
        lambda k: Picture(draw_traffic, trace, hits, k, size=(10, 4.1), columns=2, dpi=90),
        start=start,
    )


# --- requests over time ----------------------------------------------------------------------------------------------


def draw_requests(ax, requests: Sequence[tuple[str, float, float]]) -> str:
    """A line for each request from its start to its answer, in the band of the adapter that it asked for."""
    names = sorted({name for name, _, _ in requests})
    lines = {name: [] for name in names}  # a band's lines: each the requests that follow one another in it
    for name, began, ended in sorted(requests, key=lambda request: request[1]):
        free = [line for line in lines[name] if line[-1][1] <= began]
        if not free:
            lines[name].append(free_line := [])
        (free[0] if free else free_line).append((began, ended))
    step = min(0.8 / max(map(len, lines.values())), 0.12)
    for band, name in enumerate(names):
        for row, line in enumerate(lines[name]):
            y = band + step * (row - (len(lines[name]) - 1) / 2)
            ax.hlines([y] * len(line), *zip(*line), color=BLUE, linewidth=2.2)
            ax.plot([ended for _, ended in line], [y] * len(line), "|", color=VERMILION, markersize=5)
    seconds = np.array([ended - began for _, began, ended in requests])
    last = max(ended for _, _, ended in requests)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="seconds since the first request", ylim=(len(names) - 0.45, -0.55), xlim=(0, 1.02 * last))
    ax.grid(axis="y", visible=False)
    p50, p95 = np.percentile(seconds, (50, 95))
    ax.set_title(f"{len(requests)} requests, half of them answered in {p50:.2f} s, 95 of 100 in {p95:.2f} s")
    counts = Counter(name for name, _, _ in requests)
    return (
        f"{len(requests)} requests as lines from start to answer over {last:.1f} seconds, by adapter: "
        f"{listed([f'{name} {counts[name]}' for name in names])}. Half are answered in {p50:.2f} seconds, 95 of 100 "
        f"in {p95:.2f}."
    )


def requests_over_time(requests: Sequence[tuple[str, float, float]]) -> Picture:
    """Requests as they overlap. requests: (who was asked, when it began, when it was answered), in seconds."""
    names = {name for name, _, _ in requests}
    return Picture(draw_requests, requests, size=(9, 1.5 + 0.55 * len(names)))


# --- ways to serve ---------------------------------------------------------------------------------------------------


def draw_ways_to_serve(axes, ways: dict[str, tuple[float, float]]) -> str:
    """Milliseconds of a batch and megabytes of weights, a bar each."""
    rows = np.arange(len(ways))[::-1]
    kinds = (("ms for a batch", SKY, "", 0), ("MB of weights", BLUE, "//", 1))
    for ax, (label, colour, hatch, place) in zip(axes, kinds):
        values = [pair[place] for pair in ways.values()]
        ax.barh(rows, values, height=0.62, color=colour, hatch=hatch, edgecolor=INK)
        for row, value in zip(rows, values):
            ax.text(value + 0.02 * max(values), row, f"{value:.0f}", va="center", fontsize=10)
        ax.set(xlabel=label, xlim=(0, 1.17 * max(values)))
        ax.set_yticks(rows, list(ways) if place == 0 else [""] * len(ways))
        ax.grid(axis="y", visible=False)
    smallest = min(ways, key=lambda name: ways[name][1])
    axes[0].set_title("Time")
    axes[1].set_title(f"Smallest: {smallest}")
    parts = [f"{name} {ms:.0f} ms and {mb:.0f} MB" for name, (ms, mb) in ways.items()]
    return f"Bars of the time for a batch and of the weights' size: {'; '.join(parts)}. Smallest is {smallest}."


def ways_to_serve(ways: dict[str, tuple[float, float]]) -> Picture:
    """Time and size of ways to serve. ways: (milliseconds, megabytes) by name."""
    return Picture(draw_ways_to_serve, ways, size=(9.4, 1.2 + 0.42 * len(ways)), columns=2)


# --- experts made one ------------------------------------------------------------------------------------------------


def draw_by_question(ax, ways: dict[str, dict[str, float]]) -> str:
    """A row for each way, a mark for each question, a line between the lowest and the highest."""
    questions = list(next(iter(ways.values())))
    for row, scores in enumerate(ways.values()):
        values = [100 * score for score in scores.values()]
        ax.hlines(row, min(values), max(values), color="#CCCCCC", linewidth=3, zorder=0)
    for question, (colour, look) in zip(questions, LOOKS):
        values = [100 * scores[question] for scores in ways.values()]
        ax.plot(values, range(len(ways)), look[0], color=colour, label=question, markersize=8)
    ax.set_yticks(range(len(ways)), list(ways))
    ax.set(ylim=(len(ways) - 0.4, -0.6), xlim=(0, 104), xlabel="right of the test tickets, %")
    ax.grid(axis="y", visible=False)
    ax.legend(
        frameon=False,
        ncols=len(questions),
        loc="upper center",
        bbox_to_anchor=(0.4, -0.5 / (0.6 + len(ways) * 0.4)),
    )
    means = {name: 100 * float(np.mean(list(scores.values()))) for name, scores in ways.items()}
    best = max(means, key=means.get)
    ax.set_title(f"Highest on average: {best}, {means[best]:.0f} %")
    parts = [
        f"{name} {listed([f'{question} {100 * score:.0f}' for question, score in scores.items()])}"
        for name, scores in ways.items()
    ]
    return (
        f"Per cent right by way and question: {'; '.join(parts)}. Highest on average is {best} with "
        f"{means[best]:.0f} per cent."
    )


def by_question(ways: dict[str, dict[str, float]]) -> Picture:
    """Ways to make one of several experts. ways: by name, the accuracy on each question."""
    return Picture(draw_by_question, ways, size=(8.4, 1.7 + 0.4 * len(ways)))


# --- one task after another ------------------------------------------------------------------------------------------


def draw_after_each(axes, ways: dict[str, Sequence[Sequence[float]]], tasks: Sequence[str]) -> str:
    """Accuracy on each task from when it was learned to the end, a picture for each way."""
    parts = []
    for ax, (name, rows) in zip(axes, ways.items()):
        ends = [100 * score for score in rows[-1]]
        for i, (task, (colour, look)) in enumerate(zip(tasks, LOOKS)):
            values = [100 * row[i] for row in rows[i:]]
            ax.plot(range(i + 1, len(rows) + 1), values, look, color=colour)
            parts.append(f"{name}, {task}: {listed([f'{value:.0f}' for value in values])}")
        for task, height, (colour, _) in zip(tasks, apart(ends, 8), LOOKS):
            ax.annotate(task, (len(rows), height), (9, 0), textcoords="offset points", va="center", color=colour)
        ax.set_xticks(range(1, len(rows) + 1), [f"after {task}" for task in tasks], fontsize=9)
        ax.set(xlim=(0.75, len(rows) + 0.85), ylim=(0, 104))
        ax.set_title(name)
    axes[0].set_ylabel("right of the test tickets, %")
    return f"Per cent right on each task after each was learned. {'; '.join(parts)}."


def after_each_task(ways: dict[str, Sequence[Sequence[float]]], tasks: Sequence[str]) -> Picture:
    """What is forgotten while one task is learned after another.

    ways: for two names, row t the accuracies on tasks 0 to t after task t was learned.
    """
    return Picture(draw_after_each, ways, tasks, size=(10, 3.8), columns=2)


# --- drift -----------------------------------------------------------------------------------------------------------


def draw_drift(ax, streams: dict[str, Sequence]) -> str:
    """Each window's distance from the validation set, in units of the threshold; what lies above 1 is an alarm."""
    parts, highest = [], 1.0
    for (name, verdicts), (colour, look) in zip(streams.items(), LOOKS):
        ratios = [verdict.distance / max(verdict.threshold, 1e-12) for verdict in verdicts]
        ax.plot(range(1, len(ratios) + 1), ratios, look, color=colour, label=name)
        alarms, highest = sum(verdict.drifted for verdict in verdicts), max(highest, *ratios)
        parts.append(f"{name}: {alarms} of {len(verdicts)} alarm")
    ax.axhline(1, color=INK, linestyle="--", linewidth=1.2)
    longest = max(map(len, streams.values()))
    ax.set_xticks(range(1, longest + 1))
    ax.set(xlabel="window", ylabel="distance / threshold", ylim=(0, 1.15 * highest), xlim=(0.7, longest + 0.3))
    ax.legend(frameon=False, ncols=len(streams), loc="upper center", bbox_to_anchor=(0.5, -0.2))
    ax.set_title("; ".join(parts))
    return (
        f"Distance of each window from the validation set over its threshold, a dashed line at 1. {'; '.join(parts)}."
    )


def drift(streams: dict[str, Sequence]) -> Picture:
    """When a monitor sounds. streams: the verdicts (`monitoring.Verdict`) of each stream's windows."""
    return Picture(draw_drift, streams, size=(8.6, 3.4))


# --- the papers ------------------------------------------------------------------------------------------------------


def draw_timeline(ax, papers: Sequence, named: dict[str, str]) -> str:
    """A dot for each paper, in the line of the first notebook that cites it; some with a name."""
    rows = {number: row for row, number in enumerate(sorted({paper.lesson[0] for paper in papers}))}
    date = {paper.key: paper.year + (paper.month - 0.5) / 12 for paper in papers}
    for paper in papers:
        known = paper.key in named
        ax.plot(
            [date[paper.key]], [rows[paper.lesson[0]]], "D" if known else "o",
            color=VERMILION if known else SKY, markersize=8 if known else 5, zorder=3 if known else 2,
        )  # fmt: skip
    lookup = {paper.key: paper for paper in papers}
    for key, name in named.items():
        ax.annotate(
            name, (date[key], rows[lookup[key].lesson[0]]), (0, 7), textcoords="offset points", ha="center", va="bottom",
            fontsize=9,
        )  # fmt: skip
    ax.set_yticks(list(rows.values()), list(rows))
    first, last = min(paper.year for paper in papers), max(paper.year for paper in papers)
    ax.set(xlim=(first - 0.2, last + 1.2), ylim=(len(rows) - 0.5, -0.9), ylabel="notebook", xlabel="year")
    ax.set_xticks(range(first, last + 2))
    years = Counter(paper.year for paper in papers)
    busiest = max(years, key=years.get)
    ax.set_title(f"{len(papers)} papers; {years[busiest]} of them from {busiest}")
    parts = [f"{name} {lookup[key].year}" for key, name in named.items()]
    return (
        f"{len(papers)} papers as dots by date, in the line of the first notebook that cites each; "
        f"{years[busiest]} of them from {busiest}. Named: {listed(parts)}."
    )


def timeline(papers: Sequence, named: dict[str, str]) -> Picture:
    """The course's papers by date.

    papers: each with key, year, month and lesson, as `published.papers()` has them. named: the name to write above a
    paper, by its key.
    """
    return Picture(draw_timeline, papers, named, size=(10, 5.0))
