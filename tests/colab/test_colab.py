"""Notebooks 01, 07 and 09 on Colab's versions: in an environment of Colab's own list, one kernel each, from a badge's state.

Where the badge leaves a learner is a folder with the notebook in it and the course below; the environment has Colab's
old torchao and lacks bitsandbytes, gguf and mnist1d. The first cell has to put that right, while the kernel goes on.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import notebooks

HERE = Path(__file__).parent
ENVIRONMENT = Path(os.environ.get("LESSONLIB_COLAB_ENV") or notebooks.ROOT / ".venv-colab")
ABSENT = ("bitsandbytes", "gguf", "mnist1d")
VIEW = "application/vnd.jupyter.widget-view+json"
VERSIONS = """
import importlib.metadata, json
names = ["torch", "numpy", "transformers", "peft", "ipywidgets", "ipython"]
print(json.dumps({name: importlib.metadata.version(name) for name in names}))
try: print("torchao", importlib.metadata.version("torchao"))
except importlib.metadata.PackageNotFoundError: print("no torchao")
"""


def pip(*arguments: str) -> None:
    subprocess.run([ENVIRONMENT / "bin" / "python", "-m", "pip", "--quiet", *arguments], check=True)


def colabs_python() -> str:
    """A Python 3.12 that answers (a name that pyenv only stands in for does not); else the one of this test."""
    there = [shutil.which("python3.12"), *Path.home().glob(".pyenv/versions/3.12*/bin/python")]
    answers = (
        str(path) for path in there if path and not subprocess.run([path, "-c", ""], capture_output=True).returncode
    )
    return next(answers, sys.executable)


@pytest.fixture(scope="module")
def environment():
    """Colab's versions, with the Python of Colab where there is one (several GB, once)."""
    stamp, versions = ENVIRONMENT / ".ready", HERE / "versions.txt"
    if not stamp.exists() or stamp.read_text("utf8") != versions.read_text("utf8"):
        subprocess.run([colabs_python(), "-m", "venv", ENVIRONMENT], check=True)
        pip("install", "--requirement", str(versions))
        shutil.copy(versions, stamp)
    return ENVIRONMENT


@pytest.fixture
def content(environment, tmp_path, monkeypatch):
    """A folder as Colab's /content, and a kernel "colab" of the environment as a new session leaves it."""
    pip("install", "--no-deps", "torchao==0.10.0")
    pip("uninstall", "--yes", *ABSENT)
    kernel = tmp_path / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    command = [str(environment / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    variables = {"PYTHONPATH": str(HERE / "pretended")}
    spec = {"argv": command, "display_name": "Colab", "language": "python", "env": variables}
    (kernel / "kernel.json").write_text(json.dumps(spec), "utf8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    folder = tmp_path / "content"
    for part in ("lessonlib", "data", "notebooks"):
        shutil.copytree(notebooks.ROOT / part, folder / "a course of any name" / part)
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(notebooks.ROOT / file, folder / "a course of any name")
    return folder


def executed(notebook, folder: Path):
    """The notebook with what its cells gave, in one kernel; a cell that fails stops it."""
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=3600, kernel_name="colab", resources=resources).execute()
    return notebook


def views(notebook) -> list[str]:
    """The ids of the widgets that the cells show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][VIEW]["model_id"] for output in outputs if VIEW in output.get("data", {})]


@pytest.mark.robust
@pytest.mark.parametrize("number", ["01", "07", "09"])
def test_a_notebook_runs_whole_on_colabs_versions_without_a_restart(content, number):
    [path] = notebooks.paths([number])
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(VERSIONS))
    last = executed(notebook, content).cells[-1].outputs[0].text.splitlines()
    listed = dict(line.split("==") for line in (HERE / "versions.txt").read_text("utf8").splitlines() if "==" in line)
    used = {name: version.partition("+")[0] for name, version in json.loads(last[0]).items()}
    assert used == {name: listed[name] for name in used} and last[1] == "no torchao"
    asked = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    shows = sum("quiz(" in source for source in asked) + sum(source.startswith("figures.") for source in asked)
    assert len(set(views(notebook))) >= 2 and shows >= 2, "a quiz and a figure with controls"
    after_pip = [output for cell in notebook.cells[2:] for output in cell.get("outputs", [])]  # which may warn
    assert not any(output.get("name") == "stderr" for output in after_pip)
