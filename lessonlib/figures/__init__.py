"""The figures. One file a figure: a plain function that draws on given axes, and a builder that shows it."""

from .costs import cost_bars, memory_planner, predicted_and_measured, scaling
from .lora import (
    benchmark_times,
    learning_curves,
    rank_slider,
    rank_sweep,
    spectrum,
)
from .style import Picture

__all__ = [
    "Picture",
    "benchmark_times",
    "cost_bars",
    "learning_curves",
    "memory_planner",
    "predicted_and_measured",
    "rank_slider",
    "rank_sweep",
    "scaling",
    "spectrum",
]
