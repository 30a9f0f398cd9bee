"""One forward pass: base, LoRA merged and LoRA unmerged in all linear layers, in turns, in one process.

python benchmarks/lora_forward.py [rounds]
"""

import sys

import torch

from lessonlib.evaluation import paired_times
from lessonlib.experiments.tickets import ALL_LINEAR
from lessonlib.lora import add_lora, merge_lora
from lessonlib.models import load_base

MERGED_FAILS_OVER = 1.15  # the target is 1.0


def main(rounds: int = 25) -> int:
    base, merged, unmerged = (load_base()[0] for _ in range(3))
    merge_lora(add_lora(merged, ALL_LINEAR))
    add_lora(unmerged, ALL_LINEAR)
    failed = False
    for shape in ((1, 1), (1, 128), (8, 64)):
        tokens = torch.randint(0, 49_152, shape, generator=torch.Generator().manual_seed(0))

        def forward(model, tokens=tokens):
            with torch.no_grad():
                return model.get_decoder()(tokens, use_cache=False).last_hidden_state

        models = {"base": base, "merged": merged, "unmerged": unmerged}
        times = paired_times({name: lambda model=model: forward(model) for name, model in models.items()}, rounds)
        print(f"{shape[0]} × {shape[1]} tokens: {times}")
        for name in ("merged", "unmerged"):
            print(f"    {name} / base {'{:.2f} ({:.2f} to {:.2f})'.format(*times.ratio(name, to='base'))}")
        failed |= times.ratio("merged", to="base")[0] > MERGED_FAILS_OVER
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
