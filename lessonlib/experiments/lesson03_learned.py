"""The experiments of notebook 03 on learned prompts: prompt tuning and prefix tuning on the tickets' intents."""

import itertools

from lessonlib import corpora
from lessonlib.evaluation import accuracy, training_bytes
from lessonlib.models import load_base
from lessonlib.prompting.soft_prompts import Prefix, SoftPrompt, add_prefix, add_prompt
from lessonlib.training import fit, seed_everything

from .registry import experiment, record
from .tickets import test_intents, tickets_task
from .trials import best_rate

START = "Sort the customer's support ticket by its topic. Topic:"


TOKENS = 16


STEPS = {"tokens": TOKENS, "steps": 40, "batch_size": 8}


LONG = STEPS | {"steps": 120}


RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


SEEDS = (0, 1)


def _learned(model, tokenizer, *, learning_rate: float, steps: int, batch_size: int, seed: int) -> dict:
    task, rows = tickets_task(tokenizer), corpora.tickets("train")
    batches = task.training_batches(rows["text"], rows["intent"], steps=steps, batch_size=batch_size, seed=seed)
    history = fit(model, batches, learning_rate=learning_rate)
    scores = {}
    for split in ("validation", "test"):
        asked = corpora.tickets(split)
        scores[split] = accuracy(model, task, asked["text"], asked["intent"])
    results = {"score": scores["test"], "validation": scores["validation"].value}
    return results | history.results() | {"bytes": training_bytes(model)}


@experiment(right_answers=test_intents)
def prompt_tuning(tokens: int, learning_rate: float, steps: int, batch_size: int, seed: int) -> dict:
    """Prompt tuning on the tickets' intents, from the embeddings of a sentence about the task."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_prompt(model, tokens, tokenizer(START).input_ids, module=SoftPrompt)
    return _learned(model, tokenizer, learning_rate=learning_rate, steps=steps, batch_size=batch_size, seed=seed)


@experiment(right_answers=test_intents)
def prefix_tuning(
    tokens: int, learning_rate: float, steps: int, batch_size: int, seed: int, start: str = "text"
) -> dict:
    """Prefix tuning on the tickets' intents, from the keys and values of a sentence ("text") or from noise ("random")."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_prefix(model, tokens, tokenizer(START).input_ids if start == "text" else None, module=Prefix)
    return _learned(model, tokenizer, learning_rate=learning_rate, steps=steps, batch_size=batch_size, seed=seed)


# --- which runs are recorded -----------------------------------------------------------------------------------------


def record_all() -> None:
    """Record the learned prompts: five learning rates each on validation; at the best another seed, and more steps."""
    names = ("prompt_tuning", "prefix_tuning")
    for rate, name in itertools.product(RATES, names):
        record(name, learning_rate=rate, seed=0, **STEPS)
    for name in names:
        rate = best_rate(name, **STEPS)
        for seed in SEEDS[1:]:
            record(name, learning_rate=rate, seed=seed, **STEPS)
        record(name, learning_rate=rate, seed=0, **LONG)
