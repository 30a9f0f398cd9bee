"""The experiments of notebook 10: three experts over one base, made one, chosen among by a router, or stacked.

Each expert is a small adapter for one question about the tickets (intent, sentiment, urgency), trained on the shorter
ones, as in notebook 06. All ways are scored on the same three questions about the same test tickets, so that each has
one answer more for each question and ticket; the learning rate is chosen on validation tickets.
`python -m lessonlib.experiments lesson10_deployment` records what is missing; it resumes where it was stopped.
"""

import random
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import nn

from lessonlib import corpora
from lessonlib.evaluation import Accuracy, label_logits_of_texts
from lessonlib.lora import add_lora
from lessonlib.lora.deltas import Deltas, bare_copy, deltas_of, put_deltas
from lessonlib.lora.merging import add_factors, merge_deltas, svd_merge, ties
from lessonlib.lora.stacking import forgetting, stack_lora
from lessonlib.models import load_base
from lessonlib.runs import Run, load_runs
from lessonlib.serving.bank import LoRABank
from lessonlib.serving.routing import Router, mean_hidden, mixing, train_router, wrong_expert_rate
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import Batch, LabelTask, label_logits

from .registry import experiment, record
from .tickets import TASKS, VALIDATION, short_tickets, ticket_task
from .trials import best_on_validation, best_rate

TESTED = 100  # test tickets; three questions about each
TARGETS = ("q_proj", "v_proj")

# How people ask for the three things; a router is trained on the first four of each and tested on the other two as well.
REQUESTS = {
    "intent": (
        "What is this message about?",
        "Which team should get this?",
        "Name the topic of this ticket.",
        "What does the customer want?",
        "Sort this into one of our subjects.",
        "Who in the company deals with this?",
    ),
    "sentiment": (
        "How does the writer feel?",
        "Is this customer happy with us?",
        "Name the mood of this message.",
        "Does this sound positive or negative?",
        "Tell me whether they are pleased or cross.",
        "What is the tone here?",
    ),
    "urgency": (
        "How soon do we have to answer?",
        "Can this wait until tomorrow?",
        "Name the urgency of this ticket.",
        "Is there a hurry?",
        "Should somebody look at this right now?",
        "What priority does it have?",
    ),
}
KNOWN = 4


# --- the three questions about a ticket ------------------------------------------------------------------------------


def _answers_of_requests(run: Run) -> list[int]:
    return right_answers()


def right_answers() -> list[int]:
    """The right answers to the three questions about the test tickets, one question after the other."""
    rows = corpora.tickets("test").select(range(TESTED))
    return [answer for task in TASKS for answer in rows[task]]


def answers(model: nn.Module, task: LabelTask, texts: Sequence[str]) -> list[int]:
    """The likeliest label of each text."""
    return label_logits_of_texts(model, task, texts).argmax(-1).tolist()


def all_answers(model: nn.Module, tokenizer) -> dict[str, list[int]]:
    """The model's answers to each of the three questions about the test tickets."""
    texts = corpora.tickets("test")["text"][:TESTED]
    return {name: answers(model, ticket_task(tokenizer, name), texts) for name in TASKS}


def scored(predictions: dict[str, list[int]]) -> Accuracy:
    """Answers to the three questions as one score."""
    return Accuracy([answer for task in TASKS for answer in predictions[task]], right_answers())


def by_task(predictions: dict[str, list[int]]) -> dict[str, Accuracy]:
    """Answers to the three questions about the test tickets, each scored by itself."""
    rows = corpora.tickets("test").select(range(TESTED))
    return {task: Accuracy(list(predictions[task]), list(rows[task])) for task in TASKS}


# --- training --------------------------------------------------------------------------------------------------------


def _batches(tokenizer, tasks: Sequence[str], seed: int, steps: int, batch_size: int) -> list[Batch]:
    """Batches of one question each; those of several questions are shuffled."""
    share = steps // len(tasks)
    settings = {"steps": share, "batch_size": batch_size, "seed": seed}
    batches = [b for t in tasks for b in ticket_task(tokenizer, t).training_batches(*short_tickets(t), **settings)]
    if len(tasks) > 1:
        random.Random(seed).shuffle(batches)
    return batches


def trained(tasks: Sequence[str], seed: int, *, r: int, learning_rate: float, steps: int, batch_size: int):
    """(model, tokenizer, history): one adapter trained on these questions."""
    model, tokenizer = load_base()
    seed_everything(seed)
    add_lora(model, TARGETS, r=r, alpha=2 * r)
    history = fit(model, _batches(tokenizer, tasks, seed, steps, batch_size), learning_rate=learning_rate)
    return model, tokenizer, history


@experiment(right_answers=_answers_of_requests)
def one_adapter(tasks: list[str], seed: int, **training) -> dict:
    """One adapter for these questions; all three are asked. training: r, learning_rate, steps, batch_size.

    `validation` is the accuracy on the questions that it was trained on.
    """
    model, tokenizer, history = trained(tasks, seed, **training)
    rows = corpora.tickets("validation").select(range(VALIDATION))
    tried = [answers(model, ticket_task(tokenizer, task), rows["text"]) for task in tasks]
    values = [Accuracy(a, list(rows[task])).value for task, a in zip(tasks, tried, strict=True)]
    predictions = all_answers(model, tokenizer)
    return {
        "score": scored(predictions),
        "said": predictions,
        "validation": sum(values) / len(values),
    } | history.results()


# --- experts: alone, merged, routed ----------------------------------------------------------------------------------

MERGES = {
    "average": merge_deltas,
    "sum": lambda experts: merge_deltas(experts, [1, 1, 1]),
    "intent weighs double": lambda experts: merge_deltas(experts, [0.5, 0.25, 0.25]),
    "SVD of the sum": lambda experts: svd_merge(experts, [1, 1, 1]),
    "TIES": lambda experts: ties(experts, density=0.2),
    "factors added": add_factors,
}


@experiment(right_answers=_answers_of_requests)
def experts(seed: int, **training) -> dict:
    """Three adapters, one a question. Each answers all three questions; so do their merges, and what a router makes of
    them. The score is the routed one's, for requests worded as the router was not trained on.
    """
    trio = {}
    for task in TASKS:
        model, tokenizer, _ = trained([task], seed, **training)
        trio[task] = deltas_of(model)
    base = load_base()[0]
    predictions = {f"expert on {task}": _with(base, adapter, tokenizer) for task, adapter in trio.items()}
    merged = {name: merge(list(trio.values())) for name, merge in MERGES.items()}
    predictions |= {name: _with(base, adapter, tokenizer) for name, adapter in merged.items()}
    ranks = {name: max(update.r for update in adapter.values()) for name, adapter in merged.items()}
    routed, routing = _routed(base, tokenizer, trio, predictions, seed)
    predictions |= routed
    return {
        "score": scored(predictions["router, new words"]),
        "said": predictions,
        "ranks": ranks,
        "routing": routing,
    }


def _with(base: nn.Module, adapter: Deltas, tokenizer) -> dict[str, list[int]]:
    return all_answers(put_deltas(bare_copy(base), adapter), tokenizer)


def request(task: str, wording: int, text: str) -> str:
    """What the router reads: somebody asks something about a ticket."""
    return f"{REQUESTS[task][wording]}\nTicket: {text}"


def request_features(model: nn.Module, tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """What the gate reads of each request: (texts, D), on the CPU, where the gate is."""
    device = next(model.parameters()).device
    rows = [
        tokenizer(texts[i : i + 25], return_tensors="pt", padding=True, truncation=True, max_length=160).to(device)
        for i in range(0, len(texts), 25)
    ]
    return torch.cat([mean_hidden(model, row.input_ids, row.attention_mask).cpu() for row in rows])


def requests_about(texts: Sequence[str], wordings: Sequence[int]) -> list[str]:
    """Each question about each text; the wordings take turns."""
    return [request(task, wordings[i % len(wordings)], text) for task in TASKS for i, text in enumerate(texts)]


def _routed(base, tokenizer, trio, predictions, seed) -> tuple[dict, dict]:
    """What the router's choice answers, and its soft mixture; and how often it chose another expert than was asked for."""
    texts = list(short_tickets()[0])[:TESTED]
    numbers = [number for number, _ in enumerate(TASKS) for _ in texts]
    seed_everything(seed)
    router = Router(base.config.hidden_size, len(TASKS))
    train_router(router, request_features(base, tokenizer, requests_about(texts, range(KNOWN))), numbers)
    test = corpora.tickets("test")["text"][:TESTED]
    wordings = {"known words": range(KNOWN), "new words": range(KNOWN, len(REQUESTS["intent"]))}
    routed, routing = {}, {}
    for name, chosen in wordings.items():
        h = request_features(base, tokenizer, requests_about(test, chosen))
        picks = router.pick(h)
        routing[name] = {"picks": picks, "wrong": list(wrong_expert_rate(picks, numbers))}
        routed[f"router, {name}"] = _of_the_picked(picks, predictions)
    routed["soft mixture, new words"] = _softly(base, tokenizer, trio, router.mix(h))
    return routed, routing


def _of_the_picked(picks: Sequence[int], predictions: dict) -> dict[str, list[int]]:
    """The answers of the expert that was picked for each question and ticket."""
    own = [predictions[f"expert on {task}"] for task in TASKS]
    rows = {task: picks[n * TESTED : (n + 1) * TESTED] for n, task in enumerate(TASKS)}
    return {task: [own[pick][task][i] for i, pick in enumerate(rows[task])] for task in TASKS}


@torch.no_grad()
def _softly(base, tokenizer, trio, weights: torch.Tensor) -> dict[str, list[int]]:
    """All experts at once, each with the gate's weight for this request."""
    bank = LoRABank(bare_copy(base), list(trio.values()))
    texts, mixed = corpora.tickets("test")["text"][:TESTED], {}
    for n, task in enumerate(TASKS):
        batches, order = ticket_task(tokenizer, task).evaluation_batches(texts, [0] * TESTED)
        own, done, predictions = weights[n * TESTED : (n + 1) * TESTED], 0, [0] * TESTED
        for batch in batches:
            rows = order[done : done + len(batch.last)]
            with mixing(bank, own[rows]) as model:
                for row, answer in zip(
                    rows, label_logits(model, batch.to(model.device)).argmax(-1).tolist(), strict=True
                ):
                    predictions[row] = answer
            done += len(rows)
        mixed[task] = predictions
    return mixed


# --- one task after another ------------------------------------------------------------------------------------------


@experiment(right_answers=_answers_of_requests)
def stacked_tasks(stack: bool, seed: int, r: int, learning_rate: float, steps: int, batch_size: int) -> dict:
    """The three questions learnt one after another: each with a fresh adapter on the frozen ones before it, or by one
    adapter that goes on training. After each, the questions so far are asked. The score is that of all three at the end.
    """
    model, tokenizer = load_base()
    seed_everything(seed)
    order, stages = list(TASKS), []
    texts = corpora.tickets("test")["text"][:TESTED]
    for index, task in enumerate(order):
        if stack or not index:
            stack_lora(model, TARGETS, r=r, alpha=2 * r)
        fit(model, _batches(tokenizer, [task], seed, steps, batch_size), learning_rate=learning_rate)
        stages.append({t: answers(model, ticket_task(tokenizer, t), texts) for t in order[: index + 1]})
    rows = corpora.tickets("test").select(range(TESTED))
    scores = [[Accuracy(stage[t], list(rows[t])).value for t in stage] for stage in stages]
    return {"score": scored(stages[-1]), "stages": stages, "scores": scores, "forgetting": forgetting(scores)}


def mean_scores(runs: Sequence[Run]) -> list[list[float]]:
    """Accuracies after each question was learnt, as stacked_tasks gives them, each the mean of the runs."""
    return [[fmean(of_one) for of_one in zip(*rows)] for rows in zip(*(run.results["scores"] for run in runs))]


# --- which runs are recorded -----------------------------------------------------------------------------------------

RATES = (3e-3, 8e-3)
SEEDS = (0, 1, 2)
MIXED_RATES = (1e-3, 3e-3)  # as many trials, for one adapter that learns three questions at once
TRAINING = {"r": 8, "steps": 40, "batch_size": 8}


def rate() -> float:
    """The learning rate of one expert that validation tickets chose."""
    return best_rate("one_adapter", tasks=["intent"], **TRAINING)


def mixed() -> Run:
    """The one adapter that was trained on all three questions, as many steps as three experts together, at the rate
    that validation chose."""
    return best_on_validation(load_runs("one_adapter", tasks=list(TASKS), seed=0))


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for each in RATES:
        record("one_adapter", tasks=["intent"], seed=0, learning_rate=each, **TRAINING)
    training = {"learning_rate": rate(), **TRAINING}
    record("experts", seed=0, **training)
    for seed in SEEDS:
        for stack in (True, False):
            record("stacked_tasks", stack=stack, seed=seed, **training)
    for each in MIXED_RATES:
        asked = training | {"learning_rate": each, "steps": len(TASKS) * TRAINING["steps"]}
        record("one_adapter", tasks=list(TASKS), seed=0, **asked)
