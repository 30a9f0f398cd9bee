"""NF4 beside bitsandbytes' CPU kernels on the same tensors: the same values, and in what time?

For each tensor: how many 4-bit codes differ, and how far their weights lie from the middle between two values (must
be within 1e-6); whether our `dequantize` reads bitsandbytes' own buffers to the same values, bit for bit; bits a
weight of the real buffers; then quantize and dequantize, with double quantization, in turns. The target of 1.5 is for
the matrices that 4 bits are for, those of a 7B model (4096 × 4096). Smaller ones, which fit the processor's cache, are
timed as well and not judged: there bitsandbytes' vector instructions dequantize in one pass and two to six times as
fast as torch's look-up, product and rounding, which is what a definition of a few lines has. For the
large ones float32, where both wait for the memory, comes near the target; bfloat16 misses it.

    python benchmarks/nf4.py [rounds]
"""

import sys

import bitsandbytes.functional as bnb
import torch

from lessonlib.evaluation import paired_times
from lessonlib.quantization.formats import nbytes
from lessonlib.quantization.nf4 import (
    CODEBOOK,
    DoubleQuantized,
    dequantize,
    double_quantize,
    in_blocks,
    normalize,
    quantize,
)

TARGET_RATIO = 1.5
FAILS_OVER = 1.15 * TARGET_RATIO
JUDGED = 16_000_000
SHAPES = ((576, 576), (1536, 576), (4096, 1024), (4096, 4096))


def theirs(W):
    return bnb.quantize_4bit(W, quant_type="nf4", compress_statistics=True)


def ours(W):
    return double_quantize(quantize(W))


def farthest_from_a_middle(W, packed, q) -> tuple[int, float]:
    """How many codes differ, and the largest distance of such a weight from the middle between two values."""
    differ = torch.stack([packed >> 4 != q.codes >> 4, packed & 15 != q.codes & 15], 1).flatten()
    x = normalize(in_blocks(W, 64))[0].flatten()[differ]
    middles = (CODEBOOK[1:] + CODEBOOK[:-1]) / 2
    return len(x), (x[:, None] - middles).abs().amin(1).max().item() if len(x) else 0.0


def same_values(W) -> bool:
    (packed, state), q = theirs(W), ours(W)
    differ, distance = farthest_from_a_middle(W, packed.flatten(), q)
    read = DoubleQuantized(packed.flatten(), state.absmax, W.shape, W.dtype, 64, state.state2.absmax, state.offset)
    equal = torch.equal(dequantize(read), bnb.dequantize_4bit(packed, state))
    their_bytes = nbytes((packed, state.absmax, state.state2.absmax, state.offset))
    print(
        f"  {differ} of {W.numel():,} codes differ, at most {distance:.0e} from a middle; "
        f"their buffers read to {'the same values' if equal else 'OTHER VALUES'}; "
        f"bits a weight {8 * nbytes(q) / W.numel():.4f} (theirs {8 * their_bytes / W.numel():.4f})"
    )
    return equal and distance < 1e-6


def timed(W, rounds: int) -> bool:
    (packed, state), q, good = theirs(W), ours(W), True
    pairs = {
        "quantize": (lambda: ours(W), lambda: theirs(W), max(rounds // 3, 3)),
        "dequantize": (lambda: dequantize(q), lambda: bnb.dequantize_4bit(packed, state), 3 * rounds),
    }
    for name, (a, b, turns) in pairs.items():
        times = paired_times({"ours": a, "bitsandbytes": b}, turns)
        ratio, low, high = times.ratio("ours", to="bitsandbytes")
        print(f"  {name}: {times}; ours / bitsandbytes {ratio:.2f} ({low:.2f} to {high:.2f})")
        good &= ratio <= FAILS_OVER or W.numel() < JUDGED
    return good


def main(rounds: int = 15) -> int:
    good = True
    print(f"{torch.get_num_threads()} threads; target of the ratio {TARGET_RATIO} from {JUDGED:,} weights on")
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            W = (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
            print(f"{shape[0]} × {shape[1]}, {str(dtype).removeprefix('torch.')}")
            good &= same_values(W)
            good &= timed(W, rounds)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
