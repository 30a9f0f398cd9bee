"""The exercises of 09 QLoRA on a single GPU."""

import math

import torch

from . import Exercise, NotYet, code
from .answers import answered, close, number, refuse_slips, shaped

# --- 09.1 ------------------------------------------------------------------------------------------------------------


def _verify_bits(answer):
    ours = number(answer(64))
    slips = {
        4: "the codes alone take 4 bits; each block has a float32 besides",
        4 + 4 / 64: "a float32 has 4 bytes, and you count bits: 32 of them",
        4 + 16 / 64: "the scale of a block is a float32 here, 32 bits",
        4 + 32: "all weights of a block share one scale: divide it among them",
        4 * 64 + 32: "that is a whole block; divide by its weights",
        4.5 / 8: "that is in bytes; bits are asked for",
    }
    refuse_slips(ours, slips)
    if not math.isclose(ours, 4.5):
        raise NotYet(f"for blocks of 64 you get {ours:g}; 4 bits a code, and 32 bits shared by the block")
    if not math.isclose(other := number(answer(32)), 5.0):
        raise NotYet(f"right for blocks of 64, but for 32 you get {other:g}; it has to hold for any block")


BITS = Exercise(
    id="09.1",
    title="Count the bits",
    name="bits_a_weight",
    difficulty=1,
    minutes=3,
    stub=code("""
        def bits_a_weight(block_size):
            ...
    """),
    solution=code("""
        def bits_a_weight(block_size):
            return 4 + 32 / block_size
    """),
    verify=_verify_bits,
    hints=(
        "Each weight has its own code. What does a block have that its weights share?",
        "4 bits for the code, and the 32 bits of the block's float32 divided by the number of its weights.",
    ),
    wrong={
        code("""
            def bits_a_weight(block_size):
                return 4
        """): "codes alone",
        code("""
            def bits_a_weight(block_size):
                return 4 + 4 / block_size
        """): "has 4 bytes",
        code("""
            def bits_a_weight(block_size):
                return 4 + 32
        """): "share one scale",
        code("""
            def bits_a_weight(block_size):
                return 4.5
        """): "right for blocks of 64",
    },
    praise="Small blocks follow the weights better and cost more.",
)

# --- 09.2 ------------------------------------------------------------------------------------------------------------


def _verify_pack(answer):
    codes = torch.tensor([3, 12, 0, 15, 15, 0, 7, 7], dtype=torch.uint8)
    given = codes.clone()
    packed = answered(answer(given))
    if not torch.equal(given, codes):
        raise NotYet("your function changes the codes themselves, so a second call would start from others")
    if isinstance(packed, torch.Tensor) and packed.shape == codes.shape:
        raise NotYet("as many bytes come back as codes went in; two codes share a byte")
    packed = shaped(packed, (4,), "the bytes")
    first, second = codes[0::2].int(), codes[1::2].int()
    got = packed.int()
    if torch.equal(got, second * 16 + first):
        raise NotYet("the two codes have changed places: the first one is the high half, as bitsandbytes has it")
    if torch.equal(got, first + second) or torch.equal(got, first | second):
        raise NotYet("both codes lie in the low half, one upon the other; move the first up by four bits")
    if torch.equal(got, codes[:4].int() * 16 + codes[4:].int()):
        raise NotYet("you pair the first half with the second; a byte holds two neighbours")
    if not torch.equal(got, first * 16 + second):
        raise NotYet(f"3 and 12 should become 3 · 16 + 12 = 60; yours begin with {got[0].item()}")
    if packed.dtype != torch.uint8:
        raise NotYet(f"the values are right and take {packed.element_size()} bytes each: keep them uint8")


PACK = Exercise(
    id="09.2",
    title="Two codes a byte",
    name="pack",
    difficulty=2,
    minutes=5,
    stub=code("""
        def pack(codes):
            first, second = codes[0::2], codes[1::2]
            ...
    """),
    solution=code("""
        def pack(codes):
            first, second = codes[0::2], codes[1::2]
            return first << 4 | second
    """),
    verify=_verify_pack,
    hints=(
        "A byte has eight bits: four for the first code, four for the second. `<<` moves bits up.",
        "first << 4 makes room below; | puts the second code there.",
    ),
    wrong={
        code("""
            def pack(codes):
                return codes
        """): "two codes share a byte",
        code("""
            def pack(codes):
                return codes[1::2] << 4 | codes[0::2]
        """): "changed places",
        code("""
            def pack(codes):
                return codes[0::2] + codes[1::2]
        """): "low half",
        code("""
            def pack(codes):
                return codes[0::2].int() * 16 + codes[1::2].int()
        """): "keep them uint8",
    },
    praise="Half a byte a weight, as it lies in memory.",
)

# --- 09.3 ------------------------------------------------------------------------------------------------------------


def _verify_decode(answer):
    generator = torch.Generator().manual_seed(9)
    codebook = torch.tensor([-1.0, -0.3, 0.0, 0.4, 1.0])
    codes = torch.randint(0, 5, (4, 4), generator=generator)
    absmax = torch.tensor([1.0, 2.0, 0.5, 3.0])
    ours = shaped(answer(codes, absmax, codebook), (4, 4), "the weights")
    values = codebook[codes]
    if close(ours, values):
        raise NotYet("every block comes back between -1 and 1; multiply by its absmax")
    if close(ours, values * absmax):
        raise NotYet(
            "absmax runs along the wrong axis: row i is block i, and all its weights are multiplied by absmax[i]"
        )
    if close(ours, codes * absmax[:, None]):
        raise NotYet("you multiply the codes themselves; a code is a place in the code book")
    if close(ours, values / absmax[:, None]):
        raise NotYet("quantizing divides by absmax; the way back multiplies")
    if not close(ours, values * absmax[:, None]):
        raise NotYet("the numbers differ; look each code up, then multiply each row by its absmax")


DECODE = Exercise(
    id="09.3",
    title="The way back",
    name="decode",
    difficulty=1,
    minutes=4,
    stub=code("""
        def decode(codes, absmax, codebook):
            ...    # codes (blocks, 64), absmax (blocks,)
    """),
    solution=code("""
        def decode(codes, absmax, codebook):
            return codebook[codes] * absmax[:, None]
    """),
    verify=_verify_decode,
    hints=(
        "A code is a place in the code book: codebook[codes] looks all of them up at once.",
        "Then each row is multiplied by its own absmax: absmax[:, None] stands one below another.",
    ),
    wrong={
        code("""
            def decode(codes, absmax, codebook):
                return codebook[codes]
        """): "multiply by its absmax",
        code("""
            def decode(codes, absmax, codebook):
                return codebook[codes] * absmax
        """): "wrong axis",
        code("""
            def decode(codes, absmax, codebook):
                return codes * absmax[:, None]
        """): "place in the code book",
        code("""
            def decode(codes, absmax, codebook):
                return codebook[codes] / absmax[:, None]
        """): "the way back multiplies",
    },
    praise="One look-up and one product: all that 4-bit weights cost in a forward pass.",
)

# --- 09.4 ------------------------------------------------------------------------------------------------------------


def _verify_backward(answer):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(3, 5, 4, generator=generator, requires_grad=True)
    W, g = torch.randn(4, 4, generator=generator), torch.randn(3, 5, 4, generator=generator)
    (right,) = torch.autograd.grad((x @ W.T * g).sum(), x)
    ours = shaped(answer(g.clone(), W.clone()), (3, 5, 4), "the gradient of x")
    if close(ours, g @ W.T):
        raise NotYet("that is one more forward pass; backwards the matrix is not transposed")
    if close(ours, g):
        raise NotYet("the gradient has to pass through W; x lies on its other side")
    if close(ours, right * 0.5) or close(ours, right * 2):
        raise NotYet("there is a factor too many")
    if not close(ours, right):
        raise NotYet("the numbers differ from autograd's; for y = x W' the gradient of x is g times W")
    wide = answer(torch.ones(2, 3), torch.ones(3, 7))
    if not isinstance(wide, torch.Tensor) or wide.shape != (2, 7):
        raise NotYet(f"for W of 3 × 7 the gradient of x has 7 columns; yours is {getattr(wide, 'shape', wide)}")


BACKWARD = Exercise(
    id="09.4",
    title="Backwards through a frozen matrix",
    name="gradient_of_x",
    difficulty=2,
    minutes=6,
    stub=code("""
        def gradient_of_x(g, W):
            ...    # y = x @ W.T; g is the gradient of y
    """),
    solution=code("""
        def gradient_of_x(g, W):
            return g @ W
    """),
    verify=_verify_backward,
    hints=(
        "y has d_out columns and so has g; x has d_in. Which product of g and W (d_out, d_in) has d_in columns?",
        "g @ W: each input gets the gradients of all outputs, weighted as it was weighted on the way forward.",
    ),
    wrong={
        code("""
            def gradient_of_x(g, W):
                return g @ W.T
        """): "not transposed",
        code("""
            def gradient_of_x(g, W):
                return g
        """): "pass through W",
        code("""
            def gradient_of_x(g, W):
                return 2 * g @ W
        """): "a factor too many",
    },
    praise="x itself is not needed, so a frozen matrix keeps nothing for the backward pass.",
)

# --- 09.5 ------------------------------------------------------------------------------------------------------------


def _verify_rank(answer):
    ours = number(answer(4096, 4096, 4))
    slips = {
        4096.0: "bits are no bytes: 4 bits are half a byte; and A and B are two matrices",
        1024.0: "A and B are two matrices: r numbers for each input, and r for each output",
        2048.0: "a number of the adapter takes two bytes, a weight of the base half a byte",
        256.0: "the adapter's numbers are float16 here: two bytes each, not four",
        8192.0: "bits are no bytes: 4 bits are half a byte",
    }
    refuse_slips(ours, slips)
    if not math.isclose(ours, 512):
        raise NotYet(f"for 4,096 × 4,096 in 4 bits you get {ours:g}; set the bytes of both equal and solve for r")
    if not math.isclose(other := number(answer(576, 1536, 4)), 576 * 1536 / 4 / (576 + 1536)):
        raise NotYet(f"right for a square matrix, but for 576 × 1,536 you get {other:g}")
    if not math.isclose(other := number(answer(4096, 4096, 16)), 2048):
        raise NotYet(f"right in 4 bits, but for a base in 16 bits you get {other:g}")


RANK = Exercise(
    id="09.5",
    title="When the adapter outweighs its base",
    name="break_even_rank",
    difficulty=2,
    minutes=6,
    stub=code("""
        def break_even_rank(d_out, d_in, bits):
            ...    # A and B in float16, W in so many bits
    """),
    solution=code("""
        def break_even_rank(d_out, d_in, bits):
            base = d_out * d_in * bits / 8
            one_rank = (d_out + d_in) * 2
            return base / one_rank
    """),
    verify=_verify_rank,
    hints=(
        "Write down the bytes of the base, and the bytes that one rank adds: a row of A and a column of B.",
        "The base has d_out · d_in · bits / 8 bytes, one rank (d_out + d_in) · 2. Divide.",
    ),
    wrong={
        code("""
            def break_even_rank(d_out, d_in, bits):
                return d_out * d_in * bits / 8 / (d_in * 2)
        """): "two matrices",
        code("""
            def break_even_rank(d_out, d_in, bits):
                return d_out * d_in * bits / 8 / (d_out + d_in) / 4
        """): "two bytes each",
        code("""
            def break_even_rank(d_out, d_in, bits):
                return d_out / 8
        """): "right for a square matrix",
    },
    praise="It grows with the width: the larger the model, the lighter its adapters.",
)

EXERCISES = [BITS, PACK, DECODE, BACKWARD, RANK]
