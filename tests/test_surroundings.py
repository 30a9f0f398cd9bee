"""Claims about where the library runs: terminals of ASCII, no home, no shared memory, Python without its asserts."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lessonlib
from lessonlib.models import ModelFileError, cache_directory

LIBRARY = Path(lessonlib.__file__).parent


def said_in(code: str, **environment: str) -> str:
    """What a Python of its own prints under these variables, as text of ASCII. Its error, where it has one, is ours."""
    variables = os.environ | {"PYTHONPATH": str(LIBRARY.parent)} | environment
    done = subprocess.run([sys.executable, "-"], input=code.encode(), env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-600:]
    return done.stdout.decode("ascii")


PRINTS = """
import lessonlib
from lessonlib.display import Bar, Table
print("2 × 3")
bar = Bar(total=2, desc="Übung")
bar.update(2)
bar.finish("fertig … · ≤")
Bar.write("geht – weiter")
print(Table(("é", "ü"), [("ä", "✓")]))
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_a_terminal_of_ascii_gets_question_marks_and_no_error(variables):
    assert said_in(PRINTS, **variables).splitlines() == ["2 ? 3", "fertig ? ? ?", "geht ? weiter", "? | ?", "? | ?"]


def test_where_letters_can_be_shown_they_are():
    code = "import lessonlib, sys; print('×' in '×', sys.stdout.errors)"
    assert said_in(code, PYTHONIOENCODING="utf8:strict") == "True strict\n"


def test_without_a_home_the_line_names_the_variable(monkeypatch):
    monkeypatch.delenv("LESSONLIB_CACHE", raising=False)
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    with pytest.raises(ModelFileError, match=r"no home directory .*set LESSONLIB_CACHE to a directory"):
        cache_directory()
    monkeypatch.setenv("LESSONLIB_CACHE", "/somewhere")
    assert cache_directory() == Path("/somewhere")


WITHOUT_SHARED_MEMORY = """
import _multiprocessing
class Nowhere:
    SEM_VALUE_MAX = 99
    def __init__(self, *arguments): raise OSError(38, "Function not implemented")
_multiprocessing.SemLock = Nowhere
import lessonlib
from lessonlib.display import Bar
bar = Bar(total=2)
bar.update(2)
bar.finish("drawn")
from lessonlib.reasoning.programs import run_programs
print([result.value for result in run_programs(["answer = 1 + 1", "answer = 3"])])
"""


def test_bars_and_programs_need_no_shared_memory():
    assert said_in(WITHOUT_SHARED_MEMORY).splitlines() == ["drawn", "[2, 3]"]


def test_nothing_hangs_on_asserts_which_python_O_takes_away():
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id == "__debug__"):
                found.append(f"{path.relative_to(LIBRARY)}:{node.lineno}")
    assert found == []
