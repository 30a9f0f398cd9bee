"""A training run kept on its way, so that a kernel's death costs a few seconds of it and not all.

What is kept goes by a hash of configuration, data and code: a run under any other is not taken up.
"""

import functools
import hashlib
import inspect
import json
import os
import re
import sys
import time
import types
import warnings
from collections.abc import Iterator

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import distributed

# Classes of these go by their names: they patch their own code while they run.
INSTALLED = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}


def first_process() -> bool:
    """Whether files are this process's to write: of several that train one model together, the first one's alone."""
    return not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank() == 0


def take_up(name: str | None, steps, history) -> "Checkpoint | None":
    """Go on where an unfinished run of this name stood, if it is the same run: `Steps` and their `History` are filled.

    Returns what keeps the run from now on; None where nothing is kept: without a name, and under CI. Of several
    processes all take up what was kept, and the first alone keeps more.
    """
    if not name or os.environ.get("CI"):
        return None
    checkpoint = Checkpoint(f"{name}-{_key(steps)}")
    checkpoint.load_into(steps, history)
    return checkpoint if first_process() else None


class Checkpoint:
    """A run on its way, in one safetensors file: parameters, optimizer state, and the history as metadata.

    The file is replaced in one step, so a kernel that dies at any moment leaves the last whole one behind.
    """

    def __init__(self, name: str):
        from lessonlib.models import cache_directory

        self.path = cache_directory() / "unfinished" / f"{name}.safetensors"
        self.partial = self.path.with_suffix(".partial")
        self.saved = time.perf_counter()

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
        """`save`, where more than `training.CHECKPOINT_SECONDS` have passed since the last time."""
        pace = sys.modules[__package__].CHECKPOINT_SECONDS  # whoever sets the pace sets it on the package
        if time.perf_counter() - self.saved > pace:
            self.save(steps, history)
            self.saved = time.perf_counter()

    def save(self, steps, history) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
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
        for file in (self.path, self.partial):
            file.unlink(missing_ok=True)


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
