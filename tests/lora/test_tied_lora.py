"""Claims of lessonlib.lora.variants. Reference: gradients of an untied twin, added up; counts by hand."""

import copy

import pytest
import torch
from tiny_models import logits

from lessonlib.lora import LoRAError, LoRALinear, add_lora, lora_layers, merge_lora, remove_lora
from lessonlib.lora.variants import RsLoRALinear, tie_lora
from lessonlib.training import trainable_parameters

TARGETS = ["q_proj", "v_proj", "down_proj"]
close = torch.testing.assert_close


def tied(model):
    torch.manual_seed(0)
    return tie_lora(add_lora(model, TARGETS, r=4))


def test_layers_of_one_name_share_one_pair(make_tiny):
    layers = dict(lora_layers(tied(make_tiny(num_hidden_layers=3))))
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
        mine = [layer for path, layer in layers.items() if path.endswith(name)]
        assert len(mine) == 3 and len({layer.A for layer in mine}) == len({layer.B for layer in mine}) == 1


@pytest.mark.parametrize("depth", [2, 5])
def test_the_count_does_not_grow_with_depth(make_tiny, depth):
    # By hand, hidden 32, values 16, MLP 64: r (in + out), once.
    trained = trainable_parameters(tied(make_tiny(num_hidden_layers=depth)))
    assert sum(p.numel() for p in trained) == 4 * (64 + 48 + 96)


def test_the_gradient_is_the_sum_over_the_layers(tiny, tiny_tokens):
    tied(tiny)
    for _, layer in lora_layers(tiny):
        torch.manual_seed(3)
        layer.B.data.normal_(std=0.05)
    untied = copy.deepcopy(tiny)
    for path, layer in lora_layers(untied):
        one = LoRALinear(layer.base, r=4)
        one.A.data, one.B.data = layer.A.detach().clone(), layer.B.detach().clone()
        untied.set_submodule(path, one)
    close(logits(tiny, tiny_tokens), logits(untied, tiny_tokens), atol=0, rtol=0)
    for model in (tiny, untied):
        model(tiny_tokens, labels=tiny_tokens).loss.backward()
    twins = dict(lora_layers(untied))
    for name in TARGETS:
        mine = next(layer for path, layer in lora_layers(tiny) if path.endswith(name))
        theirs = [layer for path, layer in twins.items() if path.endswith(name)]
        close(mine.A.grad, sum(layer.A.grad for layer in theirs), atol=1e-6, rtol=0)
        close(mine.B.grad, sum(layer.B.grad for layer in theirs), atol=1e-6, rtol=0)


def test_it_starts_at_the_base_merges_and_comes_out_again(tiny, tiny_tokens):
    before = logits(tiny, tiny_tokens)
    assert torch.equal(logits(tied(tiny), tiny_tokens), before)
    for _, layer in lora_layers(tiny):
        layer.B.data.normal_(std=0.05)
    moved = logits(tiny, tiny_tokens)
    close(logits(merge_lora(tiny), tiny_tokens), moved, atol=1e-6, rtol=0)
    assert torch.equal(logits(remove_lora(tiny), tiny_tokens), before)


def trained(model):
    add_lora(model).model.layers[1].self_attn.v_proj.B.data[0, 0] = 1.0
    return model


def other_rank(model):
    attention = add_lora(model, r=4).model.layers[1].self_attn
    attention.q_proj = LoRALinear(attention.q_proj.base, r=2)
    return model


def other_scale(model):
    attention = add_lora(model, r=4).model.layers[1].self_attn
    attention.q_proj = RsLoRALinear(attention.q_proj.base, r=4)
    return model


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda model: model, "no LoRA layers: call add_lora"),
        (lambda model: merge_lora(add_lora(model)), "is merged: call unmerge_lora"),
        (trained, r"layers.1.self_attn.v_proj.B is trained already"),
        (other_rank, "only equal ones can be tied"),
        (other_scale, "only equal ones can be tied"),
    ],
)
def test_what_cannot_be_tied_is_refused_and_stays_as_it_was(tiny, make, message):
    model = make(tiny)
    before = {name: id(p) for name, p in model.named_parameters()}
    with pytest.raises(LoRAError, match=message):
        tie_lora(model)
    assert {name: id(p) for name, p in model.named_parameters()} == before
