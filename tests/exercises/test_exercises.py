"""Every exercise of every lesson: what the check says, and what it gives back."""

import re

import pytest
import torch
from IPython.display import Code

from lessonlib.exercises import check, execute, exercises, hint, lessons_with_exercises, solution

LESSONS = lessons_with_exercises()
ALL = [exercise for lesson in LESSONS for exercise in exercises(lesson).values()]
WRONG = [(exercise, code) for exercise in ALL for code in exercise.wrong]

every_exercise = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
every_wrong_answer = pytest.mark.parametrize(
    "exercise, code", WRONG, ids=[f"{e.id}-{list(e.wrong).index(code) + 1}" for e, code in WRONG]
)


def answer_of(exercise, code):
    return execute(code)[exercise.name]


def is_the_reference(exercise, given) -> bool:
    """Each call makes the reference anew, so it is known by passing its own check while being no one else's object."""
    exercise.verify(given)
    return type(given) is type(exercise.reference)


def raises(*args, **kwargs):
    raise ValueError("a slip of mine")


def quits(*args, **kwargs):
    raise SystemExit(1)


def calls_itself(*args, **kwargs):
    return calls_itself()


class Awkward:
    """An object that nothing can be done with."""

    def __getattr__(self, name):
        raise RuntimeError("no attributes here")

    def __eq__(self, other):
        raise RuntimeError("no comparisons here")

    __hash__ = None


ABSURD = {
    "raises": raises,
    "quits": quits,
    "calls itself": calls_itself,
    "gives None": lambda *args: None,
    "gives a string": lambda *args: "7",
    "gives an ellipsis": lambda *args: ...,
    "gives a list": lambda *args: [[]],
    "gives a pair": lambda *args: (None, "B"),
    "gives a tensor": lambda *args: torch.zeros(3),
    "gives not a number": lambda *args: torch.full((5, 4), torch.nan),
    "gives an awkward object": lambda *args: Awkward(),
    "takes nothing": lambda: 1,
    "a string": "lora",
    "a number": 3,
    "None": None,
    "an ellipsis": ...,
    "a class": dict,
    "a tensor": torch.zeros(2, 2),
    "an awkward object": Awkward(),
}


@every_exercise
def test_the_stub_is_not_yet_and_the_reference_comes_back(exercise, capsys):
    stub = answer_of(exercise, exercise.stub)
    given = check(exercise.id, stub)
    printed = capsys.readouterr().out
    assert printed.startswith(f"○ {exercise.id} not yet: ")
    assert f"hint('{exercise.id}', 1)" in printed
    assert given is not stub and is_the_reference(exercise, given)


@every_exercise
def test_a_right_answer_passes_and_is_given_back_itself(exercise, capsys):
    mine = answer_of(exercise, exercise.solution)
    assert check(exercise.id, mine) is mine
    printed = capsys.readouterr().out
    assert printed.startswith(f"✓ {exercise.id} right.") and exercise.praise in printed


@every_exercise
def test_at_least_two_plausible_wrong_answers_are_kept(exercise):
    assert len(exercise.wrong) >= 2


@every_wrong_answer
def test_a_wrong_answer_is_refused_by_its_name(exercise, code, capsys):
    wrong = answer_of(exercise, code)
    given = check(exercise.id, wrong)
    printed = capsys.readouterr().out
    assert printed.startswith(f"○ {exercise.id} not yet: ")
    assert exercise.wrong[code] in printed
    assert given is not wrong and is_the_reference(exercise, given)


@every_exercise
@pytest.mark.parametrize("kind", ABSURD)
def test_nothing_an_answer_does_gets_out_of_the_check(exercise, kind, capsys):
    given = check(exercise.id, ABSURD[kind])
    assert capsys.readouterr().out.startswith(f"○ {exercise.id} not yet: ")
    assert given is not ABSURD[kind] and is_the_reference(exercise, given)


@every_exercise
def test_an_error_in_the_answer_is_quoted(exercise, capsys):
    check(exercise.id, raises)
    assert "it stopped with ValueError: a slip of mine" in capsys.readouterr().out


@every_exercise
def test_nothing_filled_in_is_said_so(exercise, capsys):
    check(exercise.id, ...)
    assert "nothing is filled in" in capsys.readouterr().out


@every_exercise
def test_the_verdict_does_not_hang_on_the_global_seed(exercise, capsys):
    codes = [exercise.solution, exercise.stub, *exercise.wrong]
    said = []
    for seed in (0, 1, 2, 12345):
        torch.manual_seed(seed)
        for code in codes:
            check(exercise.id, answer_of(exercise, code))
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 1


@every_exercise
def test_a_check_leaves_the_global_random_numbers_alone(exercise):
    mine = answer_of(exercise, exercise.solution)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check(exercise.id, mine)
    assert torch.equal(torch.rand(4), expected)


@every_exercise
def test_a_check_asked_twice_says_the_same(exercise, capsys):
    mine = answer_of(exercise, exercise.solution)
    check(exercise.id, mine)
    first = capsys.readouterr().out
    assert check(exercise.id, mine) is mine
    assert capsys.readouterr().out == first


@every_exercise
def test_hints_grow_and_the_solution_comes_after_them(exercise, capsys):
    for level in (1, 2):
        hint(exercise.id, level)
        assert capsys.readouterr().out == f"Hint {level} of 2: {exercise.hints[level - 1]}\n"
    for level in (0, 3, -1):
        hint(exercise.id, level)
        assert f"solution('{exercise.id}')" in capsys.readouterr().out
    assert exercise.hints[0] != exercise.hints[1]


@every_exercise
def test_the_solution_is_shown_as_code(exercise):
    shown = solution(exercise.id)
    assert isinstance(shown, Code)
    assert f"{exercise.name}" in str(shown) and exercise.solution.strip() in str(shown)
    assert "<span" in shown._repr_html_(), "no colours: the language is not known"


@every_exercise
def test_neither_stub_nor_first_hint_gives_the_solution_away(exercise):
    last = exercise.solution.strip().splitlines()[-1].strip().removeprefix("return ")
    assert last not in exercise.stub and last not in exercise.hints[0]


@every_exercise
def test_difficulty_and_minutes_are_in_range(exercise):
    assert exercise.difficulty in (1, 2, 3) and 1 <= exercise.minutes <= 20
    assert exercise.level.count("●") == exercise.difficulty
    assert exercise.level.count("●") + exercise.level.count("○") == 3
    assert f"{exercise.minutes} minutes" in exercise.level
    assert exercise.title and exercise.name.isidentifier()


def test_ids_and_names_are_unique_and_ids_number_their_lesson():
    assert len({exercise.id for exercise in ALL}) == len(ALL)
    for lesson in LESSONS:
        found = list(exercises(lesson).values())
        assert len({exercise.name for exercise in found}) == len(found)
        assert [exercise.id for exercise in found] == [f"{lesson}.{n}" for n in range(1, len(found) + 1)]


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_has_three_to_five_exercises(lesson):
    assert 3 <= len(exercises(lesson)) <= 5


@pytest.mark.parametrize("ask", [lambda id: check(id, 1), lambda id: hint(id), lambda id: solution(id)])
def test_an_unknown_id_names_the_known_ones(ask):
    known = ", ".join(exercises("07"))
    for id in ("07.99", "07", "07.1 "):
        with pytest.raises(KeyError, match=re.escape(f"no exercise '{id}'; there are {known}")):
            ask(id)
    for id in ("99.1", "", 7.2, None):
        with pytest.raises(KeyError, match="none of that lesson"):
            ask(id)


@every_exercise
def test_the_solution_runs_by_itself_and_defines_its_name(exercise):
    assert callable(exercise.reference)
    assert f"def {exercise.name}(" in exercise.stub or f"class {exercise.name}(" in exercise.stub
