"""Word problems and reasoning questions: each answer is worked out again here, by Python's arithmetic on
fractions, by all orders of the names, by all truth values; only the text is the generator's."""

import ast
import itertools
import json
import operator
import random
import re
from collections import Counter
from fractions import Fraction

import pytest

from lessonlib.corpora import DATA, SPLITS
from tools import word_problems
from tools.word_problems import freeze, generate, settings


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text("utf8").split("\n") if line]


PROBLEMS = {split: read(f"word_problems/{split}.jsonl") for split in SPLITS}
ALL = [problem for split in SPLITS for problem in PROBLEMS[split]]
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: Fraction}
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": Fraction}


def sums_of(chain: str) -> list[tuple[Fraction, Fraction]]:
    """(what the two numbers make, what the chain says) of each sum."""
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\b", chain)
    return [(Fraction(SIGNS[sign](int(a), int(b))), Fraction(c)) for a, sign, b, c in found]


def run(program: str) -> dict[str, Fraction]:
    """The variables after a program of assignments; any other statement or expression is an error."""
    variables = {}

    def value(node):
        match node:
            case ast.Constant(value=int(number)):
                return Fraction(number)
            case ast.Name(id=name):
                return variables[name]
            case ast.BinOp(left=left, op=op, right=right):
                return Fraction(OPERATORS[type(op)](value(left), value(right)))
        raise AssertionError(ast.dump(node))

    for line in ast.parse(program).body:
        assert isinstance(line, ast.Assign) and len(line.targets) == 1, program
        variables[line.targets[0].id] = value(line.value)
    return variables


# --- the generator ----------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_problems_and_another_seed_others():
    assert generate(30, seed=4) == generate(30, seed=4)
    questions = [{problem["question"] for problem in generate(30, seed=seed)} for seed in (4, 5)]
    assert not questions[0] & questions[1]


def test_fewer_problems_are_the_first_of_more():
    assert generate(40, seed=6)[:7] == generate(7, seed=6)


def test_the_files_are_what_the_generator_gives_now(tmp_path):
    freeze(tmp_path)
    for split in SPLITS:
        name = f"{split}.jsonl"
        assert (tmp_path / name).read_bytes() == (DATA / "word_problems" / name).read_bytes()


def test_only_the_method_that_python_promises_not_to_change_is_asked(monkeypatch):
    true_random = random.Random

    class OnlyRandom:
        def __init__(self, seed):
            self.random = true_random(seed).random

    expected = generate(60, seed=1)
    monkeypatch.setattr(word_problems.random, "Random", OnlyRandom)
    assert generate(60, seed=1) == expected == PROBLEMS["train"][:60]


@pytest.mark.parametrize("steps", range(1, 7))
def test_steps_are_as_many_as_asked_for(steps):
    problems = generate(20, seed=2, steps=steps)
    assert {problem["steps"] for problem in problems} == {steps}
    assert {len(sums_of(problem["chain"])) for problem in problems} == {steps}


@pytest.mark.parametrize("steps", [0, 7, -1, 2.0, "3"])
def test_steps_outside_one_to_six_are_refused_by_their_value(steps):
    with pytest.raises(ValueError, match=re.escape(f"steps is {steps!r}; a problem has 1 to 6")):
        generate(1, seed=0, steps=steps)


@pytest.mark.parametrize("n", [0, -3, 2.5, "9"])
def test_fewer_problems_than_one_are_refused_by_their_value(n):
    with pytest.raises(ValueError, match=re.escape(f"n is {n!r}; ask for a whole number")):
        generate(n, seed=0)


# --- the files --------------------------------------------------------------------------------------------


def test_there_are_1800_200_and_300_problems_of_all_steps_alike():
    assert {split: len(rows) for split, rows in PROBLEMS.items()} == dict(zip(SPLITS, (1800, 200, 300)))
    for rows in PROBLEMS.values():
        counts = Counter(problem["steps"] for problem in rows)
        assert sorted(counts) == [1, 2, 3, 4, 5, 6] and max(counts.values()) - min(counts.values()) <= 1


def test_ids_are_unique_and_keys_the_documented_ones():
    assert len({problem["id"] for problem in ALL}) == len(ALL)
    keys = ("id", "question", "steps", "chain", "program", "answer", "distractor")
    assert {tuple(problem) for problem in ALL} == {keys}


def test_no_question_comes_twice_in_any_split():
    assert len({problem["question"].casefold() for problem in ALL}) == len(ALL)


def test_every_sum_in_every_chain_is_right_and_the_last_is_the_answer():
    for problem in ALL:
        sums = sums_of(problem["chain"])
        assert all(made == said for made, said in sums), problem
        assert len(sums) == problem["steps"] and sums[-1][1] == problem["answer"], problem


def test_a_chain_is_one_sentence_a_step_with_one_sum_each():
    for problem in ALL:
        sentences = re.findall(r"[A-Z][^.]*\.", problem["chain"])
        assert " ".join(sentences) == problem["chain"]
        assert [sentence.count("=") for sentence in sentences] == [1] * problem["steps"], problem


def test_every_program_gives_its_answer_by_the_sums_of_its_chain():
    for problem in ALL:
        values = run(problem["program"])
        assert list(values.values()) == [said for _, said in sums_of(problem["chain"])], problem
        assert list(values)[-1] == "answer" and values["answer"] == problem["answer"], problem


def test_every_program_runs_without_builtins():
    for problem in ALL:
        variables = {"__builtins__": {}}
        exec(compile(problem["program"], problem["id"], "exec"), variables)
        assert type(variables["answer"]) is int and variables["answer"] == problem["answer"]


def test_a_program_is_one_line_a_step_and_no_name_is_set_twice():
    for problem in ALL:
        lines = problem["program"].split("\n")
        assert len(lines) == len(run(problem["program"])) == problem["steps"], problem


def test_no_value_on_the_way_is_below_one_or_fractional():
    for problem in ALL:
        assert all(made >= 1 and made.denominator == 1 for made, _ in sums_of(problem["chain"])), problem
        assert type(problem["answer"]) is int and 0 <= problem["answer"] <= 999


def test_values_stay_under_200_in_most_problems():
    largest = [max(said for _, said in sums_of(problem["chain"])) for problem in ALL]
    assert sum(value < 200 for value in largest) > 0.95 * len(largest)


# --- the wording ------------------------------------------------------------------------------------------

WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
NUMBERS = {word: number for number, word in enumerate(WORDS)} | {
    "twice": 2, "half": 2, "third": 3, "quarter": 4, "fifth": 5, "sixth": 6
}  # fmt: skip


def numbers_in(question: str) -> set[int]:
    words = re.findall(r"[a-z]+|\d+", question.casefold())
    return {NUMBERS.get(word, int(word) if word.isdigit() else 1) for word in words}


def test_the_numbers_of_a_program_are_those_of_its_question_and_no_others():
    for problem in ALL:
        used = {node.value for node in ast.walk(ast.parse(problem["program"])) if isinstance(node, ast.Constant)}
        given = numbers_in(problem["question"])
        assert used <= given, problem  # a one may also be "one of them", so it is left out below
        assert problem["distractor"] or used - {1} == given - {1}, problem


def distractors_in(question: str) -> int:
    texts = itertools.chain(*(setting["distractors"] for setting in settings().values()))
    patterns = [re.sub(r"\\{\w+\\}", r"[\\w-]+", re.escape(text)) for text in texts]
    return sum(len(re.findall(rf"(?:^|[.] ){pattern}", question, re.IGNORECASE)) for pattern in patterns)


def test_the_flag_says_which_problems_hold_a_sentence_beside_the_point():
    flags = Counter((problem["distractor"], distractors_in(problem["question"])) for problem in ALL)
    assert set(flags) == {(True, 1), (False, 0)}
    assert 0.2 < flags[True, 1] / len(ALL) < 0.4


def test_each_of_the_four_operations_is_told_in_many_ways():
    phrases = [p for s in settings().values() for role in ("openings", "events", "closings") for p in s[role]]
    ways = Counter(form[1] for phrase in phrases for form, _, _ in phrase.parts)
    assert set(ways) == set("+-*/") and min(ways.values()) >= 25
    told = Counter(re.findall(r" ([-+*/]) ", " ".join(problem["chain"] for problem in PROBLEMS["train"])))
    assert min(told.values()) > 0.15 * sum(told.values())


def test_every_setting_and_every_kind_of_opening_is_told_of():
    opening = Counter(re.sub(r"\d+", "#", re.split(r"[.?]", p["question"])[0]) for p in PROBLEMS["train"])
    assert len(settings()) >= 8 and len(opening) > 200
    assert all(sum(place in p["question"] for p in ALL) > 100 for place in ("shelf", "van", "shop", "desk", "euros"))


ADJECTIVES = r"(?: (?:more|new|open|broken|old|small|large|white|red|equal))*"
NOUNS = sorted({item.split("/")[0] for setting in settings().values() for item in setting["items"]})


def test_one_thing_is_never_a_plural():
    text = " ".join(problem["question"] for problem in ALL)
    assert len(re.findall(rf"\b(?:1|one){ADJECTIVES} (?:{'|'.join(NOUNS)})\b", text)) > 50
    assert re.findall(rf"\b(?:1|one){ADJECTIVES} [\w-]+s\b", text) == []
    assert re.findall(r"\b(?:1|one) [\w-]+ (?:come|go|are|were)\b", text) == []


def test_several_things_are_never_a_singular():
    text = " ".join(problem["question"] for problem in ALL)
    several = rf"\b(?:{'|'.join(WORDS[2:])}|[2-9]|\d\d+){ADJECTIVES}"
    assert len(re.findall(rf"{several} (?:{'|'.join(NOUNS)})e?s\b", text)) > 2000
    assert re.findall(rf"{several}(?: [A-Z]\w+)? (?:{'|'.join(NOUNS)})\b", text) == []
    assert re.findall(rf"(?<!of ){several} [\w-]+ (?:comes|goes|is|was)\b", text) == []


def test_questions_and_chains_are_whole_sentences_without_gaps():
    for problem in ALL:
        assert re.fullmatch(r"(?:[A-Z][^.?{}\[\]]*[.?] ?)+", problem["question"]), problem
        assert problem["question"].endswith("?") and problem["question"].count("?") == 1, problem
        assert not re.search(r"  |[{}|/\[\]]", problem["question"]), problem
        assert not re.search(r"  |[{}|\[\]]", problem["chain"]), problem


def test_a_pronoun_can_mean_one_person_only():
    she, he = (set(word_problems.NAMES[who]) for who in ("she", "he"))
    for problem in ALL:
        names = Counter(name in she for name in set(re.findall(r"\w+", problem["question"])) & (she | he))
        assert max(names.values(), default=0) <= 1, problem
        pronouns = set(re.findall(r"\w+", problem["question"].casefold()))
        assert not (pronouns & {"she", "her", "herself"} and pronouns & {"he", "his", "him", "himself"}), problem


# --- reasoning: logic, common sense, facts ----------------------------------------------------------------

REASONING = {name: read(f"reasoning/{name}.jsonl") for name in ("logic", "commonsense", "factual")}
CHECKED = [row for row in REASONING["logic"] if "check" in row]


def worlds(check: dict) -> list[dict]:
    """All orders (the first place is 1) or all truth values of the names that agree with the facts."""
    n = len(check["names"])
    values = {
        "order": itertools.permutations(range(1, n + 1)),
        "truth": itertools.product([False, True], repeat=n),
    }
    possible = [dict(zip(check["names"], v, strict=True)) for v in values[check["kind"]]]
    return [world for world in possible if all(holds(fact, world) for fact in check["facts"])]


def holds(expression: str, world: dict) -> bool:
    return bool(eval(expression, {"__builtins__": {}, "abs": abs}, world))


def entailed(check: dict) -> list[bool]:
    """Of each option, whether it must be true; "unknown" is true where no other one must be."""
    left = worlds(check)
    assert left, "the facts contradict each other"
    sure = [text != "unknown" and all(holds(text, world) for world in left) for text in check["options"]]
    return [not any(sure) if text == "unknown" else yes for text, yes in zip(check["options"], sure)]


@pytest.mark.parametrize("name", REASONING)
def test_there_are_60_questions_to_test_and_8_to_show(name):
    assert Counter(row["split"] for row in REASONING[name]) == {"test": 60, "shots": 8}
    ids = [row["id"] for row in REASONING[name]]
    assert ids == [f"{name[0].upper()}{number:02}" for number in range(1, 69)]


@pytest.mark.parametrize("name", REASONING)
def test_a_row_has_the_documented_keys(name):
    keys = ["id", "split", "question", "options", "answer", "chain"]
    assert all(list(row) in (keys, [*keys, "check"]) for row in REASONING[name])
    assert len({row["question"].casefold() for row in REASONING[name]}) == 68


@pytest.mark.parametrize("name", REASONING)
def test_right_answers_are_spread_evenly_over_the_four_places(name):
    for split, each in (("test", 15), ("shots", 2)):
        answers = Counter(row["answer"] for row in REASONING[name] if row["split"] == split)
        assert answers == dict.fromkeys(range(4), each)


@pytest.mark.parametrize("name", REASONING)
def test_the_four_options_differ(name):
    for row in REASONING[name]:
        assert len({option.strip(" .!").casefold() for option in row["options"]}) == 4, row


@pytest.mark.parametrize("name", REASONING)
def test_a_chain_has_two_or_three_sentences_and_ends_in_the_answer(name):
    for row in REASONING[name]:
        chain, answer = (text.rstrip(".!").casefold() for text in (row["chain"], row["options"][row["answer"]]))
        assert chain.endswith(answer), row
        others = [option for place, option in enumerate(row["options"]) if place != row["answer"]]
        assert not any(chain.endswith(" " + option.rstrip(".!").casefold()) for option in others), row
        sentences = len(re.findall(r"[.!?](?: |$)", row["chain"]))
        assert sentences in ((1,) if name == "factual" else (2, 3)), row


@pytest.mark.parametrize("name", REASONING)
def test_the_length_of_an_option_does_not_give_the_answer_away(name):
    tests = [row for row in REASONING[name] if row["split"] == "test"]
    lengths = [([len(option) for option in row["options"]], row["answer"]) for row in tests]
    longest, shortest = (sum(each[answer] == pick(each) for each, answer in lengths) / 60 for pick in (max, min))
    assert max(longest, shortest) < 0.6  # by chance 0.25, and more where lengths are equal


def test_at_least_25_logic_puzzles_are_checked_by_all_orders():
    assert Counter(row["check"]["kind"] for row in CHECKED)["order"] >= 25


@pytest.mark.parametrize("row", CHECKED, ids=lambda row: row["id"])
def test_of_the_options_of_a_puzzle_the_right_one_alone_must_be_true(row):
    assert entailed(row["check"]) == [place == row["answer"] for place in range(4)]


@pytest.mark.parametrize("row", CHECKED, ids=lambda row: row["id"])
def test_no_fact_of_a_puzzle_contradicts_or_follows_from_the_names_alone(row):
    everything = len(worlds(row["check"] | {"facts": []}))
    assert all(0 < len(worlds(row["check"] | {"facts": [fact]})) < everything for fact in row["check"]["facts"])


# --- the datasheets ---------------------------------------------------------------------------------------


def test_the_datasheets_figures_are_those_of_the_files():
    problems, reasoning = (
        " ".join((DATA / name / "datasheet.md").read_text("utf8").split()) for name in ("word_problems", "reasoning")
    )
    for split, rows in PROBLEMS.items():
        distractors = sum(problem["distractor"] for problem in rows)
        assert f"| {split} | {len(rows)} | {word_problems.FROZEN[split][1]} | {distractors} |" in problems
    large = sum(max(said for _, said in sums_of(problem["chain"])) >= 200 for problem in ALL)
    answers = [problem["answer"] for problem in ALL]
    assert f"from {min(answers)} to {max(answers)}" in problems and f"{large} of the 2,300" in problems
    kinds = Counter(row["check"]["kind"] for row in CHECKED)
    assert f"{kinds['order']} of the 68 logic puzzles" in reasoning and f"{kinds['truth']} more" in reasoning
