"""One decoding step of a batch with eight different adapters: the bank, beside PEFT's mixed batch and one at a time.

python benchmarks/bank.py [rounds]

LoRA of rank 8 in all linear layers, float32, a cache of 32 tokens, batches of 8 and of 32 texts. All ways run in turns
in one process; ratios are of the same round.
"""

import sys
from contextlib import nullcontext
from functools import partial

import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from lessonlib.evaluation import paired_times
from lessonlib.experiments.tickets import ALL_LINEAR
from lessonlib.lora.deltas import Delta, bare_copy, put_deltas
from lessonlib.models import load_base
from lessonlib.serving.bank import LoRABank

N, R, PAST = 8, 8, 32
FAILS_OVER = 1.15  # times the target
# Of the medians. What is without a target is printed only.
AT_MOST = {(8, "bank", "PEFT"): 0.7, (32, "bank", "PEFT"): 0.85, (8, "bank", "base"): 1.35}
AT_LEAST = {(8, "one at a time", "bank"): 3.0}
PRINTED = [("bank", "base"), ("bank", "PEFT"), ("bank, chosen anew", "bank"), ("one at a time", "bank")]


def base() -> torch.nn.Module:
    return load_base(dtype=torch.float32)[0]


def with_peft():
    """PEFT's model with N adapters of random numbers, named "0" to "7", and the same ones in memory."""
    config = LoraConfig(r=R, lora_alpha=2 * R, target_modules=list(ALL_LINEAR), init_lora_weights=False)
    model = get_peft_model(base(), config, adapter_name="0").eval()
    for i in range(1, N):
        model.add_adapter(str(i), config)
    layers = {p: m for p, m in model.base_model.model.named_modules() if hasattr(m, "lora_A")}
    held = [
        {p: Delta(m.lora_A[str(i)].weight, m.lora_B[str(i)].weight, 2.0) for p, m in layers.items()} for i in range(N)
    ]
    return model, held


def cache_of(model, tokens) -> DynamicCache:
    """What the bare base has cached of PAST tokens for each text: the same numbers for all ways."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(tokens[:, :PAST], past_key_values=cache, use_cache=True)
    return cache


@torch.no_grad()
def step(model, tokens, cache, chosen=nullcontext, **settings) -> torch.Tensor:
    """The logits of one more token (B, 1) for each text; the cache is cut back to what it was."""
    with chosen():
        logits = model(tokens[:, PAST:], past_key_values=cache, use_cache=True, **settings).logits
    cache.crop(-1)
    return logits


def one_at_a_time(alone, tokens, caches) -> torch.Tensor:
    """The texts of one adapter after those of another: N models with one adapter each, nothing to switch."""
    parts = [step(model, tokens[i::N], caches[i]) for i, model in enumerate(alone)]
    return torch.stack(parts, 1).flatten(0, 1)


def measured(plain, bank, second, theirs, alone, batch: int, rounds: int) -> bool:
    """Print the times of one batch; whether all its targets are kept."""
    tokens = torch.randint(5, 40_000, (batch, PAST + 1), generator=torch.Generator().manual_seed(batch))
    rows = [i % N for i in range(batch)]
    whole = [cache_of(plain, tokens) for _ in range(4)]
    parts = [cache_of(plain, tokens[i::N]) for i in range(N)]
    ways = {
        "base": partial(step, plain, tokens, whole[0]),
        "bank": partial(step, bank.model, tokens, whole[1]),
        "PEFT": partial(step, theirs, tokens, whole[2], adapter_names=[str(i) for i in rows]),
        "bank, chosen anew": partial(step, second.model, tokens, whole[3], partial(second.using, rows)),
        "one at a time": partial(one_at_a_time, alone, tokens, parts),
    }
    with bank.using(rows):  # once for a batch, as in generation
        answers = {name: way() for name, way in ways.items()}
        for name in ("PEFT", "bank, chosen anew", "one at a time"):
            torch.testing.assert_close(answers[name], answers["bank"], atol=1e-2, rtol=1e-3)
        times = paired_times(ways, rounds)
    print(f"{batch} × 1 tokens: {times}")
    for name, to in PRINTED:
        print(f"    {name} / {to} {'{:.2f} ({:.2f} to {:.2f})'.format(*times.ratio(name, to=to))}")
    slow = [k for k, limit in AT_MOST.items() if k[0] == batch and times.ratio(*k[1:])[0] > limit * FAILS_OVER]
    slow += [k for k, limit in AT_LEAST.items() if k[0] == batch and times.ratio(*k[1:])[0] < limit / FAILS_OVER]
    for _, name, to in slow:
        print(f"    MISSED: {name} / {to}")
    return not slow


def main(rounds: int = 15) -> int:
    torch.manual_seed(0)
    theirs, adapters = with_peft()
    plain = base()  # all of ours stand over the same numbers
    bank, second = (LoRABank(bare_copy(plain), adapters) for _ in range(2))
    alone = [put_deltas(bare_copy(plain), adapter) for adapter in adapters]
    well = [measured(plain, bank, second, theirs, alone, batch, rounds) for batch in (8, 32)]
    return int(not all(well))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
