"""The figures. One file a figure: a plain function that draws on given axes, and a builder that shows it."""

from .lora import (
    benchmark_times,
    learning_curves,
    rank_slider,
    rank_sweep,
    spectrum,
)
from .style import Picture

__all__ = ["Picture", "benchmark_times", "learning_curves", "rank_slider", "rank_sweep", "spectrum"]
