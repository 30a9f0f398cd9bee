"""The scoring of label words.

    score(label | text) = sum over i of log p(token i of the label | prefix, query, tokens before i)

All queries stand behind the same prefix. What their tokens have in common is computed once, and its keys and values
serve every query; the labels of a query stand side by side in one row, each blind to the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache

from lessonlib.models.reading import head_logits, takes_masks, text_tokens
from lessonlib.models.writing import PromptError, context_length, eval_mode

from .prompts import refuse_labels

# Rows of the head's output that are held at once: 256 x 49,152 numbers are 50 MB.
HEAD_ROWS = 256


@torch.no_grad()
def score_labels(
    model: nn.Module,
    tokenizer,
    prefix: str,
    queries: Sequence[str],
    labels: Sequence[str],
    *,
    batch_size: int = 8,
    progress: Callable[[int], object] = lambda done: None,
) -> torch.Tensor:
    """Summed log-probability of each label behind each query, (queries, labels), float32.

    The text is prefix + query + label, letter for letter, so a label brings its own space (" refund"). It begins with
    the tokens that the tokenizer begins every text with, or with its bos_token where the prefix does; control tokens that
    stand in a text as letters stay letters. Tokens are those of the whole text: where a query's labels differ from its context, or from one
    another, because tokens merge at the joint, all tokens from there on count as the label's.

    Sums favour short labels, and a label whose tokens begin another's never scores below it. Whether to divide by a
    length is the caller's choice. No queries give a (0, labels) tensor. Logits are those of the model's own forward, capped or
    scaled as it does.

    batch_size: queries a pass; small batches pad less and copy less of the cache, so on a CPU they are the faster.
    progress: is called with the number of queries that a pass has finished.

    Raises PromptError for no labels, empty or repeated ones, an empty context, a text longer than the context.
    Model and batches may be on any device; the result is on the CPU.

    >>> score_labels(model, tokenizer, prompt.prefix, [prompt.query("Where is my parcel?")], prompt.endings)
    ... # doctest: +SKIP
    tensor([[-5.0412, -0.9127, -3.3318]])
    """
    texts = _encode(tokenizer, prefix, queries, labels, context_length(model))
    scores = torch.zeros(len(texts), len(labels))
    if not texts:
        return scores
    # One token at least is left to each query: its last hidden state predicts the labels' first tokens.
    shared = longest_common_prefix([text.context[:-1] for text in texts])
    decoder, device = model.get_decoder(), next(model.parameters()).device
    if not shared or not takes_masks(model):
        return score_whole_texts(model, tokenizer, prefix, queries, labels, batch_size=batch_size, progress=progress)
    with eval_mode(model):
        beginning = torch.tensor([texts[0].context[:shared]], device=device)
        cache = decoder(input_ids=beginning, use_cache=True).past_key_values
        for rows in _batches_by_length([len(text.packed) for text in texts], batch_size):
            scores[rows] = _score_batch(model, cache, shared, [texts[row] for row in rows])
            progress(len(rows))
    return scores


@torch.no_grad()
def score_whole_texts(
    model: nn.Module,
    tokenizer,
    prefix: str,
    queries: Sequence[str],
    labels: Sequence[str],
    *,
    batch_size: int = 8,
    progress: Callable[[int], object] = lambda done: None,
) -> torch.Tensor:
    """The same numbers as `score_labels` the plain way: every whole text in full, and nothing shared.

    Slow where the prefix is long, but asks nothing of the model's attention: `score_labels` falls back on it for
    sliding windows, recurrent layers and flash attention.
    """
    texts = _encode(tokenizer, prefix, queries, labels, context_length(model))
    pairs = [(text.context, label) for text in texts for label in text.labels]
    scores, device = torch.zeros(len(pairs)), next(model.parameters()).device
    with eval_mode(model):
        for rows in _batches_by_length([len(c) + len(label) for c, label in pairs], batch_size):
            whole = pad_right([pairs[row][0] + pairs[row][1] for row in rows]).to(device)
            # No attention mask: padding stands on the right, and earlier tokens cannot see it.
            hidden = model.get_decoder()(input_ids=whole, use_cache=False).last_hidden_state  # (B, T, D)
            for i, row in enumerate(rows):
                context, label = pairs[row]
                before = hidden[i, len(context) - 1 : len(context) + len(label) - 1]
                scores[row] = _log_probs(model, before, label).sum()
            progress(len(rows) / len(labels))
    return scores.view(len(texts), len(labels))


@dataclass
class _Text:
    """One query as tokens: what its labels share, and what is left of each."""

    context: list[int]
    labels: list[list[int]]

    @property
    def packed(self) -> list[int]:
        # A label's last token predicts nothing that is asked for.
        return self.context + [token for label in self.labels for token in label[:-1]]


def _encode(tokenizer, prefix: str, queries, labels, limit: int | None) -> list[_Text]:
    refuse_labels(labels)
    if isinstance(queries, str):
        raise PromptError(f"queries is one string, {queries[:40]!r}: give a list of texts")
    begin = None
    if tokenizer.bos_token and prefix.startswith(tokenizer.bos_token):
        begin, prefix = [tokenizer.bos_token_id], prefix.removeprefix(tokenizer.bos_token)
    contexts = [prefix + query for query in queries]
    alone = text_tokens(tokenizer, contexts, begin)
    whole = iter(text_tokens(tokenizer, [context + label for context in contexts for label in labels], begin))
    texts = []
    for i, ids in enumerate(alone):
        with_label = [next(whole) for _ in labels]
        shared = longest_common_prefix([ids, *with_label])
        if not shared:
            raise PromptError(
                f"query {i}, {contexts[i]!r}, has no token in front of its label, so there is nothing to predict it "
                "from: give it a prefix, such as the tokenizer's bos_token"
            )
        longest = max(map(len, with_label))
        if limit and longest > limit:
            raise PromptError(
                f"query {i} with its prefix and label has {longest} tokens, {longest - limit} more than the model's "
                f"context of {limit}: shorten it, or take fewer examples"
            )
        texts.append(_Text(ids[:shared], [tokens[shared:] for tokens in with_label]))
    return texts


def longest_common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with.

    >>> longest_common_prefix([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    2
    """
    first, last = min(rows), max(rows)  # of all rows in their order, these two part soonest
    differ = (i for i, (a, b) in enumerate(zip(first, last)) if a != b)
    return next(differ, min(len(first), len(last)))


def _batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches, the longest first: little is padding, and too large a batch fails at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad_right(rows: Sequence[Sequence[int]], value: int = 0) -> torch.Tensor:
    """Rows of unequal length as one tensor, (rows, longest).

    >>> pad_right([[1, 2], [3]], value=9)
    tensor([[1, 2],
            [3, 9]])
    """
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _score_batch(model, cache, shared: int, texts: list[_Text]) -> torch.Tensor:
    """(B, labels): one pass over the texts' own tokens, behind the cache of the shared ones."""
    device, size = cache.layers[0].keys.device, len(texts)
    ids, positions, branch, tails = _pack(texts, shared)
    past = DynamicCache([(k.expand(size, -1, -1, -1), v.expand(size, -1, -1, -1)) for k, v, *_ in cache])
    hidden = model.get_decoder()(
        input_ids=ids.to(device),
        position_ids=positions.to(device),
        attention_mask=_own_branch_only(branch, shared, cache.layers[0].keys.dtype).to(device),
        past_key_values=past,
        use_cache=True,
    ).last_hidden_state  # (B, T, D)
    last = torch.tensor([len(text.context) - shared - 1 for text in texts])
    first = [[label[0] for label in text.labels] for text in texts]
    scores = _log_probs(model, hidden[torch.arange(size), last], first)  # (B, labels)
    if tails:
        row, place, label, token = torch.tensor(tails).T
        scores.index_put_((row, label), _log_probs(model, hidden[row, place], token), accumulate=True)
    return scores


def _pack(texts: list[_Text], shared: int):
    """Each text's own tokens and then its labels', side by side in one row.

    Returns ids, positions and branches, (B, T): branch 0 is the context, j the j-th label, -1 padding. And for each
    label token behind the first: (row, place of the token before it, label, token).
    """
    ids, positions, branches, tails = [], [], [], []
    for row, text in enumerate(texts):
        begin = len(text.context)
        where, branch = list(range(shared, begin)), [0] * (begin - shared)
        for j, label in enumerate(text.labels):
            tails += [(row, len(where) + i, j, token) for i, token in enumerate(label[1:])]
            where += range(begin, begin + len(label) - 1)
            branch += [j + 1] * (len(label) - 1)
        ids.append(text.packed[shared:])
        positions.append(where)
        branches.append(branch)
    return pad_right(ids), pad_right(positions), pad_right(branches, -1), tails


def _own_branch_only(branch: torch.Tensor, shared: int, dtype: torch.dtype) -> torch.Tensor:
    """The mask to add to attention scores, (B, 1, T, shared + T): a token sees the shared tokens, and of its row those
    before it in its own branch or the context."""
    order = torch.arange(branch.shape[1])
    mine = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])  # (B, T, T)
    sees = F.pad(mine & (order <= order[:, None]), (shared, 0), value=True)
    return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[:, None]


def _log_probs(model, hidden: torch.Tensor, tokens) -> torch.Tensor:
    """Log-probabilities that hidden states (N, D) give to tokens (N,) or (N, K), on the CPU."""
    tokens, parts = torch.as_tensor(tokens, device=hidden.device), []
    for states, wanted in zip(hidden.split(HEAD_ROWS), tokens.split(HEAD_ROWS)):
        # Contiguous: on a CPU a bfloat16 product with a slice is several times slower.
        log_probs = head_logits(model, states.contiguous()).float().log_softmax(-1)  # (n, V)
        parts.append(log_probs.gather(1, wanted.view(len(wanted), -1)).view(wanted.shape))
    return torch.cat(parts).cpu()
