"""One training step of prompt and prefix tuning on the real model: this library beside PEFT, in turns, in one process.

Same model, same number of virtual tokens, same initial values, same batches, float32 and bfloat16. PEFT is given its
best: its own forward pass with logits at the last tokens only; its stock loss over all logits is timed as well. Prints
the ratio of medians with its interval, counted bytes, and the largest difference of the losses over the first steps.

    python benchmarks/soft_prompt_step.py [rounds [batch size]]
"""

import sys
from functools import partial

import torch
from _trainer import Trainer
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.evaluation import paired_times
from lessonlib.experiments.tickets import tickets_task
from lessonlib.models import load_base
from lessonlib.prompting.soft_prompts import add_prefix, add_prompt
from lessonlib.training import seed_everything
from lessonlib.training.labels import label_loss

TOKENS = 16
TARGET_RATIO = 1.0
FAILS_OVER = 1.15 * TARGET_RATIO
ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)
METHODS = {
    "prompt tuning": (add_prompt, PromptTuningConfig),
    "prefix tuning": (add_prefix, PrefixTuningConfig),
}


def pair(method: str, dtype: torch.dtype):
    """Our model and PEFT's with the same learned values, and the task."""
    seed_everything()
    add, config = METHODS[method]
    theirs = get_peft_model(load_base(dtype=dtype)[0], config(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS))
    rows = theirs.prompt_encoder["default"].embedding.weight
    model, tokenizer = load_base(dtype=dtype)
    if add is add_prefix:
        c = model.config
        shape = (TOKENS, c.num_hidden_layers, 2, c.num_key_value_heads, -1)
        rows = tuple(rows.detach().view(shape).permute(2, 1, 3, 0, 4))
    return add(model, TOKENS, rows), theirs, tickets_task(tokenizer)


def logits_where_needed(model, batch):
    """PEFT's own forward pass, its head only at the places where some text of the batch ends."""
    virtual = 0 if model.active_peft_config.peft_type == "PREFIX_TUNING" else TOKENS
    places, which = batch.last.unique(return_inverse=True)
    logits = model(input_ids=batch.input_ids, logits_to_keep=places + virtual).logits  # (N, places, V)
    last = logits[torch.arange(len(batch.last)), which][:, batch.label_ids]
    return F.cross_entropy(last.float(), batch.targets)


def all_logits(model, batch):
    """The loss as the model's own forward pass offers it: logits of the whole vocabulary at every position."""
    logits = model(input_ids=batch.input_ids).logits[:, -batch.input_ids.shape[1] :]
    last = logits[torch.arange(len(batch.last)), batch.last][:, batch.label_ids]
    return F.cross_entropy(last.float(), batch.targets)


def compare(method: str, dtype: torch.dtype, rounds: int, batch_size: int) -> bool:
    """Print one comparison; whether it failed."""
    ours, theirs, task = pair(method, dtype)
    rows = corpora.tickets("train")
    batches = task.training_batches(rows["text"], rows["intent"], steps=20, batch_size=batch_size)
    name, failed = f"{method}, {str(dtype).removeprefix('torch.')}", False
    if dtype == torch.float32:
        a, b = Trainer(ours, batches, label_loss, ADAMW), Trainer(theirs, batches, logits_where_needed, ADAMW)
        steps = min(rounds, len(batches))
        worst = max(abs(a.step() - b.step()) for _ in range(steps))
        print(f"{name}: largest difference of the losses over {steps} steps {worst:.1e} (must be below 1e-3)")
        failed = worst > 1e-3
    trainers = {
        "ours": Trainer(ours, batches, label_loss, ADAMW),
        "PEFT": Trainer(theirs, batches, logits_where_needed, ADAMW),
        "PEFT, all logits": Trainer(theirs, batches, all_logits, ADAMW),
    }
    times = paired_times({name: trainer.step for name, trainer in trainers.items()}, rounds)
    (held, saved), (their_held, their_saved) = trainers["ours"].bytes(), trainers["PEFT"].bytes()
    held, their_held = sum(held.values()), sum(their_held.values())
    print(f"{name}: held bytes ours / PEFT {held / their_held:.3f}, saved for backward {saved / their_saved:.3f}")
    print(f"{name}: {times}")
    for other in ("PEFT", "PEFT, all logits"):
        ratio, low, high = times.ratio("ours", to=other)
        print(f"{name}: ours / {other} {ratio:.2f} ({low:.2f} to {high:.2f})")
    too_many = held + saved > their_held + their_saved
    return failed or too_many or times.ratio("ours", to="PEFT")[0] > FAILS_OVER


def main(rounds: int = 15, batch_size: int = 8) -> int:
    failed = [
        compare(method, dtype, rounds, batch_size) for method in METHODS for dtype in (torch.float32, torch.bfloat16)
    ]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
