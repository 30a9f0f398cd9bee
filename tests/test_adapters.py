"""Claims of lessonlib.adapters. References: hand arithmetic from Houlsby et al. (2019), forward hooks, torch's own ops."""

import functools
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import bits, logits, same, train
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from lessonlib.adapters import (
    Adapted,
    AdapterError,
    Bottleneck,
    NearIdentity,
    TrainedNorm,
    adapter_layers,
    adapters_of,
    add_adapters,
    add_adapters_after_feed_forward,
    base_digest,
    load_adapters,
    read_adapters,
    remove_adapters,
    save_adapters,
    swap_adapters,
    train_layer_norms,
)
from lessonlib.costs import Adapters, architecture, meta_model

close = torch.testing.assert_close
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def filled(model, seed=1):
    """The model with something in each adapter that moves the logits well beyond rounding."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in adapters_of(model).values():
        for parameter in adapter.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


# --- the module ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, m", [(32, 4), (1024, 64), (7, 1)])
def test_a_bottleneck_holds_2dm_plus_m_plus_d_numbers(d, m):
    assert sum(p.numel() for p in Bottleneck(d, m).parameters()) == 2 * d * m + m + d


def test_a_bottleneck_is_the_equation():
    adapter, x = Bottleneck(6, 2), torch.randn(3, 5, 6)
    nn.init.normal_(adapter.up.weight)
    nn.init.normal_(adapter.up.bias)
    narrow = F.gelu(x @ adapter.down.weight.T + adapter.down.bias)
    close(adapter(x), x + narrow @ adapter.up.weight.T + adapter.up.bias, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_bottleneck_gives_back_what_it_gets(dtype):
    x = torch.randn(4, 6, dtype=dtype)
    assert torch.equal(Bottleneck(6, 3)(x), x)


def test_houlsbys_start_is_near_the_identity_and_cut_off_at_two_deviations():
    torch.manual_seed(0)
    adapter, x = NearIdentity(64, 16, std=0.01), torch.randn(100, 64)
    away = (adapter(x) - x).norm() / x.norm()
    assert 0 < away < 0.01
    for linear in (adapter.down, adapter.up):
        assert 0.015 < linear.weight.abs().max() <= 0.02 and not linear.bias.any()


# --- in a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", [add_adapters, add_adapters_after_feed_forward])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_changes_no_logit(tiny, tiny_tokens, add, dtype):
    before = logits(tiny.to(dtype), tiny_tokens)
    assert torch.equal(logits(add(tiny, m=4), tiny_tokens), before)
    assert (logits(filled(tiny), tiny_tokens) - before).abs().max() > 0.05


def test_fresh_layer_norms_change_no_logit(tiny, tiny_tokens):
    tiny.bfloat16()
    filled_norms = [m for m in tiny.modules() if type(m).__name__ == "LlamaRMSNorm"]
    for norm in filled_norms:
        nn.init.normal_(norm.weight, 1, 0.1)
    before = logits(tiny, tiny_tokens)
    assert torch.equal(logits(train_layer_norms(tiny), tiny_tokens), before)
    assert (logits(filled(tiny), tiny_tokens) - before).abs().max() > 0.05


def test_adapters_stand_behind_both_sublayers_and_before_the_residual_sum(tiny, tiny_tokens):
    """The block's two inputs to its residual sums are what the adapters gave: told by hooks on all modules."""
    filled(add_adapters(tiny, m=4))
    seen = {}
    for path, module in tiny.named_modules():
        module.register_forward_hook(lambda _, x, y, path=path: seen.update({path: (x, y)}))
    tiny(tiny_tokens)
    block = "model.layers.0."
    given = seen[f"{block}self_attn.o_proj.adapter"][1]
    close(seen[f"{block}self_attn"][1][0], given)
    residual = seen[f"{block}input_layernorm"][0][0] + given
    close(seen[f"{block}post_attention_layernorm"][0][0], residual)
    close(seen["model.layers.1.input_layernorm"][0][0], residual + seen[f"{block}mlp.down_proj.adapter"][1])


@pytest.mark.parametrize("norms", [False, True])
def test_only_adapters_receive_gradients_and_layer_norms_if_asked(tiny, tiny_tokens, norms):
    filled(add_adapters(tiny, m=4))
    if norms:
        train_layer_norms(tiny)
    tiny(tiny_tokens, labels=tiny_tokens).loss.backward()
    got = {name for name, p in tiny.named_parameters() if p.grad is not None and p.grad.any()}
    assert got == trainable(tiny)
    assert all(".adapter." in name for name in got)
    # Two layers: 2 adapters of 4 tensors each; and 2 layer norms each, with the last one behind both.
    assert len(got) == 2 * 2 * 4 + (5 if norms else 0)


def test_layer_norms_alone_and_before_adapters(tiny):
    train_layer_norms(tiny)
    assert len(trainable(tiny)) == 5
    add_adapters(tiny, m=4)
    assert len(trainable(tiny)) == 5 + 16


def test_the_base_and_adapters_keep_their_dtypes(tiny, tiny_tokens):
    train_layer_norms(add_adapters(tiny.bfloat16(), m=4))
    assert {p.dtype for p in tiny.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in tiny.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert filled(tiny)(tiny_tokens).logits.dtype == torch.bfloat16


def test_pfeiffers_placement_has_half_the_modules(tiny):
    paths = [path for path, _ in adapter_layers(add_adapters_after_feed_forward(tiny, m=4))]
    assert paths == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(
    "model, hidden",
    [
        (lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=64)), 16),
        (lambda: BertModel(BertConfig(hidden_size=16, intermediate_size=32, **SMALL)), 16),
        (lambda: OPTForCausalLM(OPTConfig(hidden_size=16, ffn_dim=32, word_embed_proj_dim=16, **SMALL)), 16),
    ],
    ids=["GPT-2", "BERT", "OPT"],
)
def test_other_families_have_two_places_a_layer(model, hidden):
    model, tokens = model().eval(), torch.randint(0, 64, (2, 5))
    before = model(tokens)[0]
    add_adapters(model, m=3)
    assert len(list(adapter_layers(model))) == 4
    assert torch.equal(model(tokens)[0], before)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4 * (2 * hidden * 3 + 3 + hidden)


@pytest.mark.parametrize(
    # BERT-large: 48 (2 1024 64 + 64 + 1024). GPT-3: 192 (2 12288 64 + 64 + 12288); Hu et al., Table 15, say 304.4 M.
    "name, count",
    [("bert-large", 6_343_680), ("gpt3-175b", 304_361_472), ("smollm2-135m", 4_462_080)],
)
def test_counts_of_real_architectures_on_the_meta_device(name, count):
    model = add_adapters(meta_model(name), m=64)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert Adapters(64).trainable(architecture(name)) == count


def test_bert_large_with_layer_norms():
    # 24 layers of two norms with gain and bias, and the one behind the embeddings: (48 + 1) 2 1024.
    model = train_layer_norms(add_adapters(meta_model("bert-large"), m=64))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 6_343_680 + 49 * 2048


# --- remove ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ["adapters first", "norms first"])
def test_the_base_comes_back_bit_for_bit_after_training(tiny, tiny_tokens, dtype, order):
    before = bits(tiny.to(dtype).requires_grad_(False))
    steps = [functools.partial(add_adapters, m=4), train_layer_norms]
    for step in steps if order == "adapters first" else steps[::-1]:
        step(tiny)
    train(tiny, tiny_tokens)
    same(before, bits(remove_adapters(tiny)))


def test_training_moves_the_adapters_and_not_a_byte_of_the_base(tiny, tiny_tokens):
    digest = base_digest(tiny)
    first = train(add_adapters(tiny, m=4), tiny_tokens, steps=1)
    assert train(tiny, tiny_tokens, steps=20) < first - 0.1
    assert base_digest(tiny) == digest
    tiny.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-3
    assert base_digest(tiny) != digest


# --- several tasks over one base -------------------------------------------------------------------------------------


@pytest.fixture
def two_tasks(tiny, make_tiny):
    """A model with the adapters of one task, and those of another, of another width."""
    return filled(add_adapters(tiny, m=4)), adapters_of(filled(add_adapters(make_tiny(), m=6), seed=2))


def test_swapped_adapters_change_the_answers_and_swapped_back_bring_them_back(two_tasks, tiny_tokens):
    model, other = two_tasks
    digest, before = base_digest(model), logits(model, tiny_tokens)
    one = swap_adapters(model, other)
    assert (logits(model, tiny_tokens) - before).abs().max() > 0.05
    assert swap_adapters(model, one) == other
    assert torch.equal(logits(model, tiny_tokens), before)
    assert base_digest(model) == digest


def test_a_swap_copies_nothing(two_tasks):
    model, other = two_tasks
    swap_adapters(model, other)
    assert all(part.adapter is other[path] for path, part in adapter_layers(model))


def test_adapters_of_other_places_are_not_swapped_in(tiny, make_tiny):
    add_adapters_after_feed_forward(tiny, m=4)
    before = bits(tiny)
    with pytest.raises(AdapterError, match=r"other places than this model's .*self_attn.o_proj"):
        swap_adapters(tiny, adapters_of(add_adapters(make_tiny(), m=4)))
    same(before, bits(tiny))


def test_adapters_of_another_width_are_not_swapped_in(tiny, make_tiny):
    add_adapters(tiny, m=4)
    before = bits(tiny)
    with pytest.raises(AdapterError, match=r"is for width 64, here it is 32: it is for another base"):
        swap_adapters(tiny, adapters_of(add_adapters(make_tiny(hidden_size=64), m=4)))
    same(before, bits(tiny))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", [False, True])
def test_saved_and_loaded_adapters_compute_the_same(tiny, make_tiny, tiny_tokens, tmp_path, norms):
    add_adapters(tiny, m=4)
    if norms:
        train_layer_norms(tiny)
    file = save_adapters(filled(tiny), tmp_path / "new" / "task.safetensors")
    again = load_adapters(make_tiny(), file)
    assert torch.equal(logits(again, tiny_tokens), logits(tiny, tiny_tokens))
    assert trainable(again) == trainable(tiny)


def test_adapters_of_a_float32_base_load_on_the_same_base_in_bfloat16(make_tiny, tmp_path):
    file = save_adapters(filled(add_adapters(make_tiny(), m=4)), tmp_path / "task.safetensors")
    load_adapters(make_tiny().bfloat16(), file)


def test_a_file_holds_the_adapters_and_nothing_of_the_base(tiny, tmp_path):
    file = save_adapters(add_adapters(tiny, m=4), tmp_path / "task.safetensors")
    tensors = load_file(file)
    assert sum(t.numel() for t in tensors.values()) == 4 * (2 * 32 * 4 + 4 + 32)
    assert {name.rpartition("_proj.")[2] for name in tensors} == {
        "down.weight",
        "down.bias",
        "up.weight",
        "up.bias",
    }


def test_tasks_are_read_from_files_and_swapped(tiny, make_tiny, tiny_tokens, tmp_path):
    other = filled(add_adapters(make_tiny(), m=6), seed=2)
    file = save_adapters(other, tmp_path / "other.safetensors")
    add_adapters(tiny, m=4)
    swap_adapters(tiny, read_adapters(tiny, file))
    assert torch.equal(logits(tiny, tiny_tokens), logits(other, tiny_tokens))


class Mine(nn.Module):
    """A module of a learner's own: any (d, m) that maps (..., d) to (..., d)."""

    def __init__(self, d, m):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.randn(m, d) / 10), nn.Parameter(torch.zeros(d, m))

    def forward(self, x):
        return x + torch.tanh(x @ self.A.T) @ self.B.T


def test_your_own_module_is_added_saved_loaded_and_removed(tiny, make_tiny, tiny_tokens, tmp_path):
    before = logits(tiny, tiny_tokens)
    assert torch.equal(logits(add_adapters(tiny, m=4, module=Mine), tiny_tokens), before)
    file = save_adapters(filled(tiny), tmp_path / "mine.safetensors")
    again = load_adapters(make_tiny(), file, module=Mine)
    assert torch.equal(logits(again, tiny_tokens), logits(tiny, tiny_tokens))
    assert torch.equal(logits(remove_adapters(tiny), tiny_tokens), before)


def test_an_own_modules_layer_norm_stays_its_own(tiny):
    class WithNorm(Bottleneck):
        def __init__(self, d, m):
            super().__init__(d, m)
            self.norm = nn.LayerNorm(d)

    train_layer_norms(add_adapters(tiny, m=4, module=WithNorm))
    assert sum(isinstance(part, TrainedNorm) for part in tiny.modules()) == 5


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [0, -3, 2.5, None, True])
def test_a_bad_width_is_named_and_changes_nothing(tiny, m):
    before = bits(tiny)
    with pytest.raises(AdapterError, match=rf"m is {m!r}; the width .* at least 1"):
        add_adapters(tiny, m=m)
    same(before, bits(tiny))


@pytest.mark.parametrize("add", [add_adapters, add_adapters_after_feed_forward])
def test_adding_twice_is_refused(tiny, add):
    add_adapters(tiny, m=4)
    before = bits(tiny)
    with pytest.raises(AdapterError, match=r"has adapters already: call remove_adapters"):
        add(tiny, m=4)
    same(before, bits(tiny))


def test_norms_twice_are_refused(tiny):
    with pytest.raises(AdapterError, match=r"layer norms of this model train already"):
        train_layer_norms(train_layer_norms(tiny))


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Sequential(nn.Linear(4, 4)))])
def test_a_model_without_known_places_is_refused(model):
    with pytest.raises(AdapterError, match=r"no place for adapters is known in a Sequential: .*mlp.down_proj"):
        add_adapters(model, m=2)
    with pytest.raises(AdapterError, match=r"no layer norm"):
        train_layer_norms(model)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_damaged_base_is_refused(tiny, value):
    tiny.model.layers[1].mlp.down_proj.weight.data[3, 5] = value
    with pytest.raises(AdapterError, match=r"model.layers.1.mlp.down_proj.weight holds NaN"):
        add_adapters(tiny, m=4)
    assert not list(adapter_layers(tiny))


def test_nothing_to_remove_save_or_swap_is_said(tiny, tmp_path):
    calls = (
        remove_adapters,
        adapters_of,
        lambda model: save_adapters(model, tmp_path / "task.safetensors"),
        lambda model: swap_adapters(model, {}),
    )
    for call in calls:
        with pytest.raises(AdapterError, match=r"no adapters: call add_adapters"):
            call(tiny)
    assert not list(tmp_path.iterdir())


def test_adapters_that_are_not_finite_are_not_saved(tiny, tmp_path):
    add_adapters(tiny, m=4)
    tiny.model.layers[1].mlp.down_proj.adapter.up.bias.data[2] = math.nan
    with pytest.raises(AdapterError, match=r"layers.1.mlp.down_proj.up.bias holds NaN .*learning rate"):
        save_adapters(tiny, tmp_path / "task.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(make_tiny, tmp_path):
    """A good file of the tiny model's adapters, for a test to damage."""
    return save_adapters(filled(add_adapters(make_tiny(), m=4)), tmp_path / "task.safetensors")


def refused(model, file, message, **kwargs):
    before = bits(model)
    with pytest.raises(AdapterError, match=message):
        load_adapters(model, file, **kwargs)
    same(before, bits(model))


def test_a_missing_file_is_refused(tiny, tmp_path):
    refused(tiny, tmp_path / "none.safetensors", r"there is no file .*none.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 200, -4])
def test_a_damaged_file_is_refused(tiny, saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    refused(tiny, saved, r"is damaged or no safetensors file")


def test_a_pickled_file_is_refused(tiny, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "task.pt")
    refused(tiny, tmp_path / "task.pt", r"is damaged or no safetensors file")


def test_adapters_of_a_wider_base_are_refused(make_tiny, saved):
    refused(
        make_tiny(hidden_size=64),
        saved,
        r"down.weight has the shape \(4, 32\), here it would be \(4, 64\): .*another width",
    )


def test_adapters_of_a_deeper_base_are_refused(make_tiny, saved):
    refused(make_tiny(num_hidden_layers=1), saved, r"model.layers.1.*, which this model does not have")


def test_adapters_of_a_base_of_the_same_shape_with_other_weights_are_refused(make_tiny, saved):
    refused(make_tiny(seed=5), saved, r"a base of the same shape with other weights")


def test_adapters_of_another_module_are_refused(tiny, saved):
    refused(tiny, saved, r"the file holds down.bias.*; this module has A, B: give the `module`", module=Mine)


def test_loading_over_adapters_is_refused(tiny, saved):
    refused(add_adapters(tiny, m=4), saved, r"has adapters already")


def rewritten(file, change, metadata=None):
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=about if metadata is None else metadata)
    return file


def test_nan_in_a_file_is_refused(tiny, saved):
    name = "model.layers.1.mlp.down_proj.up.weight"
    refused(tiny, rewritten(saved, lambda t: t[name].fill_(math.nan)), rf"{name} holds NaN")


def test_a_file_that_lacks_a_tensor_is_refused(tiny, saved):
    name = "model.layers.1.mlp.down_proj.up.weight"
    refused(tiny, rewritten(saved, lambda t: t.pop(name)), r"the file holds down.bias, down.weight, up.bias;")


def test_a_file_of_another_writer_is_refused(tiny, saved):
    refused(tiny, rewritten(saved, lambda t: t, metadata={"format": "pt"}), r"not written by save_adapters")


def test_a_file_says_its_widths_and_its_base(saved):
    with safe_open(saved, "pt") as opened:
        about = opened.metadata()
    assert set(json.loads(about["m"]).values()) == {4} and len(about["base"]) == 16


def test_an_edit_in_your_own_module_changes_what_is_trained(make_tiny, tiny_tokens):
    class Edited(Bottleneck):
        def forward(self, x):
            return x + self.up(torch.tanh(self.down(x)))

    ends = []
    for module in (Bottleneck, Bottleneck, Edited):
        model = make_tiny()
        torch.manual_seed(0)
        ends.append(train(add_adapters(model, m=4, module=module), tiny_tokens, steps=5))
    assert ends[0] == ends[1] != ends[2]


def test_adapted_layers_know_their_width(tiny):
    assert {part.m for part in add_adapters(tiny, m=5).modules() if isinstance(part, Adapted)} == {5}
