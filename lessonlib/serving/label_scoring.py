"""Labels scored by a server that tells nothing but next tokens.

    score(label | prompt) = sum over i of log p(token i of the label | prompt, tokens before i)

A server of OpenAI's protocol writes the next token and says how likely others would have been. So it is asked once
behind each prompt, for the first tokens of all labels together, and once more behind each beginning of a label of
several tokens. Labels of one token cost one short request a prompt, however many there are.
"""

from collections.abc import Callable, Sequence

import torch

from lessonlib.prompting import longest_common_prefix

from .admission import EngineError

PROMPTS_AT_ONCE = 32
TOKENS_AT_ONCE = 128  # vLLM tells of no more in a request

# Contexts and tokens to the log-probability of each token behind each context.
Ask = Callable[[Sequence[Sequence[int]], Sequence[int]], list[dict[int, float]]]


def label_log_probs(ask: Ask, tokenizer, prompts: Sequence[str], labels: Sequence[str]) -> torch.Tensor:
    """Summed log-probability of each label behind each prompt, (prompts, labels), float32.

    ask(contexts, tokens): the server; it gives {token: log-probability} for each context.

    Raises EngineError for no labels, an empty one, or a prompt without a token in front of its labels.
    """
    texts = [label_tokens(tokenizer, prompt, labels) for prompt in prompts]
    wanted: dict[tuple[int, ...], set[int]] = {}
    for context, endings in texts:
        for ending in endings:
            for i, token in enumerate(ending):
                wanted.setdefault((*context, *ending[:i]), set()).add(token)
    told = _told(ask, wanted)
    rows = [
        [sum(told[(*context, *ending[:i])][token] for i, token in enumerate(ending)) for ending in endings]
        for context, endings in texts
    ]
    return torch.tensor(rows, dtype=torch.float32).view(len(texts), len(labels))


def label_tokens(tokenizer, prompt: str, labels: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """The tokens that a prompt and its labels share, and what is left of each label: those of the whole text, where
    tokens may merge at the joint.

    Raises EngineError for no labels, an empty one, or a prompt without a token in front of its labels.
    """
    if isinstance(labels, str) or not labels or not all(labels):
        raise EngineError(f"labels is {labels!r}: give a list of words, each with its space in front")
    rows = tokenizer([prompt, *(prompt + label for label in labels)], add_special_tokens=False).input_ids
    shared = longest_common_prefix(rows)
    if not shared:
        raise EngineError(f"the prompt {prompt!r} has no token in front of its labels: give it at least one")
    return rows[0][:shared], [row[shared:] for row in rows[1:]]


def _told(ask: Ask, wanted: dict) -> dict:
    """The answers, {context: {token: log-probability}}, asked for in portions."""
    contexts, told = list(wanted), {context: {} for context in wanted}
    for i in range(0, len(contexts), PROMPTS_AT_ONCE):
        part = contexts[i : i + PROMPTS_AT_ONCE]
        tokens = sorted(set().union(*(wanted[context] for context in part)))
        for j in range(0, len(tokens), TOKENS_AT_ONCE):
            for context, values in zip(part, ask(part, tokens[j : j + TOKENS_AT_ONCE]), strict=True):
                told[context] |= values
    return told
