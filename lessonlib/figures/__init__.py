"""The figures, one file a lesson: for each a plain function that draws on given axes, and a builder that shows it.

What stands here are the builders, `Way` of the playground, and `Picture`, which all of them make but `cheat_sheet`:
that one is a table.
"""

from .lesson01 import cost_bars, memory_planner, predicted_and_measured, scaling
from .lesson02 import (
    attention_by_part,
    label_pairs,
    metric_and_emergence,
    regression_errors,
    scale_trend,
    shots_slider,
    shots_sweep,
    tasks_by_shots,
)
from .lesson03 import (
    calibration_effect,
    example_orders,
    label_rates,
    measured_groups,
    prompt_factors,
    prompt_toggles,
)
from .lesson04 import accuracy_by_steps, chain_toggle, kinds_and_ways, published_gains, searches, votes_curve
from .lesson05 import (
    cuts,
    head_maps,
    layer_costs,
    retention,
    signals,
    sparsity_slider,
    subspace_curve,
    ticket_curves,
    two_settings,
)
from .lesson06 import adapter_slider, call_overheads, start_scales, tasks_before_after, width_sweep
from .lesson07 import (
    benchmark_times,
    digit_rows,
    learning_curves,
    places_before_after,
    rank_slider,
    rank_sweep,
    spectrum,
    variants_compared,
)
from .lesson08 import (
    accuracy_by_examples,
    cheat_sheet,
    cost_accuracy,
    decision_tree,
    forgotten,
    gaps,
    ways_compared,
)
from .lesson09 import (
    bits_slider,
    block_sizes,
    cards,
    code_book,
    formats,
    gradients_before_and_after,
    outweigh,
    read_losses,
    update_and_step,
)
from .lesson10 import (
    after_each_task,
    by_question,
    drift,
    requests_over_time,
    timeline,
    traffic,
    ways_to_serve,
)
from .playground import Way, playground
from .style import Picture
