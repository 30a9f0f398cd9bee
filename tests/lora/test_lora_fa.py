"""Claims of lessonlib.lora.variants. References: PEFT's LoRA with its A frozen, and bytes by hand."""

import copy

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import logits
from torch import nn

from lessonlib.evaluation import SavedTensors
from lessonlib.lora import LoRALinear, add_lora, lora_layers, merge_lora, save_lora
from lessonlib.lora.variants import LoRAFALinear
from lessonlib.training import fit

close = torch.testing.assert_close


def test_only_B_trains_and_A_stays_as_it_was_drawn(tiny, tiny_tokens):
    add_lora(tiny, r=4, layer=LoRAFALinear)
    A = {path: layer.A.detach().clone() for path, layer in lora_layers(tiny)}
    assert {name[-2:] for name, p in tiny.named_parameters() if p.requires_grad} == {".B"}
    fit(tiny, [tiny_tokens] * 5, learning_rate=0.01, loss=lambda model, ids: model(ids, labels=ids).loss)
    for path, layer in lora_layers(tiny):
        assert torch.equal(layer.A, A[path]) and layer.B.any()


def test_gradients_of_B_equal_pefts(tiny, tiny_tokens):
    twin = get_peft_model(copy.deepcopy(tiny), LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"]))
    add_lora(tiny, ["q_proj"], r=4, layer=LoRAFALinear)
    for path, layer in lora_layers(tiny):
        theirs = twin.base_model.model.get_submodule(path)
        theirs.lora_A["default"].weight.data.copy_(layer.A)
        theirs.lora_A["default"].weight.requires_grad_(False)
    for model in (tiny, twin):
        model(tiny_tokens, labels=tiny_tokens).loss.backward()
    for path, layer in lora_layers(tiny):
        expected = twin.base_model.model.get_submodule(path).lora_B["default"].weight.grad
        close(layer.B.grad, expected, atol=1e-6, rtol=0)
        assert layer.A.grad is None and expected.abs().max() > 1e-5


def test_the_layer_keeps_A_x_and_not_x():
    kept = {}
    for kind in (LoRALinear, LoRAFALinear):
        layer = kind(nn.Linear(64, 64), r=4)
        x = torch.randn(10, 64).mul(2)
        with SavedTensors(layer) as saved:
            layer(x)
        kept[kind] = saved.bytes
    assert kept[LoRAFALinear] == 10 * 4 * 4  # A x: ten tokens, r = 4, four bytes
    assert kept[LoRALinear] == 10 * 4 * 4 + 10 * 64 * 4  # and x


def test_it_merges_and_its_file_is_plain_lora(tiny, make_tiny, tiny_tokens, tmp_path):
    add_lora(tiny, r=4, layer=LoRAFALinear)
    for _, layer in lora_layers(tiny):
        layer.B.data.normal_(std=0.05)
    expected = logits(tiny, tiny_tokens)
    save_lora(tiny, tmp_path)
    close(
        logits(PeftModel.from_pretrained(make_tiny(), tmp_path).eval(), tiny_tokens),
        expected,
        atol=1e-5,
        rtol=0,
    )
    close(logits(merge_lora(tiny), tiny_tokens), expected, atol=1e-6, rtol=0)
