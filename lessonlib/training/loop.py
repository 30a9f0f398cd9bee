"""The one training loop: any model whose trainable parameters are marked, on CPU and GPU."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from lessonlib.display import Bar

from .checkpoint import take_up
from .clock import clock
from .labels import label_loss


class Steps:
    """What `fit` does, one step at a time, so that it can be left and taken up again.

    model: in training mode, on the device on which it trains.
    batches: one a step, each with `.to(device)`. loss(model, batch) gives a scalar, or yields several whose sum is the
        loss, each followed by its backward pass (gradient accumulation). optimizer(parameters, lr=) builds what moves
        them. warmup: steps in which the learning rate rises. clip: the gradient's largest norm.
    losses: of the steps taken so far. skipped: how many of them moved nothing. parameters: those that train.

    Raises ValueError where nothing is trainable, and where float16 weights train under an optimizer without masters.
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
        self.model, self.batches, self.loss, self.clip, self.losses, self.skipped = model, batches, loss, clip, [], 0
        # A checkpoint is known by these.
        self.settings = loss, optimizer, learning_rate, warmup, clip, weight_decay
        self.learning_rate = learning_rate
        self.parameters = trainable_parameters(model)
        if not self.parameters:
            raise ValueError("no parameter is trainable: add an adapter first, or call requires_grad_(True) on some")
        self.device = self.parameters[0].device
        decay = {"weight_decay": weight_decay} if weight_decay or optimizer is torch.optim.AdamW else {}
        self.optimizer = optimizer(self.parameters, lr=learning_rate, **decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _warm_up_then_decay(step, len(batches), warmup)
        )
        # float16 gradients underflow, so a GPU without bfloat16 scales the loss; elsewhere the scaler does nothing.
        half = next(model.parameters()).dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.scaled_to_the_end = half and any(p.dtype == torch.float16 for p in self.parameters)
        if self.scaled_to_the_end and not getattr(self.optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                f"float16 weights cannot train under {type(self.optimizer).__name__}, which would round their steps away: "
                "give optimizer=MasterAdamW (lessonlib.training.master_weights), or load the model in float32"
            )

    def step(self) -> float:
        """One step, and its loss. Raises FloatingPointError, before any weight moves, where the loss is not finite.

        Scaled float16 gradients may overflow, at first above all: then the step moves nothing, the scale is halved, and
        the learning rate stays where it is.
        """
        step = len(self.losses)
        loss = self.loss(self.model, self.batches[step].to(self.device))
        self.losses.append(0.0)
        for part in loss if isinstance(loss, Iterator) else [loss]:
            self.losses[-1] += part.item()
            if not math.isfinite(self.losses[-1]):
                self.optimizer.zero_grad()  # what earlier parts left
                raise FloatingPointError(f"the loss of step {step} is {self.losses[-1]}: try a smaller learning_rate")
            self.scaler.scale(part).backward()
        scale = self.scaler.get_scale()
        if self.scaled_to_the_end:
            _clip_scaled(self.parameters, self.clip, scale)
        else:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.get_scale() < scale:
            self.skipped += 1
        else:
            self.schedule.step()
        return self.losses[-1]

    @property
    def done(self) -> bool:
        return len(self.losses) == len(self.batches)


def fit(model: nn.Module, batches: Sequence, *, resume: str | None = None, **settings) -> "History":
    """Train on each batch once, with a linear warm-up and a linear decay of the learning rate.

    learning_rate, loss, optimizer, warmup, clip, weight_decay: those of `Steps`.
    resume: a name under which the run is kept while it goes on, so that after a kernel's death the same call takes it
        up where it stood; under another configuration, other data or other code nothing is taken up. Off under CI.

    The model is left in the mode that it came in. Raises ValueError where nothing is trainable, FloatingPointError
    where the loss is not finite.
    """
    steps = Steps(model, batches, **settings)
    trainable = sum(p.numel() for p in steps.parameters)
    history = History(steps.losses, learning_rate=steps.learning_rate, trainable=trainable)
    checkpoint = take_up(resume, steps, history)
    began, was_training = clock() - history.seconds, model.training
    model.train()
    bar = Bar(total=len(batches), initial=len(steps.losses), desc="Training")
    try:
        while not steps.done:
            loss = steps.step()
            history.seconds, history.skipped = clock() - began, steps.skipped
            bar.set_postfix_str(f" · loss {loss:.2f}", refresh=False)
            bar.update()
            if checkpoint:
                checkpoint.save_when_due(steps, history)
        bar.finish(f"Training done: {history}")
        if checkpoint:
            checkpoint.remove()
    finally:
        bar.close()
        model.train(was_training)
        if checkpoint:
            checkpoint.release()
    return history


# The settings are written down once, in `Steps`; help and completion show them with `fit` as well.
fit.__signature__ = inspect.signature(fit).replace(
    parameters=[*inspect.signature(Steps).parameters.values(), inspect.signature(fit).parameters["resume"]]
)


@torch.no_grad()
def _clip_scaled(parameters: Sequence[nn.Parameter], clip: float, scale: float) -> None:
    """Clip gradients that stay `scale` times too large; their norm is taken in float32, where it does not overflow."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    factor = (clip / (torch.linalg.vector_norm(torch.stack(norms)) / scale + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def _warm_up_then_decay(step: int, steps: int, warmup: int) -> float:
    return min((step + 1) / (warmup + 1), (steps - step) / max(steps - warmup, 1))


@dataclass
class History:
    """What a training run did: the loss of each step, and the seconds that all of them took.

    skipped: steps that moved nothing, since their scaled float16 gradients overflowed.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    learning_rate: float = 0.0
    trainable: int = 0
    resumed_at: int = 0
    skipped: int = 0

    def results(self) -> dict:
        """What a recorded run keeps of it."""
        losses = [round(loss, 4) for loss in self.losses]
        return {"trainable": self.trainable, "training_seconds": self.seconds, "losses": losses}

    def __repr__(self):
        last = self.losses[-10:]
        resumed = f" (resumed at step {self.resumed_at})" if self.resumed_at else ""
        resumed += f" ({self.skipped} skipped: float16 overflowed)" if self.skipped else ""
        return (
            f"{len(self.losses)} steps{resumed} in {self.seconds:.0f} s, {self.trainable:,} trainable parameters, "
            f"mean loss of the last {len(last)}: {sum(last) / max(len(last), 1):.2f}"
        )


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer would move."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
