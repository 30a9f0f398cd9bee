"""The experiments of notebook 03 on one prompt: its words, its separator, its instruction, its examples and their order.

The task of the grid is sentiment with two classes, as in Zhao et al. (2021): negative or positive, equally many of each,
so that a prompt that always says the same is right half the time. `python -m lessonlib.experiments lesson03_prompts` records
what is missing; it resumes where it was stopped.
"""

import functools
import itertools
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.evaluation import Accuracy
from lessonlib.models import load_base
from lessonlib.prompting import (
    CONTENT_FREE,
    FewShotPrompt,
    score_labels,
)
from lessonlib.runs import Run, load_runs

from .registry import experiment, record

TEMPLATE = "Ticket: {text}\nSentiment:"
CLASSES = (0, 2)  # of corpora.SENTIMENTS; the class numbers here are 0 negative, 1 positive
WORDS = {
    "negative / positive": ["negative", "positive"],
    "bad / good": ["bad", "good"],
    "unhappy / happy": ["unhappy", "happy"],
    "0 / 1": ["0", "1"],
}
SEPARATORS = {"blank line": "\n\n", "###": "\n###\n"}
INSTRUCTIONS = {
    "none": "",
    "task": "Decide how the customer feels.",
    "task and words": "Decide how the customer feels: {0} or {1}.",
}
# The four examples of a draw are two negative tickets, 0 and 1, and two positive ones, 2 and 3.
ORDERS = {"NNPP": (0, 1, 2, 3), "PPNN": (2, 3, 0, 1), "NPNP": (0, 2, 1, 3), "PNPN": (2, 0, 3, 1)}
FACTORS = {"words": "label words", "separator": "separator", "instruction": "instruction", "order": "order"}
EXAMPLE_CHARACTERS = 140  # longer tickets are left out as examples, so that a prompt stays cheap


def sentiments_of_split(run: Run) -> list[int]:
    """The right answers of a run on the sentiment tickets of its split, read anew from the data."""
    return sentiment_tickets(run.settings["split"])[1]


class Float32Head(nn.Module):
    """The output layer in float32, whatever the model's dtype.

    x (..., D) -> (..., V)

    A logit near 16 moves in steps of 1/8 in bfloat16, so two labels often tie and the first of them would win.
    """

    def __init__(self, head: nn.Linear):
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().float(), requires_grad=False)

    def forward(self, x):
        return F.linear(x.float(), self.weight)


def exact_head(model: nn.Module) -> nn.Module:
    """The model with its output layer in float32; the layers below stay as they are."""
    model.set_output_embeddings(Float32Head(model.get_output_embeddings()))
    return model


def sentiment_tickets(split: str = "validation") -> tuple[list[str], list[int]]:
    """Texts and targets (0 negative, 1 positive) of a split, as many of each as the rarer class has, in their order."""
    rows = corpora.tickets(split)
    of_class = [[i for i, label in enumerate(rows["sentiment"]) if label == c] for c in CLASSES]
    few = min(map(len, of_class))
    chosen = sorted(i for group in of_class for i in group[:few])
    texts = rows["text"]
    return [texts[i] for i in chosen], [CLASSES.index(rows["sentiment"][i]) for i in chosen]


@functools.cache
def example_pool() -> list[list[str]]:
    """The short training tickets of either class, from which examples are drawn."""
    rows = corpora.tickets("train")
    short = [(text, label) for text, label in zip(rows["text"], rows["sentiment"]) if len(text) <= EXAMPLE_CHARACTERS]
    return [[text for text, label in short if label == c] for c in CLASSES]


def draw_examples(labels: str, seed: int = 0) -> list[tuple[str, int]]:
    """Training tickets with these labels in this order, such as "NNPP": (text, class) pairs.

    One seed gives the same negative and the same positive tickets in the same order, whatever the labels are.
    """
    rng = random.Random(seed)
    drawn = [iter(rng.sample(group, len(group))) for group in example_pool()]
    return [(next(drawn["NP".index(letter)]), "NP".index(letter)) for letter in labels]


def make_prompt(words: str, separator: str, instruction: str, examples: Sequence[tuple[str, int]]) -> FewShotPrompt:
    """A prompt of the grid from the names of its parts."""
    labels = WORDS[words]
    shown = [(text, labels[label]) for text, label in examples]
    return FewShotPrompt(labels, shown, INSTRUCTIONS[instruction].format(*labels), TEMPLATE, SEPARATORS[separator])


def prompt_of(run: Run) -> FewShotPrompt:
    """The prompt of a recorded cell of the grid."""
    drawn, parts = draw_examples("NNPP"), run.settings
    examples = [drawn[i] for i in ORDERS[parts["order"]]]
    return make_prompt(parts["words"], parts["separator"], parts["instruction"], examples)


@functools.cache
def in_domain(n: int = 8, words: int = 12) -> tuple[str, ...]:
    """Texts without sense from the tickets' own words (Fei et al., 2023, arXiv:2305.19148, section 4)."""
    rng, pool = random.Random(0), " ".join(corpora.tickets("train")["text"]).split()
    return tuple(" ".join(rng.choices(pool, k=words)) for _ in range(n))


@functools.cache
def scorer():
    """The base model with an exact head, and its tokenizer: what scores every prompt; nobody changes it."""
    model, tokenizer = load_base()
    return exact_head(model), tokenizer


def score_prompt(model, tokenizer, prompt: FewShotPrompt, texts: Sequence[str], progress=lambda done: None):
    """Log-probabilities of the labels behind each text, (texts, labels)."""
    queries = [prompt.query(text) for text in texts]
    return score_labels(model, tokenizer, prompt.prefix, queries, prompt.endings, progress=progress)


def prompt_results(prompt: FewShotPrompt, split: str) -> dict:
    """A prompt's score on the sentiment tickets; its raw scores, and those of inputs without content."""
    texts, targets = sentiment_tickets(split)
    empty = [*CONTENT_FREE, *in_domain()]
    scores = score_prompt(*scorer(), prompt, [*empty, *texts])
    rounded = [[round(value, 3) for value in row] for row in scores.tolist()]
    return {
        "score": Accuracy(scores[len(empty) :].argmax(1).tolist(), targets),
        "content_free": rounded[: len(CONTENT_FREE)],
        "in_domain": rounded[len(CONTENT_FREE) : len(empty)],
        "log_probs": rounded[len(empty) :],
        "tokens": prompt.tokens(scorer()[1]),
    }


# --- what a session and its recorded runs hold ------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoClasses:
    """Texts to tell apart: two label words, texts with targets 0 and 1, and four examples, two of each class."""

    words: list[str]
    texts: list[str]
    targets: list[int]
    examples: list[tuple[str, str]]

    def prompt(self, order: Sequence[int], **parts) -> FewShotPrompt:
        """The examples in an order such as (0, 2, 1, 3), the tickets' template around them."""
        return FewShotPrompt(self.words, [self.examples[i] for i in order], template=TEMPLATE, **parts)


def two_classes(session) -> TwoClasses:
    """Negative and positive tickets; with a file of the learner's own, its first two labels, at most 60 texts."""
    if session.data is None:
        words, (texts, targets) = WORDS["negative / positive"], sentiment_tickets()
        drawn = draw_examples("NNPP")
    else:
        words, (texts, targets) = session.labels[:2], _of_two(session.tickets("validation"), 30)
        drawn = sorted(zip(*_of_two(session.tickets("train"), 2)), key=lambda example: example[1])
    return TwoClasses(words, texts, targets, [(text, words[label]) for text, label in drawn])


def _of_two(rows, most: int) -> tuple[list[str], list[int]]:
    first, second = ([i for i, label in enumerate(rows["label"]) if label == c][:most] for c in (0, 1))
    chosen = sorted(first + second)
    return [rows["text"][i] for i in chosen], [rows["label"][i] for i in chosen]


def recorded_scores(run: Run, inputs: str = "content_free") -> tuple[torch.Tensor, torch.Tensor]:
    """A recorded prompt's scores of the tickets, and of "content_free" or "in_domain" inputs: log-probabilities.

    Where each ticket had a prompt of its own, so has each its own row of inputs: (tickets, inputs, labels).
    """
    return torch.tensor(run.results["log_probs"]), torch.tensor(run.results[inputs])


def read_again(run: Run, calibrated: Callable, inputs: str = "content_free") -> Accuracy:
    """A recorded prompt's answers when `calibrated(scores, empty)` reads its scores."""
    scores, empty = recorded_scores(run, inputs)
    if empty.dim() == 3:
        q = torch.cat([calibrated(score[None], own) for score, own in zip(scores, empty, strict=True)])
    else:
        q = calibrated(scores, empty)
    return Accuracy(q.argmax(-1).tolist(), run.score["targets"])


def recorded_grid() -> list[Run]:
    """All recorded cells of the grid that hold examples."""
    return [run for run in load_runs("prompt_grid") if run.settings["order"]]


def zero_shot_runs() -> list[Run]:
    """The recorded prompts without examples and without an instruction, in the order of `WORDS`."""
    runs = load_runs("prompt_grid", order="", instruction="none")
    return sorted(runs, key=lambda run: list(WORDS).index(run.settings["words"]))


def order_name(run: Run) -> str:
    """An order of the four examples as letters with their numbers' labels, such as "N1 P1 N2 P2"."""
    return " ".join(("N1", "N2", "P1", "P2")[i] for i in run.settings["order"])


def _alike_but_for(factors: Sequence[str], cells: Sequence[tuple[dict, float]]) -> list[list[float]]:
    groups = defaultdict(list)
    for settings, value in cells:
        groups[tuple(settings[name] for name in FACTORS if name not in factors)].append(value)
    return list(groups.values())


def swings(cells: Sequence[tuple[dict, float]], factor: str) -> list[float]:
    """Best minus worst accuracy over the levels of one factor, for each choice of the others. cells: settings, value."""
    return [max(values) - min(values) for values in _alike_but_for([factor], cells)]


def spread(cells: Sequence[tuple[dict, float]], *factors: str) -> float:
    """Standard deviation over all levels of these factors, the mean over the choices of the others."""
    return statistics.mean(statistics.stdev(values) for values in _alike_but_for(factors, cells))


def toggles(grid: Sequence[Run], calibrated: Callable):
    """What `figures.prompt_toggles` asks for: the lists, the prompt's text, the accuracy of its recorded cell."""
    cells = {tuple(run.settings[name] for name in FACTORS): run for run in grid}
    lists = {title: list(dict.fromkeys(key[i] for key in cells)) for i, title in enumerate(FACTORS.values())}

    def text(words, separator, instruction, order):
        return str(prompt_of(cells[words, separator, instruction, order]))

    def measured(*parts):
        run = cells[parts]
        ways = {"as it is": run.answers(), "calibrated": read_again(run, calibrated)}
        return {name: (accuracy.value, *accuracy.interval) for name, accuracy in ways.items()}

    worst = min(cells, key=lambda key: cells[key].accuracy)
    return lists, text, measured, grid[0].score["n"], worst


# --- the prompt ------------------------------------------------------------------------------------------------------


@experiment(right_answers=sentiments_of_split)
def prompt_grid(words: str, separator: str, instruction: str, order: str, split: str) -> dict:
    """One cell of the grid: the same four examples in one order, or none at all for the order ""."""
    drawn = draw_examples("NNPP")
    examples = [drawn[i] for i in ORDERS[order]] if order else []
    return prompt_results(make_prompt(words, separator, instruction, examples), split)


@experiment(right_answers=sentiments_of_split)
def example_orders(words: str, order: list[int], seed: int, split: str) -> dict:
    """The four examples of a draw in one of their 24 orders."""
    drawn = draw_examples("NNPP", seed)
    return prompt_results(make_prompt(words, "blank line", "none", [drawn[i] for i in order]), split)


@experiment(right_answers=sentiments_of_split)
def label_balance(words: str, labels: str, seed: int, split: str) -> dict:
    """Four examples with these labels: "PPPN" is three positive tickets and then a negative one."""
    return prompt_results(make_prompt(words, "blank line", "none", draw_examples(labels, seed)), split)


# --- which runs are recorded -----------------------------------------------------------------------------------------


def grid_cells() -> list[dict]:
    """The settings of all cells of the grid, and of the prompts without examples."""
    parts = itertools.product(WORDS, SEPARATORS, INSTRUCTIONS, ORDERS)
    cells = [dict(zip(("words", "separator", "instruction", "order"), part)) for part in parts]
    bare = [
        {"words": words, "separator": "blank line", "instruction": instruction, "order": ""}
        for words, instruction in itertools.product(WORDS, INSTRUCTIONS)
    ]
    return bare + cells


def record_all() -> None:
    """Record every prompt, order and balance that is not there yet, on the validation tickets: they choose a prompt."""
    on = {"split": "validation"}
    words = {"words": "negative / positive"}
    for order in itertools.permutations(range(4)):
        record("example_orders", **words, order=list(order), seed=0, **on)
    for cell in grid_cells():
        record("prompt_grid", **cell, **on)
    for seed, labels in itertools.product(range(2), map("".join, itertools.product("NP", repeat=4))):
        record("label_balance", **words, labels=labels, seed=seed, **on)
