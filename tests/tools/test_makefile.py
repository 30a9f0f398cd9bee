"""The Makefile: what learners install, what vLLM is pinned to, and what is said where it cannot be had."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make here")


def make(*words, path="", **variables) -> subprocess.CompletedProcess:
    """make in the course's folder, with environments that are not there yet."""
    places = {"VENV": "nowhere/lab", "SERVE": "nowhere/serve"} | variables
    # Not what a `make test` above hands down, and its own words about folders least of all.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words, *(f"{name}={value}" for name, value in places.items())],
        cwd=ROOT,
        env=outside | {"PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


def command(folder: Path, name: str, script: str) -> Path:
    """A command of this name that does what the script says."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", "utf8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("target", ["lab", "afternoon", "runs"])
def test_learners_install_no_test_tools(target):
    planned = make("-n", target, DATA="mine.csv").stdout
    assert '-e ".[lab]"' in planned and "test]" not in planned


@pytest.mark.parametrize("target", ["test", "check", "style", "gpu"])
def test_tests_install_them_besides(target):
    planned = make("-n", target).stdout
    assert planned.index('-e ".[lab]"') < planned.index('-e ".[lab,test]"')


def test_torch_is_looked_for_before_the_rest_and_an_empty_index_is_handed_on():
    planned = make("-n", "lab").stdout
    assert planned.index("tools.cpu_torch constraints.txt") < planned.index("pip install")
    assert 'tools.cpu_torch constraints.txt ""' in make("-n", "lab", TORCH_INDEX="").stdout


def test_both_builds_of_vllm_are_pinned():
    pinned = dict(re.findall(r"-c (\S+) (vllm[\w-]*==[\d.]+)", make("-n", "serve-env").stdout))
    assert pinned.keys() == {"constraints-serve-gpu.txt", "constraints-serve.txt"}
    assert f"\n{pinned['constraints-serve-gpu.txt']}\n" in (ROOT / "constraints-serve-gpu.txt").read_text("utf8")


def test_where_vllm_cannot_be_had_one_line_says_so(tmp_path):
    command(tmp_path, "uname", "echo Darwin")
    done = make("serve-env", path=tmp_path)
    assert done.returncode == 2 and done.stdout.count("\n") == 1
    assert "vLLM cannot be had on Darwin" in done.stdout and not (ROOT / "nowhere").exists()


def test_a_python_without_venv_is_told_so(tmp_path):
    python = command(tmp_path, "python", 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    command(tmp_path, "uname", "echo Linux")
    done = make("serve-env", path=tmp_path, PYTHON=python)
    assert done.returncode == 2 and done.stdout.count("\n") == 1 and "apt install python3-venv" in done.stdout


def test_make_alone_lists_every_command_in_two_columns():
    lines = make().stdout.splitlines()
    names = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text("utf8"), flags=re.M)
    assert [line.split()[0] for line in lines] == names
    assert all(line[13] == " " and line[14] != " " for line in lines)
