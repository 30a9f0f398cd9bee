"""What is to be beaten, and the training that is to beat it: a trial for each learning rate, the best one saved."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from datasets import DatasetDict
from torch import nn

from lessonlib.corpora.baselines import word_counts
from lessonlib.corpora.own import SPLITS
from lessonlib.display import written_aside
from lessonlib.evaluation import Accuracy
from lessonlib.lora import add_lora, load_lora, save_lora
from lessonlib.models import sha256
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import LabelTask

from .answers import AfternoonError, Answers, OffTaskScores, ask, off_task_scores, question
from .kept import keep, kept

RATES = (1e-3, 2e-3)


# --- what is to be beaten --------------------------------------------------------------------------------------------


class Scores(NamedTuple):
    """Accuracy on the validation texts, by which everything is chosen, and on the test texts."""

    validation: Accuracy
    test: Accuracy


def baselines(splits: DatasetDict) -> dict[str, Scores]:
    """What needs no language model: "majority", always the most frequent label; "word counts", TF-IDF of words and of
    letters under logistic regression, its strength chosen on validation."""
    train, validation, test = (splits[side] for side in SPLITS)
    most = Counter(train["label"]).most_common(1)[0][0]
    counts = word_counts(train["text"], train["label"], validation["text"], validation["label"])

    def scores(predict: Callable) -> Scores:
        return Scores(*(Accuracy(predict(rows["text"]), list(rows["label"])) for rows in (validation, test)))

    return {
        "majority": scores(lambda texts: [most] * len(texts)),
        "word counts": scores(lambda texts: counts.predict(texts).tolist()),
    }


class Threshold(NamedTuple):
    """The accuracy that the model has to reach, and when that was written down (seconds since 1970)."""

    value: float
    stated: float


def state_threshold(directory: str | Path, value: float) -> Threshold:
    """Write down what the model has to reach, before it is trained; what was written first stays.

    A damaged file is written anew, which is said; what was trained before it counts as trained too early.
    """
    path = Path(directory) / "threshold.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return Threshold(**kept(path, set(Threshold._fields), "it is stated anew, now"))
    except AfternoonError as damaged:
        print(damaged, flush=True)
    except FileNotFoundError:
        pass
    keep(path, Threshold(value, time.time())._asdict())
    return state_threshold(directory, value)


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
    files: dict[str, str]  # sha256 of each of the adapter's

    def __repr__(self):
        return f"rate {self.learning_rate:g}: validation {self.validation:.3f}, loss {self.validation_loss:.3f}"


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
    after: float = 0.0,
) -> list[Trial]:
    """LoRA on all linear layers, once for each rate; `best` says which won on validation.

    fresh(): gives (model, tokenizer), the base anew. Each trial's adapter stays below `directory`; a call that finds
    one with the same settings, texts and prompt takes it, and one that was stopped goes on from its last steps.
    after: seconds since 1970, before which none of them ends, should the machine's clock be set back meanwhile.
    """
    rows = splits["train"]
    fingerprint = hashlib.sha256(
        json.dumps([task.template, list(rows["text"]), list(rows["label"])]).encode()
    ).hexdigest()
    trials = []
    for rate in rates:
        settings = {"learning_rate": rate, "steps": steps, "batch_size": batch_size, "r": r, "seed": seed}
        settings["asked"] = fingerprint
        own = Path(directory) / f"rate-{rate:g}"
        trial = _finished(own, settings) or _trial(fresh, task, splits, own, settings, after)
        trials.append(trial)
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the best validation accuracy; the lower validation loss decides ties."""
    return max(trials, key=lambda trial: (trial.validation, -trial.validation_loss))


def _trial(
    fresh: Callable, task: LabelTask, splits: DatasetDict, directory: Path, settings: dict, after: float
) -> Trial:
    steps, batch_size, r, seed = (settings[name] for name in ("steps", "batch_size", "r", "seed"))
    model, _ = fresh()
    seed_everything(seed)
    add_lora(model, targets(model), r=r, alpha=2 * r)
    rows = splits["train"]
    batches = task.training_batches(rows["text"], rows["label"], steps=steps, batch_size=batch_size, seed=seed)
    history = fit(model, batches, learning_rate=settings["learning_rate"], resume="afternoon")
    answers = ask(model, task, splits["validation"], f"Rate {settings['learning_rate']:g}, validation")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(directory) as aside:
        save_lora(model, aside)
        trial = Trial(
            learning_rate=settings["learning_rate"],
            validation=answers.accuracy.value,
            validation_loss=answers.loss,
            seconds=history.seconds,
            trainable=history.trainable,
            ended=max(time.time(), after + history.seconds),
            losses=[round(loss, 4) for loss in history.losses],
            settings=settings,
            directory=str(directory),
            files={path.name: sha256(path) for path in aside.iterdir()},
        )
        keep(aside / "trial.json", asdict(trial))
    return trial


def _finished(directory: Path, settings: dict) -> Trial | None:
    """The trial that is there, whole and with these settings; None where it has to be trained."""
    anew, names = "this trial is trained anew", {field.name for field in fields(Trial)}
    try:
        trial = Trial(**kept(directory / "trial.json", names, anew) | {"directory": str(directory)})
    except FileNotFoundError:
        return None
    except AfternoonError as damaged:
        print(damaged, flush=True)
        return None
    for name, expected in trial.files.items():
        if not (directory / name).is_file() or sha256(directory / name) != expected:
            print(f"{directory / name} is not what was written there: {anew}", flush=True)
            return None
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
    with written_aside(directory) as aside:
        save_lora(model, aside)
        task.write(aside)
    return model


def read_task(tokenizer, directory: str | Path) -> LabelTask:
    """The question that an adapter's directory holds beside it, as `LabelTask.write` wrote it.

    Raises AfternoonError, with what to do, where its file is damaged, and FileNotFoundError where there is none.
    """
    cure = "call the command again that wrote it"
    task = kept(Path(directory) / "task.json", {"labels", "words", "template", "max_tokens"}, cure)
    return LabelTask(tokenizer, task["labels"], task["words"], task["template"], task["max_tokens"])


@dataclass
class Artifacts:
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
    off_task: OffTaskScores  # of the base


def tune(fresh: Callable, splits: DatasetDict, out: Path, *, steps: int, threshold: float | None, seed: int):
    """From baselines to the saved adapter: (artifacts, the tuned model, unmerged, its tokenizer)."""
    model, tokenizer = fresh()
    task, floor = question(tokenizer, splits["train"].features["label"].names), baselines(splits)
    for name, scores in floor.items():
        print(f"Baseline, {name}: {scores.test}", flush=True)
    zero_shot, off_task = ask(model, task, splits["test"], "Zero-shot"), off_task_scores(model, tokenizer)
    before = ask(model, task, splits["validation"], "Zero-shot, validation").accuracy
    floor["zero-shot"] = Scores(before, zero_shot.accuracy)
    del model
    hardest = max(scores.validation.value for scores in floor.values())
    goal = state_threshold(out, hardest if threshold is None else threshold)
    trials = train(fresh, task, splits, out / "trials", steps=steps, seed=seed, after=goal.stated)
    tuned = save(fresh, best(trials), task, out / "adapter")
    validation = ask(tuned, task, splits["validation"], "Validation")
    test = ask(tuned, task, splits["test"], "Test")
    artifacts = Artifacts(splits, task, floor, goal, trials, zero_shot, validation, test, off_task)
    return artifacts, tuned, tokenizer
