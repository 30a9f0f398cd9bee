"""The figures of 09: quantiles of a bell, formats by bits and error, the bits slider, what a merge rounds away, cards."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats

from lessonlib.costs import Memory
from lessonlib.display import to_numpy
from lessonlib.quantization.formats import Absmax, Measured, measure
from lessonlib.quantization.nf4 import in_blocks, normal_float, normalize

from .style import BLUE, GREY, INK, LOOKS, SKY, VERMILION, YELLOW, Picture, apart, listed

PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # under a text that a line would cross

# --- where the 16 values lie -----------------------------------------------------------------------------------------


def draw_code_book(ax, W: torch.Tensor, codebook: torch.Tensor) -> str:
    """Weights divided by their standard deviation, the normal curve, and the code book's values over its width.

    W: weights of any shape. codebook: (values,), ascending from -1 to 1.
    """
    x, codebook = to_numpy(W.float().flatten() / W.float().std()), to_numpy(codebook)
    grid, widest = np.linspace(-4, 4, 400), stats.norm.ppf(0.9677)
    ax.hist(x, bins=np.linspace(-4, 4, 81), density=True, color=SKY, edgecolor="white", linewidth=0.3)
    ax.plot(grid, stats.norm.pdf(grid), color=INK)
    places = codebook * widest
    ax.vlines(places, 0, stats.norm.pdf(places), color=VERMILION, linewidth=1.6)
    ax.plot(places, np.full(len(places), -0.012), "^", color=VERMILION, markersize=5, clip_on=False)
    inside = (np.abs(x) <= widest).mean()
    ax.set(xlabel="weight, in standard deviations", ylabel="density", xlim=(-4, 4), ylim=(-0.03, 0.46))
    ax.set_title(f"{len(codebook)} values, close together where weights are many")
    return (
        f"Histogram of real weights in standard deviations with the normal curve upon it. {len(codebook)} marks, the "
        f"values of the code book, stand close together in the middle and far apart outside, from {-widest:.2f} to "
        f"{widest:.2f} standard deviations, where {100 * inside:.0f} per cent of the weights lie."
    )


def code_book(W: torch.Tensor, codebook: torch.Tensor) -> Picture:
    """Where the values of a code book lie. W: weights of any shape. codebook: (values,), ascending from -1 to 1."""
    return Picture(draw_code_book, W, codebook, size=(7.6, 3.6))


# --- the bits slider -------------------------------------------------------------------------------------------------


def even_steps(bits: int) -> torch.Tensor:
    """The values of a signed integer of so many bits, from -1 to 1."""
    half = 2 ** (bits - 1) - 1
    return torch.arange(-half, half + 1) / half


def draw_bits(axes, bits: int, blocks: torch.Tensor, errors: dict[str, dict[int, float]]) -> str:
    """The weights of all blocks, each divided by its largest, with the values of so many bits; and error by bits.

    blocks: (n, 64), from -1 to 1. errors: for each kind of code book the error, a share, by bits.
    """
    left, right = axes
    codebook = normal_float(bits)
    left.hist(to_numpy(blocks).ravel(), bins=np.linspace(-1, 1, 101), density=True, color=SKY)
    left.vlines(codebook, 0, left.get_ylim()[1], color=VERMILION, linewidth=2.4 - 0.3 * bits)
    left.set(xlabel="weight / largest of its block", ylabel="density", xlim=(-1.05, 1.05))
    left.set_title(f"{bits} bits: {len(codebook)} values")
    parts = []
    for (name, values), (colour, look) in zip(errors.items(), LOOKS):
        numbers = list(values)
        right.plot(numbers, [100 * values[b] for b in numbers], look, color=colour, label=name)
        parts.append(f"{name} {listed([f'{100 * values[b]:.1f} at {b}' for b in numbers])}")
    nf, even = (100 * values[bits] for values in errors.values())
    right.plot([bits, bits], [nf, even], "o", color=INK, markersize=11, fillstyle="none", zorder=0)
    right.set(xlabel="bits", ylabel="error, % of the weights' size (log scale)", yscale="log")
    right.set_xticks(numbers, [str(b) for b in numbers])
    right.set_yticks([3, 10, 30, 100], ["3", "10", "30", "100"])
    right.minorticks_off()
    right.legend(frameon=False)
    right.set_title(f"error {nf:.1f} %, even steps {even:.1f} %")
    return (
        f"Left: histogram of a real matrix's weights, each divided by the largest of its block, with the "
        f"{len(codebook)} values of NormalFloat in {bits} bits. Right: error in per cent by bits: {'; '.join(parts)}. "
        f"Chosen are {bits} bits: {nf:.1f} per cent, with even steps {even:.1f}."
    )


def bits_slider(W: torch.Tensor, bits: Sequence[int] = (2, 3, 4, 5, 6)):
    """Move the number of bits over the histogram of a real weight W of any shape, in blocks of 64."""
    from .widgets import slider

    books = {"NormalFloat": normal_float, "even steps": even_steps}
    errors = {name: {b: measure(W, Absmax(name, book(b))).error for b in bits} for name, book in books.items()}
    blocks = normalize(in_blocks(W, 64))[0]
    return slider(
        "bits",
        bits,
        lambda b: Picture(draw_bits, b, blocks, errors, size=(10, 3.8), columns=2, dpi=90),
        start=4,
    )


# --- formats ---------------------------------------------------------------------------------------------------------


def draw_formats(ax, formats: dict[str, tuple[Measured, Measured]]) -> str:
    """Error of each format on normal weights and on real ones, as two bars, with its bits."""
    rows = np.arange(len(formats))[::-1]
    highest = max(100 * one.error for pair in formats.values() for one in pair)
    names = (("normal weights", SKY, "", 0.2), ("real weights", BLUE, "//", -0.2))
    for place, (name, colour, hatch, shift) in enumerate(names):
        values = [100 * pair[place].error for pair in formats.values()]
        ax.barh(rows + shift, values, height=0.36, color=colour, hatch=hatch, edgecolor=INK, label=name)
    for row, pair in zip(rows, formats.values()):
        for one, (_, _, _, shift) in zip(pair, names):
            ax.text(
                100 * one.error + 0.01 * highest,
                row + shift,
                f"{100 * one.error:.1f}",
                va="center",
                fontsize=9,
            )
    ax.set_yticks(rows, [f"{name}, {pair[0].bits:.2f} bits" for name, pair in formats.items()])
    ax.set(xlabel="error, % of the weights' own size", xlim=(0, 1.1 * highest))
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, loc="upper right")
    parts = [f"{name} {100 * a.error:.1f} and {100 * b.error:.1f}" for name, (a, b) in formats.items()]
    return f"Bars of the error in per cent, on normal weights and on a real matrix: {'; '.join(parts)}."


def formats(measured: dict[str, tuple[Measured, Measured]]) -> Picture:
    """What formats lose. measured: (on normal weights, on real ones) by the format's name."""
    return Picture(draw_formats, measured, size=(8.2, 1.2 + 0.48 * len(measured)))


def draw_block_sizes(axes, sizes: dict[int, Measured]) -> str:
    """Error and bits a weight against the block size."""
    left, right = axes
    for ax, values, colour, label in (
        (left, [100 * one.error for one in sizes.values()], BLUE, "error, % of the weights' size"),
        (right, [one.bits for one in sizes.values()], VERMILION, "bits a weight"),
    ):
        ax.plot(list(sizes), values, "o-", color=colour)
        ax.axvline(64, color=GREY, linestyle=":")
        ax.set(xlabel="weights in a block (log scale)", ylabel=label, xscale="log")
        ax.set_xticks(list(sizes), [str(size) for size in sizes])
        ax.minorticks_off()
    left.set_title("Small blocks lose less")
    right.set_title("and cost more")
    parts = [f"{size}: {100 * one.error:.1f} per cent at {one.bits:.2f} bits" for size, one in sizes.items()]
    return f"Error and bits a weight by the number of weights in a block: {'; '.join(parts)}. A dotted line at 64."


def block_sizes(sizes: dict[int, Measured]) -> Picture:
    """What small blocks gain and cost. sizes: what was measured, by block size."""
    return Picture(draw_block_sizes, sizes, size=(9, 3.3), columns=2)


def draw_read(ax, losses: dict[str, float], base: float) -> str:
    """Loss on plain text of the base in each format, beside that of the base in 16 bits; one far off is an arrow."""
    ordered = dict(sorted(losses.items(), key=lambda pair: pair[1]))
    *others, highest = ordered.values()
    room = max(highest if highest - base < 4 * (others[-1] - base) else others[-1], base + 0.1) - base
    for row, loss in enumerate(reversed(ordered.values())):
        shown = min(loss, base + 1.25 * room)
        ax.plot([base, shown], [row, row], color=GREY)
        ax.plot(shown, row, "o" if shown == loss else ">", color=BLUE)
        ax.text(shown + 0.025 * room, row, f"{loss:.2f}", va="center", fontsize=10)
    ax.axvline(base, color=INK, linestyle="--")
    ax.set_yticks(range(len(ordered)), list(ordered)[::-1])
    ax.set(xlabel="loss on plain text, nats a token", xlim=(base - 0.04 * room, base + 1.45 * room))
    ax.grid(axis="y", visible=False)
    ax.set_title(f"16 bits: {base:.2f} (dashed)")
    parts = [f"{name} {loss:.2f}" for name, loss in ordered.items()]
    return f"Loss in nats a token on plain text: 16 bits {base:.2f}; {'; '.join(parts)}."


def read_losses(losses: dict[str, float], base: float) -> Picture:
    """What reading the base in few bits costs. losses: nats a token by format; base: those of the model in 16 bits."""
    return Picture(draw_read, losses, base, size=(8.2, 1.2 + 0.4 * len(losses)))


# --- merging ---------------------------------------------------------------------------------------------------------


def draw_update(ax, update: torch.Tensor, half_step: torch.Tensor) -> str:
    """Sizes of a trained update's numbers, and of the half steps that they would have to reach.

    update: (d_out, d_in). half_step: of any shape, above 0.
    """
    small, large = to_numpy(update.abs()).ravel(), to_numpy(half_step).ravel()
    edges = np.geomspace(max(small[small > 0].min(), large.max() / 1e5), 1.2 * max(large.max(), small.max()), 70)
    ax.hist(small, bins=edges, weights=np.full(small.size, 100 / small.size), color=SKY)
    ax.hist(
        large,
        bins=edges,
        weights=np.full(large.size, 100 / large.size),
        histtype="step",
        color=VERMILION,
        hatch="//",
        linewidth=1.5,
    )
    a, b, top = np.median(small), np.median(large), ax.get_ylim()[1]
    ax.text(a / 4, 0.9 * top, "what was\nlearned", ha="right", va="top", bbox=PLAIN)
    ax.text(b * 2.2, 0.9 * top, "half a step\nof NF4", color=VERMILION, va="top", bbox=PLAIN)
    ax.set(
        xscale="log",
        xlabel="size (log scale)",
        ylabel="%",
        xlim=(edges[0], 8 * edges[-1]),
        ylim=(0, 1.02 * top),
    )
    ax.set_title(f"The median number moves its weight by {100 * a / b:.2g} % of half a step")
    return (
        f"Two histograms on a logarithmic axis: the numbers of a trained update, their median {100 * a / b:.2g} per "
        f"cent of the other's, and half the steps between the values of NF4, {b:.1e} in the median."
    )


def update_and_step(update: torch.Tensor, half_step: torch.Tensor) -> Picture:
    """What a merge into few bits rounds away.

    update: (d_out, d_in), B A times its scale. half_step: how far a weight must move to reach the next value, of any
    shape: one a block, or one a weight.
    """
    return Picture(draw_update, update, half_step, size=(7.6, 3.4))


# --- which card ------------------------------------------------------------------------------------------------------


def draw_cards(ax, plans: dict[str, dict[str, Memory]], cards: dict[str, float]) -> str:
    """Memory of each model by method on a logarithmic axis, with what the cards hold."""
    rows, parts = np.arange(len(plans))[::-1], []
    methods = list(next(iter(plans.values())))
    for shift, method, colour, mark in zip((0.22, 0, -0.22), methods, (GREY, VERMILION, BLUE), "^sD"):
        sizes = [plan[method].total / 1e9 for plan in plans.values()]
        ax.plot(sizes, rows + shift, mark, color=colour, label=method, markersize=8)
        for row, size in zip(rows, sizes):
            ax.text(size * 1.07, row + shift, f"{size:.0f}", va="center", fontsize=9, color=colour, bbox=PLAIN)
    for name, size in cards.items():
        ax.axvline(size, color=INK, linestyle="--", linewidth=1.2, zorder=0)
        ax.text(size, len(plans) - 0.42, name, ha="center", va="bottom", fontsize=9)
    for model, plan in plans.items():
        parts.append(f"{model}: {listed([f'{method} {plan[method].total / 1e9:.0f}' for method in methods])}")
    ax.set(xscale="log", xlabel="GB of one training step (log scale)", ylim=(-0.6, len(plans) - 0.45))
    ax.set_xlim(3, 1.6 * max(m.total for plan in plans.values() for m in plan.values()) / 1e9)
    ax.set_xticks([5, 10, 20, 50, 100, 200, 500, 1000], ["5", "10", "20", "50", "100", "200", "500", "1000"])
    ax.minorticks_off()
    ax.set_yticks(rows, list(plans))
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.16))
    usable = listed([f"{name} {size:.1f}" for name, size in cards.items()])
    return f"GB of one training step: {'; '.join(parts)}. Dashed lines: what cards leave to training, {usable} GB."


def cards(plans: dict[str, dict[str, Memory]], usable: dict[str, float]) -> Picture:
    """Which card holds which plan. plans: memory by model and method (three of them); usable: GB by the card's name."""
    return Picture(draw_cards, plans, usable, size=(9.4, 1.6 + 0.75 * len(plans)))


# --- the adapter beside its base -------------------------------------------------------------------------------------


def draw_outweigh(ax, widths: Sequence[int], ranks: Sequence[int], bits: float, adapter_bytes: int) -> str:
    """Bytes of an adapter as a share of its square matrix's in few bits, against the rank."""
    parts, ends = [], []
    for d, (colour, look) in zip(widths, LOOKS):
        share = [100 * adapter_bytes * 2 * d * r / (d * d * bits / 8) for r in ranks]
        ax.plot(ranks, share, look, color=colour)
        ends.append((share[-1], d, colour))
        parts.append(f"width {d}: rank {d * bits / 8 / adapter_bytes / 2:.0f}")
    heights = apart([np.log10(share) for share, _, _ in ends], 0.22)
    for (_, d, colour), height in zip(ends, heights):
        ax.annotate(
            f"d = {d}", (ranks[-1], 10**height), (8, 0), textcoords="offset points", color=colour, va="center"
        )
    ax.axhline(100, color=INK, linestyle="--")
    ax.set(xscale="log", yscale="log", xlabel="rank (log scale)", ylabel="adapter, % of its base (log scale)")
    ax.set_xticks(list(ranks), [str(r) for r in ranks])
    ax.set_xlim(ranks[0] * 0.85, ranks[-1] * 2.4)
    ax.set_ylim(None, 1.6 * 10 ** max(heights))
    ax.minorticks_off()
    ax.set_title("As large as its base: dashed")
    return (
        f"Bytes of an adapter as a share of its square matrix's, by rank, at {bits:.3g} bits a weight. Equal at "
        f"{'; '.join(parts)}. A dashed line at 100 per cent."
    )


def outweigh(widths: Sequence[int], ranks: Sequence[int], bits: float = 4.0, adapter_bytes: int = 2) -> Picture:
    """From which rank on an adapter is as large as its base in few bits.

    widths: of square matrices. bits: of a weight of the base. adapter_bytes: of a number of A or B.
    """
    return Picture(draw_outweigh, widths, ranks, bits, adapter_bytes, size=(7.6, 3.6))


# --- two trainings ---------------------------------------------------------------------------------------------------


def draw_gradients(ax, before: Sequence[float], after: Sequence[float]) -> str:
    """Size of the gradient in each layer, before an evaluation and after it."""
    layers = np.arange(len(before))
    ax.bar(layers - 0.2, before, 0.4, color=SKY, edgecolor=INK, linewidth=0.4, label="before an evaluation")
    ax.bar(layers + 0.2, after, 0.4, color=YELLOW, edgecolor=INK, hatch="//", linewidth=0.4, label="after it")
    lost = sum(b > 0 and a < 0.01 * b for b, a in zip(before, after))
    ax.set(xlabel="layer", ylabel="size of the gradient of B", ylim=(0, 1.3 * max(*before, *after)))
    ax.grid(axis="x", visible=False)
    ax.legend(frameon=False, ncols=2, loc="upper center")
    ax.set_title(f"Without a gradient after an evaluation: {lost} of {len(layers)} layers")
    return (
        f"Bars of the gradient's size in each of {len(layers)} layers before and after an evaluation. In {lost} of "
        f"them less than a hundredth is left afterwards."
    )


def gradients_before_and_after(before: Sequence[float], after: Sequence[float]) -> Picture:
    """Sizes of the gradients by layer."""
    return Picture(draw_gradients, before, after, size=(8, 3.2))
