"""NormalFloat in 4 bits, and double quantization (Dettmers et al., 2023, arXiv:2305.14314, section 3).

    W ≈ absmax(block) * CODEBOOK[code]        16 values in [-1, 1], one absmax for each block of 64 weights

The 16 values are quantiles of the normal distribution, because trained weights are close to normal: no code is then
wasted. (They are not used equally, as is often said: in blocks of 64 normal weights the outermost for 2 %, the inner
ones for 9 % of the weights; Yoshida, 2023, arXiv:2306.06965.) A block of zeros stays zero, and each block's largest
weight stays as it is.
"""

import math
from dataclasses import dataclass

import torch

# Weights that `dequantize` works on at a time: few enough to stay in the processor's cache, and enough that handing them
# to the threads costs little. A quarter as many takes a third to a half longer.
CHUNK = 1_048_576


class QuantizationError(ValueError):
    """A tensor cannot be quantized as asked; the message names the value, and what would do."""


# --- 16 values -------------------------------------------------------------------------------------------------------


def normal_float(bits):
    """The 2^bits values of NormalFloat, ascending, from -1 to 1, with an exact zero: (2^bits,) float32.

    Two rows of evenly spaced probabilities, one more value above zero than below it, as quantiles of the normal
    distribution and divided by the largest (the paper's section 3 and appendix E). The outermost probability is the
    mean of those that 2^bits and 2^bits - 1 values would have; like bitsandbytes, we keep seven digits of it.

    >>> [round(value, 3) for value in normal_float(2).tolist()]
    [-1.0, 0.0, 0.436, 1.0]
    """
    half = 2 ** (bits - 1)
    last = round(1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2, 7)
    above = torch.special.ndtri(torch.linspace(last, 0.5, half + 1)[:-1].double())
    below = -torch.special.ndtri(torch.linspace(last, 0.5, half)[:-1].double())
    values = torch.cat([below, torch.zeros(1), above]).float().sort().values
    return values / values.max()


CODEBOOK = normal_float(4)
# What each of the 256 bytes stands for: two values, the high four bits first. One look-up gives both of them, since a
# float64 is as long as two float32: (256,) float64.
PAIRS = torch.cartesian_prod(CODEBOOK, CODEBOOK).contiguous().view(torch.float64).flatten()


def nearest(x, codebook):
    """The place of the nearest value in an ascending code book, uint8 of x's shape; halfway goes to the lower one.

    >>> nearest(torch.tensor([-0.9, 0.01, 0.6]), torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [0, 1, 2]
    """
    middles = (codebook[1:] + codebook[:-1]) / 2
    return torch.bucketize(x, middles.to(x.device), out_int32=True).to(torch.uint8)


# --- quantize, dequantize --------------------------------------------------------------------------------------------


@dataclass
class Quantized:
    """A tensor in 4 bits: codes two a byte, one absmax a block, and what W was.

    codes (blocks * block_size / 2,) uint8, absmax (blocks,) float32.
    """

    codes: torch.Tensor
    absmax: torch.Tensor
    shape: torch.Size
    dtype: torch.dtype
    block_size: int

    def scales(self):
        return self.absmax


def in_blocks(W, block_size):
    """W's values in float32, one block a row, zeros behind the last: (blocks, block_size).

    Raises QuantizationError for other dtypes than float32, bfloat16 and float16, for NaN and infinity, and for a block
    size that is no even number of at least 2.
    """
    if not isinstance(block_size, int) or block_size < 2 or block_size % 2:
        raise QuantizationError(f"block_size is {block_size!r}; expected an even whole number, such as 64")
    if W.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise QuantizationError(
            f"W is {W.dtype}; expected float32, bfloat16 or float16: call .float() first, and quantize only once"
        )
    if not torch.isfinite(W).all():
        place = tuple(torch.nonzero(~torch.isfinite(W))[0].tolist())
        raise QuantizationError(
            f"W holds {W[place].item()} at {place}: the file is damaged or the training diverged, load it anew"
        )
    values = W.detach().flatten().float()
    if missing := -len(values) % block_size:
        values = torch.cat([values, values.new_zeros(missing)])
    return values.view(-1, block_size)


def normalize(blocks):
    """Each row divided by its largest absolute value, and those: (blocks, block_size) in [-1, 1] and (blocks,)."""
    absmax = blocks.abs().amax(1)
    return blocks / torch.where(absmax > 0, absmax, 1)[:, None], absmax


def quantize(W, block_size=64):
    """W in NF4: each block divided by its absmax, each weight replaced by the nearest of the 16 values.

    W: of any shape, float32, bfloat16 or float16. Blocks run along the flattened W; a last one that is not full is
    filled up with zeros. Returns a Quantized of 4 + 32 / block_size bits a weight.
    Raises QuantizationError for other dtypes, NaN, infinity, and an odd block size.

    >>> q = quantize(torch.tensor([[-2.0, 0.0], [0.3, 2.0]]), block_size=4)
    >>> q.codes.tolist(), q.absmax.tolist()  # codes 0, 7 and 9, 15: bytes 0 * 16 + 7 and 9 * 16 + 15
    ([7, 159], [2.0])
    """
    scaled, absmax = normalize(in_blocks(W, block_size))
    codes = nearest(scaled, CODEBOOK).flatten()
    packed = codes[0::2] << 4 | codes[1::2]
    return Quantized(packed, absmax, W.shape, W.dtype, block_size)


@torch.no_grad()
def dequantize(q):
    """The 16 values that the codes stand for, times their block's absmax, in the shape and the dtype of W.

    >>> dequantize(quantize(torch.tensor([[-2.0, 0.0], [0.3, 2.0]]), block_size=4))
    tensor([[-2.0000,  0.0000],
            [ 0.3219,  2.0000]])
    """
    scales = q.scales()  # (blocks,)
    W = torch.empty(len(scales), q.block_size, dtype=q.dtype, device=q.codes.device)
    rows, pairs = max(1, CHUNK // q.block_size), PAIRS.to(q.codes.device)
    room = torch.empty(min(rows, len(scales)), q.block_size, device=q.codes.device)
    for codes, scale, part in zip(
        q.codes.split(rows * q.block_size // 2), scales.split(rows), W.split(rows), strict=True
    ):
        values = room[: len(part)]
        torch.index_select(pairs, 0, codes.int(), out=values.view(pairs.dtype).flatten())
        torch.mul(values, scale[:, None], out=part)
    return W.flatten()[: math.prod(q.shape)].view(q.shape)


# --- double quantization ---------------------------------------------------------------------------------------------


def dynamic_float():
    """The 256 values of the 8-bit "dynamic tree" of Dettmers (2015, arXiv:1511.04561), ascending: (256,) float32.

    Seven decades from 1e-6 to 1, each with twice the values of the one below it, in both signs; zero and one.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = 10.0 ** (decade - 6) * ((edges[1:] + edges[:-1]) / 2)
        values += middles.tolist() + (-middles).tolist()
    return torch.tensor(values).sort().values


DYNAMIC = dynamic_float()
SECOND_BLOCK = 256


@dataclass
class DoubleQuantized(Quantized):
    """A Quantized whose absmax is in 8 bits itself: absmax (blocks,) uint8, and to read it, second (blocks / 256,)
    and offset (), float32."""

    second: torch.Tensor
    offset: torch.Tensor

    def scales(self):
        values = DYNAMIC.to(self.absmax.device).index_select(0, self.absmax.int())
        second = self.second.repeat_interleave(SECOND_BLOCK)[: len(values)]
        return values * second + self.offset


def double_quantize(q):
    """q with its absmax in 8 bits: less their mean, then in blocks of 256 with a float32 absmax each (section 3).

    Returns a DoubleQuantized of 4 + 8 / 64 + 32 / (64 * 256) = 4.127 bits a weight; `dequantize` takes it too.
    Raises QuantizationError for one that is double quantized already.

    >>> q = double_quantize(quantize(torch.ones(256, 64)))
    >>> q.absmax.dtype, q.second.shape, q.offset
    (torch.uint8, torch.Size([1]), tensor(1.))
    """
    if isinstance(q, DoubleQuantized):
        raise QuantizationError("its absmax is in 8 bits already: double_quantize takes what quantize returned")
    offset = q.absmax.mean() if len(q.absmax) else torch.zeros((), device=q.absmax.device)
    scaled, second = normalize(in_blocks(q.absmax - offset, SECOND_BLOCK))
    absmax = nearest(scaled, DYNAMIC).flatten()[: len(q.absmax)].clone()
    return DoubleQuantized(q.codes, absmax, q.shape, q.dtype, q.block_size, second, offset)
