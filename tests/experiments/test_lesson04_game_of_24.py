"""The recorded games of 24, in small: which hands are played, what is trained on, what a search finds."""

import random

import pytest

from lessonlib import runs
from lessonlib.experiments import lesson04_game_of_24 as x
from lessonlib.experiments import rerun
from lessonlib.reasoning import Completion, every_move, makes_24, solve_24, start
from lessonlib.reasoning.search import expression, read_move


@pytest.mark.slow
def test_traces_are_ways_to_24_and_held_out_hands_are_not_among_them():
    rng = random.Random(0)
    for hand in x.hands("train")[:40]:
        state, moves = start(hand), x.trace(start(hand), rng)
        for move in moves:
            assert read_move(state, str(move)) == move
            state = move.left
        assert makes_24(expression(start(hand), moves), hand)
    assert not set(x.hands("train")) & set(x.hands("test"))
    assert len(x.hands("train")) + len(x.hands("test")) == 1362  # known of the 24 game with cards from 1 to 13


def test_hands_of_the_test_can_be_solved():
    assert all(solve_24(hand).moves for hand in x.hands("test"))


def test_searching_together_finds_what_searching_alone_does(monkeypatch):
    class Writer:  # in the place of the tuned model: it writes every move, and a line that is none
        def __call__(self, model, tokenizer, prompts, n, **_):
            states = [start(prompt.removeprefix("Numbers: ").split()) for prompt in prompts]
            return [[Completion(str(m), 9, True) for m in [*every_move(s), "Hm."]] for s in states]

    monkeypatch.setattr(x, "sample_chains", Writer())
    played = x.hands("test")[:10]
    together = x._search_together(None, None, played, lines=6, temperature=1.0, seed=0)
    alone = x.game_of_24("symbolic, 5 kept", 10)
    assert together["score"] == alone["score"] and together["nodes"] == alone["nodes"]
    assert together["malformed"] > 0


def test_greedy_playing_follows_the_written_lines(monkeypatch):
    hand = x.hands("test")[0]
    lines = [str(move) for move in solve_24(hand).moves]
    texts = ["\n".join(lines), "\n".join(lines[:-1]), "\n".join(["1 + 1 = 3 (left: 3)", *lines])]
    monkeypatch.setattr(x, "write_chains", lambda *_, **__: [Completion(text, 9, True) for text in texts])
    results = x._play_greedily(None, None, [hand] * 3)
    assert results["score"].predictions == [1, 0, 0]
    assert results["nodes"] == [len(lines) + 1, len(lines), 1]


def test_the_symbolic_searches_come_out_as_recorded():
    for proposer in x.PROPOSERS[:2]:
        again = rerun(runs.load_runs("game_of_24", proposer=proposer)[0].id)
        assert again.again.score == again.recorded.score
        assert again.again.results["nodes"] == again.recorded.results["nodes"]
