"""Every notebook whole under nbval: as a learner gets it, network cut, from another working directory."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from lessonlib import hardware
from lessonlib.course.session import SLOW_CPU, lessons
from tools import notebooks

OFFLINE = Path(__file__).parent / "offline"
CELL_SECONDS = 600  # nbval's own default would let a dead kernel stall CI for half an hour
NOTEBOOK_SECONDS = 1500
CI_MINUTES = 32  # that CI may spend on whole notebooks: enough for all ten where bfloat16 is fast


def run_nbval(path: Path, **environment) -> subprocess.CompletedProcess:
    """One notebook under nbval: cells tagged nbval-check-output are compared, all others must not fail."""
    command = [
        sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}",
        "--nbval-kernel-startup-timeout=180", "-p", "no:cacheprovider", "-q", "--rootdir", str(path.parent), str(path),
    ]  # fmt: skip
    environ = os.environ | {"PYTHONPATH": str(OFFLINE), "CI": "true"} | environment
    return subprocess.run(
        command, cwd=path.parent, env=environ, capture_output=True, text=True, timeout=NOTEBOOK_SECONDS
    )


class Budget:
    """Minutes of CI for notebooks, and how this machine's compare with those that the lessons state."""

    def __init__(self, minutes: float, pace: float):  # pace: a first guess, until a notebook has been timed
        self.left, self.pace, self.stated, self.taken = minutes, pace, 0.0, 0.0

    def expected(self, lesson: str) -> float:
        """Minutes that a notebook will take here: its stated ones, times the pace of those before."""
        pace = self.taken / self.stated if self.stated else self.pace
        return pace * lessons()[lesson]["minutes"]

    def spend(self, lesson: str, minutes: float) -> None:
        self.left -= minutes
        self.taken += minutes
        self.stated += lessons()[lesson]["minutes"]


def in_turn(paths: list[Path], commit: str) -> list[Path]:
    """The notebooks, beginning with another one for another commit: where not all fit, each has its turn."""
    first = int(commit[:8] or "0", 16) % len(paths)
    return paths[first:] + paths[:first]


def commit() -> str:
    """The checkout's commit; empty where there is no git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=notebooks.ROOT, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def budget() -> Budget | None:
    """What CI may spend; elsewhere there is no limit."""
    return Budget(CI_MINUTES, 1 if hardware.bfloat16_speed() > 1.2 else SLOW_CPU) if os.environ.get("CI") else None


def passed(done: subprocess.CompletedProcess) -> int:
    counted = re.search(r"(\d+) passed", done.stdout)
    return int(counted[1]) if counted else 0


@pytest.mark.notebook
@pytest.mark.parametrize("path", in_turn(notebooks.paths(), commit()), ids=lambda path: f"notebook_{path.stem}")
def test_notebook_runs_whole_without_a_network_from_another_directory(path, budget, tmp_path):
    lesson = path.name[:2]
    if budget and budget.left < budget.expected(lesson):
        expected, left = budget.expected(lesson), max(budget.left, 0)
        pytest.skip(
            f"{expected:.0f} minutes on this machine, CI has {left:.0f} left: `make notebook NB={lesson}` runs it"
        )
    elsewhere, start = shutil.copy(path, tmp_path), time.perf_counter()
    done = run_nbval(Path(elsewhere))
    if budget:
        budget.spend(lesson, (time.perf_counter() - start) / 60)
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert passed(done) == cells, f"{passed(done)} cells passed of {cells}:\n{done.stdout[-2000:]}"


def test_ci_stops_where_its_minutes_end_and_goes_by_what_this_machine_took():
    budget = Budget(30, pace=2)
    assert budget.expected("07") == 2 * lessons()["07"]["minutes"]
    budget.spend("07", 5 * lessons()["07"]["minutes"])
    assert budget.expected("02") == 5 * lessons()["02"]["minutes"]
    assert budget.left == 30 - 5 * lessons()["07"]["minutes"]


def test_every_notebook_is_first_for_some_commit_and_none_is_left_out():
    paths = notebooks.paths()
    turns = [in_turn(paths, f"{number:08x}") for number in range(len(paths))]
    assert {turn[0] for turn in turns} == set(paths)
    assert all(sorted(turn) == sorted(paths) for turn in turns) and in_turn(paths, "") == paths


def test_all_ten_fit_into_ci_where_bfloat16_is_fast():
    assert sum(entry["minutes"] for entry in lessons().values()) <= CI_MINUTES


@pytest.mark.notebook
def test_a_failing_cell_turns_the_run_red(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    assert run_nbval(tmp_path / "wrong.ipynb").returncode != 0


@pytest.mark.notebook
def test_an_output_that_is_checked_and_differs_turns_the_run_red(tmp_path):
    cell = nbformat.v4.new_code_cell("6 * 7", metadata={"tags": ["nbval-check-output"]})
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "41"}, execution_count=1)]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "stale.ipynb")
    assert run_nbval(tmp_path / "stale.ipynb").returncode != 0


@pytest.mark.notebook
def test_the_network_is_really_cut(tmp_path):
    source = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=3)"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "net.ipynb")
    done = run_nbval(tmp_path / "net.ipynb")
    assert done.returncode != 0 and "NetworkIsCut" in done.stdout


def twice(path: Path, to: Path) -> Path:
    """A copy of the notebook in which every code cell stands twice."""
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            again = nbformat.from_dict(dict(cell))
            again["id"] = f"{cell['id']}-2"
            cells.append(again)
    notebook.cells = cells
    nbformat.write(notebook, to / path.name)
    return to / path.name


@pytest.mark.robust
@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: f"notebook_{path.stem}")
def test_every_cell_can_be_run_twice(path, tmp_path):
    done = run_nbval(twice(path, tmp_path))
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.robust
@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: f"notebook_{path.stem}")
def test_notebook_passes_in_float32(path, tmp_path):
    done = run_nbval(Path(shutil.copy(path, tmp_path)), LESSONLIB_DTYPE="float32")
    assert done.returncode == 0, done.stdout[-6000:]
