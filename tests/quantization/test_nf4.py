"""Claims of lessonlib.quantization.nf4. References: bitsandbytes, scipy's normal distribution, the QLoRA paper's appendix E."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from bitsandbytes.backends.utils import CODE
from scipy.stats import norm

from lessonlib.evaluation import tensor_bytes
from lessonlib.quantization.nf4 import (
    CODEBOOK,
    DYNAMIC,
    DoubleQuantized,
    QuantizationError,
    Quantized,
    dequantize,
    double_quantize,
    in_blocks,
    nearest,
    normal_float,
    normalize,
    quantize,
)

close = torch.testing.assert_close
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIDDLES = (CODEBOOK[1:] + CODEBOOK[:-1]) / 2
# Dettmers et al., 2023, appendix E.
PAPER = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def weights(*shape, dtype=torch.float32, seed=0):
    """Like a trained matrix: normal, small, one row much larger than the others."""
    W = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) > 1:
        W[shape[0] // 2] *= 20
    return W.to(dtype)


def theirs(W, block_size=64, double=False):
    return bnb.quantize_4bit(W, blocksize=block_size, quant_type="nf4", compress_statistics=double)


def codes(q):
    return torch.stack([q.codes >> 4, q.codes & 15], 1).flatten()


# --- the code book ------------------------------------------------------------------------------------------


def test_code_book_is_the_papers_and_bitsandbytes():
    close(CODEBOOK, torch.tensor(PAPER), atol=1e-6, rtol=0)
    close(CODEBOOK, CODE["nf4"], atol=1e-6, rtol=0)
    close(CODEBOOK, bnb.get_4bit_type("nf4", device="cpu"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_code_book_is_made_of_quantiles(bits):
    # scipy's, by hand: one probability more above zero than below it, the outermost as the paper averages it.
    n = 2**bits
    last = 1 - (1 / (2 * n) + 1 / (2 * n - 2)) / 2
    above, below = norm.ppf(np.linspace(last, 0.5, n // 2 + 1)), -norm.ppf(np.linspace(last, 0.5, n // 2))
    expected = np.unique(np.concatenate([above, below])) / above[0]
    close(normal_float(bits), torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


def test_normal_weights_use_every_code_but_not_equally():
    # The claim "equally often" is for weights divided by their standard deviation, not by the largest of 64.
    W = torch.randn(4096, 256, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(codes(quantize(W)).int(), minlength=16) / W.numel()
    assert 0.015 < share.min() < 0.022
    assert 0.085 < share.max() < 0.1


def test_the_nearest_value_is_taken():
    x = torch.linspace(-1, 1, 5001)
    chosen = (CODEBOOK[nearest(x, CODEBOOK).int()] - x).abs()
    close(chosen, (CODEBOOK - x[:, None]).abs().amin(1), atol=1e-7, rtol=0)


def test_8_bit_code_book_is_bitsandbytes():
    close(DYNAMIC, bnb.create_dynamic_map(), atol=1e-9, rtol=0)
    assert len(DYNAMIC.unique()) == 256


# --- beside bitsandbytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [32, 64, 256, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(192, 96), (31, 58), (7, 6, 4), (1000,), (5, 1), (33, 3)])
def test_codes_are_bitsandbytes_but_at_midpoints(dtype, shape, block_size):
    W = weights(*shape, dtype=dtype)
    packed, state = theirs(W, block_size)
    q = quantize(W, block_size)
    high, low = packed.flatten() >> 4, packed.flatten() & 15
    expected = torch.stack([high, low], 1).flatten()[: W.numel()]
    differ = codes(q)[: W.numel()] != expected
    x = normalize(in_blocks(W, block_size))[0].flatten()[: W.numel()]
    assert (x[differ, None] - MIDDLES).abs().amin(-1).le(1e-6).all()
    assert differ.float().mean() < 1e-3
    assert torch.equal(q.absmax, state.absmax)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("double", [False, True])
def test_bitsandbytes_buffers_are_read_to_the_same_values(dtype, double):
    W = weights(320, 192, dtype=dtype)
    packed, state = theirs(W, double=double)
    if double:
        rest = (state.state2.absmax, state.offset)
        q = DoubleQuantized(packed.flatten(), state.absmax, W.shape, W.dtype, 64, *rest)
    else:
        q = Quantized(packed.flatten(), state.absmax, W.shape, W.dtype, 64)
    assert torch.equal(dequantize(q), bnb.dequantize_4bit(packed, state))


def test_double_quantization_is_bitsandbytes_but_at_midpoints():
    # bitsandbytes' CPU kernel places x on a grid of 2^16 cells over [-1, 1] first: half a cell is 2^-16.
    W = weights(2048, 512)
    state, q = theirs(W, double=True)[1], double_quantize(quantize(W))
    close(q.second, state.state2.absmax, atol=0, rtol=1e-6)
    close(q.offset, state.offset, atol=0, rtol=1e-6)
    differ = q.absmax != state.absmax
    x = normalize(in_blocks(quantize(W).absmax - q.offset, 256))[0].flatten()[: len(differ)]
    middles = (DYNAMIC[1:] + DYNAMIC[:-1]) / 2
    assert differ.float().mean() < 0.01
    assert (x[differ, None] - middles).abs().amin(-1).le(2**-16 + 1e-6).all()


# --- bits a weight ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_million():
    return quantize(weights(2048, 2048))


def bits_a_weight(q):
    return 8 * tensor_bytes(t for t in vars(q).values() if torch.is_tensor(t)) / q.shape.numel()


def test_4_5_bits_a_weight_from_real_buffers(four_million):
    assert four_million.shape.numel() >= 4_000_000
    assert bits_a_weight(four_million) == pytest.approx(4.5, abs=0.01)


def test_4_127_bits_a_weight_with_double_quantization(four_million):
    assert bits_a_weight(double_quantize(four_million)) == pytest.approx(4.127, abs=0.001)


@pytest.mark.parametrize(("block_size", "expected"), [(32, 5.0), (128, 4.25), (1024, 4.03125)])
def test_larger_blocks_cost_fewer_bits(block_size, expected):
    assert bits_a_weight(quantize(weights(512, 512), block_size)) == pytest.approx(expected)


# --- what it does to weights --------------------------------------------------------------------------------


def test_error_on_normal_weights_is_9_percent_of_their_size():
    W = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    assert (dequantize(quantize(W)) - W).pow(2).mean().sqrt() == pytest.approx(0.092, abs=0.001)


def test_error_is_at_most_half_the_widest_step_of_each_block():
    W = weights(64, 640)
    error = in_blocks(dequantize(quantize(W)) - W, 64).abs().amax(1)
    widest = CODEBOOK.diff().max() / 2
    assert (error <= widest * quantize(W).absmax * (1 + 1e-6)).all()
    assert (error > 0.5 * widest * quantize(W).absmax).any()


def test_the_largest_weight_of_each_block_stays():
    W = weights(64, 64)
    largest = W.abs().argmax(1, keepdim=True)
    assert torch.equal(dequantize(quantize(W)).gather(1, largest).abs(), W.gather(1, largest).abs())


def test_quantizing_again_changes_nothing():
    once = dequantize(quantize(weights(96, 160)))
    assert torch.equal(dequantize(quantize(once)), once)


def test_double_quantization_adds_little_error():
    W = weights(512, 512)
    plain, double = quantize(W), double_quantize(quantize(W))
    assert (dequantize(double) - dequantize(plain)).norm() < 0.02 * W.norm()
    assert not torch.equal(dequantize(double), dequantize(plain))


# --- the edges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (63,), (65,), (3, 5, 7), (128, 1), (), (2, 100_003)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_dtype_come_back_where_the_block_size_does_not_divide(shape, dtype):
    # A sign and a magnitude that both have a code: exact, wherever the last block ends.
    W = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    for q in (quantize(W), quantize(W, block_size=6)):
        assert dequantize(q).dtype == dtype
        assert torch.equal(dequantize(q), W)


@pytest.mark.parametrize("double", [lambda q: q, double_quantize])
def test_a_block_of_zeros_stays_zero(double):
    W = weights(4, 64)
    W[2] = 0
    assert not dequantize(double(quantize(W)))[2].any()
    assert not dequantize(double(quantize(torch.zeros(300)))).any()


@pytest.mark.parametrize("shape", [(0,), (0, 64), (64, 0)])
@pytest.mark.parametrize("double", [lambda q: q, double_quantize])
def test_an_empty_tensor_stays_empty(shape, double):
    q = double(quantize(torch.empty(shape, dtype=torch.bfloat16)))
    assert dequantize(q).shape == shape
    assert dequantize(q).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [1e-44, 1e-39, 1e-20, 1e20, 3e38])
def test_values_at_the_ends_of_float32(size):
    W = torch.tensor([1.0, -1.0, 0.0, 1.0]) * size
    assert torch.equal(dequantize(quantize(W)), W)


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_refused_by_name_and_place(value, name, dtype):
    W = weights(4, 70, dtype=dtype)
    W[2, 65] = value
    with pytest.raises(QuantizationError, match=rf"W holds {name} at \(2, 65\): .*load it anew"):
        quantize(W)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_other_dtypes_are_refused_by_name(dtype):
    with pytest.raises(QuantizationError, match=rf"W is {dtype}; expected float32.*call .float\(\) first"):
        quantize(torch.ones(4, 64).to(dtype))


@pytest.mark.parametrize("block_size", [0, -64, 1, 63, 64.0, None])
def test_a_block_size_that_is_not_even_is_refused(block_size):
    with pytest.raises(QuantizationError, match=r"block_size is .*expected an even whole number"):
        quantize(torch.ones(4, 64), block_size)


def test_double_quantizing_twice_is_refused():
    with pytest.raises(QuantizationError, match="8 bits already"):
        double_quantize(double_quantize(quantize(weights(4, 64))))


def test_quantizing_leaves_the_weight_alone_and_off_the_graph():
    W = weights(8, 64).T.requires_grad_()
    before = W.detach().clone()
    out = dequantize(quantize(W))
    assert torch.equal(W, before)
    assert out.is_contiguous() and not out.requires_grad
    assert torch.equal(out, dequantize(quantize(before.contiguous())))


def test_large_tensors_are_worked_on_in_pieces_without_a_seam():
    # 131,072 values a piece: two whole ones and a part of a third, as one small tensor after another gives them.
    W = weights(300, 1024)
    apart = torch.cat([dequantize(quantize(rows)) for rows in W.split(16)])
    assert torch.equal(dequantize(quantize(W)), apart)
