"""A training run kept on its way, so that a kernel's death costs a few seconds of it and not all.

What is kept goes by a hash of configuration, data and code: a run under any other is not taken up. It lies in a
directory of the person's own, is one process's at a time, and where it cannot be kept the training goes on without.
"""

import contextlib
import functools
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
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import distributed

from lessonlib.display import Bar

# What nobody takes up again is cleared when another run is begun: the oldest of a name, and whatever has lain so long.
OTHERS_OF_A_NAME, DAYS = 2, 14
OWN = "LESSONLIB_WORK to a directory of your own with some room"
# Classes of these go by their names: they patch their own code while they run.
INSTALLED = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}


def first_process() -> bool:
    """Whether files are this process's to write: of several that train one model together, the first one's alone."""
    return not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank() == 0


def work_directory() -> Path:
    """Where a person's unfinished work is kept, never shared: $LESSONLIB_WORK, else the user's own state directory."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return Path(os.environ.get("LESSONLIB_WORK") or state / "lessonlib")


def take_up(name: str | None, steps, history) -> "Checkpoint | None":
    """Go on where an unfinished run of this name stood, if it is the same run: `Steps` and their `History` are filled.

    Returns what keeps the run from now on; None where nothing is kept: without a name, under CI, and where it says why,
    as beside another process with the same run. Of several processes that train one model together all take up what
    was kept, and the first alone keeps more.
    """
    if not name or os.environ.get("CI"):
        return None
    checkpoint = Checkpoint(f"{name}-{_key(steps)}")
    if not _as_the_first_says(first_process() and checkpoint.claim()):
        return None
    try:
        checkpoint.load_into(steps, history)
    except (OSError, SafetensorError) as cause:  # found at opening it, before anything was changed
        Bar.write(f"{checkpoint.path} is damaged ({cause}): training begins anew")
    except BaseException:
        checkpoint.release()
        raise
    if not first_process():
        return None
    clear_abandoned(name, checkpoint)
    return checkpoint


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
        self.partial = self.path.with_suffix(".partial")
        self.saved = time.perf_counter()
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
        if not self.path.exists():
            return
        parameters, device = steps.parameters, steps.device
        tensors = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            before = json.loads(file.metadata()["history"])
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

        Where that fails, it is said once, and the training goes on without.
        """
        pace = sys.modules[__package__].CHECKPOINT_SECONDS  # whoever sets the pace sets it on the package
        if time.perf_counter() - self.saved > pace:
            try:
                self.save(steps, history)
                self.saved = time.perf_counter()
            except (OSError, SafetensorError, ValueError, RuntimeError) as cause:
                self.saved = math.inf
                with contextlib.suppress(OSError):
                    self.partial.unlink(missing_ok=True)
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
        save_file(tensors, self.partial, metadata={"history": json.dumps(before)})
        self.partial.replace(self.path)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            for file in (self.path, self.partial, Path(self.lock.lock_file)):
                file.unlink(missing_ok=True)


def clear_abandoned(name: str, current: Checkpoint) -> None:
    """Remove what nobody took up, and say so: all but the two newest other runs of this name, and any older than 14 days.

    What another process is training is left alone.
    """
    newest = defaultdict(float)
    for path in current.path.parent.glob("*.*"):  # whole ones, and what a kill at the first checkpoint has left
        newest[path.stem] = max(newest[path.stem], _modified(path))
    others = sorted(newest.keys() - {current.path.stem}, key=newest.get, reverse=True)
    same = [run for run in others if re.fullmatch(re.escape(name) + "-[0-9a-f]{16}", run)]
    old = [run for run in others if time.time() - newest[run] > DAYS * 24 * 3600]
    removed = 0
    for run in {*same[OTHERS_OF_A_NAME:], *old}:
        abandoned = Checkpoint(run)
        with contextlib.suppress(OSError), abandoned.lock.acquire(timeout=0):
            abandoned.remove()
            removed += 1
    if removed:
        Bar.write(f"Removed from {current.path.parent}: unfinished runs that nobody took up, {removed} of them")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just removed it
        return math.inf


def _leaves(value, name: str) -> Iterator[tuple[str, object]]:
    """(name, value) of all that dictionaries hold, however deep: bitsandbytes keeps whole numbers and nests."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}")


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
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
