"""The model in service: served and sent requests, and watched for what has changed."""

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lessonlib.serving import release
from lessonlib.serving.monitoring import PredictionDrift
from lessonlib.serving.report import Check
from lessonlib.training.labels import LabelTask

from .answers import Answers, InputRefused, Predictor
from .kept import keep, kept
from .trials import Artifacts

WATCH = "watch.json"
SERVED_AS = "afternoon"  # the adapter's name on the server
NOT_SERVED = "not run: there is no vLLM here; `make serve-env` in the course's folder, then this command again"


def serve(base: str | Path, adapter: str | Path, task: LabelTask):
    """A vLLM engine, not started yet, over the base with the adapter beside it; None where there is no vLLM.

    Use it in a `with` block: the server ends with it.
    """
    from lessonlib.serving import engine

    if engine.serving_python() is None:
        return None
    label = max(len(ids) for ids in task.tokenizer(task.endings, add_special_tokens=False).input_ids)
    longest = max(512, task.max_tokens + label + 16)
    return engine.Engine(base, {SERVED_AS: adapter}, max_lora_rank=16, max_model_len=longest)


def load(
    engine, predictor: Predictor, rows, base: Answers, tuned: Answers, requests: int = 60, clients: int = 4
) -> list[Check]:
    """Ask the running engine for the texts' labels, and send it requests from several clients at once.

    base, tuned: this process's answers to the rows, without and with the adapter; the server's have to be the latter.
    """
    from lessonlib.serving.traffic import offer

    indices, prompts = [], []
    for index, text in enumerate(rows["text"]):
        try:
            prompts.append(predictor.prompt(text))
            indices.append(index)
        except InputRefused:
            continue
    if not prompts:
        nothing = "none of the texts is answered by the service"
        return [
            Check(name, False, nothing, "at least one") for name in ("served by the adapter", "requests under load")
        ]
    served = engine.label_log_probs(SERVED_AS, prompts, _scored(predictor.task)).log_softmax(-1)
    questions = [(SERVED_AS, prompts[i % len(prompts)]) for i in range(requests)]
    traffic = offer(functools.partial(engine.complete, max_tokens=1), questions, clients)
    failed = len(traffic.failures)
    figure = f"{requests - failed} of {requests} answered, {clients} clients, p95 {1000 * traffic.p95:.0f} ms"
    return [
        served_by_the_adapter(served, tuned.log_probs[indices], base.log_probs[indices]),
        Check("requests under load", not failed, figure, "all answered"),
    ]


def _scored(task: LabelTask) -> list[str]:
    """What each label is scored by, as text: the whole of it where the task does so, else its word's first token, space
    included; the whole word where that token is no text of its own, as with part of a letter in several bytes."""
    if task.label_ids.dim() == 2:
        return task.endings
    texts = [task.tokenizer.decode([token]) for token in task.label_ids.tolist()]
    alone = [task.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    rows = zip(texts, alone, task.label_ids.tolist(), task.verbalizer)
    return [text if ids == [token] else f" {word}" for text, ids, token, word in rows]


def served_by_the_adapter(served: torch.Tensor, tuned: torch.Tensor, base: torch.Tensor) -> Check:
    """Whether a server's log-probabilities are the tuned model's and not the base's, (n, labels) each.

    Two programs in 16 bits round differently, so nearness is asked for and not equality.
    """
    gap, other = ((served - ours).abs().mean().item() for ours in (tuned, base))
    same = int((served.argmax(-1) == tuned.argmax(-1)).sum())
    figure = (
        f"{same} of {len(served)} answers the same; {gap:.2f} nats from the adapter's, {other:.2f} from the base's"
    )
    return Check(
        "served by the adapter",
        same >= 0.9 * len(served) and gap < other,
        figure,
        "9 of 10, and nearer to it",
    )


def serving(base: Path, artifacts: Artifacts, out: Path) -> list[Check]:
    """The lines about the real server; where it is absent or does not start, that is what they say."""
    expected, engine = "answers of the adapter's", serve(base, out / "adapter", artifacts.task)
    if engine is None:
        return [Check("served by the adapter", False, NOT_SERVED, expected)]
    print("Serving:", flush=True)
    try:
        with engine:
            predictor = Predictor(nn.Identity(), artifacts.task)  # its prompts alone are wanted here
            return load(engine, predictor, artifacts.splits["test"], artifacts.zero_shot, artifacts.test)
    except RuntimeError as error:
        return [Check("served by the adapter", False, " ".join(str(error).split())[:300], expected)]


# --- watch -----------------------------------------------------------------------------------------------------------


def arm_watch(
    validation: Answers, labels: Sequence[str], directory: str | Path, level: float = 0.01
) -> PredictionDrift:
    """A watch over the labels that the service will give, against those on the validation texts; kept in watch.json."""
    keep(Path(directory) / WATCH, {"labels": list(labels), "level": level, "predictions": validation.labels})
    return read_watch(directory)


def read_watch(directory: str | Path) -> PredictionDrift:
    """The watch that `arm_watch` left in a directory: call it with a window of label numbers.

    Raises AfternoonError, with what to do, where its file is damaged, and FileNotFoundError where there is none.
    """
    cure = "call the afternoon's command again, which writes it anew"
    watch = kept(Path(directory) / WATCH, {"labels", "level", "predictions"}, cure)
    return PredictionDrift(watch["predictions"], labels=len(watch["labels"]), level=watch["level"])


def shifted_window(answers: Answers) -> list[int]:
    """Answers to the texts of half the classes only, the half with most texts: a stream that has changed."""
    counts = Counter(answers.targets).most_common()
    half = {label for label, _ in counts[: max(1, len(counts) // 2)]}
    return [label for label, target in zip(answers.labels, answers.targets) if target in half]


def watching(artifacts: Artifacts, out: Path) -> Check:
    """Arm the watch, and try it on the test's answers and on a stream that has changed."""
    watch = arm_watch(artifacts.validation, artifacts.task.labels, out)
    return release.watch_tells(watch, artifacts.test.labels, shifted_window(artifacts.test))
