"""Are the bytes of a training step those that were predicted?

One real step of the base model for each of two methods, two number formats, with and without recomputation: the bytes
that `costs` predicts beside those that are counted. Weights, gradients and optimizer states must be equal, activations
within 15 %.
"""

import sys

import torch

from lessonlib.costs import (
    FLOAT32,
    PURE_BFLOAT16,
    FullFineTuning,
    LoRA,
    activations,
    architecture,
    training_memory,
)
from lessonlib.evaluation import step_bytes
from lessonlib.lora import add_lora
from lessonlib.models import load_base

SIZE = {"batch": 4, "tokens": 128}
EXACT = {"weights": "weights", "gradients": "gradients", "optimizer states": "optimizer"}


def measured(dtype, method, recompute):
    model, _ = load_base(dtype=dtype)
    if isinstance(method, LoRA):
        add_lora(model, {linear.name for linear in method.chosen(architecture(model.config))}, r=method.r)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.config, step_bytes(model, torch.randint(0, 49_000, (SIZE["batch"], SIZE["tokens"])))


def main() -> int:
    wrong = 0
    for dtype, precision in ((torch.float32, FLOAT32), (torch.bfloat16, PURE_BFLOAT16)):
        for method in (FullFineTuning(), LoRA(8)):
            for recompute in (False, True):
                config, held = measured(dtype, method, recompute)
                plan = training_memory(config, method, precision=precision, recompute=recompute, **SIZE)
                equal = all(held[part] == getattr(plan, name) for part, name in EXACT.items())
                kept = activations(
                    architecture(config), method, element=precision.weight, recompute=recompute, **SIZE
                ).held
                ratio = kept / held["activations"]
                wrong += not equal or abs(ratio - 1) > 0.15
                print(
                    f"{method!s:18} {precision.name:20} {'recomputed' if recompute else '':11} "
                    f"weights, gradients, states {'equal' if equal else 'DIFFER'}; activations "
                    f"{kept / 1e6:6.1f} MB predicted, {held['activations'] / 1e6:6.1f} MB counted, ratio {ratio:.3f}"
                )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
