"""The figures of 05: tickets of a small network (signals, accuracy by sparsity, cuts, a slider), accuracy by the
dimension of a subspace, and what is left of a pruned language model."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from lessonlib.display import to_numpy
from lessonlib.evaluation import seed_interval
from lessonlib.pruning.subspace import intrinsic_dimension

from .style import BLUE, GREY, INK, LOOKS, SKY, VERMILION, Picture, apart

TICKS = (0, 50, 80, 90, 95, 98, 99)
PRUNED = "#FFFFFF"
# The sign is told by lightness, so that grey shows it too: negative weights dark, those near zero between, positive light.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#00264D", "#707070", "#E69F00"])


# --- the data ----------------------------------------------------------------------------------------------------------


def draw_signals(axes, x: np.ndarray, y: np.ndarray) -> str:
    """One signal of each digit. x: (n, points). y: (n,), the digits, all ten among them."""
    for digit, ax in enumerate(axes):
        ax.plot(x[np.flatnonzero(y == digit)[0]], color=BLUE, linewidth=1.5)
        ax.set_title(str(digit))
        ax.set_xticks([])
        ax.set_yticks([])
    return (
        f"Ten signals of {x.shape[1]} points, one for each digit from 0, 1, 2, 3, 4, 5, 6, 7, 8 to 9: bumps in different "
        "places, tilted and noisy."
    )


def signals(images) -> Picture:
    """One signal of each digit of MNIST-1D."""
    return Picture(draw_signals, to_numpy(images.x), to_numpy(images.y), size=(10, 1.7), columns=10, dpi=80)


# --- accuracy by sparsity ----------------------------------------------------------------------------------------------


def _sparsity_axis(ax, sparsity: Sequence[float]) -> np.ndarray:
    """An axis on which each halving of the weights takes the same room; returns the places of the sparsities."""
    ticks = [tick for tick in TICKS if tick / 100 <= max(sparsity) + 0.003]
    ax.set_xticks([-np.log2(1 - tick / 100) for tick in ticks], [str(tick) for tick in ticks])
    ax.set_xlabel("weights pruned, % (each halving as wide)")
    return -np.log2(1 - np.asarray(sparsity))


def draw_curves(ax, sparsity, curves: Mapping[str, Sequence[Sequence[float]]], near: float, limits=None) -> str:
    """Accuracy by sparsity: the mean over seeds as a line, its 95 % interval as a band."""
    places = _sparsity_axis(ax, sparsity)
    at, parts, ends = int(np.argmin(np.abs(np.asarray(sparsity) - near))), [], []
    for (name, seeds), (colour, mark) in zip(curves.items(), LOOKS):
        mean, low, high = _mean_and_band(seeds)
        ax.plot(places, mean, mark, color=colour, markersize=4)
        ax.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        ends.append(mean[-1])
        parts.append(f"{name} {mean[0]:.1f} dense, {mean[at]:.1f} at {100 * sparsity[at]:.0f}, {mean[-1]:.1f} last")
    ax.set_ylabel("test accuracy, %")
    ax.set_ylim(limits)
    _name_the_ends(ax, places[-1], dict(zip(curves, ends)))
    first = next(iter(curves.values()))
    dense, ours = (100 * np.mean([values[i] for values in first]) for i in (0, at))
    ax.set_title(f"{next(iter(curves))}: {dense:.0f} % dense, {ours:.0f} % with {100 * sparsity[at]:.0f} % pruned")
    seeds = f"{len(first)} seeds, with 95 per cent intervals" if len(first) > 1 else "one seed"
    return (
        f"Test accuracy in per cent by the share of weights pruned, from {100 * sparsity[0]:.0f} to "
        f"{100 * sparsity[-1]:.0f} per cent, {seeds}: {'; '.join(parts)}. Dense it is {dense:.0f}, with "
        f"{100 * sparsity[at]:.0f} per cent pruned {ours:.0f}."
    )


def _mean_and_band(seeds: Sequence[Sequence[float]]) -> np.ndarray:
    """Mean, low and high, in per cent, of each column."""
    return 100 * np.array([seed_interval(values) for values in zip(*seeds)]).T


def _name_the_ends(ax, place: float, ends: Mapping[str, float]) -> None:
    floor, top = ax.get_ylim()
    for name, height, (colour, _) in zip(ends, apart(list(ends.values()), 0.075 * (top - floor)), LOOKS):
        ax.annotate(name, (place, height), (7, 0), textcoords="offset points", color=colour, va="center")
    wide = max(place, 0.1)
    ax.set_xlim(-0.03 * wide, wide * (1.03 + 0.0185 * max(map(len, ends))))


def ticket_curves(sparsity: Sequence[float], curves: Mapping[str, Sequence], near: float = 0.9) -> Picture:
    """Accuracy by the share of weights pruned; the title compares the dense network with that nearest to `near`.

    curves: for each kind of network its accuracies, one list a seed (or one list for a single seed).
    """
    wrapped = {name: lists if np.ndim(lists[0]) else [lists] for name, lists in curves.items()}
    return Picture(draw_curves, list(sparsity), wrapped, near, size=(8.4, 4.2))


def draw_two_settings(axes, sparsity, groups: Mapping[str, Mapping], near: float) -> str:
    """The same curves under two settings, on one scale of accuracy."""
    ends = [_mean_and_band(seeds) for curves in groups.values() for seeds in curves.values()]
    limits = (np.min(ends) - 1, np.max(ends) + 1)
    parts = []
    for ax, (title, curves) in zip(axes, groups.items()):
        parts.append(f"{title}: {draw_curves(ax, sparsity, curves, near, limits)}")
        ax.set_title(title)
    axes[1].set_ylabel("")
    return " ".join(parts)


def two_settings(sparsity: Sequence[float], groups: Mapping[str, Mapping], near: float = 0.9) -> Picture:
    """Accuracy by sparsity, twice. groups: for each of two settings the curves that `ticket_curves` takes."""
    return Picture(draw_two_settings, list(sparsity), groups, near, size=(12, 4.2), columns=2, dpi=80)


# --- without training on -----------------------------------------------------------------------------------------------


def draw_cuts(ax, sparsity: Sequence[float], lines: Mapping[str, Sequence[float]], chance: float) -> str:
    """Accuracy of one trained network whose weights are taken out, in several orders."""
    places, parts = _sparsity_axis(ax, sparsity), []
    for (name, values), (colour, mark) in zip(lines.items(), LOOKS):
        ax.plot(places, 100 * np.asarray(values), mark, color=colour, label=name, markersize=4)
        each = ", ".join(f"{100 * v:.0f} at {100 * s:.0f}" for s, v in zip(sparsity, values))
        parts.append(f"{name} {each}")
    ax.axhline(100 * chance, color=INK, linewidth=0.8, linestyle=":")
    ax.set(ylabel="test accuracy, %", ylim=(0, None))
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(lines))
    ax.set_title("A trained network, cut and not trained on")
    return (
        f"Test accuracy in per cent by the share of weights pruned from a trained network: {'; '.join(parts)}; chance is "
        f"{100 * chance:.0f}."
    )


def cuts(sparsity: Sequence[float], lines: Mapping[str, Sequence[float]], chance: float = 0.1) -> Picture:
    """What is left of a trained network that is cut and not trained on.

    lines: for each order of pruning the accuracy at each sparsity.
    """
    return Picture(draw_cuts, list(sparsity), lines, chance)


# --- the slider --------------------------------------------------------------------------------------------------------


def draw_weights(axes, k: int, weights, masks, sparsity, curves: Mapping[str, Sequence[float]]) -> str:
    """Left the first layer's weights, those pruned in white; right the accuracies, this round marked."""
    left, right = axes
    W, mask = weights.T, masks.T  # (inputs, hidden)
    shown = SIGNED(0.5 + 0.5 * np.clip(W / np.quantile(np.abs(weights), 0.98), -1, 1))
    shown[~mask] = to_rgba(PRUNED)
    left.imshow(shown, aspect="auto", interpolation="nearest")
    left.set(
        xlabel=f"{W.shape[1]} hidden units (dark: negative, light: positive)",
        ylabel=f"{W.shape[0]} points of the signal",
    )
    left.set_xticks([])
    left.set_yticks([])
    kept, unused = int(mask.sum()), int((~mask.any(0)).sum())
    left.set_title(f"{kept:,} of {mask.size:,} weights left")
    alt = draw_curves(right, sparsity, {name: [values] for name, values in curves.items()}, sparsity[k])
    place = -np.log2(1 - sparsity[k])
    right.axvline(place, color=INK, linewidth=0.8, linestyle=":")
    first = next(iter(curves.values()))
    right.plot([place], [100 * first[k]], "D", color=INK, markersize=8)
    right.set_title(f"{100 * sparsity[k]:.0f} % pruned: {100 * first[k]:.0f} % right")
    return (
        f"The first layer's weights as a grid of {W.shape[0]} inputs by {W.shape[1]} hidden units, {kept} of {mask.size} "
        f"left, dark where negative and light where positive, the others white; {unused} units have no input left. {alt}"
    )


def sparsity_slider(start, tickets, curves: Mapping[str, Sequence[float]], layer: str):
    """Slide the sparsity: the weights that are left in a layer, at the values that the ticket starts from.

    start: the weights before training, by name. tickets: one a round. curves: accuracies by round, the ticket's first.
    """
    from .widgets import slider

    sparsity = [ticket.sparsity for ticket in tickets]
    weights = to_numpy(start[layer])
    names = [f"{100 * s:.0f} %" for s in sparsity]

    def picture(name):
        k = names.index(name)
        data = k, weights, to_numpy(tickets[k].masks[layer]), sparsity, curves
        return Picture(draw_weights, *data, size=(11.5, 4.2), columns=2, dpi=80)

    return slider("weights pruned", names, picture, start=names[int(np.argmin(np.abs(np.array(sparsity) - 0.9)))])


# --- random subspaces --------------------------------------------------------------------------------------------------


def draw_subspaces(ax, scores: Mapping[int, Sequence[float]], full: float, total: int, share: float) -> str:
    """Accuracy by the subspace's dimension: each seed a dot, their mean a line; nine tenths of full training dotted."""
    means = {d: float(np.mean(values)) for d, values in sorted(scores.items())}
    found = intrinsic_dimension(means, full, share)
    for d, values in scores.items():
        ax.plot([d] * len(values), [100 * value for value in values], "o", color=SKY, markeredgecolor=BLUE)
    ax.plot(list(means), [100 * mean for mean in means.values()], color=BLUE)
    lines = {
        "full training": (full, GREY, "--"),
        f"{100 * share:.0f} % of it": (share * full, VERMILION, ":"),
    }
    for name, (level, colour, line) in lines.items():
        ax.axhline(100 * level, color=colour, linestyle=line, linewidth=1.5)
        place, side = ((4, 3), "bottom") if name == "full training" else ((4, -3), "top")
        where = (0, 100 * level)
        ax.annotate(
            name, where, place, xycoords=("axes fraction", "data"), textcoords="offset points", va=side,
            color=colour,
        )  # fmt: skip
    ax.set(xscale="log", xlabel="dimensions d of the subspace (log scale)", ylabel="test accuracy, %")
    ax.set_xticks(list(means), [f"{d:,}" for d in means])
    ax.minorticks_off()
    ax.set_ylim(0, 105)
    title = f"d90 ≈ {found:,} of {total:,}" if found else f"{100 * share:.0f} % is not held up to d = {max(means):,}"
    ax.set_title(title)
    parts = ", ".join(f"{100 * mean:.0f} at d = {d}" for d, mean in means.items())
    least = min(len(values) for values in scores.values())
    reached = f"is reached from d = {found} on" if found else f"is not held from any d up to {max(means)} on"
    return (
        f"Mean test accuracy in per cent by the dimension of the subspace, of {total} parameters and "
        f"{least} seed{'s' if least > 1 else ''}: {parts}. Full training has {100 * full:.0f}; "
        f"{100 * share:.0f} per cent of that (d90) {reached}."
    )


def subspace_curve(scores: Mapping[int, Sequence[float]], full: float, total: int, share: float = 0.9) -> Picture:
    """Accuracy of training in a random subspace, by its dimension d, and the d that reaches a share of full training.

    scores: for each d the accuracies of its seeds. full: of training all `total` parameters.
    """
    return Picture(draw_subspaces, dict(scores), full, total, share)


# --- what is left ------------------------------------------------------------------------------------------------------


def draw_retention(axes, lines: Mapping[str, Mapping[float, tuple[float, float]]], removed: str) -> str:
    """Left the accuracy, right the perplexity, by the share removed; the whole model is the first point of each."""
    parts = []
    for i, (ax, label) in enumerate(zip(axes, ("test accuracy, %", "perplexity (log scale)"))):
        for (name, points), (colour, mark) in zip(lines.items(), LOOKS):
            places = sorted(points)
            values = [points[place][i] * (1 if i else 100) for place in places]
            ax.plot([100 * place for place in places], values, mark, color=colour, label=name)
            each = ", ".join(f"{value:.0f} at {100 * place:.0f}" for place, value in zip(places, values))
            parts.append(f"{label.split(',')[0].split(' (')[0]}, {name}: {each}")
        ax.set(xlabel=f"{removed} removed, %", ylabel=label)
    axes[0].set_ylim(0, 100)
    axes[1].set_yscale("log")
    if len(lines) > 1:
        axes[0].legend(facecolor="white", edgecolor="none", loc="lower left")
    axes[0].set_title("What the task still gets")
    axes[1].set_title("What the text costs")
    return f"Two panels by the per cent of {removed} removed. {'; '.join(parts)}."


def retention(lines: Mapping[str, Mapping[float, tuple[float, float]]], removed: str) -> Picture:
    """What a pruned language model keeps of its task and of its text.

    lines: for each way of choosing, (accuracy, perplexity) by the share removed. removed: what, as in "heads".
    """
    return Picture(draw_retention, lines, removed, size=(11, 3.8), columns=2, dpi=80)


def draw_layers(ax, perplexities: Sequence[float], whole: float) -> str:
    """A bar a layer: the perplexity of the model that lacks this layer alone."""
    layers = range(len(perplexities))
    worst = int(np.argmax(perplexities))
    colours = [VERMILION if layer == worst else BLUE for layer in layers]
    ax.bar(layers, np.asarray(perplexities) - whole, bottom=whole, color=colours)
    ax.axhline(whole, color=INK, linewidth=1)
    ax.set(yscale="log", xlabel="the layer that is left out", ylabel="perplexity (log scale)")
    ax.set_xlim(-0.8, len(perplexities) - 0.2)
    others = sorted(value for layer, value in enumerate(perplexities) if layer != worst)
    middle = float(np.median(perplexities))
    ax.set_title(f"Without one layer: {middle:.0f} in the middle, {perplexities[worst]:,.0f} at worst")
    return (
        f"Bars of perplexity for a model of {len(perplexities)} layers that lacks one. Whole it has {whole:.1f}; without "
        f"layer {worst} it has {perplexities[worst]:.0f}, without any other from {others[0]:.0f} to {others[-1]:.0f}, "
        f"{middle:.0f} in the middle."
    )


def layer_costs(perplexities: Sequence[float], whole: float) -> Picture:
    """What each layer is worth: the perplexity without it.

    perplexities: of the model without its first layer, its second, and so on. whole: with all of them.
    """
    return Picture(draw_layers, list(perplexities), whole)


# --- heads of two tasks ---------------------------------------------------------------------------------------------------


def draw_heads(axes, importances: Mapping[str, np.ndarray], correlation: float) -> str:
    """Each task's heads as a grid, layers from left to right; dark is important."""
    parts = []
    for ax, (name, grid) in zip(axes, importances.items()):
        ax.imshow(grid.T, cmap="cividis_r", aspect="auto", interpolation="nearest")
        ax.grid(visible=False)
        ax.set(xlabel="layer", ylabel="head")
        ax.set_title(name)
        layer, head = np.unravel_index(grid.argmax(), grid.shape)
        parts.append(f"for {name} head {head} of layer {layer} stands out")
    axes[-1].text(
        1.0, 1.03, f"rank correlation {correlation:.2f}", transform=axes[-1].transAxes, ha="right", color=INK
    )
    shape = next(iter(importances.values())).shape
    return (
        f"Two grids of {shape[0]} layers by {shape[1]} heads, darker where a head is more important: {', '.join(parts)}. "
        f"The rank correlation of the two is {correlation:.2f}."
    )


def head_maps(importances: Mapping[str, Sequence[Sequence[float]]], correlation: float) -> Picture:
    """Which heads two tasks lean on. importances: for each task (layers, heads). correlation: of their ranks."""
    grids = {name: to_numpy(grid) for name, grid in importances.items()}
    return Picture(draw_heads, grids, correlation, size=(11, 3.2), columns=2, dpi=80)
