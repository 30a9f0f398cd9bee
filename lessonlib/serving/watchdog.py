"""Runs a command, and ends it with all that it has started as soon as the program that asked for it is gone.

    python watchdog.py COMMAND ...

A notebook's kernel can be killed at any moment, and a server that it started would go on for ever. So a small process
stands between them. Its standard input is a pipe whose other end the asking program holds: the operating system
closes that end however the program dies, SIGKILL included. The watchdog and all that it starts are one process group
of their own, which an interrupt of the kernel does not reach, and which is ended as one.

Nothing but the standard library is imported: this file is run by itself.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 10  # what a server gets to end by itself
LOOK_EVERY = 0.2  # seconds
PR_SET_PDEATHSIG = 1  # of prctl(2), Linux only


def die_with_parent() -> None:
    """Ask the kernel for a SIGKILL when the parent dies; where it has no such call the pipe alone must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def abandoned(asker: int) -> bool:
    """Whether the asking program closed the pipe or died (a copy of it that it forked may hold the pipe open)."""
    readable, _, _ = select.select([sys.stdin], [], [], LOOK_EVERY)
    return bool(readable and not os.read(sys.stdin.fileno(), 1)) or os.getppid() != asker


def end_all(child: subprocess.Popen) -> None:
    """SIGTERM to the whole group but for this process, then, after a while, SIGKILL to whoever is left and to it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)


def main(command: list[str]) -> None:
    asker = os.getppid()
    # A group of its own: the asking program's would be ended together with the child.
    if os.getpgrp() != os.getpid():
        os.setsid()
    # SIGKILL of this process, the last one that could happen, ends the server too.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    while child.poll() is None and not abandoned(asker):
        pass
    end_all(child)


if __name__ == "__main__":
    main(sys.argv[1:])
