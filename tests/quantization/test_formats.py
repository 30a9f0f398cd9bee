"""Claims of lessonlib.quantization.formats. References: gguf (ggml's own formats), bitsandbytes, torch's fake quantization."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf import quants as ggml

from lessonlib.quantization import nf4
from lessonlib.quantization.formats import (
    FORMATS,
    FP4,
    INT4,
    NF2,
    NF3,
    NF4,
    NF4_DOUBLE,
    Q4_1,
    Absmax,
    Functions,
    measure,
    pack,
    unpack,
)
from lessonlib.quantization.nf4 import CODEBOOK, QuantizationError

close = torch.testing.assert_close
EVERY = pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)


def weights(*shape, seed=0):
    return 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def there_and_back(W, format):
    return format.dequantize(format.quantize(W))


# --- packing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 1000])
def test_unpacking_undoes_packing_into_no_more_bytes_than_needed(bits, n):
    codes = torch.randint(0, 2**bits, (n,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = pack(codes, bits)
    assert len(packed) == -(-n * bits // 8)
    assert torch.equal(unpack(packed, bits, n), codes)


def test_the_stream_of_bits_is_numpys():
    codes = np.random.default_rng(0).integers(0, 8, 100, dtype=np.uint8)
    stream = np.packbits(np.unpackbits(codes[:, None], axis=1)[:, -3:])
    assert pack(torch.from_numpy(codes), bits=3).tolist() == stream.tolist()


def test_four_bits_are_packed_as_nf4_packs_them():
    W = weights(16, 64)
    assert torch.equal(Absmax("NF4", CODEBOOK).quantize(W).codes, nf4.quantize(W).codes)


# --- each format beside its reference -----------------------------------------------------------------------


def test_fp4_is_bitsandbytes():
    W = weights(256, 256)
    expected = bnb.dequantize_4bit(*bnb.quantize_4bit(W, quant_type="fp4"))
    close(there_and_back(W, FP4), expected, atol=1e-6, rtol=1e-4)  # theirs has the values to four digits


def test_int4_is_torchs_fake_quantization():
    W = weights(512, 64)
    scale = W.abs().amax(1) / 7
    expected = torch.fake_quantize_per_channel_affine(W, scale, torch.zeros(512), 0, -7, 7)
    close(there_and_back(W, INT4), expected, atol=1e-8, rtol=0)


def test_q4_1_is_ggmls():
    W = weights(64, 256) + 0.01
    theirs = ggml.dequantize(ggml.quantize(W.numpy(), GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1)
    close(there_and_back(W, Q4_1), torch.from_numpy(theirs), atol=1e-8, rtol=0)


def test_a_tensor_read_from_q4_1_goes_through_q4_1_once_more_nearly_unchanged():
    # Only the float16 minimum and step are rounded anew: that is why the base model is already "4-bit".
    once = there_and_back(weights(64, 256), Q4_1)
    assert (there_and_back(once, Q4_1) - once).norm() < 1e-3 * once.norm()


@pytest.mark.parametrize(("format", "values"), [(NF3, 8), (NF2, 4), (FP4, 15), (INT4, 15), (NF4, 16)])
def test_a_block_takes_no_more_values_than_the_codes_allow(format, values):
    assert len(there_and_back(weights(4096, 1)[:, 0], format)[:64].unique()) <= values
    every = torch.cat([torch.linspace(-1, 1, 63), torch.zeros(1)])
    assert len(there_and_back(every, format).unique()) == values


# --- bits and errors ----------------------------------------------------------------------------------------

# Codes, and a float32 (GGUF: two float16) for each block of 64 (GGUF: 32), by hand.
BITS = {
    Q4_1: 4 + 32 / 32,
    NF4: 4 + 32 / 64,
    NF4_DOUBLE: 4 + 8 / 64 + 32 / (64 * 256),
    FP4: 4 + 32 / 64,
    INT4: 4 + 32 / 64,
    NF3: 3 + 32 / 64,
    NF2: 2 + 32 / 64,
}


@pytest.fixture(scope="module")
def measured():
    W = weights(2048, 2048)
    return {format: measure(W, format) for format in FORMATS}


@EVERY
def test_bits_a_weight_from_real_buffers_of_four_million_weights(measured, format):
    assert measured[format].bits == pytest.approx(BITS[format], abs=0.001)


def test_on_normal_weights_nf4_loses_least_of_the_formats_with_4_5_bits(measured):
    assert measured[NF4].error < 0.9 * measured[INT4].error
    assert measured[INT4].error < 0.95 * measured[FP4].error


def test_fewer_bits_lose_more_and_q4_1_pays_its_half_bit_back(measured):
    errors = [measured[format].error for format in (Q4_1, NF4, NF3, NF2)]
    assert errors == sorted(errors)
    assert errors[3] > 5 * errors[1]


def test_error_is_the_share_of_the_weights_own_size():
    # By hand: 1, 0.5, 0, -1 in three values: only 0.5 is off, by 0.5 (halfway goes down).
    three = Absmax("three", torch.tensor([-1.0, 0.0, 1.0]))
    result = measure(torch.tensor([1.0, 0.5, 0.0, -1.0]).repeat(64), three)
    assert result.error == pytest.approx(0.5 / 1.5)
    assert result.worst == 0.5
    assert result.bits == 2 + 32 / 64


def test_a_format_of_your_own_is_measured():
    half = Functions("half", lambda W: (W.half(),), lambda q: q[0].float())
    result = measure(weights(64, 64), half)
    assert result.bits == 16
    assert 0 < result.error < 1e-3
    assert str(result).startswith("half: 16.000 bits a weight, error 0.0%")


def test_a_weight_of_zeros_cannot_be_measured():
    with pytest.raises(ValueError, match=r"shape \(3, 2\) and holds nothing but zeros"):
        measure(torch.zeros(3, 2), NF4)


# --- the edges, the same for every format -------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (33,), (3, 5, 7), (2, 64), ()])
def test_shape_and_dtype_come_back(format, dtype, shape):
    W = torch.full(shape, 3.0, dtype=dtype)
    assert there_and_back(W, format).dtype == dtype
    close(there_and_back(W, format), W, atol=0, rtol=1e-3)


@EVERY
def test_zeros_and_nothing_stay_what_they_were(format):
    assert not there_and_back(torch.zeros(3, 64), format).any()
    assert there_and_back(torch.empty(0, 64), format).shape == (0, 64)


@EVERY
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(format, value):
    with pytest.raises(QuantizationError, match=rf"W holds {value} at \(1, 2\)"):
        format.quantize(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, value]]))


@EVERY
def test_other_dtypes_are_refused(format):
    with pytest.raises(QuantizationError, match=r"W is torch.int32"):
        format.quantize(torch.ones(2, 64, dtype=torch.int32))


def test_q4_1_refuses_what_float16_cannot_hold():
    with pytest.raises(QuantizationError, match=r"values up to 1e\+06, beyond float16's 65,504"):
        Q4_1.quantize(torch.tensor([1e6, -1e6]))
