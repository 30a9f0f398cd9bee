"""Claims of lessonlib.reasoning.chains. References: transformers' own generate, one text at a time; the papers' forms."""

import random
from collections import Counter

import pytest
import torch

from lessonlib.models import load_base
from lessonlib.reasoning import (
    Completion,
    Demonstration,
    PromptTooLong,
    Vote,
    chain_prompt,
    direct_prompt,
    final_choice,
    final_number,
    majority_vote,
    sample_chains,
    step_by_step_answer_prompt,
    step_by_step_prompt,
    write_chains,
)

PENS = Demonstration("A box holds 3 pens. How many are in 4 boxes?", "4 boxes of 3 pens hold 4 * 3 = 12 pens.", 12)
PROMPTS = [
    "Ticket: late parcel\nTopic:",
    "Ticket: a",
    "billing refund question broken thanks A B C D Topic: x",
]


# --- prompts ------------------------------------------------------------------------------------------------


def test_prompts_have_the_papers_form():
    # Wei et al. (2022), figure 1; Kojima et al. (2022), figure 1 and section 3.
    assert direct_prompt("And 2 + 2?", [PENS]) == (
        f"Q: {PENS.question}\nA: The answer is 12.\n\nQ: And 2 + 2?\nA: The answer is"
    )
    assert chain_prompt("And 2 + 2?", [PENS]) == (
        f"Q: {PENS.question}\nA: {PENS.chain} The answer is 12.\n\nQ: And 2 + 2?\nA:"
    )
    assert step_by_step_prompt("2 + 2?") == "Q: 2 + 2?\nA: Let's think step by step."
    assert step_by_step_answer_prompt("2 + 2?", " It is 4.\n") == (
        "Q: 2 + 2?\nA: Let's think step by step. It is 4.\nTherefore, the answer is"
    )


def test_direct_and_chain_differ_by_the_chain_alone():
    direct, chain = direct_prompt("Q?", [PENS, PENS]), chain_prompt("Q?", [PENS, PENS])
    assert chain.replace(f" {PENS.chain}", "") + " The answer is" == direct


def test_no_prompt_ends_in_a_space():
    for prompt in (direct_prompt("Q?"), chain_prompt("Q?"), step_by_step_prompt("Q?")):
        assert prompt == prompt.rstrip()


# --- writing ------------------------------------------------------------------------------------------------


def alone(model, tokenizer, prompt, max_new_tokens):
    """Greedy text by transformers.generate, without a batch and without padding."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    out = model.generate(ids, max_new_tokens=max_new_tokens, do_sample=False, **ends)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batched_writing_equals_generate_on_each_prompt(tiny, tokenizer, batch_size):
    written = write_chains(tiny, tokenizer, PROMPTS, max_new_tokens=12, stop=(), batch_size=batch_size)
    assert [w.text for w in written] == [alone(tiny, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert len({w.text for w in written}) == len(PROMPTS)


def test_greedy_with_cache_equals_the_likeliest_token_of_whole_passes(tiny, tokenizer):
    ids = tokenizer(PROMPTS[0]).input_ids
    new = []
    for _ in range(12):
        with torch.no_grad():
            new.append(int(tiny(torch.tensor([ids + new])).logits[0, -1].argmax()))
    assert write_chains(tiny, tokenizer, PROMPTS[:1], max_new_tokens=12, stop=())[0].text == tokenizer.decode(new)


def test_writing_stops_at_the_first_stop(tiny, tokenizer):
    whole = write_chains(tiny, tokenizer, PROMPTS, max_new_tokens=12, stop=())
    assert [(w.tokens, w.ended) for w in whole] == [(12, False)] * 3
    stop = next(c for c in whole[0].text[1:] if c.isascii())
    cut = write_chains(tiny, tokenizer, PROMPTS, max_new_tokens=12, stop=[stop])
    assert [w.text for w in cut] == [w.text.split(stop)[0] for w in whole]
    assert cut[0].ended and cut[0].tokens < 12 and cut[0].text


def test_the_end_of_text_ends_a_row_and_is_not_in_it(tiny, tokenizer):
    first = tokenizer(PROMPTS[0]).input_ids
    with torch.no_grad():
        token = int(tiny(torch.tensor([first])).logits[0, -1].argmax())
    text, eos = tokenizer.eos_token, tokenizer.convert_ids_to_tokens(token)
    tokenizer.eos_token = eos
    try:
        assert write_chains(tiny, tokenizer, PROMPTS[:1], max_new_tokens=5, stop=())[0] == Completion("", 0, True)
    finally:
        tokenizer.eos_token = text


@pytest.mark.model
def test_the_base_model_writes_in_a_batch_what_it_writes_alone():
    model, tokenizer = load_base(dtype=torch.float32)
    prompts = [chain_prompt(question, [PENS]) for question in ("What is 2 + 3?", "Tom eats 2 of 7 pears. And now?")]
    together = write_chains(model, tokenizer, prompts, max_new_tokens=24)
    assert together == [write_chains(model, tokenizer, [prompt], max_new_tokens=24)[0] for prompt in prompts]
    assert not any("\n\n" in w.text or "Q:" in w.text for w in together)


def test_an_empty_prompt_and_one_over_the_context_are_refused(tiny, tokenizer):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        write_chains(tiny, tokenizer, ["a", ""], max_new_tokens=5)
    tokens = len(tokenizer("a " * 70).input_ids)  # the tiny model's context is 128
    with pytest.raises(
        PromptTooLong,
        match=rf"prompt 0 has {tokens} tokens, .* {tokens + 20 - 128} more than the model's context of 128",
    ):
        write_chains(tiny, tokenizer, ["a " * 70], max_new_tokens=20)
    assert write_chains(tiny, tokenizer, []) == []


def test_samples_differ_and_the_same_seed_gives_the_same(tiny, tokenizer):
    draw = lambda seed: sample_chains(tiny, tokenizer, PROMPTS, 4, seed=seed, max_new_tokens=8)  # noqa: E731
    before = torch.get_rng_state()
    one, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert one == again != other
    assert [len(chains) for chains in one] == [4, 4, 4]
    assert len({chain.text for chain in one[0]}) > 1


def test_samples_follow_the_models_distribution(tiny, tokenizer):
    # All 512 tokens may come (transformers' own default would keep 50), each as often as the softmax says.
    n, temperature = 2_000, 0.25
    with torch.no_grad():
        logits = tiny(tokenizer(PROMPTS[0], return_tensors="pt").input_ids).logits[0, -1]
    expected = torch.softmax(logits / temperature, -1)
    chains = sample_chains(
        tiny, tokenizer, PROMPTS[:1], n, temperature=temperature, max_new_tokens=1, stop=(), batch_size=500
    )[0]
    counts = Counter(chain.text for chain in chains)
    by_text = Counter()
    for token, p in enumerate(expected.tolist()):
        by_text[tokenizer.decode([token]) if token > 1 else ""] += p
    assert len(counts) > 50
    for text, p in by_text.most_common(5):
        assert abs(counts[text] - n * p) < 5 * (n * p * (1 - p)) ** 0.5


@pytest.mark.parametrize(("n", "temperature"), [(0, 0.7), (1, 0), (1, -1)])
def test_no_chains_and_no_temperature_are_refused(tiny, tokenizer, n, temperature):
    with pytest.raises(ValueError, match=f"n = {n} chains at temperature {temperature}"):
        sample_chains(tiny, tokenizer, ["a"], n, temperature=temperature)


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 11.", 11),
        ("5 - 3 = 2. The answer is 2 pens, and 7 are left.", 2),
        ("It is 3. The answer is 4. No, the Answer is 5.", 5),
        ("So we have 4 and then 9", 9),
        ("The answer is $1,250,000.", 1_250_000),
        ("The answer is 12.50.", 12.5),
        ("The answer is 12.00 euros", 12),
        ("The answer is -7", -7),
        ("The answer is −7", -7),
        ("The answer is -$7", -7),
        ("12-5", 5),
        ("1,2", 2),
        ("The answer is", None),
        ("3 and 4. The answer is unknown", None),
        ("model X200 and v2.5", None),
        ("", None),
    ],
)
def test_the_number_at_the_end_is_found(text, number):
    found = final_number(text)
    assert found == number and type(found) is type(number)


def test_numbers_read_back_whatever_stands_around_them():
    rng = random.Random(0)
    for _ in range(300):
        whole, cents = rng.randint(-(10**7), 10**7), rng.choice(["", ".5", ".25"])
        assert final_number(f"2 + 2. The answer is {whole:,}{cents}.") == pytest.approx(float(f"{whole}{cents}"))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("The answer is yes.", "yes"),
        ("Yes? No. The answer is No, not yes.", "no"),
        ("I would say yes, or rather no", "no"),
        ("The answer is not known.", None),
        ("Nobody knows.", None),
        ("The answer is not sure, no.", "not sure"),
        ("", None),
    ],
)
def test_the_choice_at_the_end_is_found(text, choice):
    assert final_choice(text, ["yes", "no", "not sure"]) == choice


def test_of_two_choices_that_begin_alike_the_longer_one_counts():
    for choices in (["not", "not sure"], ["not sure", "not"]):
        assert final_choice("The answer is not sure.", choices) == "not sure"
        assert final_choice("The answer is not.", choices) == "not"


@pytest.mark.parametrize("choices", [[], ["a", "a"], ["a", "A"], ["a", ""]])
def test_choices_that_cannot_be_told_apart_are_refused(choices):
    with pytest.raises(ValueError, match="must be different texts"):
        final_choice("The answer is a.", choices)


# --- voting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "vote"),
    [
        ([18, 26, 18], Vote(18, 2, 3, False)),
        ([26, 18, 18, 26], Vote(26, 2, 4, True)),
        ([18, 26, 26, 18], Vote(18, 2, 4, True)),
        ([1, 2, 3], Vote(1, 1, 3, True)),
        ([None, None, 7], Vote(7, 1, 3, False)),
        ([None, None], Vote(None, 0, 2, False)),
        ([18, 18.0, 17], Vote(18, 2, 3, False)),
        (["yes"], Vote("yes", 1, 1, False)),
    ],
)
def test_the_majority_wins_and_a_tie_goes_to_the_first_and_is_said(answers, vote):
    assert majority_vote(answers) == vote


def test_a_vote_without_chains_is_refused():
    with pytest.raises(ValueError, match="no answers to vote on"):
        majority_vote([])


def test_many_weak_chains_vote_better_than_one():
    # By the binomial: nine voters who are right with 0.6 (else 9 wrong answers alike) are right with more than 0.9.
    rng = random.Random(0)
    draw = lambda: 0 if rng.random() < 0.6 else rng.randint(1, 9)  # noqa: E731
    right = sum(majority_vote([draw() for _ in range(9)]).answer == 0 for _ in range(500))
    assert right / 500 > 0.9
