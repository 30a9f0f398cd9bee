"""Every figure with controls, built as its notebook builds it: from recorded runs where there are some."""

from collections.abc import Callable

from test_figures04 import METERS, PROBLEMS, WROTE
from test_figures05 import ONE, TICKETS
from test_figures08 import COSTS, SCORES

from lessonlib import corpora, figures
from lessonlib.choosing import Situation, decide
from lessonlib.costs import MIXED, FullFineTuning, LoRA, QLoRA, training_memory
from lessonlib.experiments.lesson02_in_context import shots_runs
from lessonlib.experiments.lesson03_prompts import recorded_grid, toggles
from lessonlib.experiments.lesson06_adapters import TRAINING, WIDTHS
from lessonlib.experiments.lesson07_ranks import FULL, rank_runs
from lessonlib.experiments.trials import chosen
from lessonlib.figures.widgets import Interactive
from lessonlib.models import load_base
from lessonlib.networks.mlp import digit_network
from lessonlib.prompting import calibrate
from lessonlib.pruning import snapshot
from lessonlib.serving.traffic import lru_hits, zipf


def cost_bars() -> Interactive:
    methods = {"full fine-tuning": FullFineTuning(), "LoRA, r = 8": LoRA(8), "QLoRA, r = 8": QLoRA(8)}
    return figures.cost_bars(
        {name: training_memory("gpt3-175b", way, precision=MIXED) for name, way in methods.items()}
    )


def chain_toggle() -> Interactive:
    return figures.chain_toggle(PROBLEMS, lambda name, way: WROTE[way], METERS, ("long", "chain"))


def sparsity_slider() -> Interactive:
    return figures.sparsity_slider(snapshot(digit_network(40)), TICKETS, ONE, "0.weight")


def adapter_slider() -> Interactive:
    runs = [run for m in WIDTHS for run in chosen("houlsby", m=m, task="intent", **TRAINING)]
    return figures.adapter_slider(576, 60, 134_515_008, runs)


def rank_slider() -> Interactive:
    spectrum = chosen("full_fine_tuning", **FULL)[0].results["spectrum"]
    return figures.rank_slider((576, 576), spectrum["model.layers.15.self_attn.q_proj"], rank_runs())


def bits_slider() -> Interactive:
    return figures.bits_slider(load_base()[0].model.layers[15].self_attn.q_proj.weight.detach())


INTERACTIVE: dict[str, Callable[[], Interactive]] = {
    "cost bars": cost_bars,
    "memory planner": figures.memory_planner,
    "shots": lambda: figures.shots_slider(shots_runs(), 1 / len(corpora.INTENTS)),
    "prompt toggles": lambda: figures.prompt_toggles(*toggles(recorded_grid(), calibrate)),
    "chain toggle": chain_toggle,
    "sparsity": sparsity_slider,
    "adapter block": adapter_slider,
    "rank": rank_slider,
    "spectrum": lambda: figures.cost_accuracy(COSTS, SCORES),
    "decision tree": lambda: figures.decision_tree(decide(Situation(500)).path),
    "bits": bits_slider,
    "traffic": lambda: figures.traffic(zipf(12, 120, seed=0), lru_hits),
}
