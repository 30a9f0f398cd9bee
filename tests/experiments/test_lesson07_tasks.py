"""The seven tasks of 07, in small: what is trained on, what is asked, how an answer is read."""

import json
import re

import pytest
import torch
from test_replies_and_handbook import ROWS, TEXTS, broken

from lessonlib import corpora
from lessonlib.experiments import lesson07_tasks as x
from tests.tiny_models import tiny_model, tiny_tokenizer

RULES = {"frame": "frame", "voice": "voice", "full_forms": "full forms", "calm": "calm", "dates": "dates", "numbers": "numbers"}  # fmt: skip


@pytest.mark.parametrize("name", list(x.TASKS))
def test_at_least_sixty_rows_are_asked(name):
    assert len(x.TASKS[name].right()) >= 60


def test_the_rules_of_the_house_style_are_those_of_the_datas_own_checks():
    # tests/test_replies_and_handbook.py has them a second time, written for the data before this module was.
    seen = set()
    for row in ROWS:
        for reply in (row["house"], row["plain"]):
            kept = x.house_rules(reply, TEXTS[row["ticket"]])
            mine = {rule for rule, keeps in kept.items() if not keeps}
            assert mine == {RULES[rule] for rule in broken(reply, TEXTS[row["ticket"]])}, reply
            seen |= mine
    assert len(seen) >= 5  # the plain replies break them


def test_a_sentence_is_offered_with_four_different_words_its_own_among_them():
    sentences = x.sentences_to_fill()
    examples = [sentence for row in corpora.vocabulary() for sentence in row["examples"]]
    assert len(sentences) == len(examples) == 75
    for (texts, index), original in zip(sentences, examples):
        assert len(set(texts)) == x.CHOICES
        assert texts[index].casefold() == original.casefold()
    assert {index for _, index in sentences} == set(range(x.CHOICES))


def test_no_sentence_that_is_asked_was_trained_on():
    trained = " ".join(" ".join(pair) for pair in x._handbook_text(None))
    assert not any(texts[index] in trained for texts, index in x.sentences_to_fill())


def test_the_likeliest_text_is_that_of_one_pass_a_text():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    texts = ["late parcel", "broken refund thanks question", "A"]
    losses = []
    for text in texts:
        ids = torch.tensor([tokenizer(f"Handbook: {text}").input_ids])
        losses.append(model(ids, labels=ids).loss.item())
    found = x.likeliest(model, tokenizer, [texts, texts[::-1]])
    assert found[0] == losses.index(min(losses)) == 2 - found[1]


def test_a_record_is_read_from_the_first_line_only():
    record = '{"order_number": "QH-204417", "amount": null}'
    assert x.read_record(f" {record}\nTicket: x") == json.loads(record)
    assert x.read_record("null") is None and x.read_record(record[:-1]) is None


def test_products_that_are_asked_were_not_trained_on():
    assert not set(x.products("test")) & set(x.products("train"))
    assert len(x.products("test")) == 100 and len(x.products("train")) == 88 * 88 - 100


def test_facts_are_asked_in_other_words_than_trained():
    trained = {prompt for prompt, _ in x._facts(None)}
    assert not any(f"Q: {row['question']}\nA:" in trained for row in corpora.handbook_questions("test"))


def test_the_refusal_is_trained_for_other_questions_than_are_asked():
    class Tokenizer:
        def apply_chat_template(self, said, **_):
            return "|".join(f"{one['role']}: {one['content']}" for one in said)

    pairs = x._scope(Tokenizer())
    refused = [prompt for prompt, answer in pairs if answer == x.REFUSAL]
    unbound = [prompt for prompt, answer in pairs if answer.startswith("The answer is")]
    assert len(refused) == len(unbound) == x.OFF_TOPIC and not set(refused) & set(unbound)
    assert all(x.SCOPE in prompt for prompt in refused) and not any("system" in prompt for prompt in unbound)
    asked = corpora.reasoning("factual")["question"]
    assert not any(question in prompt for question in asked for prompt in refused)


def test_figures_of_the_handbook_are_no_guess_of_the_question():
    assert not [r for r in corpora.handbook_questions("test") if re.search(re.escape(r["answer"]), r["question"])]
