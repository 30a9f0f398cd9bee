"""A classification task as text completion: a template, one token a label, and only the logits that are needed.

A causal language model reads "Ticket: … Topic:" and the task asks which of a few words it expects next. Only the last
position of each text matters, so the head (49,152 rows) is applied to one vector a text and not to all of them.
"""

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from .whole_labels import NONE, whole_label_scores

TEMPLATE = "Ticket: {text}\nTopic:"
LEAST_ROOM = 16  # tokens that a template has to leave to the text


@dataclass
class Batch:
    """Texts of one step: input_ids (N, T), padded on the right; last (N,) the place of each text's last token;
    targets (N,) the class numbers; label_ids (C,) the token of each class, or (C, L) its tokens, -1 behind shorter ones."""

    input_ids: torch.Tensor
    last: torch.Tensor
    targets: torch.Tensor
    label_ids: torch.Tensor

    def to(self, device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in vars(self).values()))


class LabelTask:
    """Texts and labels as prompts and label tokens.

    labels: the class names, in class-number order. verbalizer: the word that stands for each (None: the labels
    themselves). template: must hold "{text}" once and end where the label would follow; the token that the tokenizer
    puts in front of every text by itself (<bos>) is put in front of it. A text longer than `max_tokens` loses its end,
    never the template's; `cut` counts such texts, `prompt` shows what is left of one.

    Each word is scored by its first token. Where two words begin with the same token, all are scored whole; and where
    one word begins another, with the line's end behind them, since the longer would never be the likelier.

    label_ids: (C,) the first tokens, or (C, L) all tokens, -1 behind the shorter ones. endings: what is scored behind
    the prompt, as text.

    Raises ValueError for a template without {text}, without labels, for a word that is empty or stands twice, and for
    a template that leaves fewer than 16 tokens to the text.
    """

    def __init__(
        self,
        tokenizer,
        labels: Sequence[str],
        verbalizer=None,
        template: str = TEMPLATE,
        max_tokens: int = 160,
    ):
        if template.count("{text}") != 1:
            how = "more than one" if "{text}" in template else "no"
            raise ValueError(f"the template {template!r} has {how} {{text}} in it")
        if not labels:
            raise ValueError("a task needs at least one label")
        bos = tokenizer.bos_token
        if bos and tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id] and not template.startswith(bos):
            template = bos + template
        self.tokenizer, self.labels = tokenizer, list(labels)
        self.template, self.max_tokens = template, max_tokens
        self.verbalizer = list(verbalizer or labels)
        words = Counter(self.verbalizer)
        if odd := next((word for word, count in words.items() if count > 1 or not word.strip()), None):
            raise ValueError(f"the word {odd!r} stands for {words[odd]} labels: give each label a word of its own")
        if self.room < LEAST_ROOM:
            raise ValueError(
                f"the prompt takes {max_tokens - self.room} of {max_tokens} tokens and leaves {max(self.room, 0)} to the "
                f"text; at least {LEAST_ROOM} are needed: name fewer labels in it, or raise max_tokens"
            )
        self.endings, self.label_ids = self._words_as_tokens()
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        control = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
        self._control = [token for token in sorted(control, key=len, reverse=True) if token]

    @property
    def room(self) -> int:
        """Tokens of a text that are read, beside the template's."""
        return self.max_tokens - len(self._ids(self.template.replace("{text}", "")))

    def write(self, directory: str | Path) -> None:
        """Write the prompt and its words as task.json, beside the adapter that was trained on them."""
        fields = {
            "template": self.template,
            "labels": self.labels,
            "words": self.verbalizer,
            "max_tokens": self.max_tokens,
        }
        (Path(directory) / "task.json").write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", "utf8")

    def _words_as_tokens(self) -> tuple[list[str], torch.Tensor]:
        # Label tokens are those of context + label beyond those of the context: where they meet, tokens may merge.
        context = self.template.replace("{text}", "x")
        begin = len(self._ids(context))

        def tokens(endings: list[str]) -> list[list[int]]:
            return [self._ids(context + ending)[begin:] for ending in endings]

        endings = [f" {word}" for word in self.verbalizer]
        rows = tokens(endings)
        if len({row[0] for row in rows}) == len(rows):
            return endings, torch.tensor([row[0] for row in rows])  # (C,)
        ordered = sorted(rows)
        if any(after[: len(before)] == before for before, after in itertools.pairwise(ordered)):
            endings = [ending + "\n" for ending in endings]
            rows = tokens(endings)
        longest = max(map(len, rows))
        return endings, torch.tensor([row + [NONE] * (longest - len(row)) for row in rows])  # (C, L)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _filled(self, text: str) -> str:
        # A control token that somebody has typed ("<|im_end|>") is a text's letters: a space keeps it from being one.
        for token in self._control:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return self.template.replace("{text}", text)  # not str.format: braces are only braces

    def encode(self, text: str) -> list[int]:
        """The prompt's tokens."""
        ids = self._ids(self._filled(text))
        if len(ids) > self.max_tokens:
            tail = self._ids(self.template.split("{text}")[1])
            ids = ids[: self.max_tokens - len(tail)] + tail
        return ids

    def prompt(self, text: str) -> str:
        """The prompt as text, for a server that has the tokenizer: what `encode` keeps of a long text is cut here too."""
        whole = self._filled(text)
        if len(self._ids(whole)) <= self.max_tokens:
            return whole
        tail = self.template.split("{text}")[1]
        kept = self.max_tokens - len(self._ids(tail))
        places = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        return whole[: places[kept - 1][1]] + tail

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than what is read of them."""
        return sum(len(self._ids(self._filled(text))) > self.max_tokens for text in texts)

    def batch(self, prompts: Sequence[list[int]], targets: Sequence[int]) -> Batch:
        """Encoded prompts as one padded batch."""
        longest = max(len(ids) for ids in prompts)
        padding = self.tokenizer.pad_token_id or 0  # any will do: nothing looks at it
        padded = [ids + [padding] * (longest - len(ids)) for ids in prompts]
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
    """Logits of the label tokens behind each text, (N, C), for any causal model of transformers, PEFT's included.

    Of labels that are scored whole these are the log-probabilities, summed over each label's tokens.
    """
    if batch.label_ids.dim() == 2:
        return whole_label_scores(model, batch.input_ids, batch.last, batch.label_ids)
    # No attention mask: padding stands on the right, and a causal model's earlier tokens cannot see it.
    hidden = model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (N, T, D)
    last = hidden[torch.arange(len(batch.last), device=hidden.device), batch.last]  # (N, D), contiguous
    return model.get_output_embeddings()(last)[:, batch.label_ids]  # (N, C)


def label_loss(model, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the right label among the labels, averaged over the batch."""
    return F.cross_entropy(label_logits(model, batch).float(), batch.targets)
