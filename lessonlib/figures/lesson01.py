"""The figures of 01: bytes by component, predicted beside measured, cost against size, the memory planner."""

import textwrap
from collections.abc import Sequence

import numpy as np

from lessonlib.costs import (
    EIGHT_BIT_ADAM,
    MASTER_WEIGHTS,
    MIXED,
    PURE_BFLOAT16,
    Adapters,
    FullFineTuning,
    LoRA,
    Memory,
    PromptTuning,
    QLoRA,
    fits,
)

from .style import BLUE, GREY, INK, SKY, VERMILION, YELLOW, Picture

COLOURS = {"weights": BLUE, "gradients": VERMILION, "optimizer": YELLOW, "activations": SKY}
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # under a text that a line would cross
# A pattern besides the colour, so that the parts are told apart in grey as well.
HATCHES = {"weights": "", "gradients": "//", "optimizer": "..", "activations": "xx"}


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if size >= 0.9995 * scale:
            return f"{size / scale:.3g} {unit}" if size < 999.5 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size / 1e6:.3g} MB"


def _stack(ax, row: int, memory: Memory, unit: float) -> None:
    left = 0.0
    for part, value in vars(memory).items():
        ax.barh(
            row,
            value / unit,
            left=left / unit,
            color=COLOURS[part],
            hatch=HATCHES[part],
            edgecolor=INK,
            height=0.6,
        )
        left += value


def _headline(ax, text: str) -> None:
    """A title that begins at the picture's edge and takes as many lines as it needs."""
    ax.figure.suptitle("\n".join(textwrap.wrap(text, 88)), x=0.01, ha="left", fontsize=11, weight="bold")


def _legend(ax) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=COLOURS[p], hatch=HATCHES[p], edgecolor=INK, label=p) for p in COLOURS]
    ax.legend(handles=patches, ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1.02), frameon=False, fontsize=10)


# --- bytes by component ----------------------------------------------------------------------------------------------


def draw_cost_bars(ax, memories: dict[str, Memory], chosen: str | None = None) -> str:
    """A stacked bar a plan; the chosen one spelt out in the title."""
    largest = max(memory.total for memory in memories.values())
    name, unit = ("TB", 1e12) if largest >= 1e12 else ("GB", 1e9)
    for row, (plan, memory) in enumerate(reversed(memories.items())):
        _stack(ax, row, memory, unit)
        weight = "bold" if plan == chosen else "normal"
        ax.text((memory.total + 0.01 * largest) / unit, row, _size(memory.total), va="center", weight=weight)
    ax.set_yticks(range(len(memories)), list(memories)[::-1])
    ax.set(xlabel=f"memory of one training step, {name}", xlim=(0, 1.16 * largest / unit))
    ax.grid(axis="y", visible=False)
    _legend(ax)
    parts = [f"{plan} {_size(memory.total)}" for plan, memory in memories.items()]
    if chosen is None:
        return f"Stacked bars of memory by component: {'; '.join(parts)}."
    spelt_out = ", ".join(f"{part} {_size(value)}" for part, value in vars(memories[chosen]).items())
    _headline(ax, f"{chosen}: {spelt_out}")
    return f"Stacked bars of memory: {'; '.join(parts)}. Chosen is {chosen}: {spelt_out}."


def cost_bars(memories: dict[str, Memory]):
    """Memory by component of several plans; choose one to read its parts."""
    from .widgets import chooser

    return chooser(
        {"details of": list(memories)},
        lambda plan: Picture(draw_cost_bars, memories, plan, size=(8.6, 1.6 + 0.45 * len(memories))),
        start=[next(iter(memories))],
    )


# --- predicted beside measured ---------------------------------------------------------------------------------------


def draw_predicted(ax, pairs: dict[str, tuple[float, float]]) -> str:
    """Predicted bytes beside measured ones, by what they are."""
    rows = np.arange(len(pairs))[::-1]
    for shift, place, colour, hatch, label in (
        (0.2, 0, SKY, "", "predicted"),
        (-0.2, 1, BLUE, "//", "measured"),
    ):
        values = [pair[place] / 1e6 for pair in pairs.values()]
        ax.barh(rows + shift, values, height=0.36, color=colour, hatch=hatch, edgecolor=INK, label=label)
    for row, (predicted, measured) in zip(rows, pairs.values()):
        off = round(100 * (predicted / measured - 1), 1) + 0.0  # never "-0.0 %"
        error = f"{off:+.1f} %" if predicted != measured else "equal"
        ax.text(max(predicted, measured) / 1e6 * 1.01, row, error, va="center", fontsize=10)
    worst = max(abs(predicted / measured - 1) for predicted, measured in pairs.values())
    ax.set_yticks(rows, list(pairs))
    ax.set(xlabel="MB", xlim=(0, 1.16 * max(max(pair) for pair in pairs.values()) / 1e6))
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    ax.set_title(f"Largest error: {100 * worst:.1f} %")
    parts = "; ".join(f"{name} {p / 1e6:.1f} and {m / 1e6:.1f}" for name, (p, m) in pairs.items())
    return (
        f"Pairs of bars, predicted and measured megabytes: {parts}. The largest error is {100 * worst:.1f} per cent."
    )


def predicted_and_measured(pairs: dict[str, tuple[float, float]]) -> Picture:
    """Predicted bytes beside measured ones. pairs: (predicted, measured) by name."""
    return Picture(draw_predicted, pairs, size=(8.6, 1.2 + 0.42 * len(pairs)))


# --- cost against size -----------------------------------------------------------------------------------------------


def draw_scaling(ax, sizes: Sequence[float], lines: dict[str, Sequence[float]], unit: str) -> str:
    """Cost against parameters, both axes logarithmic, with the slope of each line."""
    parts = []
    places = (-1, -6, 8, "right", "bottom"), (-2, 8, -10, "left", "top"), (0, 0, 12, "center", "bottom")
    looks = zip((BLUE, VERMILION, GREY), ("o-", "s--", "^:"), places)
    for (name, values), (colour, mark, (at, right, up, ha, va)) in zip(lines.items(), looks):
        slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
        ax.plot(sizes, values, mark, color=colour)
        ax.annotate(
            f"{name}: slope {slope:.2f}", (sizes[at], values[at]), (right, up), textcoords="offset points",
            color=colour, ha=ha, va=va,
        )  # fmt: skip
        parts.append(f"{name} rises with slope {slope:.2f}")
    ax.set(xscale="log", yscale="log", xlabel="parameters (log scale)", ylabel=f"{unit} (log scale)")
    ax.set_ylim(None, 4 * max(max(values) for values in lines.values()))
    ax.set_title("Slope 1 is proportional; exponential growth would bend upwards")
    return f"{unit} against parameters on two logarithmic axes: {'; '.join(parts)}. Straight lines of slope 1."


def scaling(sizes: Sequence[float], lines: dict[str, Sequence[float]], unit: str) -> Picture:
    """Lines of cost against the number of parameters."""
    return Picture(draw_scaling, sizes, lines, unit, size=(7.2, 4))


# --- the memory planner ----------------------------------------------------------------------------------------------

METHODS = {
    "full fine-tuning": FullFineTuning(),
    "LoRA, r = 8": LoRA(8),
    "QLoRA, r = 8": QLoRA(8),
    "adapters, m = 64": Adapters(64),
    "prompt tuning, 100": PromptTuning(100),
}
PRECISIONS = {p.name: p for p in (EIGHT_BIT_ADAM, PURE_BFLOAT16, MIXED, MASTER_WEIGHTS)}
PLANNED = ("smollm2-135m", "smollm2-1.7b", "llama2-7b", "llama2-13b", "llama2-70b", "gpt3-175b")
CARDS = ("T4", "RTX 4090", "L40S", "A100-80GB", "H200")


def draw_plan(ax, model: str, method: str, precision: str, recompute: str, gpu: str) -> str:
    """One plan as a stacked bar against what a GPU holds; below it the nearest plan that fits."""
    fit = fits(
        model,
        gpu,
        METHODS[method],
        precision=PRECISIONS[precision],
        tokens=1024,
        recompute=recompute == "yes",
    )
    bars = {"this plan": fit.memory}
    if not fit.fits and fit.nearest:
        bars["nearest that fits"] = fit.nearest_memory
    highest = max(fit.usable, *(memory.total for memory in bars.values()))
    for row, memory in enumerate(reversed(bars.values())):
        _stack(ax, row, memory, 1e9)
        ax.text((memory.total + 0.01 * highest) / 1e9, row, _size(memory.total), va="center", bbox=PLAIN)
    ax.axvline(fit.usable / 1e9, color=INK, linestyle="--")
    ax.annotate(
        f"{gpu}: {_size(fit.usable)}",
        (fit.usable / 1e9, -0.62),
        (4, 0),
        textcoords="offset points",
        va="center",
    )
    ax.set(xlim=(0, 1.2 * highest / 1e9), ylim=(-0.8, len(bars) - 0.4), xlabel="GB")
    ax.set_yticks(range(len(bars)), list(bars)[::-1])
    ax.grid(axis="y", visible=False)
    _legend(ax)
    verdict = _verdict(fit)
    _headline(ax, f"{model}: {verdict}")
    other = f"; the nearest plan that fits takes {_size(fit.nearest_memory.total)}" if len(bars) == 2 else ""
    return f"{model}, {fit.plan}, on {gpu}: {_size(fit.memory.total)} of {_size(fit.usable)}, {verdict}{other}."


def _verdict(fit) -> str:
    if fit.fits:
        return "it fits"
    many = f"{fit.gpus} such cards hold it" if fit.gpus else "no number of cards holds its activations"
    if fit.nearest is None:
        return f"it does not fit; {many}"
    change = f"{fit.nearest.method}{', recomputation' if fit.nearest.recompute else ''}"
    if fit.nearest.precision != fit.plan.precision:
        change += f", {fit.nearest.precision.name}"
    return f"it does not fit; {many}; one does with {change}"


def memory_planner():
    """Choose model, method, precision, recomputation and GPU, and see whether it fits (batch 1, 1024 tokens)."""
    from .widgets import chooser

    return chooser(
        {
            "model": PLANNED,
            "method": list(METHODS),
            "precision": list(PRECISIONS),
            "recomputation": ["no", "yes"],
            "GPU": CARDS,
        },
        lambda *choice: Picture(draw_plan, *choice, size=(9, 2.9), dpi=80),
        start=["llama2-7b", "full fine-tuning", MIXED.name, "no", "A100-80GB"],
    )
