"""Claims of lessonlib.lora.variants. Reference: PEFT's lora_dropout with the same seed."""

import copy
import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lessonlib.lora import LoRALinear, add_lora, lora_layers, merge_lora
from lessonlib.lora.variants import DropoutLoRALinear

close = torch.testing.assert_close


def layer(p=0.5):
    """A dropout layer with an update, and a plain one with the same values."""
    torch.manual_seed(0)
    one = DropoutLoRALinear(nn.Linear(6, 4), r=2, p=p)
    one.B.data.normal_()
    plain = LoRALinear(one.base, r=2)
    plain.A, plain.B = one.A, one.B
    return one, plain


def test_training_equals_pefts_with_the_same_seed(tiny, tiny_tokens):
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], lora_dropout=0.5)
    twin = get_peft_model(copy.deepcopy(tiny), config)
    add_lora(tiny, ["q_proj", "down_proj"], r=4, layer=functools.partial(DropoutLoRALinear, p=0.5))
    for path, mine in lora_layers(tiny):
        mine.B.data.normal_(std=0.05)
        theirs = twin.base_model.model.get_submodule(path)
        theirs.lora_A["default"].weight.data.copy_(mine.A)
        theirs.lora_B["default"].weight.data.copy_(mine.B)
    losses = []
    for model in (tiny.train(), twin.train()):
        torch.manual_seed(7)
        losses.append(model(tiny_tokens, labels=tiny_tokens).loss)
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    for path, mine in lora_layers(tiny):
        theirs = twin.base_model.model.get_submodule(path)
        close(mine.A.grad, theirs.lora_A["default"].weight.grad, atol=1e-6, rtol=0)
        close(mine.B.grad, theirs.lora_B["default"].weight.grad, atol=1e-6, rtol=0)


def test_in_evaluation_and_merged_it_is_plain_lora():
    one, plain = layer()
    x = torch.randn(5, 6)
    assert torch.equal(one.eval()(x), plain(x))
    close(merge_lora(nn.Sequential(one))(x), plain(x), atol=1e-6, rtol=0)


def test_dropout_leaves_the_frozen_product_alone():
    one, _ = layer(p=0.999999)
    x = torch.randn(5, 6)
    assert torch.equal(one.train()(x), one.base(x))


def test_the_update_is_right_on_average():
    one, plain = layer()
    x = torch.randn(6).expand(200_000, 6)
    # Of 200,000 draws the mean is off by a few thousandths of the update's own size.
    close(one.train()(x).mean(0), plain(x[0]), atol=0.03, rtol=0)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2])
def test_a_share_that_is_none_is_refused(p):
    with pytest.raises(ValueError, match=f"p is {p}; .* at least 0 and below 1"):
        DropoutLoRALinear(nn.Linear(2, 2), p=p)
