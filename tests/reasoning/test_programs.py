"""Claims of lessonlib.reasoning.programs and .language. Reference: Python's own arithmetic, and the kernel's limits."""

import os
import signal
import sys
from pathlib import Path

import pytest

from lessonlib.reasoning import ProgramRejected, ProgramResult, language, programs, run_program, run_programs

# Each must be refused or stopped. Written against Python itself: most were real ways out of some sandbox once.
ESCAPES = {
    "import": "import os",
    "import inside an expression's line": "x = 1; import subprocess; answer = subprocess.run('id')",
    "import from": "from os import system\nsystem('id')",
    "star import": "from os import *",
    "relative import": "from . import programs",
    "future import": "from __future__ import annotations",
    "__import__": "__import__('os').system('id')",
    "__import__ kept in a variable": "f = __import__",
    "import by homoglyphs": "__ｉｍｐｏｒｔ__('os')",
    "builtins by name": "__builtins__",
    "builtins by key": "__builtins__['open']('/etc/passwd')",
    "eval": "eval('1 + 1')",
    "eval by homoglyphs": "ｅｖａｌ('1 + 1')",
    "exec": "exec('import os')",
    "compile": "compile('1', 'x', 'eval')",
    "open": "open('/etc/passwd').read()",
    "open for writing": "open('escaped', 'w')",
    "input": "answer = input()",
    "breakpoint": "breakpoint()",
    "help": "help()",
    "exit": "exit()",
    "quit": "quit(0)",
    "getattr": "getattr(1, '__class__')",
    "setattr": "setattr(print, 'x', 1)",
    "globals": "globals()",
    "locals": "locals()['self']",
    "vars": "vars()",
    "dir": "dir()",
    "type": "type(1)",
    "object": "object()",
    "super": "super()",
    "id": "id(1)",
    "memoryview": "memoryview(b'x')",
    "bytes": "bytes(10)",
    "map over a function": "map(print, [1])",
    "class of a text": "''.__class__",
    "walk to the subclasses": "().__class__.__bases__[0].__subclasses__()",
    "walk to a module": "[].__class__.__mro__[1].__subclasses__()[100].__init__.__globals__['sys']",
    "function's globals": "print.__globals__",
    "function's self": "abs.__self__.open('/etc/passwd')",
    "method of a text": "'abc'.upper()",
    "method of a list": "[1].append(2)",
    "format with attributes": "'{0.__class__.__mro__}'.format(1)",
    "format_map": "'{x.__class__}'.format_map([])",
    "f-string": "f'{1}'",
    "f-string with a call": 'f\'{__import__("os").system("id")}\'',
    "f-strings nested": "f'{f\"{f{chr(39)}{1}{chr(39)}}\"}'",
    "f-string width": "f'{1:{10 ** 9}}'",
    "list comprehension": "[x for x in [1, 2]]",
    "comprehension's scope": "[[a for a in [__builtins__]] for b in [1]]",
    "generator expression": "sum(x for x in [1, 2])",
    "generator's frame": "(x for x in [1]).gi_frame.f_back.f_globals",
    "generator's code": "g = (g.gi_code for _ in [1])",
    "dictionary": "{'a': 1}",
    "dictionary comprehension": "{x: x for x in [1]}",
    "set": "{1, 2}",
    "lambda": "(lambda: 1)()",
    "function": "def f():\n    return 1\nf()",
    "recursion": "def f(n):\n    return f(n + 1)\nf(0)",
    "function with a harmful default": "def f(x=open('/etc/passwd')):\n    pass",
    "annotation": "x: __import__('os') = 1",
    "decorator": "@exec\n@input\nclass X:\n    pass",
    "class": "class X:\n    pass",
    "metaclass": "class X(metaclass=print):\n    __getitem__ = exec",
    "async function": "async def f():\n    await f()",
    "await": "await x",
    "yield": "yield 1",
    "return": "return 1",
    "global": "global x\nx = 1",
    "walrus": "(x := 3)",
    "walrus in a condition": "if (y := 10 ** 9):\n    pass",
    "match": "match 1:\n    case int(real=x):\n        pass",
    "with": "with open('x') as f:\n    pass",
    "try": "try:\n    1 / 0\nexcept Exception as e:\n    answer = e",
    "traceback": "try:\n    1 / 0\nexcept Exception as e:\n    e.__traceback__.tb_frame.f_back",
    "raise": "raise SystemExit",
    "assert": "assert False, print",
    "delete": "x = 1\ndel x",
    "attribute assigned": "print.x = 1",
    "item assigned": "a = [0]\na[0] = a",
    "item assigned in a loop's head": "a = [0]\nfor a[0] in [1, 2]:\n    pass",
    "item added to": "a = [0]\na[0] += 1",
    "star in a call": "print(*[1, 2])",
    "star in an assignment": "a, *b = [1, 2]",
    "arguments by name": "print(1, file=2, end='')",
    "key of a sort": "sorted([1], key=print)",
    "call of a call": "print()()",
    "call of an item": "[print][0](1)",
    "bytes constant": "b'x'",
    "complex constant": "1j",
    "ellipsis": "...",
    "slice": "'abc'[::-1]",
    "bit shift": "1 << 10 ** 9",
    "bit operators": "~1 & 3",
    "matrix product": "[1] @ [1]",
    "is": "1 is 1",
    "huge power": "9 ** 9 ** 9",
    "power by powers": "x = 9\nfor i in range(100):\n    x = x ** 9",
    "power by squares": "x = 3\nwhile True:\n    x = x * x",
    "huge negative base": "(-9) ** 10 ** 9",
    "huge range": "range(10 ** 12)",
    "huge range backwards": "range(10 ** 40, 0, -1)",
    "sum of a huge range": "sum(range(10 ** 9))",
    "endless loop": "while True:\n    pass",
    "endless loop with work": "x = 0\nwhile x >= 0:\n    x = x + 1",
    "loops in loops": "\n".join(" " * i + f"for i{i} in range(999):" for i in range(8)) + "\n" + " " * 8 + "pass",
    "long text": "'a' * 10 ** 10",
    "long text, turned round": "10 ** 10 * 'a'",
    "text that doubles": "s = 'a'\nwhile True:\n    s = s + s",
    "long list": "[0] * 10 ** 10",
    "list that doubles": "a = [1, 2]\nwhile True:\n    a = a + a",
    "list of itself": "a = [1]\nfor i in range(60):\n    a = [a, a]",
    "deep list": "a = [0]\nfor i in range(5000):\n    a = [a]\nanswer = a",
    "deep list compared": "a = [0]\nb = [0]\nfor i in range(3000):\n    a = [a]\n    b = [b]\nanswer = a == b",
    "long output": "while True:\n    print('aaaaaaaaaaaaaaaa')",
    "long line": "print('a' * 9000, 'b' * 9000)",
    "brackets in brackets": "(" * 4_000 + ")" * 4_000,
    "lists in lists": "[" * 150 + "]" * 150,
    "minus upon minus": "-" * 9_000 + "1",
    "not upon not": "not " * 2_000 + "1",
    "a long sum": "+".join(["1"] * 4_000),
    "power upon power": "**".join(["1"] * 3_000),
    "if in if": "\n".join(" " * i + "if 1:" for i in range(90)) + "\n" + " " * 90 + "pass",
    "else upon else": "if 0: pass\n" + "elif 0: pass\n" * 500,
    "conditions in conditions": "1 if 1 else " * 700 + "1",
    "very long source": "x = 1\n" * 100_000,
    "long whole number": "9" * 9_000,
    "null byte": "x = 1\0import os",
    "half a character": "x = '\ud800'",
    "coding line": "# coding: rot13\nvzcbeg bf",
    "unfinished": "x = (",
    "prose": "First, we add the apples.",
    "line continued into nothing": "x = 1 + \\",
    "signal": "import signal\nsignal.alarm(1)",
    "fork": "import os\nwhile True:\n    os.fork()",
    "socket": "import socket\nsocket.create_connection(['127.0.0.1', 80])",
    "environment": "import os\nanswer = os.environ",
    "ctypes": "import ctypes\nctypes.string_at(0)",
    "else of a for": "for i in [1]:\n    pass\nelse:\n    x = 1",
    "else of a while": "while False:\n    pass\nelse:\n    x = 1",
    "break outside": "break",
    "continue outside": "if 1:\n    continue",
}


@pytest.fixture(scope="module")
def outcomes():
    """All attempts, run once, several at a time as a notebook would."""
    return dict(zip(ESCAPES, run_programs(list(ESCAPES.values()), timeout_s=20.0), strict=True))


def test_there_are_sixty_attempts_and_more():
    assert len(set(ESCAPES.values())) == len(ESCAPES) >= 60


@pytest.mark.parametrize("name", ESCAPES)
def test_every_escape_is_refused_or_stopped(outcomes, name):
    outcome = outcomes[name]
    assert isinstance(outcome, ProgramRejected), f"{ESCAPES[name]!r} gave {outcome}"
    assert outcome.kind in ("refused", "stopped")
    assert outcome.reason and not outcome.reason.startswith("its process")  # by the language, not by a crash


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("huge power", "more than 4,096 bits"),
        ("power by squares", "more than 4,096 bits"),
        ("huge range", "a range of 10,000 numbers or more"),
        ("long text", "more than 10,000 items or characters"),
        ("long list", "more than 10,000 items or characters"),
        ("text that doubles", "more than 10,000 items or characters"),
        ("list of itself", "more than 10,000 items or characters"),
        ("endless loop", "more than 100,000 steps"),
        ("long output", "more than 10,000 characters of output"),
        ("if in if", "too many things inside one another"),
        ("very long source", "600,000 characters; at most 10,000"),
        ("import", "an import is not in this language"),
        ("eval by homoglyphs", "eval is none of the functions"),
    ],
)
def test_each_limit_of_the_language_stops_by_itself(outcomes, name, reason):
    # Not the process's memory or the clock, which would stop most of these as well.
    assert reason in outcomes[name].reason


def test_a_refused_program_has_not_begun():
    refused = run_programs(["while True:\n    pass\nimport os", "print(1 / 0)\nx.y"])
    assert [(r.kind, r.line) for r in refused] == [("refused", 3), ("refused", 2)]


# --- what programs are for ----------------------------------------------------------------------------------

ARITHMETIC = """\
total, rest = 0, 250
for week in range(1, 5):
    total += week * 3 - 1
    if total % 2 == 0 and rest > 10 or False:
        rest = rest - total / 4
    elif not total > 100:
        rest -= abs(-7) ** 2 // 5
n = 0
while True:
    n += 1
    if n == 3:
        continue
    if n > 6:
        break
answer = [total, rest, n, round(rest / 3, 2), max(total, n), sum([1, 2, 3]), len("abc"), -7 % 3, "a" in ["a"],
          sorted([3, 1]) + [None] * 2, 1 < 2 < 3, 1 < 3 < 2, "x" if n else "y", min([4, 2]), int("12") + float("0.5"), 1 != 2]
"""


def test_arithmetic_is_pythons():
    expected = {}
    exec(ARITHMETIC, expected)
    assert run_program(ARITHMETIC).value == expected["answer"]


def test_value_is_the_answer_else_the_last_line():
    sources = ["answer = 3\n4", "x = 2\nx * 4", "x = 2", "print('a', 1, [2.5])", ""]
    assert run_programs(sources) == [
        ProgramResult(3, ""),
        ProgramResult(8, ""),
        ProgramResult(None, ""),
        ProgramResult(None, "a 1 [2.5]\n"),
        ProgramResult(None, ""),
    ]


def test_or_and_and_give_values_and_leave_the_rest_alone():
    assert run_program("answer = [0 or 5, 3 or 1 / 0, 0 and 1 / 0, 2 and 7]").value == [5, 3, 0, 7]


def test_programs_come_back_in_order():
    assert [result.value for result in run_programs([f"answer = {i} * {i}" for i in range(6)])] == [
        0, 1, 4, 9, 16, 25,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1\nanswer = x / 0", "ZeroDivisionError"),
        ("\nanswer = apples", "no variable 'apples'"),
        ("pass\n'a' + 1", "TypeError: numbers are needed, not str and int"),
        ("pass\n'%d apples' % 3", "TypeError: numbers are needed"),
        ("pass\n[1][5]", "IndexError"),
        ("pass\n1e308 * 10", "inf is not a finite real number"),
        ("pass\n1e999", "inf is not a finite real number"),
        ("pass\nfloat('nan')", "nan is not a finite real number"),
        ("pass\n(-8) ** 0.5", "is not a finite real number"),
        ("pass\nround(5, -10 ** 9)", "at most 20"),
        ("sum = 3\nsum([1, 2])", "'sum' is a variable here"),
        ("a = 1\na, b = [1, 2, 3]", "2 variables need a list of as many values"),
        ("x = 5\nfor i in x: pass", "`for` needs a list, not int"),
        ("pass\nmin()", "TypeError"),
    ],
)
def test_a_programs_own_error_names_the_line(source, reason):
    with pytest.raises(ProgramRejected) as caught:
        run_program(source)
    assert (caught.value.kind, caught.value.line) == ("failed", 2)
    assert reason in str(caught.value)


def test_a_bad_call_is_named():
    with pytest.raises(TypeError, match="the program is int"):
        run_program(3)
    for seconds in (0, -1, float("nan"), float("inf"), 10**9):
        with pytest.raises(ValueError, match=f"timeout_s = {seconds}"):
            run_program("1", timeout_s=seconds)


# --- the second wall: what if the language let everything through? -------------------------------------------


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """run_program with a child that confines itself and then runs anything as Python."""
    child = tmp_path / "broken.py"
    child.write_text(
        f"import sys; sys.path.insert(0, {str(Path(language.__file__).parent)!r})\n"
        "import json, os, socket, subprocess, language\n"
        "job = json.load(sys.stdin)\n"
        "language.confine(job['seconds'])\n"
        "exec(job['source'])\n"
    )
    monkeypatch.setattr(programs, "CHILD", child)
    return run_program


REPORT = "sys.stdout.write(json.dumps({'value': %s, 'output': ''}))"
DENIED = {
    "reading a file": "open('/etc/passwd')",
    "writing a file": "open('escaped', 'w')",
    "a socket": "socket.socket()",
    "a pipe": "os.pipe()",
    "a process": "os.fork()",
    "a program": "subprocess.run(['/bin/true'])",
    "more files again": "__import__('resource').setrlimit(7, (100, 100))",
    "much memory": "bytearray(2 ** 30)",
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are Linux's")


@linux
@pytest.mark.parametrize("name", DENIED)
def test_the_process_itself_is_denied(broken, name):
    source = f"try:\n    {DENIED[name]}\nexcept (OSError, MemoryError, ValueError) as cause:\n    found = type(cause).__name__"
    found = broken(f"found = 'it worked'\n{source}\n{REPORT % 'found'}").value
    assert found in ("OSError", "MemoryError", "BlockingIOError", "ValueError", "PermissionError")


@linux
def test_the_process_sees_no_environment_and_an_empty_directory(broken, monkeypatch):
    monkeypatch.setenv("LESSONLIB_SECRET", "canary")
    seen = broken(REPORT % "[dict(os.environ), os.getcwd(), os.geteuid()]").value
    assert "LESSONLIB_SECRET" not in seen[0] and set(seen[0]) <= {"LC_CTYPE"}  # Python's own
    assert seen[1] != str(Path.cwd()) and not Path(seen[1]).exists()
    assert seen[2] != 0  # never root


@linux
def test_processor_time_is_limited_by_the_kernel(broken):
    # By the kernel, not by the parent's clock, which would say that it ran for more than 120 s.
    with pytest.raises(ProgramRejected, match="SIGKILL"):
        broken("import resource; resource.setrlimit(0, (1, 1))\nwhile True: pass", timeout_s=120)
    assert broken(REPORT % "__import__('resource').getrlimit(0)", timeout_s=2.5).value == [3, 3]


def test_the_clock_stops_what_only_waits(broken):
    with pytest.raises(ProgramRejected, match=r"stopped: it ran for more than 0.5 s"):
        broken("import time; time.sleep(60)", timeout_s=0.5)


@linux
@pytest.mark.parametrize("flood", ["while True: os.write(1, b'x' * 2 ** 16)", "sys.stdout.write('[' * 2 ** 19)"])
def test_a_flood_of_output_does_not_reach_the_parent(broken, flood):
    with pytest.raises(ProgramRejected) as caught:
        broken(flood)
    assert caught.value.kind == "stopped"


@pytest.mark.parametrize(
    "written",
    [
        "''", "'null'", "'7'", "'[1]'", "'{'", """'{"value": 1}'""", """'{"value": 1, "output": 2}'""",
        """'{"value": NaN, "output": ""}'""", """'{"value": [1e999], "output": ""}'""",
        """'{"value": 1, "output": "", "more": 1}'""", """'{"kind": "fine", "reason": "", "line": 1}'""",
        "'[' * 100_000", "'9' * 5_000", "'import os'", "b'\\xff'.decode('latin1')",
    ],
)  # fmt: skip
def test_a_report_that_is_none_is_never_believed(broken, written):
    with pytest.raises(ProgramRejected) as caught:
        broken(f"sys.stdout.write({written})")
    assert caught.value.kind == "stopped"


@linux
def test_the_kernel_cuts_output_off(broken):
    flood = "n = os.write(1, b'x' * 2 ** 22); os.ftruncate(1, 0); os.lseek(1, 0, 0)"
    assert broken(f"{flood}\n{REPORT % 'n'}").value == language.LARGEST_REPORT


@linux
def test_a_crash_of_the_process_is_a_rejection(broken):
    for source, words in (
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), 37)", "signal 37"),
        ("os._exit(3)", "code 3"),
        ("x", "code 1"),
    ):
        with pytest.raises(ProgramRejected, match=words):
            broken(source)


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a process may signal its own user's")
def test_a_child_of_root_cannot_signal_its_parent(broken):
    source = f"try:\n    os.kill(os.getppid(), {signal.SIGTERM:d})\nexcept PermissionError:\n    found = 'denied'"
    assert broken(f"found = 'it worked'\n{source}\n{REPORT % 'found'}").value == "denied"


@linux
def test_no_process_is_left_behind(broken):
    with pytest.raises(ProgramRejected):
        broken("import time; time.sleep(60)", timeout_s=0.3)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children]
    assert not [name for name in names if "broken.py" in name]


# --- numbers with commas, and what a learner reads --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("answer = 1,234", "1,234"),
        ("x = 1\nanswer = -1,234,567.50", "1,234,567.50"),
        ("answer = 1,000", "1,000"),
        ("answer = 12,050 / 2", "12,050"),  # no number to Python: 050
        ("answer = 3 * 1,234 + 5", "1,234"),
        ("answer = (1,234)", "1,234"),
        ("print((1,234))", "1,234"),
        ("total = [1,234, 5,678]", "1,234"),
        ("answer = max(2, 1,234)", "1,234"),
        ("ü = 'ä, 5' ; answer = 1,234", "1,234"),
        ("[7][1,234]", "1,234"),
    ],
)
def test_a_number_with_commas_is_refused_and_never_two_numbers(source, number):
    with pytest.raises(ProgramRejected) as caught:
        run_program(source)
    assert (caught.value.kind, caught.value.line) == ("refused", source.count("\n") + 1)
    words = f"{number} is written with commas, which part things here: write {number.replace(',', '')}"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("answer = len(range(1,100))", 99),
        ("answer = [100,200]", [100, 200]),
        ("answer = max(3,100)", 100),
        ("a, b = 1, 234\nanswer = a + b", 235),
        ("answer = '1,234'", "1,234"),
        ("x1 = 7\nanswer = [x1,234, 5]", [7, 234, 5]),
        ("answer = [0.5,100, 2]", [0.5, 100, 2]),
        ("answer = ['1,234', '5,678']", ["1,234", "5,678"]),
        ("answer = 1,2345", [1, 2345]),
    ],
)
def test_other_commas_part_things_as_in_python(source, value):
    assert run_program(source).value == value


def test_what_is_refused_has_not_run_a_break_outside_of_a_loop_included():
    for source in ("print(1 / 0)\nbreak", "print(1 / 0)\nif 1:\n    continue", "1 / 0\nfloat(1,234)"):
        with pytest.raises(ProgramRejected) as caught:
            run_program(source)
        assert caught.value.kind == "refused"
    assert run_program("for i in [1, 2]:\n    if i == 2:\n        break\nanswer = i").value == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("2 ^ 3", "the operator ^ (a power is written **) is not in this language"),
        ("1 is 1", "is (== compares values) is not in this language"),
        ("try:\n    1\nexcept ValueError:\n    2", "try is not in this language"),
        ("x: int = 3", "a type behind a colon is not in this language"),
        ("{1, 2}", "a set is not in this language"),
        ("float(1, 2)", "float(...) takes one value, and here are 2"),
        ("sum(1, 2, 3)", "sum(...) takes one value, and here are 3"),
    ],
)
def test_what_is_refused_is_said_in_words_and_not_in_pythons_own(source, words):
    with pytest.raises(ProgramRejected) as caught:
        run_program(source)
    assert caught.value.kind == "refused" and words in caught.value.reason
