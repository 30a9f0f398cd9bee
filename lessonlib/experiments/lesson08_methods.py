"""The head-to-head of notebook 08: eight ways to sort the same tickets, each given the same effort.

One prompt for all. Each way has one dial, tried at three settings on the validation tickets, with all training tickets
and seed 0: the number of examples for a prompt, the learning rate for what trains. Then three seeds at the setting that
won. Every trained way takes the same batches, as many steps, and the same warm-up and decay. Training tickets are cut
to 80 tokens, so that a step takes half the time; test tickets are read whole.

Beside the score, a run holds what the model can still do elsewhere: its perplexity on texts that have nothing to do
with tickets, and another question about the tickets, which it was not trained on. What a way costs (counted bytes of a
step, the time of a step and of an answer) is a run of its own, measured in turns with what it is compared to.

`python -m lessonlib.experiments lesson08_methods` records what is missing; it resumes where it was stopped.
"""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lessonlib import corpora
from lessonlib.adapters import add_adapters
from lessonlib.evaluation import Accuracy, SavedTensors, accuracy, paired_times, training_bytes
from lessonlib.lora import add_lora, merge_lora
from lessonlib.models import load_base
from lessonlib.prompting import CONTENT_FREE, FewShotPrompt, calibrate, score_labels
from lessonlib.prompting.soft_prompts import add_prefix, add_prompt
from lessonlib.pruning.language_model import perplexity, text_windows
from lessonlib.runs import Run, best_on_validation, load_runs
from lessonlib.training import fit, seed_everything, trainable_parameters
from lessonlib.training.labels import Batch, LabelTask, label_logits, label_loss
from lessonlib.training.master_weights import MasterAdamW

from .lesson02_in_context import FORMS, WORDS, balanced_draw
from .lesson03_prompts import sentiment_tickets
from .registry import experiment, record
from .tickets import ALL_LINEAR
from .trials import best_rate

FORM = "message, topics named"  # what notebook 02 chose on validation tickets
TEMPLATE = f"{FORMS[FORM]['instruction']}\n\n{FORMS[FORM]['template']}"
START = "Sort the customer's support ticket by its topic. Topic:"
ALL = 661  # training tickets
CUT = 80  # tokens of a training ticket with its prompt
VALIDATION = 100  # tickets on which a setting is chosen
ANSWERED = 8  # texts whose answers are timed


def _labels_under_condition(run: Run) -> list[int]:
    return list(corpora.tickets("test")[_column(run.settings.get("condition", ""))])


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


def elsewhere(model: nn.Module, tokenizer) -> dict:
    """Perplexity on other texts, and the share of right answers to "negative or positive?" on tickets."""
    task = LabelTask(tokenizer, ["negative", "positive"], template="Ticket: {text}\nSentiment:")
    asked = [sentiment_tickets(split) for split in ("validation", "test")]
    texts, targets = ([row for part in parts for row in part] for parts in zip(*asked))
    found = accuracy(model, task, texts, targets)
    return {
        "perplexity": round(perplexity(model, text_windows(tokenizer, other_texts()), batch_size=4), 3),
        "sentiment": found.value,
        "sentiment_n": found.n,
    }


# --- what it costs ---------------------------------------------------------------------------------------------------


@experiment(right_answers=_labels_under_condition)
def what_it_costs(method: str, rounds: int) -> dict:
    """Counted bytes of one step, and times in turns: of a step as a multiple of LoRA's, of an answer as the base's.

    Times are [median, low, high]; the texts are the eight longest training tickets, cut, and eight test tickets. The
    score is that of the way before it has learnt anything.
    """
    seed_everything(0)
    model, tokenizer = load_base()
    TRAINED[method].build(model, tokenizer)
    beside, _ = load_base()
    TRAINED["LoRA"].build(beside, tokenizer)
    batch = longest(intent_task(tokenizer, CUT)).to(next(model.parameters()).device)
    steps = {"LoRA": _step(beside, batch, "LoRA"), "method": _step(model, batch, method)}
    step_time = _in_turns(steps, "LoRA", rounds)
    test = corpora.tickets("test").select(range(ANSWERED * 8))
    return {
        "score": accuracy(model, intent_task(tokenizer), test["text"], test["intent"]),
        "trainable": sum(p.numel() for p in trainable_parameters(model)),
        "bytes": step_bytes(model, batch, method),
        "step_time": step_time,
        "answer_time": _answer_times(model, tokenizer, method, rounds),
    }


def longest(task: LabelTask) -> Batch:
    """The eight longest training tickets."""
    rows = sorted(corpora.tickets("train"), key=lambda row: -len(row["text"]))[:8]
    return task.batch([task.encode(row["text"]) for row in rows], [row["intent"] for row in rows])


def _still(model: nn.Module, method: str) -> torch.optim.Optimizer:
    """The way's optimizer at a learning rate of zero: nothing moves."""
    return TRAINED[method].optimizer(trainable_parameters(model), lr=0.0)


def _step(model: nn.Module, batch: Batch, method: str) -> Callable:
    """A training step, whole, that moves nothing."""
    optimizer = _still(model, method)

    def step():
        label_loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_bytes(model: nn.Module, batch: Batch, method: str) -> dict[str, int]:
    """Counted bytes of a training step that moves nothing."""
    optimizer = _still(model, method)
    with SavedTensors(model) as saved:
        loss = label_loss(model, batch)
    loss.backward()
    optimizer.step()
    counted = training_bytes(model, optimizer) | {"activations": saved.bytes}
    optimizer.zero_grad()
    return counted


def _in_turns(ways: dict[str, Callable], to: str, rounds: int) -> list[float]:
    times = paired_times(ways, rounds=rounds, warmup=1)
    return [round(x, 3) for x in times.ratio("method", to)]


@torch.no_grad()
def _answer_times(model, tokenizer, method: str, rounds: int) -> dict[str, list[float]]:
    base, _ = load_base()
    rows = corpora.tickets("test").select(range(ANSWERED))
    task = intent_task(tokenizer)
    (batch,), _ = task.evaluation_batches(rows["text"], rows["intent"], batch_size=ANSWERED)
    batch = batch.to(base.device)
    ways = {"base": lambda: label_logits(base, batch), "method": lambda: label_logits(model, batch)}
    as_trained = _in_turns(ways, "base", rounds)
    if method != "LoRA":
        return {"as trained": as_trained}
    merge_lora(model)
    return {"as trained": as_trained, "merged": _in_turns(ways, "base", rounds)}


@experiment(right_answers=_labels_under_condition)
def what_a_prompt_costs(shots: int, rounds: int) -> dict:
    """The time of an answer behind so many examples as a multiple of the bare prompt's, in turns: [median, low, high].

    The examples' keys and values are computed anew for each eight tickets.
    """
    model, tokenizer = load_base()
    test, prompt = corpora.tickets("test").select(range(ANSWERED * 8)), few_shot_prompt(shots, 0)

    def answers(one, texts):
        queries = [one.query(text) for text in texts]
        return score_labels(model, tokenizer, one.prefix, queries, one.endings)

    bare, eight = few_shot_prompt(0, 0), test["text"][:ANSWERED]
    ways = {"base": lambda: answers(bare, eight), "method": lambda: answers(prompt, eight)}
    said = answers(prompt, test["text"]).argmax(-1).tolist()
    return {
        "score": Accuracy(said, list(test["intent"])),
        "trainable": 0,
        "bytes": training_bytes(model),
        "prompt_tokens": prompt.tokens(tokenizer),
        "answer_time": {"as prompted": _in_turns(ways, "base", rounds)},
    }


# --- the eight -------------------------------------------------------------------------------------------------------


@experiment(right_answers=_labels_under_condition)
def head_to_head(
    method: str, examples: int, learning_rate: float, seed: int, steps: int, batch_size: int
) -> dict:
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
    return scores | {"elsewhere": elsewhere(model, tokenizer)} | history.results()


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


@experiment(right_answers=_labels_under_condition)
def head_to_head_prompts(method: str, shots: int, seed: int) -> dict:
    """One of the `PROMPTED` ways: nothing trains."""
    model, tokenizer = load_base()
    model.set_attn_implementation("sdpa")
    scored = _prompt_scores(shots, seed)
    said = {split: _read(method, scores) for split, scores in scored.items()}
    results = {
        "score": Accuracy(said["test"], list(corpora.tickets("test")["intent"])),
        "validation": Accuracy(said["validation"], list(_validation()["intent"])).value,
        "trainable": 0,
        "prompt_tokens": few_shot_prompt(shots, seed).tokens(tokenizer),
    }
    return results | ({"elsewhere": elsewhere(model, tokenizer)} if method == "zero-shot" else {})


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

CONDITIONS = ("another task", "a quarter of the labels wrong", "a third of the base's layers gone")


@experiment(right_answers=_labels_under_condition)
def gap(condition: str, method: str, learning_rate: float, seed: int, steps: int, batch_size: int) -> dict:
    """LoRA or full fine-tuning with one thing changed: the task (urgency), the labels, or the base."""
    if condition not in CONDITIONS:
        raise ValueError(f"condition is {condition!r}; expected one of {', '.join(CONDITIONS)}")
    seed_everything(seed)
    model, tokenizer = load_base()
    column = _column(condition)
    make, rows = (urgency_task if column == "urgency" else intent_task), corpora.tickets("train")
    labels = list(rows[column])
    if condition == "a quarter of the labels wrong":
        labels = spoiled(labels, 0.25, seed)
    elif condition == "a third of the base's layers gone":
        shorten(model)
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


def spoiled(labels: Sequence[int], share: float, seed: int) -> list[int]:
    """The labels with a share of them, drawn by the seed, changed to another one.

    >>> sum(a != b for a, b in zip([0, 1, 2, 3] * 5, spoiled([0, 1, 2, 3] * 5, 0.25, seed=0)))
    5
    """
    rng, out, kinds = random.Random(seed), list(labels), sorted(set(labels))
    for row in rng.sample(range(len(out)), round(share * len(out))):
        out[row] = rng.choice([kind for kind in kinds if kind != out[row]])
    return out


def shorten(model: nn.Module) -> nn.Module:
    """The model without the last third of its layers: a base that knows less."""
    layers = model.get_decoder().layers
    del layers[len(layers) - len(layers) // 3 :]
    model.config.num_hidden_layers = len(layers)
    return model


# --- which runs are recorded -----------------------------------------------------------------------------------------

TRAINING = {"steps": 40, "batch_size": 8}  # 320 tickets are shown
ROUNDS = 5  # of what is timed in turns
SEEDS = (0, 1, 2)
SIZES = (10, 30, 100, 300, ALL)
MAIN = ("LoRA", "full fine-tuning")  # measured at every size, and trained longer
LONGER, LONGER_SEEDS = {"steps": 120, "batch_size": 8}, (0, 1)
UNCHANGED, LONGER_NAME = "as it was", "three times as many steps"


def rate(method: str, training: dict = TRAINING) -> float:
    """The learning rate that won on validation with all training tickets."""
    return best_rate("head_to_head", method=method, examples=ALL, **training)


def shots(method: str) -> int:
    """The number of examples that won on validation."""
    return best_on_validation(load_runs("head_to_head_prompts", method=method, seed=0)).settings["shots"]


def chosen(method: str, examples: int = ALL, training: dict = TRAINING) -> list[Run]:
    """A way's recorded runs, all seeds, at the setting that won; for a prompt the size means nothing."""
    if method in PROMPTED:
        return load_runs("head_to_head_prompts", method=method, shots=shots(method))
    best = rate(method, training)
    return load_runs("head_to_head", method=method, examples=examples, learning_rate=best, **training)


def under(condition: str, method: str) -> list[Run]:
    """A main way's runs with one thing changed, all seeds: one of `CONDITIONS`, `LONGER_NAME`, or `UNCHANGED`."""
    if condition in CONDITIONS:
        return load_runs("gap", condition=condition, method=method)
    return chosen(method, training=LONGER if condition == LONGER_NAME else TRAINING)


def costs(method: str) -> Run:
    """The recorded run that says what a way costs."""
    if method in PROMPTED:
        return load_runs("what_a_prompt_costs", shots=shots(method), rounds=ROUNDS)[0]
    return load_runs("what_it_costs", method=method, rounds=ROUNDS)[0]


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


def _record_one(
    method: str, examples: int, learning_rate: float, seed: int, training: dict = TRAINING
) -> None:
    settings = {"learning_rate": learning_rate, "seed": seed, **training}
    record("head_to_head", method=method, examples=examples, **settings)


def record_gap(methods: Sequence[str] = MAIN) -> None:
    """Record what moves the gap, at the learning rates of the head-to-head."""
    for seed in SEEDS:
        for condition in CONDITIONS:
            for method in methods:
                settings = {"learning_rate": rate(method), "seed": seed, **TRAINING}
                record("gap", condition=condition, method=method, **settings)


def record_costs() -> None:
    """Record what each way costs. Nothing else should run beside it."""
    for method in TRAINED:
        record("what_it_costs", method=method, rounds=ROUNDS)
    for count in sorted({shots(method) for method in PROMPTED[1:]}):
        record("what_a_prompt_costs", shots=count, rounds=ROUNDS)


def record_all() -> None:
    """Record every run that notebook 08 draws from and that is not there yet."""
    record_prompts()
    record_trials(tuple(TRAINED))
    record_longer()
    record_sizes()
    record_gap()
    record_costs()
