"""The process of a vLLM server: found, started, waited for, and ended with everything that it has started.

It listens on the loopback only and writes a log of its own. Between it and us stands `watchdog`, so that it ends when
this program ends, however that happens.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from . import watchdog
from .admission import EngineError

HOST = "127.0.0.1"
KV_CACHE_GB = 1
LAUNCHER = Path(__file__).with_name("vllm_server.py")
# What the log says on the way.
STAGES = (
    "Initializing a V1 LLM engine",
    "Loading weights took",
    "KV cache size",
    "Application startup complete",
)


class EngineAbsent(EngineError):
    """There is no environment with vLLM in it here."""


def serving_python() -> Path | None:
    """The Python that has vLLM: LESSONLIB_SERVE_PYTHON, else that of the `.venv-serve` beside the library, or in the
    working directory or above it. None where there is none."""
    if given := os.environ.get("LESSONLIB_SERVE_PYTHON"):
        return Path(given) if Path(given).exists() else None
    above = [Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents]
    found = (directory / ".venv-serve" / "bin" / "python" for directory in above)
    return next((python for python in found if python.exists()), None)


def environment() -> dict[str, str]:
    """The server's environment: offline, on the loopback, and without what is set for this Python."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return (
        kept
        | {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_HOST_IP": HOST,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GB),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHDYNAMO_DISABLE": "1",  # two small functions would be compiled at their first call, which takes a compiler
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count()),
        }
    )


class Server:
    """One server process at a time, on a port that stays the same as long as it is free.

    room: a directory for its log. port: None takes a free one.
    """

    def __init__(self, room: Path, port: int | None = None):
        self.room, self.log = room, room / "server.log"
        self.port, self._asked, self._process = port, port, None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def alive(self) -> bool:
        """Whether the server runs and does not say that it is ill; one too busy to answer within seconds is alive."""
        if not self.running:
            return False
        try:
            return self._health() == 200
        except TimeoutError:
            return True
        except (OSError, HTTPException):
            return False

    def start(
        self, settings: dict, environment: dict[str, str], seconds: float, progress: Callable[[int], object]
    ) -> None:
        """Start vLLM with these settings (--name value) and wait until it answers, at most so many seconds.

        progress: is called with the number of STAGES that it has reached. Raises EngineAbsent, or EngineError with the
        end of its log; one that started and did not answer is left to `stop`.
        """
        python = serving_python()
        if python is None:
            raise EngineAbsent(
                "there is no environment with vLLM in it here: run `make serve-env` in the course's folder (about three "
                "minutes, 3.6 GB), or set LESSONLIB_SERVE_PYTHON to a Python that has vLLM"
            )
        self.port = self._free_port()
        # -P: what lies beside the file is not vLLM's to import.
        command = [python, "-P", LAUNCHER, "--enable-lora", "--enforce-eager"]
        for name, value in ({"host": HOST, "port": self.port} | settings).items():
            command += [f"--{name}", value]
        self._launch(list(map(str, command)), environment)
        self._wait(seconds, progress)

    def stop(self) -> None:
        """End the server and all its processes. Nothing happens where none runs."""
        if self._process is not None:
            _end(self._process)
        self._process = None

    def last_words(self, lines: int = 12) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.said().splitlines()[-lines:])

    def said(self) -> str:
        """The server's log."""
        return self.log.read_text("utf8", "replace") if self.log.exists() else ""

    # --- within ------------------------------------------------------------------------------------------------------

    def _launch(self, command: list[str], environment: dict[str, str]) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", watchdog.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.room,
                start_new_session=True,
            )
        weakref.finalize(self, _end, self._process)  # also when Python exits

    def _wait(self, seconds: float, progress: Callable[[int], object]) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            said = self.said()
            progress(sum(stage in said for stage in STAGES))
            if not self.running:
                raise EngineError(f"vLLM ended while it started; its last words:\n{self.last_words()}")
            with contextlib.suppress(OSError, HTTPException):
                if self._health() == 200:
                    return
            time.sleep(0.25)
        raise EngineError(
            f"vLLM was not ready within {seconds:.0f} s: give startup_seconds more, or free the processor. Its last "
            f"words:\n{self.last_words()}"
        )

    def _health(self) -> int:
        connection = HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        finally:
            connection.close()

    def _free_port(self) -> int:
        if self._asked is not None:
            return _bound(self._asked)
        with contextlib.suppress(EngineError):
            return _bound(self.port or 0)  # the one of the last start, if nobody has taken it
        return _bound(0)


def _bound(port: int) -> int:
    """The port, if it can be listened on; for 0 a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just left may be taken again
        try:
            probe.bind((HOST, port))
        except OSError as cause:
            raise EngineError(
                f"port {port} of {HOST} is in use ({cause}): leave `port` out, and a free one is taken"
            ) from cause
        return probe.getsockname()[1]


def _end(process: subprocess.Popen) -> None:
    """Close the pipe that the watchdog watches, wait for it to end everything, and do it ourselves if it cannot."""
    process.stdin.close()
    try:
        process.wait(watchdog.GRACE_SECONDS + 5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
