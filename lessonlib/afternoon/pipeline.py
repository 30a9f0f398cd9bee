"""One afternoon: a file of texts and labels goes in, a tuned model in service comes out, with a report of what holds.

    python -m lessonlib.afternoon mine.csv --text body --label topic

Every step is a function of its own, in the order in which they are called: read, split, baselines, ask (zero-shot),
train, save, verify (with the merge), quantize, elsewhere, serve and load, watch, and the report. `run` strings them
together in one directory and can be stopped and called again: it goes on where it stood. Settings are chosen on
validation texts; the test texts only judge.
"""

import argparse
import functools
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import DatasetDict
from torch import nn
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.corpora.own import SPLITS, CorpusError
from lessonlib.corpora.raw_texts import Scores, baselines, contradictions, read, split, write_splits
from lessonlib.display import Bar
from lessonlib.evaluation import Accuracy, label_logits_of_texts
from lessonlib.experiments.tickets import SHORT, tickets_task
from lessonlib.lora import add_lora, load_lora, merge_lora, remove_lora, save_lora
from lessonlib.models import find_base, load_base, sha256
from lessonlib.quantization.linear import to_four_bits
from lessonlib.quantization.qlora import model_bytes
from lessonlib.serving import release
from lessonlib.serving.monitoring import PredictionDrift
from lessonlib.serving.release import Check, Report
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import LabelTask, label_logits

RATES = (1e-3, 2e-3)
LISTED = 20  # labels are named in the prompt up to this number
TEXT_TOKENS = 160  # of a text that are read; the rest of the prompt comes on top
SERVED_AS = "afternoon"  # the adapter's name on the server
STATE = "afternoon.json"


class AfternoonError(ValueError):
    """The afternoon cannot go on in this way; the message says why and what would do."""


class InputRefused(ValueError):
    """A text that the service does not answer; the message says why."""


# --- ask ---------------------------------------------------------------------------------------------------------------


def question(tokenizer, labels: Sequence[str]) -> LabelTask:
    """The labels as the words that the model is to say, named in the prompt where there are at most 20.

    Where two labels begin with the same token, letters stand for them, and the prompt says which for which.
    Raises AfternoonError where more than 26 labels collide in that way.
    """
    words = [label.replace("_", " ") for label in labels]
    try:
        chosen = LabelTask(tokenizer, labels, words).verbalizer
    except ValueError as cause:
        raise AfternoonError(
            f"{cause}: give the labels other first words, or put some of them together"
        ) from cause
    named = [word if word == own else f"{own} for {word}" for word, own in zip(words, chosen)]
    plain = ", ".join(named).translate(str.maketrans("{}", "()"))  # braces would be places to fill in
    head = f"Labels: {plain}.\n" if len(labels) <= LISTED or chosen != words else ""
    template = f"{head}Text: {{text}}\nLabel:"
    length = len(tokenizer(template, add_special_tokens=False).input_ids)
    return LabelTask(tokenizer, labels, chosen, template=template, max_tokens=length + TEXT_TOKENS)


@dataclass
class Answers:
    """Log-probabilities of the labels for each text, (n, labels), normalised over them; and the right ones."""

    log_probs: torch.Tensor
    targets: list[int]

    @property
    def labels(self) -> list[int]:
        return self.log_probs.argmax(-1).tolist()

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy(self.labels, self.targets)

    @property
    def loss(self) -> float:
        return F.nll_loss(self.log_probs, torch.tensor(self.targets)).item()


def ask(model: nn.Module, task: LabelTask, rows, what: str = "Answering") -> Answers:
    """The model's answers to rows with text and label, in their order; untrained, that is zero-shot."""
    bar = Bar(total=len(rows["text"]), desc=what)
    answers = Answers(
        label_logits_of_texts(model, task, rows["text"], bar.update).log_softmax(-1), list(rows["label"])
    )
    bar.finish(f"{what}: {answers.accuracy}")
    return answers


class Threshold(NamedTuple):
    """The accuracy that the model has to reach, and when that was written down (seconds since 1970)."""

    value: float
    stated: float


def state_threshold(directory: str | Path, value: float) -> Threshold:
    """Write down what the model has to reach, before it is trained; what was written first stays."""
    path = Path(directory) / "threshold.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(Threshold(value, time.time())._asdict()) + "\n", "utf8")
    return Threshold(**json.loads(path.read_text("utf8")))


# --- train -----------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """One training run: its rate, what validation said of it, and the directory of its adapter."""

    learning_rate: float
    validation: float
    validation_loss: float
    seconds: float
    trainable: int
    ended: float
    losses: list[float]
    settings: dict
    directory: str

    def __repr__(self):
        return (
            f"rate {self.learning_rate:g}: validation {self.validation:.3f}, loss {self.validation_loss:.3f}"
        )


def train(
    fresh: Callable,
    task: LabelTask,
    splits: DatasetDict,
    directory: str | Path,
    *,
    rates: Sequence[float] = RATES,
    steps: int = 60,
    batch_size: int = 8,
    r: int = 8,
    seed: int = 0,
) -> list[Trial]:
    """LoRA on all linear layers, once for each rate; `best` says which won on validation.

    fresh(): gives (model, tokenizer), the base anew. Each trial's adapter stays below `directory`; a call that finds
    one with the same settings, texts and prompt takes it, and one that was stopped goes on from its last steps.
    """
    rows = splits["train"]
    asked = hashlib.sha256(
        json.dumps([task.template, list(rows["text"]), list(rows["label"])]).encode()
    ).hexdigest()
    trials = []
    for rate in rates:
        settings = {"learning_rate": rate, "steps": steps, "batch_size": batch_size, "r": r, "seed": seed}
        place = Path(directory) / f"rate-{rate:g}"
        trials.append(
            _kept(place, settings | {"asked": asked}) or _trial(fresh, task, splits, place, settings, asked)
        )
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the best validation accuracy; the lower validation loss decides ties."""
    return max(trials, key=lambda trial: (trial.validation, -trial.validation_loss))


def _trial(
    fresh: Callable, task: LabelTask, splits: DatasetDict, place: Path, settings: dict, asked: str
) -> Trial:
    steps, batch_size, r, seed = (settings[name] for name in ("steps", "batch_size", "r", "seed"))
    model, _ = fresh()
    seed_everything(seed)
    add_lora(model, targets(model), r=r, alpha=2 * r)
    rows = splits["train"]
    batches = task.training_batches(
        rows["text"], rows["label"], steps=steps, batch_size=batch_size, seed=seed
    )
    history = fit(model, batches, learning_rate=settings["learning_rate"], resume="afternoon")
    answers = ask(model, task, splits["validation"], f"Rate {settings['learning_rate']:g}, validation")
    save_lora(model, place)
    trial = Trial(
        learning_rate=settings["learning_rate"],
        validation=answers.accuracy.value,
        validation_loss=answers.loss,
        seconds=history.seconds,
        trainable=history.trainable,
        ended=time.time(),
        losses=[round(loss, 4) for loss in history.losses],
        settings=settings | {"asked": asked},
        directory=str(place),
    )
    (place / "trial.json").write_text(json.dumps(asdict(trial), indent=1) + "\n", "utf8")
    return trial


def _kept(place: Path, settings: dict) -> Trial | None:
    path = place / "trial.json"
    if not path.exists():
        return None
    trial = Trial(**json.loads(path.read_text("utf8")) | {"directory": str(place)})
    return trial if trial.settings == settings else None


def targets(model: nn.Module) -> list[str]:
    """The attribute names of all linear layers in the model's blocks; the head is not among them."""
    linear = (path for path, module in model.get_decoder().named_modules() if isinstance(module, nn.Linear))
    return sorted({path.rpartition(".")[2] for path in linear})


def save(fresh: Callable, trial: Trial, task: LabelTask, directory: str | Path) -> nn.Module:
    """Write the winner's adapter as PEFT does, with task.json, the prompt and the words that it was trained on.

    Returns the model with the adapter on it, unmerged.
    """
    model, _ = fresh()
    load_lora(model, trial.directory)
    save_lora(model, directory)
    said = {"template": task.template, "labels": task.labels}
    said |= {"words": task.verbalizer, "max_tokens": task.max_tokens}
    (Path(directory) / "task.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", "utf8")
    return model


def read_task(tokenizer, directory: str | Path) -> LabelTask:
    """The question that an adapter's directory holds beside it, as `save` wrote it."""
    said = json.loads((Path(directory) / "task.json").read_text("utf8"))
    return LabelTask(tokenizer, said["labels"], said["words"], said["template"], said["max_tokens"])


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
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return Path(directory)


class Form(NamedTuple):
    """One form of the tuned model: its answers to the test texts, and the bytes that it holds."""

    answers: Answers
    bytes: int


def quantize(model: nn.Module, task: LabelTask, rows) -> Form:
    """The merged model with its linear layers in NF4, double quantized. The model given is changed."""
    to_four_bits(model)
    return Form(ask(model, task, rows, "Merged, then 4 bits"), model_bytes(model))


# --- answer, one at a time -------------------------------------------------------------------------------------------


class Desk:
    """Answers one text at a time, as a service does: the label, and the probability that the model gives it.

    Refuses what it was not made for by InputRefused: no text, an empty one, one that is longer than it reads.
    """

    def __init__(self, model: nn.Module, task: LabelTask):
        self.model, self.task = model.eval(), task

    def prompt(self, text: str) -> str:
        """What the model reads for a text."""
        if not isinstance(text, str):
            raise InputRefused(f"{type(text).__name__} is no text: give a string")
        if not text.strip():
            raise InputRefused("the text is empty: give at least one word")
        prompt = self.task.template.format(text=text)
        tokens = len(self.task.tokenizer(prompt, add_special_tokens=False).input_ids)
        if tokens > self.task.max_tokens:
            raise InputRefused(
                f"the text makes {tokens} tokens; at most {self.task.max_tokens} are read: shorten it"
            )
        return prompt

    @torch.no_grad()
    def __call__(self, text: str) -> tuple[str, float]:
        self.prompt(text)
        batch = self.task.batch([self.task.encode(text)], [0]).to(next(self.model.parameters()).device)
        log_probs = label_logits(self.model, batch).float().log_softmax(-1)[0]
        label = int(log_probs.argmax())
        return self.task.labels[label], float(log_probs[label].exp())


BAD_INPUTS = {"no text": None, "empty": "", "blank": " \n\t", "too long": "word " * 4000}


def answer_seconds(desk: Desk, texts: Sequence[str]) -> list[float]:
    """Seconds of each answer, one text after the other; texts that the desk refuses are left out."""
    seconds = []
    for text in texts:
        began = time.perf_counter()
        try:
            desk(text)
        except InputRefused:
            continue
        seconds.append(time.perf_counter() - began)
    return seconds


# --- what else it could do -------------------------------------------------------------------------------------------


class Elsewhere(NamedTuple):
    """What a model does on other work: the topics of the course's tickets, and the loss of each of some replies."""

    topics: Accuracy
    losses: list[float]


@torch.no_grad()
def elsewhere(model: nn.Module, tokenizer, tickets: int = 60, replies: int = 24) -> Elsewhere:
    """The model's answers to what short tickets of the course are about, and its loss on replies, in nats a token."""
    every = corpora.tickets("test").rename_column("intent", "label")
    short = [place for place, text in enumerate(every["text"]) if len(text) <= SHORT]
    rows = every.select(short[:tickets])
    topics = ask(model, tickets_task(tokenizer), rows, "Topics of other texts").accuracy
    losses, device = [], next(model.parameters()).device
    for text in corpora.replies("test")["plain"][:replies]:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[:, :96].to(device)
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        losses.append(F.cross_entropy(logits, ids[0, 1:]).item())
    return Elsewhere(topics, losses)


# --- serve, load, watch ----------------------------------------------------------------------------------------------

NOT_SERVED = (
    "not run: there is no vLLM here; `make serve-env` in the course's folder, then this command again"
)


def serve(base: str | Path, adapter: str | Path, task: LabelTask):
    """A vLLM engine, not started yet, over the base with the adapter beside it; None where there is no vLLM.

    Use it in a `with` block: the server ends with it.
    """
    from lessonlib.serving.engine import Engine, serving_python

    if serving_python() is None:
        return None
    longest = max(512, task.max_tokens + 16)
    return Engine(base, {SERVED_AS: adapter}, max_lora_rank=16, max_model_len=longest)


def load(
    engine, desk: Desk, rows, base: Answers, tuned: Answers, requests: int = 60, clients: int = 4
) -> list[Check]:
    """Ask the running engine for the texts' labels, and send it requests from several clients at once.

    base, tuned: this process's answers to the rows, without and with the adapter; the server's have to be the latter.
    """
    from lessonlib.serving.traffic import offer

    places, prompts = [], []
    for place, text in enumerate(rows["text"]):
        try:
            prompts.append(desk.prompt(text))
            places.append(place)
        except InputRefused:
            continue
    served = engine.label_log_probs(SERVED_AS, prompts, _first_tokens(desk.task)).log_softmax(-1)
    asked = [(SERVED_AS, prompts[i % len(prompts)]) for i in range(requests)]
    traffic = offer(functools.partial(engine.complete, max_tokens=1), asked, clients)
    failed = len(traffic.failures)
    figure = f"{requests - failed} of {requests} answered, {clients} clients, p95 {1000 * traffic.p95:.0f} ms"
    return [
        served_by_the_adapter(served, tuned.log_probs[places], base.log_probs[places]),
        Check("requests under load", not failed, figure, "all answered"),
    ]


def _first_tokens(task: LabelTask) -> list[str]:
    """The first token of each label's word as text, space included; the whole word where that token is no text of its
    own, as with part of a letter in several bytes."""
    texts = [task.tokenizer.decode([token]) for token in task.label_ids.tolist()]
    alone = [task.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    kept = zip(texts, alone, task.label_ids.tolist(), task.verbalizer)
    return [text if ids == [token] else f" {word}" for text, ids, token, word in kept]


def served_by_the_adapter(served: torch.Tensor, tuned: torch.Tensor, base: torch.Tensor) -> Check:
    """Whether a server's log-probabilities are the tuned model's and not the base's, (n, labels) each.

    Two programs in 16 bits round differently, so nearness is asked for and not equality.
    """
    gap, other = ((served - ours).abs().mean().item() for ours in (tuned, base))
    same = int((served.argmax(-1) == tuned.argmax(-1)).sum())
    figure = f"{same} of {len(served)} answers the same; {gap:.2f} nats from the adapter's, {other:.2f} from the base's"
    return Check(
        "served by the adapter",
        same >= 0.9 * len(served) and gap < other,
        figure,
        "9 of 10, and nearer to it",
    )


def arm_watch(
    validation: Answers, labels: Sequence[str], directory: str | Path, level: float = 0.01
) -> PredictionDrift:
    """A watch over the labels that the service will give, against those on the validation texts; kept in watch.json."""
    said = {"labels": list(labels), "level": level, "predictions": validation.labels}
    (Path(directory) / "watch.json").write_text(json.dumps(said) + "\n", "utf8")
    return read_watch(directory)


def read_watch(directory: str | Path) -> PredictionDrift:
    """The watch that `arm_watch` left in a directory: call it with a window of label numbers."""
    said = json.loads((Path(directory) / "watch.json").read_text("utf8"))
    return PredictionDrift(said["predictions"], labels=len(said["labels"]), level=said["level"])


def shifted_window(answers: Answers) -> list[int]:
    """Answers to the texts of half the classes only, the half with most texts: a stream that has changed."""
    counts = Counter(answers.targets).most_common()
    half = {label for label, _ in counts[: max(1, len(counts) // 2)]}
    return [label for label, target in zip(answers.labels, answers.targets) if target in half]


# --- the afternoon ---------------------------------------------------------------------------------------------------


def begin(out: str | Path, settings: dict) -> Path:
    """The directory that everything goes into. Nothing of anybody else's is written over.

    Raises AfternoonError where it holds other files, or an afternoon with other settings.
    """
    out = Path(out)
    path = out / STATE
    if path.exists():
        before = json.loads(path.read_text("utf8"))
        if odd := sorted(
            name for name in settings.keys() | before.keys() if settings.get(name) != before.get(name)
        ):
            raise AfternoonError(
                f"{out} holds an afternoon with another {odd[0]} ({before.get(odd[0])!r}, now {settings.get(odd[0])!r}): "
                "name another directory with --out (OUT=), or remove this one"
            )
        print(f"Taking up {out}: what is there is used, the report is written anew.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AfternoonError(
            f"{out} exists and is not an afternoon's: name another directory with --out (OUT=)"
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n", "utf8")
    return out


@dataclass
class Work:
    """What training hands on: the texts, the question, what was to be beaten, the trials, and the answers of the base
    and of the tuned model."""

    splits: DatasetDict
    task: LabelTask
    floor: dict[str, Scores]
    goal: Threshold
    trials: list[Trial]
    zero_shot: Answers
    validation: Answers
    test: Answers
    other_work: Elsewhere  # of the base


def run(
    file: str | Path,
    text: str,
    label: str,
    out: str | Path,
    *,
    model: str = "smollm2-135m",
    steps: int = 60,
    threshold: float | None = None,
    seed: int = 0,
    keep_merged: bool = False,
) -> Report:
    """The whole afternoon in one directory; the report that it writes there.

    threshold: the accuracy that the model has to reach; None takes the best on the validation texts of what needs no
    training: the most frequent label, word counts, the base zero-shot.
    Raises CorpusError for a file that cannot be used, AfternoonError for a directory that is somebody else's.
    """
    began, base, fresh = time.perf_counter(), find_base(model), functools.partial(load_base, model)
    rows = read(file, text, label)
    splits = split(rows, seed)
    settings = {"file": sha256(Path(file)), "text": text, "label": label, "model": model, "steps": steps}
    out = begin(out, settings | {"threshold": threshold, "seed": seed})
    write_splits(splits, out / "splits")
    _say("Read", f"{len(rows)} rows, {', '.join(f'{side} {len(splits[side])}' for side in SPLITS)}")
    work, tuned, tokenizer = tune(fresh, splits, out, steps=steps, threshold=threshold, seed=seed)
    checks, facts = judge(work, tuned, tokenizer, fresh, base, out, keep_merged)
    facts |= {"copies with two labels, lines": contradictions(rows)}
    facts |= {"seconds in all": round(time.perf_counter() - began)}
    found = release.provenance(base=base, adapter=out / "adapter", data=file, splits=out / "splits")
    report = Report(f"Afternoon with {Path(file).name}", [*checks, release.unchanged(found)], facts, found)
    report.write(out)
    return report


def tune(fresh: Callable, splits: DatasetDict, out: Path, *, steps: int, threshold: float | None, seed: int):
    """From baselines to the saved adapter: (work, the tuned model, unmerged, its tokenizer)."""
    model, tokenizer = fresh()
    task, floor = question(tokenizer, splits["train"].features["label"].names), baselines(splits)
    for name, scores in floor.items():
        _say(f"Baseline, {name}", scores.test)
    zero_shot, other_work = ask(model, task, splits["test"], "Zero-shot"), elsewhere(model, tokenizer)
    before = ask(model, task, splits["validation"], "Zero-shot, validation").accuracy
    floor["zero-shot"] = Scores(before, zero_shot.accuracy)
    del model
    hardest = max(scores.validation.value for scores in floor.values())
    goal = state_threshold(out, hardest if threshold is None else threshold)
    trials = train(fresh, task, splits, out / "trials", steps=steps, seed=seed)
    tuned = save(fresh, best(trials), task, out / "adapter")
    validation = ask(tuned, task, splits["validation"], "Validation")
    test = ask(tuned, task, splits["test"], "Test")
    work = Work(splits, task, floor, goal, trials, zero_shot, validation, test, other_work)
    return work, tuned, tokenizer


def judge(
    work: Work, model: nn.Module, tokenizer, fresh: Callable, base: Path, out: Path, keep_merged: bool = False
) -> tuple[list[Check], dict]:
    """All lines of the list but the last, in its order, and the figures; merges and quantizes the model given."""
    few = work.splits["validation"].select(range(min(16, len(work.validation.targets))))
    checks = quality_checks(work) + elsewhere_checks(work.other_work, elsewhere(model, tokenizer))
    checks += verify(fresh, out / "adapter", work.task, model, few)
    more, facts = forms(model, tokenizer, work, out, base, keep_merged)
    checks += more + serving(base, work, out) + [watching(work, out)]
    return checks, figures(work) | facts


def _say(what: str, figure) -> None:
    print(f"{what}: {figure}", flush=True)


def quality_checks(work: Work) -> list[Check]:
    """The lines about the data and about the answers to the test texts."""
    test, validation, sides = work.test.accuracy, work.validation.accuracy, work.splits
    return [
        release.threshold_first(work.goal.stated, best(work.trials).ended),
        release.no_leak(sides["train"]["text"], [*sides["validation"]["text"], *sides["test"]["text"]]),
        release.quality_reached(test, work.goal.value),
        release.better_than("the most frequent label", test, work.floor["majority"].test),
        release.better_than("the base, zero-shot", test, work.floor["zero-shot"].test),
        release.validation_holds(validation, test),
        release.full_fine_tuning_answered(test, work.goal.value),
        release.calibrated(work.test.log_probs, work.test.targets),
    ]


def elsewhere_checks(before: Elsewhere, after: Elsewhere) -> list[Check]:
    """The lines about what the model could do before."""
    return [
        release.no_regression("topics of other texts", before.topics, after.topics),
        release.text_kept(before.losses, after.losses),
    ]


def figures(work: Work) -> dict[str, object]:
    """What the report says without a verdict about the data and the training."""
    sides = {side: len(work.splits[side]) for side in SPLITS}
    return {
        "labels": ", ".join(work.task.labels),
        "words asked for": ", ".join(work.task.verbalizer),
        "texts": ", ".join(f"{side} {count}" for side, count in sides.items()),
        **{f"{name}, test": str(scores.test) for name, scores in work.floor.items()},
        "tuned, validation": str(work.validation.accuracy),
        "tuned, test": str(work.test.accuracy),
        **{f"trial {i + 1}": str(trial) for i, trial in enumerate(work.trials)},
        "learning rate chosen": best(work.trials).learning_rate,
        "trained parameters": best(work.trials).trainable,
        "seconds of training, both rates": round(sum(trial.seconds for trial in work.trials)),
    }


def forms(
    model: nn.Module, tokenizer, work: Work, out: Path, base: Path, keep: bool
) -> tuple[list[Check], dict]:
    """The lines and figures about the adapter's files, the merged model and the one in 4 bits. Changes the model."""
    rows, few = work.splits["test"], work.splits["test"]["text"][:20]
    desk, facts = Desk(model, work.task), {"unmerged, bytes": model_bytes(model)}
    times = {"unmerged": answer_seconds(desk, few)}
    refused = release.refuses(desk, BAD_INPUTS, InputRefused)
    merged = ask(merge_lora(model), work.task, rows, "Merged").accuracy
    times["merged"], facts["merged, bytes"] = answer_seconds(desk, few), model_bytes(model)
    if keep:
        save_merged(model, tokenizer, out / "merged")
    weights = sum(path.stat().st_size for path in Path(base).glob("*.safetensors"))
    checks = [
        release.kept_quality("merged answers as well", work.test.accuracy, merged),
        release.size("adapter is small", out / "adapter", weights // 10),
        release.safetensors_only(out / "adapter"),
        release.latency("one answer, merged", times["merged"], at_most=2.0),
        refused,
    ]
    for name, seconds in times.items():
        facts[f"one answer, {name}, median ms"] = round(1000 * float(np.median(seconds)))
    four = quantize(model, work.task, rows)
    facts |= {"4 bits, bytes": four.bytes, "4 bits, test": str(four.answers.accuracy)}
    return [
        *checks,
        release.kept_quality("4 bits answer as well", work.test.accuracy, four.answers.accuracy),
    ], facts


def serving(base: Path, work: Work, out: Path) -> list[Check]:
    """The lines about the real server; where it is absent or does not start, that is what they say."""
    expected, engine = "answers of the adapter's", serve(base, out / "adapter", work.task)
    if engine is None:
        return [Check("served by the adapter", False, NOT_SERVED, expected)]
    print("Serving:", flush=True)
    try:
        with engine:
            desk = Desk(nn.Identity(), work.task)  # its prompts alone are wanted here
            return load(engine, desk, work.splits["test"], work.zero_shot, work.test)
    except RuntimeError as error:
        return [Check("served by the adapter", False, " ".join(str(error).split())[:300], expected)]


def watching(work: Work, out: Path) -> Check:
    """Arm the watch, and try it on the test's answers and on a stream that has changed."""
    watch = arm_watch(work.validation, work.task.labels, out)
    return release.watch_tells(watch, work.test.labels, shifted_window(work.test))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lessonlib.afternoon", description=__doc__.split("\n")[0])
    parser.add_argument("file", help="a CSV file, UTF-8, whose first line names the columns")
    parser.add_argument("--text", default="text", help="the column of texts")
    parser.add_argument("--label", default="label", help="the column of labels")
    parser.add_argument("--out", help="a directory of its own (default: afternoon-FILE here)")
    parser.add_argument("--model", default="smollm2-135m", help="a name or a model directory")
    parser.add_argument(
        "--steps", type=int, default=60, help="training steps of eight texts, for each of two rates"
    )
    parser.add_argument("--threshold", type=float, help="accuracy to reach (default: the best baseline's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--merged", action="store_true", help="keep the merged model as well (as large as the base)"
    )
    asked = parser.parse_args(arguments)
    out = asked.out or f"afternoon-{Path(asked.file).stem}"
    settings = {name: getattr(asked, name) for name in ("model", "steps", "threshold", "seed")}
    try:
        report = run(asked.file, asked.text, asked.label, out, keep_merged=asked.merged, **settings)
    except (CorpusError, AfternoonError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{report}\n\nWritten: {out}/report.md, report.json, adapter, splits, watch.json")
    return 0
