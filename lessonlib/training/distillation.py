"""Distillation: a small model learns a large one's answers, softened (Hinton, Vinyals, Dean, 2015, arXiv:1503.02531).

    loss = λ T² KL(p ‖ q) + (1 - λ) C(y, z)      p = softmax(v / T) the teacher's,  q = softmax(z / T) the student's

v are the teacher's logits, z the student's, C the cross-entropy of the right labels at temperature 1. A high T shows
what the teacher holds of the wrong answers. The gradient of the first term alone shrinks as 1 / T², so T² keeps the
balance of the two (the paper's section 2). The cross-entropy with soft targets that the paper writes differs from KL
by the teacher's entropy only, which has no gradient.

The student here is the teacher without most of its layers, as DistilBERT was made (Sanh et al., 2019,
arXiv:1910.01108, section 3).
"""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .labels import label_logits


class DistillationError(ValueError):
    """No student can be made of this model, or two models cannot be compared; the message says why."""


def soft_target_loss(z, v, T):
    """T² KL(p ‖ q) for logits z of the student and v of the teacher, both (..., classes): the mean over all places.

    The classes may be labels or a whole vocabulary. At z = v it is 0, at T = 1 a plain Kullback-Leibler divergence in nats.
    """
    log_p, log_q = (v / T).log_softmax(-1), (z / T).log_softmax(-1)
    return T**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def distillation_loss(student, batch, teacher, T=2.0, weight=0.9):
    """λ T² KL(p ‖ q) + (1 - λ) C(y, z) of a batch of label prompts; weight is λ, and 1 asks for no label at all.

    >>> from functools import partial
    >>> fit(student, batches, learning_rate=3e-4, loss=partial(distillation_loss, teacher=teacher))  # doctest: +SKIP
    """
    z = label_logits(student, batch).float()  # (N, C)
    with torch.no_grad():
        v = label_logits(teacher, batch).float()  # (N, C)
    return weight * soft_target_loss(z, v, T) + (1 - weight) * F.cross_entropy(z, batch.targets)


# --- the student -----------------------------------------------------------------------------------------------------


def evenly_spaced(layers: int, of: int) -> list[int]:
    """The numbers of so many layers, evenly spread from the first of a model's to its last.

    >>> evenly_spaced(4, of=10)
    [0, 3, 6, 9]
    """
    return [round(i * (of - 1) / max(layers - 1, 1)) for i in range(layers)]


def first_layers(layers: int, of: int) -> list[int]:
    """The numbers of a model's first layers, which were trained to follow each other.

    >>> first_layers(4, of=10)
    [0, 1, 2, 3]
    """
    return list(range(layers))


def with_fewer_layers(teacher: nn.Module, layers: int, choose: Callable = evenly_spaced) -> nn.Module:
    """A student: a copy of the teacher with so many of its layers. The teacher is left as it was.

    choose(layers, of=...): the numbers of the layers to keep, `evenly_spaced`, `first_layers` or a function of your own.

    What is left of the layers trains, with the last norm; embeddings and head are the teacher's and frozen. A merged
    LoRA (`merge_lora`) is copied as what it is, plain weights.

    Returns the student, in evaluation mode. Raises DistillationError for a number of layers that is not between 1 and
    the teacher's less one, for a model whose decoder has no list `layers`, and for LoRA layers that are not merged.
    """
    blocks = getattr(teacher.get_decoder(), "layers", None)
    if not isinstance(blocks, nn.ModuleList):
        kind = type(teacher).__name__
        raise DistillationError(f"{kind}: its decoder has no list of layers called `layers`, as Llama's kin have")
    if not 1 <= layers < len(blocks):
        raise DistillationError(
            f"{layers} layers of {len(blocks)}: a student needs at least 1, and fewer than its teacher"
        )
    kept = choose(layers, of=len(blocks))
    _refuse_unmerged(blocks)
    student = _copy_with(teacher, kept)
    for number, block in enumerate(student.get_decoder().layers):
        for module in block.modules():
            if hasattr(module, "layer_idx"):  # its place in the key-value cache
                module.layer_idx = number
    student.config.num_hidden_layers = layers
    if kinds := getattr(student.config, "layer_types", None):
        student.config.layer_types = [kinds[i] for i in kept]
    student.requires_grad_(False)
    student.get_decoder().layers.requires_grad_(True)
    student.get_decoder().norm.requires_grad_(True)
    return student.eval()


def _refuse_unmerged(blocks: nn.ModuleList) -> None:
    for path, module in blocks.named_modules():
        if hasattr(module, "base"):
            raise DistillationError(
                f"layers.{path} is a {type(module).__name__} around another layer: call merge_lora(teacher) first"
            )


def _copy_with(teacher: nn.Module, kept: list[int]) -> nn.Module:
    """A deep copy of the model with these layers alone; the others are not copied even for a moment."""
    # A deep copy takes what stands in its memo for the copy of a thing.
    left_out = [layer for i, layer in enumerate(teacher.get_decoder().layers) if i not in kept]
    # merge_lora keeps the LoRA layers aside, to unmerge: no part of the student.
    left_out += [vars(module)["unmerged"] for module in teacher.modules() if "unmerged" in vars(module)]
    student = copy.deepcopy(teacher, {id(module): nn.Identity() for module in left_out})
    decoder = student.get_decoder()
    decoder.layers = nn.ModuleList(decoder.layers[i] for i in kept)
    for module in student.modules():
        vars(module).pop("unmerged", None)
    return student
