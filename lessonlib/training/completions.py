"""Prompts with their completions, to learn the completions alone: what instruction tuning trains on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


@dataclass
class CompletionBatch:
    """Prompts with their completions: input_ids (N, T), padded on the right, and targets (N, T), the token that follows
    each place where it belongs to the completion, else -100."""

    input_ids: torch.Tensor
    targets: torch.Tensor

    def to(self, device) -> "CompletionBatch":
        return CompletionBatch(self.input_ids.to(device), self.targets.to(device))


def completion_loss(model, batch: CompletionBatch) -> torch.Tensor:
    """Cross-entropy of the completions' tokens alone; the head sees only the places where one is asked for."""
    # No attention mask: padding stands on the right, and a causal model's earlier tokens cannot see it.
    hidden = model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    learned = batch.targets != -100
    return F.cross_entropy(model.get_output_embeddings()(hidden[learned]).float(), batch.targets[learned])


def completion_batches(
    tokenizer, pairs: Sequence[tuple[str, str]], steps: int, batch_size: int, seed: int
) -> list[CompletionBatch]:
    """`steps` batches of (prompt, completion), epoch after epoch; texts of like length share a batch, to pad less."""
    encoded = [_encode(tokenizer, *pair) for pair in pairs]
    rng, out = random.Random(seed), []
    while len(out) < steps:
        order = sorted(range(len(encoded)), key=lambda _: rng.random())
        pool = 8 * batch_size
        groups = []
        for i in range(0, len(order), pool):
            alike = sorted(order[i : i + pool], key=lambda row: len(encoded[row][0]))
            groups += [alike[j : j + batch_size] for j in range(0, len(alike), batch_size)]
        rng.shuffle(groups)
        out += [_batch([encoded[row] for row in group]) for group in groups]
    return out[:steps]


@torch.no_grad()
def mean_completion_loss(model, tokenizer, pairs: Sequence[tuple[str, str]]) -> float:
    """The mean loss of a token of the completions."""
    encoded = sorted((_encode(tokenizer, *pair) for pair in pairs), key=lambda row: len(row[0]))
    batches = [_batch(encoded[i : i + 10]).to(model.device) for i in range(0, len(encoded), 10)]
    tokens = [int((batch.targets != -100).sum()) for batch in batches]
    losses = [completion_loss(model, batch).item() for batch in batches]
    return sum(loss * n for loss, n in zip(losses, tokens)) / sum(tokens)


def _encode(tokenizer, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Ids without the last, and the next ids, of which only the completion's are learned."""
    begin = tokenizer(prompt, add_special_tokens=False).input_ids
    end = [*tokenizer(completion, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return begin + end[:-1], [-100] * (len(begin) - 1) + end


def _batch(rows) -> CompletionBatch:
    ids, targets = ([torch.tensor(row) for row in column] for column in zip(*rows))
    return CompletionBatch(
        pad_sequence(ids, batch_first=True), pad_sequence(targets, batch_first=True, padding_value=-100)
    )
