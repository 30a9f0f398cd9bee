"""What a notebook's first cell calls: look at the packages; on Colab put right what can be, never torch or numpy.

This file imports nothing but the standard library, and of that what an old Python has too, so that it can say what is
missing where nothing is installed yet.
"""

import importlib
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = (3, 11, 5)  # as `requires-python` in pyproject.toml says, which an older Python cannot read
NEVER_TOUCHED = ("torch", "numpy")  # reinstalling either under a live kernel breaks it
TORCHAO = "0.16"  # PEFT refuses to add an adapter where an older one is installed
REMEDY = (
    "On Colab: choose the latest runtime version (Runtime > Change runtime type). With conda: `conda env update -n "
    "adapting-llms -f environment.yml`. Else: `make setup`. Then run this cell again, in that environment's kernel"
)


class NotReady(RuntimeError):
    """The notebook cannot go on here; the message says what to do."""


def bounds() -> dict[str, str]:
    """The packages that the library imports, each with its lower bound, from pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    return dict(requirement.split(">=") for requirement in project["dependencies"])


def missing() -> list[str]:
    """What is not installed, and what is too old, torch and numpy included; each in words, name first.

    For instance "peft (0.19.1 or newer is needed)" and "numpy 1.26.4 (2.0.2 or newer is needed)".
    """
    lines = []
    for name, lowest in _lacking().items():
        here = f"{name} {_found(name)}".strip()
        lines.append(f"{here} ({lowest} or newer is needed)")
    return lines


def prepare() -> None:
    """Make sure that the lesson's packages are here and new enough. On Colab they are installed; elsewhere named.

    On Colab an old torchao, which stops PEFT, is removed. Raises NotReady with what to do: for an old Python, a
    missing or old torch or numpy, a package that cannot be installed, or that was imported before it was put right.
    """
    if sys.version_info[:3] < PYTHON:
        needed = ".".join(map(str, PYTHON))
        raise NotReady(f"Python {sys.version.split()[0]} is too old, {needed} or newer is needed. {REMEDY}")
    lacking, torchao = _lacking(), _old_torchao()
    if any(name in lacking for name in NEVER_TOUCHED) or (not _on_colab() and (lacking or torchao)):
        old = [f"torchao {torchao} (it stops PEFT: uninstall it, or take {TORCHAO} or newer)"] if torchao else []
        raise NotReady(f"not as needed here: {', '.join(missing() + old)}. {REMEDY}")
    changed = [name for name in [*lacking, *(["torchao"] if torchao else [])] if name in sys.modules]
    if torchao:
        _pip("uninstall", "--yes", "torchao")
    if lacking:
        # --no-deps: nothing that Colab brought along, torch and numpy first of all, may be replaced.
        _pip("install", "--no-deps", *(f"{name}=={_tested(name)}" for name in lacking))
    importlib.invalidate_caches()
    if changed:
        raise NotReady(
            f"{', '.join(changed)} was imported before it was put right: Runtime > Restart session, then run all again"
        )


def _lacking() -> dict[str, str]:
    """Name and lowest version of each package that is missing or too old."""
    return {name: lowest for name, lowest in bounds().items() if not _new_enough(name, lowest)}


def _found(name: str) -> str:
    """The installed version; empty where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _new_enough(name: str, lowest: str) -> bool:
    return bool(found := _found(name)) and _release(found) >= _release(lowest)


def _release(number: str) -> tuple:
    """The numbers that a version is compared by: (2, 11) of "2.11.0+cu128", (0, 0, 2) of "0.0.2.post1"."""
    parts = [int(part) for part in re.match(r"\d+(?:\.\d+)*", number)[0].split(".")]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def _old_torchao() -> str:
    """The version of a torchao that stops PEFT; empty where none is installed, or a new one."""
    found = _found("torchao")
    return found if found and not _new_enough("torchao", TORCHAO) else ""


def _tested(name: str) -> str:
    """The version that CI runs, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments[:1], "--quiet", *arguments[1:]]
    if subprocess.run(command).returncode:
        raise NotReady(f"`pip {' '.join(arguments)}` failed: check the network and run this cell again")


def _on_colab() -> bool:
    return "google.colab" in sys.modules
