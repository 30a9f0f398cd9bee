"""A tiny model in the base's place, a few marked tickets in the tickets' place, and a note of all that the model reads.

A test calls an experiment and then asks what was read at training and at scoring, by the marks that stand in the texts
("test-3"), and what the model that is left behind answers. References are computed here, on whole texts, without
padding and without a shared prefix; nothing of them is shared with the experiments.
"""

import functools
import re
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from tiny_models import WORDS, tiny_model, tiny_tokenizer

from lessonlib import corpora
from lessonlib.experiments import experiments, find

SIZES = {"train": 24, "validation": 9, "test": 12}  # tickets a split: no two are equally many
LONG = 20  # from this training ticket on they are longer than those that the experiments call short
SHIFT = {"train": 0, "validation": 1, "test": 2}  # so that no split has the labels of another
MARK = re.compile(r"(train|validation|test)-(\d+)")
one_tokenizer = functools.cache(tiny_tokenizer)
# What the model chooses from: the words of the eight topics, written out.
TOPICS = "billing delivery refund technical account cancellation question feedback".split()
SENTIMENTS, URGENCIES = ["negative", "neutral", "positive"], ["low", "normal", "high"]
CHOICES = {"intent": TOPICS, "sentiment": SENTIMENTS, "urgency": URGENCIES}
CHAT = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}assistant:"


@functools.cache
def few_tickets(split: str) -> Dataset:
    """So many tickets as `SIZES` says, each with its own mark and three labels."""
    words, shift = WORDS.split()[:13], SHIFT[split]
    rows = []
    for i in range(SIZES[split]):
        text = f"{words[(5 * i + shift) % 13]} {split}-{i} {words[(7 * i + shift) % 13]}"
        if split == "train" and i >= LONG:
            text += " late" * 60
        intent, sentiment, urgency = (3 * i + 2 * shift) % 8, (i + shift) % 3, (i // 2 + shift) % 3
        rows.append({"id": f"{split}{i}", "text": text, "intent": intent, "sentiment": sentiment, "urgency": urgency})
    return Dataset.from_list(rows)


def labels(split: str, column: str = "intent", first: int | None = None) -> list[int]:
    """The right answers of a split's first tickets, all of them for None."""
    return few_tickets(split)[column][:first]


def texts(split: str, first: int | None = None) -> list[str]:
    return few_tickets(split)["text"][:first]


def marks(split: str, first: int | None = None) -> set[tuple[str, int]]:
    return {(split, i) for i in range(SIZES[split] if first is None else first)}


def marks_in(text: str) -> list[tuple[str, int]]:
    return [(split, int(number)) for split, number in MARK.findall(text)]


@functools.cache
def loaded() -> list:
    """All modules of experiments."""
    experiments()
    return [module for name, module in list(sys.modules.items()) if name.startswith("lessonlib.experiments.")]


def home(name: str):
    """The module that an experiment stands in."""
    return sys.modules[find(name).function.__module__]


@dataclass(repr=False)
class Base:
    """What stands in the base's place, and what was done with it."""

    layers: int = 2
    models: list = field(default_factory=list)  # as they were handed out, first to last
    reads: list = field(default_factory=list)  # (with gradients?, text) of each row that an embedding saw
    fits: list = field(default_factory=list)  # (model, batches, settings) of each training
    splits: list = field(default_factory=list)  # of the tickets that were asked for
    tokenizer: object = field(default_factory=lambda: one_tokenizer())

    def fresh(self):
        """The base once more, unwatched. Its weights are wide, so that its answers differ from text to text."""
        return tiny_model(max_position_embeddings=4096, num_hidden_layers=self.layers, initializer_range=0.2)

    def load(self, *_, **__):
        """In the place of `load_base`, whatever it is asked for."""
        self.models.append(self.watch(self.fresh()))
        return self.models[-1], self.tokenizer

    def watch(self, model):
        def note(module, inputs):
            rows = inputs[0].tolist()
            for row in rows:
                self.reads.append((torch.is_grad_enabled(), self.tokenizer.decode(row)))

        model.get_input_embeddings().register_forward_pre_hook(note)
        return model

    def read(self, with_gradients: bool | None = None) -> list[str]:
        """The texts that any of the models read, in their order; None: both at training and at scoring."""
        return [text for grad, text in self.reads if with_gradients in (None, grad)]

    @property
    def trained_on(self) -> set:
        """The marks of the tickets that were read with gradients."""
        return {mark for text in self.read(True) for mark in marks_in(text)}

    @property
    def scored_on(self) -> set:
        """The marks of the tickets that were read without gradients."""
        return {mark for text in self.read(False) for mark in marks_in(text)}

    def lessons(self) -> list[tuple[tuple[str, int], int]]:
        """(mark, target) of each text in all batches that any training was given."""
        return [
            (marks_in(self.tokenizer.decode(row))[0], target)
            for _, batches, _ in self.fits
            for batch in batches
            for row, target in zip(batch.input_ids.tolist(), batch.targets.tolist())
        ]

    # --- references ----------------------------------------------------------------------------------------------

    def answers(self, model, prompts: list[str], words: list[str]) -> list[int]:
        """By the first token of each word behind each prompt, never padded; whole words where two begin alike."""
        ids = [self.tokenizer(f" {word}").input_ids[0] for word in words]
        if len(set(ids)) < len(ids):
            return self.log_probs(model, prompts, words).argmax(-1).tolist()
        rows, found = [self.tokenizer(prompt).input_ids for prompt in prompts], {}
        for length in {len(row) for row in rows}:  # prompts of one length in one pass
            alike = [i for i, row in enumerate(rows) if len(row) == length]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([rows[i] for i in alike])).logits[:, -1, ids]
            found |= dict(zip(alike, logits.argmax(-1).tolist()))
        return [found[i] for i in range(len(prompts))]

    def log_probs(self, model, prompts: list[str], words: list[str]) -> np.ndarray:
        """The log-probability of each whole word behind each prompt, never padded: (prompts, words)."""
        begins = [self.tokenizer(prompt).input_ids for prompt in prompts]
        ends = [self.tokenizer(f" {word}").input_ids for word in words]
        table, cells = np.zeros((len(prompts), len(words))), {}
        for i, begin in enumerate(begins):
            for j, end in enumerate(ends):
                cells.setdefault(len(begin + end), []).append((i, j))
        for alike in cells.values():  # texts of one length in one pass
            with torch.no_grad():
                rows = torch.tensor([begins[i] + ends[j] for i, j in alike])
                logs = model(input_ids=rows).logits.double().log_softmax(-1)
            for row, (i, j) in zip(logs, alike):
                places = range(len(begins[i]) - 1, len(begins[i]) + len(ends[j]) - 1)
                table[i, j] = sum(row[place, token].item() for place, token in zip(places, ends[j]))
        return table


def put(monkeypatch, name: str, value, was: type = object) -> None:
    """Set this name in every module of experiments that has it (and has a `was` there); at least one has."""
    having = [module for module in loaded() if name in vars(module) and isinstance(vars(module)[name], was)]
    assert having, f"no module of experiments has a {was.__name__} called {name}: what is it called now?"
    for module in having:
        monkeypatch.setattr(module, name, value)


def get(name: str):
    """What bears this name in the experiments, whichever module it stands in."""
    having = [vars(module)[name] for module in loaded() if name in vars(module)]
    assert having, f"no module of experiments has a {name}: what is it called now?"
    return having[0]


def forget() -> None:
    """Empty what experiments keep of a model or of tickets from one call to the next."""
    for module in loaded():
        for name, thing in vars(module).items():
            if ".lesson" in module.__name__ and hasattr(thing, "cache_clear") and name not in LASTING:
                thing.cache_clear()


LASTING = {"hands", "can_make_24"}  # no model and no ticket is in them, and they take seconds


def stand_in(monkeypatch) -> Base:
    """Put a `Base` and a few tickets in the place of the real ones, for one test."""
    base = Base()

    def tickets(split: str) -> Dataset:
        base.splits.append(split)
        return few_tickets(split)

    def watching(real):
        def fit(model, batches, **settings):
            base.fits.append((model, list(batches), settings))
            return real(model, batches, **settings)

        return fit

    forget()
    monkeypatch.setattr(corpora, "tickets", tickets)
    put(monkeypatch, "load_base", base.load)
    for module in loaded():
        if "fit" in vars(module):
            monkeypatch.setattr(module, "fit", watching(module.fit))
    return base
