"""Claims of lessonlib.bootstrap. Packages are made missing by a stand-in for importlib's `version`."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lessonlib import bootstrap
from lessonlib.bootstrap import NotReady, missing, pins, prepare


@pytest.fixture
def machine(monkeypatch):
    """machine(without=..., torchao=..., colab=...): what is installed; gives the list of commands run."""

    def build(without=(), torchao=None, colab=False, exit_code=0):
        def version(name):
            if name in without or (name == "torchao" and torchao is None):
                raise PackageNotFoundError(name)
            return torchao if name == "torchao" else "1.0"

        commands = []
        monkeypatch.setattr(bootstrap, "version", version)
        monkeypatch.setattr(
            bootstrap.subprocess,
            "run",
            lambda command, **_: (commands.append(command), SimpleNamespace(returncode=exit_code))[1],
        )
        if colab:
            monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        return commands

    return build


def test_pins_are_those_of_pyproject():
    assert {"torch", "numpy", "transformers", "peft"} <= pins().keys()
    assert all(pin and pin[0].isdigit() for pin in pins().values())


def test_where_all_is_installed_nothing_is_done(machine):
    for colab in (False, True):
        commands = machine(colab=colab)
        prepare()
        assert (missing(), commands) == ([], [])


def test_what_is_missing_is_named_with_its_version_and_not_installed(machine):
    commands = machine(without=["peft", "gguf"])
    with pytest.raises(NotReady, match=rf"not installed here: peft=={pins()['peft']}, gguf==.* run `make setup`"):
        prepare()
    assert commands == []


def test_on_colab_what_is_missing_is_installed_and_nothing_else(machine):
    commands = machine(without=["peft", "gguf"], colab=True)
    prepare()
    wanted = [f"peft=={pins()['peft']}", f"gguf=={pins()['gguf']}"]
    assert commands == [[sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *wanted]]


@pytest.mark.parametrize("core", ["torch", "numpy"])
@pytest.mark.parametrize("colab", [False, True])
def test_torch_and_numpy_are_never_installed(machine, core, colab):
    commands = machine(without=[core, "peft"], colab=colab)
    with pytest.raises(NotReady, match=rf"not installed here: .*{core}=="):
        prepare()
    assert commands == []


def test_a_failed_installation_is_said(machine):
    machine(without=["peft"], colab=True, exit_code=1)
    with pytest.raises(NotReady, match=r"could not install peft==.*: check the network and run this cell again"):
        prepare()


@pytest.mark.parametrize("old", ["0.10.0", "0.15.2", "0.9", "0.10.0+cu124"])
def test_an_old_torchao_is_refused_with_the_remedy(machine, old):
    machine(torchao=old)
    with pytest.raises(NotReady) as error:
        prepare()
    assert f"torchao {old} stops PEFT" in str(error.value) and "%pip uninstall -y torchao" in str(error.value)


@pytest.mark.parametrize("new", ["0.16.0", "0.17", "1.0.0", "0.16.0.dev20260101+cpu"])
def test_a_new_torchao_is_left_alone(machine, new):
    machine(torchao=new)
    prepare()


def test_it_runs_where_nothing_is_installed_and_names_all():
    root = Path(bootstrap.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from lessonlib.bootstrap import prepare; prepare()"
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True)
    assert all(f"{name}=={pin}" in done.stderr.splitlines()[-1] for name, pin in pins().items())
