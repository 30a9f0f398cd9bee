"""Several runs of each of several ways, on the same texts: means over seeds, intervals over texts, predicted bytes.

A run's seed changes the draw of examples and the order of batches; the test texts are the same for all. So a way's
accuracy is the mean over its seeds, and its interval says what other 200 tickets might have given: the texts are drawn
anew, each with the answers of all seeds, and of both ways where two are compared.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lessonlib.costs import (
    MASTER_WEIGHTS,
    MIXED,
    Adapters,
    FullFineTuning,
    LoRA,
    Memory,
    PrefixTuning,
    PromptTuning,
    training_memory,
)
from lessonlib.display import Table
from lessonlib.evaluation import mean_difference, shares_right, text_interval
from lessonlib.runs import Run

from . import lesson08_gap as gap
from . import lesson08_methods as methods

BASE = "smollm2-135m"


def right(runs: Iterable[Run]) -> np.ndarray:
    """The share of a way's seeds that answered each text rightly, (texts,)."""
    return shares_right([run.answers() for run in runs])


def score(runs: Sequence[Run]) -> tuple[float, float, float]:
    """A way's accuracy over its seeds with its interval: (mean, low, high)."""
    return text_interval(right(runs))


def difference(a: Sequence[Run], b: Sequence[Run]) -> tuple[float, float, float]:
    """a's accuracy minus b's on the same texts: (difference, low, high), paired.

    Raises ValueError where the two were judged by other right answers.
    """
    return mean_difference([run.answers() for run in a], [run.answers() for run in b])


BOTH = (gap.UNCHANGED, gap.LONGER_NAME, *gap.CONDITIONS)


def both_ways(condition: str) -> tuple[list[Run], list[Run]]:
    """LoRA's and full fine-tuning's runs under one of `BOTH`, of the seeds that both have.

    Raises LookupError where either is not recorded.
    """
    both = [gap.under(condition, method) for method in methods.MAIN]
    seeds = set.intersection(*({run.settings["seed"] for run in runs} for runs in both))
    lora, full = ([run for run in runs if run.settings["seed"] in seeds] for runs in both)
    return lora, full


# --- the tables ------------------------------------------------------------------------------------------------------


def recorded(read: Callable = methods.chosen, names: Sequence[str] = methods.METHODS) -> dict:
    """What `read` gives for each name, the names left out of which nothing is recorded."""
    rows = {}
    for name in names:
        try:
            rows[name] = read(name)
        except LookupError:
            continue
    return rows


def points(value: tuple[float, float, float], sign: str = "") -> str:
    """(mean, low, high) in per cent.

    >>> points((0.8, 0.75, 0.85))
    '80 (75 to 85)'
    """
    mean, low, high = (f"{100 * x:{sign}.0f}" for x in value)
    return f"{mean} ({low} to {high})"


def quality_table(rows: dict[str, list[Run]]) -> Table:
    """What each way gets right, and what it can still do elsewhere."""
    columns = ("", "seeds", "test accuracy, % (95 %)", "each seed", "perplexity elsewhere", "sentiment, %")
    return Table(columns, [_quality(name, runs) for name, runs in rows.items()])


def _quality(name: str, runs: list[Run]) -> tuple[str, ...]:
    each = ", ".join(f"{100 * run.accuracy:.0f}" for run in runs)
    off = off_task(runs)
    columns = (f"{off['perplexity']:.1f}", f"{100 * off['sentiment']:.0f}") if off else ("the base's",) * 2
    return name, str(len(runs)), points(score(runs)), each, *columns


def off_task(runs: Sequence[Run]) -> dict[str, float]:
    """Means over the seeds of what was measured off the task; empty where nothing was, as for a prompt."""
    scores = [run.results["elsewhere"] for run in runs if "elsewhere" in run.results]
    return {what: float(np.mean([one[what] for one in scores])) for what in scores[0]} if scores else {}


def cost_table(costs: dict[str, Run]) -> Table:
    """What each way costs: one training step, and one answer."""
    columns = ("", "trains", "held for a step", "a step, LoRA = 1", "an answer, base = 1")
    return Table(columns, [_costs(name, run) for name, run in costs.items()])


def _costs(name: str, run: Run) -> tuple[str, ...]:
    held = f"{counted(run) / 1e6:,.0f} MB" if run.results["trainable"] else "–"
    step = f"{run.results['step_time'][0]:.2f}" if "step_time" in run.results else "–"
    answers = [f"{way[0]:.2f} {how}" for how, way in run.results["answer_time"].items()]
    return name, f"{run.results['trainable']:,}", held, step, ", ".join(answers)


def counted(run: Run) -> int:
    """All bytes that a training step held."""
    return sum(run.results["bytes"].values())


def answer_time(run: Run) -> float:
    """The time of an answer as a multiple of the base's, in the fastest form that a way has: LoRA's is merged."""
    return min(way[0] for way in run.results["answer_time"].values())


# --- predicted -------------------------------------------------------------------------------------------------------

AS_PLANNED = {
    "prompt tuning": PromptTuning(16),
    "prefix tuning": PrefixTuning(16),
    "adapter": Adapters(32),
    "LoRA": LoRA(8),
    "full fine-tuning": FullFineTuning(),
}


def predicted(method: str, *, batch: int, tokens: int, base=BASE) -> Memory:
    """Bytes of a step of the head-to-head, from the formulae of notebook 01: a loss on one label for each text."""
    plan = AS_PLANNED[method]
    precision = MASTER_WEIGHTS if plan.trains_everything else MIXED
    return training_memory(base, plan, precision=precision, batch=batch, tokens=tokens, scored=1)
