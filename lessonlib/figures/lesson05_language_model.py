"""Figures of 05's second half: accuracy by the dimension of a subspace, what is left of a pruned language model, and
which heads two tasks lean on."""

from collections.abc import Mapping, Sequence

import numpy as np

from lessonlib.pruning.subspace import intrinsic_dimension

from .style import BLUE, GREY, INK, LOOKS, SKY, VERMILION, Picture

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
    title = (
        f"d90 ≈ {found:,} of {total:,}"
        if found
        else f"{100 * share:.0f} % is not held up to d = {max(means):,}"
    )
    ax.set_title(title)
    said = ", ".join(f"{100 * mean:.0f} at d = {d}" for d, mean in means.items())
    least = min(len(values) for values in scores.values())
    reached = f"is reached from d = {found} on" if found else f"is not held from any d up to {max(means)} on"
    return (
        f"Mean test accuracy in per cent by the dimension of the subspace, of {total} parameters and "
        f"{least} seed{'s' if least > 1 else ''}: {said}. Full training has {100 * full:.0f}; "
        f"{100 * share:.0f} per cent of that (d90) {reached}."
    )


def subspace_curve(
    scores: Mapping[int, Sequence[float]], full: float, total: int, share: float = 0.9
) -> Picture:
    """scores: for each d the accuracies of its seeds. full: of training all `total` parameters."""
    return Picture(draw_subspaces, dict(scores), full, total, share)


# --- what is left ------------------------------------------------------------------------------------------------------


def draw_retention(axes, lines: Mapping[str, Mapping[float, tuple[float, float]]], removed: str) -> str:
    """Left the accuracy, right the perplexity, by the share removed; the whole model is the first point of each."""
    said = []
    for i, (ax, label) in enumerate(zip(axes, ("test accuracy, %", "perplexity (log scale)"))):
        for (name, points), (colour, mark) in zip(lines.items(), LOOKS):
            places = sorted(points)
            values = [points[place][i] * (1 if i else 100) for place in places]
            ax.plot([100 * place for place in places], values, mark, color=colour, label=name)
            each = ", ".join(f"{value:.0f} at {100 * place:.0f}" for place, value in zip(places, values))
            said.append(f"{label.split(',')[0].split(' (')[0]}, {name}: {each}")
        ax.set(xlabel=f"{removed} removed, %", ylabel=label)
    axes[0].set_ylim(0, 100)
    axes[1].set_yscale("log")
    if len(lines) > 1:
        axes[0].legend(facecolor="white", edgecolor="none", loc="lower left")
    axes[0].set_title("What the task still gets")
    axes[1].set_title("What the text costs")
    return f"Two panels by the per cent of {removed} removed. {'; '.join(said)}."


def retention(lines: Mapping[str, Mapping[float, tuple[float, float]]], removed: str) -> Picture:
    """lines: for each way of choosing, (accuracy, perplexity) by the share removed. removed: what, as in "heads"."""
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
    """perplexities: of the model without its first layer, its second, and so on. whole: with all of them."""
    return Picture(draw_layers, list(perplexities), whole)


# --- heads of two tasks ---------------------------------------------------------------------------------------------------


def draw_heads(axes, importances: Mapping[str, np.ndarray], correlation: float) -> str:
    """Each task's heads as a grid, layers from left to right; dark is important."""
    said = []
    for ax, (name, grid) in zip(axes, importances.items()):
        ax.imshow(grid.T, cmap="cividis_r", aspect="auto", interpolation="nearest")
        ax.grid(visible=False)
        ax.set(xlabel="layer", ylabel="head")
        ax.set_title(name)
        layer, head = np.unravel_index(grid.argmax(), grid.shape)
        said.append(f"for {name} head {head} of layer {layer} stands out")
    axes[-1].text(
        1.0, 1.03, f"rank correlation {correlation:.2f}", transform=axes[-1].transAxes, ha="right", color=INK
    )
    shape = next(iter(importances.values())).shape
    return (
        f"Two grids of {shape[0]} layers by {shape[1]} heads, darker where a head is more important: {', '.join(said)}. "
        f"The rank correlation of the two is {correlation:.2f}."
    )


def head_maps(importances: Mapping[str, Sequence[Sequence[float]]], correlation: float) -> Picture:
    """importances: for each of two tasks (layers, heads). correlation: of their ranks."""
    grids = {name: np.asarray(grid) for name, grid in importances.items()}
    return Picture(draw_heads, grids, correlation, size=(11, 3.2), columns=2, dpi=80)
