"""The one training loop: any model whose trainable parameters are marked, on CPU and GPU."""

import functools
import hashlib
import inspect
import json
import math
import os
import re
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import distributed, nn

from lessonlib.display import Bar

from .labels import label_loss

CHECKPOINT_SECONDS = 5.0
# Classes of these go by their names: they patch their own code while they run.
INSTALLED = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}


@dataclass
class History:
    """What a training run did: the loss of each step, and the seconds that all of them took."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    learning_rate: float = 0.0
    trainable: int = 0
    resumed_at: int = 0

    def results(self) -> dict:
        """What a recorded run keeps of it."""
        losses = [round(loss, 4) for loss in self.losses]
        return {"trainable": self.trainable, "training_seconds": self.seconds, "losses": losses}

    def __repr__(self):
        last = self.losses[-10:]
        resumed = f" (resumed at step {self.resumed_at})" if self.resumed_at else ""
        return (
            f"{len(self.losses)} steps{resumed} in {self.seconds:.0f} s, {self.trainable:,} trainable parameters, "
            f"mean loss of the last {len(last)}: {sum(last) / max(len(last), 1):.2f}"
        )


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer would move."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def first_process() -> bool:
    """Whether files are this process's to write: of several that train one model together, the first one's alone."""
    return not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank() == 0


def fit(
    model: nn.Module,
    batches: Sequence,
    *,
    learning_rate: float,
    loss: Callable = label_loss,
    optimizer: Callable = torch.optim.AdamW,
    warmup: int = 5,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    resume: str | None = None,
) -> History:
    """Train on each batch once, with a linear warm-up and a linear decay of the learning rate.

    batches: one a step, each with `.to(device)`. loss(model, batch) gives a scalar. clip: the gradient's largest norm.
    resume: a name under which the run is kept while it goes on, so that after a kernel's death the same call takes it
        up where it stood; under another configuration, other data or other code nothing is taken up. Off under CI.

    Raises ValueError where nothing is trainable, FloatingPointError where the loss is not finite.
    """
    steps = Steps(
        model,
        batches,
        learning_rate=learning_rate,
        loss=loss,
        optimizer=optimizer,
        warmup=warmup,
        clip=clip,
        weight_decay=weight_decay,
    )
    trainable = sum(p.numel() for p in steps.parameters)
    history = History(steps.losses, learning_rate=learning_rate, trainable=trainable)
    kept = None
    if resume and not os.environ.get("CI"):
        kept = _Checkpoint(
            resume, _key(model, batches, loss, optimizer, learning_rate, warmup, clip, weight_decay)
        )
        kept.load_into(steps, history)
        if not first_process():  # all take up what was kept, and the first alone keeps more
            kept = None
    began, saved = time.perf_counter() - history.seconds, time.perf_counter()
    was_training = model.training
    model.train()
    bar = Bar(total=len(batches), initial=len(steps.losses), desc="Training")
    try:
        while not steps.done:
            loss_now = steps.step()
            history.seconds = time.perf_counter() - began
            bar.set_postfix_str(f" · loss {loss_now:.2f}", refresh=False)
            bar.update()
            if kept and time.perf_counter() - saved > CHECKPOINT_SECONDS:
                kept.save(steps, history)
                saved = time.perf_counter()
        bar.finish(f"Training done: {history}")
    finally:
        bar.close()
        model.train(was_training)
    if kept:
        kept.remove()
    return history


class Steps:
    """What `fit` does, one step at a time, so that it can be left and taken up again. Arguments and errors are `fit`'s.

    losses: of the steps taken so far. The model has to be in training mode.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence,
        *,
        learning_rate: float,
        loss: Callable = label_loss,
        optimizer: Callable = torch.optim.AdamW,
        warmup: int = 5,
        clip: float = 1.0,
        weight_decay: float = 0.0,
    ):
        self.model, self.batches, self.loss, self.clip, self.losses = model, batches, loss, clip, []
        self.parameters = trainable_parameters(model)
        if not self.parameters:
            raise ValueError(
                "no parameter is trainable: add an adapter first, or call requires_grad_(True) on some"
            )
        self.device = self.parameters[0].device
        settings = {"weight_decay": weight_decay} if weight_decay or optimizer is torch.optim.AdamW else {}
        self.engine = optimizer(self.parameters, lr=learning_rate, **settings)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.engine, lambda step: _warm_up_then_decay(step, len(batches), warmup)
        )
        # float16 gradients underflow, so a GPU without bfloat16 scales the loss; elsewhere the scaler does nothing.
        half = next(model.parameters()).dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    @property
    def done(self) -> bool:
        return len(self.losses) == len(self.batches)

    def step(self) -> float:
        """One step, and its loss."""
        step = len(self.losses)
        value = self.loss(self.model, self.batches[step].to(self.device))
        self.losses.append(value.item())
        if not math.isfinite(self.losses[-1]):
            raise FloatingPointError(
                f"the loss of step {step} is {self.losses[-1]}: try a smaller learning_rate"
            )
        self.scaler.scale(value).backward()
        self.scaler.unscale_(self.engine)
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.engine)
        self.scaler.update()
        self.engine.zero_grad()
        self.schedule.step()
        return self.losses[-1]


def _warm_up_then_decay(step: int, steps: int, warmup: int) -> float:
    return min((step + 1) / (warmup + 1), (steps - step) / max(steps - warmup, 1))


def _key(model, batches, loss, optimizer, *settings) -> str:
    """A hash of configuration, data and code: the modules' classes and numbers, what trains, and a sample of the rest."""
    digest = hashlib.sha256(repr((settings, len(batches), _code(loss), _code(optimizer))).encode())
    for batch in batches:
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


class _Checkpoint:
    """A run on its way, in one safetensors file: parameters, optimizer state, and the history as metadata.

    The file is replaced in one step, so a kernel that dies at any moment leaves the last whole one behind.
    """

    def __init__(self, name: str, key: str):
        from lessonlib.models import cache_directory

        self.path = cache_directory() / "unfinished" / f"{name}-{key}.safetensors"
        self.partial = self.path.with_suffix(".partial")

    def load_into(self, steps: Steps, history: History) -> None:
        if not self.path.exists():
            return
        parameters, device = steps.parameters, steps.device
        tensors = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            said = json.loads(file.metadata()["history"])
        torch.set_rng_state(tensors.pop("random"))  # of dropout
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors.pop("random.cuda"), device)
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.copy_(tensors.pop(f"parameter.{i}"))
        state = {i: {} for i in range(len(parameters))}
        for name, tensor in tensors.items():
            _, i, what = name.split(".")
            state[int(i)][what] = tensor
        groups = steps.engine.state_dict()["param_groups"]
        steps.engine.load_state_dict({"state": state, "param_groups": groups})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*optimizer.step.*")  # its steps were taken before
            for _ in said["losses"]:
                steps.schedule.step()
        steps.losses += said["losses"]
        history.seconds = said["seconds"]
        history.resumed_at = len(history.losses)

    def save(self, steps: Steps, history: History) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"parameter.{i}": p.detach().contiguous() for i, p in enumerate(steps.parameters)}
        tensors["random"] = torch.get_rng_state()
        if steps.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(steps.device)
        for i, state in steps.engine.state_dict()["state"].items():
            tensors |= {f"state.{i}.{what}": value for what, value in state.items()}
        said = json.dumps({"losses": history.losses, "seconds": history.seconds})
        save_file(tensors, self.partial, metadata={"history": said})
        self.partial.replace(self.path)

    def remove(self) -> None:
        for file in (self.path, self.partial):
            file.unlink(missing_ok=True)
