"""QLoRA beside LoRA on the real model: bytes, time of a step, and what merging into 4 bits does.

Three models with the same adapters, initial values and batches: the base in bfloat16; the base in NF4 by
bitsandbytes; the base in NF4 by the 4-bit layer of this library. Prints the counted bytes of each whole model with its
adapters (the target is 0.42 of the bfloat16 one's) beside those predicted, the bytes of a whole step, and the times of
steps in turns. Then trains the adapter of the NF4 model for a few steps and compares its answers unmerged, merged into
16 bits, and merged into 4 bits.

    python benchmarks/qlora_step.py [rounds] [training steps]
"""

import sys
from functools import partial

import torch
from _trainer import Trainer

from lessonlib import corpora
from lessonlib.costs import PURE_BFLOAT16, LoRA, QLoRA, training_memory
from lessonlib.evaluation import paired_times
from lessonlib.experiments.tickets import tickets_task
from lessonlib.lora import add_lora, lora_layers, merge_lora, unmerge_lora
from lessonlib.models import load_base
from lessonlib.quantization.linear import to_four_bits
from lessonlib.quantization.qlora import (
    QLoRALinear,
    load_four_bit,
    merge_into_four_bits,
    model_bytes,
    paged_adamw,
    update_lost,
)
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import label_logits, label_loss

TARGETS = ("q_proj", "v_proj")
TARGET_BYTES = 0.42


def loaded():
    """The three models, and the task."""
    seed_everything()
    dense, tokenizer = load_base(dtype=torch.bfloat16)
    models = {"LoRA": add_lora(dense, TARGETS, r=8)}
    for name, base in (
        ("QLoRA", load_four_bit(dtype=torch.bfloat16)[0]),
        ("QLoRA, our layer", to_four_bits(load_base(dtype=torch.bfloat16)[0])),
    ):
        models[name] = add_lora(base, TARGETS, r=8, layer=QLoRALinear)
        for (_, a), (_, b) in zip(lora_layers(models[name]), lora_layers(dense), strict=True):
            a.load_state_dict({"A": b.A, "B": b.B}, strict=False)
    return models, tickets_task(tokenizer)


def counted(trainer) -> tuple[int, int]:
    """Bytes of the model, and of a whole step: model, gradients, optimizer states, and what autograd keeps."""
    trainer.step()  # the optimizer has its states from the first step on
    held, saved = trainer.bytes()
    model = model_bytes(trainer.model)
    return model, model + held["gradients"] + held["optimizer states"] + saved


def compare_bytes(trainers) -> bool:
    config, good = trainers["LoRA"].model.config, True
    dense, dense_step = counted(trainers["LoRA"])
    for name, trainer in trainers.items():
        method = (LoRA if name == "LoRA" else QLoRA)(8, TARGETS)
        plan = training_memory(config, method, precision=PURE_BFLOAT16, batch=1, tokens=16).weights
        whole, step = counted(trainer)
        good &= abs(plan / whole - 1) < 0.1 and (name == "LoRA" or whole / dense <= TARGET_BYTES)
        print(
            f"{name}: model {whole / 1e6:.1f} MB ({plan / 1e6:.1f} predicted), {whole / dense:.3f} of LoRA's; "
            f"whole step {step / 1e6:.1f} MB, {step / dense_step:.3f} of LoRA's"
        )
    return good


@torch.no_grad()
def answers(model, batches):
    model.eval()
    return torch.cat([label_logits(model, batch).float().log_softmax(-1) for batch in batches])


def compare_merging(model, task, steps: int) -> None:
    rows, held = corpora.tickets("train"), corpora.tickets("validation")
    fit(
        model,
        task.training_batches(rows["text"], rows["intent"], steps=steps),
        learning_rate=1e-3,
        optimizer=paged_adamw,
    )
    lost = [update_lost(layer) for _, layer in lora_layers(model)]
    batches, _ = task.evaluation_batches(held["text"], held["intent"])
    before = answers(model, batches)
    print(f"merging into 4 bits: its error is {sum(lost) / len(lost):.2f} of the update's size, on average")
    for name, merge in (("16 bits", merge_lora), ("4 bits", merge_into_four_bits)):
        after = answers(merge(model), batches)
        unmerge_lora(model)
        divergence = (before.exp() * (before - after)).sum(-1).mean()
        print(
            f"merged into {name}: log-probabilities off by {(after - before).abs().mean():.3f} on average, divergence "
            f"{divergence:.4f} nats, {(after.argmax(-1) != before.argmax(-1)).sum()} of {len(before)} answers change"
        )


def main(rounds: int = 15, steps: int = 40) -> int:
    models, task = loaded()
    rows = corpora.tickets("train")
    batches = task.training_batches(rows["text"], rows["intent"], steps=20, batch_size=8)
    adamw = partial(paged_adamw, lr=1e-3)
    trainers = {name: Trainer(model.train(), batches, label_loss, adamw) for name, model in models.items()}
    good = compare_bytes(trainers)
    times = paired_times({name: trainer.step for name, trainer in trainers.items()}, rounds)
    print(times)
    for name in ("QLoRA", "QLoRA, our layer"):
        ratio, low, high = times.ratio(name, to="LoRA")
        print(f"{name} / LoRA {ratio:.2f} ({low:.2f} to {high:.2f})")
    compare_merging(models["QLoRA"], task, steps)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
