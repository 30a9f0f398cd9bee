"""Other ways to keep weights in few bits, beside NF4: what each costs and what it loses, measured in the same way.

A format is anything with `name`, `quantize(W) -> q` and `dequantize(q) -> W`, so one of your own counts as well.
Formats that choose the codes by looking at data (GPTQ, AWQ) store what INT4 stores; only the choice is another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from lessonlib.evaluation import tensor_bytes

from . import nf4
from .nf4 import in_blocks, nearest, normal_float, normalize

# --- packing ---------------------------------------------------------------------------------------------------------


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (n,) below 2^bits as one stream of bits, the high bit of each first: (n * bits / 8,) uint8, rounded up.

    >>> pack(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), bits=2).tolist()  # 01 10 11 00
    [108]
    """
    places = torch.arange(bits - 1, -1, -1, dtype=torch.uint8, device=codes.device)
    stream = (codes[:, None] >> places & 1).flatten()
    eights = F.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (eights << torch.arange(7, -1, -1, dtype=torch.uint8, device=codes.device)).sum(1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, bits: int, n: int) -> torch.Tensor:
    """The n codes that `pack` put together, (n,) uint8."""
    eights = packed[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device) & 1
    stream = eights.flatten()[: n * bits].view(n, bits)
    places = torch.arange(bits - 1, -1, -1, dtype=torch.uint8, device=packed.device)
    return (stream << places).sum(1, dtype=torch.uint8)


# --- formats ---------------------------------------------------------------------------------------------------------


class Format(Protocol):
    """What makes an object a format of weights: W of any shape to what is kept, and that to W's shape again."""

    name: str

    def quantize(self, W: torch.Tensor) -> Any: ...

    def dequantize(self, q: Any) -> torch.Tensor: ...


@dataclass
class Packed:
    """Codes as a stream of bits, uint8, and one scale a block: (blocks,)."""

    codes: torch.Tensor
    scale: torch.Tensor
    shape: torch.Size
    dtype: torch.dtype


@dataclass
class PackedAffine(Packed):
    """As Packed, and one minimum a block: (blocks,)."""

    minimum: torch.Tensor


def _shaped(blocks: torch.Tensor, q: Packed) -> torch.Tensor:
    return blocks.flatten()[: math.prod(q.shape)].view(q.shape).to(q.dtype)


@dataclass(frozen=True, eq=False)
class Absmax:
    """Blocks divided by their largest absolute value (float32), then the nearest of a code book's values.

    W: of any shape.

    codebook: (2^bits,) or fewer values from -1 to 1, ascending. Raises QuantizationError as `nf4.quantize` does.

    >>> halves = Absmax("halves", torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    >>> halves.bits, halves.dequantize(halves.quantize(torch.tensor([4.0, 1.1, -0.9])))
    (3, tensor([4., 2., 0.]))
    """

    name: str
    codebook: torch.Tensor
    block_size: int = 64

    @property
    def bits(self) -> int:
        return math.ceil(math.log2(len(self.codebook)))

    def quantize(self, W: torch.Tensor) -> Packed:
        scaled, absmax = normalize(in_blocks(W, self.block_size))
        return Packed(pack(nearest(scaled, self.codebook).flatten(), self.bits), absmax, W.shape, W.dtype)

    def dequantize(self, q: Packed) -> torch.Tensor:
        codes = unpack(q.codes, self.bits, len(q.scale) * self.block_size).view(-1, self.block_size)
        return _shaped(self.codebook.to(q.codes.device)[codes.int()] * q.scale[:, None], q)


class Affine:
    """Affine quantization as GGUF's Q4_1, in which the course's base model is stored: blocks of 32, 15 even steps each.

        W ≈ minimum(block) + step(block) * code        code 0 to 15, minimum and step in float16

    W: of any shape. As `ggml` defines it (struct block_q4_1): 4 + 2 * 16 / 32 = 5 bits a weight.
    Raises QuantizationError as `nf4.quantize` does, and where a block's range does not fit float16.
    """

    name, bits, block_size = "Q4_1", 4, 32

    def quantize(self, W: torch.Tensor) -> PackedAffine:
        blocks = in_blocks(W, self.block_size)
        low, high = blocks.aminmax(dim=1)
        step = (high - low) / 15
        codes = (blocks - low[:, None]) / torch.where(step > 0, step, 1)[:, None]
        codes = (codes + 0.5).floor().clamp(0, 15).to(torch.uint8)
        step, low = step.half(), low.half()  # rounded after the codes were chosen, as ggml does
        if not (torch.isfinite(step).all() and torch.isfinite(low).all()):
            raise nf4.QuantizationError(
                f"W holds values up to {W.abs().max().item():.3g}, beyond float16's 65,504: Q4_1 cannot keep them"
            )
        return PackedAffine(pack(codes.flatten(), self.bits), step, W.shape, W.dtype, low)

    def dequantize(self, q: PackedAffine) -> torch.Tensor:
        codes = unpack(q.codes, self.bits, len(q.scale) * self.block_size).view(-1, self.block_size)
        return _shaped(codes.float() * q.scale.float()[:, None] + q.minimum.float()[:, None], q)


@dataclass(frozen=True)
class Functions:
    """A format made of two functions, such as a notebook's own.

    >>> Functions("half", lambda W: (W.half(),), lambda q: q[0].float()).name
    'half'
    """

    name: str
    quantize: Callable[[torch.Tensor], Any]
    dequantize: Callable[[Any], torch.Tensor]


def signed(*magnitudes: float) -> torch.Tensor:
    """Zero and the magnitudes in both signs, divided by the largest: ascending values from -1 to 1."""
    above = torch.tensor(magnitudes)
    return torch.cat([-above.flip(0), torch.zeros(1), above]) / above.max()


NF4 = Functions("NF4", nf4.quantize, nf4.dequantize)
NF4_DOUBLE = Functions("NF4, double quantization", lambda W: nf4.double_quantize(nf4.quantize(W)), nf4.dequantize)
# Sign, two bits of exponent, one of fraction, as bitsandbytes has them: its smallest value is 1/192 of the largest,
# where the standard E2M1 has 1/12. One of the 16 codes is lost to a second zero.
FP4 = Absmax("FP4", signed(0.0625, 2, 3, 4, 6, 8, 12))
INT4 = Absmax("INT4", signed(1, 2, 3, 4, 5, 6, 7))  # even steps; the sixteenth code is not used
Q4_1 = Affine()
NF3 = Absmax("NF3", normal_float(3))
NF2 = Absmax("NF2", normal_float(2))
FORMATS = (Q4_1, NF4, NF4_DOUBLE, FP4, INT4, NF3, NF2)

# --- what a format costs and loses -----------------------------------------------------------------------------------


def nbytes(q) -> int:
    """Bytes of the tensors that a quantized tensor holds."""
    held = q if isinstance(q, tuple | list) else vars(q).values()
    return tensor_bytes(t for t in held if torch.is_tensor(t))


@dataclass(frozen=True)
class Measured:
    """A format on a tensor: bits a weight, counted from the buffers; the error's root mean square as a share of the
    weights' own; and the largest error, as a share of the largest weight."""

    name: str
    bits: float
    error: float
    worst: float

    def __repr__(self):
        return f"{self.name}: {self.bits:.3f} bits a weight, error {self.error:.1%}, at most {self.worst:.1%}"


def measure(W: torch.Tensor, format: Format) -> Measured:
    """Quantize W (of any shape), count, dequantize, compare.

    Raises ValueError for a W that is empty or all zero: there is nothing to lose then.

    >>> measure(torch.tensor([[1.0, -1.0]] * 1024), INT4)
    INT4: 4.500 bits a weight, error 0.0%, at most 0.0%
    """
    if not W.numel() or not W.any():
        raise ValueError(f"W has shape {tuple(W.shape)} and holds nothing but zeros: give a weight that is not")
    q = format.quantize(W)
    wrong, right = (format.dequantize(q).double() - W.double()), W.double()
    return Measured(
        format.name,
        bits=8 * nbytes(q) / W.numel(),
        error=(wrong.norm() / right.norm()).item(),
        worst=(wrong.abs().max() / right.abs().max()).item(),
    )
