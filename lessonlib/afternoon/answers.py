"""What the model is asked, and what it answers: all texts at once, or one after the other as a service does."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.display import Bar
from lessonlib.evaluation import Accuracy, label_logits_of_texts
from lessonlib.experiments.tickets import SHORT, tickets_task
from lessonlib.training.labels import LabelTask, label_logits
from lessonlib.training.questions import label_question

LONGEST = 200_000  # letters: what is longer is no message and would only keep the service busy


class AfternoonError(ValueError):
    """The afternoon cannot go on in this way; the message says why and what would do."""


class InputRefused(ValueError):
    """A text that the service does not answer; the message says why."""


def question(tokenizer, labels: Sequence[str]) -> LabelTask:
    """The labels as the words that the model is to say, named in the prompt where there is room (`label_question`).

    Raises AfternoonError for labels that cannot be told apart.
    """
    try:
        return label_question(tokenizer, labels)
    except ValueError as cause:
        raise AfternoonError(f"{cause}; change it in the file, or put classes together") from cause


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


# --- answer, one at a time -------------------------------------------------------------------------------------------


class Predictor:
    """Answers one text at a time, as a service does: the label, and the probability that the model gives it.

    Of a long text it reads what training read, the beginning (`LabelTask.encode`). Refuses by InputRefused what it was
    not made for: no text, an empty one, one of more than 200,000 letters.
    """

    def __init__(self, model: nn.Module, task: LabelTask):
        self.model, self.task = model.eval(), task

    def prompt(self, text: str) -> str:
        """What the model reads for a text. Raises InputRefused for one that is not answered."""
        if not isinstance(text, str):
            raise InputRefused(f"{type(text).__name__} is no text: give a string")
        if not text.strip():
            raise InputRefused("the text is empty: give at least one word")
        if len(text) > LONGEST:
            raise InputRefused(f"the text has {len(text):,} letters; at most {LONGEST:,} are taken: shorten it")
        return self.task.prompt(text)

    @torch.no_grad()
    def __call__(self, text: str) -> tuple[str, float]:
        self.prompt(text)
        batch = self.task.batch([self.task.encode(text)], [0]).to(next(self.model.parameters()).device)
        log_probs = label_logits(self.model, batch).float().log_softmax(-1)[0]
        label = int(log_probs.argmax())
        return self.task.labels[label], float(log_probs[label].exp())


BAD_INPUTS = {"no text": None, "empty": "", "blank": " \n\t", "too long": "word " * 50_000}


def answer_seconds(predictor: Predictor, texts: Sequence[str]) -> list[float]:
    """Seconds of each answer, one text after the other; texts that the predictor refuses are left out."""
    seconds = []
    for text in texts:
        began = time.perf_counter()
        try:
            predictor(text)
        except InputRefused:
            continue
        seconds.append(time.perf_counter() - began)
    return seconds


# --- what else it could do -------------------------------------------------------------------------------------------


class OffTaskScores(NamedTuple):
    """What a model does on other work: the topics of the course's tickets, and the loss of each of some replies."""

    topics: Accuracy
    losses: list[float]


@torch.no_grad()
def off_task_scores(model: nn.Module, tokenizer, tickets: int = 60, replies: int = 24) -> OffTaskScores:
    """The model's answers to what short tickets of the course are about, and its loss on replies, in nats a token."""
    every = corpora.tickets("test").rename_column("intent", "label")
    short = [index for index, text in enumerate(every["text"]) if len(text) <= SHORT]
    rows = every.select(short[:tickets])
    topics = ask(model, tickets_task(tokenizer), rows, "Topics of other texts").accuracy
    losses, device = [], next(model.parameters()).device
    for text in corpora.replies("test")["plain"][:replies]:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[:, :96].to(device)
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        losses.append(F.cross_entropy(logits, ids[0, 1:]).item())
    return OffTaskScores(topics, losses)
