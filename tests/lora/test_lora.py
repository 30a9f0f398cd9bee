"""Claims of lessonlib.lora. References: PEFT, and the weight W + (alpha / r) B A formed by hand."""

import copy
import json
import math
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import ALL, bits, filled, logits, same, train
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lessonlib.lora import (
    LoRAError,
    LoRALinear,
    add_lora,
    load_lora,
    lora_layers,
    merge_lora,
    remove_lora,
    save_lora,
    unmerge_lora,
)
from lessonlib.lora.dora import DoRALinear
from lessonlib.lora.variants import RsLoRALinear, tie_lora

close = torch.testing.assert_close


# --- the layer ----------------------------------------------------------------------------------------------


def test_fresh_lora_changes_nothing(tiny, tiny_tokens):
    before = logits(tiny, tiny_tokens)
    add_lora(tiny, ALL, r=4)
    assert torch.equal(logits(tiny, tiny_tokens), before)


def test_only_A_and_B_train_and_get_gradients(tiny, tiny_tokens):
    filled(add_lora(tiny, ALL, r=4))
    tiny(tiny_tokens, labels=tiny_tokens).loss.backward()
    expected = {f"{path}.{side}" for path, _ in lora_layers(tiny) for side in "AB"}
    assert len(expected) == 2 * 7 * 2
    assert {name for name, p in tiny.named_parameters() if p.requires_grad} == expected
    assert {name for name, p in tiny.named_parameters() if p.grad is not None and p.grad.any()} == expected


@pytest.mark.parametrize("r", [1, 4, 16])
def test_parameter_count_is_r_times_in_plus_out(tiny, r):
    # By hand, hidden 32, MLP 64, keys and values 16: q (32 + 32), v (32 + 16), down (64 + 32), in two layers.
    add_lora(tiny, ("q_proj", "v_proj", "down_proj"), r=r)
    assert sum(p.numel() for p in tiny.parameters() if p.requires_grad) == 2 * r * (64 + 48 + 96)


def test_update_is_alpha_over_r_times_B_A():
    linear = nn.Linear(6, 4)
    layer = LoRALinear(copy.deepcopy(linear), r=2, alpha=5.0)
    layer.B.data.normal_()
    x = torch.randn(3, 6)
    close(layer(x), linear(x) + x @ (5.0 / 2 * layer.B @ layer.A).T, atol=1e-6, rtol=0)


def peft_twin(tiny, r=4, alpha=12):
    """The same model twice, with our layers and with PEFT's, and the same A and B in both."""
    twin = get_peft_model(copy.deepcopy(tiny), LoraConfig(r=r, lora_alpha=alpha, target_modules=list(ALL)))
    filled(add_lora(tiny, ALL, r=r, alpha=alpha))
    for path, layer in lora_layers(tiny):
        theirs = twin.base_model.model.get_submodule(path)
        theirs.lora_A["default"].weight.data.copy_(layer.A)
        theirs.lora_B["default"].weight.data.copy_(layer.B)
    return tiny, twin.eval()


def test_forward_equals_pefts(tiny, tiny_tokens):
    before = logits(tiny, tiny_tokens)
    ours, theirs = peft_twin(tiny)
    assert (logits(ours, tiny_tokens) - before).abs().max() > 0.1
    close(logits(ours, tiny_tokens), logits(theirs, tiny_tokens), atol=1e-6, rtol=0)


def test_gradients_equal_pefts(tiny, tiny_tokens):
    ours, theirs = peft_twin(tiny)
    for model in (ours, theirs):
        model(tiny_tokens, labels=tiny_tokens).loss.backward()
    for path, layer in lora_layers(ours):
        peft_layer = theirs.base_model.model.get_submodule(path)
        close(layer.A.grad, peft_layer.lora_A["default"].weight.grad, atol=1e-6, rtol=0)
        close(layer.B.grad, peft_layer.lora_B["default"].weight.grad, atol=1e-6, rtol=0)
        assert layer.A.grad.abs().max() > 1e-4


def test_A_and_B_stay_float32_on_a_bfloat16_base(tiny, tiny_tokens):
    filled(add_lora(tiny.bfloat16(), ALL, r=4))
    assert {p.dtype for p in tiny.parameters() if p.requires_grad} == {torch.float32}
    assert tiny(tiny_tokens).logits.dtype == torch.bfloat16
    assert merge_lora(tiny)(tiny_tokens).logits.dtype == torch.bfloat16


# --- merge, unmerge, remove ---------------------------------------------------------------------------------


def test_merged_equals_unmerged(tiny, tiny_tokens):
    unmerged = logits(filled(add_lora(tiny, ALL, r=4)), tiny_tokens)
    merge_lora(tiny)
    assert not any(isinstance(module, LoRALinear) for module in tiny.modules())
    close(logits(tiny, tiny_tokens), unmerged, atol=1e-6, rtol=0)


def test_merged_weight_is_W_plus_scale_B_A(tiny):
    W = tiny.model.layers[0].mlp.down_proj.weight.detach().clone()
    filled(add_lora(tiny, ["down_proj"], r=4, alpha=12))
    layer = tiny.model.layers[0].mlp.down_proj
    merge_lora(tiny)
    close(tiny.model.layers[0].mlp.down_proj.weight, W + 12 / 4 * layer.B @ layer.A, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("end", [unmerge_lora, remove_lora])
def test_the_base_comes_back_bit_for_bit_after_training_and_merging(tiny, tiny_tokens, dtype, end):
    W = {name: p.detach().clone() for name, p in tiny.to(dtype).named_parameters()}
    add_lora(tiny, ALL, r=4)
    train(tiny, tiny_tokens)
    for _ in range(3):
        unmerge_lora(merge_lora(tiny))
    end(merge_lora(tiny))
    after = {name.replace(".base.", "."): p for name, p in tiny.named_parameters() if name[-2:] not in (".A", ".B")}
    assert after.keys() == W.keys()
    assert all(torch.equal(W[name], after[name]) for name in W)


def test_unmerge_brings_the_update_back_bit_for_bit(tiny, tiny_tokens):
    before = logits(filled(add_lora(tiny, r=4)), tiny_tokens)
    assert torch.equal(logits(unmerge_lora(merge_lora(tiny)), tiny_tokens), before)


def test_remove_undoes_add(tiny, tiny_tokens):
    before, base = logits(tiny, tiny_tokens), [(path, type(m)) for path, m in tiny.named_modules()]
    remove_lora(filled(add_lora(tiny, ALL, r=4)))
    assert [(path, type(m)) for path, m in tiny.named_modules()] == base
    assert torch.equal(logits(tiny, tiny_tokens), before)


def test_train_and_eval_merge_nothing(tiny, tiny_tokens):
    filled(add_lora(tiny, r=4))
    before = bits(tiny)
    tiny.eval()(tiny_tokens)
    tiny.train()(tiny_tokens)
    same(before, bits(tiny))


def test_training_goes_on_after_merge_and_unmerge(tiny, tiny_tokens):
    add_lora(tiny, r=4)
    first = train(tiny, tiny_tokens, steps=5)
    unmerge_lora(merge_lora(tiny))
    assert train(tiny, tiny_tokens, steps=5) < first


# --- what is refused ----------------------------------------------------------------------------------------


def test_merging_twice_is_refused(tiny, tiny_tokens):
    merged = logits(merge_lora(filled(add_lora(tiny))), tiny_tokens)
    with pytest.raises(LoRAError, match=r"merged already: call unmerge_lora"):
        merge_lora(tiny)
    assert torch.equal(logits(tiny, tiny_tokens), merged)


def test_adding_twice_is_refused_merged_or_not(tiny):
    add_lora(tiny)
    for _ in range(2):
        with pytest.raises(LoRAError, match=r"has LoRA already: call remove_lora"):
            add_lora(tiny)
        merge_lora(tiny) if isinstance(tiny.model.layers[0].self_attn.q_proj, LoRALinear) else None


@pytest.mark.parametrize("action", [merge_lora, unmerge_lora, remove_lora])
def test_nothing_to_merge_unmerge_or_remove_is_said(tiny, action):
    with pytest.raises(LoRAError, match=r"no LoRA layers: call add_lora"):
        action(tiny)


def test_saving_without_lora_is_refused(tiny, tmp_path):
    with pytest.raises(LoRAError, match=r"no LoRA layers: call add_lora"):
        save_lora(tiny, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("targets", "r", "message"),
    [
        (["q_pro"], 8, "'q_pro'; the linear ones are .*q_proj"),
        (["proj"], 8, "'proj'"),
        (["q_proj", "nonsense"], 8, "'nonsense'"),
        ([], 8, "targets is empty"),
        ("q_proj", 8, r"expected a list of names, such as \['q_proj'\]"),
        (["self_attn"], 8, "self_attn is a LlamaAttention, not nn.Linear"),
        (["embed_tokens"], 8, "Embedding, not nn.Linear"),
        (["q_proj"], 0, "r is 0"),
        (["q_proj"], -1, "r is -1"),
        (["q_proj"], 2.5, "r is 2.5"),
        (
            ["q_proj", "v_proj"],
            17,
            r"17 is larger than model.layers.0.self_attn.v_proj \(16 × 32\): at most 16",
        ),
    ],
)
def test_a_bad_target_or_rank_is_named_and_changes_nothing(tiny, targets, r, message):
    before = bits(tiny)
    with pytest.raises(LoRAError, match=message):
        add_lora(tiny, targets, r=r)
    same(before, bits(tiny))


def test_the_largest_rank_is_the_smaller_side(tiny):
    add_lora(tiny, ["v_proj"], r=16)


def test_a_name_matches_exactly_and_a_path_matches_one_module(tiny):
    add_lora(tiny, ["model.layers.1.self_attn.q_proj", "up_proj"])
    assert {path for path, _ in lora_layers(tiny)} == {
        "model.layers.1.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
    }


def test_gpt2s_transposed_conv1d_is_refused():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, n_positions=16))
    with pytest.raises(LoRAError, match=r"transformer.h.0.attn.c_attn is a Conv1D, not nn.Linear .*transposed"):
        add_lora(gpt2, ["c_attn"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_damaged_base_is_refused(tiny, value):
    with torch.no_grad():
        tiny.model.layers[1].self_attn.v_proj.weight[3, 5] = value
    with pytest.raises(LoRAError, match=r"model.layers.1.self_attn.v_proj.weight holds NaN"):
        add_lora(tiny)
    assert not list(lora_layers(tiny))


@pytest.mark.parametrize("side", ["A", "B"])
def test_an_update_that_is_not_finite_is_neither_merged_nor_saved(tiny, tmp_path, side):
    add_lora(tiny)
    getattr(tiny.model.layers[1].self_attn.v_proj, side).data[0, 0] = math.nan
    for action in (merge_lora, lambda model: save_lora(model, tmp_path / "adapter")):
        with pytest.raises(LoRAError, match=rf"layers.1.self_attn.v_proj.{side} holds NaN"):
            action(tiny)
    assert isinstance(tiny.model.layers[0].self_attn.q_proj, LoRALinear)
    assert not (tmp_path / "adapter").exists()


def test_merging_into_a_shared_weight_is_refused(make_tiny, tiny_tokens):
    tied = filled(add_lora(make_tiny(tie_word_embeddings=True), ["q_proj", "lm_head"]))
    before = logits(tied, tiny_tokens)
    with pytest.raises(LoRAError, match=r"lm_head shares its weight with model.embed_tokens"):
        merge_lora(tied)
    assert torch.equal(logits(tied, tiny_tokens), before)


# --- a class of your own ------------------------------------------------------------------------------------


class Mine(nn.Module):
    """Only what the protocol asks for: base, A, B, scale."""

    def __init__(self, base, r, alpha):
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(r, base.in_features) / 10)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T


class Edited(Mine):
    def forward(self, x):
        return self.base(x) + self.scale * torch.tanh(x @ self.A.T) @ self.B.T


def test_your_own_class_is_added_merged_and_unmerged(tiny, tiny_tokens):
    filled(add_lora(tiny, ALL, r=4, layer=Mine))
    before = logits(tiny, tiny_tokens)
    merge_lora(tiny)
    assert not any(isinstance(module, Mine) for module in tiny.modules())
    close(logits(tiny, tiny_tokens), before, atol=1e-6, rtol=0)
    assert torch.equal(logits(unmerge_lora(tiny), tiny_tokens), before)


def test_your_own_class_is_saved_and_loaded(tiny, make_tiny, tiny_tokens, tmp_path):
    filled(add_lora(tiny, r=4, layer=Mine))
    save_lora(tiny, tmp_path)
    again = load_lora(make_tiny(), tmp_path, layer=Mine)
    assert all(isinstance(layer, Mine) for _, layer in lora_layers(again))
    close(logits(again, tiny_tokens), logits(tiny, tiny_tokens), atol=0, rtol=0)


def test_an_edit_in_your_own_forward_changes_what_is_trained(make_tiny, tiny_tokens):
    losses = []
    for layer in (Mine, Mine, Edited):
        model = make_tiny()
        torch.manual_seed(0)
        losses.append(train(add_lora(model, r=4, layer=layer), tiny_tokens, steps=5))
    assert losses[0] == losses[1] != losses[2]


# --- files: ours read by PEFT -------------------------------------------------------------------------------


def uniform(model):
    return add_lora(model, ALL, r=4, alpha=8)


def fractional_alpha(model):
    return add_lora(model, r=3, alpha=4.7)


def whole_paths(model):
    return add_lora(model, ["model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"], r=4)


def different_ranks_and_alphas(model):
    add_lora(model, ALL, r=4, alpha=8)
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[1].mlp
    attention.q_proj = LoRALinear(attention.q_proj.base, r=2, alpha=7.5)
    mlp.up_proj = LoRALinear(mlp.up_proj.base, r=6, alpha=8)
    mlp.gate_proj = LoRALinear(mlp.gate_proj.base, r=4, alpha=3)
    return model


def merged(model):
    return merge_lora(filled(add_lora(model, r=4)))


@pytest.mark.parametrize("make", [uniform, fractional_alpha, whole_paths, different_ranks_and_alphas, merged])
def test_peft_reads_what_save_lora_wrote(tiny, make_tiny, tiny_tokens, tmp_path, make):
    ours = make(tiny)
    filled(ours)
    save_lora(ours, tmp_path)
    theirs = PeftModel.from_pretrained(make_tiny(), tmp_path).eval()
    assert (logits(ours, tiny_tokens) - logits(make_tiny(), tiny_tokens)).abs().max() > 0.05
    close(logits(theirs, tiny_tokens), logits(ours, tiny_tokens), atol=1e-5, rtol=0)
    paths = {path for path, _ in lora_layers(ours)}
    assert {path for path, m in theirs.base_model.model.named_modules() if hasattr(m, "lora_A")} == paths


@pytest.mark.parametrize("make", [uniform, fractional_alpha, whole_paths, different_ranks_and_alphas, merged])
def test_load_lora_reads_what_save_lora_wrote(tiny, make_tiny, tiny_tokens, tmp_path, make):
    ours = filled(make(tiny))
    save_lora(ours, tmp_path)
    close(logits(load_lora(make_tiny(), tmp_path), tiny_tokens), logits(ours, tiny_tokens), atol=1e-5, rtol=0)


def test_a_layer_with_more_than_A_and_B_is_refused_by_name(tiny, tmp_path):
    add_lora(tiny, r=4, layer=DoRALinear)
    with pytest.raises(LoRAError, match=r"q_proj is a DoRALinear with m beside A and B.*save_dora"):
        save_lora(tiny, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_tied_pairs_are_written_for_each_layer(tiny, make_tiny, tiny_tokens, tmp_path):
    filled(tie_lora(add_lora(tiny, r=4)))
    save_lora(tiny, tmp_path)
    theirs = PeftModel.from_pretrained(make_tiny(), tmp_path).eval()
    close(logits(theirs, tiny_tokens), logits(tiny, tiny_tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("written, read", [(RsLoRALinear, RsLoRALinear), (LoRALinear, RsLoRALinear)])
def test_the_scale_is_the_files_whatever_class_reads_it(tiny, make_tiny, tiny_tokens, tmp_path, written, read):
    filled(add_lora(tiny, r=4, alpha=6, layer=written))
    save_lora(tiny, tmp_path)
    again = load_lora(make_tiny(), tmp_path, layer=read)
    close(logits(again, tiny_tokens), logits(tiny, tiny_tokens), atol=1e-5, rtol=0)


def test_save_lora_writes_no_pickle_and_nothing_of_the_base(tiny, tmp_path):
    directory = save_lora(add_lora(tiny, r=4), tmp_path / "new" / "adapter")
    assert sorted(path.name for path in directory.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert sum(t.numel() for t in load_file(directory / "adapter_model.safetensors").values()) == 2 * 4 * (64 + 48)


# --- files: PEFT's read by us -------------------------------------------------------------------------------


def by_peft(model, directory, **settings):
    """Save an adapter with PEFT, its B filled, and return the model that wrote it."""
    theirs = get_peft_model(model, LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    theirs.save_pretrained(directory)
    return theirs


PATTERNS = {
    "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 6},
    "alpha_pattern": {"gate_proj": 3, r"layers\.0\.self_attn\.(q|v)_proj": 20},
}


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj"]},
        {"r": 4, "lora_alpha": 8, "target_modules": list(ALL), **PATTERNS},
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "target_modules": list(ALL), "use_rslora": True, **PATTERNS},
        {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"r": 4, "lora_alpha": 8, "target_modules": r".*layers\.0\..*(k|o)_proj"},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj"],
            "lora_dropout": 0.5,
            "init_lora_weights": "gaussian",
        },
    ],
    ids=[
        "plain",
        "defaults",
        "patterns",
        "rslora",
        "rslora+patterns",
        "all-linear",
        "layers",
        "regex",
        "dropout",
    ],
)
def test_load_lora_reads_what_peft_wrote(make_tiny, tiny_tokens, tmp_path, settings):
    theirs = logits(by_peft(make_tiny(), tmp_path, **settings), tiny_tokens)
    ours = load_lora(make_tiny(), tmp_path)
    assert (theirs - logits(make_tiny(), tiny_tokens)).abs().max() > 0.01
    close(logits(ours, tiny_tokens), theirs, atol=1e-5, rtol=0)
    assert {name[-2:] for name, p in ours.named_parameters() if p.requires_grad} == {".A", ".B"}


# --- files that are refused, the model unchanged ------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
    ],
)
def test_what_a_plain_layer_cannot_express_is_refused_by_name(make_tiny, tmp_path, settings, name):
    with warnings.catch_warnings():  # PEFT's, of lora_bias where the base has no bias
        warnings.simplefilter("ignore")
        by_peft(make_tiny(), tmp_path, r=4, target_modules=["q_proj"], **settings)
    refused(make_tiny(), tmp_path, f"sets {name}|holds .*{name}")


def refused(model, directory, message):
    before = bits(model)
    with pytest.raises(LoRAError, match=message):
        load_lora(model, directory)
    same(before, bits(model))


@pytest.fixture
def saved(make_tiny, tmp_path):
    """A directory with a good adapter of the tiny model, for a test to damage."""
    return save_lora(filled(add_lora(make_tiny(), r=4)), tmp_path / "adapter")


def test_a_pickled_adapter_is_refused(tiny, saved):
    tensors = load_file(saved / "adapter_model.safetensors")
    torch.save(tensors, saved / "adapter_model.bin")
    (saved / "adapter_model.safetensors").unlink()
    refused(tiny, saved, r"adapter_model.safetensors does not exist.*\.bin files are not read")


@pytest.mark.parametrize("keep", [0, 7, 200, -4])
def test_truncated_safetensors_are_refused(tiny, saved, keep):
    path = saved / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(tiny, saved, r"adapter_model.safetensors is damaged .*save the adapter again")


@pytest.mark.parametrize("content", [b"", b"{'r': 8}", b'{"r": 8', b"\xff\xfe\x00", b"[1, 2]", b"null"])
def test_a_config_that_is_not_a_json_object_is_refused(tiny, saved, content):
    (saved / "adapter_config.json").write_bytes(content)
    refused(tiny, saved, r"adapter_config.json is not a JSON object")


def edited(directory, **changes):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def test_another_peft_type_is_refused(tiny, saved):
    refused(tiny, edited(saved, peft_type="IA3"), r"describes IA3, not LORA")


def test_a_setting_of_a_later_peft_is_refused(tiny, saved):
    refused(tiny, edited(saved, use_something_new=True), r"sets use_something_new = True")


def test_a_directory_without_an_adapter_is_refused(tiny, tmp_path):
    refused(tiny, tmp_path, r"has no adapter_config.json")


def test_an_adapter_of_a_deeper_base_is_refused(make_tiny, saved):
    refused(
        make_tiny(num_hidden_layers=1),
        saved,
        r"model.layers.1.self_attn.q_proj, which this model does not have",
    )


def test_an_adapter_of_a_wider_base_is_refused(make_tiny, saved):
    refused(
        make_tiny(hidden_size=64),
        saved,
        r"is for a 32 × 32 matrix, here it is 64 × 64: it is for another base",
    )


def rewritten(directory, change):
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return directory


def test_nan_in_an_adapter_file_is_refused(tiny, saved):
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
    refused(tiny, rewritten(saved, lambda t: t[name].fill_(math.nan)), r"layers.1.self_attn.v_proj.lora_A.* NaN")


def test_values_beyond_float32_are_refused(tiny, saved):
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
    refused(
        tiny,
        rewritten(saved, lambda t: t.update({name: t[name].double() + 1e300})),
        r"v_proj.* NaN or infinity",
    )


def test_half_a_pair_is_refused(tiny, saved):
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    refused(
        tiny,
        rewritten(saved, lambda t: t.pop(name)),
        r"lacks lora_A or lora_B of model.layers.1.self_attn.v_proj",
    )


def test_an_empty_adapter_file_is_refused(tiny, saved):
    refused(tiny, rewritten(saved, dict.clear), r"holds no tensors")


def test_loading_over_lora_is_refused(tiny, saved):
    refused(add_lora(tiny), saved, r"has LoRA already: call remove_lora")
