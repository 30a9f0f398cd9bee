"""Claims of lessonlib.bootstrap. What is installed is said by a stand-in for importlib's `version`."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lessonlib import bootstrap
from lessonlib.bootstrap import NotReady, bounds, missing, prepare

ROOT = Path(bootstrap.__file__).parents[1]


def listed(file) -> dict[str, str]:
    """The versions of a list that pip reads, as constraints.txt."""
    lines = (ROOT / file).read_text("utf8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.fixture
def machine(monkeypatch):
    """machine(without=..., old=..., torchao=..., colab=...): what is installed; gives the list of commands run."""

    def build(without=(), torchao=None, colab=False, exit_code=0, old=()):
        there = {**bounds(), "torchao": torchao, **dict(old), **dict.fromkeys(without)}

        def version(name):
            if there[name] is None:
                raise PackageNotFoundError(name)
            return there[name]

        def run(command, **_):
            commands.append(command)
            return SimpleNamespace(returncode=exit_code)

        commands = []
        monkeypatch.setattr(bootstrap, "version", version)
        monkeypatch.setattr(bootstrap.subprocess, "run", run)
        for name in ("gguf", "peft", "transformers", "torchao"):  # imported or not by tests that ran before
            monkeypatch.delitem(sys.modules, name, raising=False)
        if colab:
            monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        return commands

    return build


def pip(verb, *arguments):
    return [sys.executable, "-m", "pip", verb, "--quiet", *arguments]


def test_the_bounds_are_those_of_pyproject():
    assert {"torch", "numpy", "transformers", "peft"} <= bounds().keys()
    assert all(bound and bound[0].isdigit() for bound in bounds().values())


def test_what_ci_runs_is_listed_and_lies_within_the_bounds(machine):
    machine(old={name: listed("constraints.txt")[name] for name in bounds()})
    assert missing() == []


def test_what_colab_has_lies_within_the_bounds(machine):
    """Colab lacks some packages; the first cell installs those in the versions of CI."""
    colab = listed("tests/colab/versions.txt")
    assert colab.pop("torchao") == "0.10.0"
    machine(old={name: number for name, number in colab.items() if name in bounds()})
    assert missing() == []


def test_the_oldest_python_is_the_one_of_pyproject():
    assert f'requires-python = ">={".".join(map(str, bootstrap.PYTHON))}"' in (ROOT / "pyproject.toml").read_text()


def test_where_all_is_installed_nothing_is_done(machine):
    for colab in (False, True):
        commands = machine(colab=colab)
        prepare()
        assert (missing(), commands) == ([], [])


def test_what_is_missing_is_named_with_its_version_and_not_installed(machine):
    commands = machine(without=["peft", "gguf"])
    named = rf"not as needed here: peft \({bounds()['peft']} or newer is needed\), gguf \(.*\)\. "
    with pytest.raises(NotReady, match=named):
        prepare()
    assert commands == []


def test_what_is_too_old_is_named_with_what_to_do_on_colab_with_conda_and_with_make(machine):
    commands = machine(old={"transformers": "4.57.3", "peft": "0.13.0", "numpy": "1.26.4", "torch": "2.4.0"})
    with pytest.raises(NotReady) as error:
        prepare()
    said = str(error.value)
    for found in ("transformers 4.57.3 (", "peft 0.13.0 (", "numpy 1.26.4 (", "torch 2.4.0 ("):
        assert found in said
    assert "On Colab: " in said and "With conda: " in said and "`make setup`" in said and "\n" not in said
    assert commands == []


@pytest.mark.parametrize(
    "found, lowest, enough",
    [
        ("2.11.0+cu128", "2.11.0", True),
        ("2.11", "2.11.0", True),
        ("2.9.1", "2.11.0", False),
        ("10.0", "9.5", True),
        ("0.0.2", "0.0.2.post1", True),
        ("5.9.0.dev0", "5.9.0", True),
        ("5.8.9", "5.9", False),
    ],
)
def test_versions_are_compared_by_their_numbers(machine, found, lowest, enough):
    machine(old={"torch": found})
    assert bootstrap._new_enough("torch", lowest) is enough


def test_on_colab_what_is_missing_or_old_is_installed_and_nothing_else(machine):
    commands = machine(without=["gguf"], old={"peft": "0.13.0"}, colab=True)
    prepare()
    wanted = [f"{name}=={listed('constraints.txt')[name]}" for name in ("peft", "gguf")]
    assert commands == [pip("install", "--no-deps", *wanted)]


@pytest.mark.parametrize("core", ["torch", "numpy"])
@pytest.mark.parametrize("colab", [False, True])
@pytest.mark.parametrize("found", [None, "1.0"])
def test_torch_and_numpy_are_never_installed(machine, core, colab, found):
    commands = machine(without=["peft"], old={core: found}, torchao="0.10.0", colab=colab)
    with pytest.raises(NotReady, match=rf"not as needed here: .*{core}{' 1.0' if found else ''} \("):
        prepare()
    assert commands == []


def test_a_failed_installation_is_said(machine):
    machine(without=["peft"], colab=True, exit_code=1)
    with pytest.raises(
        NotReady, match=r"`pip install --no-deps peft==.*` failed: check the network and run this cell"
    ):
        prepare()


@pytest.mark.parametrize("old", ["0.10.0", "0.15.2", "0.9", "0.10.0+cu124"])
def test_an_old_torchao_is_removed_on_colab_and_named_elsewhere(machine, old):
    commands = machine(torchao=old, colab=True)
    prepare()
    assert commands == [pip("uninstall", "--yes", "torchao")]
    sys.modules.pop("google.colab")
    with pytest.raises(NotReady, match=r"torchao .* \(it stops PEFT: uninstall it"):
        prepare()
    assert len(commands) == 1


@pytest.mark.parametrize("new", ["0.16.0", "0.17", "1.0.0", "0.16.0.dev20260101+cpu"])
def test_a_new_torchao_is_left_alone(machine, new):
    commands = machine(torchao=new, colab=True)
    prepare()
    assert commands == []


@pytest.mark.parametrize("imported", ["peft", "torchao"])
def test_what_was_imported_before_it_was_put_right_asks_for_a_restart(machine, monkeypatch, imported):
    commands = machine(old={"peft": "0.13.0"}, torchao="0.10.0", colab=True)
    monkeypatch.setitem(sys.modules, imported, ModuleType(imported))
    with pytest.raises(
        NotReady, match=f"^{imported} was imported before it was put right: Runtime > Restart session"
    ):
        prepare()
    assert len(commands) == 2


def test_an_old_python_is_named(machine, monkeypatch):
    machine()
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 11, 2, "final", 0))
    with pytest.raises(NotReady, match=r"Python .* is too old, 3\.11\.5 or newer is needed\. On Colab: "):
        prepare()


def test_it_runs_where_nothing_is_installed_and_names_all():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lessonlib.bootstrap import prepare; prepare()"
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True)
    assert all(f"{name} ({lowest} or newer" in done.stderr.splitlines()[-1] for name, lowest in bounds().items())
