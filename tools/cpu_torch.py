"""torch's build for processors, for a Linux machine without an NVIDIA card: 0.2 GB to download in place of 2.7.

    python -m tools.cpu_torch CONSTRAINTS INDEX

installs it into the environment of this Python, in the version that the file of constraints pins, from PyTorch's index of
CPU wheels, so that the pip that follows finds its torch there. Where there is nothing to gain, or the index does not answer
within seconds, it leaves everything to that pip. On macOS and Windows the usual wheels hold no CUDA.

Only the standard library is used: this runs before anything is installed.
"""

import platform
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ANSWERS_WITHIN = 4.0  # seconds


def install(constraints: Path, index: str) -> str:
    """Install torch's CPU build where that saves something; what was done, or why not, in a line to print ("": nothing
    was called for)."""
    pin = re.search(r"^torch==([\w.]+)", constraints.read_text("utf8"), flags=re.M)[1]
    if not index or platform.system() != "Linux" or nvidia_card() or _is_installed():
        return ""
    wheels = page(f"{index.rstrip('/')}/torch/")
    if f"torch-{pin}+cpu-" not in wheels:
        what = f"has no torch {pin}+cpu" if wheels else "does not answer"
        return (
            f"{index} {what}: pip takes the torch that it finds, on most Linux machines the one with CUDA (2.7 GB)."
        )
    if f"{pin}+cpu" in _pip("index", "versions", "torch", timeout=60).stdout:
        return ""  # pip's own settings name a place that has it
    done = _pip("install", "--quiet", "--no-deps", "--index-url", index, f"torch=={pin}+cpu")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"torch {pin}+cpu could not be installed from {index} ({last}): pip takes the torch that it finds."
    return f"No NVIDIA card here: torch {pin}+cpu from {index}."


def nvidia_card() -> bool:
    """Whether there is an NVIDIA card that its driver knows of."""
    if next(Path("/proc/driver/nvidia/gpus").glob("*"), None):
        return True
    command = shutil.which("nvidia-smi")
    return bool(command) and subprocess.run([command, "-L"], capture_output=True).returncode == 0


def page(address: str) -> str:
    """What stands at an address, its links unquoted; "" where nothing came within `ANSWERS_WITHIN` seconds."""
    found = []

    def read():
        try:
            with urllib.request.urlopen(address, timeout=ANSWERS_WITHIN) as answer:
                found.append(urllib.parse.unquote(answer.read().decode("utf8", "replace")))
        except (OSError, ValueError):
            pass

    reader = threading.Thread(target=read, daemon=True)  # looking up a name knows no time-out of ours
    reader.start()
    reader.join(ANSWERS_WITHIN)
    return found[0] if found else ""


def _is_installed() -> bool:
    try:
        return bool(version("torch"))
    except PackageNotFoundError:
        return False


def _pip(*words: str, timeout: float | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "it took too long")


if __name__ == "__main__":
    if said := install(Path(sys.argv[1]), sys.argv[2]):
        print(said, flush=True)
