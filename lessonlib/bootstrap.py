"""What a notebook's first cell calls: check the packages, install what is missing on Colab, never torch or numpy.

This file imports nothing but the standard library, so that it can run where nothing is installed yet.
"""

import importlib.util
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEVER_TOUCHED = ("torch", "numpy")  # reinstalling either under a live kernel breaks it


class NotReady(RuntimeError):
    """The notebook cannot go on here; the message says what to do."""


def pins() -> dict[str, str]:
    """The packages that the library imports, with the versions that CI ran, from pyproject.toml."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf8"))["project"]
    return dict(requirement.split("==") for requirement in project["dependencies"])


def missing() -> list[str]:
    """Requirements ("peft==0.21.2") that are not installed, torch and numpy included."""
    return [f"{name}=={pin}" for name, pin in pins().items() if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def prepare() -> None:
    """Make sure that the lesson's packages are here. On Colab what is missing is installed; elsewhere it is named.

    Raises NotReady with what to do: for a missing torch or numpy, for a package that cannot be installed here, and
    for Colab's old torchao, which stops PEFT.
    """
    lacking = missing()
    core = [name for name in lacking if name.startswith(NEVER_TOUCHED)]
    if core or (lacking and not _on_colab()):
        raise NotReady(
            f"not installed here: {', '.join(lacking)}. In the course's folder run `make setup` (or "
            "`conda env create -f environment.yml`), choose that environment's kernel and run this cell again"
        )
    if lacking:
        # --no-deps: nothing that Colab brought along, torch and numpy first of all, may be replaced.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *lacking]
        if subprocess.run(command).returncode:
            raise NotReady(f"could not install {', '.join(lacking)}: check the network and run this cell again")
        importlib.invalidate_caches()
    _refuse_old_torchao()


def _on_colab() -> bool:
    return "google.colab" in sys.modules


def _refuse_old_torchao() -> None:
    if not _installed("torchao"):
        return
    major, minor = (int(part) for part in version("torchao").split(".")[:2])
    if (major, minor) < (0, 16):
        raise NotReady(
            f"torchao {version('torchao')} stops PEFT from importing: run `%pip uninstall -y torchao`, restart the "
            "kernel (Runtime > Restart session) and run this cell again"
        )
