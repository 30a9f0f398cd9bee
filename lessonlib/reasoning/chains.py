"""Chains of thought: how they are asked for, written, read, and put to the vote.

    direct         Q: …  A: The answer is 11.                       the baseline of Wei et al., section 2
    chain          Q: …  A: There are … The answer is 11.           Wei et al., 2022, arXiv:2201.11903, figure 1
    step by step   Q: …  A: Let's think step by step. …             Kojima et al., 2022, arXiv:2205.11916, section 3
    vote           the answer that most sampled chains end in       Wang et al., 2022, arXiv:2203.11171, section 2

A prompt ends without a space: the model writes it, as part of its first token.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import GenerationConfig, StoppingCriteriaList, StopStringCriteria

from lessonlib.display import Bar

STOPS = ("\n\n", "\nQ:")  # where an answer ends and the model would go on with a question of its own


class Worked(NamedTuple):
    """A worked example: a question, the steps to its answer, and the answer."""

    question: str
    chain: str
    answer: str | int | float


# --- prompts ------------------------------------------------------------------------------------------------


def direct_prompt(question: str, examples: Sequence[Worked] = ()) -> str:
    """The question with room for the answer alone; the examples, too, are answered directly.

    >>> print(direct_prompt("What is 2 + 3?"))
    Q: What is 2 + 3?
    A: The answer is
    """
    shown = "".join(f"Q: {e.question}\nA: The answer is {e.answer}.\n\n" for e in examples)
    return f"{shown}Q: {question}\nA: The answer is"


def chain_prompt(question: str, examples: Sequence[Worked] = ()) -> str:
    """The question behind examples whose steps are written out before their answers.

    >>> print(chain_prompt("And 1 + 1?", [Worked("What is 2 + 3?", "2 and 3 make 5.", 5)]))
    Q: What is 2 + 3?
    A: 2 and 3 make 5. The answer is 5.
    <BLANKLINE>
    Q: And 1 + 1?
    A:
    """
    shown = "".join(f"Q: {e.question}\nA: {e.chain} The answer is {e.answer}.\n\n" for e in examples)
    return f"{shown}Q: {question}\nA:"


def step_by_step_prompt(question: str) -> str:
    """The question and the opening words of its answer, which call for steps without showing any."""
    return f"Q: {question}\nA: Let's think step by step."


def step_by_step_answer_prompt(question: str, chain: str) -> str:
    """The second call of Kojima et al.: the steps that the model wrote, and the words that call for the answer."""
    return f"{step_by_step_prompt(question)} {chain.strip()}\nTherefore, the answer is"


# --- writing ------------------------------------------------------------------------------------------------


class PromptTooLong(ValueError):
    """A prompt leaves no room in the model's context for what is asked for; the message says by how many tokens."""


@dataclass(frozen=True)
class Written:
    """What a model wrote behind a prompt, up to the stop; how many tokens that took; whether it came to an end."""

    text: str
    tokens: int
    ended: bool


def write_chains(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    most_tokens: int = 128,
    stops: Sequence[str] = STOPS,
    batch_size: int = 16,
) -> list[Written]:
    """Continue each prompt with the likeliest token, step by step, in batches; the same texts as one at a time.

    Raises ValueError for an empty prompt, and PromptTooLong for one that leaves no room in the model's context.
    """
    settings = GenerationConfig(do_sample=False)
    return _write(model, tokenizer, prompts, settings, most_tokens, stops, batch_size)


def sample_chains(
    model,
    tokenizer,
    prompts: Sequence[str],
    n: int,
    *,
    temperature: float = 0.7,
    seed: int = 0,
    most_tokens: int = 128,
    stops: Sequence[str] = STOPS,
    batch_size: int = 16,
) -> list[list[Written]]:
    """`n` different continuations of each prompt, drawn from the model's distribution at a temperature.

    The same seed and batch size give the same texts; the random numbers outside stay as they were.
    Raises what `write_chains` does, and ValueError for n < 1 or a temperature that is not above zero.
    """
    if n < 1 or temperature <= 0:
        raise ValueError(f"n = {n} chains at temperature {temperature}: at least one, and above zero")
    settings = GenerationConfig(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        many = [prompt for prompt in prompts for _ in range(n)]
        written = _write(model, tokenizer, many, settings, most_tokens, stops, batch_size)
    return [written[i : i + n] for i in range(0, len(written), n)]


def _write(model, tokenizer, prompts, settings, most_tokens, stops, batch_size) -> list[Written]:
    ids = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    _refuse_prompts(model, ids, most_tokens)
    settings.update(
        max_new_tokens=most_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    # Made once: it reads the whole vocabulary, which takes half a second.
    criteria = StoppingCriteriaList([StopStringCriteria(tokenizer, list(stops))] if stops else [])
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # like lengths share a batch, to pad less
    written, bar = {}, Bar(total=len(ids), desc="Writing")
    for i in range(0, len(order), batch_size):
        rows = order[i : i + batch_size]
        batch = tokenizer.pad(
            {"input_ids": [ids[row] for row in rows]}, padding_side="left", return_tensors="pt"
        )
        with torch.no_grad():
            out = model.generate(
                **batch.to(model.device), generation_config=settings, stopping_criteria=criteria
            )
        for row, new in zip(rows, out[:, batch.input_ids.shape[1] :].tolist()):
            written[row] = _cut(tokenizer, new, stops)
        bar.update(len(rows))
    bar.finish(f"Written: {len(ids)} continuations")
    return [written[row] for row in range(len(ids))]


def _refuse_prompts(model, ids, most_tokens: int) -> None:
    room = getattr(model.config, "max_position_embeddings", None)
    for row, tokens in enumerate(ids):
        if not tokens:
            raise ValueError(f"prompt {row} is empty: there is nothing to continue")
        if room and (over := len(tokens) + most_tokens - room) > 0:
            raise PromptTooLong(
                f"prompt {row} has {len(tokens):,} tokens and {most_tokens} more are asked for: {over:,} over the "
                f"model's {room:,}; show fewer examples, or ask for less"
            )


def _cut(tokenizer, new: list[int], stops) -> Written:
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    kept = next((i for i, token in enumerate(new) if token in ends), len(new))
    text = tokenizer.decode(new[:kept], clean_up_tokenization_spaces=False)
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return Written(text[: min(places, default=len(text))], kept, bool(places) or kept < len(new))


# --- reading ------------------------------------------------------------------------------------------------

ANSWER_IS = re.compile(r"answer is", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.])-?\$?(\d{1,3}(?:,\d{3})+(?!\d)|\d+)(\.\d+)?")


def final_number(text: str) -> int | float | None:
    """The number that an answer ends in: the first behind the last "answer is"; without these words, the last one.

    None where there is no such number, as when the text was cut off before it.

    >>> final_number("5 - 3 = 2, so 2 are left. The answer is $1,200.50 in all.")
    1200.5
    >>> final_number("It costs 4 and then 7.")
    7
    """
    text = text.replace("−", "-")
    behind = ANSWER_IS.split(text)
    found = list(NUMBER.finditer(behind[-1]))
    if not found:
        return None
    number = found[0] if len(behind) > 1 else found[-1]
    sign = -1 if number[0].startswith("-") else 1
    whole, fraction = number[1].replace(",", ""), number[2]
    return sign * (float(whole + fraction) if fraction and fraction.strip(".0") else int(whole))


def final_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer ends in: the first named behind the last "answer is"; without these words, the last.

    Capitals do not matter, whole words do, and of two choices that begin alike the longer one counts.

    >>> final_choice("Not no. The answer is Yes, no doubt.", ["yes", "no"])
    'yes'
    """
    if not choices or not all(choices) or len({c.casefold() for c in choices}) < len(choices):
        raise ValueError(f"the choices {list(choices)} must be different texts, none of them empty")
    longest_first = sorted(choices, key=len, reverse=True)
    named = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    behind = ANSWER_IS.split(text)
    if not (found := named.findall(behind[-1])):
        return None
    name = found[0] if len(behind) > 1 else found[-1]
    return next(choice for choice in choices if choice.casefold() == name.casefold())


# --- voting -------------------------------------------------------------------------------------------------


class Vote(NamedTuple):
    """The answer that most chains end in, its votes, how many chains there were, and whether another had as many."""

    answer: Hashable | None
    votes: int
    of: int
    tied: bool


def majority_vote(answers: Sequence[Hashable | None]) -> Vote:
    """Self-consistency: the most frequent answer.

    Of answers with as many votes the one that appeared first is taken, and `tied` says so. A chain without an answer
    (None) has no vote; where no chain has one, the answer is None. Raises ValueError where there are no chains.

    >>> majority_vote([18, 26, 18, None])
    Vote(answer=18, votes=2, of=4, tied=False)
    >>> majority_vote([7, 5, 5, 7]).answer
    7
    """
    if not len(answers):
        raise ValueError("no answers to vote on: give at least one")
    counted = Counter(answer for answer in answers if answer is not None).most_common()  # by first appearance
    if not counted:
        return Vote(None, 0, len(answers), False)
    (answer, votes), *others = counted
    return Vote(answer, votes, len(answers), bool(others) and others[0][1] == votes)
