"""The recorded experiments of 04, in small: what is read, what is trained on, and what is counted."""

import random
from types import SimpleNamespace

import pytest

from lessonlib import runs
from lessonlib.experiments import lesson04_reasoning as x
from lessonlib.experiments import rerun
from lessonlib.reasoning import every_move, makes_24, run_program, solve_24, start, write_chains
from lessonlib.reasoning.search import expression, read_move
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


def test_traces_are_ways_to_24_and_held_out_hands_are_not_among_them():
    rng = random.Random(0)
    for hand in x.hands("train")[:40]:
        state, moves = start(hand), x.trace(start(hand), rng)
        for move in moves:
            assert read_move(state, str(move)) == move
            state = move.left
        assert makes_24(expression(start(hand), moves), hand)
    assert not set(x.hands("train")) & set(x.hands("test"))
    assert (
        len(x.hands("train")) + len(x.hands("test")) == 1362
    )  # known of the 24 game with cards from 1 to 13


def test_hands_of_the_test_can_be_solved():
    assert all(solve_24(hand).moves for hand in x.hands("test"))


def test_searching_together_finds_what_searching_alone_does(monkeypatch):
    class Writer:  # in the place of the tuned model: it writes every move, and a line that is none
        def __call__(self, model, tokenizer, prompts, n, **_):
            states = [start(prompt.removeprefix("Numbers: ").split()) for prompt in prompts]
            return [[x.Completion(str(m), 9, True) for m in [*every_move(s), "Hm."]] for s in states]

    monkeypatch.setattr(x, "sample_chains", Writer())
    played = x.hands("test")[:10]
    together = x._search_together(None, None, played, lines=6, temperature=1.0, seed=0)
    alone = x.game_of_24("symbolic, 5 kept", 10)
    assert together["score"] == alone["score"] and together["nodes"] == alone["nodes"]
    assert together["malformed"] > 0


@pytest.mark.parametrize("prefix", ["", "Ticket: late parcel\nTopic: delivery\n\n"])
def test_writing_behind_a_shared_prefix_writes_the_same(prefix):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = ["Ticket: thanks", "Ticket: broken refund question\nTopic:", "A"]
    whole = write_chains(model, tokenizer, [prefix + prompt for prompt in prompts], max_new_tokens=8)
    assert x.write_behind(model, tokenizer, prefix, prompts, 8) == [w.text for w in whole]
    assert len({w.text for w in whole}) == 3


def test_greedy_playing_follows_the_written_lines(monkeypatch):
    hand = x.hands("test")[0]
    lines = [str(move) for move in solve_24(hand).moves]
    texts = ["\n".join(lines), "\n".join(lines[:-1]), "\n".join(["1 + 1 = 3 (left: 3)", *lines])]
    monkeypatch.setattr(x, "write_chains", lambda *_, **__: [x.Completion(text, 9, True) for text in texts])
    results = x._play_greedily(None, None, [hand] * 3)
    assert results["score"].predictions == [1, 0, 0]
    assert results["nodes"] == [len(lines) + 1, len(lines), 1]


def test_accuracy_of_votes_by_hand():
    sampled = [[7, 5, 5], [None, 2, 3], [1, None, None]]
    run = SimpleNamespace(results={"sampled": sampled}, score={"targets": [5, 2, 1]})
    assert x.vote_curve(run) == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1.0})


def test_the_symbolic_searches_come_out_as_recorded():
    for proposer in x.PROPOSERS[:2]:
        again = rerun(runs.load_runs("game_of_24", proposer=proposer)[0].id)
        assert again.again.score == again.recorded.score
        assert again.again.results["nodes"] == again.recorded.results["nodes"]


@pytest.mark.notebook
def test_a_prompted_point_falls_in_its_band_again():
    again = rerun(x.prompt_runs()["recall"]["direct"].id)
    assert again.inside, again
