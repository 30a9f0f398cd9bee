"""Few-shot prompts, the scoring of label words, and contextual calibration.

    score(label | text) = sum over i of log p(token i of the label | prefix, query, tokens before i)

All queries stand behind the same prefix. What their tokens have in common is computed once, and its keys and values
serve every query; the labels of a query stand side by side in one row, each blind to the others.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

TEMPLATE = "Ticket: {text}\nTopic:"
# What Zhao et al. put in the text's place: inputs that say nothing.
CONTENT_FREE = ("N/A", "[MASK]", "")
# Rows of the head's output that are held at once: 256 x 49,152 numbers are 50 MB.
HEAD_ROWS = 256


class PromptError(ValueError):
    """A prompt, its labels or its texts cannot be used; the message says why and what would do."""


@dataclass(frozen=True)
class FewShotPrompt:
    """An instruction, worked examples, and a place for the text; `print(prompt)` shows it as the model reads it.

    labels: the label words. examples: (text, label word) pairs, in the order in which they are shown.
    template: one text up to where its label follows; holds "{text}" once. separator: stands behind the instruction
    and behind each example. A label follows its text after one space.

    Only strings, no model: to change one thing, `dataclasses.replace(prompt, examples=...)`.
    Raises PromptError for no labels, empty or repeated ones, an example with another label, a template without {text}.

    >>> prompt = FewShotPrompt(["good", "bad"], [("I like it.", "good")], template="{text} It is", separator=" | ")
    >>> print(prompt)
    I like it. It is good | {text} It is
    >>> prompt.prefix, prompt.query("Broken."), prompt.endings
    ('I like it. It is good | ', 'Broken. It is', (' good', ' bad'))
    """

    labels: Sequence[str]
    examples: Sequence[tuple[str, str]] = ()
    instruction: str = ""
    template: str = TEMPLATE
    separator: str = "\n\n"

    def __post_init__(self):
        _refuse_labels(self.labels)
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "examples", tuple((text, label) for text, label in self.examples))
        if self.template.count("{text}") != 1:
            raise PromptError(f"the template {self.template!r} must hold {{text}} once")
        for text, label in self.examples:
            if label not in self.labels:
                raise PromptError(
                    f"the example {text[:40]!r} has the label {label!r}; the labels are {', '.join(self.labels)}"
                )

    @property
    def prefix(self) -> str:
        """All that stands in front of every query: the instruction and the examples."""
        shown = [f"{self.query(text)} {label}" for text, label in self.examples]
        return "".join(part + self.separator for part in [self.instruction, *shown] if part)

    def query(self, text: str) -> str:
        """One text in the template, up to where its label follows."""
        return self.template.replace("{text}", text)  # not str.format: braces in a text are only braces

    @property
    def endings(self) -> tuple[str, ...]:
        """The label words as they follow a query, each behind its space: the `labels` of `score_labels`."""
        return tuple(f" {label}" for label in self.labels)

    def whole(self, text: str) -> str:
        """The prompt with a text in it: prefix and query."""
        return self.prefix + self.query(text)

    def tokens(self, tokenizer, text: str = "") -> int:
        """Tokens of the prompt with this text and its longest label."""
        return max(len(ids) for ids in _ids(tokenizer, [self.whole(text) + end for end in self.endings]))

    def check_length(self, tokenizer, context: int, texts: Sequence[str] = ("",)) -> int:
        """The most tokens that the prompt has with any of the texts; PromptError where they are more than `context`."""
        longest = max(self.tokens(tokenizer, text) for text in texts)
        if longest > context:
            raise PromptError(
                f"the prompt has {longest} tokens, {longest - context} more than the context of {context} holds: take "
                f"fewer or shorter examples than these {len(self.examples)}"
            )
        return longest

    def __str__(self):
        return self.prefix + self.template


def context_length(model: nn.Module) -> int | None:
    """Tokens that the model was made for, or None where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _refuse_labels(labels: Sequence[str]) -> None:
    if isinstance(labels, str) or not labels:
        raise PromptError(f"labels is {labels!r}: give at least one label, in a list")
    for label in labels:
        if not label.strip():
            raise PromptError(f"the label {label!r} is empty: give each class a word")
        if list(labels).count(label) > 1:
            raise PromptError(f"the label {label!r} stands twice: give each class a word of its own")


def _ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []


# --- scoring labels --------------------------------------------------------------------------------------------------


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

    The text is prefix + query + label, letter for letter, so a label brings its own space (" refund"); no special
    token is added. Tokens are those of the whole text: where a query's labels differ from its context, or from one
    another, because tokens merge at the joint, all tokens from there on count as the label's.

    Sums favour short labels, and a label whose tokens begin another's never scores below it. Whether to divide by a
    length is the caller's choice. No queries give a (0, labels) tensor. The model's head must give its logits unscaled.

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
    shared = common_run([text.context[:-1] for text in texts])
    decoder, device = model.get_decoder(), next(model.parameters()).device
    if not shared or not _takes_packed_rows(model):
        return score_whole_texts(
            model, tokenizer, prefix, queries, labels, batch_size=batch_size, progress=progress
        )
    with evaluating(model):
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
    with evaluating(model):
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
    _refuse_labels(labels)
    if isinstance(queries, str):
        raise PromptError(f"queries is one string, {queries[:40]!r}: give a list of texts")
    contexts = [prefix + query for query in queries]
    alone = _ids(tokenizer, contexts)
    whole = iter(_ids(tokenizer, [context + label for context in contexts for label in labels]))
    texts = []
    for i, ids in enumerate(alone):
        with_label = [next(whole) for _ in labels]
        shared = common_run([ids, *with_label])
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


def common_run(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with.

    >>> common_run([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    2
    """
    first, last = min(rows), max(rows)  # of all rows in their order, these two part soonest
    differ = (i for i, (a, b) in enumerate(zip(first, last)) if a != b)
    return next(differ, min(len(first), len(last)))


def _takes_packed_rows(model: nn.Module) -> bool:
    """Whether each layer attends to all of the cache, under whatever mask it is given."""
    layers = DynamicCache(config=model.config).layers
    full = all(type(layer) is DynamicLayer for layer in layers)
    return full and model.config._attn_implementation in ("eager", "sdpa")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


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
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
    )


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
    head, tokens = model.get_output_embeddings(), torch.as_tensor(tokens, device=hidden.device)
    parts = []
    for states, wanted in zip(hidden.split(HEAD_ROWS), tokens.split(HEAD_ROWS)):
        # Contiguous: on a CPU a bfloat16 product with a slice is several times slower.
        log_probs = head(states.contiguous()).float().log_softmax(-1)  # (n, V)
        parts.append(log_probs.gather(1, wanted.view(len(wanted), -1)).view(wanted.shape))
    return torch.cat(parts).cpu()


# --- calibration -----------------------------------------------------------------------------------------------------


def calibrate(log_probs: torch.Tensor, content_free: torch.Tensor) -> torch.Tensor:
    """Contextual calibration (Zhao et al., 2021, arXiv:2102.09690, section 5), (queries, labels) -> the same shape.

        q = W p + b      W = diag(p_cf)^-1,  b = 0

    p: a query's label probabilities, normalized over the labels. p_cf: the same for inputs without content behind the
    same prefix, averaged over those inputs, (inputs, labels) or (labels,). The label is the largest q. Returned is
    log q, normalized over the labels; the paper's softmax around W p changes the values, never their order.

    Raises PromptError where the shapes do not fit or a value is not finite.

    >>> p, p_cf = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    >>> calibrate(p.log(), p_cf.log()).exp()
    tensor([[0.2727, 0.7273]])
    """
    content_free = torch.atleast_2d(content_free)
    if not len(content_free) or log_probs.shape[-1] != content_free.shape[-1]:
        raise PromptError(
            f"log_probs {tuple(log_probs.shape)} and content_free {tuple(content_free.shape)} do not fit: both need "
            "a column for each label, and content_free at least one row"
        )
    if not (torch.isfinite(content_free).all() and torch.isfinite(log_probs).all()):
        raise PromptError("a log-probability is infinite or NaN: score the labels in float32")
    p = log_probs.float().log_softmax(-1)
    p_cf = content_free.float().softmax(-1).mean(0)
    return (p - p_cf.log()).log_softmax(-1)


# --- choosing examples -----------------------------------------------------------------------------------------------


def word_vectors(texts: Sequence[str]) -> Callable:
    """TF-IDF, its words and weights learned from the texts: a function from texts to rows of length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True).fit(texts).transform


@torch.no_grad()
def model_vectors(model: nn.Module, tokenizer, texts: Sequence[str], batch_size: int = 16) -> np.ndarray:
    """The mean of the last hidden states of each text, (texts, D), scaled to length 1; an empty text gives zeros."""
    rows, device = _ids(tokenizer, texts), next(model.parameters()).device
    vectors = torch.zeros(len(rows), model.config.get_text_config().hidden_size)
    with evaluating(model):
        for batch in _batches_by_length([len(row) for row in rows], batch_size):
            batch = [row for row in batch if rows[row]]
            if not batch:
                continue
            ids = pad_right([rows[row] for row in batch]).to(device)
            hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            for row, states in zip(batch, hidden):
                vectors[row] = states[: len(rows[row])].float().mean(0).cpu()
    return F.normalize(vectors).numpy()


def select_random(texts: Sequence[str], k: int, seed: int = 0) -> list[int]:
    """Row numbers of k texts drawn without return.

    >>> select_random(["a", "b", "c", "d"], 2, seed=0)
    [2, 0]
    """
    _refuse_k(k, texts)
    return np.random.default_rng(seed).permutation(len(texts))[:k].tolist()


def select_similar(
    texts: Sequence[str], queries: Sequence[str], k: int, vectors: Callable | None = None
) -> list[list[int]]:
    """For each query, row numbers of the k texts that are most like it, the most alike last, next to the query.

    Likeness is the cosine of the two vectors (Liu et al., 2022, arXiv:2101.06804, section 2). vectors: a function
    from texts to rows of length 1; None takes TF-IDF of the texts' words. Each query then has a prefix of its own, so
    nothing of the examples is shared.

    >>> select_similar(["late parcel", "wrong bill", "lost parcel"], ["my parcel is late"], k=2)
    [[2, 0]]
    """
    _refuse_k(k, texts)
    if not k or not queries:
        return [[] for _ in queries]
    vectors = vectors or word_vectors(texts)
    likeness = vectors(queries) @ vectors(texts).T  # (queries, texts)
    likeness = likeness.toarray() if hasattr(likeness, "toarray") else np.asarray(likeness)
    # Stable, and of the negative: equal texts come in the order in which they stand.
    return np.argsort(-likeness, axis=1, kind="stable")[:, :k][:, ::-1].tolist()


def select_diverse(texts: Sequence[str], k: int, seed: int = 0, vectors: Callable | None = None) -> list[int]:
    """Row numbers of k unlike texts: the one nearest to the centre of each of k clusters (k-means).

    As Zhang et al. choose their examples (2022, arXiv:2210.03493, section 4). vectors: as in `select_similar`.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    _refuse_k(k, texts)
    if not k:
        return []
    rows = (vectors or word_vectors(texts))(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal texts, which are told apart below
        distances = KMeans(k, n_init=3, random_state=seed).fit_transform(rows)  # (texts, k)
    chosen = []
    for cluster in range(k):  # where two clusters are nearest to one text, the second takes its next
        order = np.argsort(distances[:, cluster], kind="stable")
        chosen.append(next(int(row) for row in order if int(row) not in chosen))
    return chosen


def _refuse_k(k: int, texts: Sequence[str]) -> None:
    if not 0 <= k <= len(texts):
        raise PromptError(f"k is {k}; there are {len(texts)} texts to choose from")


# --- completing prompts ----------------------------------------------------------------------------------------------


@torch.no_grad()
def complete(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 32,
    stop: Sequence[str] = (),
    *,
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda done: None,
    **settings,
) -> list[str]:
    """What the model writes behind each prompt, by `transformers.generate`, several prompts at a time.

    Greedy, unless settings of `generate` say otherwise (do_sample=True, temperature=0.7; for several samples of a
    prompt, repeat it). A text ends before the first of the `stop` strings, at the end-of-text token, or after
    max_new_tokens.

    Raises PromptError for an empty prompt, and for one that is longer than the context with its new tokens.

    >>> complete(model, tokenizer, ["The capital of France is"], 8, stop=["."])  # doctest: +SKIP
    [' Paris']
    """
    rows, out = _ids(tokenizer, prompts), [""] * len(prompts)
    _refuse_prompts(rows, max_new_tokens, context_length(model))
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens} | settings
    with evaluating(model):
        for batch in _batches_by_length([len(row) for row in rows], batch_size):
            written = _write(model, tokenizer, [rows[row] for row in batch], stop, settings)
            for row, text in zip(batch, written, strict=True):
                out[row] = text[: min((text.find(s) for s in stop if s in text), default=len(text))]
            progress(len(batch))
    return out


def _write(model, tokenizer, rows: list[list[int]], stop: Sequence[str], settings: dict) -> list[str]:
    device = next(model.parameters()).device
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    # Padded on the left, so that every row's last token is the one to go on from.
    ids = pad_right([row[::-1] for row in rows], pad).flip(1).to(device)
    mask = pad_right([[1] * len(row) for row in rows]).flip(1).to(device)
    ends = StoppingCriteriaList([_Says(tokenizer, stop, ids.shape[1])] if stop else [])
    written = model.generate(
        input_ids=ids, attention_mask=mask, pad_token_id=pad, stopping_criteria=ends, **settings
    )
    return tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)


class _Says(StoppingCriteria):
    """Ends a row once what it has written holds one of the strings."""

    def __init__(self, tokenizer, stop: Sequence[str], begin: int):
        self.tokenizer, self.stop, self.begin = tokenizer, stop, begin

    def __call__(self, input_ids, scores, **kwargs):
        written = self.tokenizer.batch_decode(input_ids[:, self.begin :], skip_special_tokens=True)
        done = [any(string in text for string in self.stop) for text in written]
        return torch.tensor(done, device=input_ids.device)


def _refuse_prompts(rows: list[list[int]], max_new_tokens: int, limit: int | None) -> None:
    for i, row in enumerate(rows):
        if not row:
            raise PromptError(
                f"prompt {i} is empty: give it at least one token, such as the tokenizer's bos_token"
            )
        if limit and (over := len(row) + max_new_tokens - limit) > 0:
            raise PromptError(
                f"prompt {i} has {len(row)} tokens, with {max_new_tokens} new ones {over} more than the model's "
                f"context of {limit}: shorten it, or ask for fewer"
            )
