"""The experiments of notebook 10 on distillation: the tuned model's answers in a student of a third of its layers.

The teacher is the base with LoRA on the tickets' intent, merged. A student keeps ten of its thirty layers, evenly chosen
or the first ones, and is trained on the teacher's softened answers or on the labels alone: the same shorter tickets in
the same order. The same learning rates are tried for each, and the validation tickets choose.
`python -m lessonlib.experiments lesson10_distillation` records what is missing; it resumes where it was stopped.
"""

import functools
from functools import partial

import torch
from torch import nn

from lessonlib.evaluation import mean_difference, paired_times, tensor_bytes
from lessonlib.lora import add_lora, merge_lora
from lessonlib.models import load_base
from lessonlib.training import fit, seed_everything
from lessonlib.training.distillation import distillation_loss, evenly_spaced, first_layers, with_fewer_layers
from lessonlib.training.labels import Batch, label_logits, label_loss
from lessonlib.training.master_weights import MasterAdamW

from .registry import experiment, record
from .tickets import ALL_LINEAR, scores, short_tickets, test_intents, ticket_task
from .trials import best_rate, chosen

CHOICES = {"evenly": evenly_spaced, "first": first_layers}


@functools.cache
def tuned_teacher(seed: int, learning_rate: float, steps: int, batch_size: int):
    """The teacher and its tokenizer: LoRA on the shorter tickets, merged. Trained once a process; nobody changes it."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_lora(model, ALL_LINEAR, r=8, alpha=16)
    task = ticket_task(tokenizer)
    batches = task.training_batches(*short_tickets(), steps=steps, batch_size=batch_size, seed=seed)
    fit(model, batches, learning_rate=learning_rate, resume="teacher")
    return merge_lora(model).requires_grad_(False), tokenizer


def forward_seconds(task, **models: nn.Module) -> dict[str, float]:
    """Seconds that each model takes for sixteen short tickets, medians, in turns in one process."""
    texts = short_tickets()[0][:16]
    batch = task.batch([task.encode(text) for text in texts], [0] * len(texts))
    times = paired_times({name: partial(_forward, model, batch) for name, model in models.items()}, rounds=9)
    return {f"{name}_seconds": times.median(name) for name in models}


@torch.no_grad()
def _forward(model: nn.Module, batch: Batch) -> None:
    label_logits(model, batch.to(next(model.parameters()).device))


@experiment(right_answers=test_intents)
def teacher(seed: int) -> dict:
    """The teacher itself."""
    model, tokenizer = tuned_teacher(seed, **TEACHER)
    task = ticket_task(tokenizer)
    return scores(model, task) | {"bytes": tensor_bytes(model.parameters())} | forward_seconds(task, teacher=model)


@experiment(right_answers=test_intents)
def untrained(kept: str, layers: int, seed: int) -> dict:
    """A student as it is cut, before it has learned anything."""
    model, tokenizer = tuned_teacher(seed, **TEACHER)
    return scores(with_fewer_layers(model, layers, CHOICES[kept]), ticket_task(tokenizer))


def _student(loss, kept: str, layers: int, seed: int, learning_rate: float, steps: int, batch_size: int) -> dict:
    model, tokenizer = tuned_teacher(seed, **TEACHER)
    task, student = ticket_task(tokenizer), with_fewer_layers(model, layers, CHOICES[kept])
    batches = task.training_batches(*short_tickets(), steps=steps, batch_size=batch_size, seed=seed)
    seed_everything(seed)
    history = fit(student, batches, learning_rate=learning_rate, loss=loss, optimizer=MasterAdamW)
    results = scores(student, task) | history.results() | {"bytes": tensor_bytes(student.parameters())}
    return results | forward_seconds(task, teacher=model, student=student)


@experiment(right_answers=test_intents)
def distilled(seed: int, T: float, weight: float, **settings) -> dict:
    """A student of the teacher's softened answers. settings: kept, layers, learning_rate, steps, batch_size."""
    loss = partial(distillation_loss, teacher=tuned_teacher(seed, **TEACHER)[0], T=T, weight=weight)
    return _student(loss, seed=seed, **settings)


@experiment(right_answers=test_intents)
def by_labels(seed: int, **settings) -> dict:
    """The same student, trained on the labels alone."""
    return _student(label_loss, seed=seed, **settings)


# --- which runs are recorded -----------------------------------------------------------------------------------------

TEACHER = {"learning_rate": 2e-3, "steps": 40, "batch_size": 8}
STUDENT = {"layers": 10, "steps": 100, "batch_size": 8}
SOFT = {"T": 2.0, "weight": 0.9}
RATES = (2e-4, 5e-4)
SEEDS = (0, 1, 2)


def compared(kept: str) -> tuple[float, float, float]:
    """Accuracy of distilled students minus that of those by labels: (difference, low, high), over the test tickets."""
    return mean_difference(*([run.answers() for run in chosen(way, kept=kept)] for way in ("distilled", "by_labels")))


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for kept in CHOICES:
        record("untrained", kept=kept, layers=STUDENT["layers"], seed=0)
        for rate in RATES:
            record("distilled", kept=kept, learning_rate=rate, seed=0, **SOFT, **STUDENT)
            record("by_labels", kept=kept, learning_rate=rate, seed=0, **STUDENT)
    for seed in SEEDS:  # every student has a teacher of its own seed
        record("teacher", seed=seed)
        for kept in CHOICES:
            for way, soft in (("distilled", SOFT), ("by_labels", {})):
                rate = best_rate(way, kept=kept)
                record(way, kept=kept, learning_rate=rate, seed=seed, **soft, **STUDENT)
