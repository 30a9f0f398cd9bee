"""The figures of 08: eight ways compared, examples, gaps, what is forgotten, quality against cost, and the decision
tree with its cheat sheet."""

import html
import textwrap
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from lessonlib.choosing import FACTS, TREE, Advice, Question, leaves
from lessonlib.display import Table

from .style import BLUE, GREY, INK, LOOKS, SKY, VERMILION, Picture, apart, listed

Interval = tuple[float, float, float]  # mean, low, high: shares of 1

# --- eight ways ------------------------------------------------------------------------------------------------------


def _rows(ax, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def draw_ways(ax, scores: dict[str, Interval], seeds: dict[str, Sequence[float]], chance: float) -> str:
    """A row a way: each seed a dot, their mean a diamond on its interval."""
    for row, (name, (mean, low, high)) in enumerate(scores.items()):
        ax.hlines(row, 100 * low, 100 * high, color=BLUE, linewidth=2)
        ax.plot([100 * value for value in seeds[name]], [row] * len(seeds[name]), "o", color=SKY, mec=BLUE)
        ax.plot([100 * mean], [row], "D", color=VERMILION, markersize=8)
    _rows(ax, list(scores))
    ax.axvline(100 * chance, color=INK, linewidth=0.8, linestyle=":")
    ax.set(xlabel="right of 200 test tickets, %", xlim=(0, 100))
    best = max(scores, key=lambda name: scores[name][0])
    ax.set_title(f"Highest here: {best}, {100 * scores[best][0]:.0f} %")
    parts = [f"{name} {100 * m:.0f} ({100 * low:.0f} to {100 * high:.0f})" for name, (m, low, high) in scores.items()]
    return (
        f"Accuracy in per cent on the 200 test tickets by way, with 95 per cent intervals: {listed(parts)}. A dotted "
        f"line at chance, {100 * chance:.3g}. Highest is {best}."
    )


def ways_compared(scores: dict[str, Interval], seeds: dict[str, Sequence[float]], chance: float = 1 / 8) -> Picture:
    """Means with their intervals, and each seed, by way."""
    return Picture(draw_ways, scores, seeds, chance, size=(8.2, 1.4 + 0.42 * len(scores)))


# --- accuracy by examples --------------------------------------------------------------------------------------------


def draw_by_examples(ax, curves: dict[str, dict[int, Sequence[float]]], level: tuple[str, float] | None) -> str:
    """Accuracy by the number of training examples: each seed a dot, a line through the means."""
    sizes = sorted({size for line in curves.values() for size in line})
    means = {name: {n: 100 * float(np.mean(line[n])) for n in sorted(line)} for name, line in curves.items()}
    ends = [(100 * level[1], level[0], INK)] if level else []
    if level:
        ax.axhline(100 * level[1], color=INK, linewidth=1, linestyle=":")
    for (name, line), (colour, mark) in zip(means.items(), LOOKS):
        ax.plot(list(line), list(line.values()), mark, color=colour)
        for n, values in curves[name].items():
            ax.plot([n] * len(values), [100 * v for v in values], mark[0], color=colour, alpha=0.35, markersize=4)
        ends.append((list(line.values())[-1], name, colour))
    for height, (_, name, colour) in zip(apart([end[0] for end in ends], 6), ends):
        ax.annotate(
            name, (sizes[-1], height), (10, 0), textcoords="offset points", color=colour, va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    ax.set(
        xscale="log",
        xlabel="labelled tickets trained on (log scale)",
        ylabel="test accuracy, %",
        ylim=(0, 104),
    )
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.set_xlim(sizes[0] * 0.85, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.42)
    name, line = next(iter(means.items()))
    first, last = min(line), max(line)
    ax.set_title(f"{name}: {line[first]:.0f} % with {first} tickets, {line[last]:.0f} % with {last}")
    parts = [f"{name} {listed([f'{v:.0f} at {n}' for n, v in line.items()])}" for name, line in means.items()]
    flat = f"; a dotted line for {level[0]}, {100 * level[1]:.0f}" if level else ""
    return f"Test accuracy in per cent by number of training tickets, means over seeds: {'; '.join(parts)}{flat}."


def accuracy_by_examples(
    curves: dict[str, dict[int, Sequence[float]]], level: tuple[str, float] | None = None
) -> Picture:
    """Accuracy by the number of tickets trained on.

    curves: each way's accuracies by number of examples. level: a name and accuracy to draw as a flat line.
    """
    return Picture(draw_by_examples, curves, level, size=(8.4, 4.2))


# --- gaps ------------------------------------------------------------------------------------------------------------


def draw_gaps(ax, gaps: dict[str, Interval], what: str) -> str:
    """Differences in points with their intervals, a line at zero."""
    for row, (low, high) in enumerate((g[1], g[2]) for g in gaps.values()):
        sure = low > 0 or high < 0
        ax.hlines(row, 100 * low, 100 * high, color=VERMILION if sure else BLUE, linewidth=2.4)
    for row, (mean, *_) in enumerate(gaps.values()):
        ax.plot([100 * mean], [row], "D", color=INK, markersize=7)
    ax.axvline(0, color=INK, linewidth=0.9)
    _rows(ax, list(gaps))
    ax.set(xlabel=f"{what}, points")
    apart_from_zero = [name for name, (_, low, high) in gaps.items() if low > 0 or high < 0]
    ax.set_title(f"{len(apart_from_zero)} of {len(gaps)} intervals leave zero out")
    parts = [f"{n} {100 * m:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})" for n, (m, low, high) in gaps.items()]
    return (
        f"{what[0].upper() + what[1:]} in points with 95 per cent intervals: {listed(parts)}. "
        f"{len(apart_from_zero)} of {len(gaps)} intervals leave zero out."
    )


def gaps(differences: dict[str, Interval], what: str = "LoRA minus full fine-tuning") -> Picture:
    """Paired differences with intervals, by what was changed."""
    return Picture(draw_gaps, differences, what, size=(8.2, 1.5 + 0.42 * len(differences)))


# --- what is forgotten -----------------------------------------------------------------------------------------------


def draw_forgotten(axes, perplexity: dict[str, float], sentiment: dict[str, float]) -> str:
    """Perplexity on other texts, and right answers to another question, by way; the base is a line."""
    parts = []
    for ax, values, label in zip(axes, (perplexity, sentiment), ("perplexity on other texts", "sentiment right, %")):
        base = values["zero-shot"]
        others = {name: value for name, value in values.items() if name != "zero-shot"}
        for row, value in enumerate(others.values()):
            ax.hlines(row, base, value, color=SKY, linewidth=4)
            ax.plot([value], [row], "D", color=VERMILION, markersize=8)
        ax.axvline(base, color=GREY, linestyle="--")
        _rows(ax, list(others))
        ax.set(xlabel=label)
        ax.set_title(f"Base: {base:.3g}")
        parts.append(f"{label}: base {base:.3g}, {listed([f'{n} {v:.3g}' for n, v in others.items()])}")
    axes[1].set_yticklabels([])
    return f"What the model can still do, by what it was trained with. {'. '.join(parts)}."


def forgotten(perplexity: dict[str, float], sentiment: dict[str, float]) -> Picture:
    """Both by way, "zero-shot" for the base. sentiment: shares of 1."""
    percent = {name: 100 * value for name, value in sentiment.items()}
    return Picture(draw_forgotten, perplexity, percent, size=(10, 3.2), columns=2)


# --- quality against cost --------------------------------------------------------------------------------------------


def front(ways: dict[str, tuple[float, float]]) -> list[str]:
    """The names that no other beats: one that costs no more and is right no less, and is not the same in both."""
    beaten = lambda way: any(o != way and o[0] <= way[0] and o[1] >= way[1] for o in ways.values())  # noqa: E731
    return sorted((name for name, way in ways.items() if not beaten(way)), key=lambda name: ways[name])


def draw_cost(ax, cost: str, costs: dict[str, float], scores: dict[str, Interval], log: bool, keep: Callable) -> str:
    """Accuracy against one cost, with intervals; those that nobody beats joined by a line."""
    ways = {name: (value, 100 * scores[name][0]) for name, value in costs.items() if name in scores}
    best = sorted(keep(ways), key=lambda name: ways[name])
    ax.plot([ways[n][0] for n in best], [ways[n][1] for n in best], color=SKY, linewidth=3, zorder=1)
    for name, (value, mean) in ways.items():
        _, low, high = scores[name]
        colour = BLUE if name in best else GREY
        ax.vlines(value, 100 * low, 100 * high, color=colour, linewidth=1.4)
        ax.plot([value], [mean], "D" if name in best else "o", color=colour, markersize=8)
    if log:
        ax.set_xscale("symlog", linthresh=1000)
        ax.set_xticks([0, 1e4, 1e6, 1e8], ["0", "10 thousand", "1 million", "100 million"])
        ax.minorticks_off()
    ax.set(xlabel=cost, ylabel="test accuracy, %", ylim=(0, 108))
    ax.margins(x=0.16) if not log else ax.set_xlim(-600, 4e9)
    _name_points(ax, ways, best)
    ax.set_title(textwrap.fill(f"Nobody does better for less: {', '.join(best)}", 84), fontsize=11)
    parts = listed([f"{n} {_short(v)}, {m:.0f} per cent" for n, (v, m) in ways.items()])
    return f"Accuracy against {cost}: {parts}. Not beaten by any other: {', '.join(best)}."


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# Where a name may stand beside its point, in pixels, the first that is free.
PLACES = (
    (11, 0, "left"), (-11, 0, "right"), (11, 16, "left"), (11, -16, "left"), (-11, 16, "right"), (-11, -16, "right"),
    (11, 32, "left"), (11, -32, "left"), (-11, 32, "right"), (-11, -32, "right"), (11, 48, "left"), (11, -48, "left"),
)  # fmt: skip


def _name_points(ax, ways: dict[str, tuple[float, float]], best: Sequence[str]) -> None:
    """A name beside each point, where no other name and no point is."""
    ax.figure.draw_without_rendering()  # settles where the axes are
    spots = {name: ax.transData.transform(point) for name, point in ways.items()}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots.values()]
    frame = ax.get_window_extent()
    for name in sorted(ways, key=lambda name: -ways[name][1]):
        x, y = spots[name]
        for dx, dy, side in PLACES:
            left = x + dx if side == "left" else x + dx - 7.2 * len(name)
            box = (left, y + dy - 8, left + 7.2 * len(name), y + dy + 8)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(_meet(box, other) for other in taken):
                break
        taken.append(box)
        ax.annotate(
            name, ways[name], (dx, dy), textcoords="offset pixels", ha=side, va="center", fontsize=10,
            color=BLUE if name in best else GREY,
        )  # fmt: skip


def _meet(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def cost_accuracy(costs: dict[str, dict[str, float]], scores: dict[str, Interval], keep: Callable = front):
    """The spectrum: choose what to count as cost. costs: by kind, each way's. keep: which names nobody beats."""
    from .widgets import chooser

    return chooser(
        {"cost": list(costs)},
        lambda cost: Picture(draw_cost, cost, costs[cost], scores, "parameters" in cost, keep, size=(8.6, 4.4)),
        start=[next(iter(costs))],
    )


# --- the decision tree -----------------------------------------------------------------------------------------------

MARKS = {True: "✓", False: "✗", None: "○"}
SAID = {True: "holds", False: "does not hold", None: "not recorded yet"}
LEAF, COLUMN, FIRST = 85.0, 14.6, 3.4  # where the advice stands, and how far apart the questions


def _layout(node, depth: int = 0, row: int = 0) -> tuple[list, int]:
    """[(node, depth, height, way to it)], and the next free row; a question stands at the middle of its answers."""
    if isinstance(node, Advice):
        return [(node, depth, float(row), ())], row + 1
    placed, heights = [], []
    for i, answer in enumerate(node.answers):
        below, row = _layout(answer.then, depth + 1, row)
        heights.append(below[0][2])
        placed += [(one, d, h, (i, *way)) for one, d, h, way in below]
    return [(node, depth, sum(heights) / len(heights), ()), *placed], row


def _x(node, depth: int) -> float:
    return LEAF if isinstance(node, Advice) else FIRST + COLUMN * depth


def _box(ax, x: float, y: float, text: str, on: bool) -> None:
    face = BLUE if on else "#EFEFEF"
    ax.text(
        x, y, "\n".join(textwrap.wrap(text, 15)), ha="center", va="center", fontsize=7.5, zorder=3, in_layout=False,
        color="white" if on else INK, bbox={"boxstyle": "round,pad=0.3", "facecolor": face, "edgecolor": INK},
    )  # fmt: skip


def _short_advice(advice: Advice) -> str:
    return "\n".join(textwrap.wrap(advice.what.partition(":")[0].partition(";")[0], 30))


def draw_tree(ax, tree: Question, chosen: tuple[int, ...]) -> str:
    """All questions and answers from left to right, the chosen way in blue; above it what is advised."""
    nodes, rows = _layout(tree)
    places = {way: (node, _x(node, depth), height) for node, depth, height, way in nodes}
    ways = {chosen[:n] for n in range(len(chosen) + 1)}
    for way, (node, x, y) in places.items():
        if way:
            _, x0, y0 = places[way[:-1]]
            label = places[way[:-1]][0].answers[way[-1]].label
            _edge(ax, (x0, y0), (x, y), label, way in ways)
        if isinstance(node, Question):
            _box(ax, x, y, node.text, way in ways)
        else:
            ax.text(
                LEAF + 1, y, _short_advice(node), va="center", fontsize=8.5, weight="bold" if way in ways else "normal",
                color=BLUE if way in ways else INK, in_layout=False,
            )  # fmt: skip
    ax.set_axis_off()
    ax.set(xlim=(-1, 103), ylim=(rows - 0.3, -0.8))
    advice = places[chosen][0]
    ax.set_title(f"Advised: {advice.what}", fontsize=11)
    asked = [(places[chosen[:n]][0], chosen[n]) for n in range(len(chosen))]
    parts = [f"{question.text} {question.answers[i].label}" for question, i in asked]
    every = [f"{a.label}" for node, *_ in nodes if isinstance(node, Question) for a in node.answers]
    others = [node.what for node, *_ in nodes if isinstance(node, Advice)]
    return (
        f"A decision tree with {len(others)} pieces of advice. The way shown: {'; '.join(parts)}. Advised: {advice.what}. "
        f"The answers in it: {', '.join(dict.fromkeys(every))}. What it may advise: {'; '.join(dict.fromkeys(others))}."
    )


def _edge(ax, start, end, label: str, on: bool) -> None:
    (x0, y0), (x1, y1) = start, end
    colour, width = (BLUE, 2.6) if on else ("#B5B5B5", 1.0)
    bend = x0 + 4.4
    ax.plot([x0, bend, bend, x1], [y0, y0, y1, y1], color=colour, linewidth=width, zorder=2 if on else 1)
    ax.text(
        bend + 0.4, y1, "\n".join(textwrap.wrap(label, 13)), va="center", fontsize=7.5, color=BLUE if on else INK, zorder=3,
        in_layout=False, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def evidence_html(advice: Advice) -> str:
    """The advice, why, and each thing that it rests on with whether that holds."""
    rows = "".join(
        f"<li>{MARKS[held]} {html.escape(one.says)} <i>({SAID[held]})</i></li>"
        for one in advice.rests_on
        for held in [one.holds()]
    )
    return f"<p><b>{html.escape(advice.what)}</b><br>{html.escape(advice.why)}</p><ul>{rows}</ul>"


def _indexes(path: Sequence) -> tuple[int, ...]:
    return tuple(question.answers.index(answer) for question, answer in path)


class _Walk:
    """The answers to each question on the way; choosing one shows what follows from it."""

    def __init__(self, tree: Question, start: tuple[int, ...]):
        import ipywidgets as widgets

        from .widgets import WhenIdle

        self.tree, self.way, self.ahead = tree, start, WhenIdle()
        self.picture = cache(lambda way: Picture(draw_tree, tree, way, size=(13.6, 8.2), dpi=80))
        self.image, self.advice = widgets.HTML(), widgets.HTML(layout={"max_width": "34em"})
        self.questions = widgets.VBox()
        beside = widgets.HBox([self.questions, self.advice], layout={"flex_flow": "row wrap"})
        self.box = widgets.VBox([beside, self.image])
        self._ask(0)
        self._show()

    def _asked(self) -> list[Question]:
        """The questions on the way, and at its end the advice."""
        nodes = [self.tree]
        for i in self.way:
            nodes.append(nodes[-1].answers[i].then)
        return nodes

    def _ask(self, first: int) -> None:
        """Put the questions from the first one on; those before it stay, and with them the keyboard's place."""
        new = [self._answers(depth, node) for depth, node in enumerate(self._asked()[:-1]) if depth >= first]
        self.questions.children = (*self.questions.children[:first], *new)

    def _answers(self, depth: int, question: Question):
        """The answers to one question, as widgets."""
        import ipywidgets as widgets

        answers = widgets.RadioButtons(
            options=[answer.label for answer in question.answers], index=self.way[depth], description=question.text,
            orientation="horizontal", layout={"width": "auto"}, style={"description_width": "initial"},
        )  # fmt: skip
        answers.observe(lambda change: self.answer(depth, change["new"]), names="index")
        return answers

    def _show(self) -> None:
        *asked, advice = self._asked()
        self.advice.value = evidence_html(advice)
        self.image.value = self.picture(self.way).html()
        self.ahead(
            partial(self.picture, self.after(depth, i))
            for depth, question in enumerate(asked)
            for i in range(len(question.answers))
        )

    def after(self, depth: int, index: int) -> tuple[int, ...]:
        """The way with another answer; further questions are answered by their first answer until someone says otherwise."""
        way, node = (*self.way[:depth], index), self._asked()[depth].answers[index].then
        while isinstance(node, Question):
            way, node = (*way, 0), node.answers[0].then
        return way

    def answer(self, depth: int, index: int) -> None:
        """Take the answer, and show what follows from it."""
        self.way = self.after(depth, index)
        self._ask(depth + 1)
        self._show()


def decision_tree(path: Sequence, tree: Question = TREE):
    """The tree to click: choose answers, the way to the advice is lit, and what the advice rests on is beside.

    path: the questions and answers to begin with, as `recommend(...).path` has them.
    """
    from .widgets import Interactive

    walk = _Walk(tree, _indexes(path))
    shown = Interactive(walk.box, walk.picture(walk.way))
    shown.walk = walk
    return shown


# --- the cheat sheet -------------------------------------------------------------------------------------------------


def cheat_sheet() -> Table:
    """Every way through the tree as a line: if, then, because, and how much of what that rests on holds."""
    rows = []
    for path, advice in leaves():
        if_ = "; ".join(f"{FACTS[question.asks]}: {answer.label}" for question, answer in path)
        held = [one.holds() for one in advice.rests_on]
        rows.append((if_, advice.what, advice.why, f"{held.count(True)} of {len(held)}"))
    return Table(("if", "then", "because", "holds"), rows)
