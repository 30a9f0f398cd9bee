"""What every method shares that puts modules into a model and keeps them in files: targets, copies, refusals, readers.

Each method has an error class and words of its own; what is refused, and how a file is read, is one thing and stands
here. Only safetensors and JSON are read: neither can run code.
"""

import copy
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lessonlib.display import ASIDE, remove, synced

# PEFT's names of the two files of an adapter.
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

ASKED = (torch.float32, torch.bfloat16, torch.float16)  # the rest as float32: torch cannot ask each float8

# --- modules ---------------------------------------------------------------------------------------------------------


def find_targets(model: nn.Module, targets: Iterable[str]) -> tuple[list[tuple[str, nn.Module]], list[str]]:
    """(path, module) of each module whose attribute name or whole path is a target, and the targets that match none.

    Names are matched exactly, as PEFT's `target_modules` are.

    >>> find_targets(nn.ModuleDict({"q_proj": nn.ReLU(), "k_proj": nn.ReLU()}), ["q_proj", "q"])
    ([('q_proj', ReLU())], ['q'])
    """
    wanted, matched, found = set(targets), set(), []
    for path, module in model.named_modules():
        if names := {path, path.rpartition(".")[2]} & wanted:
            matched |= names
            found.append((path, module))
    return found, sorted(wanted - matched)


def shallow_copy(model: nn.Module) -> nn.Module:
    """The same modules anew, frozen, over the very same numbers: what is put into the copy does not show in the model,
    and no weight is copied."""
    # A deep copy that finds every tensor in its memo copies none of them.
    memo = {id(t): t for t in model.buffers()}
    for p in model.parameters():  # a parameter of a class of its own (4-bit) knows more than its numbers
        memo[id(p)] = nn.Parameter(p.detach(), requires_grad=False) if type(p) is nn.Parameter else p
    return copy.deepcopy(model, memo)


def refuse_not_finite(tensors: Mapping[str, torch.Tensor], error: type[Exception], cure: str) -> None:
    """Raise `error` by name for the first tensor that holds NaN or infinity; whole numbers and shapes alone pass.

    What is beyond float32 is infinity, too: all that is trained is kept in float32.

    >>> refuse_not_finite({"B": torch.tensor([1.0, torch.nan])}, ValueError, "train again")
    Traceback (most recent call last):
        ...
    ValueError: B holds NaN or infinity: train again
    """
    for name, tensor in tensors.items():
        if tensor.is_meta or not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor if tensor.dtype in ASKED else tensor.float()).all():
            raise error(f"{name} holds NaN or infinity: {cure}")


# --- files -----------------------------------------------------------------------------------------------------------

TOGETHER = ".files-"  # how a directory of files that belong together is called while they are written
FORGOTTEN = 3600  # seconds after which what is still aside was left by a killed process


@contextmanager
def written_together(directory: Path) -> Iterator[Path]:
    """A directory aside: the files that are written into it take their places in `directory` when the block ends.

    They are synced first and then renamed one right behind the other. Where the block fails, or the disk is full, what
    was there before stays as it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(f"{TOGETHER}*{ASIDE}"):
        if time.time() - left.stat().st_mtime > FORGOTTEN:
            remove(left)
    aside = Path(tempfile.mkdtemp(prefix=TOGETHER, suffix=ASIDE, dir=directory))
    try:
        yield aside
        files = [synced(file) for file in sorted(aside.iterdir())]
        for file in files:
            file.replace(directory / file.name)
    finally:
        remove(aside)


DAMAGED = "{path} is damaged ({cause}): save it again"


@contextmanager
def open_tensors(path: Path, error: type[Exception], missing: str, damaged: str = DAMAGED) -> Iterator:
    """An open safetensors file, of which one tensor after another can be taken: `keys()`, `get_tensor(name)`.

    missing, damaged: the sentence of the `error` that is raised where there is no such file, and where it cannot be
    read; in both, {path} and {cause} are filled in.
    """
    with _refused(path, error, missing, damaged, SafetensorError, OSError), safe_open(path, "pt") as file:
        yield file


def read_tensors(
    path: Path, error: type[Exception], missing: str, damaged: str = DAMAGED
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file by name, and the words that were saved beside them. Raises as `open_tensors`."""
    with open_tensors(path, error, missing, damaged) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def read_object(path: Path, error: type[Exception], missing: str, damaged: str = DAMAGED) -> dict:
    """The one JSON object in a file, such as PEFT's configuration. Raises as `open_tensors` does."""
    with _refused(path, error, missing, damaged, OSError, ValueError, TypeError):
        return dict(json.loads(path.read_text("utf8")))


@contextmanager
def _refused(path: Path, error: type[Exception], missing: str, damaged: str, *causes: type[Exception]):
    try:
        yield
    except FileNotFoundError as cause:
        raise error(missing.format(path=path, cause=cause)) from cause
    except causes as cause:
        raise error(damaged.format(path=path, cause=cause)) from cause
