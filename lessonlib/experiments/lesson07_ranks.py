"""The experiments behind the recorded runs: plain functions of keyword arguments, one a question.

Each trains the real base model on the tickets and returns its score on the test tickets with what else was measured.
Learning rates are chosen on the validation tickets, by the same number of trials for every method and size. `make
runs` records what is missing; it resumes where it was stopped.
"""

import torch

from . import corpora
from .classification import LabelTask
from .evaluation import Accuracy, accuracy, rank_holding, training_bytes
from .lora import add_lora
from .models import load_base
from .runs import Run, best_on_validation, load_runs, record
from .session import seed_everything
from .training import fit

RANKS = (8, 1, 64)
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA_RATES = (1e-3, 2e-3, 4e-3)
FULL_RATES = (2e-5, 5e-5, 1e-4)
SEEDS = (0, 1)
FULL_SEEDS = (0,)  # one run takes seven minutes: the line of full fine-tuning is a single seed
SPECTRUM_OF = "model.layers.{}.self_attn.q_proj"


def tickets_task(tokenizer, labels: list[str] | None = None) -> LabelTask:
    """The tickets' intents (or labels of your own) as the words that the model is to say, all named in the prompt."""
    labels = labels or corpora.INTENTS
    words = [corpora.WORDS.get(name, name) for name in labels]
    template = f"Topics: {', '.join(words)}.\nTicket: {{text}}\nTopic:"
    return LabelTask(tokenizer, labels, words, template=template)


def _score(model, task: LabelTask, split: str) -> Accuracy:
    rows = corpora.tickets(split)
    return accuracy(model, task, rows["text"], rows["intent"])


def _train_and_score(
    model, tokenizer, *, learning_rate: float, steps: int, batch_size: int, seed: int
) -> dict:
    task = tickets_task(tokenizer)
    rows = corpora.tickets("train")
    batches = task.training_batches(
        rows["text"], rows["intent"], steps=steps, batch_size=batch_size, seed=seed
    )
    history = fit(model, batches, learning_rate=learning_rate)
    validation = _score(model, task, "validation")
    scores = {"score": _score(model, task, "test"), "validation": validation.value}
    return scores | history.results() | {"bytes": training_bytes(model)}


def zero_shot() -> dict:
    """The base model as it comes, asked for the topic."""
    model, tokenizer = load_base()
    task = tickets_task(tokenizer)
    return {"score": _score(model, task, "test"), "validation": _score(model, task, "validation").value}


def lora(r: int, alpha: float, targets: list[str], seed: int, **training) -> dict:
    """LoRA on the tickets' intents. training: learning_rate, steps, batch_size."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_lora(model, targets, r=r, alpha=alpha)
    return _train_and_score(model, tokenizer, seed=seed, **training)


def full_fine_tuning(seed: int, **training) -> dict:
    """All weights trained in float32 (bfloat16 weights would swallow the small steps); the spectrum of what changed."""
    seed_everything(seed)
    model, tokenizer = load_base(dtype=torch.float32)
    before = {
        name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("q_proj.weight")
    }
    results = _train_and_score(model, tokenizer, seed=seed, **training)
    updates = {
        name.removesuffix(".weight"): p.detach() - before[name]
        for name, p in model.named_parameters()
        if name in before
    }
    values = {name: torch.linalg.svdvals(update) for name, update in updates.items()}
    kept = [SPECTRUM_OF.format(layer) for layer in (0, 15, 29)]
    results["spectrum"] = {name: [float(f"{value:.4g}") for value in values[name]] for name in kept}
    results["rank_90"] = {name: rank_holding(value.tolist(), 0.9) for name, value in values.items()}
    return results


def word_counts() -> dict:
    """The baseline that any language model has to beat: TF-IDF and logistic regression, C chosen on validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    train, validation, test = (corpora.tickets(split) for split in corpora.SPLITS)

    def fitted(C):
        counts = make_union(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
            TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5)),
        )
        return make_pipeline(counts, LogisticRegression(C=C, max_iter=2000)).fit(
            train["text"], train["intent"]
        )

    models = [fitted(C) for C in (1, 10, 100)]
    scores = [model.score(validation["text"], validation["intent"]) for model in models]
    best = models[scores.index(max(scores))]
    predictions = [int(label) for label in best.predict(test["text"])]
    return {"score": Accuracy(predictions, list(test["intent"])), "validation": max(scores)}


# --- which runs are recorded -----------------------------------------------------------------------------------------

MODULE = "lessonlib.experiments"
LORA = {"targets": ALL_LINEAR, "steps": 120, "batch_size": 8}
FULL = {"steps": 120, "batch_size": 8}


def best_rate(experiment: str, **settings) -> float:
    """The learning rate with the best validation accuracy among the recorded trials (seed 0)."""
    return best_on_validation(load_runs(experiment, seed=0, **settings)).settings["learning_rate"]


def chosen(experiment: str, **settings) -> list[Run]:
    """The recorded runs, all seeds, at the learning rate that won on validation."""
    return load_runs(experiment, learning_rate=best_rate(experiment, **settings), **settings)


def rank_runs() -> list[Run]:
    """The rank sweep of notebook 07: three seeds a rank, each rank at its own best learning rate."""
    return [run for r in RANKS for run in chosen("lora", r=r, **LORA)]


def targets(run: Run) -> list[int]:
    """The right answers of a recorded run, read anew from the test tickets."""
    return list(corpora.tickets("test")["intent"])


def record_all() -> None:
    """Record every run that the notebooks draw from and that is not there yet."""
    record(f"{MODULE}:zero_shot")
    record(f"{MODULE}:word_counts")
    for r in RANKS:
        for rate in LORA_RATES:
            record(f"{MODULE}:lora", r=r, alpha=2 * r, learning_rate=rate, seed=0, **LORA)
    for rate in FULL_RATES:
        record(f"{MODULE}:full_fine_tuning", learning_rate=rate, seed=0, **FULL)
    for seed in SEEDS[1:]:
        for r in RANKS:
            rate = best_rate("lora", r=r, **LORA)
            record(f"{MODULE}:lora", r=r, alpha=2 * r, learning_rate=rate, seed=seed, **LORA)
    for seed in FULL_SEEDS[1:]:
        rate = best_rate("full_fine_tuning", **FULL)
        record(f"{MODULE}:full_fine_tuning", learning_rate=rate, seed=seed, **FULL)
