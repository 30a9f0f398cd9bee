"""What fits a GPU, what does not, and the nearest plan that would."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .architecture import Architecture, architecture
from .memory import EIGHT_BIT_ADAM, MIXED, Memory, Precision, _readable, training_memory
from .methods import FullFineTuning, LoRA, QLoRA

# What a GPU cannot give to training: CUDA's own context, library workspaces, fragments between blocks.
RESERVE = 1.5e9


@dataclass(frozen=True)
class Plan:
    """One way to train: the method and everything else that costs memory."""

    method: object
    precision: Precision = MIXED
    batch: int = 1
    tokens: int = 2048
    recompute: bool = False
    fused_attention: bool = False

    def memory(self, model: Architecture) -> Memory:
        settings = vars(self).copy()
        return training_memory(model, settings.pop("method"), **settings)

    def __str__(self):
        parts = [str(self.method), self.precision.name, f"batch {self.batch} of {self.tokens} tokens"]
        parts += ["recomputation"] if self.recompute else []
        parts += ["fused attention"] if self.fused_attention else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Fit:
    """A plan held against a GPU.

    nearest: the first plan that fits, each a smaller change than the next; None where none does on one GPU.
    gpus: as many of these as the plan needs as it was asked, its states spread over all of them.
    """

    model: str
    gpu: str
    usable: float
    plan: Plan
    memory: Memory
    nearest: Plan | None
    nearest_memory: Memory | None
    gpus: int | None

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.usable

    def __bool__(self):
        return self.fits

    def __repr__(self):
        need = f"{self.plan} needs {_readable(self.memory.total)} of the {_readable(self.usable)} that {self.gpu} has"
        if self.fits:
            return f"fits: {need}"
        many = f"{self.gpus} of them would hold it" if self.gpus else "its activations alone are too large for one"
        near = (
            f"nearest that fits: {self.nearest}, {_readable(self.nearest_memory.total)}"
            if self.nearest
            else "no plan of ours fits one of them"
        )
        return f"does not fit: {need};\n{many}; {near}"


def fits(
    config,
    gpu: str | float,
    method=None,
    *,
    precision: Precision = MIXED,
    batch: int = 1,
    tokens: int = 2048,
    recompute: bool = False,
    fused_attention: bool = False,
) -> Fit:
    """Whether a plan fits a GPU; if not, the nearest plan that would, and how many GPUs the plan needs as it is.

    config: anything that `architecture` takes, the path of a `config.json` for one. gpu: a name in data/gpus.json
    ("T4"), or gigabytes. The rest is as for `training_memory`.

    Raises ArchitectureError, MethodError and ValueError that name the value, and KeyError for an unknown GPU.

    >>> bool(fits("llama2-7b", 24.0, QLoRA(r=16), recompute=True))
    True
    """
    model, name, usable = architecture(config), *_usable(gpu)
    plan = Plan(method or FullFineTuning(), precision, batch, tokens, recompute, fused_attention)
    memory = plan.memory(model)
    nearest = next((other for other in smaller(plan) if other.memory(model).total <= usable), None)
    return Fit(
        config if isinstance(config, str) else model.name,
        name,
        usable,
        plan,
        memory,
        nearest if memory.total > usable else plan,
        nearest.memory(model) if nearest and memory.total > usable else memory,
        _gpus(memory, usable),
    )


def smaller(plan: Plan) -> Iterator[Plan]:
    """Plans that need less, in the order of what they give up: first only time, then precision, then the method."""
    steps = [
        {"fused_attention": True},
        {"recompute": True},
        {"batch": 1},  # the gradients of several such steps are added up
    ]
    if plan.method == FullFineTuning():
        steps += [{"precision": EIGHT_BIT_ADAM}, {"method": LoRA(), "precision": MIXED}]
    if not isinstance(plan.method, QLoRA):
        rank = plan.method.r if isinstance(plan.method, LoRA) else LoRA().r
        steps += [{"method": QLoRA(rank)}]
    for change in steps:
        if (changed := replace(plan, **change)) != plan:
            plan = changed
            yield plan


def _gpus(memory: Memory, usable: float) -> int | None:
    """GPUs that hold the plan with weights, gradients and states cut in pieces (ZeRO 3); each keeps its activations."""
    room = usable - memory.activations
    return math.ceil((memory.total - memory.activations) / room) if room > 0 else None


def _usable(gpu: str | float) -> tuple[str, float]:
    if isinstance(gpu, str):
        from lessonlib.corpora.published import gpu as listed

        return gpu, listed(gpu)["memory_mib"] * 2**20 - RESERVE
    if not gpu * 1e9 > RESERVE:
        least = RESERVE / 1e9
        raise ValueError(f"gpu is {gpu!r}; expected a name in data/gpus.json, or gigabytes above {least:g}")
    return f"a GPU with {gpu:g} GB", gpu * 1e9 - RESERVE
