"""The head-to-head of notebook 08: eight ways to sort the same tickets, each given the same effort.

One prompt for all. Each way has one dial, tried at three settings on the validation tickets, with all training tickets
and seed 0: the number of examples for a prompt, the learning rate for what trains. Then three seeds at the setting that
won. Every trained way takes the same batches, as many steps, and the same warm-up and decay. Training tickets are cut
to 80 tokens, so that a step takes half the time; test tickets are read whole.

Beside the score, a run holds what the model can still do elsewhere: its perplexity on texts that have nothing to do
with tickets, and another question about the tickets, which it was not trained on. What a way costs stands in
lesson08_costs, what moves the gap between LoRA and full fine-tuning in lesson08_gap.

`python -m lessonlib.experiments lesson08_methods` records what is missing; it resumes where it was stopped.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lessonlib import corpora
from lessonlib.adapters import add_adapters
from lessonlib.evaluation import Accuracy, accuracy
from lessonlib.lora import add_lora
from lessonlib.models import load_base
from lessonlib.prompting import CONTENT_FREE, FewShotPrompt, calibrate, score_labels
from lessonlib.prompting.soft_prompts import add_prefix, add_prompt
from lessonlib.pruning.language_model import perplexity, text_windows
from lessonlib.runs import Run, load_runs
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import LabelTask
from lessonlib.training.master_weights import MasterAdamW

from .lesson02_in_context import FORMS, WORDS, balanced_draw
from .lesson03_prompts import sentiment_tickets
from .registry import experiment, record
from .tickets import ALL_LINEAR, test_intents
from .trials import best, best_rate

FORM = "message, topics named"  # what notebook 02 chose on validation tickets
TEMPLATE = f"{FORMS[FORM]['instruction']}\n\n{FORMS[FORM]['template']}"
START = "Sort the customer's support ticket by its topic. Topic:"
ALL = 661  # training tickets
CUT = 80  # tokens of a training ticket with its prompt
VALIDATION = 100  # tickets on which a setting is chosen


@dataclass(frozen=True)
class Trained:
    """A way to train: what it puts into the model, the learning rates that are tried, and what moves the weights."""

    build: Callable
    rates: tuple[float, ...]
    optimizer: Callable = torch.optim.AdamW


def _prompt(model, tokenizer):
    add_prompt(model, 16, tokenizer(START).input_ids)


def _prefix(model, tokenizer):
    add_prefix(model, 16, tokenizer(START).input_ids)


def _adapter(model, tokenizer):
    add_adapters(model, 32)  # as many parameters as LoRA has, to a tenth


def _lora(model, tokenizer):
    add_lora(model, ALL_LINEAR, r=8, alpha=16)


def _everything(model, tokenizer):
    model.requires_grad_(True)


TRAINED = {
    "prompt tuning": Trained(_prompt, (1e-2, 3e-2, 1e-1)),
    "prefix tuning": Trained(_prefix, (3e-3, 1e-2, 3e-2)),
    "adapter": Trained(_adapter, (1e-3, 2e-3, 4e-3)),
    "LoRA": Trained(_lora, (1e-3, 2e-3, 4e-3)),
    # float32 masters: in bfloat16 weights alone the small steps would vanish.
    "full fine-tuning": Trained(_everything, (5e-5, 1e-4, 2e-4), MasterAdamW),
}
PROMPTED = ("zero-shot", "few-shot", "calibrated")
SHOTS = (1, 2, 4)
METHODS = (*PROMPTED, *TRAINED)


def intent_task(tokenizer, max_tokens: int = 160) -> LabelTask:
    """The tickets' topics behind the prompt that all ways share."""
    return LabelTask(tokenizer, corpora.INTENTS, WORDS, template=TEMPLATE, max_tokens=max_tokens)


def urgency_task(tokenizer, max_tokens: int = 160) -> LabelTask:
    """Another question about the same tickets."""
    template = "Ticket: {text}\nUrgency:"
    return LabelTask(tokenizer, corpora.URGENCIES, template=template, max_tokens=max_tokens)


def training_rows(examples: int, seed: int) -> list[int]:
    """Row numbers of so many training tickets, no topic once more than another; `ALL` takes every one."""
    if examples == ALL:
        return list(range(ALL))
    return balanced_draw(corpora.tickets("train")["intent"], examples, seed)


# --- what else a model can do ----------------------------------------------------------------------------------------


def other_texts() -> list[str]:
    """Short texts of general knowledge, in plain English: questions with their reasoning, none about a ticket."""
    rows = [row for kind in ("factual", "commonsense") for row in corpora.reasoning(kind)]
    return [f"{row['question']} {row['chain']}" for row in rows]


def off_task(model: nn.Module, tokenizer) -> dict:
    """Perplexity on other texts, and the share of right answers to "negative or positive?" on tickets."""
    task = LabelTask(tokenizer, ["negative", "positive"], template="Ticket: {text}\nSentiment:")
    asked = [sentiment_tickets(split) for split in ("validation", "test")]
    texts, targets = ([row for part in parts for row in part] for parts in zip(*asked))
    sentiment = accuracy(model, task, texts, targets)
    return {
        "perplexity": round(perplexity(model, text_windows(tokenizer, other_texts()), batch_size=4), 3),
        "sentiment": sentiment.value,
        "sentiment_n": sentiment.n,
    }


# --- the eight -------------------------------------------------------------------------------------------------------


@experiment(right_answers=test_intents)
def head_to_head(method: str, examples: int, learning_rate: float, seed: int, steps: int, batch_size: int) -> dict:
    """One of the `TRAINED` ways, on so many training tickets."""
    seed_everything(seed)
    model, tokenizer = load_base()
    TRAINED[method].build(model, tokenizer)
    rows = corpora.tickets("train").select(training_rows(examples, seed))
    batches = intent_task(tokenizer, CUT).training_batches(
        rows["text"], rows["intent"], steps=steps, batch_size=batch_size, seed=seed
    )
    history = fit(model, batches, learning_rate=learning_rate, optimizer=TRAINED[method].optimizer)
    scores = _scores(model, intent_task(tokenizer))
    return scores | {"elsewhere": off_task(model, tokenizer)} | history.results()


def _validation():
    return corpora.tickets("validation").select(range(VALIDATION))


def _scores(model, task: LabelTask) -> dict:
    validation, test = _validation(), corpora.tickets("test")
    return {
        "score": accuracy(model, task, test["text"], test["intent"]),
        "validation": accuracy(model, task, validation["text"], validation["intent"]).value,
    }


def few_shot_prompt(shots: int, seed: int) -> FewShotPrompt:
    """The shared prompt behind so many training tickets with their topics; the seed draws them."""
    rows = corpora.tickets("train").select(training_rows(shots, seed))
    shown = [(text, WORDS[label]) for text, label in zip(rows["text"], rows["intent"])]
    return FewShotPrompt(WORDS, shown, **FORMS[FORM])


@experiment(right_answers=test_intents)
def head_to_head_prompts(method: str, shots: int, seed: int) -> dict:
    """One of the `PROMPTED` ways: nothing trains."""
    model, tokenizer = load_base()
    model.set_attn_implementation("sdpa")
    scored = _prompt_scores(shots, seed)
    predictions = {split: _read(method, scores) for split, scores in scored.items()}
    results = {
        "score": Accuracy(predictions["test"], list(corpora.tickets("test")["intent"])),
        "validation": Accuracy(predictions["validation"], list(_validation()["intent"])).value,
        "trainable": 0,
        "prompt_tokens": few_shot_prompt(shots, seed).tokens(tokenizer),
    }
    return results | ({"elsewhere": off_task(model, tokenizer)} if method == "zero-shot" else {})


@functools.cache
def _prompt_scores(shots: int, seed: int) -> dict[str, torch.Tensor]:
    """Log-probabilities of the topics behind each ticket of both splits, and behind the inputs without content."""
    model, tokenizer = load_base()
    model.set_attn_implementation("sdpa")  # the same numbers in half the time
    prompt = few_shot_prompt(shots, seed)
    scores = {}
    for split, rows in (("validation", _validation()), ("test", corpora.tickets("test"))):
        queries = [prompt.query(text) for text in [*rows["text"], *CONTENT_FREE]]
        scores[split] = score_labels(model, tokenizer, prompt.prefix, queries, prompt.endings)
    return scores


def _read(method: str, scores: torch.Tensor) -> list[int]:
    tickets, empty = scores[: -len(CONTENT_FREE)], scores[-len(CONTENT_FREE) :]
    return (calibrate(tickets, empty) if method == "calibrated" else tickets).argmax(-1).tolist()


# --- what moves the gap between LoRA and full fine-tuning --------------------------------------------------------------

# --- which runs are recorded -----------------------------------------------------------------------------------------

TRAINING = {"steps": 40, "batch_size": 8}  # 320 tickets are shown
SEEDS = (0, 1, 2)
SIZES = (10, 30, 100, 300, ALL)
MAIN = ("LoRA", "full fine-tuning")  # measured at every size, and trained longer
LONGER, LONGER_SEEDS = {"steps": 120, "batch_size": 8}, (0, 1)


def rate(method: str, training: dict = TRAINING) -> float:
    """The learning rate that won on validation with all training tickets."""
    return best_rate("head_to_head", method=method, examples=ALL, **training)


def shots(method: str) -> int:
    """The number of examples that won on validation."""
    return best("shots", "head_to_head_prompts", method=method)


def chosen(method: str, examples: int = ALL, training: dict = TRAINING) -> list[Run]:
    """A way's recorded runs, all seeds, at the setting that won; for a prompt the size means nothing."""
    if method in PROMPTED:
        return load_runs("head_to_head_prompts", method=method, shots=shots(method))
    best = rate(method, training)
    return load_runs("head_to_head", method=method, examples=examples, learning_rate=best, **training)


def record_prompts() -> None:
    """Record what needs no training."""
    name = "head_to_head_prompts"
    record(name, method="zero-shot", shots=0, seed=0)
    for count in SHOTS:
        for method in PROMPTED[1:]:  # the second reads what the first has scored
            record(name, method=method, shots=count, seed=0)
    for method in PROMPTED[1:]:
        for seed in SEEDS[1:]:
            record(name, method=method, shots=shots(method), seed=seed)


def record_trials(methods: Sequence[str]) -> None:
    """Record each way's learning rates, then the other seeds of the one that won."""
    for method in methods:
        for learning_rate in TRAINED[method].rates:
            _record_one(method, ALL, learning_rate, seed=0)
        for seed in SEEDS[1:]:
            _record_one(method, ALL, rate(method), seed)


def record_longer(methods: Sequence[str] = MAIN) -> None:
    """Record the long runs: the rate that won when they were short and the next lower one, then the other seeds."""
    for method in methods:
        rates = TRAINED[method].rates
        best = rates.index(rate(method))
        for learning_rate in rates[max(best - 1, 0) : best + 1]:
            _record_one(method, ALL, learning_rate, 0, LONGER)
        for seed in LONGER_SEEDS[1:]:
            _record_one(method, ALL, rate(method, LONGER), seed, LONGER)


def record_sizes(methods: Sequence[str] = MAIN) -> None:
    """Record the smaller sizes, at the learning rate that won with all tickets."""
    for seed in SEEDS:
        for method in methods:
            for examples in SIZES[:-1]:
                _record_one(method, examples, rate(method), seed)


def _record_one(method: str, examples: int, learning_rate: float, seed: int, training: dict = TRAINING) -> None:
    settings = {"learning_rate": learning_rate, "seed": seed, **training}
    record("head_to_head", method=method, examples=examples, **settings)


def record_all() -> None:
    """Record every run of the head-to-head that is not there yet."""
    record_prompts()
    record_trials(tuple(TRAINED))
    record_longer()
    record_sizes()
