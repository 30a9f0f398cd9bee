"""A classification task as text completion: a template, one token a label, and only the logits that are needed.

A causal language model reads "Ticket: … Topic:" and the task asks which of a few words it expects next. Only the last
position of each text matters, so the head (49,152 rows) is applied to one vector a text and not to all of them.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

TEMPLATE = "Ticket: {text}\nTopic:"


@dataclass
class Batch:
    """Texts of one step: input_ids (N, T), padded on the right; last (N,) the place of each text's last token;
    targets (N,) the class numbers; label_ids (C,) the token of each class."""

    input_ids: torch.Tensor
    last: torch.Tensor
    targets: torch.Tensor
    label_ids: torch.Tensor

    def to(self, device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in vars(self).values()))


class LabelTask:
    """Texts and labels as prompts and label tokens.

    labels: the class names, in class-number order. verbalizer: the word that stands for each (None: the labels
    themselves). template: must hold "{text}" and end where the label would follow. A text longer than `max_tokens`
    loses its end, never the template's.

    Where two words begin with the same token, letters A, B, C … stand for the classes instead.

    Raises ValueError for a template without {text}, without labels, and where neither words nor letters tell the
    classes apart by their first token.
    """

    def __init__(
        self,
        tokenizer,
        labels: Sequence[str],
        verbalizer=None,
        template: str = TEMPLATE,
        max_tokens: int = 160,
    ):
        if "{text}" not in template:
            raise ValueError(f"the template {template!r} has no {{text}} in it")
        if not labels:
            raise ValueError("a task needs at least one label")
        self.tokenizer, self.labels = tokenizer, list(labels)
        self.template, self.max_tokens = template, max_tokens
        self.verbalizer = list(verbalizer or labels)
        first = self._first_tokens()
        if len(set(first)) < len(first):
            if len(self.labels) > 26:
                raise ValueError(
                    f"{len(self.labels)} labels, some beginning with the same token; 26 letters are too few"
                )
            self.verbalizer = [chr(ord("A") + i) for i in range(len(self.labels))]
            first = self._first_tokens()
            if len(set(first)) < len(first):
                raise ValueError(
                    "labels and letters alike begin with the same token in this tokenizer: give other words"
                )
        self.label_ids = torch.tensor(first)  # (C,)

    def write(self, directory: str | Path) -> None:
        """Write the prompt and its words as task.json, beside the adapter that was trained on them."""
        fields = {
            "template": self.template,
            "labels": self.labels,
            "words": self.verbalizer,
            "max_tokens": self.max_tokens,
        }
        (Path(directory) / "task.json").write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", "utf8")

    def _first_tokens(self) -> list[int]:
        # Label tokens are those of context + label beyond those of the context: where they meet, tokens may merge.
        context = self.template.format(text="x")
        begin = len(self._ids(context))
        return [self._ids(f"{context} {word}")[begin] for word in self.verbalizer]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def encode(self, text: str) -> list[int]:
        """The prompt's tokens."""
        ids = self._ids(self.template.format(text=text))
        if len(ids) > self.max_tokens:
            tail = self._ids(self.template.split("{text}")[1])
            ids = ids[: self.max_tokens - len(tail)] + tail
        return ids

    def batch(self, prompts: Sequence[list[int]], targets: Sequence[int]) -> Batch:
        """Encoded prompts as one padded batch."""
        longest = max(len(ids) for ids in prompts)
        padded = [ids + [self.tokenizer.pad_token_id] * (longest - len(ids)) for ids in prompts]
        last = [len(ids) - 1 for ids in prompts]
        return Batch(torch.tensor(padded), torch.tensor(last), torch.tensor(list(targets)), self.label_ids)

    def training_batches(self, texts, targets, *, steps: int, batch_size: int = 16, seed: int = 0) -> list[Batch]:
        """`steps` batches, epoch after epoch in new orders. Texts of like length share a batch, to pad less."""
        prompts, rng, out = [self.encode(text) for text in texts], random.Random(seed), []
        while len(out) < steps:
            order = list(range(len(prompts)))
            rng.shuffle(order)
            pool = 8 * batch_size
            chunks = [
                sorted(order[i : i + pool], key=lambda row: len(prompts[row])) for i in range(0, len(order), pool)
            ]
            rows = [chunk[i : i + batch_size] for chunk in chunks for i in range(0, len(chunk), batch_size)]
            rng.shuffle(rows)
            out += [self.batch([prompts[row] for row in group], [targets[row] for row in group]) for group in rows]
        return out[:steps]

    def evaluation_batches(self, texts, targets, *, batch_size: int = 32) -> tuple[list[Batch], list[int]]:
        """Batches of all texts, sorted by length; and the row number of each text in that order."""
        prompts = [self.encode(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        return [self.batch([prompts[row] for row in g], [targets[row] for row in g]) for g in groups], order


def label_logits(model, batch: Batch) -> torch.Tensor:
    """Logits of the label tokens behind each text, (N, C), for any causal model of transformers, PEFT's included."""
    # No attention mask: padding stands on the right, and a causal model's earlier tokens cannot see it.
    hidden = model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (N, T, D)
    last = hidden[torch.arange(len(batch.last), device=hidden.device), batch.last]  # (N, D), contiguous
    return model.get_output_embeddings()(last)[:, batch.label_ids]  # (N, C)


def label_loss(model, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the right label among the labels, averaged over the batch."""
    return F.cross_entropy(label_logits(model, batch).float(), batch.targets)
