"""Claims of lessonlib.quantization.linear. References: bitsandbytes' Linear4bit, and the dequantized weight in a plain layer."""

import copy

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from tiny_models import ALL, bits, filled, same
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from lessonlib.evaluation import SavedTensors, step_bytes, tensor_bytes
from lessonlib.lora import LoRAError, add_lora, load_lora, lora_layers, merge_lora, save_lora
from lessonlib.quantization.linear import FourBitLinear, FourBitWeight, to_four_bits
from lessonlib.quantization.nf4 import QuantizationError, dequantize, double_quantize, quantize

close = torch.testing.assert_close


def linear(d_in=128, d_out=96, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(d_in, d_out, bias=bias).to(dtype)


def dense_twin(layer):
    """A plain layer with the weight that the 4-bit one computes with."""
    twin = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, dtype=layer.dtype)
    twin.weight.data = layer.dense_weight()
    if layer.bias is not None:
        twin.bias.data = layer.bias.data
    return twin.requires_grad_(False)


def gradients(model, tokens):
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


# --- the layer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_that_of_the_dequantized_weight(dtype, bias):
    source, x = linear(bias=bias, dtype=dtype), torch.randn(2, 5, 128).to(dtype)
    W = dequantize(double_quantize(quantize(source.weight)))
    expected = x @ W.T + (source.bias if bias else 0)
    assert torch.equal(FourBitLinear(source)(x), expected)


def test_gradient_to_the_input_is_that_of_the_dequantized_weight():
    layer = FourBitLinear(linear())
    x = torch.randn(3, 4, 128, requires_grad=True)
    y = torch.randn(3, 4, 96)
    (ours,) = torch.autograd.grad((layer(x) * y).sum(), x)
    (theirs,) = torch.autograd.grad((dense_twin(layer)(x) * y).sum(), x)
    assert theirs.abs().max() > 0.1
    close(ours, theirs, atol=1e-6, rtol=0)


def test_gradient_to_the_input_passes_torchs_numerical_check():
    layer = FourBitLinear(linear(8, 6))
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_forward_and_gradient_are_bitsandbytes():
    source = linear(128, 64)
    theirs = Linear4bit(128, 64, compute_dtype=torch.float32, quant_type="nf4")
    theirs.load_state_dict(source.state_dict())
    theirs, ours = theirs.to("cpu").train(), FourBitLinear(source)
    x = torch.randn(4, 128, requires_grad=True)
    close(ours(x), theirs(x), atol=2e-6, rtol=0)
    a, b = (torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (ours, theirs))
    close(a, b, atol=1e-5, rtol=0)


def test_it_holds_4_127_bits_a_weight_and_nothing_dense():
    layer = FourBitLinear(linear(2048, 2048, bias=False))
    held = tensor_bytes([*layer.parameters(), *layer.buffers()])
    assert 8 * held / 2048**2 == pytest.approx(4.127, abs=0.001)


def test_nothing_of_it_trains_and_no_weight_is_kept_for_the_backward_pass():
    layer = FourBitLinear(linear())
    assert not any(p.requires_grad for p in layer.parameters())
    x = torch.randn(5, 128, requires_grad=True)
    with SavedTensors(layer) as saved:
        layer(x).sum()
    assert saved.bytes == 0


def test_the_layer_taken_over_is_left_as_it_was():
    source = linear()
    before = copy.deepcopy(source.state_dict())
    FourBitLinear(source)
    assert source.weight.requires_grad and source.bias.requires_grad
    assert all(torch.equal(before[name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize("change", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.float()])
def test_casting_the_model_rounds_no_scale(change):
    layer = FourBitLinear(linear(bias=False))
    before = layer.dense_weight()
    assert torch.equal(change(layer).dense_weight(), before)


def test_copying_and_storing_keep_the_weight(tmp_path):
    layer = FourBitLinear(linear())
    again = FourBitLinear(linear(seed=1))
    assert not torch.equal(again.dense_weight(), layer.dense_weight())
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.dense_weight(), layer.dense_weight())
    assert torch.equal(copy.deepcopy(layer).dense_weight(), layer.dense_weight())


def test_a_damaged_weight_is_refused():
    source = linear()
    source.weight.data[3, 4] = torch.nan
    with pytest.raises(QuantizationError, match=r"W holds nan at \(3, 4\)"):
        FourBitLinear(source)


def test_a_block_size_that_does_not_divide_the_weight_is_exact_where_the_codes_are():
    source = linear(31, 58, bias=False)  # 1798 values: 28 blocks of 64, and 6 more
    source.weight.data = torch.randint(-1, 2, (58, 31), generator=torch.Generator().manual_seed(0)).float()
    close(FourBitLinear(source).dense_weight(), source.weight.data, atol=1e-2, rtol=0)


def test_a_layer_of_zeros_stays_one():
    source = linear(bias=False)
    source.weight.data.zero_()
    assert not FourBitLinear(source)(torch.randn(3, 128)).any()


def test_another_dtype_is_refused_by_name():
    with pytest.raises(QuantizationError, match=r"W is torch.float64"):
        FourBitLinear(linear().double())


# --- a model in 4 bits, and LoRA on top ---------------------------------------------------------------------


def test_every_linear_layer_but_the_head_is_taken_over(tiny):
    to_four_bits(tiny)
    paths = {path.rpartition(".")[2] for path, m in tiny.named_modules() if isinstance(m, FourBitLinear)}
    assert paths == set(ALL)
    assert type(tiny.lm_head) is nn.Linear
    assert not any(p.requires_grad for p in tiny.model.layers[0].mlp.parameters())


def test_lora_may_be_added_before_or_after(tiny, make_tiny, tiny_tokens):
    quantized = to_four_bits(make_tiny())
    torch.manual_seed(0)
    after = filled(add_lora(quantized, ALL, r=4))
    torch.manual_seed(0)
    before = to_four_bits(filled(add_lora(tiny, ALL, r=4)))
    assert torch.equal(before(tiny_tokens).logits, after(tiny_tokens).logits)
    expected = {f"{path}.{side}" for path, _ in lora_layers(after) for side in "AB"}
    assert {name for name, p in before.named_parameters() if p.requires_grad} == expected


def test_the_model_computes_what_its_dequantized_twin_does(tiny, make_tiny, tiny_tokens):
    to_four_bits(tiny)
    twin = make_tiny()
    for path, module in tiny.named_modules():
        if isinstance(module, FourBitLinear):
            twin.get_submodule(path).weight.data = module.dense_weight()
    close(tiny(tiny_tokens).logits, twin(tiny_tokens).logits, atol=1e-6, rtol=0)
    assert (tiny(tiny_tokens).logits - make_tiny()(tiny_tokens).logits).abs().max() > 1e-3


def lora_twins(tiny):
    """LoRA over 4-bit layers, and the same LoRA over plain layers that hold the dequantized weights."""
    filled(add_lora(to_four_bits(tiny), ALL, r=4))
    twin = copy.deepcopy(tiny)
    for _, layer in lora_layers(twin):
        layer.base = dense_twin(layer.base)
    return tiny, twin


def test_lora_on_top_gets_the_gradients_of_the_dequantized_twin(tiny, tiny_tokens):
    ours, twin = (gradients(model, tiny_tokens) for model in lora_twins(tiny))
    assert len(ours) == 2 * 7 * 2
    for name in twin:
        assert twin[name].abs().max() > 1e-5, name
        close(ours[name], twin[name], atol=1e-6, rtol=0)


def test_gradients_after_an_evaluation_equal_those_before(tiny, tiny_tokens):
    filled(add_lora(to_four_bits(tiny), ALL, r=4))
    before = gradients(tiny.train(), tiny_tokens)
    with torch.no_grad():
        tiny.eval()(tiny_tokens)
    after = gradients(tiny.train(), tiny_tokens)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_recomputing_activations_gives_the_same_gradients_from_fewer_bytes(tiny, tiny_tokens):
    filled(add_lora(to_four_bits(tiny), ALL, r=4))
    kept, bytes_kept = gradients(tiny.train(), tiny_tokens), step_bytes(tiny, tiny_tokens)["activations"]
    tiny.gradient_checkpointing_enable({"use_reentrant": False})
    assert step_bytes(tiny, tiny_tokens)["activations"] < 0.6 * bytes_kept
    again = gradients(tiny.train(), tiny_tokens)
    for name in kept:
        close(again[name], kept[name], atol=1e-7, rtol=0)


def test_training_lowers_the_loss_and_leaves_the_base_alone(tiny, tiny_tokens):
    add_lora(to_four_bits(tiny), ALL, r=4)
    base = {n: t.clone() for n, t in tiny.state_dict().items() if n[-2:] not in (".A", ".B")}
    optimizer = torch.optim.AdamW([p for p in tiny.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(15):
        loss = tiny(tiny_tokens, labels=tiny_tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(torch.equal(tiny.state_dict()[name], value) for name, value in base.items())


def test_an_adapter_trained_on_4_bits_is_saved_and_loaded(tiny, make_tiny, tiny_tokens, tmp_path):
    filled(add_lora(to_four_bits(tiny), ALL, r=4))
    again = load_lora(to_four_bits(make_tiny()), save_lora(tiny, tmp_path))
    close(again(tiny_tokens).logits, tiny(tiny_tokens).logits, atol=1e-6, rtol=0)


def test_a_plain_merge_never_writes_into_the_codes(tiny):
    filled(add_lora(to_four_bits(tiny), ["q_proj"], r=4))
    codes = tiny.model.layers[0].self_attn.q_proj.base.weight.clone()
    with pytest.raises(LoRAError, match=r"q_proj has its base in 4 bits.*layer=QLoRALinear"):
        merge_lora(tiny)
    assert torch.equal(tiny.model.layers[0].self_attn.q_proj.base.weight, codes)


def test_a_layer_of_your_own_computes_with_the_kept_weight(tiny, make_tiny, tiny_tokens):
    class Twice(FourBitWeight):
        def forward(self, x):
            return 2 * (x @ self.dense_weight().T)

    own = to_four_bits(tiny, layer=Twice)
    assert sum(isinstance(module, Twice) for module in own.modules()) == 2 * 7
    assert not torch.allclose(own(tiny_tokens).logits, to_four_bits(make_tiny())(tiny_tokens).logits)


def test_a_model_without_plain_linear_layers_is_refused(tiny):
    with pytest.raises(QuantizationError, match=r"no plain nn.Linear is left in this model"):
        to_four_bits(to_four_bits(tiny))


def test_a_damaged_model_is_refused_by_path_and_left_as_it_was(tiny):
    tiny.model.layers[1].mlp.up_proj.weight.data[0, 5] = torch.inf
    with pytest.raises(QuantizationError, match=r"model.layers.1.mlp.up_proj: W holds inf at \(0, 5\)"):
        to_four_bits(tiny)
    assert not any(isinstance(module, FourBitLinear) for module in tiny.modules())
    assert all(p.requires_grad for p in tiny.parameters())


def mixtral():
    config = MixtralConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        vocab_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
    )
    return MixtralForCausalLM(config).eval()


def test_a_model_of_experts_is_refused_with_what_would_stay_and_left_as_it_was():
    model = mixtral()
    before, experts = bits(model), sum(p.numel() for name, p in model.named_parameters() if p.ndim == 3)
    with pytest.raises(
        QuantizationError, match=rf"of {model.num_parameters():,} weights, .*experts.* would stay"
    ) as said:
        to_four_bits(model)
    assert int(str(said.value).split(" of ")[0].replace(",", "")) == pytest.approx(
        experts, rel=0.01
    )  # and the router
    same(before, bits(model))


def test_a_small_part_that_is_no_linear_layer_may_stay(tiny):
    tiny.gate = nn.ParameterList([nn.Parameter(torch.ones(2, 4, 4))])
    assert isinstance(to_four_bits(tiny).model.layers[0].mlp.up_proj, FourBitLinear)
