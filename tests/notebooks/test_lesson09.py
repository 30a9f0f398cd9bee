"""What notebook 09 promises beyond what holds for all notebooks."""

import math

import pytest
import torch
from lesson_cells import cells, definitions
from tiny_models import six_steps
from torch import nn

from lessonlib.evaluation import paired_difference
from lessonlib.experiments import lesson09_qlora as room
from lessonlib.experiments import rerun
from lessonlib.lora import add_lora
from lessonlib.quantization.formats import Functions, measure
from lessonlib.quantization.linear import FourBitWeight, to_four_bits
from lessonlib.quantization.nf4 import CHUNK, Quantized, in_blocks, nearest, normalize
from lessonlib.quantization.qlora import QLoRALinear
from lessonlib.runs import load_runs


def defined(source: str) -> dict:
    """What the notebook's definition cells define, with what stands between them."""
    names = {"torch": torch, "nn": nn, "math": math, "CHUNK": CHUNK}
    names |= {known.__name__: known for known in (Quantized, in_blocks, nearest, normalize, FourBitWeight)}
    code_book, rest = source.split("def quantize(")
    exec(code_book, names)
    names["CODEBOOK"] = book = names["normal_float"](4)
    names["PAIRS"] = torch.cartesian_prod(book, book).contiguous().view(torch.float64).flatten()
    exec("def quantize(" + rest, names)
    return names


def outcome(source: str, model) -> tuple:
    """The error on a matrix with the notebook's own functions, and six losses through its own layer."""
    names = defined(source)
    W = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    error = measure(W, Functions("own", names["quantize"], names["dequantize"])).error
    torch.manual_seed(0)
    own = to_four_bits(model, layer=names["FourBitLinear"])
    return error, six_steps(add_lora(own, ["q_proj"], r=4, layer=QLoRALinear))


@pytest.mark.parametrize(
    "line, edited",
    [
        (
            "torch.special.ndtri(torch.linspace(last, 0.5, half + 1)[:-1].double())",
            "torch.linspace(1, 0.1, half)",
        ),
        ("nearest(scaled, CODEBOOK)", "nearest(0.9 * scaled, CODEBOOK)"),
        ("torch.mul(values, scale[:, None]", "torch.mul(values, 0.9 * scale[:, None]"),
        ("return grad @ dequantize", "return 0.5 * grad @ dequantize"),
        ("Product.apply(x, self.quantized)", "Product.apply(0.9 * x, self.quantized)"),
    ],
)
def test_an_edit_in_the_notebooks_own_cells_changes_the_outcome(line, edited, make_tiny):
    source = definitions("09")
    assert source.count(line) >= 1
    before = outcome(source, make_tiny())
    assert outcome(source, make_tiny()) == before
    assert outcome(source.replace(line, edited), make_tiny()) != before


def test_the_model_is_trained_through_the_notebooks_own_layer():
    code = "\n".join(cell.source for cell in cells("09") if cell.cell_type == "code")
    assert "layer=FourBitLinear" in code and 'Functions("NF4", quantize, dequantize)' in code
    assert "from lessonlib.quantization.nf4 import quantize" not in code


def test_both_bases_got_the_same_trials_the_same_steps_and_the_same_seeds():
    runs = [load_runs(name, **room.EVERYWHERE) for name in ("lora_16_bits", "qlora")]
    rates, seeds = ([{run.settings[key] for run in each} for each in runs] for key in ("learning_rate", "seed"))
    assert rates == [set(room.RATES)] * 2 and seeds == [set(room.SEEDS)] * 2


def test_a_base_in_four_bits_predicts_worse_than_in_sixteen_and_in_two_bits_far_worse():
    runs = {run.settings["format"]: run.results for run in load_runs("base_in")}
    assert set(runs) == set(room.FORMAT)
    assert runs["Q4_1"]["divergence"] < runs["NF4"]["divergence"] < runs["NF3"]["divergence"]
    assert runs["NF2"]["text_loss"] > runs["NF2"]["text_loss_before"] + 1


def test_two_bases_are_compared_over_all_seeds():
    # With one seed each it is the paired difference of the two runs.
    one, other = (load_runs(name, seed=0, **room.EVERYWHERE)[:1] for name in ("lora_16_bits", "qlora"))
    assert room.compared(one, other) == pytest.approx(paired_difference(one[0].answers(), other[0].answers()))
    both = load_runs("qlora", **room.EVERYWHERE)
    assert room.compared(both, both) == (0, 0, 0)


@pytest.mark.robust
def test_one_recorded_point_falls_in_its_band_again():
    again = rerun(load_runs("base_in", format="NF4")[0].id)
    assert again.inside, again
    assert again.again.results["divergence"] == pytest.approx(again.recorded.results["divergence"], rel=0.2)
