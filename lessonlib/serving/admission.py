"""May this adapter be served? Its name, its place and its files are checked before a server is asked to load it.

A server that loads adapters by path while it runs is told by a request which directory to read. So a name is a plain
word, a directory lies where adapters lie, and the files are what they should be. vLLM checks some of this itself; what
it does not check is the dangerous part: the matrices of an adapter for a narrower base fit into its buffers, and
would be served.
"""

import functools
import re
from pathlib import Path

import torch

from lessonlib.lora import PREFIX, LoRAError
from lessonlib.lora.settings import settings
from lessonlib.models.surgery import CONFIG, WEIGHTS, open_tensors, read_object, refuse_not_finite

BASE = "base"  # the name under which the base itself is served
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TENSOR = re.compile(re.escape(PREFIX) + r"(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
# What vLLM 0.32 cannot serve (vllm/lora/peft_helper.py), and what to do about it.
NOT_SERVED = {
    "use_dora": "merge it into the base and serve that",
    "lora_bias": "merge it into the base and serve that",
    "modules_to_save": "train without modules_to_save, or merge and serve that",
    "layer_replication": "merge it into the base and serve that",
    "alora_invocation_tokens": "train a plain LoRA",
}


class EngineError(RuntimeError):
    """The engine, or a request to it, failed; the message says why and what to do."""


def check_name(name: str) -> str:
    """The name, if an adapter may have it: letters, digits, `.`, `_` and `-`, at most 64, beginning with one of the
    first two; not the base's. Raises EngineError.

    >>> check_name("billing-v2")
    'billing-v2'
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise EngineError(
            f"{name!r} cannot be an adapter's name: take 1 to 64 letters, digits, '.', '_' or '-', the first of them a "
            "letter or a digit"
        )
    if name == BASE:
        raise EngineError(f"{name!r} is the base model's name here: give the adapter another one")
    return name


def check_directory(directory: str | Path, below: str | Path | None = None) -> Path:
    """The directory, absolute and without links in it.

    Raises EngineError where it is none, and where it or something in it does not lie `below`: a link inside of a
    directory leads outside as well as one to it.
    """
    resolved = Path(directory).resolve()
    if below is not None and not resolved.is_relative_to(root := Path(below).resolve()):
        raise EngineError(
            f"{directory} is {resolved}, which is not below {root}: adapters are served from there alone"
        )
    if not resolved.is_dir():
        raise EngineError(
            f"{directory} is no directory: give the one that save_lora or PEFT wrote, with {CONFIG} in it"
        )
    for path in sorted(resolved.rglob("*")) if below is not None else ():
        if not (place := path.resolve()).is_relative_to(root):
            raise EngineError(f"{path} is a link to {place}, which is not below {root}: put a copy of the file there")
    return resolved


def check_files(directory: Path, shapes: dict[str, tuple[int, int]], max_rank: int) -> None:
    """Raise EngineError unless the directory holds a LoRA adapter for the base of these shapes, of at most this rank.

    The configuration and the weights must be of one adapter: vLLM scales by the one what it takes from the other.

    shapes: (d_out, d_in) of each linear layer, by its path; `linear_shapes` gives them.
    """
    config = read_config(directory)
    refuse_config(config, directory, max_rank)
    ranks = {}
    missing = "{path} does not exist: an adapter's directory holds {path.name} (.bin files are not read)"
    damaged = "{path} is damaged ({cause}): save the adapter again"
    with open_tensors(directory / WEIGHTS, EngineError, missing, damaged) as file:
        for name in file.keys():
            _refuse_tensor(directory, name, file.get_tensor(name), shapes, ranks)
    if not ranks or any(len(sides) < 2 for sides in ranks.values()):
        lacking = next((path for path, sides in ranks.items() if len(sides) < 2), "everything")
        raise EngineError(f"{directory / WEIGHTS} is not whole, it lacks a matrix of {lacking}: save it again")
    for path, sides in ranks.items():
        if sides["A"] != sides["B"] or sides["A"] > max_rank:
            raise EngineError(
                f"{directory}: {path} has ranks {sides['A']} and {sides['B']}; expected two equal ones of at most "
                f"{max_rank}: start the engine with a larger max_lora_rank, or save the adapter again"
            )
    try:
        said = settings(config, directory / CONFIG)
        for path, sides in ranks.items():
            said.refuse_other_rank(path, sides["A"])
        said.refuse_other_targets(ranks, shapes, [path for path in shapes if path != "lm_head"])
    except LoRAError as cause:
        raise EngineError(str(cause)) from cause


def read_config(directory: Path) -> dict:
    """The adapter's configuration. Raises EngineError where it is missing or no JSON object."""
    path = directory / CONFIG
    for file in (path, directory / WEIGHTS):
        if file.exists() and not file.is_file():
            raise EngineError(f"{file} is no file: give the directory that save_lora or PEFT wrote")
    return read_object(
        path,
        EngineError,
        missing="{path.parent} has no {path.name}: give the directory that save_lora or PEFT wrote",
        damaged="{path} is not a JSON object ({cause}): save the adapter again",
    )


def refuse_config(config: dict, directory: Path, max_rank: int) -> None:
    """Raise EngineError for another kind of adapter than LoRA, a rank above the limit, and what vLLM cannot serve."""
    if (kind := config.get("peft_type")) != "LORA":
        raise EngineError(f"{directory} holds an adapter of the kind {kind}: only LORA can be served")
    for name, remedy in NOT_SERVED.items():
        if config.get(name):
            raise EngineError(f"{directory} sets {name} = {config[name]!r}, which vLLM cannot serve: {remedy}")
    if config.get("bias", "none") != "none":
        raise EngineError(f"{directory} sets bias = {config['bias']!r}, which vLLM cannot serve: train with 'none'")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and 1 <= rank <= max_rank for rank in ranks):
        raise EngineError(
            f"{directory} has the ranks {ranks}; expected whole numbers from 1 to {max_rank}: start the engine with a "
            "larger max_lora_rank, or train with a smaller r"
        )


def linear_shapes(model_directory: str | Path) -> dict[str, tuple[int, int]]:
    """Shape (d_out, d_in) of each linear layer of the model in this directory, by its path; no weight is read."""
    path = Path(model_directory).resolve()
    return _shapes(path, (path / "config.json").stat().st_mtime_ns)


@functools.cache
def _shapes(path: Path, modified: int) -> dict[str, tuple[int, int]]:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    linear = {p: m for p, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return {path: tuple(module.weight.shape) for path, module in linear.items()}


def _refuse_tensor(directory: Path, name: str, tensor: torch.Tensor, shapes: dict, ranks: dict) -> None:
    found = TENSOR.fullmatch(name)
    if not found:
        raise EngineError(
            f"{directory / WEIGHTS} holds {name}, which is no matrix of a LoRA: only LoRA can be served"
        )
    path, side = found["path"], found["side"]
    if path not in shapes:
        raise EngineError(f"{directory} changes {path}, which this model does not have: it is for another base")
    if tensor.ndim != 2:
        raise EngineError(
            f"{directory}: {name} has the shape {tuple(tensor.shape)}, expected a matrix: save it again"
        )
    width, rank = tensor.shape if side == "B" else tensor.shape[::-1]
    expected = shapes[path][0 if side == "B" else 1]
    if width != expected:
        raise EngineError(
            f"{directory}: {name} is {tuple(tensor.shape)}, for a width of {width}; this model's is {expected}: the "
            "adapter is for another base"
        )
    refuse_not_finite({f"{directory}: {name}": tensor}, EngineError, "the training diverged, train again")
    ranks.setdefault(path, {})[side] = rank
