"""The ten notebooks and the tests marked `gpu` on this machine's CUDA card, as rows of docs/gpu.md.

python -m tools.gpu [NN ...]         run what has no row yet, or these notebooks in any case, and write a row after each
python -m tools.gpu --t4 [NN ...]    the same with a T4's memory and arithmetic (its speed is the card's)
python -m tools.gpu --table          run nothing: write anew which rows are older than their notebook

Notebooks are executed in a copy (build/gpu); their stored outputs stay as they are. A run that was stopped goes on behind
the last row that it wrote.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

from .files import NOTEBOOKS, ROOT, paths, write_between
from .notebooks import source_hash

PAGE = ROOT / "docs" / "gpu.md"
COPIES = ROOT / "build" / "gpu"
TESTS = "tests marked `gpu`"
HEADER = ("what", "card", "arithmetic", "result", "minutes", "GPU, GB", "RAM, GB", "date", "versions", "source")
NOTHING = "*It has not been run yet: no machine with a CUDA card was to be had.*"
NEWER = "has changed since"
T4_GB = 15.6  # what a T4 gives torch of its 16 GB
CELL_SECONDS = 900

# What a kernel does before the first cell: after each cell it writes down its peaks, and it may pretend to be a T4.
STARTUP = '''
import json, os, torch
from lessonlib import hardware

def _limit(to):
    """A T4's memory, as far as torch asks for it in this process, and no bfloat16."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, to / torch.cuda.mem_get_info()[1]))
    free = torch.cuda.mem_get_info
    torch.cuda.mem_get_info = lambda device=None: (
        max(0, min(free(device)[0], int(to) - torch.cuda.memory_reserved(device))), int(to))
    torch.cuda.is_bf16_supported = lambda *_, **__: False

def _measure(*_):
    gpu = torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0
    with open(os.environ["LESSONLIB_PEAKS"], "w") as file:
        about = {"gpu_gb": gpu, "ram_gb": hardware.peak_memory_gb(torch.device("cpu"))}
        json.dump(about | {"arithmetic": str(hardware.dtype()).removeprefix("torch.")}, file)

if "LESSONLIB_GPU_GB" in os.environ:
    _limit(float(os.environ["LESSONLIB_GPU_GB"]) * 1e9)
get_ipython().events.register("post_run_cell", _measure)
'''


@dataclass(frozen=True)
class Row:
    """What one run gave: a notebook's file name or `TESTS`, the card, the arithmetic, "whole" or where it stopped, minutes,
    the kernel's peaks on GPU and in RAM in GB ("" where none was taken), date, versions, and a hash of what was run."""

    what: str
    card: str
    arithmetic: str
    result: str
    minutes: str
    gpu_gb: str
    ram_gb: str
    day: str
    versions: str
    source: str

    @property
    def place(self) -> tuple[str, str]:
        """Two rows of one place are the same run, made twice: the later one stays."""
        return self.what, self.card

    @property
    def passed(self) -> bool:
        return self.result == "whole" or bool(re.match(r"\d+ passed", self.result))


# --- the table -------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], sources: dict[str, str]) -> str:
    """The table, one line a row; beside the hash of one whose notebook (or tests) is another now stands that it is older.

    sources: the hash that each notebook (and `TESTS`) has now.
    """
    if not rows:
        return NOTHING
    lines = [HEADER, ["---"] * len(HEADER)]
    for row in sorted(rows, key=lambda row: (row.card, row.what)):
        older = sources.get(row.what) != row.source
        lines.append(astuple(replace(row, source=f"{row.source} {NEWER}") if older else row))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read(page: Path = PAGE) -> list[Row]:
    """The rows that a page holds between its marks."""
    between = re.search(r"<!-- gpu -->\n(.*?)<!-- end of gpu -->", page.read_text("utf8"), flags=re.S)[1]
    lines = [line for line in between.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(*row[:-1], source=row[-1].removesuffix(NEWER).strip()) for row in cells]


def keep(row: Row, page: Path = PAGE) -> None:
    """Write a row into the page, in the place of an earlier one for the same card."""
    rows = [old for old in read(page) if old.place != row.place]
    write_between("gpu", table([*rows, row], sources()), page)


def sources() -> dict[str, str]:
    """The hash that each notebook has now, and the tests."""
    import nbformat

    found = {path.name: source_hash(nbformat.read(path, as_version=4)) for path in paths()}
    files = sorted((ROOT / "tests" / "gpu").glob("*.py"))
    return found | {TESTS: hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]}


def to_do(rows: Sequence[Row], sources: dict[str, str], card: str, versions: str, chosen: Sequence[str]) -> list[str]:
    """What is to be run on this card: the notebooks of the chosen lessons, or all that no row says to be whole as it is now,
    the tests first."""
    if chosen:
        return [path.name for path in paths(list(chosen))]
    done = {(row.what, row.card, row.versions, row.source) for row in rows if row.passed}
    order = sorted(sources, key=lambda what: (what != TESTS, what))
    return [what for what in order if (what, card, versions, sources[what]) not in done]


# --- runs ------------------------------------------------------------------------------------------------------------


def execute(path: Path, environment: dict[str, str] | None = None) -> dict:
    """Run a notebook whole, as a learner's Run All does, and keep what came out as a copy in build/gpu.

    Returns result ("whole", or the cell that stopped it), minutes, and of its kernel gpu_gb and ram_gb, the peaks, and the
    arithmetic.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook, result = nbformat.read(path, as_version=4), "whole"
    with tempfile.TemporaryDirectory() as folder:
        startup, peaks = Path(folder, "profile_default", "startup", "00.py"), Path(folder, "peaks.json")
        startup.parent.mkdir(parents=True)
        startup.write_text(STARTUP, "utf8")
        around = {"IPYTHONDIR": folder, "LESSONLIB_PEAKS": str(peaks), "PYTHONPATH": str(ROOT)} | (environment or {})
        client = NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(NOTEBOOKS)}})
        began = time.perf_counter()
        try:
            client.execute(env={name: value for name, value in os.environ.items() if name != "CI"} | around)
        except CellExecutionError as cause:
            result = f"{_last_cell(notebook)}: {cause.ename}"
        except (CellTimeoutError, DeadKernelError) as cause:
            result = f"{_last_cell(notebook)}: {type(cause).__name__}"
        minutes = (time.perf_counter() - began) / 60
        measured = json.loads(peaks.read_text("utf8")) if peaks.exists() else {}
    COPIES.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, COPIES / path.name)
    return {"result": result, "minutes": minutes} | measured


def _last_cell(notebook) -> str:
    """Which of the code cells was the last to begin, counted from 1."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    begun = [i for i, cell in enumerate(cells, 1) if "iopub.status.busy" in cell.metadata.get("execution", {})]
    return f"code cell {max(begun, default=1)}"


def run_tests() -> dict:
    """The tests marked `gpu`: result, as pytest counts it, and minutes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    return {"result": counted(done.stdout), "minutes": (time.perf_counter() - began) / 60}


def counted(output: str) -> str:
    """What pytest counts in its last line, the failed first.

    >>> counted("... \\n2 failed, 5 passed, 1 warning in 3.10s\\n")
    '2 failed, 5 passed'
    """
    found = re.findall(r"\d+ (?:failed|error|passed|skipped)", (output.strip().splitlines() or [""])[-1])
    return ", ".join(found) or "nothing was counted"


def row_of(what: str, card: str, versions: str, source: str, measured: dict) -> Row:
    """The row of a run, its figures rounded."""

    def figure(name, digits):
        return f"{measured[name]:.{digits}f}" if name in measured else ""

    result = measured["result"].replace("|", "/")
    figures = figure("minutes", 1), figure("gpu_gb", 1), figure("ram_gb", 1)
    arithmetic = measured.get("arithmetic", "")
    return Row(what, card, arithmetic, result, *figures, date.today().isoformat(), versions, source)


def run(
    chosen: Sequence[str],
    card: str,
    environment: dict[str, str],
    with_tests: Callable | None,
    page: Path,
) -> int:
    """Run what is to be done, a row after each; 1 if any did not pass. with_tests: runs the tests, or None."""
    now, versions, failed = sources(), versions_here(), 0
    for what in to_do(read(page), now, card, versions, chosen):
        if what == TESTS and with_tests is None:
            continue
        print(f"{what} ...", flush=True)
        measured = with_tests() if what == TESTS else execute(NOTEBOOKS / what, environment)
        row = row_of(what, card, versions, now[what], measured)
        keep(row, page)
        print(f"{what}: {row.result}, {row.minutes} minutes, {row.gpu_gb or '-'} GB on the GPU", flush=True)
        failed += not row.passed
    return int(failed > 0)


def versions_here() -> str:
    """The versions that decide how a card is used."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 where all passed, 1 where something did not, 2 without CUDA, and for a lesson that there is not."""
    parser = argparse.ArgumentParser(prog="tools.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", help="numbers of notebooks, as 07 (all that have no row yet)")
    parser.add_argument("--t4", action="store_true", help="with a T4's memory and arithmetic")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table anew")
    options = parser.parse_args(arguments)
    try:
        paths(options.lessons)
    except FileNotFoundError as cause:
        parser.exit(2, f"{cause}\n")
    if options.table:
        write_between("gpu", table(read(), sources()), PAGE)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("make gpu needs a CUDA card, and torch sees none here: nothing was run, docs/gpu.md is as it was.")
        return 2
    card, environment = torch.cuda.get_device_name(), {}
    if options.t4:
        environment = {"LESSONLIB_DTYPE": "float16", "LESSONLIB_GPU_GB": str(T4_GB)}
        card = f"a T4's memory on {card}"
    return run(options.lessons, card, environment, None if options.t4 else run_tests, PAGE)


if __name__ == "__main__":
    sys.exit(main())
