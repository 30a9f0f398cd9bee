"""The experiments of notebook 03: one prompt scored on the tickets, several ways to choose it, and learned prompts.

The task of the grid is sentiment with two classes, as in Zhao et al. (2021): negative or positive, equally many of each,
so that a prompt that always says the same is right half the time. `python -m lessonlib.experiments.lesson03_prompts` records
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
from lessonlib.evaluation import Accuracy, accuracy, training_bytes
from lessonlib.models import load_base
from lessonlib.prompting import (
    CONTENT_FREE,
    FewShotPrompt,
    calibrate,
    complete,
    score_labels,
    select_diverse,
    select_random,
    select_similar,
)
from lessonlib.prompting.soft_prompts import Prefix, SoftPrompt, add_prefix, add_prompt
from lessonlib.runs import Run, load_runs
from lessonlib.training import fit, seed_everything

from .registry import experiment, record
from .tickets import test_intents, tickets_task
from .trials import best_rate
from .trials import chosen as chosen  # the notebook asks for it here

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


def _sentiments_of_split(run: Run) -> list[int]:
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
    places = [[i for i, label in enumerate(rows["sentiment"]) if label == c] for c in CLASSES]
    few = min(map(len, places))
    kept = sorted(i for group in places for i in group[:few])
    texts = rows["text"]
    return [texts[i] for i in kept], [CLASSES.index(rows["sentiment"][i]) for i in kept]


@functools.cache
def _pool() -> list[list[str]]:
    rows = corpora.tickets("train")
    short = [
        (text, label)
        for text, label in zip(rows["text"], rows["sentiment"])
        if len(text) <= EXAMPLE_CHARACTERS
    ]
    return [[text for text, label in short if label == c] for c in CLASSES]


def draw_examples(labels: str, seed: int = 0) -> list[tuple[str, int]]:
    """Training tickets with these labels in this order, such as "NNPP": (text, class) pairs.

    One seed gives the same negative and the same positive tickets in the same order, whatever the labels are.
    """
    rng = random.Random(seed)
    drawn = [iter(rng.sample(group, len(group))) for group in _pool()]
    return [(next(drawn["NP".index(letter)]), "NP".index(letter)) for letter in labels]


def make_prompt(
    words: str, separator: str, instruction: str, examples: Sequence[tuple[str, int]]
) -> FewShotPrompt:
    """A prompt of the grid from the names of its parts."""
    labels = WORDS[words]
    shown = [(text, labels[label]) for text, label in examples]
    return FewShotPrompt(
        labels, shown, INSTRUCTIONS[instruction].format(*labels), TEMPLATE, SEPARATORS[separator]
    )


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
def _scorer():
    model, tokenizer = load_base()
    return exact_head(model), tokenizer


def score_prompt(model, tokenizer, prompt: FewShotPrompt, texts: Sequence[str], progress=lambda done: None):
    """Log-probabilities of the labels behind each text, (texts, labels)."""
    queries = [prompt.query(text) for text in texts]
    return score_labels(model, tokenizer, prompt.prefix, queries, prompt.endings, progress=progress)


def _measured(prompt: FewShotPrompt, split: str) -> dict:
    """A prompt's score on the sentiment tickets; its raw scores, and those of inputs without content."""
    texts, targets = sentiment_tickets(split)
    empty = [*CONTENT_FREE, *in_domain()]
    scores = score_prompt(*_scorer(), prompt, [*empty, *texts])
    rounded = [[round(value, 3) for value in row] for row in scores.tolist()]
    return {
        "score": Accuracy(scores[len(empty) :].argmax(1).tolist(), targets),
        "content_free": rounded[: len(CONTENT_FREE)],
        "in_domain": rounded[len(CONTENT_FREE) : len(empty)],
        "log_probs": rounded[len(empty) :],
        "tokens": prompt.tokens(_scorer()[1]),
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
    places = [[i for i, label in enumerate(rows["label"]) if label == c][:most] for c in (0, 1)]
    kept = sorted(places[0] + places[1])
    return [rows["text"][i] for i in kept], [rows["label"][i] for i in kept]


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
        return {name: (found.value, *found.interval) for name, found in ways.items()}

    worst = min(cells, key=lambda key: cells[key].accuracy)
    return lists, text, measured, grid[0].score["n"], worst


# --- the prompt ------------------------------------------------------------------------------------------------------


@experiment(right_answers=_sentiments_of_split)
def prompt_grid(words: str, separator: str, instruction: str, order: str, split: str) -> dict:
    """One cell of the grid: the same four examples in one order, or none at all for the order ""."""
    drawn = draw_examples("NNPP")
    examples = [drawn[i] for i in ORDERS[order]] if order else []
    return _measured(make_prompt(words, separator, instruction, examples), split)


@experiment(right_answers=_sentiments_of_split)
def example_orders(words: str, order: list[int], seed: int, split: str) -> dict:
    """The four examples of a draw in one of their 24 orders."""
    drawn = draw_examples("NNPP", seed)
    return _measured(make_prompt(words, "blank line", "none", [drawn[i] for i in order]), split)


@experiment(right_answers=_sentiments_of_split)
def label_balance(words: str, labels: str, seed: int, split: str) -> dict:
    """Four examples with these labels: "PPPN" is three positive tickets and then a negative one."""
    return _measured(make_prompt(words, "blank line", "none", draw_examples(labels, seed)), split)


# --- which examples --------------------------------------------------------------------------------------------------

SHOTS = 4
WAYS = {
    "none": 1,
    "random": 5,
    "random, two of each": 5,
    "diverse": 5,
    "edge cases": 1,
    "half edge cases": 5,
    "similar": 1,
}


def edge_cases(k: int) -> list[tuple[str, int]]:
    """Training tickets that the model, without examples, is most surely wrong about; as many of either class."""
    negative, positive = _pool()
    texts, labels = negative[: len(positive)] + positive, [0] * len(positive) + [1] * len(positive)
    bare = make_prompt("negative / positive", "blank line", "none", [])
    scores = score_prompt(*_scorer(), bare, [*CONTENT_FREE, *texts])
    odds = calibrate(scores[3:], scores[:3])[:, 1]  # log-probability of "positive", the bias divided out
    order = odds.argsort().tolist()
    wrong = [[i for i in order[::-1] if labels[i] == 0], [i for i in order if labels[i] == 1]]
    return [(texts[i], labels[i]) for pair in zip(*wrong) for i in pair][:k]


def choose_examples(way: str, seed: int, queries: Sequence[str]) -> list[list[tuple[str, int]]]:
    """Four examples for each query, or one list that serves all, by one of the `WAYS`."""
    pool = [(text, label) for label, group in enumerate(_pool()) for text in group]
    texts = [text for text, _ in pool]
    if way == "similar":
        return [[pool[i] for i in rows] for rows in select_similar(texts, list(queries), SHOTS)]
    if way in ("random", "diverse"):
        select = {"random": select_random, "diverse": select_diverse}[way]
        return [[pool[i] for i in select(texts, SHOTS, seed)]]
    one = {
        "none": list,
        "random, two of each": lambda: draw_examples("PNPN", seed),
        "edge cases": lambda: edge_cases(SHOTS),
        "half edge cases": lambda: edge_cases(2) + draw_examples("PN", seed),
    }[way]()
    return [one]


@experiment(right_answers=_sentiments_of_split)
def examples_chosen(way: str, seed: int, split: str) -> dict:
    """Four examples chosen at random, by likeness to each query, as unlike as can be, or hard."""
    texts, targets = sentiment_tickets(split)
    groups = choose_examples(way, seed, texts)
    prompts = [make_prompt("negative / positive", "blank line", "none", group) for group in groups]
    if len(prompts) == 1:
        return _measured(prompts[0], split) | {"labels": [[label for _, label in groups[0]]]}
    model, tokenizer = _scorer()
    scores = torch.stack(
        [
            score_prompt(model, tokenizer, p, [*CONTENT_FREE, text])
            for p, text in zip(prompts, texts, strict=True)
        ]
    )
    rounded = [[[round(value, 3) for value in row] for row in group] for group in scores.tolist()]
    agree = [sum(label == target for _, label in group) for group, target in zip(groups, targets)]
    return {
        "score": Accuracy(scores[:, -1].argmax(1).tolist(), targets),
        "content_free": [group[:-1] for group in rounded],
        "log_probs": [group[-1] for group in rounded],
        "labels": [[label for _, label in group] for group in groups],
        "same_label": sum(agree) / (SHOTS * len(agree)),
        "tokens": max(prompt.tokens(tokenizer) for prompt in prompts),
    }


# --- the form of the answer ------------------------------------------------------------------------------------------

# The query; how many examples stand in front of it; what stands around an example's word.
FORMS = {
    "open question": ("{text}\n\nHow does this customer feel?", 0, ("", "")),
    "words named": ("{text}\n\nIs this customer unhappy or happy? Answer with one word:", 0, ("", "")),
    "four examples": ("Ticket: {text}\nSentiment:", 4, (" ", "")),
    "four examples as JSON": ('Ticket: {text}\nJSON: {"sentiment":', 4, (' "', '"}')),
}


def parse_word(answer: str, words: Sequence[str]) -> int | None:
    """The class of an answer that is one of the words and nothing else on its first line; None for any other.

    >>> parse_word(" happy.", ["unhappy", "happy"]), parse_word(" I am not happy", ["unhappy", "happy"])
    (1, None)
    """
    said = answer.strip().partition("\n")[0].strip(' .!"}').lower()
    return list(words).index(said) if said in words else None


def form_prompt(form: str, text: str) -> str:
    """A whole prompt of one of the `FORMS` for a text."""
    template, shots, (before, after) = FORMS[form]
    words = WORDS["unhappy / happy"]
    shown = [
        template.replace("{text}", example) + before + words[label] + after + "\n\n"
        for example, label in draw_examples("PNPN"[:shots])
    ]
    return "".join(shown) + template.replace("{text}", text)


@experiment(right_answers=_sentiments_of_split)
def answer_form(form: str, split: str) -> dict:
    """What the model writes by itself, and the share of it that a strict reader can use."""
    texts, targets = sentiment_tickets(split)
    model, tokenizer = load_base()
    prompts = [form_prompt(form, text) for text in texts]
    written = complete(model, tokenizer, prompts, max_new_tokens=8, stop=["\n\n", "Ticket:"])
    read = [parse_word(answer, WORDS["unhappy / happy"]) for answer in written]
    return {
        "score": Accuracy([-1 if label is None else label for label in read], targets),
        "parsed": sum(label is not None for label in read) / len(read),
        "written": written,
    }


# --- learned prompts -------------------------------------------------------------------------------------------------

START = "Sort the customer's support ticket by its topic. Topic:"
TOKENS = 16
STEPS = {"tokens": TOKENS, "steps": 40, "batch_size": 8}
LONG = STEPS | {"steps": 120}
RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SEEDS = (0, 1)


def _learned(model, tokenizer, *, learning_rate: float, steps: int, batch_size: int, seed: int) -> dict:
    task, rows = tickets_task(tokenizer), corpora.tickets("train")
    batches = task.training_batches(
        rows["text"], rows["intent"], steps=steps, batch_size=batch_size, seed=seed
    )
    history = fit(model, batches, learning_rate=learning_rate)
    scores = {}
    for split in ("validation", "test"):
        asked = corpora.tickets(split)
        scores[split] = accuracy(model, task, asked["text"], asked["intent"])
    found = {"score": scores["test"], "validation": scores["validation"].value}
    return found | history.results() | {"bytes": training_bytes(model)}


@experiment(right_answers=test_intents)
def prompt_tuning(tokens: int, learning_rate: float, steps: int, batch_size: int, seed: int) -> dict:
    """Prompt tuning on the tickets' intents, from the embeddings of a sentence about the task."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_prompt(model, tokens, tokenizer(START).input_ids, module=SoftPrompt)
    return _learned(
        model, tokenizer, learning_rate=learning_rate, steps=steps, batch_size=batch_size, seed=seed
    )


@experiment(right_answers=test_intents)
def prefix_tuning(
    tokens: int, learning_rate: float, steps: int, batch_size: int, seed: int, start: str = "text"
) -> dict:
    """Prefix tuning on the tickets' intents, from the keys and values of a sentence ("text") or from noise ("random")."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_prefix(model, tokens, tokenizer(START).input_ids if start == "text" else None, module=Prefix)
    return _learned(
        model, tokenizer, learning_rate=learning_rate, steps=steps, batch_size=batch_size, seed=seed
    )


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


def record_prompts() -> None:
    """Record what needs no training, on the validation tickets: a prompt is chosen on them, and tried on the test's."""
    on = {"split": "validation"}
    words = {"words": "negative / positive"}
    for order in itertools.permutations(range(4)):
        record("example_orders", **words, order=list(order), seed=0, **on)
    for cell in grid_cells():
        record("prompt_grid", **cell, **on)
    for form in FORMS:
        record("answer_form", form=form, **on)
    for seed, labels in itertools.product(range(2), map("".join, itertools.product("NP", repeat=4))):
        record("label_balance", **words, labels=labels, seed=seed, **on)
    for way, draws in WAYS.items():
        for seed in range(draws):
            record("examples_chosen", way=way, seed=seed, **on)


def record_learned() -> None:
    """Record the learned prompts: five learning rates each on validation; at the best another seed, and more steps."""
    names = ("prompt_tuning", "prefix_tuning")
    for rate, name in itertools.product(RATES, names):
        record(name, learning_rate=rate, seed=0, **STEPS)
    for name in names:
        rate = best_rate(name, **STEPS)
        for seed in SEEDS[1:]:
            record(name, learning_rate=rate, seed=seed, **STEPS)
        record(name, learning_rate=rate, seed=0, **LONG)


def record_all() -> None:
    """Record every run that notebook 03 draws from and that is not there yet."""
    record_prompts()
    record_learned()
