"""Predicted FLOPs against torch's own counter, and against the papers."""

import math

import pytest
import torch
from tiny_models import tiny_model
from torch.utils.flop_counter import FlopCounterMode

from lessonlib.costs import FullFineTuning, LoRA, architecture, dollars, hours, training_compute
from lessonlib.lora import add_lora


def _counted(model, tokens):
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens, use_cache=False).loss.backward()
    return counter.get_total_flops()


def test_full_fine_tuning_takes_the_flops_that_torch_counts():
    model, tokens = tiny_model(), torch.randint(0, 50, (3, 24))
    predicted = training_compute(model.config, corpus=tokens.numel(), tokens=24)
    assert predicted.total == pytest.approx(_counted(model, tokens), rel=0.03)


def test_lora_takes_the_flops_that_torch_counts():
    model, tokens = tiny_model(), torch.randint(0, 50, (3, 24))
    method = LoRA(2, ["q_proj", "v_proj"])
    predicted = training_compute(model.config, method, corpus=tokens.numel(), tokens=24)
    add_lora(model, method.targets, r=2)
    assert predicted.total == pytest.approx(_counted(model, tokens), rel=0.08)  # below the first A nothing flows


def test_training_gpt3_took_what_its_paper_says():
    total = training_compute("gpt3-175b", corpus=300e9).total
    assert total == pytest.approx(3.14e23, rel=0.04)  # Brown et al. 2020, Table D.1, which leaves attention out


def test_lora_saves_a_third_and_recomputation_costs_a_third():
    full = training_compute("llama2-7b", corpus=1e6)
    lora = training_compute("llama2-7b", LoRA(8), corpus=1e6)
    again = training_compute("llama2-7b", corpus=1e6, recompute=True)
    assert lora.total / full.total == pytest.approx(2 / 3, abs=0.03)
    assert again.total / full.total == pytest.approx(4 / 3, abs=0.01)


def test_cost_is_linear_in_parameters():
    sizes = ["gpt3-small", "gpt3-2.7b", "gpt3-13b", "gpt3-175b"]
    x = [math.log(architecture(name).parameters) for name in sizes]
    y = [math.log(training_compute(name, FullFineTuning(), corpus=1e9).total) for name in sizes]
    slope = torch.linalg.lstsq(torch.tensor([[a, 1.0] for a in x]), torch.tensor(y)[:, None]).solution[0].item()
    assert 0.95 < slope < 1.05


def test_hours_and_dollars():
    assert hours(3600e12 * 8, 1e12, utilization=0.5, gpus=8) == pytest.approx(2)
    assert dollars(40, price=25 / 8) == 125


@pytest.mark.parametrize("change", [{"utilization": 0}, {"utilization": 1.2}, {"gpus": 0}, {"peak": -1.0}])
def test_impossible_hours_are_refused_by_name(change):
    settings = {"flops": 1e12, "peak": 1e12, "utilization": 0.4, "gpus": 1} | change
    with pytest.raises(ValueError, match=next(iter(change))):
        hours(settings.pop("flops"), settings.pop("peak"), **settings)


def test_impossible_amounts_are_refused():
    with pytest.raises(ValueError, match="corpus is 0"):
        training_compute("gpt2", corpus=0)
    with pytest.raises(ValueError, match="price -1"):
        dollars(1, price=-1)
