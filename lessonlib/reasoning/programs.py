"""Programs of thought (Chen et al., 2022, arXiv:2211.12588, section 2): the model writes a program, a machine runs it.

What a model wrote is never run as Python. It passes two walls, each enough by itself: a language without any means
of reaching further (`lessonlib.reasoning.language`), and a process of its own, in an empty directory, with an empty
environment and limits on time, memory, output, files, sockets and processes. What comes back is JSON: plain data.

Windows has no such limits of a process; there the language, the process and the clock remain.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .language import LARGEST_REPORT, LONGEST_SOURCE

LONGEST_TIME = 3_600  # seconds
WINDOWS_NEEDS = ("SYSTEMROOT",)  # without it no Python starts there; elsewhere the environment is empty
KINDS = ("refused", "stopped", "failed")
CHILD = Path(__file__).with_name("language.py")


@dataclass(frozen=True)
class ProgramResult:
    """value: of the variable `answer`, else of a last line that is an expression, else None; plain data alone.
    output: what it printed."""

    value: int | float | str | bool | list | None
    output: str


class ProgramRejected(Exception):
    """A program gave no result.

    kind: "refused": it is not in the language, and nothing of it has run;
          "stopped": it went over a limit of time, steps, memory, size or output;
          "failed": its own error, such as a division by zero or a variable without a value.
    reason: what it was, in words. line: where, counted from 1, or None.
    """

    def __init__(self, kind: str, reason: str, line: int | None = None):
        super().__init__(kind, reason, line)
        self.kind, self.reason, self.line = kind, reason, line

    def __str__(self):
        where = f" in line {self.line}" if self.line else ""
        verb = "failed" if self.kind == "failed" else f"was {self.kind}"
        return f"the program {verb}{where}: {self.reason}"


def run_program(source: str, timeout_s: float = 5.0) -> ProgramResult:
    """Run a program that a model wrote, and wait for it at most `timeout_s` seconds.

    The language is described in `lessonlib.reasoning.language`. Raises ProgramRejected wherever there is no result,
    a runtime error of the program's included.

    >>> run_program("boxes = 3 * 4\\nprint(boxes)\\nanswer = boxes - 5")
    ProgramResult(value=7, output='12\\n')
    >>> run_program("import os\\nanswer = os.environ")
    Traceback (most recent call last):
    lessonlib.reasoning.programs.ProgramRejected: the program was refused in line 1: an import is not in this language
    """
    if not isinstance(source, str):
        raise TypeError(f"the program is {type(source).__name__}; give its source as text")
    if not 0 < timeout_s <= LONGEST_TIME:
        raise ValueError(f"timeout_s = {timeout_s}: give seconds above zero, at most {LONGEST_TIME:,}")
    if len(source) > LONGEST_SOURCE:  # said here, too: a long text is not even handed over
        raise ProgramRejected("refused", f"the program has {len(source):,} characters; at most {LONGEST_SOURCE:,}")
    report = _read(_run_child(source, timeout_s))
    if set(report) == {"value", "output"} and isinstance(report["output"], str):
        return ProgramResult(**report)
    if set(report) == {"kind", "reason", "line"} and report["kind"] in KINDS:
        raise ProgramRejected(**report)
    raise ProgramRejected("stopped", "the process gave something that is no report")


def run_programs(sources: Sequence[str], timeout_s: float = 5.0) -> list[ProgramResult | ProgramRejected]:
    """Run each program in a process of its own, as many at a time as there are processors, in the order given.

    What `run_program` would raise as ProgramRejected stands in the program's place in the list.
    """

    def one(source):
        try:
            return run_program(source, timeout_s)
        except ProgramRejected as rejected:
            return rejected

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, sources))


def _run_child(source: str, timeout_s: float) -> bytes:
    """What the child wrote. Files stand in for pipes: the kernel holds their size, and neither side can block."""
    job = {"source": source, "seconds": math.ceil(timeout_s)}
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as written,
        tempfile.TemporaryDirectory() as empty,
    ):
        given.write(json.dumps(job).encode())
        given.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-W", "ignore", str(CHILD)],  # isolated: no site, no user's packages
            stdin=given,
            stdout=written,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={name: os.environ[name] for name in WINDOWS_NEEDS if name in os.environ},
            start_new_session=True,
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired as cause:
            raise ProgramRejected("stopped", f"it ran for more than {timeout_s:g} s") from cause
        finally:
            child.kill()
            child.wait()
        if code:
            raise ProgramRejected("stopped", _last_words(code))
        written.seek(0)
        return written.read(LARGEST_REPORT + 1)


def _last_words(code: int) -> str:
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"its process was ended by {names.get(-code, f'signal {-code}')}"
    return f"its process ended with code {code}"


def _read(written: bytes) -> dict:
    """The child's report, as if the child were an enemy's: JSON of bounded size with finite numbers, else rejected."""
    try:
        report = json.loads(written[:LARGEST_REPORT])
    except (ValueError, RecursionError) as cause:
        raise ProgramRejected("stopped", "its process wrote something that is no report") from cause
    rest = [report]
    while rest:
        item = rest.pop()
        if isinstance(item, float) and not math.isfinite(item):  # not JSON, but Python reads it
            raise ProgramRejected("stopped", f"its process wrote {item}, which is no plain data")
        rest += item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
    return report if isinstance(report, dict) else {}
