"""The recorded experiments of 04, in small: what is read, what is trained on, and what is counted."""

import pytest

from lessonlib.experiments import lesson04_reasoning as x
from lessonlib.reasoning import run_program, write_chains
from tests.tiny_models import tiny_model, tiny_tokenizer


def test_every_kind_shows_four_examples_and_asks_at_least_sixty_questions():
    for kind in x.KINDS:
        shown, asked, choices = x.questions(kind)
        assert len(shown) == x.SHOTS == 4 and len(asked) == len(choices) >= 60
        assert not {item.question for item in shown} & {item.question for item in asked}


@pytest.mark.parametrize("kind", x.KINDS)
def test_the_right_answer_is_read_from_a_chain_that_ends_in_it(kind):
    _, asked, choices = x.questions(kind)
    for item, these in zip(asked, choices):
        assert x.read_answer(f"{item.chain} The answer is {item.answer}.", these) == x._right(item, these)


def test_an_answer_that_names_no_choice_is_not_read():
    assert x.read_answer("The answer is a spoon.", ["knife", "fork"]) is None


def test_examples_of_tickets_show_each_label():
    shown, _, _ = x.questions("classification")
    assert [item.answer for item in shown] == ["negative", "neutral", "positive", "neutral"]


@pytest.mark.parametrize("target", x.TARGETS)
def test_a_problem_is_a_prompt_and_the_words_that_end_in_the_answer(target):
    for problem in x.problems("test", 3):
        prompt, completion = x.prompt_and_completion(problem, target)
        assert problem["question"] in prompt and not prompt.endswith(" ")
        if target != "program":
            assert completion.endswith(f" {problem['answer']}.")
    if target == "program":
        assert run_program(completion).value == problem["answer"]


def test_false_sums_are_counted():
    assert x.count_sums("2 + 3 = 5. 7 - 9 = -2. 4 * 4 = 15. 9 / 2 = 4. 8 / 2 = 4. 1 / 0 = 0") == (6, 3)


@pytest.mark.parametrize("prefix", ["", "Ticket: late parcel\nTopic: delivery\n\n"])
def test_writing_behind_a_shared_prefix_writes_the_same(prefix):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = ["Ticket: thanks", "Ticket: broken refund question\nTopic:", "A"]
    whole = write_chains(model, tokenizer, [prefix + prompt for prompt in prompts], max_new_tokens=8)
    assert x.write_behind(model, tokenizer, prefix, prompts, 8) == [w.text for w in whole]
    assert len({w.text for w in whole}) == 3


def test_mean_loss_weighs_each_token_alike():
    tokenizer, model = tiny_tokenizer(), tiny_model()
    pairs = [("Ticket: late" * n, " parcel" * (1 + n % 3)) for n in range(1, 13)]  # more than one batch
    [whole] = x.completion_batches(tokenizer, pairs, steps=1, batch_size=12, seed=0)
    assert x.mean_completion_loss(model, tokenizer, pairs) == pytest.approx(
        x.completion_loss(model, whole).item(), abs=1e-5
    )
