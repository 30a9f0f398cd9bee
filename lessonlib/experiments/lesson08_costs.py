"""The experiments of notebook 08 on what a way costs: counted bytes of a step, the time of a step and of an answer.

Times are measured in turns with what they are compared to, in one process; nothing else should run beside it.
"""

from collections.abc import Callable

import torch
from torch import nn

from lessonlib import corpora
from lessonlib.evaluation import Accuracy, SavedTensors, accuracy, paired_times, training_bytes
from lessonlib.lora import merge_lora
from lessonlib.models import load_base
from lessonlib.prompting import score_labels
from lessonlib.runs import Run, load_runs
from lessonlib.training import seed_everything, trainable_parameters
from lessonlib.training.labels import Batch, LabelTask, label_logits, label_loss

from .lesson08_methods import CUT, PROMPTED, TRAINED, few_shot_prompt, intent_task, record_prompts, shots
from .registry import experiment, record
from .tickets import test_intents

ANSWERED = 8  # texts whose answers are timed


@experiment(right_answers=test_intents)
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


@experiment(right_answers=test_intents)
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
    predictions = answers(prompt, test["text"]).argmax(-1).tolist()
    return {
        "score": Accuracy(predictions, list(test["intent"])),
        "trainable": 0,
        "bytes": training_bytes(model),
        "prompt_tokens": prompt.tokens(tokenizer),
        "answer_time": {"as prompted": _in_turns(ways, "base", rounds)},
    }


# --- which runs are recorded -----------------------------------------------------------------------------------------

ROUNDS = 5  # of what is timed in turns


def costs(method: str) -> Run:
    """The recorded run that says what a way costs."""
    if method in PROMPTED:
        return load_runs("what_a_prompt_costs", shots=shots(method), rounds=ROUNDS)[0]
    return load_runs("what_it_costs", method=method, rounds=ROUNDS)[0]


def record_all() -> None:
    """Record what each way costs and is not there yet, behind as many examples as the prompts' runs have chosen."""
    record_prompts()
    for method in TRAINED:
        record("what_it_costs", method=method, rounds=ROUNDS)
    for count in sorted({shots(method) for method in PROMPTED[1:]}):
        record("what_a_prompt_costs", shots=count, rounds=ROUNDS)
