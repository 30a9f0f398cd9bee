"""Writing with a language model: what `generate` of transformers puts behind prompts, several of them at a time.

Prompts of unequal length are padded on the left, so that the last token of every row is the one to go on from. Rows of
like length share a batch, the shortest first, to pad less. Who samples gets the same texts for the same seed of torch
and the same batch size.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, StoppingCriteriaList, StopStringCriteria

from lessonlib.display import Bar

# A chat model's own settings are for sampling; beside do_sample=False they would only be warned of.
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


class PromptError(ValueError):
    """A prompt, its labels or its texts cannot be used; the message says why and what would do."""


class PromptTooLong(PromptError):
    """A prompt leaves no room in the model's context for what is asked for; the message says by how many tokens."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote behind a prompt, up to the stop; how many tokens that took; whether it came to an end."""

    text: str
    tokens: int
    ended: bool


def context_length(model: nn.Module) -> int | None:
    """Tokens that the model was made for, or None where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def complete(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 32,
    stop: Sequence[str] = (),
    **settings,
) -> list[str]:
    """The texts of `completions`, without what is known about them; takes and raises the same.

    >>> complete(model, tokenizer, ["The capital of France is"], 8, stop=["."])  # doctest: +SKIP
    [' Paris']
    """
    written = completions(model, tokenizer, prompts, max_new_tokens, stop, **settings)
    return [completion.text for completion in written]


@torch.no_grad()
def completions(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 32,
    stop: Sequence[str] = (),
    *,
    prefix: str = "",
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda done: None,
    **settings,
) -> list[Completion]:
    """What the model writes behind each prompt.

    Greedy, unless settings of `generate` say otherwise (do_sample=True, temperature=0.7; for several samples of a
    prompt, repeat it). A text ends before the first of the `stop` strings, at the end-of-text token, or after
    max_new_tokens. As in `generate`, a row stops as well at a stop string that begins within its prompt.

    prefix: stands before every prompt, in tokens of its own, and is read only once; not for a model with a learned
    prompt, which would come again behind it. progress: is called with the number of prompts that a batch has finished.

    Raises PromptError for an empty prompt, PromptTooLong for one that is longer than the context with its new tokens.
    """
    shared, *rows = tokenizer([prefix, *prompts], add_special_tokens=False).input_ids
    _refuse_prompts([shared + row for row in rows] if all(rows) else rows, max_new_tokens, context_length(model))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    end = settings.setdefault("eos_token_id", model.generation_config.eos_token_id)
    ends = set(end) if isinstance(end, list) else {end}
    settings |= {"max_new_tokens": max_new_tokens, "pad_token_id": pad}
    if stop:  # made once for all batches: it reads the whole vocabulary, which takes half a second
        settings["stopping_criteria"] = StoppingCriteriaList([StopStringCriteria(tokenizer, list(stop))])
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    written = {}
    with eval_mode(model):
        beginning = torch.tensor([shared], device=_device(model))
        cache = model(beginning, use_cache=True).past_key_values if shared else None
        for i in range(0, len(order), batch_size):
            batch = order[i : i + batch_size]
            new = generate_tokens(model, [rows[row] for row in batch], prefix=shared, cache=cache, **settings)
            for row, tokens in zip(batch, new, strict=True):
                written[row] = _completion(tokenizer, tokens, stop, ends, pad, max_new_tokens)
            progress(len(batch))
    return [written[row] for row in range(len(rows))]


def completions_under_a_bar(model, tokenizer, prompts, max_new_tokens, stop, **settings) -> list[Completion]:
    """`completions` with a progress bar; a text ends where the tokenizer says, whatever the model's own settings are.

    Takes and raises what `completions` does.
    """
    bar = Bar(total=len(prompts), desc="Writing")
    ends = [token for token in (tokenizer.eos_token_id, tokenizer.pad_token_id) if token is not None]
    settings |= {"eos_token_id": ends, "progress": bar.update}
    written = completions(model, tokenizer, prompts, max_new_tokens, stop, **settings)
    bar.finish(f"Written: {len(prompts)} continuations")
    return written


def generate_tokens(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    prefix: Sequence[int] = (),
    cache: Cache | None = None,
    **settings,
) -> list[list[int]]:
    """`model.generate` on token numbers, all rows together: the new tokens of each, with padding behind its end.

    prefix: tokens before every row, whose keys and values `cache` holds, for a single row. settings: of `generate`;
    greedy, unless do_sample=True is among them.
    """
    device, settings = _device(model), settings if settings.get("do_sample") else GREEDY | settings
    ids = _padded_left(rows, pad_token_id)
    mask = _padded_left([[1] * len(row) for row in rows], 0)
    if prefix:
        front = torch.tensor([list(prefix)] * len(rows))
        ids, mask = torch.cat([front, ids], 1), torch.cat([torch.ones_like(front), mask], 1)
        keys_and_values = [(layer.keys, layer.values) for layer in cache.layers]
        repeated = [tuple(states.repeat(len(rows), 1, 1, 1) for states in pair) for pair in keys_and_values]
        settings["past_key_values"] = DynamicCache(repeated)
    out = model.generate(ids.to(device), attention_mask=mask.to(device), pad_token_id=pad_token_id, **settings)
    return out[:, ids.shape[1] :].tolist()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _padded_left(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side="left")  # (rows, longest)


def _completion(tokenizer, tokens: list[int], stop: Sequence[str], ends: set[int], pad: int, most: int):
    """The new tokens of a row as text: up to one of the `ends`, or to the padding behind a stop string."""
    while tokens and tokens[-1] == pad and pad not in ends:
        tokens.pop()
    length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    # What ends the row may itself be text to the tokenizer, where the model's own settings name it.
    visible = [token for token in tokens[: length + 1] if token not in (tokenizer.eos_token_id, pad)]
    text = tokenizer.decode(visible, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    cuts = [text.find(string) for string in stop if string in text]
    return Completion(text[: min(cuts, default=len(text))], length, bool(cuts) or length < most)


def _refuse_prompts(rows: list[list[int]], max_new_tokens: int, limit: int | None) -> None:
    for i, row in enumerate(rows):
        if not row:
            raise PromptError(f"prompt {i} is empty: give it at least one token, such as the tokenizer's bos_token")
        if limit and (over := len(row) + max_new_tokens - limit) > 0:
            raise PromptTooLong(
                f"prompt {i} has {len(row)} tokens, with {max_new_tokens} new ones {over} more than the model's "
                f"context of {limit}: shorten it, or ask for fewer"
            )
