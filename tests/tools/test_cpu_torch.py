"""torch's build for processors is fetched where it saves something, and nothing waits for an index that is silent."""

import functools
import http.server
import os
import subprocess
import sys
import threading
import time
import venv
import zipfile
from pathlib import Path

import pytest

from tools import cpu_torch

ROOT = Path(__file__).parents[2]
PIN = "2.13.0"


def wheel(folder: Path, version: str) -> None:
    """A wheel of a package called torch that holds nothing but its version, in an index's folder of that name."""
    place, information = folder / "torch", f"torch-{version}.dist-info"
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place / f"torch-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")


@pytest.fixture
def server(tmp_path):
    """An address on this machine that serves two indexes, `plain` as PyPI is and `cpu` as PyTorch's own is."""
    wheel(tmp_path / "plain", PIN)
    wheel(tmp_path / "cpu", f"{PIN}+cpu")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def pins(tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text(f"numpy==1\ntorch=={PIN}+cpu\ntqdm==2\n", "utf8")
    return path


@pytest.fixture
def asked(monkeypatch):
    """A Linux machine without a card and without torch, whose pip does nothing; the calls of pip, which find nothing."""
    calls = []

    def pip(*words, timeout=None):
        calls.append(words)
        return subprocess.CompletedProcess(words, 0, f"Available versions: {PIN}, 2.12.0", "")

    monkeypatch.setattr(cpu_torch.platform, "system", lambda: "Linux")
    monkeypatch.setattr(cpu_torch, "nvidia_card", lambda: False)
    monkeypatch.setattr(cpu_torch, "_is_installed", lambda: False)
    monkeypatch.setattr(cpu_torch, "_pip", pip)
    return calls


def test_without_a_card_torch_alone_comes_from_the_index_in_the_pinned_version(asked, server, pins):
    assert cpu_torch.install(pins, f"{server}/cpu/").startswith(f"No NVIDIA card here: torch {PIN}+cpu from")
    assert asked[1] == ("install", "--quiet", "--no-deps", "--index-url", f"{server}/cpu/", f"torch=={PIN}+cpu")


@pytest.mark.parametrize(
    ("where", "what", "answer"),
    [
        ("platform", "system", "Darwin"),
        (None, "nvidia_card", True),
        (None, "_is_installed", True),
    ],
)
def test_where_nothing_is_saved_nobody_is_asked(where, what, answer, asked, pins, monkeypatch):
    monkeypatch.setattr(getattr(cpu_torch, where) if where else cpu_torch, what, lambda: answer)
    monkeypatch.setattr(cpu_torch, "page", lambda address: pytest.fail("an index was asked"))
    assert cpu_torch.install(pins, "http://127.0.0.1:9") == "" and not asked


def test_no_index_is_no_index(asked, pins):
    assert cpu_torch.install(pins, "") == "" and not asked


def test_where_plain_pip_has_the_build_already_it_is_left_to_pip(asked, server, pins, monkeypatch):
    answer = subprocess.CompletedProcess((), 0, f"Available versions: {PIN}+cpu, {PIN}", "")
    monkeypatch.setattr(cpu_torch, "_pip", lambda *words, timeout=None: asked.append(words) or answer)
    assert cpu_torch.install(pins, f"{server}/cpu") == ""
    assert [words[0] for words in asked] == ["index"]


def test_an_index_that_refuses_or_has_no_such_torch_is_named_and_left_alone(asked, server, pins):
    assert "does not answer: pip takes the torch that it finds" in cpu_torch.install(pins, "http://127.0.0.1:9/cpu")
    assert f"has no torch {PIN}+cpu: pip takes" in cpu_torch.install(pins, f"{server}/plain")
    assert not asked


def test_an_index_that_is_silent_costs_seconds_only(asked, pins, monkeypatch):
    def silent(*_, **__):
        time.sleep(3)
        raise OSError

    monkeypatch.setattr(cpu_torch, "ANSWERS_WITHIN", 0.3)
    monkeypatch.setattr(cpu_torch.urllib.request, "urlopen", silent)
    began = time.perf_counter()
    assert "does not answer" in cpu_torch.install(pins, "http://127.0.0.1:9/cpu")
    assert time.perf_counter() - began < 2


def test_a_wheel_that_cannot_be_installed_is_said_and_stops_nothing(asked, server, pins, monkeypatch):
    failed = subprocess.CompletedProcess((), 1, "", "WARNING: x\nERROR: No matching distribution found\n")
    monkeypatch.setattr(cpu_torch, "_pip", lambda *words, timeout=None: failed)
    said = cpu_torch.install(pins, f"{server}/cpu")
    assert "could not be installed" in said and "(ERROR: No matching distribution found): pip takes" in said


def test_both_files_of_pins_name_a_torch():
    for name in ("constraints.txt", "constraints-serve.txt"):
        assert f"\ntorch=={PIN}" in (ROOT / name).read_text("utf8")


@pytest.mark.robust
@pytest.mark.skipif(sys.platform != "linux" or cpu_torch.nvidia_card(), reason="nothing is saved here")
def test_in_an_empty_environment_the_next_pip_finds_its_torch_there(server, pins, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    plain = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{server}/plain", "PATH": os.environ["PATH"]}
    run = functools.partial(subprocess.run, cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    said = run([python, "-m", "tools.cpu_torch", pins, f"{server}/cpu"])
    assert said.stdout.startswith("No NVIDIA card here") and said.stderr == ""
    run([python, "-m", "pip", "install", f"torch=={PIN}"])
    assert f"Version: {PIN}+cpu" in run([python, "-m", "pip", "show", "torch"]).stdout
