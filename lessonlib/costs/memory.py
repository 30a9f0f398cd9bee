"""Bytes that a training step holds: weights, gradients, optimizer states, activations."""

from dataclasses import dataclass

from .activations import activations
from .architecture import Architecture, architecture
from .methods import FullFineTuning, QLoRA

GB = 1e9  # as disks and cloud prices count; a GiB is 7 % more


@dataclass(frozen=True)
class Precision:
    """Bytes for each trained parameter: the weight, its gradient, Adam's two moments, a float32 master."""

    name: str
    weight: int
    gradient: int
    moments: int
    master: int = 0

    @property
    def bytes(self) -> int:
        """Bytes a trained parameter.

        >>> [p.bytes for p in (EIGHT_BIT_ADAM, PURE_BFLOAT16, MIXED, MASTER_WEIGHTS, FLOAT32)]
        [6, 8, 12, 16, 16]
        """
        return self.weight + self.gradient + self.moments + self.master


EIGHT_BIT_ADAM = Precision("bfloat16, 8-bit Adam", weight=2, gradient=2, moments=2)
PURE_BFLOAT16 = Precision("bfloat16 throughout", weight=2, gradient=2, moments=4)
MIXED = Precision("bfloat16, float32 moments", weight=2, gradient=2, moments=8)
MASTER_WEIGHTS = Precision("bfloat16, float32 moments and master weights", 2, 2, 8, master=4)
FLOAT32 = Precision("float32", weight=4, gradient=4, moments=8)
PRECISIONS = (EIGHT_BIT_ADAM, PURE_BFLOAT16, MIXED, MASTER_WEIGHTS, FLOAT32)

# NF4: 4 bits, an 8-bit scale for 64 weights, a float32 scale for 256 of those (Dettmers et al. 2023, section 3).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
ADAM_COUNTER = 4  # Adam keeps one float32 step count a tensor


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step, by component."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations

    def __repr__(self):
        parts = ", ".join(f"{name} {_readable(value)}" for name, value in vars(self).items())
        return f"{_readable(self.total)}: {parts}"


def _readable(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size / 1e3:.3g} kB"


def training_memory(
    config,
    method=None,
    *,
    precision: Precision = MIXED,
    batch: int = 1,
    tokens: int = 2048,
    recompute: bool = False,
    fused_attention: bool = False,
    scored: int | None = None,
) -> Memory:
    """Bytes that one training step with Adam holds.

    config: anything that `architecture` takes. method: FullFineTuning() if none is given. precision: of the model's
    weights, and of all that is kept for each trained one; what a method adds (A and B, prompts, adapters) is float32.
    Float32 masters are counted with the optimizer, which moves them (as Rajbhandari et al. 2020 do, section 3.1).
    batch, tokens: sequences a step, and tokens a sequence. recompute, fused_attention, scored: as for `activations`.

    Raises ValueError that names the value for a batch, tokens or scored below 1.

    >>> round(training_memory("llama2-7b").optimizer / 1e9, 1)
    53.9
    """
    for name, value in (
        ("batch", batch),
        ("tokens", tokens),
        ("scored", tokens if scored is None else scored),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
    model, method = architecture(config), method or FullFineTuning()
    kept = activations(
        model,
        method,
        element=precision.weight,
        batch=batch,
        tokens=tokens,
        recompute=recompute,
        fused_attention=fused_attention,
        scored=scored,
    )
    trainable = method.trainable(model)
    trained = precision if method.trains_everything else FLOAT32
    frozen = 0 if method.trains_everything else _frozen_bytes(model, method, precision)
    return Memory(
        weights=frozen + trainable * trained.weight,
        gradients=trainable * trained.gradient,
        optimizer=trainable * (trained.moments + trained.master) + ADAM_COUNTER * method.tensors(model),
        activations=kept.peak,
    )


def _frozen_bytes(model: Architecture, method, precision: Precision) -> float:
    if not isinstance(method, QLoRA):
        return model.parameters * precision.weight
    in_4_bits = sum(linear.d_in * linear.d_out for linear in model.linears)
    return in_4_bits * NF4_BYTES + (model.parameters - in_4_bits) * precision.weight


def checkpoint_bytes(config, method=None, *, precision: Precision = MIXED) -> float:
    """Bytes of what must be stored after training: the whole model, or what the method added.

    >>> round(checkpoint_bytes("gpt3-175b") / 1e9)
    349
    """
    model, method = architecture(config), method or FullFineTuning()
    return method.trainable(model) * (precision.weight if method.trains_everything else 2)
