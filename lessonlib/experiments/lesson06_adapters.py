"""The experiments of notebook 06: adapters on three tasks of the tickets, their width, places and start.

All train on the shorter tickets (a step then takes half the time) and are scored on all test tickets. Learning rates
are chosen on the validation tickets, by the same number of trials for every width and placement.
`python -m lessonlib.experiments_adapters` records what is missing; it resumes where it was stopped.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from . import corpora
from .adapters import (
    Bottleneck,
    NearIdentity,
    add_adapters,
    add_adapters_after_feed_forward,
    train_layer_norms,
)
from .classification import LabelTask
from .evaluation import Accuracy, text_logits
from .models import load_base
from .runs import Run, best_on_validation, load_runs, record
from .session import seed_everything
from .training import fit

# The column of the tickets, the names of its classes, and what the prompt calls it.
TASKS = {
    "intent": (corpora.INTENTS, "Topic"),
    "sentiment": (corpora.SENTIMENTS, "Sentiment"),
    "urgency": (corpora.URGENCIES, "Urgency"),
}
SHORT = 180  # characters: three fifths of the training tickets
VALIDATION = 100  # tickets on which learning rates are chosen


def ticket_task(tokenizer, name: str = "intent") -> LabelTask:
    """One of the three tasks. The words to choose from are not listed in the prompt, which saves a third of the time."""
    labels, heading = TASKS[name]
    words = [corpora.WORDS.get(label, label) for label in labels]
    return LabelTask(tokenizer, labels, words, template=f"Ticket: {{text}}\n{heading}:")


def short_tickets(task: str = "intent", longest: int = SHORT) -> tuple[list[str], list[int]]:
    """Texts and labels of the training tickets of at most so many characters."""
    rows = corpora.tickets("train")
    pairs = [(text, label) for text, label in zip(rows["text"], rows[task]) if len(text) <= longest]
    return [text for text, _ in pairs], [label for _, label in pairs]


def judged(model: nn.Module, task: LabelTask, texts, targets) -> tuple[Accuracy, float]:
    """Accuracy, and the mean loss among the labels in nats, which also sees how sure a wrong answer is."""
    logits = text_logits(model, task, texts)
    loss = F.cross_entropy(logits, torch.tensor(list(targets))).item()
    return Accuracy(logits.argmax(-1).tolist(), list(targets)), loss


def scores(model: nn.Module, task: LabelTask, name: str = "intent") -> dict:
    """What a run keeps of validation and test tickets, `name` being their column."""
    validation, test = corpora.tickets("validation").select(range(VALIDATION)), corpora.tickets("test")
    tried, tried_loss = judged(model, task, validation["text"], validation[name])
    score, loss = judged(model, task, test["text"], test[name])
    losses = {"validation_loss": round(tried_loss, 4), "test_loss": round(loss, 4)}
    return {"score": score, "validation": tried.value} | losses


def train_and_judge(
    model: nn.Module, tokenizer, task: str, seed: int, learning_rate: float, steps: int, batch_size: int
) -> dict:
    """Train what is trainable on the shorter tickets; the results of a run on validation and test tickets."""
    labelled = ticket_task(tokenizer, task)
    batches = labelled.training_batches(*short_tickets(task), steps=steps, batch_size=batch_size, seed=seed)
    history = fit(model, batches, learning_rate=learning_rate)
    return {"task": task} | scores(model, labelled, task) | history.results()


def no_adapter(task: str = "intent") -> dict:
    """The base model as it comes."""
    model, tokenizer = load_base()
    return {"task": task} | scores(model, ticket_task(tokenizer, task), task)


def houlsby(m: int, seed: int, task: str = "intent", **training) -> dict:
    """Adapters behind attention and behind the feed-forward part. training: learning_rate, steps, batch_size."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(add_adapters(model, m), tokenizer, task, seed, **training)


def pfeiffer(m: int, seed: int, **training) -> dict:
    """Adapters behind the feed-forward part only."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(add_adapters_after_feed_forward(model, m), tokenizer, "intent", seed, **training)


def norms_alone(seed: int, **training) -> dict:
    """Only the gains of the layer norms train."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(train_layer_norms(model), tokenizer, "intent", seed, **training)


def houlsby_and_norms(m: int, seed: int, **training) -> dict:
    """Adapters at both places and the layer norms, as in the paper."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(train_layer_norms(add_adapters(model, m)), tokenizer, "intent", seed, **training)


def houlsby_started(std: float, m: int, seed: int, **training) -> dict:
    """Adapters whose two matrices start at random, at this scale."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_adapters(model, m, module=functools.partial(NearIdentity, std=std))
    return train_and_judge(model, tokenizer, "intent", seed, **training)


class ReLUBottleneck(Bottleneck):
    """A bottleneck with ReLU between its two layers.

    x (..., d) -> (..., d)
    """

    def forward(self, x):
        down, up = self.down, self.up
        narrow = F.relu(F.linear(x, down.weight.to(x.dtype), down.bias.to(x.dtype)))
        return x + F.linear(narrow, up.weight.to(x.dtype), up.bias.to(x.dtype))


class LinearBottleneck(Bottleneck):
    """A bottleneck with nothing between its two layers.

    x (..., d) -> (..., d)
    """

    def forward(self, x):
        down, up = self.down, self.up
        narrow = F.linear(x, down.weight.to(x.dtype), down.bias.to(x.dtype))
        return x + F.linear(narrow, up.weight.to(x.dtype), up.bias.to(x.dtype))


BETWEEN = {"GELU": Bottleneck, "ReLU": ReLUBottleneck, "nothing": LinearBottleneck}


def houlsby_between(between: str, m: int, seed: int, **training) -> dict:
    """Adapters with another function, or none, between their two layers."""
    seed_everything(seed)
    model, tokenizer = load_base()
    return train_and_judge(
        add_adapters(model, m, module=BETWEEN[between]), tokenizer, "intent", seed, **training
    )


# --- which runs are recorded -----------------------------------------------------------------------------------------

MODULE = "lessonlib.experiments_adapters"
WIDTHS = (8, 16, 32, 64, 128, 256)
TWICE = (8, 64, 256)  # widths with a second seed
RATES = (1e-3, 3e-3)
NORM_RATE = 1e-2  # gains start at one and have further to go
TOO_HIGH = 3e-2
TRAINING = {"steps": 40, "batch_size": 8}
STARTS = (0.01, 1.0)


def best_rate(experiment: str, **settings) -> float:
    """The learning rate with the best validation accuracy among the recorded trials (seed 0), the loss decides ties."""
    trials = [
        run for run in load_runs(experiment, seed=0, **settings) if run.settings["learning_rate"] != TOO_HIGH
    ]
    return best_on_validation(trials).settings["learning_rate"]


def chosen(experiment: str, **settings) -> list[Run]:
    """The recorded runs, all seeds, at the learning rate that won on validation."""
    return load_runs(experiment, learning_rate=best_rate(experiment, **settings), **settings)


def targets(run: Run) -> list[int]:
    """The right answers of a recorded run, read anew from the test tickets."""
    return list(corpora.tickets("test")[run.results["task"]])


def _trials(experiment: str, rates=RATES, seed: int = 0, **settings) -> None:
    for rate in rates:
        record(f"{MODULE}:{experiment}", learning_rate=rate, seed=seed, **settings, **TRAINING)


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for task in TASKS:
        record(f"{MODULE}:no_adapter", task=task)
    for m in WIDTHS:
        _trials("houlsby", m=m, task="intent")
    _trials("houlsby", (TOO_HIGH,), m=64, task="intent")
    rate = best_rate("houlsby", m=64, task="intent")
    _trials("pfeiffer", m=128)
    relu = {"between": "ReLU", "m": 64}
    _trials("houlsby_between", **relu)
    _trials("houlsby_between", (best_rate("houlsby_between", **relu),), seed=1, **relu)
    for m in TWICE:
        _trials("houlsby", (best_rate("houlsby", m=m, task="intent"),), seed=1, m=m, task="intent")
    for std in STARTS:
        _trials("houlsby_started", (rate,), std=std, m=64)
    for task in ("sentiment", "urgency"):
        _trials("houlsby", (rate,), m=64, task=task)
    _trials("norms_alone", (NORM_RATE,))
    _trials("houlsby_and_norms", (rate,), m=64)


if __name__ == "__main__":
    record_all()
