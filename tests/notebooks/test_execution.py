"""Every notebook whole under nbval: as a learner gets it, network cut, from another working directory."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import notebooks

OFFLINE = Path(__file__).parent / "offline"
CELL_SECONDS = 600  # nbval's own default would let a dead kernel stall CI for half an hour
NOTEBOOK_SECONDS = 1500


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


def passed(done: subprocess.CompletedProcess) -> int:
    counted = re.search(r"(\d+) passed", done.stdout)
    return int(counted[1]) if counted else 0


@pytest.mark.notebook
@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: f"notebook_{path.stem}")
def test_notebook_runs_whole_without_a_network_from_another_directory(path, tmp_path):
    elsewhere = shutil.copy(path, tmp_path)
    done = run_nbval(Path(elsewhere))
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert passed(done) == cells, f"{passed(done)} cells passed of {cells}:\n{done.stdout[-2000:]}"


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
