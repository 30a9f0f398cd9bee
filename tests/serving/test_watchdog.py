"""Claims of lessonlib.serving.watchdog, on plain processes: nothing is left, however the asking program ends."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from lessonlib.serving import watchdog

pytestmark = pytest.mark.slow

# A server and a process that it has started; both say who they are and ignore a polite request to end.
SERVER = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(300)
"""
# A program that has such a server watched, as the engine does, and says which processes there are.
ASKER = """
import subprocess, sys, time
watchdog, server = sys.argv[1:]
process = subprocess.Popen([sys.executable, "-I", watchdog, sys.executable, "-c", server], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, text=True, start_new_session=True)
print(process.pid, process.stdout.readline(), flush=True)
time.sleep(300)
"""
SECONDS = 30


def started() -> tuple[subprocess.Popen, list[psutil.Process]]:
    """The asking program, and watchdog, server and the server's child."""
    command = [sys.executable, "-c", ASKER, watchdog.__file__, SERVER]
    asker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pids = list(map(int, asker.stdout.readline().split()))
    return asker, [psutil.Process(pid) for pid in pids]


def gone(processes) -> bool:
    until = time.monotonic() + SECONDS
    alive = processes
    while alive and time.monotonic() < until:
        alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.05)
    return not alive


@pytest.fixture
def processes():
    asker, others = started()
    yield asker, others
    asker.kill()
    asker.wait()
    for process in others:
        if process.is_running():
            process.kill()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_nothing_is_left_when_the_asking_program_is_killed(processes, end):
    asker, others = processes
    assert len(others) == 3 and all(process.is_running() for process in others)
    getattr(asker, end)()
    asker.wait()
    assert gone(others)


def test_the_server_ends_with_a_watchdog_that_is_killed_itself(processes):
    _, (the_watchdog, server, _) = processes
    the_watchdog.kill()
    assert gone([server])


def test_what_a_killed_server_leaves_behind_is_ended_too(processes):
    _, (the_watchdog, server, child) = processes
    server.kill()
    assert gone([the_watchdog, child])


def test_an_interrupt_of_the_asking_programs_group_does_not_reach_the_server(processes):
    asker, others = processes
    groups = {process.pid: os.getpgid(process.pid) for process in [asker, *others]}
    assert set(groups.values()) == {groups[asker.pid], others[0].pid}
    assert all(groups[process.pid] == others[0].pid for process in others)


CALLER = """
import subprocess, sys
command = [sys.executable, "-I", sys.argv[1], sys.executable, "-c", "print('done')"]
subprocess.Popen(command, stdin=subprocess.PIPE).wait()
print("still here")
"""


def test_run_by_itself_the_watchdog_leaves_its_callers_group_alone():
    command = [sys.executable, "-c", CALLER, watchdog.__file__]
    said = subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=SECONDS).stdout
    assert said == "done\nstill here\n"
