"""The lines of the report about data, answers and files; the model merged, and quantized."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lessonlib.corpora.duplicates import common_passage
from lessonlib.corpora.own import SPLITS
from lessonlib.corpora.table import shown
from lessonlib.display import written_aside
from lessonlib.lora import load_lora, merge_lora, remove_lora
from lessonlib.quantization.linear import to_four_bits
from lessonlib.quantization.qlora import model_bytes
from lessonlib.serving import release
from lessonlib.serving.report import Check
from lessonlib.training.labels import LabelTask

from .answers import BAD_INPUTS, Answers, InputRefused, OffTaskScores, Predictor, answer_seconds, ask
from .trials import Artifacts, best


def quality_checks(artifacts: Artifacts) -> list[Check]:
    """The lines about the data and about the answers to the test texts."""
    test, validation, sides = artifacts.test.accuracy, artifacts.validation.accuracy, artifacts.splits
    return [
        release.threshold_first(artifacts.goal.stated, best(artifacts.trials).ended),
        release.no_leak(sides["train"]["text"], [*sides["validation"]["text"], *sides["test"]["text"]]),
        release.quality_reached(test, artifacts.goal.value),
        release.better_than("the most frequent label", test, artifacts.floor["majority"].test),
        release.better_than("the base, zero-shot", test, artifacts.floor["zero-shot"].test),
        release.validation_holds(validation, test),
        release.full_fine_tuning_answered(test, artifacts.goal.value),
        release.calibrated(artifacts.test.log_probs, artifacts.test.targets),
    ]


def off_task_checks(before: OffTaskScores, after: OffTaskScores) -> list[Check]:
    """The lines about what the model could do before."""
    return [
        release.no_regression("topics of other texts", before.topics, after.topics),
        release.text_kept(before.losses, after.losses),
    ]


def figures(artifacts: Artifacts) -> dict[str, object]:
    """What the report says without a verdict about the data and the training."""
    sides = {side: len(artifacts.splits[side]) for side in SPLITS}
    return {
        "labels": ", ".join(artifacts.task.labels),
        "words asked for": ", ".join(artifacts.task.verbalizer),
        "texts": ", ".join(f"{side} {count}" for side, count in sides.items()),
        **long_texts(artifacts),
        **{f"{name}, test": str(scores.test) for name, scores in artifacts.floor.items()},
        "tuned, validation": str(artifacts.validation.accuracy),
        "tuned, test": str(artifacts.test.accuracy),
        **{f"trial {i + 1}": str(trial) for i, trial in enumerate(artifacts.trials)},
        "learning rate chosen": best(artifacts.trials).learning_rate,
        "trained parameters": best(artifacts.trials).trainable,
        "seconds of training, both rates": round(sum(trial.seconds for trial in artifacts.trials)),
    }


def long_texts(artifacts: Artifacts) -> dict[str, str]:
    """What the report says of texts that are not read to their end, and of a passage that many of them share."""
    texts = [text for side in SPLITS for text in artifacts.splits[side]["text"]]
    cut, room = artifacts.task.cut(texts), artifacts.task.room
    said = f"{cut} of {len(texts)} texts are longer than {room} tokens and were cut, in training, judging and serving"
    found = common_passage(texts)
    shared = {"shared passage": f"{found[1]} texts hold {shown(found[0])}: take it out to make room"} if found else {}
    return {"long texts": said if cut else f"none of {len(texts)} is longer than {room} tokens"} | shared


# --- merge, verify, quantize -----------------------------------------------------------------------------------------


def verify(fresh: Callable, adapter: str | Path, task: LabelTask, model: nn.Module, rows) -> list[Check]:
    """Whether the file holds what was trained, the merge computes the same, and the base comes back.

    model: the trained one, unmerged. rows: a few texts. The merge is compared in float32, where only rounding differs.
    """
    trained = ask(model, task, rows, "As trained")
    loaded, _ = fresh()
    before = ask(loaded, task, rows, "The base")
    load_lora(loaded, adapter)
    again = ask(loaded, task, rows, "Loaded from its file")
    back = ask(remove_lora(loaded), task, rows, "The base again")
    del loaded
    exact, _ = fresh(dtype=torch.float32)
    load_lora(exact, adapter)
    apart = ask(exact, task, rows, "Unmerged, float32")
    together = ask(merge_lora(exact), task, rows, "Merged, float32")
    return [
        release.same_outputs("adapter reloads", trained.log_probs, again.log_probs, 1e-6),
        release.same_outputs("base comes back", before.log_probs, back.log_probs, 0.0),
        release.same_outputs("merged equals unmerged", apart.log_probs, together.log_probs, 1e-3),
    ]


def save_merged(model: nn.Module, tokenizer, directory: str | Path) -> Path:
    """Write a whole model, such as a merged one, as safetensors, with its tokenizer: for a place that knows no adapters."""
    with written_aside(directory) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    return Path(directory)


class Variant(NamedTuple):
    """One variant of the tuned model: its answers to the test texts, and the bytes that it holds."""

    answers: Answers
    bytes: int


def quantize(model: nn.Module, task: LabelTask, rows) -> Variant:
    """The merged model with its linear layers in NF4, double quantized. The model given is changed."""
    to_four_bits(model)
    return Variant(ask(model, task, rows, "Merged, then 4 bits"), model_bytes(model))


def variants(
    model: nn.Module, tokenizer, artifacts: Artifacts, out: Path, base: Path, keep: bool
) -> tuple[list[Check], dict]:
    """The lines and figures about the adapter's files, the merged model and the one in 4 bits. Changes the model."""
    rows, few = artifacts.splits["test"], artifacts.splits["test"]["text"][:20]
    predictor, facts = Predictor(model, artifacts.task), {"unmerged, bytes": model_bytes(model)}
    times = {"unmerged": answer_seconds(predictor, few)}
    refused = release.refuses(predictor, BAD_INPUTS, InputRefused)
    merged = ask(merge_lora(model), artifacts.task, rows, "Merged").accuracy
    times["merged"], facts["merged, bytes"] = answer_seconds(predictor, few), model_bytes(model)
    if keep:
        save_merged(model, tokenizer, out / "merged")
    weights = sum(path.stat().st_size for path in Path(base).glob("*.safetensors"))
    checks = [
        release.kept_quality("merged answers as well", artifacts.test.accuracy, merged),
        release.size("adapter is small", out / "adapter", weights // 10),
        release.safetensors_only(out / "adapter"),
        release.latency("one answer, merged", times["merged"], at_most=2.0),
        refused,
    ]
    for name, seconds in times.items():
        facts[f"one answer, {name}, median ms"] = round(1000 * float(np.median(seconds))) if seconds else "none"
    four = quantize(model, artifacts.task, rows)
    facts |= {"4 bits, bytes": four.bytes, "4 bits, test": str(four.answers.accuracy)}
    return [
        *checks,
        release.kept_quality("4 bits answer as well", artifacts.test.accuracy, four.answers.accuracy),
    ], facts
