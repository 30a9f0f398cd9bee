"""Tree of thoughts on the game of 24 (Yao et al., 2023, arXiv:2305.10601, section 4.1).

Four numbers, each used once, with + - * / and brackets, are to make 24. A state is what is left of them; a move takes
two of them and puts the result in their place:

    4 6 8 8   ->   8 - 6 = 2 (left: 2 4 8)   ->   2 + 4 = 6 (left: 6 8)   ->   …

Three moves deep, the tree has some thousands of states. `breadth_first` walks through it level by level with a
proposer (state -> moves) and a value (state -> how promising), keeping the best states of each level. Both may be
symbolic, as `every_move` and `nearness` are, or a model. All arithmetic is exact.
"""

import ast
import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

State = tuple[Fraction, ...]  # what is left, in ascending order

TARGET = Fraction(24)


class Move(NamedTuple):
    """`a sign b = result`, and the state behind it. As text, it reads as in the paper."""

    a: Fraction
    sign: str
    b: Fraction
    result: Fraction
    left: State

    def __str__(self):
        return f"{self.a} {self.sign} {self.b} = {self.result} (left: {written(self.left)})"


def start(numbers: Iterable) -> State:
    """The state that a hand of whole numbers or fractions begins with. Raises ValueError for anything else."""
    try:
        state = tuple(sorted(Fraction(number) for number in numbers))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as cause:
        raise ValueError(f"{numbers!r} is no hand: give numbers, such as [4, 6, 8, 8]") from cause
    if not state:
        raise ValueError("the hand is empty: give numbers, such as [4, 6, 8, 8]")
    return state


def written(state: State) -> str:
    """A state as text, for a model to read.

    >>> written(start([8, 4, Fraction(1, 3)]))
    '1/3 4 8'
    """
    return " ".join(map(str, state))


@functools.lru_cache(2**14)
def results(a: Fraction, b: Fraction) -> list[tuple[str, Fraction, Fraction, Fraction]]:
    """All (sign, x, y, x sign y) of two numbers, in either order where the order matters."""
    always = [("+", a, b, a + b), ("*", a, b, a * b), ("-", a, b, a - b), ("-", b, a, b - a)]
    return always + [("/", x, y, x / y) for x, y in ((a, b), (b, a)) if y]


# --- proposers: state -> moves ------------------------------------------------------------------------------


def every_move(state: State) -> list[Move]:
    """The symbolic proposer: one move to each state that a single move can reach.

    >>> [str(move) for move in every_move(start([2, 2]))]
    ['2 + 2 = 4 (left: 4)', '2 - 2 = 0 (left: 0)', '2 / 2 = 1 (left: 1)']
    """
    moves = {}
    for i, j in itertools.combinations(range(len(state)), 2):
        rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
        for sign, a, b, result in results(state[i], state[j]):
            left = tuple(sorted((*rest, result)))
            moves.setdefault(left, Move(a, sign, b, result, left))
    return list(moves.values())


NUMBER = r"(-?\d{1,12}(?:/\d{1,12})?)"
LINE = re.compile(rf"\s*{NUMBER} ([-+*/]) {NUMBER} = {NUMBER} \(left: ({NUMBER}(?: {NUMBER})*)\)\s*")


def read_move(state: State, line: str) -> Move | None:
    """The move that a line of text describes; None where it is no line of this form, or does not follow from the state.

    >>> read_move(start([4, 6, 8, 8]), "8 - 6 = 2 (left: 2 4 8)").left == start([2, 4, 8])
    True
    >>> read_move(start([4, 6, 8, 8]), "8 - 6 = 3 (left: 3 4 8)") is None
    True
    """
    if not isinstance(line, str) or not (match := LINE.fullmatch(line)):
        return None
    try:
        a, b, result = (Fraction(match[group]) for group in (1, 3, 4))
        left = start(match[5].split())
    except (ValueError, ZeroDivisionError):
        return None
    rest = list(state)
    for number in (a, b):
        if number not in rest:
            return None
        rest.remove(number)
    right = (match[2], a, b, result) in results(a, b) and left == tuple(sorted((*rest, result)))
    return Move(a, match[2], b, result, left) if right else None


class TextProposer:
    """Any writer of lines, a model for one, as a proposer; malformed and false lines are counted and dropped.

    write(state as text) -> lines of the form "8 - 6 = 2 (left: 2 4 8)".

    >>> proposer = TextProposer(lambda state: ["4 * 6 = 24 (left: 24)", "4 * 6 = 42 (left: 42)", "Hm."])
    >>> len(proposer(start([4, 6]))), proposer.proposed, proposer.malformed
    (1, 3, 2)
    """

    def __init__(self, write: Callable[[str], Iterable[str]]):
        self.write, self.proposed, self.malformed = write, 0, 0

    def __call__(self, state: State) -> list[Move]:
        lines = list(self.write(written(state)))
        moves = [move for line in lines if (move := read_move(state, line))]
        self.proposed += len(lines)
        self.malformed += len(lines) - len(moves)
        return moves


# --- values: state -> how promising -------------------------------------------------------------------------


def nearness(state: State) -> Fraction:
    """How near one more move can come to 24: minus the smallest distance, 0 at best. A rough guess that looks no
    further, in the place of the model that says "sure", "likely" or "impossible" in the paper."""
    reached = state if len(state) == 1 else [move.result for move in every_move(state)]
    return -min(abs(TARGET - number) for number in reached)


# --- searches -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """What a search found: the moves and the same as one expression (None: no way to 24), and the number of nodes,
    that is, of different states that it looked at, the hand itself included."""

    moves: tuple[Move, ...] | None
    expression: str | None
    nodes: int

    def __str__(self):
        lines = [str(move) for move in self.moves or ()]
        return "\n".join([*lines, f"{self.expression or 'no solution found'} · {self.nodes:,} nodes"])


def breadth_first(
    numbers: Iterable,
    propose: Callable[[State], Sequence[Move]] = every_move,
    value: Callable[[State], float] = nearness,
    beam_width: int | None = 5,
) -> Search:
    """Tree of thoughts, breadth first: propose moves from each state of a level, keep the best states, go on.

    propose: state -> moves. value: state -> larger is better; of equals the first proposed is kept.
    beam_width: states of a level to go on with (5 in the paper); None keeps all, and the search is complete if
        the proposer is. It ends with the first move to 24.
    """
    begin = start(numbers)
    if begin == (TARGET,):
        return Search((), str(TARGET), 1)
    level, nodes = {begin: ()}, 1
    for _ in begin[1:]:
        following = {}
        for state, path in level.items():
            for move in propose(state):
                if move.left in following:
                    continue
                following[move.left] = (*path, move)
                nodes += 1
                if move.left == (TARGET,):
                    return Search((*path, move), expression(begin, (*path, move)), nodes)
        level = following
        if beam_width is not None:
            best = sorted(following, key=value, reverse=True)[:beam_width]
            level = {state: following[state] for state in best}
    return Search(None, None, nodes)


def solve_24(numbers: Iterable) -> Search:
    """The game of 24 solved symbolically: a solution if there is one. Raises ValueError for other than four numbers.

    >>> print(solve_24([4, 6, 8, 8]))
    4 * 6 = 24 (left: 8 8 24)
    8 - 8 = 0 (left: 0 24)
    0 + 24 = 24 (left: 24)
    (8 - 8) + (4 * 6) · 259 nodes
    >>> solve_24([1, 1, 1, 1]).moves is None
    True
    """
    hand = start(numbers)
    if len(hand) != 4:
        raise ValueError(f"the hand has {len(hand)} numbers; the game of 24 is played with four")
    return breadth_first(hand, every_move, beam_width=None)


def greedy(numbers: Iterable, propose: Callable[[State], Sequence[Move]]) -> Search:
    """The baseline without search: the first move that the proposer gives, and the first one behind that, to the end."""
    begin = state = start(numbers)
    path = ()
    while len(state) > 1 and (moves := propose(state)):
        path, state = (*path, moves[0]), moves[0].left
    if state != (TARGET,):
        return Search(None, None, len(path) + 1)
    return Search(path, expression(begin, path), len(path) + 1)


# --- solutions as expressions -------------------------------------------------------------------------------


def expression(numbers: Iterable, moves: Iterable[Move]) -> str:
    """The moves as one expression over the numbers.

    >>> state = start([4, 6, 2])
    >>> expression(state, [read_move(state, "6 - 2 = 4 (left: 4 4)")])
    '6 - 2'
    """
    texts = [(number, _bracketed(number)) for number in start(numbers)]
    whole = texts[0][1]
    for move in moves:
        parts = []
        for number in (move.a, move.b):
            index = next(i for i, (value, _) in enumerate(texts) if value == number)
            parts.append(texts.pop(index)[1])
        whole = f"{parts[0]} {move.sign} {parts[1]}"
        texts.append((move.result, f"({whole})"))
    return whole


def _bracketed(number: Fraction) -> str:
    return str(number) if number >= 0 and number.denominator == 1 else f"({number})"


LONGEST_EXPRESSION = 200  # characters
SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def makes_24(text: str, numbers: Iterable) -> bool:
    """Whether an expression, written by a model for one, uses each of the whole numbers once and makes exactly 24.

    "= 24" may stand behind it. Anything that is no such expression is False, never an exception.

    >>> makes_24("8 / (3 - 8 / 3) = 24", [3, 3, 8, 8])
    True
    >>> makes_24("3 * 8", [3, 3, 8, 8])
    False
    """
    text = re.sub(r"=\s*24\s*$", "", text).strip()
    if len(text) > LONGEST_EXPRESSION:
        return False
    used = []
    try:
        value = _exact(ast.parse(text, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError):
        return False
    return value == TARGET and tuple(sorted(used)) == start(numbers)


def _exact(node: ast.AST, used: list[Fraction]) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_exact(node.left, used), _exact(node.right, used))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(Fraction(node.value))
        return used[-1]
    raise ValueError(f"{type(node).__name__} is neither a number nor one of + - * /")
