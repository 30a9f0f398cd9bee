"""The figures. One file a figure: a plain function that draws on given axes, and a builder that shows it."""

from .adapters import (
    adapter_slider,
    call_overheads,
    start_scales,
    tasks_before_after,
    width_sweep,
)
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
from .pruning import cuts, signals, sparsity_slider, ticket_curves, two_settings
from .reasoning import (
    accuracy_by_steps,
    chain_toggle,
    kinds_and_ways,
    published_gains,
    searches,
    votes_curve,
)
from .redundancy import head_maps, layer_costs, retention, subspace_curve
from .style import Picture

__all__ = [
    "Picture",
    "accuracy_by_steps",
    "adapter_slider",
    "attention_by_part",
    "benchmark_times",
    "calibration_effect",
    "call_overheads",
    "chain_toggle",
    "cost_bars",
    "cuts",
    "example_orders",
    "head_maps",
    "kinds_and_ways",
    "label_pairs",
    "label_rates",
    "layer_costs",
    "learning_curves",
    "measured_groups",
    "memory_planner",
    "metric_and_emergence",
    "predicted_and_measured",
    "prompt_factors",
    "prompt_toggles",
    "published_gains",
    "rank_slider",
    "rank_sweep",
    "regression_errors",
    "retention",
    "scale_trend",
    "scaling",
    "searches",
    "shots_slider",
    "shots_sweep",
    "signals",
    "sparsity_slider",
    "spectrum",
    "start_scales",
    "subspace_curve",
    "tasks_before_after",
    "tasks_by_shots",
    "ticket_curves",
    "two_settings",
    "votes_curve",
    "width_sweep",
]
