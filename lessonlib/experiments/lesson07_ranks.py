"""The experiments behind the recorded runs: plain functions of keyword arguments, one a question.

Each trains the real base model on the tickets and returns its score on the test tickets with what else was measured.
Learning rates are chosen on the validation tickets, by the same number of trials for every method and size. `make
runs` records what is missing; it resumes where it was stopped.
"""

import torch

from lessonlib import corpora
from lessonlib.corpora import baselines
from lessonlib.evaluation import Accuracy, accuracy, rank_at_energy, training_bytes
from lessonlib.lora import add_lora
from lessonlib.models import load_base
from lessonlib.runs import Run
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import LabelTask

from .registry import experiment, record
from .tickets import ALL_LINEAR, test_intents, tickets_task
from .trials import best_rate, chosen

RANKS = (8, 1, 64)
LORA_RATES = (1e-3, 2e-3, 4e-3)
FULL_RATES = (2e-5, 5e-5, 1e-4)
SEEDS = (0, 1)
FULL_SEEDS = (0,)  # one run takes seven minutes: the line of full fine-tuning is a single seed
SPECTRUM_OF = "model.layers.{}.self_attn.q_proj"


def _score(model, task: LabelTask, split: str) -> Accuracy:
    rows = corpora.tickets(split)
    return accuracy(model, task, rows["text"], rows["intent"])


def _train_and_score(model, tokenizer, *, learning_rate: float, steps: int, batch_size: int, seed: int) -> dict:
    task = tickets_task(tokenizer)
    rows = corpora.tickets("train")
    batches = task.training_batches(rows["text"], rows["intent"], steps=steps, batch_size=batch_size, seed=seed)
    history = fit(model, batches, learning_rate=learning_rate)
    validation = _score(model, task, "validation")
    scores = {"score": _score(model, task, "test"), "validation": validation.value}
    return scores | history.results() | {"bytes": training_bytes(model)}


@experiment(right_answers=test_intents)
def zero_shot() -> dict:
    """The base model as it comes, asked for the topic."""
    model, tokenizer = load_base()
    task = tickets_task(tokenizer)
    return {"score": _score(model, task, "test"), "validation": _score(model, task, "validation").value}


@experiment(right_answers=test_intents)
def lora(r: int, alpha: float, targets: list[str], seed: int, **training) -> dict:
    """LoRA on the tickets' intents. training: learning_rate, steps, batch_size."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_lora(model, targets, r=r, alpha=alpha)
    return _train_and_score(model, tokenizer, seed=seed, **training)


@experiment(right_answers=test_intents)
def full_fine_tuning(seed: int, **training) -> dict:
    """All weights trained in float32 (bfloat16 weights would swallow the small steps); the spectrum of what changed."""
    seed_everything(seed)
    model, tokenizer = load_base(dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("q_proj.weight")}
    results = _train_and_score(model, tokenizer, seed=seed, **training)
    updates = {
        name.removesuffix(".weight"): p.detach() - before[name]
        for name, p in model.named_parameters()
        if name in before
    }
    values = {name: torch.linalg.svdvals(update) for name, update in updates.items()}
    kept = [SPECTRUM_OF.format(layer) for layer in (0, 15, 29)]
    results["spectrum"] = {name: [float(f"{value:.4g}") for value in values[name]] for name in kept}
    results["rank_90"] = {name: rank_at_energy(value.tolist(), 0.9) for name, value in values.items()}
    return results


@experiment(right_answers=test_intents)
def word_counts() -> dict:
    """The baseline that any language model has to beat: TF-IDF and logistic regression, C chosen on validation."""
    train, validation, test = (corpora.tickets(split) for split in corpora.SPLITS)
    model = baselines.word_counts(train["text"], train["intent"], validation["text"], validation["intent"])
    predictions = [int(label) for label in model.predict(test["text"])]
    validation_score = model.score(validation["text"], validation["intent"])
    return {"score": Accuracy(predictions, list(test["intent"])), "validation": validation_score}


# --- which runs are recorded -----------------------------------------------------------------------------------------

LORA = {"targets": ALL_LINEAR, "steps": 120, "batch_size": 8}
FULL = {"steps": 120, "batch_size": 8}


def rank_runs() -> list[Run]:
    """The rank sweep of notebook 07: three seeds a rank, each rank at its own best learning rate."""
    return [run for r in RANKS for run in chosen("lora", r=r, **LORA)]


def record_all() -> None:
    """Record every run that the notebooks draw from and that is not there yet."""
    record("zero_shot")
    record("word_counts")
    for r in RANKS:
        for rate in LORA_RATES:
            record("lora", r=r, alpha=2 * r, learning_rate=rate, seed=0, **LORA)
    for rate in FULL_RATES:
        record("full_fine_tuning", learning_rate=rate, seed=0, **FULL)
    for seed in SEEDS[1:]:
        for r in RANKS:
            rate = best_rate("lora", r=r, **LORA)
            record("lora", r=r, alpha=2 * r, learning_rate=rate, seed=seed, **LORA)
    for seed in FULL_SEEDS[1:]:
        rate = best_rate("full_fine_tuning", **FULL)
        record("full_fine_tuning", learning_rate=rate, seed=seed, **FULL)
