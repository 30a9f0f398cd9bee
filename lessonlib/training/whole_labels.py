"""Labels of several tokens, scored whole behind a text: what they begin with alike is computed once, as a tree.

    score(label | text) = sum over i of log p(token i of the label | text, tokens before i)

The text stands first in its row; behind it the tree's inner tokens side by side, each blind to all but the text and the
tokens in front of it in its labels. Gradients go through all of it, so the same scores train.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lessonlib.models.reading import takes_masks

HEAD_ROWS = 256  # rows of the head's output that are held at once
NONE = -1  # stands behind the tokens of a shorter label


class _Tree(NamedTuple):
    """tokens, depths (K,) of the inner places; sees (K, K), which of them each may look at; and for each step within a
    label its place (0 the text's end, 1 + k the k-th inner place), its token, and which labels take it (labels, steps)."""

    tokens: torch.Tensor
    depths: torch.Tensor
    sees: torch.Tensor
    places: torch.Tensor
    following: torch.Tensor
    taken: torch.Tensor


def whole_label_scores(model: nn.Module, input_ids: torch.Tensor, last: torch.Tensor, labels: torch.Tensor):
    """Summed log-probability of each label behind each text, (N, C) float32.

    input_ids: (N, T), padded on the right. last: (N,) the place of each text's last token. labels: (C, L) their tokens,
    -1 behind the shorter ones.
    """
    if not takes_masks(model):
        return _one_by_one(model, input_ids, last, labels)
    tree = _tree(labels)
    size, width = input_ids.shape
    ids = torch.cat([input_ids, tree.tokens.expand(size, -1)], 1)
    places = torch.arange(width, device=ids.device)
    positions = torch.cat([places.expand(size, -1), last[:, None] + 1 + tree.depths], 1)
    hidden = model.get_decoder()(
        input_ids=ids,
        position_ids=positions,
        attention_mask=_mask(tree, last, width, next(model.parameters()).dtype),
        use_cache=False,
    ).last_hidden_state
    ends = hidden[torch.arange(size, device=ids.device), last]
    states = torch.cat([ends[:, None], hidden[:, width:]], 1)  # (N, 1 + K, D)
    return _log_probs(model, states, tree.places, tree.following) @ tree.taken.T


def _tree(labels: torch.Tensor) -> _Tree:
    inner: dict[tuple[int, ...], int] = {(): 0}  # a label's beginning to its place
    steps: dict[tuple[int, ...], int] = {}  # a beginning with one token more to its number
    rows = [[token for token in row if token != NONE] for row in labels.tolist()]
    for row in rows:
        for i in range(len(row)):
            inner.setdefault(tuple(row[:i]), len(inner))
            steps.setdefault(tuple(row[: i + 1]), len(steps))
    names = list(inner)[1:]
    sees = [[one[: len(other)] == other for other in names] for one in names]
    taken = [[float(tuple(row[: len(step)]) == step) for step in steps] for row in rows]
    tensor = lambda values, kind: torch.tensor(values, dtype=kind, device=labels.device)  # noqa: E731
    return _Tree(
        tensor([name[-1] for name in names], torch.long),
        tensor([len(name) - 1 for name in names], torch.long),
        tensor(sees, torch.bool).view(len(names), len(names)),
        tensor([inner[step[:-1]] for step in steps], torch.long),
        tensor([step[-1] for step in steps], torch.long),
        tensor(taken, torch.float32),
    )


def _mask(tree: _Tree, last: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention scores, (N, 1, T + K, T + K): a text's token sees those before it, an inner place
    the text and what it stands behind."""
    size, inner, places = len(last), len(tree.tokens), torch.arange(width, device=last.device)
    above = F.pad((places <= places[:, None]).expand(size, -1, -1), (0, inner))  # (N, T, T + K)
    text = (places <= last[:, None])[:, None].expand(-1, inner, -1)
    below = torch.cat([text, tree.sees.expand(size, -1, -1)], 2)  # (N, K, T + K)
    sees = torch.cat([above, below], 1)
    return torch.zeros(sees.shape, dtype=dtype, device=last.device).masked_fill(~sees, torch.finfo(dtype).min)[
        :, None
    ]


def _log_probs(model: nn.Module, states: torch.Tensor, places: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of tokens (E,) at places (E,) of states (N, S, D): (N, E) float32."""
    head = model.get_output_embeddings()

    def some(rows: torch.Tensor) -> torch.Tensor:
        return head(rows.contiguous()).float().log_softmax(-1)[:, places, tokens]

    # The whole vocabulary at every place: computed again in the backward pass, not kept.
    again = torch.is_grad_enabled() and states.requires_grad
    parts = states.split(max(1, HEAD_ROWS // states.shape[1]))
    return torch.cat([checkpoint(some, rows, use_reentrant=False) if again else some(rows) for rows in parts])


def _one_by_one(model: nn.Module, input_ids: torch.Tensor, last: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same scores the plain way, every label behind a copy of its text: for attention that knows no masks."""
    scores = []
    for label in labels:
        label = label[label != NONE]
        rows = [torch.cat([ids[: end + 1], label[:-1]]) for ids, end in zip(input_ids, last.tolist())]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        hidden = model.get_decoder()(input_ids=padded, use_cache=False).last_hidden_state
        where = last[:, None] + torch.arange(len(label), device=last.device)  # (N, L)
        states = hidden[torch.arange(len(last), device=last.device)[:, None], where]
        scores.append(_log_probs(model, states, torch.arange(len(label), device=last.device), label).sum(-1))
    return torch.stack(scores, 1)
