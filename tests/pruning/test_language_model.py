"""Claims of lessonlib.pruning.language_model. References: weights zeroed by hand, a model built with fewer layers."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_models import logits
from torch.nn import functional as F

from lessonlib.pruning.language_model import (
    PartError,
    every_head,
    head_importance,
    layer_influence,
    perplexity,
    smallest,
    text_windows,
    weakest,
    without_heads,
    without_layers,
    without_small_weights,
)

close = torch.testing.assert_close
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def whole(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


# --- heads -----------------------------------------------------------------------------------------------------------


def test_a_silent_head_is_a_head_without_columns_in_o_proj(tiny, make_tiny, tiny_tokens):
    by_hand = make_tiny()
    by_hand.model.layers[1].self_attn.o_proj.weight.data[:, 16:24] = 0  # the third of four heads, 8 wide
    with without_heads(tiny, [(1, 2)]):
        close(logits(tiny, tiny_tokens), logits(by_hand, tiny_tokens), atol=1e-6, rtol=0)
    assert (logits(tiny, tiny_tokens) - logits(by_hand, tiny_tokens)).abs().max() > 1e-3


def test_without_any_head_no_attention_output_is_left(tiny, make_tiny, tiny_tokens):
    by_hand = make_tiny()
    for layer in by_hand.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    assert every_head(tiny) == [(layer, head) for layer in (0, 1) for head in range(4)]
    with without_heads(tiny, every_head(tiny)):
        close(logits(tiny, tiny_tokens), logits(by_hand, tiny_tokens), atol=1e-6, rtol=0)


# --- layers -------------------------------------------------------------------------------------------------------------


def test_without_layers_equals_a_model_built_of_the_others(make_tiny, tiny_tokens):
    three, one = make_tiny(num_hidden_layers=3), make_tiny(num_hidden_layers=1)
    kept = {name.replace("layers.1.", "layers.0."): v for name, v in three.state_dict().items()
            if "layers.0." not in name and "layers.2." not in name}  # fmt: skip
    one.load_state_dict(kept)
    with without_layers(three, [0, 2]):
        assert torch.equal(logits(three, tiny_tokens), logits(one, tiny_tokens))


# --- single weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_share_of_zeros_is_exact_in_every_matrix(tiny, share):
    tiny.bfloat16()  # few different values, so that many weights are equally small
    with without_small_weights(tiny, share):
        for name, weight in tiny.named_parameters():
            if name.split(".")[-2] in LINEAR:
                assert (weight == 0).sum() == round(share * weight.numel()), name
            else:
                assert (weight != 0).any(), name


def test_those_that_go_are_no_larger_than_those_that_stay():
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    gone = smallest(weight, 0.37)
    assert gone.sum() == 444 and weight.abs()[gone].max() <= weight.abs()[~gone].min()


def test_of_equal_weights_exactly_the_share_goes():
    assert smallest(torch.tensor([[1.0, -1.0, 1.0], [2.0, 1.0, -1.0]]), 1 / 3).sum() == 2
    assert smallest(torch.ones(8, 8), 0.25).sum() == 16


# --- given back -------------------------------------------------------------------------------------------------------


def no_heads(model):
    return without_heads(model, every_head(model)[::2])


def no_first_layer(model):
    return without_layers(model, [0])


def half_the_weights(model):
    return without_small_weights(model, 0.5)


@pytest.mark.parametrize("remove", [no_heads, no_first_layer, half_the_weights])
def test_after_removal_the_model_is_what_it_was_even_where_it_failed(tiny, tiny_tokens, remove):
    before, state, paths = logits(tiny, tiny_tokens), whole(tiny), [p for p, _ in tiny.named_modules()]
    with pytest.raises(RuntimeError, match="in the middle"), remove(tiny):
        assert not torch.equal(logits(tiny, tiny_tokens), before)
        raise RuntimeError("in the middle")
    assert torch.equal(logits(tiny, tiny_tokens), before)
    assert same(state, whole(tiny)) and paths == [p for p, _ in tiny.named_modules()]


def test_heads_layers_and_weights_can_be_removed_together(tiny, tiny_tokens):
    before = logits(tiny, tiny_tokens)
    with without_small_weights(tiny, 0.5), without_heads(tiny, [(0, 1)]), without_layers(tiny, [1]):
        assert not torch.equal(logits(tiny, tiny_tokens), before)
    assert torch.equal(logits(tiny, tiny_tokens), before)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda model: without_heads(model, [(0, 4)]), r"no head \(0, 4\): layers go from 0 to 1, heads from 0 to 3"),
        (lambda model: without_heads(model, [(2, 0)]), r"no head \(2, 0\)"),
        (lambda model: without_layers(model, [1, 2]), "no layer 2: the model's layers go from 0 to 1"),
        (lambda model: without_layers(model, [-1]), "no layer -1"),
        (lambda model: without_small_weights(model, 1.5), "amount = 1.5: give a number from 0"),
        (lambda model: without_small_weights(model, -0.1), "amount = -0.1"),
    ],
)  # fmt: skip
def test_a_part_that_is_not_there_is_named_and_changes_nothing(tiny, tiny_tokens, action, message):
    before = logits(tiny, tiny_tokens)
    with pytest.raises(PartError, match=message), action(tiny):
        pass
    assert torch.equal(logits(tiny, tiny_tokens), before)


# --- what to take first -------------------------------------------------------------------------------------------------


def last_token_loss(model, batch):
    return F.cross_entropy(model(batch.input_ids).logits[:, -1], batch.targets)


class Texts(SimpleNamespace):
    """A batch as `head_importance` takes it."""

    def to(self, device):
        return self


def test_importance_is_the_slope_of_the_loss_by_the_gate(tiny, tiny_tokens):
    # By hand: the loss of each text with o_proj's columns of a head scaled by 1 ± h, the difference over 2 h.
    targets, h = torch.tensor([5, 6, 7]), 1e-2
    batch = Texts(input_ids=tiny_tokens, targets=targets)
    slopes = torch.zeros(2, 4)
    for layer, head in every_head(tiny):
        columns = tiny.model.layers[layer].self_attn.o_proj.weight.data[:, 8 * head : 8 * head + 8]
        kept, losses = columns.clone(), []
        for gate in (1 + h, 1 - h):
            columns.copy_(gate * kept)
            losses.append(F.cross_entropy(logits(tiny, tiny_tokens)[:, -1], targets, reduction="none"))
        columns.copy_(kept)
        slopes[layer, head] = ((losses[0] - losses[1]) / (2 * h)).abs().mean()
    expected = slopes / slopes.norm(dim=1, keepdim=True)
    close(head_importance(tiny, [batch], last_token_loss), expected, atol=2e-3, rtol=0)


def test_importance_does_not_depend_on_the_batches(tiny, tiny_tokens):
    def batches(*rows):
        return [Texts(input_ids=tiny_tokens[r], targets=torch.tensor([5, 6, 7])[r]) for r in rows]

    one = head_importance(tiny, batches([0, 1, 2]), last_token_loss)
    close(head_importance(tiny, batches([0], [1, 2]), last_token_loss), one, atol=1e-5, rtol=1e-4)
    assert all(p.requires_grad and p.grad is None for p in tiny.parameters())


def test_weakest_heads_come_first_and_in_the_right_number():
    importance = torch.tensor([[0.4, 0.1, 0.9], [0.2, 0.8, 0.3]])
    assert weakest(importance, 0.5) == [(0, 1), (1, 0), (1, 2)]
    assert weakest(importance, 0) == [] and len(weakest(importance, 1)) == 6
    with pytest.raises(PartError, match="amount = 2"):
        weakest(importance, 2)


def test_a_layer_that_adds_nothing_has_no_influence(tiny, tiny_tokens):
    for module in (tiny.model.layers[0].self_attn.o_proj, tiny.model.layers[0].mlp.down_proj):
        module.weight.data.zero_()
    first, second = layer_influence(tiny, tiny_tokens)
    assert abs(first) < 1e-6 and second > 1e-3
    with torch.no_grad():
        states = tiny.model(tiny_tokens, output_hidden_states=True).hidden_states
    tiny.model.layers[1].register_forward_hook(lambda m, i, o: states_after.append(o))
    states_after = []
    logits(tiny, tiny_tokens)
    by_hand = 1 - F.cosine_similarity(states[1], states_after[0], dim=-1).mean()
    assert math.isclose(second, by_hand.item(), abs_tol=1e-6)


# --- what is left --------------------------------------------------------------------------------------------------------


def test_perplexity_is_the_exponential_of_the_models_own_loss(tiny, tiny_tokens):
    with torch.no_grad():
        loss = tiny(tiny_tokens, labels=tiny_tokens).loss.item()  # transformers' mean over the same next tokens
    assert math.isclose(perplexity(tiny, tiny_tokens, batch_size=2), math.exp(loss), rel_tol=1e-5)


def test_windows_hold_the_texts_in_order(tokenizer):
    texts = ["parcel late", "refund broken account", "thanks"]
    ids = tokenizer("\n".join(texts), add_special_tokens=False).input_ids
    windows = text_windows(tokenizer, texts, length=4)
    assert windows.flatten().tolist() == ids[: len(ids) // 4 * 4] and windows.shape[1] == 4
    with pytest.raises(PartError, match="give more text or a shorter length"):
        text_windows(tokenizer, ["late"], length=128)
