"""The experiments of notebook 08 on what moves the gap between LoRA and full fine-tuning: the task, the labels, the base."""

import random
from collections.abc import Sequence

from torch import nn

from lessonlib import corpora
from lessonlib.evaluation import accuracy
from lessonlib.models import load_base
from lessonlib.runs import Run, load_runs
from lessonlib.training import fit, seed_everything

from .lesson08_methods import (
    CUT,
    LONGER,
    MAIN,
    SEEDS,
    TRAINED,
    TRAINING,
    chosen,
    intent_task,
    rate,
    record_trials,
    urgency_task,
)
from .registry import experiment, record


def _labels_under_condition(run: Run) -> list[int]:
    return list(corpora.tickets("test")[_column(run.settings["condition"])])


CONDITIONS = ("another task", "a quarter of the labels wrong", "a third of the base's layers gone")


@experiment(right_answers=_labels_under_condition)
def gap(condition: str, method: str, learning_rate: float, seed: int, steps: int, batch_size: int) -> dict:
    """LoRA or full fine-tuning with one thing changed: the task (urgency), the labels, or the base.

    Raises ValueError for another condition.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition is {condition!r}; expected one of {', '.join(CONDITIONS)}")
    seed_everything(seed)
    model, tokenizer = load_base()
    column = _column(condition)
    make, rows = (urgency_task if column == "urgency" else intent_task), corpora.tickets("train")
    labels = list(rows[column])
    if condition == "a quarter of the labels wrong":
        labels = with_label_noise(labels, 0.25, seed)
    elif condition == "a third of the base's layers gone":
        truncated(model)
    TRAINED[method].build(model, tokenizer)
    batches = make(tokenizer, CUT).training_batches(
        rows["text"], labels, steps=steps, batch_size=batch_size, seed=seed
    )
    history = fit(model, batches, learning_rate=learning_rate, optimizer=TRAINED[method].optimizer)
    test = corpora.tickets("test")
    return {
        "score": accuracy(model, make(tokenizer), test["text"], test[column]),
        "trainable": history.trainable,
        "losses": [round(loss, 4) for loss in history.losses],
    }


def _column(condition: str) -> str:
    return "urgency" if condition == "another task" else "intent"


def with_label_noise(labels: Sequence[int], share: float, seed: int) -> list[int]:
    """The labels with a share of them, drawn by the seed, changed to another one: symmetric label noise.

    >>> sum(a != b for a, b in zip([0, 1, 2, 3] * 5, with_label_noise([0, 1, 2, 3] * 5, 0.25, seed=0)))
    5
    """
    rng, out, kinds = random.Random(seed), list(labels), sorted(set(labels))
    for row in rng.sample(range(len(out)), round(share * len(out))):
        out[row] = rng.choice([kind for kind in kinds if kind != out[row]])
    return out


def truncated(model: nn.Module) -> nn.Module:
    """The model without the last third of its layers: a base that knows less."""
    layers = model.get_decoder().layers
    del layers[len(layers) - len(layers) // 3 :]
    model.config.num_hidden_layers = len(layers)
    return model


# --- which runs are recorded -----------------------------------------------------------------------------------------

UNCHANGED, LONGER_NAME = "as it was", "three times as many steps"


def under(condition: str, method: str) -> list[Run]:
    """A main way's runs with one thing changed, all seeds: one of `CONDITIONS`, `LONGER_NAME`, or `UNCHANGED`."""
    if condition in CONDITIONS:
        return load_runs("gap", condition=condition, method=method)
    return chosen(method, training=LONGER if condition == LONGER_NAME else TRAINING)


def record_all() -> None:
    """Record every run with one thing changed that is not there yet, at the learning rates of the head-to-head."""
    record_trials(MAIN)
    for seed in SEEDS:
        for condition in CONDITIONS:
            for method in MAIN:
                settings = {"learning_rate": rate(method), "seed": seed, **TRAINING}
                record("gap", condition=condition, method=method, **settings)
