"""Claims of lessonlib.reasoning.search. Reference: brute force over all hands, by subsets and not by moves."""

import functools
import itertools
from fractions import Fraction

import pytest

from lessonlib.reasoning import (
    TextProposer,
    breadth_first,
    every_move,
    greedy,
    makes_24,
    nearness,
    read_move,
    solve_24,
    start,
)

HANDS = list(itertools.combinations_with_replacement(range(1, 14), 4))


def combined(a, b):
    return {a + b, a - b, b - a, a * b} | ({a / b} if b else set()) | ({b / a} if a else set())


@functools.cache
def reachable(hand):
    """All values of all expressions over a hand, from the values of its parts."""
    if len(hand) == 1:
        return {Fraction(hand[0])}
    values = set()
    for chosen in range(1, 2 ** (len(hand) - 1)):  # the last number is always in the other part
        part = tuple(x for i, x in enumerate(hand) if chosen >> i & 1)
        rest = tuple(x for i, x in enumerate(hand) if not chosen >> i & 1)
        for a in reachable(part):
            for b in reachable(rest):
                values |= combined(a, b)
    return values


def solvable(hand):
    """Whether 24 is among the values, without forming those of the whole hand."""
    for chosen in range(1, 8):
        part = tuple(x for i, x in enumerate(hand) if chosen >> i & 1)
        rest = tuple(x for i, x in enumerate(hand) if not chosen >> i & 1)
        for a in reachable(part):
            needed = {24 - a, 24 + a, a - 24} | ({24 / a, a / 24} if a else set()) | {a * 24}
            if any(b in reachable(rest) and 24 in combined(a, b) for b in needed):
                return True
    return False


@pytest.fixture(scope="module")
def searches():
    return {hand: solve_24(hand) for hand in HANDS}


@pytest.mark.slow
def test_all_1820_hands_are_solved_where_brute_force_finds_a_way(searches):
    brute = {hand for hand in HANDS if solvable(hand)}
    assert len(HANDS) == 1_820
    assert len(brute) == 1_362  # the number that lists of the game give for 1 to 13
    assert {hand for hand, search in searches.items() if search.moves is not None} == brute


def test_the_shortcut_of_the_brute_force_is_right():
    for hand in HANDS[::150]:
        assert solvable(hand) == (24 in reachable(hand))


@pytest.mark.slow
def test_each_solution_uses_each_number_once_and_makes_24(searches):
    for hand, search in searches.items():
        assert search.moves is None or makes_24(search.expression, hand)


def test_fractions_are_exact():
    # 8 / (3 - 8/3) and 5 (5 - 1/5): the two hands that rounding loses first.
    assert solve_24([3, 3, 8, 8]).moves is not None
    assert solve_24([1, 5, 5, 5]).moves is not None


def reached(hand):
    """All states below a hand, by moves, each once a level: the nodes of a search that finds nothing."""
    levels = [{start(hand)}]
    for _ in range(len(hand) - 1):
        level = set()
        for state in levels[-1]:
            for i, j in itertools.permutations(range(len(state)), 2):
                rest = [x for k, x in enumerate(state) if k not in (i, j)]
                level |= {tuple(sorted([*rest, c])) for c in combined(state[i], state[j])}
        levels.append(level)
    return sum(map(len, levels))


@pytest.mark.parametrize("hand", [(1, 1, 1, 1), (13, 13, 13, 13), (1, 1, 1, 7), (6, 7, 8, 13)])
def test_nodes_are_the_states_looked_at(hand):
    assert solve_24(hand).moves is None
    assert solve_24(hand).nodes == reached(hand)


def test_nodes_by_hand():
    # 1 1: the hand, and 2, 0, 1 (sum, difference, product and quotient, the last two alike).
    assert breadth_first([1, 1]).nodes == 4
    # 4 6: the hand, and 10; 24 comes next.
    assert breadth_first([4, 6]).nodes == 3


@pytest.mark.slow
def test_keeping_few_states_is_cheaper_and_misses_some(searches):
    some = [hand for hand in HANDS[::20] if searches[hand].moves is not None]
    narrow = {width: [breadth_first(hand, beam_width=width) for hand in some] for width in (1, 5, 20)}
    solved = [sum(search.moves is not None for search in narrow[width]) for width in (1, 5, 20)]
    nodes = [sum(search.nodes for search in narrow[width]) for width in (1, 5, 20)]
    assert solved[0] < solved[1] < solved[2] <= len(some)
    assert nodes[0] < nodes[1] < nodes[2] < sum(searches[hand].nodes for hand in some)


def test_a_better_value_needs_fewer_nodes():
    # An oracle that knows which states lead to 24 solves every solvable hand with one state a level.
    def oracle(state):
        return 24 in reachable(state)

    for hand in [(4, 6, 8, 8), (3, 3, 8, 8), (1, 5, 5, 5), (2, 3, 12, 13)]:
        assert breadth_first(hand, value=oracle, beam_width=1).moves is not None
    assert breadth_first((3, 3, 8, 8), value=nearness, beam_width=1).moves is None


def test_nearness_is_the_distance_one_move_ahead():
    assert nearness(start([4, 6])) == 0
    assert nearness(start([20])) == -4
    assert nearness(start([5, 5])) == -1  # 25


# --- a writer of lines as proposer --------------------------------------------------------------------------

HAND = start([4, 6, 8, 8])


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("8 - 6 = 2 (left: 2 4 8)", [2, 4, 8]),
        ("  6 - 8 = -2 (left: 8 -2 4) ", [-2, 4, 8]),
        ("4 / 6 = 2/3 (left: 2/3 8 8)", [Fraction(2, 3), 8, 8]),
        ("8 / 8 = 1 (left: 6 4 1)", [1, 4, 6]),
    ],
)
def test_a_line_of_the_papers_form_is_read(line, left):
    assert read_move(HAND, line).left == start(left)


@pytest.mark.parametrize(
    "line",
    [
        "", "8 - 6 = 2", "8 - 6 = 2 (left: 2 4)", "8 - 6 = 2 (left: 2 4 8 8)", "8 - 6 = 3 (left: 3 4 8)",
        "8 - 6 = 2 (left: 2 4 6)", "7 - 6 = 1 (left: 1 4 8 8)", "4 + 4 = 8 (left: 6 8 8 8)", "8 % 6 = 2 (left: 2 4 8)",
        "8 ** 6 = 2 (left: 2 4 8)", "8 / 0 = 0 (left: 0 4 6 8)", "4 / 6 = 0.67 (left: 0.67 8 8)", "8 - 6 = 2/0 (left: 2 4 8)",
        "9" * 5_000 + " + 1 = 1 (left: 1)", "8 - 6 = 2 (left: 2 4 8)\n8 - 6 = 2 (left: 2 4 8)", "I think of 8 - 6.",
        None, 7, "__import__('os') - 6 = 2 (left: 2 4 8)",
    ],
)  # fmt: skip
def test_a_malformed_or_false_line_is_none(line):
    assert read_move(HAND, line) is None


def test_every_symbolic_move_reads_back_from_its_text():
    for state in (HAND, start([Fraction(1, 3), -2, 5]), start([0, 3])):
        moves = every_move(state)
        assert moves and [read_move(state, str(move)) for move in moves] == moves


def test_every_move_reaches_each_state_once_and_all_of_them():
    lefts = [move.left for move in every_move(start([2, 5]))]
    assert sorted(lefts) == sorted((x,) for x in combined(Fraction(2), Fraction(5)))
    lefts = [move.left for move in every_move(HAND)]
    assert len(lefts) == len(set(lefts))


def test_a_text_proposer_counts_and_drops_what_is_malformed():
    def write(state):
        return [
            "Let me see.",
            *(str(move) for move in every_move(start(state.split()))),
            "1 + 1 = 3 (left: 3)",
        ]

    proposer = TextProposer(write)
    search = breadth_first([3, 3, 8, 8], proposer, beam_width=None)
    assert search == solve_24([3, 3, 8, 8])
    asked = proposer.malformed // 2
    assert proposer.malformed == 2 * asked > 2
    assert proposer.proposed > proposer.malformed


def test_a_proposer_of_nonsense_finds_nothing():
    proposer = TextProposer(lambda state: ["nonsense"])
    assert breadth_first([4, 6, 8, 8], proposer).nodes == greedy([4, 6, 8, 8], proposer).nodes == 1
    assert breadth_first([4, 6, 8, 8], lambda state: []).moves is None


def test_greedy_follows_the_first_move_alone():
    lines = {
        "4 6 8 8": "8 / 8 = 1 (left: 1 4 6)",
        "1 4 6": "4 * 6 = 24 (left: 1 24)",
        "1 24": "24 * 1 = 24 (left: 24)",
    }
    found = greedy([4, 6, 8, 8], TextProposer(lambda state: [lines[state], "8 - 6 = 2 (left: 2 4 8)"]))
    assert makes_24(found.expression, [4, 6, 8, 8]) and found.nodes == 4
    assert greedy([4, 6, 8, 8], every_move).moves is None


# --- hands and expressions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hand", [[], [1, 2, 3], [1, 2, 3, 4, 5]])
def test_a_hand_of_another_size_is_refused(hand):
    with pytest.raises(ValueError, match=r"hand (is empty|has [35] numbers)"):
        solve_24(hand)


@pytest.mark.parametrize("hand", ["abcd", [1, None, 3, 4], 24, [1, float("nan"), 2, 3], [1, float("inf")]])
def test_what_is_no_hand_is_named(hand):
    with pytest.raises(ValueError, match="is no hand"):
        solve_24(hand)


def test_a_hand_that_is_24_needs_no_move():
    assert breadth_first([24]).moves == () and breadth_first([24]).expression == "24"
    assert breadth_first([23]).moves is None


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("(4 / (8 - 6)) * (4 + 8)", False), ("4 * 6 * (8 / 8)", True), ("4 * 6 * 8 / 8 = 24", True),
        ("4 * 6 + 8 - 8", True), ("4 * 6", False), ("4 * 6 + 8 - 8 + 0", False), ("8 * 3", False),
        ("4 + 6 + 8 + 8", False), ("4 * 6 * (8 // 8)", False), ("4 * 6 + 8 % 8", False), ("4 * 6 / (8 - 8)", False),
        ("", False), ("(" * 150, False), ("4 * 6 * 8 / 8 = 25", False), ("__import__('os')", False),
        ("x", False), ("9 ** 9 ** 9", False), ("4 * 6 * (8 / 8) or 1", False), ("1" * 300, False), ("\0", False),
    ],
)  # fmt: skip
def test_an_expression_is_judged_exactly(text, right):
    assert makes_24(text, [4, 6, 8, 8]) is right


def test_the_text_of_a_search_shows_its_moves_and_nodes():
    assert str(solve_24([4, 6, 8, 8])).splitlines()[0] == "4 * 6 = 24 (left: 8 8 24)"
    assert str(solve_24([1, 1, 1, 1])) == f"no solution found · {reached((1, 1, 1, 1))} nodes"
