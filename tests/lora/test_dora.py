"""Claims of lessonlib.lora.dora. Reference: PEFT's DoRA on the same values, and the merged weight formed by hand."""

import copy
import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import logits
from torch import nn

from lessonlib.lora import (
    LoRAError,
    add_lora,
    load_lora,
    lora_layers,
    merge_lora,
    remove_lora,
    save_lora,
    unmerge_lora,
)
from lessonlib.lora.dora import DoRALinear, load_dora, save_dora

TARGETS = ["q_proj", "v_proj", "down_proj"]
close = torch.testing.assert_close


def filled(model):
    """The model with B and m moved in each layer, so that direction and length both differ from the base's."""
    generator = torch.Generator().manual_seed(1)
    for _, layer in lora_layers(model):
        layer.B.data = 0.05 * torch.randn(layer.B.shape, generator=generator)
        layer.m.data *= 1 + 0.2 * torch.rand(layer.m.shape, generator=generator)
    return model


def ours(model):
    return filled(add_lora(model, TARGETS, r=4, alpha=12, layer=DoRALinear))


def peft_twin(model):
    """The same model twice, with our layers and with PEFT's, and the same A, B and m in both."""
    twin = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS, use_dora=True))
    for path, layer in lora_layers(ours(model)):
        theirs = twin.base_model.model.get_submodule(path)
        theirs.lora_A["default"].weight.data.copy_(layer.A)
        theirs.lora_B["default"].weight.data.copy_(layer.B)
        theirs.lora_magnitude_vector["default"].weight.data.copy_(layer.m)
    return model, twin.eval()


# --- the layer ----------------------------------------------------------------------------------------------


def test_fresh_dora_changes_nothing(tiny, tiny_tokens):
    before = logits(tiny, tiny_tokens)
    add_lora(tiny, TARGETS, r=4, layer=DoRALinear)
    assert torch.equal(logits(tiny, tiny_tokens), before)


def test_forward_equals_pefts(tiny, tiny_tokens):
    before = logits(tiny, tiny_tokens)
    model, theirs = peft_twin(tiny)
    assert (logits(model, tiny_tokens) - before).abs().max() > 0.1
    close(logits(model, tiny_tokens), logits(theirs, tiny_tokens), atol=1e-6, rtol=1e-6)


def test_gradients_of_A_B_and_m_equal_pefts(tiny, tiny_tokens):
    model, theirs = peft_twin(tiny)
    for one in (model, theirs):
        one(tiny_tokens, labels=tiny_tokens).loss.backward()
    for path, layer in lora_layers(model):
        twin = theirs.base_model.model.get_submodule(path)
        close(layer.A.grad, twin.lora_A["default"].weight.grad, atol=1e-6, rtol=1e-5)
        close(layer.B.grad, twin.lora_B["default"].weight.grad, atol=1e-6, rtol=1e-5)
        close(layer.m.grad, twin.lora_magnitude_vector["default"].weight.grad, atol=1e-6, rtol=1e-5)
        assert layer.m.grad.abs().max() > 1e-5


def test_m_is_the_length_of_each_row_of_the_merged_weight():
    layer = DoRALinear(nn.Linear(6, 4), r=2)
    layer.B.data.normal_()
    layer.m.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    close(layer.merged().weight.norm(dim=1), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    direction = layer.base.weight + layer.scale * layer.B @ layer.A
    close(layer.merged().weight, layer.m[:, None] * direction / direction.norm(dim=1, keepdim=True))


def test_the_bias_is_not_stretched():
    layer = DoRALinear(nn.Linear(6, 4), r=2)
    layer.m.data *= 3
    close(layer(torch.zeros(6)), layer.base.bias)
    x = torch.randn(5, 6)
    close(layer(x), 3 * (x @ layer.base.weight.T) + layer.base.bias)


def test_only_A_B_and_m_train(tiny):
    # By hand, hidden 32, MLP 64, values 16, two layers: r (in + out) and one number a row.
    add_lora(tiny, TARGETS, r=4, layer=DoRALinear)
    trained = {name: p.numel() for name, p in tiny.named_parameters() if p.requires_grad}
    assert {name[-2:] for name in trained} == {".A", ".B", ".m"}
    assert sum(trained.values()) == 2 * (4 * (64 + 48 + 96) + 32 + 16 + 32)


def test_merged_equals_unmerged_and_the_base_comes_back(tiny, tiny_tokens):
    W = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    before = logits(ours(tiny), tiny_tokens)
    merge_lora(tiny)
    assert not any(isinstance(module, DoRALinear) for module in tiny.modules())
    close(logits(tiny, tiny_tokens), before, atol=1e-6, rtol=1e-6)
    assert torch.equal(logits(unmerge_lora(tiny), tiny_tokens), before)
    remove_lora(tiny)
    assert all(torch.equal(W[name], p) for name, p in tiny.named_parameters())


def test_A_B_and_m_stay_float32_on_a_bfloat16_base(tiny, tiny_tokens):
    ours(tiny.bfloat16())
    assert {p.dtype for p in tiny.parameters() if p.requires_grad} == {torch.float32}
    assert tiny(tiny_tokens).logits.dtype == torch.bfloat16


def test_packed_weights_are_refused():
    base = nn.Linear(4, 4)
    base.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(LoRAError, match=r"packed bits.*use LoRALinear"):
        DoRALinear(base)


# --- files --------------------------------------------------------------------------------------------------


def test_peft_reads_what_save_dora_wrote(tiny, make_tiny, tiny_tokens, tmp_path):
    before = logits(ours(tiny), tiny_tokens)
    save_dora(tiny, tmp_path)
    assert torch.equal(logits(tiny, tiny_tokens), before)  # the model is as it was
    theirs = PeftModel.from_pretrained(make_tiny(), tmp_path).eval()
    close(logits(theirs, tiny_tokens), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("writer", ["ours", "merged", "PEFT"])
def test_load_dora_reads_what_save_dora_and_peft_wrote(tiny, make_tiny, tiny_tokens, tmp_path, writer):
    model, theirs = peft_twin(tiny)
    expected = logits(theirs, tiny_tokens)
    if writer == "PEFT":
        theirs.save_pretrained(tmp_path)
    else:
        save_dora(merge_lora(model) if writer == "merged" else model, tmp_path)
    again = load_dora(make_tiny(), tmp_path)
    assert all(isinstance(layer, DoRALinear) for _, layer in lora_layers(again))
    close(logits(again, tiny_tokens), expected, atol=1e-5, rtol=0)


@pytest.fixture
def saved(make_tiny, tmp_path):
    """A directory with a good adapter of the tiny model, for a test to damage."""
    return save_dora(ours(make_tiny()), tmp_path / "adapter")


def refused(model, directory, message, load=load_dora):
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(LoRAError, match=message):
        load(model, directory)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before


def test_load_lora_refuses_a_dora_file_by_name(tiny, saved):
    refused(tiny, saved, "sets use_dora = True", load=load_lora)


def test_load_dora_refuses_a_plain_file_by_name(tiny, make_tiny, tmp_path):
    save_lora(add_lora(make_tiny(), r=4), tmp_path)
    refused(tiny, tmp_path, "does not set use_dora: load it with load_lora")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors, name: tensors.pop(name), "lacks B or the magnitudes of .*q_proj"),
        (lambda tensors, name: tensors[name].fill_(math.nan), "q_proj: .* finite numbers"),
        (
            lambda tensors, name: tensors.update({name: torch.ones(3)}),
            r"q_proj: \(3,\) magnitudes, expected 32",
        ),
    ],
)
def test_damaged_magnitudes_are_refused(tiny, saved, change, message):
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors, "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector")
    save_file(tensors, file)
    refused(tiny, saved, message)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_or_truncated_file_is_refused(tiny, saved, name):
    (saved / name).write_bytes((saved / name).read_bytes()[:50])
    refused(tiny, saved, f"{name} cannot be read")
    (saved / name).unlink()
    refused(tiny, saved, f"{name} cannot be read")


def test_what_else_a_configuration_sets_is_refused_by_name(tiny, saved):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps(config | {"lora_bias": True}))
    refused(tiny, saved, "sets lora_bias = True")


def test_an_adapter_of_a_wider_base_is_refused(make_tiny, saved):
    refused(make_tiny(hidden_size=64), saved, "it is for another base")


def test_saving_without_dora_or_with_nan_writes_nothing(tiny, make_tiny, tmp_path):
    for model in (tiny, add_lora(make_tiny(), r=4)):
        with pytest.raises(LoRAError, match=r"no DoRA layers|not a DoRALinear: use save_lora"):
            save_dora(model, tmp_path / "adapter")
    broken = ours(make_tiny())
    broken.model.layers[1].self_attn.v_proj.m.data[0] = math.nan
    with pytest.raises(LoRAError, match=r"v_proj: .* finite"):
        save_dora(broken, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
