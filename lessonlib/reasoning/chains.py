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
from typing import NamedTuple

import torch

from lessonlib.models.writing import Completion, completions_under_a_bar

STOP = ("\n\n", "\nQ:")  # where an answer ends and the model would go on with a question of its own


class Demonstration(NamedTuple):
    """An example that is worked out: a question, the steps to its answer, and the answer."""

    question: str
    chain: str
    answer: str | int | float


# --- prompts ------------------------------------------------------------------------------------------------


def direct_prompt(question: str, examples: Sequence[Demonstration] = ()) -> str:
    """The question with room for the answer alone; the examples, too, are answered directly.

    >>> print(direct_prompt("What is 2 + 3?"))
    Q: What is 2 + 3?
    A: The answer is
    """
    shown = "".join(f"Q: {e.question}\nA: The answer is {e.answer}.\n\n" for e in examples)
    return f"{shown}Q: {question}\nA: The answer is"


def chain_prompt(question: str, examples: Sequence[Demonstration] = ()) -> str:
    """The question behind examples whose steps are written out before their answers.

    >>> print(chain_prompt("And 1 + 1?", [Demonstration("What is 2 + 3?", "2 and 3 make 5.", 5)]))
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


def write_chains(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    stop: Sequence[str] = STOP,
    batch_size: int = 16,
) -> list[Completion]:
    """Continue each prompt with the likeliest token, step by step, in batches; the same texts as one at a time.

    Raises PromptError for an empty prompt, and PromptTooLong for one that leaves no room in the model's context.
    """
    return completions_under_a_bar(model, tokenizer, prompts, max_new_tokens, stop, batch_size=batch_size)


def sample_chains(
    model,
    tokenizer,
    prompts: Sequence[str],
    n: int,
    *,
    temperature: float = 0.7,
    seed: int = 0,
    max_new_tokens: int = 128,
    stop: Sequence[str] = STOP,
    batch_size: int = 16,
) -> list[list[Completion]]:
    """`n` different continuations of each prompt, drawn from the model's distribution at a temperature.

    The same seed and batch size give the same texts; the random numbers outside stay as they were.
    Raises what `write_chains` does, and ValueError for n < 1 or a temperature that is not above zero.
    """
    if n < 1 or temperature <= 0:
        raise ValueError(f"n = {n} chains at temperature {temperature}: at least one, and above zero")
    whole_distribution = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    devices = [] if model.device.type == "cpu" else [model.device]
    with torch.random.fork_rng(devices, device_type=model.device.type):
        torch.manual_seed(seed)
        many = [prompt for prompt in prompts for _ in range(n)]
        written = completions_under_a_bar(
            model, tokenizer, many, max_new_tokens, stop, batch_size=batch_size, **whole_distribution
        )
    return [written[i : i + n] for i in range(0, len(written), n)]


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
    numbers = list(NUMBER.finditer(behind[-1]))
    if not numbers:
        return None
    number = numbers[0] if len(behind) > 1 else numbers[-1]
    sign = -1 if number[0].startswith("-") else 1
    whole, fraction = number[1].replace(",", ""), number[2]
    return sign * (float(whole + fraction) if fraction and fraction.strip(".0") else int(whole))


def final_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer ends in: the first named behind the last "answer is"; without these words, the last.

    Capitals do not matter, whole words do, and of two choices that begin alike the longer one counts.
    Raises ValueError for no choices, empty ones, and two that differ in nothing but capitals.

    >>> final_choice("Not no. The answer is Yes, no doubt.", ["yes", "no"])
    'yes'
    """
    if not choices or not all(choices) or len({c.casefold() for c in choices}) < len(choices):
        raise ValueError(f"the choices {list(choices)} must be different texts, none of them empty")
    longest_first = sorted(choices, key=len, reverse=True)
    named = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    behind = ANSWER_IS.split(text)
    if not (names := named.findall(behind[-1])):
        return None
    name = names[0] if len(behind) > 1 else names[-1]
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
