"""The code of the exercises, which stands in strings, is read by ruff like all other code."""

import re
import subprocess
import sys

import pytest

from lessonlib.exercises import code, exercises, lessons_with_exercises

# What even wrong code is free of: syntax errors, doubtful comparisons, misplaced statements, trailing space.
IN_ALL = "E9,F63,F7,W"
IN_SOLUTIONS = "E4,E7,E9,F,W,B,C4,PIE,UP"  # without F821: torch, nn, F and the names of earlier cells are given


def ruff(texts: dict[str, str], tmp_path, select: str) -> str:
    """What ruff says of the texts, each a file of its name."""
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text, "utf8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--line-length", "118"]
    command += [
        "--output-format",
        "concise",
        "--select",
        f"{select},E501",
        "--ignore",
        "F821,B905",
        str(tmp_path),
    ]
    return subprocess.run(command, capture_output=True, text=True).stdout


def named(pick) -> dict[str, str]:
    return {
        re.sub(r"\W", "_", f"{exercise.id}_{i}"): text
        for lesson in lessons_with_exercises()
        for exercise in exercises(lesson).values()
        for i, text in enumerate(pick(exercise))
    }


def test_all_code_of_exercises_can_be_read(tmp_path):
    found = ruff(named(lambda e: [e.stub, e.solution, *e.wrong]), tmp_path, IN_ALL)
    assert "All checks passed" in found, found


def test_solutions_are_clean(tmp_path):
    found = ruff(named(lambda e: [e.solution]), tmp_path, IN_SOLUTIONS)
    assert "All checks passed" in found, found


@pytest.mark.parametrize(
    "text, rule", [("def f(:\n", "invalid-syntax"), ("import os\n", "F401"), ("x = 1 \n", "W291")]
)
def test_ruff_says_no(tmp_path, text, rule):
    assert rule in ruff({"x": text}, tmp_path, IN_SOLUTIONS)


def test_a_block_is_taken_without_its_indentation():
    assert (
        code("""
        def f(x):
            return x
    """)
        == "def f(x):\n    return x\n"
    )
