"""The recorded runs of 04 on the game of 24, with the symbolic proposer and with a tuned model for it.

A prediction is whether a hand was solved.
"""

import functools
import itertools
import random

from lessonlib.evaluation import Accuracy
from lessonlib.reasoning import (
    Completion,
    Search,
    TextProposer,
    breadth_first,
    every_move,
    sample_chains,
    start,
    write_chains,
)
from lessonlib.reasoning.search import TARGET, Move, State, written
from lessonlib.runs import Run

from .lesson04_reasoning import tuned_model
from .registry import experiment, record


def _every_hand_solved(run: Run) -> list[int]:
    return [1] * len(hands("test"))


PROPOSERS = ("symbolic, complete", "symbolic, 5 kept", "tuned, searched", "tuned, greedy")


HELD_OUT = 100  # hands that no trace is trained on


@functools.cache
def can_make_24(state: State) -> bool:
    """Whether any moves lead from here to 24."""
    if len(state) == 1:
        return state == (TARGET,)
    return any(can_make_24(move.left) for move in every_move(state))


@functools.cache
def hands(split: str) -> list[tuple[int, ...]]:
    """The 1,362 hands of numbers from 1 to 13 that have a solution, shuffled: 100 for "test", the rest for "train"."""
    rng = random.Random(24)
    all_hands = itertools.combinations_with_replacement(range(1, 14), 4)
    solvable = [hand for hand in all_hands if can_make_24(start(hand))]
    shuffled = sorted(solvable, key=lambda _: rng.random())
    return shuffled[:HELD_OUT] if split == "test" else shuffled[HELD_OUT:]


def hand_prompt(state: State) -> str:
    """What the model reads of a state.

    >>> hand_prompt(start([8, 4, 6, 8]))
    'Numbers: 4 6 8 8\\n'
    """
    return f"Numbers: {written(state)}\n"


def trace(state: State, rng: random.Random) -> list[Move]:
    """A way to 24 that the symbolic search finds: at each step one of the moves that can still make it, at random."""
    moves = []
    while len(state) > 1:
        good = [move for move in every_move(state) if can_make_24(move.left)]
        moves.append(good[int(rng.random() * len(good))])
        state = moves[-1].left
    return moves


def traces(count: int, seed: int) -> list[tuple[str, str]]:
    """(prompt, completion) pairs: whole ways from training hands, and as many from the states behind a first move."""
    rng, known, pairs = random.Random(seed), hands("train"), []
    while len(pairs) < count:
        state = start(known[int(rng.random() * len(known))])
        moves = trace(state, rng)
        pairs.append((hand_prompt(state), "\n".join(map(str, moves))))
        pairs.append((hand_prompt(moves[0].left), "\n".join(map(str, moves[1:]))))
    return pairs[:count]


@experiment(right_answers=_every_hand_solved)
def game_of_24(proposer: str, count: int, **settings) -> dict:
    """The first `count` held-out hands, played by one of PROPOSERS.

    settings of the tuned ones: r, learning_rate, steps, batch_size, seed; and for the search: lines (sampled for each
    state), temperature. The value of a state is symbolic throughout (`reasoning.nearness`); five states are kept.
    """
    played = hands("test")[:count]
    if proposer.startswith("symbolic"):
        keep = None if proposer.endswith("complete") else 5
        return _played(played, [breadth_first(hand, every_move, beam_width=keep) for hand in played])
    sampling = {name: settings.pop(name) for name in ("lines", "temperature") if name in settings}
    pairs = traces(settings["steps"] * settings["batch_size"], settings["seed"])
    model, tokenizer = tuned_model("game", pairs, settings)
    if proposer == "tuned, greedy":
        return _play_greedily(model, tokenizer, played)
    return _search_together(model, tokenizer, played, seed=settings["seed"], **sampling)


def _played(played: list, searches: list[Search]) -> dict:
    return {
        "score": Accuracy([int(search.moves is not None) for search in searches], [1] * len(played)),
        "corpus": "game_of_24",  # made here: no file of data holds the hands
        "hands": [list(hand) for hand in played],
        "nodes": [search.nodes for search in searches],
        "expressions": [search.expression for search in searches],
    }


def _play_greedily(model, tokenizer, played: list) -> dict:
    prompts = [hand_prompt(start(hand)) for hand in played]
    texts = [w.text for w in write_chains(model, tokenizer, prompts, max_new_tokens=100, batch_size=50)]
    searches = [breadth_first(hand, TextProposer(_NextLine(text))) for hand, text in zip(played, texts)]
    return _played(played, searches) | {"written": texts}


class _NextLine:
    """A text already written, as a writer of one line a call: its next line, whatever the state."""

    def __init__(self, text: str):
        self.lines = iter(text.strip().split("\n"))

    def __call__(self, state: str) -> list[str]:
        return [next(self.lines, "")]


class _LineCache:
    """Lines already written for states, as a writer; what it was asked for and has not stands in `missing`."""

    def __init__(self):
        self.lines: dict[str, list[str]] = {}
        self.missing: dict[str, None] = {}  # a set that keeps its order

    def __call__(self, state: str) -> list[str]:
        if state not in self.lines:
            self.missing[state] = None
        return self.lines.get(state, [])


def _search_together(model, tokenizer, played: list, lines: int, temperature: float, seed: int) -> dict:
    """All hands at once: the searches run again and again, each time with one more level of states written for."""
    cache = _LineCache()
    while True:
        cache.missing, proposer = {}, TextProposer(cache)
        searches = [breadth_first(hand, proposer, beam_width=5) for hand in played]
        if not cache.missing:
            counts = {"proposed": proposer.proposed, "malformed": proposer.malformed}
            return _played(played, searches) | counts
        wrote = sample_chains(
            model, tokenizer, [f"Numbers: {state}\n" for state in cache.missing], lines, temperature=temperature,
            seed=seed, max_new_tokens=32, stop=["\n"], batch_size=200,
        )  # fmt: skip
        cache.lines |= {state: _first_lines(texts) for state, texts in zip(cache.missing, wrote)}


def _first_lines(texts: list[Completion]) -> list[str]:
    """The different lines among the samples, the most frequent first."""
    lines = [text.text for text in texts]
    return sorted(dict.fromkeys(lines), key=lines.count, reverse=True)


# --- which runs are recorded -----------------------------------------------------------------------------------------

GAME = {"count": 60, "r": 16, "learning_rate": 2e-3, "steps": 100, "batch_size": 4, "seed": 0}


SAMPLING = {"lines": 3, "temperature": 1.0}


def record_all() -> None:
    """Record every game that is not there yet."""
    for proposer in PROPOSERS[:2]:
        record("game_of_24", proposer=proposer, count=GAME["count"])
    record("game_of_24", proposer=PROPOSERS[2], **GAME, **SAMPLING)
    record("game_of_24", proposer=PROPOSERS[3], **GAME)
