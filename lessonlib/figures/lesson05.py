"""The figures of 05: signals, accuracy by sparsity, the sparsity slider, and what is lost without training on."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from lessonlib.evaluation import seed_interval

from .style import BLUE, INK, LOOKS, Picture, apart

TICKS = (0, 50, 80, 90, 95, 98, 99)
PRUNED = "#FFFFFF"
# The sign is told by lightness, so that grey shows it too: negative weights dark, those near zero between, positive light.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#00264D", "#707070", "#E69F00"])


# --- the data ----------------------------------------------------------------------------------------------------------


def draw_signals(axes, x: np.ndarray, y: np.ndarray) -> str:
    """One signal of each digit."""
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
    return Picture(draw_signals, images.x.numpy(), images.y.numpy(), size=(10, 1.7), columns=10, dpi=80)


# --- accuracy by sparsity ----------------------------------------------------------------------------------------------


def _sparsity_axis(ax, sparsity: Sequence[float]) -> np.ndarray:
    """An axis on which each halving of the weights takes the same room; returns the places of the sparsities."""
    ticks = [tick for tick in TICKS if tick / 100 <= max(sparsity) + 0.003]
    ax.set_xticks([-np.log2(1 - tick / 100) for tick in ticks], [str(tick) for tick in ticks])
    ax.set_xlabel("weights pruned, % (each halving as wide)")
    return -np.log2(1 - np.asarray(sparsity))


def draw_curves(
    ax, sparsity, curves: Mapping[str, Sequence[Sequence[float]]], near: float, limits=None
) -> str:
    """Accuracy by sparsity: the mean over seeds as a line, its 95 % interval as a band."""
    places = _sparsity_axis(ax, sparsity)
    at, said, ends = int(np.argmin(np.abs(np.asarray(sparsity) - near))), [], []
    for (name, seeds), (colour, mark) in zip(curves.items(), LOOKS):
        mean, low, high = _mean_and_band(seeds)
        ax.plot(places, mean, mark, color=colour, markersize=4)
        ax.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
        ends.append(mean[-1])
        said.append(
            f"{name} {mean[0]:.1f} dense, {mean[at]:.1f} at {100 * sparsity[at]:.0f}, {mean[-1]:.1f} last"
        )
    ax.set_ylabel("test accuracy, %")
    ax.set_ylim(limits)
    _name_the_ends(ax, places[-1], dict(zip(curves, ends)))
    first = next(iter(curves.values()))
    dense, ours = (100 * np.mean([values[i] for values in first]) for i in (0, at))
    ax.set_title(
        f"{next(iter(curves))}: {dense:.0f} % dense, {ours:.0f} % with {100 * sparsity[at]:.0f} % pruned"
    )
    seeds = f"{len(first)} seeds, with 95 per cent intervals" if len(first) > 1 else "one seed"
    return (
        f"Test accuracy in per cent by the share of weights pruned, from {100 * sparsity[0]:.0f} to "
        f"{100 * sparsity[-1]:.0f} per cent, {seeds}: {'; '.join(said)}. Dense it is {dense:.0f}, with "
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
    """curves: for each kind of network its accuracies, one list a seed (or one list for a single seed)."""
    wrapped = {name: lists if np.ndim(lists[0]) else [lists] for name, lists in curves.items()}
    return Picture(draw_curves, list(sparsity), wrapped, near, size=(8.4, 4.2))


def draw_two_settings(axes, sparsity, groups: Mapping[str, Mapping], near: float) -> str:
    """The same curves under two settings, on one scale of accuracy."""
    ends = [_mean_and_band(seeds) for curves in groups.values() for seeds in curves.values()]
    limits = (np.min(ends) - 1, np.max(ends) + 1)
    said = []
    for ax, (title, curves) in zip(axes, groups.items()):
        said.append(f"{title}: {draw_curves(ax, sparsity, curves, near, limits)}")
        ax.set_title(title)
    axes[1].set_ylabel("")
    return " ".join(said)


def two_settings(sparsity: Sequence[float], groups: Mapping[str, Mapping], near: float = 0.9) -> Picture:
    """groups: for each of two settings the curves that `ticket_curves` takes."""
    return Picture(draw_two_settings, list(sparsity), groups, near, size=(12, 4.2), columns=2, dpi=80)


# --- without training on -----------------------------------------------------------------------------------------------


def draw_cuts(ax, sparsity: Sequence[float], lines: Mapping[str, Sequence[float]], chance: float) -> str:
    """Accuracy of one trained network whose weights are taken out, in several orders."""
    places, said = _sparsity_axis(ax, sparsity), []
    for (name, values), (colour, mark) in zip(lines.items(), LOOKS):
        ax.plot(places, 100 * np.asarray(values), mark, color=colour, label=name, markersize=4)
        each = ", ".join(f"{100 * v:.0f} at {100 * s:.0f}" for s, v in zip(sparsity, values))
        said.append(f"{name} {each}")
    ax.axhline(100 * chance, color=INK, linewidth=0.8, linestyle=":")
    ax.set(ylabel="test accuracy, %", ylim=(0, None))
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(lines))
    ax.set_title("A trained network, cut and not trained on")
    return (
        f"Test accuracy in per cent by the share of weights pruned from a trained network: {'; '.join(said)}; chance is "
        f"{100 * chance:.0f}."
    )


def cuts(sparsity: Sequence[float], lines: Mapping[str, Sequence[float]], chance: float = 0.1) -> Picture:
    """lines: for each order of pruning the accuracy at each sparsity, without any further training."""
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
    weights = start[layer].numpy()
    names = [f"{100 * s:.0f} %" for s in sparsity]

    def picture(name):
        k = names.index(name)
        data = k, weights, tickets[k].masks[layer].numpy(), sparsity, curves
        return Picture(draw_weights, *data, size=(11.5, 4.2), columns=2, dpi=80)

    return slider(
        "weights pruned", names, picture, start=names[int(np.argmin(np.abs(np.array(sparsity) - 0.9)))]
    )
