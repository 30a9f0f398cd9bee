"""The recorded runs of 05's last part: the language model with parts taken out.

Pruned is one model that has learnt two tasks, topic and sentiment, by LoRA, in turns, and whose update is merged. It is
trained once and kept in the cache, so that each recorded run, alone or after others, prunes the same model.
"""

import hashlib
import json
import random
from itertools import zip_longest

import torch

from lessonlib import corpora
from lessonlib.evaluation import Accuracy, accuracy
from lessonlib.lora import add_lora, load_lora, merge_lora, save_lora
from lessonlib.models import load_base
from lessonlib.pruning.language_model import (
    every_head,
    head_importance,
    layer_influence,
    perplexity,
    text_windows,
    weakest,
    without_heads,
    without_layers,
    without_small_weights,
)
from lessonlib.runs import load_runs
from lessonlib.training import fit, seed_everything, work_directory
from lessonlib.training.labels import LabelTask, label_loss

from .registry import experiment, record
from .tickets import ALL_LINEAR, test_intents, tickets_task

TEXTS = 64  # test tickets that judge a run: enough for what is asked, whether much is lost or little

# --- the model that is pruned ------------------------------------------------------------------------------------------

TRAINING = {"r": 8, "alpha": 16, "learning_rate": 2e-3, "steps": 80, "batch_size": 8, "seed": 0}


def sentiment_task(tokenizer) -> LabelTask:
    """The tickets' sentiment as one of three words."""
    template = "Ticket: {text}\nThe customer's feeling (negative, neutral or positive):"
    return LabelTask(tokenizer, corpora.SENTIMENTS, template=template)


TASKS = {"intent": tickets_task, "sentiment": sentiment_task}


def tuned_model():
    """The base model with both tasks learnt and merged, and its tokenizer; trained at the first call."""
    key = hashlib.sha256(json.dumps([TRAINING, corpora.fingerprint("tickets")]).encode()).hexdigest()[:12]
    directory = work_directory() / "adapters" / f"two-tasks-{key}"
    model, tokenizer = load_base()
    if (directory / "adapter_config.json").exists():
        return merge_lora(load_lora(model, directory)), tokenizer
    seed_everything(TRAINING["seed"])
    add_lora(model, ALL_LINEAR, r=TRAINING["r"], alpha=TRAINING["alpha"])
    fit(model, _in_turns(tokenizer), learning_rate=TRAINING["learning_rate"], resume="05-two-tasks")
    save_lora(model, directory)
    return merge_lora(model), tokenizer


def _in_turns(tokenizer) -> list:
    rows, half = corpora.tickets("train"), TRAINING["steps"] // 2
    settings = {"steps": half, "batch_size": TRAINING["batch_size"], "seed": TRAINING["seed"]}
    sets = [task(tokenizer).training_batches(rows["text"], rows[n], **settings) for n, task in TASKS.items()]
    return [batch for pair in zip(*sets) for batch in pair]


def _judged(model, task: LabelTask, name: str) -> Accuracy:
    rows = corpora.tickets("test").select(range(TEXTS))
    return accuracy(model, task, rows["text"], rows[name])


def house_text(tokenizer) -> torch.Tensor:
    """A text of ours that no model has seen: the handbook's facts and plain replies, in windows of 128 tokens."""
    texts = [*corpora.handbook()["fact"], *corpora.replies("test")["plain"]]
    return text_windows(tokenizer, texts)


def _measured(model, tokenizer, tasks=("intent",)) -> dict:
    scores = {name: _judged(model, TASKS[name](tokenizer), name) for name in tasks}
    results = {"score": scores["intent"], "perplexity": perplexity(model, house_text(tokenizer))}
    if "sentiment" in scores:
        results["sentiment"] = scores["sentiment"].predictions
    return results


# --- taking parts out --------------------------------------------------------------------------------------------------


@experiment(right_answers=test_intents)
def importances(texts: int) -> dict:
    """Each head's importance to either task, on as many training tickets, and on each half of them by itself."""
    model, tokenizer = tuned_model()
    rows, importance = corpora.tickets("train").select(range(texts)), {}
    for name, make in TASKS.items():
        task, half = make(tokenizer), texts // 2
        for part, chosen in (("first half", range(half)), ("second half", range(half, texts))):
            some = rows.select(chosen)
            batches, _ = task.evaluation_batches(some["text"], some[name], batch_size=8)
            importance[f"{name}, {part}"] = head_importance(model, batches, label_loss)
    return _measured(model, tokenizer, tuple(TASKS)) | {
        "importance": {name: [[float(f"{x:.4g}") for x in row] for row in of.tolist()] for name, of in importance.items()},
        "influence": layer_influence(model, house_text(tokenizer)),
        "perplexity before": perplexity(load_base()[0], house_text(tokenizer)),
    }  # fmt: skip


def recorded_importance(task: str) -> torch.Tensor:
    """The recorded importance of each head to a task, both halves together: (layers, heads)."""
    halves = load_runs("importances", **IMPORTANCES)[0].results["importance"]
    return (torch.tensor(halves[f"{task}, first half"]) + torch.tensor(halves[f"{task}, second half"])) / 2


@experiment(right_answers=test_intents)
def heads_removed(share: float, order: str) -> dict:
    """A share of the query heads silent: the least important to a task ("intent", "sentiment"), or "random" ones."""
    model, tokenizer = tuned_model()
    if order == "random":
        shuffled = random.Random(0).sample(every_head(model), len(every_head(model)))
        heads = shuffled[: round(share * len(shuffled))]
    else:
        heads = weakest(recorded_importance(order), share)
    with without_heads(model, heads):
        return _measured(model, tokenizer) | {"removed": len(heads)}


@experiment(right_answers=test_intents)
def layers_removed(count: int, order: str) -> dict:
    """Layers left out: those of the least "influence", or the "deepest" but for the very last one."""
    model, tokenizer = tuned_model()
    if order == "influence":
        influence = load_runs("importances", **IMPORTANCES)[0].results["influence"]
        layers = sorted(range(len(influence)), key=influence.__getitem__)[:count]
    else:
        last = model.config.num_hidden_layers - 1
        layers = list(range(last - count, last))
    with without_layers(model, layers):
        return _measured(model, tokenizer) | {"layers": layers}


@experiment(right_answers=test_intents)
def weights_removed(share: float) -> dict:
    """The smallest weights of each matrix in the layers at zero."""
    model, tokenizer = tuned_model()
    with without_small_weights(model, share):
        return _measured(model, tokenizer)


# --- which runs are recorded -----------------------------------------------------------------------------------------

IMPORTANCES = {"texts": 64}
HEADS = ((0.4, "intent"), (0.4, "random"), (0.2, "intent"))
LAYERS = ((8, "influence"), (2, "influence"))
SPARSITIES = (0.5, 0.3)


def sweeps() -> list[list[tuple[str, dict]]]:
    """The runs of each sweep, experiment and settings, those first that say most."""
    return [
        [("heads_removed", {"share": share, "order": order}) for share, order in HEADS],
        [("layers_removed", {"count": count, "order": order}) for count, order in LAYERS],
        [("weights_removed", {"share": share}) for share in SPARSITIES],
    ]


def record_all() -> None:
    """Record every run that is not there yet, the sweeps in turns."""
    record("importances", **IMPORTANCES)
    for turn in zip_longest(*sweeps()):
        for name, settings in filter(None, turn):
            record(name, **settings)
