"""A training run kept on its way, so that a kernel's death costs a few seconds of it and not all.

What is kept goes by a hash of configuration, data and code: a run under any other is not taken up. It lies in a
directory of the person's own, is one process's at a time, and where it cannot be kept the training goes on without.
"""

import contextlib
import functools
import glob
import hashlib
import inspect
import json
import math
import os
import re
import sys
import time
import types
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import distributed

from lessonlib.display import ASIDE, Bar, remove, written_aside

# What nobody takes up again is cleared when another run is begun: the oldest of a name, and whatever has lain so long.
OTHERS_OF_A_NAME, DAYS = 2, 14
OWN = "LESSONLIB_WORK to a directory of your own with some room"
# Classes of these go by their names: they patch their own code while they run.
INSTALLED = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}


def first_process() -> bool:
    """Whether files are this process's to write: of several that train one model together, the first one's alone."""
    return not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank() == 0


def work_directory() -> Path:
    """Where a person's unfinished work is kept, never shared: $LESSONLIB_WORK, else the user's own state directory.

    Raises NotADirectoryError where neither is known.
    """
    if own := os.environ.get("LESSONLIB_WORK"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "lessonlib"
    except RuntimeError as cause:  # no HOME, and a user that the system does not know
        raise NotADirectoryError("there is no home directory") from cause


def take_up(name: str | None, steps, history) -> "Checkpoint | None":
    """Go on where an unfinished run of this name stood, if it is the same run: `Steps` and their `History` are filled.

    Returns what keeps the run from now on; None where nothing is kept: without a name, under CI, and where it says why,
    as beside another process with the same run. Of several processes that train one model together all take up what
    was kept, and the first alone keeps more.
    """
    if not name or os.environ.get("CI"):
        return None
    try:
        checkpoint = Checkpoint(f"{name}-{_key(steps)}")
    except NotADirectoryError as cause:
        Bar.write(f"This run is not kept on its way ({cause}): set {OWN}")
        return None
    if not _as_the_first_says(first_process() and checkpoint.claim()):
        return None
    try:
        checkpoint.load_into(steps, history)
    except (OSError, SafetensorError, DamagedCheckpoint) as cause:  # found before anything was changed
        Bar.write(f"{checkpoint.path} is damaged ({cause}): training begins anew")
    except BaseException:
        checkpoint.release()
        raise
    if not first_process():
        return None
    with contextlib.suppress(OSError):
        clear_abandoned(name, checkpoint)
    return checkpoint


class DamagedCheckpoint(ValueError):
    """A file in a checkpoint's place is not, or not any more, what `Checkpoint.save` wrote there."""


def _as_the_first_says(taken: bool) -> bool:
    """The first process's answer, in all that train one model together."""
    if distributed.is_available() and distributed.is_initialized():
        answer = [taken]
        distributed.broadcast_object_list(answer)
        return answer[0]
    return taken


class Checkpoint:
    """A run on its way, in one safetensors file: parameters, optimizer state, and the history as metadata.

    The file is replaced in one step, so a kernel that dies at any moment leaves the last whole one behind.
    """

    def __init__(self, name: str):
        self.path = work_directory() / "unfinished" / f"{name}.safetensors"
        self.saved, self.took = time.perf_counter(), 0.0
        self.lock = FileLock(work_directory() / "running" / f"{name}.lock")

    def claim(self) -> bool:
        """Whether the run is this process's to keep, until `release`: another one may be at it, or no file be written."""
        try:
            for directory in (self.path.parent, Path(self.lock.lock_file).parent):
                directory.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
        except Timeout:
            Bar.write(f"Another process trains {self.path.stem}: here it is not kept on its way.")
            return False
        except (OSError, NotImplementedError) as cause:
            Bar.write(f"This run is not kept on its way ({cause}): set {OWN}")
            return False
        return True

    def release(self) -> None:
        """Let the next call take it up, in this process or another."""
        self.lock.release()

    def load_into(self, steps, history) -> None:
        """Go on where it stood, if it is there. Raises DamagedCheckpoint, OSError or SafetensorError, with `Steps` as they
        were, where the file is not what `save` wrote."""
        if not self.path.exists():
            return
        parameters, device = steps.parameters, steps.device
        tensors = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            about = file.metadata() or {}
        if about.get("checksum") != _checksum(tensors, about.get("history", "")):
            raise DamagedCheckpoint("its content is not what was written")
        before = json.loads(about["history"])
        torch.set_rng_state(tensors.pop("random"))  # of dropout
        random_there = tensors.pop("random.device", None)
        if device.type != "cpu" and random_there is not None:  # there is none in a checkpoint of the CPU
            torch.get_device_module(device).set_rng_state(random_there, device)
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.copy_(tensors.pop(f"parameter.{i}"))
        state = {i: {} for i in range(len(parameters))}
        for name, value in (tensors | before["numbers"]).items():
            i, *within, what = name.removeprefix("state.").split(".")
            place = functools.reduce(lambda inner, key: inner.setdefault(key, {}), within, state[int(i)])
            place[what] = value
        groups = steps.optimizer.state_dict()["param_groups"]
        steps.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if steps.scaler.is_enabled():
            steps.scaler.load_state_dict(before["scaler"])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*optimizer.step.*")  # its steps were taken before
            for _ in before["losses"][before["skipped"] :]:
                steps.schedule.step()
        steps.losses += before["losses"]
        steps.skipped = before["skipped"]
        history.seconds = before["seconds"]
        history.resumed_at = len(history.losses)

    def save_when_due(self, steps, history) -> None:
        """`save`, where more than `training.CHECKPOINT_SECONDS` have passed since the last time.

        On a slow disk they are more, so that writing takes at most a sixth of the time. Where it fails, that is said
        once, and the training goes on without.
        """
        pace = sys.modules[__package__].CHECKPOINT_SECONDS  # whoever sets the pace sets it on the package
        began = time.perf_counter()
        if began - self.saved > pace * (1 + self.took):
            try:
                self.save(steps, history)
                self.saved = time.perf_counter()
                self.took = self.saved - began
            except (OSError, SafetensorError, ValueError, RuntimeError) as cause:
                self.saved = math.inf
                Bar.write(f"This run is not kept any further ({cause}): free some disk, or set {OWN}")

    def save(self, steps, history) -> None:
        tensors = {f"parameter.{i}": p.detach().contiguous() for i, p in enumerate(steps.parameters)}
        tensors["random"] = torch.get_rng_state()
        if steps.device.type != "cpu":
            tensors["random.device"] = torch.get_device_module(steps.device).get_rng_state(steps.device)
        state = dict(_leaves(steps.optimizer.state_dict()["state"], "state"))
        tensors |= {name: value for name, value in state.items() if torch.is_tensor(value)}
        before = {"losses": history.losses, "seconds": history.seconds, "skipped": steps.skipped}
        before["scaler"] = steps.scaler.state_dict()
        before["numbers"] = {name: value for name, value in state.items() if name not in tensors}
        tensors, about = {name: value.cpu() for name, value in tensors.items()}, json.dumps(before)
        with written_aside(self.path) as aside:
            save_file(tensors, aside, metadata={"history": about, "checksum": _checksum(tensors, about)})

    def files(self) -> list[Path]:
        """What lies there of it: the whole one, and what a kill in the midst of writing has left."""
        return [
            path for path in self.path.parent.glob(f"{glob.escape(self.path.stem)}.*") if _run(path) == self.path.stem
        ]

    def remove(self) -> None:
        for file in [*self.files(), Path(self.lock.lock_file)]:
            remove(file)


class Unfinished(NamedTuple):
    """A run that was not trained to its end: its name with the hash, the bytes of its files, the seconds since the last
    of them was written, and whether a living process is at it."""

    name: str
    bytes: int
    seconds: float
    running: bool

    def __str__(self):
        age = f"{self.seconds / 86400:.0f} days" if self.seconds > 2 * 86400 else f"{self.seconds / 3600:.1f} hours"
        return f"{self.name}: {self.bytes / 1e6:.1f} MB, {age} old{', a process is at it' if self.running else ''}"


def unfinished() -> list[Unfinished]:
    """What lies in `work_directory()` of runs that were not trained to their end, the newest first.

    Raises OSError where it cannot be read.
    """
    found = defaultdict(list)
    for path in (work_directory() / "unfinished").glob("*.*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            found[_run(path)].append(path.stat())
    ages = {name: max(0.0, time.time() - max(s.st_mtime for s in files)) for name, files in found.items()}
    runs = [Unfinished(n, sum(s.st_size for s in found[n]), ages[n], _running(Checkpoint(n))) for n in found]
    return sorted(runs, key=lambda run: run.seconds)


def clear(runs: Iterable[Unfinished]) -> list[Unfinished]:
    """Remove these, but for those that a living process is at; returns what was removed."""
    removed = []
    for run in runs:
        abandoned = Checkpoint(run.name)
        with contextlib.suppress(OSError, NotImplementedError), _held(abandoned):
            abandoned.remove()
            removed += [] if abandoned.files() else [run]
    return removed


@contextlib.contextmanager
def _held(checkpoint: Checkpoint) -> Iterator[None]:
    """The run's lock. Raises Timeout, an OSError, where another process has it."""
    Path(checkpoint.lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.lock.acquire(timeout=0):
        yield


def _running(checkpoint: Checkpoint) -> bool:
    if not Path(checkpoint.lock.lock_file).exists():
        return False
    try:
        with _held(checkpoint):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # where nobody can lock, nobody keeps a run
        return False


def clear_abandoned(name: str, current: Checkpoint) -> None:
    """Remove what nobody took up, and say so: all but the two newest other runs of this name, and any older than 14 days.

    What another process is training is left alone.
    """
    others = [run for run in unfinished() if run.name != current.path.stem]
    same = [run for run in others if re.fullmatch(re.escape(name) + "-[0-9a-f]{16}", run.name)]
    old = [run for run in others if run.seconds > DAYS * 24 * 3600]
    if removed := clear({*same[OTHERS_OF_A_NAME:], *old}):
        Bar.write(f"Removed from {current.path.parent}: unfinished runs that nobody took up, {len(removed)} of them")


def _run(path: Path) -> str:
    """The run that a file belongs to: NAME-HASH.safetensors, or that with more behind it while it is written."""
    return re.sub(rf"\.safetensors(\.[^.]*{ASIDE})?$", "", path.name).removesuffix(ASIDE)


def _leaves(value, name: str) -> Iterator[tuple[str, object]]:
    """(name, value) of all that dictionaries hold, however deep: bitsandbytes keeps whole numbers and nests."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}")


def _checksum(tensors: dict[str, torch.Tensor], history: str) -> str:
    """Of all that a checkpoint holds. Against disks that lose something, not against people: those could write it anew."""
    total = zlib.crc32(history.encode())
    for name in sorted(tensors):
        about = (name, tuple(tensors[name].shape), str(tensors[name].dtype))
        total = zlib.crc32(_view(tensors[name]), zlib.crc32(repr(about).encode(), total))
    return f"{total:08x}"


# --- which run it is --------------------------------------------------------------------------------------------------


def _key(steps) -> str:
    """A hash of settings, data and code: the modules' classes and numbers, what trains, and a sample of the rest."""
    model, (loss, optimizer, *numbers) = steps.model, steps.settings
    # The optimizer's kind too: the paged one of a GPU keeps another state than its stand-in on a CPU.
    about = (numbers, len(steps.batches), _code(loss), _code(optimizer), type(steps.optimizer).__name__)
    digest = hashlib.sha256(repr(about).encode())
    for batch in steps.batches:
        digest.update(b"".join(_bytes(t) for t in vars(batch).values() if isinstance(t, torch.Tensor)))
    code = {cls: _code(cls) for cls in {type(module) for module in model.modules()}}
    for name, module in model.named_modules():
        numbers = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str)}
        digest.update(repr((name, code[type(module)], sorted(numbers.items()))).encode())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            digest.update(repr((name, parameter.shape, parameter.dtype)).encode() + _bytes(parameter))
        else:  # another base model would show in the first values of every matrix
            digest.update(repr((name, parameter.shape)).encode() + _bytes(parameter.flatten()[:64]))
    return digest.hexdigest()[:16]


def _bytes(tensor: torch.Tensor) -> bytes:
    return _view(tensor).tobytes()


def _view(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _code(thing) -> str:
    """What a function or class does, as text that another process would give as well."""
    if isinstance(thing, functools.partial):
        return _text((_code(thing.func), thing.args, thing.keywords))
    if isinstance(thing, type):
        own = [cls for cls in thing.__mro__ if cls.__module__.partition(".")[0] not in INSTALLED]
        bodies = [_code(f) for cls in own for f in vars(cls).values() if inspect.isfunction(f)]
        return _text((f"{thing.__module__}.{thing.__qualname__}", bodies))
    function = inspect.unwrap(thing)
    if not hasattr(function, "__code__"):
        return _code(type(thing))
    return _text((_bytecode(function.__code__), function.__defaults__, function.__kwdefaults__))


def _bytecode(constant):
    if isinstance(constant, types.CodeType):  # functions inside a function are its constants
        return constant.co_code, constant.co_names, [_bytecode(inner) for inner in constant.co_consts]
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


def _text(value) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
