"""Claims of lessonlib.lora.variants. References: PEFT's use_rslora, and the scale by hand."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import filled, logits
from torch import nn

from lessonlib.lora import LoRALinear, add_lora, load_lora, lora_layers, save_lora
from lessonlib.lora.variants import RsLoRALinear

close = torch.testing.assert_close


@pytest.mark.parametrize("r, scale", [(1, 16.0), (4, 8.0), (16, 4.0)])
def test_the_scale_is_alpha_over_the_root_of_r(r, scale):
    assert RsLoRALinear(nn.Linear(32, 32), r=r, alpha=16).scale == scale


def test_forward_and_gradients_equal_pefts(tiny, tiny_tokens):
    twin = get_peft_model(
        copy.deepcopy(tiny), LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], use_rslora=True)
    )
    filled(add_lora(tiny, ["q_proj"], r=4, alpha=6, layer=RsLoRALinear))
    for path, layer in lora_layers(tiny):
        theirs = twin.base_model.model.get_submodule(path)
        theirs.lora_A["default"].weight.data.copy_(layer.A)
        theirs.lora_B["default"].weight.data.copy_(layer.B)
    close(logits(tiny, tiny_tokens), logits(twin.eval(), tiny_tokens), atol=1e-6, rtol=0)
    for model in (tiny, twin):
        model(tiny_tokens, labels=tiny_tokens).loss.backward()
    for path, layer in lora_layers(tiny):
        theirs = twin.base_model.model.get_submodule(path)
        close(layer.A.grad, theirs.lora_A["default"].weight.grad, atol=1e-6, rtol=0)
        close(layer.B.grad, theirs.lora_B["default"].weight.grad, atol=1e-6, rtol=0)


def test_the_file_keeps_the_scale_for_us_and_for_peft(tiny, make_tiny, tiny_tokens, tmp_path):
    expected = logits(filled(add_lora(tiny, ["q_proj"], r=4, alpha=6, layer=RsLoRALinear)), tiny_tokens)
    save_lora(tiny, tmp_path)
    again = load_lora(make_tiny(), tmp_path)
    assert {type(layer) for _, layer in lora_layers(again)} == {LoRALinear}
    close(logits(again, tiny_tokens), expected, atol=1e-5, rtol=0)
    close(
        logits(PeftModel.from_pretrained(make_tiny(), tmp_path).eval(), tiny_tokens),
        expected,
        atol=1e-5,
        rtol=0,
    )
