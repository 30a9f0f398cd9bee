"""What the experiments on tickets share: the tasks, the shorter tickets, how a trained model is judged."""

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.evaluation import Accuracy, label_logits_of_texts
from lessonlib.runs import Run
from lessonlib.training import fit
from lessonlib.training.labels import LabelTask
from lessonlib.training.questions import label_question

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tickets_task(tokenizer, labels: list[str] | None = None) -> LabelTask:
    """The tickets' intents as the words that the model is to say, all named in the prompt; or labels of your own, as
    `label_question` asks for them, named where there is room."""
    if labels is not None and list(labels) != corpora.INTENTS:
        return label_question(tokenizer, labels, text="Ticket", label="Topic")
    labels = corpora.INTENTS
    words = [corpora.WORDS.get(name, name) for name in labels]
    template = f"Topics: {', '.join(words)}.\nTicket: {{text}}\nTopic:"
    return LabelTask(tokenizer, labels, words, template=template)


# The column of the tickets, the names of its classes, and what the prompt calls it.
TASKS = {
    "intent": (corpora.INTENTS, "Topic"),
    "sentiment": (corpora.SENTIMENTS, "Sentiment"),
    "urgency": (corpora.URGENCIES, "Urgency"),
}


SHORT = 180  # characters: three fifths of the training tickets


VALIDATION = 100  # tickets on which learning rates are chosen


def ticket_task(tokenizer, name: str = "intent") -> LabelTask:
    """One of the three tasks. The words to choose from are not listed in the prompt, which saves a third of the time."""
    labels, heading = TASKS[name]
    words = [corpora.WORDS.get(label, label) for label in labels]
    return LabelTask(tokenizer, labels, words, template=f"Ticket: {{text}}\n{heading}:")


def short_tickets(task: str = "intent", longest: int = SHORT) -> tuple[list[str], list[int]]:
    """Texts and labels of the training tickets of at most so many characters."""
    rows = corpora.tickets("train")
    pairs = [(text, label) for text, label in zip(rows["text"], rows[task]) if len(text) <= longest]
    return [text for text, _ in pairs], [label for _, label in pairs]


def judged(model: nn.Module, task: LabelTask, texts, targets) -> tuple[Accuracy, float]:
    """Accuracy, and the mean loss among the labels in nats, which also sees how sure a wrong answer is."""
    logits = label_logits_of_texts(model, task, texts)
    loss = F.cross_entropy(logits, torch.tensor(list(targets))).item()
    return Accuracy(logits.argmax(-1).tolist(), list(targets)), loss


def scores(model: nn.Module, task: LabelTask, name: str = "intent") -> dict:
    """What a run keeps of validation and test tickets, `name` being their column."""
    validation, test = corpora.tickets("validation").select(range(VALIDATION)), corpora.tickets("test")
    tried, tried_loss = judged(model, task, validation["text"], validation[name])
    score, loss = judged(model, task, test["text"], test[name])
    losses = {"validation_loss": round(tried_loss, 4), "test_loss": round(loss, 4)}
    return {"score": score, "validation": tried.value} | losses


def train_and_judge(
    model: nn.Module, tokenizer, task: str, seed: int, learning_rate: float, steps: int, batch_size: int
) -> dict:
    """Train what is trainable on the shorter tickets; the results of a run on validation and test tickets."""
    labelled = ticket_task(tokenizer, task)
    batches = labelled.training_batches(*short_tickets(task), steps=steps, batch_size=batch_size, seed=seed)
    history = fit(model, batches, learning_rate=learning_rate)
    return {"task": task} | scores(model, labelled, task) | history.results()


def test_intents(run: Run) -> list[int]:
    """The right answers of a run that was judged by the test tickets' intents, read anew from the data."""
    return list(corpora.tickets("test")["intent"])
