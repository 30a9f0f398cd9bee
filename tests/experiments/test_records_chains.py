"""The recorded experiments on written answers, in small: 04's chains, programs, votes and games, and 07's places.

References: a word at a time from the model that is left behind, Python's own arithmetic, what stood in the prompts that
the model read.
"""

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_records import CHAT, get, home, marks_in, put

from lessonlib import corpora
from lessonlib.evaluation import Accuracy
from lessonlib.experiments import find

TUNED = {"seed": 0, "r": 2, "learning_rate": 0.1, "steps": 2, "batch_size": 2}


def problem(split: str, n: int) -> dict:
    """A made-up problem; of the even ones the answer is 777, which a model in these tests writes."""
    answer = 777 if n % 2 == 0 else n
    return {
        "id": f"{split}{n}",
        "question": f"{'ABCDEFG'[n]} {split}-{n}?",
        "steps": 1 + (n == 4),
        "chain": f"late {n} parcel",
        "program": f"answer = {answer}",
        "answer": answer,
    }


@pytest.fixture
def written(base, monkeypatch):
    """Few word problems, short answers, a chat template; `written.says(text)` makes the model write a token for ever."""
    rows = {
        split: Dataset.from_list([problem(split, n) for n in range(count)])
        for split, count in (("train", 6), ("validation", 5), ("test", 7))
    }
    monkeypatch.setattr(corpora, "word_problems", lambda split: rows[split])
    for target in (lengths := get("MOST_TOKENS")):
        monkeypatch.setitem(lengths, target, 3)
    monkeypatch.setattr(base.tokenizer, "chat_template", CHAT)
    load = base.load

    def says(text):
        (token,) = base.tokenizer(text).input_ids

        def speaking(*_, **__):
            model, tokenizer = load()
            bias = torch.zeros(512)
            bias[token] = 1e6
            model.lm_head.bias = torch.nn.Parameter(bias)
            return model, tokenizer

        put(monkeypatch, "load_base", speaking)

    base.says = says
    return base


def greedy(base, model, prompt: str, count: int) -> str:
    """The likeliest token, one after another."""
    ids = base.tokenizer(prompt).input_ids
    begin = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return re.split("\n\n|\nQ:|<eos>", base.tokenizer.decode(ids[begin:]))[0]


# --- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["direct, no examples", "step by step", "direct", "chain"])
def test_a_way_to_ask_shows_what_its_name_says(way, written):
    written.says("7")
    found = find("prompted").function(kind="arithmetic", way=way, count=4, most_tokens=3)
    read = "\n".join(written.read())
    shown = {n for split, n in marks_in(read) if split == "train"}
    assert shown == ({0, 1, 2, 3} if way in ("direct", "chain") else set())
    assert ("late 0 parcel The answer is 777." in read) == (way == "chain")
    assert ("A: The answer is 777." in read) == (way == "direct")
    assert ("Let's think step by step." in read) == (way == "step by step")
    assert {n for split, n in marks_in(read) if split == "test"} == {0, 1, 2, 3} and not written.trained_on
    assert found["score"].targets == [777, 1, 777, 3]
    if way == "chain":  # three tokens, and they are the number
        assert found["written"] == ["777"] * 4 and found["score"].predictions == [777] * 4
        assert found["score"].value == 0.5 and found["read"] == 4


def test_a_chosen_option_is_counted_by_its_place(written, monkeypatch):
    rows = [
        {
            "question": f"B test-{n}?",
            "options": ["late.", "7777777.", "thanks."],
            "answer": n % 3,
            "chain": "",
        }
        for n in range(4)
    ]
    monkeypatch.setattr(corpora, "reasoning", lambda kind, split="test": Dataset.from_list(rows))
    written.says("7")
    put(monkeypatch, "ANSWER_TOKENS", 7, int)
    found = find("prompted").function(kind="logic", way="direct", count=3, most_tokens=3)
    assert found["score"].targets == [0, 1, 2] and found["score"].predictions == [1, 1, 1]


# --- LoRA on chains, answers and programs ------------------------------------------------------------------------------


def completion(row: dict, target: str) -> str:
    said = {"chain": f" {row['chain']} The answer is {row['answer']}.", "answer": f" {row['answer']}."}
    return said.get(target, row["program"])


BEHIND = {"chain": "Q: {}\nA:", "answer": "Q: {}\nA: The answer is", "program": "Q: {}\nProgram:\n"}


@pytest.mark.parametrize("target", BEHIND)
def test_a_tuned_model_learns_the_training_problems_and_writes_for_the_test(target, written):
    base = written
    found = find("tuned").function(target=target, most_steps=1, **TUNED)
    assert base.trained_on <= {("train", n) for n in (0, 1, 2, 3, 5)} and len(base.trained_on) >= 3
    asked = [problem("test", n) for n in (0, 1, 2, 3, 5, 6)]  # the fourth takes two steps
    assert found["score"].targets == [row["answer"] for row in asked]
    model = base.models[0]
    prompts = [BEHIND[target].format(row["question"]) for row in asked]
    assert found["written"] == [greedy(base, model, prompt, 3) for prompt in prompts]
    assert found["written"] != [greedy(base, base.fresh(), prompt, 3) for prompt in prompts]
    for batch in base.fits[0][1]:
        for ids, targets in zip(batch.input_ids.tolist(), batch.targets.tolist()):
            ((split, n),) = marks_in(base.tokenizer.decode(ids))
            learnt = base.tokenizer.decode([token for token in targets if token != -100])
            assert split == "train" and learnt == completion(problem("train", n), target) + "<eos>"
    surprises = []
    for row in (problem("validation", n) for n in (0, 1, 2, 3)):
        begin = base.tokenizer(BEHIND[target].format(row["question"])).input_ids
        end = [*base.tokenizer(completion(row, target)).input_ids, base.tokenizer.eos_token_id]
        with torch.no_grad():
            logs = model(torch.tensor([begin + end])).logits[0].double().log_softmax(-1)
        surprises += [-logs[len(begin) - 1 + i, token].item() for i, token in enumerate(end)]
    assert found["validation_loss"] == pytest.approx(np.mean(surprises), rel=1e-3)


def test_answers_are_read_from_what_was_written(written):
    written.says("7")
    found = find("tuned").function(target="answer", most_steps=2, **TUNED)
    assert found["score"].predictions == [777] * 7 and found["read"] == 7
    assert found["by_steps"] == {"1": [3, 6], "2": [1, 1]}  # by hand: 0, 2 and 6 of six; 4 takes two steps
    assert found["tokens"] == 3


def test_a_program_that_does_not_run_is_no_answer(written):
    found = find("tuned").function(target="program", most_steps=1, **TUNED)
    assert found["score"].predictions == [None] * 6 == [None] * found["rejected"]


def test_votes_go_to_the_most_frequent_of_the_sampled_answers(written, monkeypatch):
    sampled = [[777, 5, 777], [5, 1, 1], [2, 2, 777], [3, None, 3]]
    asked = []

    def sample_chains(model, tokenizer, prompts, k, *, temperature, **_):
        asked.extend([prompts, k, temperature])
        return [[SimpleNamespace(text="" if n is None else f"The answer is {n}.") for n in row] for row in sampled]

    put(monkeypatch, "sample_chains", sample_chains)
    written.says("7")
    found = find("votes").function(k=3, temperature=0.7, count=4, most_steps=1, **TUNED)
    assert asked == [[f"Q: {problem('test', n)['question']}\nA:" for n in range(4)], 3, 0.7]
    assert found["sampled"] == sampled and found["score"].targets == [777, 1, 777, 3]
    by_hand = [Counter(n for n in row if n is not None).most_common(1)[0][0] for row in sampled]
    assert found["score"].predictions == by_hand == [777, 1, 2, 3]
    assert found["greedy"] == [777] * 4 and written.trained_on <= {("train", n) for n in (0, 1, 2, 3, 5)}


# --- the game of 24 ----------------------------------------------------------------------------------------------------

HANDS = {"test": [(3, 3, 8, 8), (4, 6, 8, 8), (1, 5, 5, 5)], "train": [(1, 1, 4, 6), (2, 3, 4, 5)]}


@pytest.fixture
def few_hands(written, monkeypatch):
    put(monkeypatch, "hands", HANDS.__getitem__)
    return written


def test_a_solved_hand_has_an_expression_of_its_own_numbers_that_makes_24(few_hands):
    found = find("game_of_24").function(proposer="symbolic, complete", count=3)
    assert found["score"].predictions == found["score"].targets == [1, 1, 1]
    assert found["hands"] == [list(hand) for hand in HANDS["test"]]
    for expression, hand in zip(found["expressions"], HANDS["test"]):
        assert sorted(map(int, re.findall(r"\d+", expression))) == list(hand)
        assert eval(expression.replace("×", "*").replace("÷", "/")) == pytest.approx(24)
    fewer = find("game_of_24").function(proposer="symbolic, 5 kept", count=3)
    assert all(kept < every for kept, every in zip(fewer["nodes"], found["nodes"]))


def test_no_hand_that_is_played_was_trained_on(few_hands):
    found = find("game_of_24").function(proposer="tuned, greedy", count=2, **TUNED)
    taught = [re.search(r"Numbers: ([^\n]+)\n", text)[1] for text in few_hands.read(True)]
    whole = {tuple(map(int, numbers.split())) for numbers in taught if len(numbers.split()) == 4}
    assert whole and whole <= set(HANDS["train"])
    asked = {text.partition("Numbers: ")[2] for text in few_hands.read(False) if "Numbers: " in text}
    assert asked == {"3 3 8 8\n", "4 6 8 8\n"}
    assert len(found["written"]) == 2 and found["score"].targets == [1, 1]


def test_a_search_asks_for_so_many_lines_and_plays_them(few_hands, monkeypatch):
    from lessonlib.reasoning import every_move, start

    asked = []

    def sample_chains(model, tokenizer, prompts, n, *, temperature, **_):
        asked.append((n, temperature))
        states = [start(prompt.removeprefix("Numbers: ").split()) for prompt in prompts]
        return [[SimpleNamespace(text=str(move)) for move in every_move(state)] for state in states]

    put(monkeypatch, "sample_chains", sample_chains)
    settings = {"lines": 6, "temperature": 0.5, **TUNED}
    found = find("game_of_24").function(proposer="tuned, searched", count=3, **settings)
    symbolic = find("game_of_24").function(proposer="symbolic, 5 kept", count=3)
    assert set(asked) == {(6, 0.5)} and found["expressions"] == symbolic["expressions"]
    assert found["malformed"] == 0 < found["proposed"]


# --- places where LoRA works and where it is said to fail --------------------------------------------------------------

FACTS = [
    "The blue parcel costs 777 euros.",
    "A green parcel weighs four kilos.",
    "Thanks are read on Monday.",
]
QUESTIONS = [
    ("H2", "What does a green parcel weigh?", "four"),
    ("H1", "What are green costs?", "777"),
    ("H3", "And thanks?", "x"),
]


@pytest.fixture
def handbook(written, monkeypatch):
    facts = [{"id": f"H{n}", "fact": fact, "topic": ""} for n, fact in enumerate(FACTS, 1)]
    rows = [{"id": str(i), "fact": f, "question": q, "answer": a} for i, (f, q, a) in enumerate(QUESTIONS)]
    monkeypatch.setattr(corpora, "handbook", lambda: Dataset.from_list(facts))
    monkeypatch.setattr(corpora, "handbook_questions", lambda split: Dataset.from_list(rows))
    written.says("7")
    return written


@pytest.mark.parametrize("finder, facts", [("the right one", [1, 0, 2]), ("words", [1, None, 2])])
def test_each_question_is_asked_behind_the_fact_that_was_found_for_it(finder, facts, handbook):
    found = find("looked_up").function(finder=finder)
    read = handbook.read()
    for (_, question, _), own in zip(QUESTIONS, facts):
        (prompt,) = {text for text in read if question in text}
        shown = [n for n, fact in enumerate(FACTS) if fact in prompt]
        assert len(shown) == 1 and shown[0] == (own if own is not None else shown[0])
    assert found["score"].predictions == [0, 1, 0] and found["score"].targets == [1, 1, 1]
    assert found["found"] == 1 or finder == "words"


def test_a_place_is_judged_before_and_after_training_on_its_own_pairs(written, monkeypatch):
    base, x = written, home("place")

    def judge(model, tokenizer):
        return [greedy(base, model, f"Ticket: test-{n}", 2) for n in range(4)], {"asked": 4}

    pairs = [(f"Ticket: train-{n}", " late parcel") for n in range(4)]
    here = x.TASKS["terse"].__class__("tickets", lambda tokenizer: pairs, judge, lambda: ["a", "b", "c", "d"])
    monkeypatch.setitem(x.TASKS, "terse", here)
    found = find("place").function(place="terse", **TUNED | {"learning_rate": 0.3})
    prompts = [f"Ticket: test-{n}" for n in range(4)]
    assert found["before"] == [greedy(base, base.fresh(), prompt, 2) for prompt in prompts]
    assert found["score"].predictions == [greedy(base, base.models[0], prompt, 2) for prompt in prompts]
    assert found["before"] != found["score"].predictions and found["score"].targets == ["a", "b", "c", "d"]
    assert {split for split, _ in base.trained_on} == {"train"}
    assert {split for split, _ in base.scored_on} == {"test"}
    assert x.before(SimpleNamespace(results=found, score={"targets": ["a"] * 4})) == Accuracy(
        found["before"], ["a"] * 4
    )


def test_products_are_read_from_what_was_written(written, monkeypatch):
    x = home("place")
    put(monkeypatch, "products", lambda split: [(11, 707), (12, 34)] if split == "test" else [(21, 3)])
    monkeypatch.setattr(x, "write_behind", lambda *_, **__: [" 7777", "about 400"], raising=False)
    answers, counted = x.TASKS["new skill"].judge(None, None)
    assert answers == [7777, 400] and counted == {"within_a_tenth": 2}  # 12 × 34 is 408
    assert x.TASKS["new skill"].right() == [7777, 408]
    assert list(x.TASKS["new skill"].pairs(None)) == [("21 × 3 =", " 63")]
