"""One LoRA training step of the real model: this library beside PEFT, in turns, in one process.

Same model, same trainable set, same initial values, same batches. PEFT is given its best: in float32 and, in bfloat16,
both with its float32 adapters (its default, and our way) and the same loss over the label logits only; its stock loss
over all logits is timed as well. Prints the ratio of medians with its interval, counted bytes, and the largest
difference of the losses over 20 steps in float32.

    python benchmarks/lora_step.py [rounds]
"""

import sys
from functools import partial

import torch
from _trainer import Trainer
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.evaluation import paired_times
from lessonlib.experiments.tickets import tickets_task
from lessonlib.lora import add_lora, lora_layers
from lessonlib.models import load_base
from lessonlib.training import seed_everything
from lessonlib.training.labels import label_loss

TARGETS = ["q_proj", "v_proj"]
TARGET_RATIO = 1.0
FAILS_OVER = 1.15 * TARGET_RATIO
ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)


def pair(dtype):
    """Our model and PEFT's with the same adapters."""
    seed_everything()
    ours, tokenizer = load_base(dtype=dtype)
    add_lora(ours, TARGETS, r=8, alpha=16)
    theirs = get_peft_model(
        load_base(dtype=dtype)[0], LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, lora_dropout=0.0)
    )
    state = dict(theirs.named_parameters())
    with torch.no_grad():
        for path, layer in lora_layers(ours):
            state[f"base_model.model.{path}.lora_A.default.weight"].copy_(layer.A)
    return ours, theirs, tickets_task(tokenizer)


def stock_loss(model, batch):
    """The loss as the model's own forward pass offers it: logits of the whole vocabulary at every position."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    last = logits[torch.arange(len(batch.last)), batch.last][:, batch.label_ids]
    return F.cross_entropy(last.float(), batch.targets)


def main(rounds: int = 15) -> int:
    rows, failed = corpora.tickets("train"), False
    for dtype in (torch.float32, torch.bfloat16):
        ours, theirs, task = pair(dtype)
        batches = task.training_batches(rows["text"], rows["intent"], steps=20, batch_size=8)
        name = str(dtype).removeprefix("torch.")
        if dtype == torch.float32:
            a, b = Trainer(ours, batches, label_loss, ADAMW), Trainer(theirs, batches, label_loss, ADAMW)
            worst = max(abs(a.step() - b.step()) for _ in range(20))
            print(f"{name}: largest difference of the losses over 20 steps {worst:.1e} (must be below 1e-3)")
            failed |= worst > 1e-3
        trainers = {
            "ours": Trainer(ours, batches, label_loss, ADAMW),
            "PEFT": Trainer(theirs, batches, label_loss, ADAMW),
            "PEFT, all logits": Trainer(theirs, batches, stock_loss, ADAMW),
        }
        (held, saved), (their_held, their_saved) = trainers["ours"].bytes(), trainers["PEFT"].bytes()
        held, their_held = sum(held.values()), sum(their_held.values())
        print(f"{name}: held bytes ours / PEFT {held / their_held:.3f}, saved for backward {saved / their_saved:.3f}")
        times = paired_times({name: trainer.step for name, trainer in trainers.items()}, rounds)
        print(f"{name}: {times}")
        for other in ("PEFT", "PEFT, all logits"):
            ratio, low, high = times.ratio("ours", to=other)
            print(f"{name}: ours / {other} {ratio:.2f} ({low:.2f} to {high:.2f})")
        failed |= times.ratio("ours", to="PEFT")[0] > FAILS_OVER or (held + saved) > (their_held + their_saved)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
