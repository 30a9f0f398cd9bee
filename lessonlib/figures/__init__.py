"""The figures. One file a figure: a plain function that draws on given axes, and a builder that shows it."""

from .costs import cost_bars, memory_planner, predicted_and_measured, scaling
from .in_context import (
    attention_by_part,
    label_pairs,
    metric_and_emergence,
    regression_errors,
    scale_trend,
    shots_slider,
    shots_sweep,
    tasks_by_shots,
)
from .lora import (
    benchmark_times,
    learning_curves,
    rank_slider,
    rank_sweep,
    spectrum,
)
from .prompts import (
    calibration_effect,
    example_orders,
    label_rates,
    measured_groups,
    prompt_factors,
    prompt_toggles,
)
from .style import Picture

__all__ = [
    "Picture",
    "attention_by_part",
    "benchmark_times",
    "calibration_effect",
    "cost_bars",
    "example_orders",
    "label_pairs",
    "label_rates",
    "learning_curves",
    "measured_groups",
    "memory_planner",
    "metric_and_emergence",
    "predicted_and_measured",
    "prompt_factors",
    "prompt_toggles",
    "rank_slider",
    "rank_sweep",
    "regression_errors",
    "scale_trend",
    "scaling",
    "shots_slider",
    "shots_sweep",
    "spectrum",
    "tasks_by_shots",
]
