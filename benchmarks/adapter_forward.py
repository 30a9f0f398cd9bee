"""Adapters beside LoRA in one process: what a call costs by batch and length, what a change of task and a task's file.

python benchmarks/adapter_forward.py [rounds]

Adapters of width 64 stand at Houlsby's two places, LoRA of rank 64 on the same two matrices, merged and unmerged.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from lessonlib.adapters import (
    Bottleneck,
    adapters_of,
    add_adapters,
    base_digest,
    read_adapters,
    save_adapters,
    swap_adapters,
)
from lessonlib.evaluation import paired_times
from lessonlib.lora import add_lora, merge_lora
from lessonlib.models import load_base

MERGED_FAILS_OVER = 1.15  # the target is 1.0
SWAP_FAILS_OVER_MS = 100.0  # in memory; the target is single milliseconds
M, SAME_PLACES = 64, ["o_proj", "down_proj"]
SIZES = {(1, 1): 4, (1, 128): 2, (32, 128): 0.4}  # rounds of each, as a multiple of the argument
TASKS = ("intent", "sentiment", "urgency")


@torch.no_grad()
def forward(model: nn.Module, ids: torch.Tensor) -> None:
    model.get_decoder()(ids, use_cache=False)


def calls(adapted: nn.Module, rounds: int) -> bool:
    """Print the time of each size of call; whether merged LoRA is as fast as the base."""
    models = {"base": load_base()[0], "adapters": adapted}
    models["LoRA unmerged"] = add_lora(load_base()[0], SAME_PLACES, r=M)
    models["LoRA merged"] = merge_lora(add_lora(load_base()[0], SAME_PLACES, r=M))
    well = True
    for (batch, length), share in SIZES.items():
        ids = torch.randint(5, 1000, (batch, length))
        ways = {name: partial(forward, model, ids) for name, model in models.items()}
        times = paired_times(ways, rounds=max(5, round(share * rounds)))
        print(f"{batch} × {length}: base {1000 * times.median('base'):.1f} ms")
        for name in list(models)[1:]:
            ratio, low, high = times.ratio(name, to="base")
            print(f"  {name:14} {ratio:.2f} of the base's time (95 % interval {low:.2f} to {high:.2f})")
        well &= times.ratio("LoRA merged", to="base")[0] <= MERGED_FAILS_OVER
    return well


def tasks(model: nn.Module, rounds: int) -> bool:
    """Print the time of a change of task and the bytes of real files; whether the base stayed as it was."""
    digest, sets = base_digest(model), {TASKS[0]: adapters_of(model)}
    for name in TASKS[1:]:
        sets[name] = {path: Bottleneck(model.config.hidden_size, M) for path in sets[TASKS[0]]}
    with tempfile.TemporaryDirectory() as folder:
        for name, adapters in sets.items():
            swap_adapters(model, adapters)
            save_adapters(model, Path(folder) / f"{name}.safetensors")
        first = Path(folder) / f"{TASKS[0]}.safetensors"
        ways = {
            "in memory": lambda: swap_adapters(model, sets[TASKS[1]]),
            "from disk": lambda: swap_adapters(model, read_adapters(model, first)),
        }
        times = paired_times(ways, rounds=rounds)
        print(f"change of task: {times}")
        load_base()[0].save_pretrained(Path(folder) / "base")
        base, one = (Path(folder) / "base" / "model.safetensors").stat().st_size, first.stat().st_size
    n = len(TASKS)
    print(f"files: base {base / 1e6:.1f} MB once and {n} × {one / 1e6:.1f} MB = {(base + n * one) / 1e6:.1f} MB")
    print(f"       {n} full copies {n * base / 1e6:.1f} MB: {n * base / (base + n * one):.2f} times as much")
    unchanged = base_digest(model) == digest
    print(f"the base's bytes after all changes of task: {'unchanged' if unchanged else 'CHANGED'}")
    return unchanged and 1000 * times.median("in memory") <= SWAP_FAILS_OVER_MS


def main(rounds: int = 15) -> int:
    model = add_adapters(load_base()[0], M)
    quick = calls(model, rounds)
    return 0 if tasks(model, rounds) and quick else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
