"""What this machine is: device, arithmetic, threads, memory. Probed, not guessed."""

import contextlib
import ctypes
import functools
import gc
import os
import sys
import time
from collections.abc import Iterator

import psutil
import torch
from torch.nn import functional as F


def device() -> torch.device:
    """The GPU if there is one that torch can use, else the CPU. LESSONLIB_DEVICE=cpu leaves a GPU alone."""
    on_gpu = os.environ.get("LESSONLIB_DEVICE") != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def threads() -> int:
    """CPU threads that torch uses."""
    return torch.get_num_threads()


@functools.cache
def bfloat16_speed() -> float:
    """Time of a float32 linear layer over that of a bfloat16 one, on this CPU (2 means bfloat16 is twice as fast).

    Processors with AMX or AVX512-BF16 multiply bfloat16 several times faster than float32; older ones emulate it
    and are slower. The layer has the shape of the base model's MLP, x (512, 576) -> (512, 1536). On one thread: beside
    another process, two would wait for each other longer than either kind of product takes, and look alike.
    """

    def seconds(dtype):
        x, W = torch.randn(512, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
        best = float("inf")
        for _ in range(12):
            start = time.perf_counter()
            F.linear(x, W)
            best = min(best, time.perf_counter() - start)
        return best

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return seconds(torch.float32) / seconds(torch.bfloat16)
    finally:
        torch.set_num_threads(before)


def dtype(on: torch.device | None = None) -> torch.dtype:
    """The arithmetic for the frozen weights here.

    LESSONLIB_DTYPE (float32, bfloat16, float16) overrules the probe. GPUs without bfloat16 hardware (a T4) get
    float16, CPUs get bfloat16 where it is measurably faster than float32. Raises ValueError for another name in
    LESSONLIB_DTYPE.
    """
    forced = os.environ.get("LESSONLIB_DTYPE")
    if forced:
        if forced not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"LESSONLIB_DTYPE is {forced!r}; it may be float32, bfloat16 or float16")
        return getattr(torch, forced)
    if (on or device()).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if bfloat16_speed() > 1.2 else torch.float32


# What a container may hold, by version of control groups: where they lie, the file of the limit, that of what is used,
# and the line of memory.stat that says how much of it the kernel gives up at once: files that nobody reads any more.
CONTROL_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class NotEnoughMemory(MemoryError):
    """What was asked for would not fit; the message says what would."""


def memory_gb(on: torch.device | None = None) -> float:
    """Free memory in GB (1e9 bytes): of the GPU, or of the machine (its container's limit included).

    A container is counted as Kubernetes' kubelet counts it: what is used without the files in memory that the kernel
    would give up at once. Of nested groups (a pod, its container) the tightest holds.
    """
    if (on or device()).type == "cuda":
        return torch.cuda.mem_get_info()[0] / 1e9
    return max(0, min([psutil.virtual_memory().available, *_free_in_containers()])) / 1e9


def _free_in_containers() -> Iterator[int]:
    """Bytes that each control group around this process still allows."""
    lines = [line.split(":", 2) for line in _text("/proc/self/cgroup").splitlines()]
    own = {kind: path for _, kinds, path in lines for kind in kinds.split(",")}  # "" is version 2's
    for (root, limit, used, idle), kind in zip(CONTROL_GROUPS, ("", "memory")):
        names = [name for name in own.get(kind, "").split("/") if name]
        for depth in range(len(names) + 1):
            folder = "/".join([root, *names[:depth]])
            bounds, taken = _text(f"{folder}/{limit}"), _text(f"{folder}/{used}")
            if not (bounds.isdigit() and taken.isdigit()):  # no such group here, or one without a limit ("max")
                continue
            counts = dict(line.split() for line in _text(f"{folder}/memory.stat").splitlines())
            yield int(bounds) - max(0, int(taken) - int(counts.get(idle, 0)))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf8", errors="replace") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def require_memory(needed_gb: float, what: str, on: torch.device | None = None) -> float:
    """Free memory in GB. Raises NotEnoughMemory, in one line with the cure, where it is less than `what` needs."""
    if (free := memory_gb(on)) < needed_gb:
        raise NotEnoughMemory(
            f"{what} needs {needed_gb:.3g} GB and {free:.1f} GB are free: shut other kernels down (JupyterLab: Kernel > "
            "Shut Down All Kernels; Colab: Runtime > Manage sessions), close other programs, or open the notebook on a "
            "machine with more memory"
        )
    return free


def release_memory() -> None:
    """Give back to the system what nobody holds any more.

    Models are full of references in circles, which Python frees late, and Linux's allocator keeps freed pages for
    itself. A notebook that loads one model after another would hold several times what it needs.
    """
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory_gb(on: torch.device | None = None) -> float:
    """The most memory this process has held so far, in GB: on the GPU, or resident in RAM."""
    if (on or device()).type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 1e9


def processor() -> str:
    """The processor's name, as the system gives it."""
    import platform
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
