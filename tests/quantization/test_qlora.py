"""Claims of lessonlib.quantization.qlora. References: bitsandbytes, PEFT, the formulae of lessonlib.costs, hand arithmetic."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import copy
import json
import shutil
import warnings

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tiny_models import ALL, Tokens, filled, logits
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from lessonlib import hardware
from lessonlib.costs import PURE_BFLOAT16, LoRA, QLoRA, training_memory
from lessonlib.lora import LoRAError, add_lora, load_lora, lora_layers, merge_lora, save_lora, unmerge_lora
from lessonlib.models import ModelFileError, load_base
from lessonlib.quantization.linear import FourBitLinear, to_four_bits
from lessonlib.quantization.qlora import (
    QLoRALinear,
    adamw_for,
    dense_weight,
    four_bit_linears,
    keep_layout,
    load_four_bit,
    merge_into_four_bits,
    model_bytes,
    paged_adamw,
    update_lost,
)
from lessonlib.training import fit

close = torch.testing.assert_close


def gradients(model, tokens):
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trained.items()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The tiny model, wider so that 32 divides every matrix, as save_pretrained writes it."""
    from tiny_models import tiny_model, tiny_tokenizer

    path = tmp_path_factory.mktemp("base") / "tiny"
    tiny_model(hidden_size=128, intermediate_size=192).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def base(directory):
    """A fresh tiny model in NF4, products in float32."""
    return load_four_bit(source=directory, dtype=torch.float32)[0]


@pytest.fixture(scope="module")
def packed(directory, tmp_path_factory):
    """A checkpoint that bitsandbytes has in 4 bits, as the Hub has many."""
    model, tokenizer = load_four_bit(source=directory, dtype=torch.bfloat16)
    path = tmp_path_factory.mktemp("packed")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_checkpoint_in_4_bits_is_loaded_as_it_is_and_keeps_its_layout(packed, directory, tiny_tokens):
    ours, again = (load_four_bit(source=path, dtype=torch.bfloat16)[0] for path in (packed, directory))
    linear = [layer for _, layer in four_bit_linears(ours)]
    assert len(linear) == 14 and not any(layer.support_avx512bf16_for_cpu for layer in linear)
    assert torch.equal(ours(tiny_tokens).logits, again(tiny_tokens).logits)
    in_float32 = load_four_bit(source=packed, dtype=torch.float32)[0]
    assert {layer.compute_dtype for _, layer in four_bit_linears(in_float32)} == {torch.float32}


def test_gradients_on_a_checkpoint_in_4_bits_are_the_same_after_an_evaluation(packed, tiny_tokens):
    model = add_lora(load_four_bit(source=packed, dtype=torch.float32)[0], ALL, r=4, layer=QLoRALinear)
    before = gradients(filled(model), tiny_tokens)
    model.eval()(tiny_tokens)
    after = gradients(model.train(), tiny_tokens)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_that_is_quantized_in_another_way_is_refused(packed, tmp_path):
    for said in ({"quant_method": "gptq"}, {"quant_method": "bitsandbytes", "load_in_8bit": True}):
        shutil.copytree(packed, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
        with pytest.raises(ModelFileError, match=r"quantized already.*give the directory of the original"):
            load_four_bit(source=tmp_path)


def test_a_model_of_experts_is_refused_before_it_is_read(tmp_path, monkeypatch):
    config = MixtralConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, vocab_size=64, num_local_experts=4
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ModelFileError, match=r"[\d,]+ of [\d,]+ weights, .*experts.* would stay as they are"):
        load_four_bit(source=tmp_path)


# --- the base -----------------------------------------------------------------------------------------------


def test_linear_layers_are_nf4_double_quantized_and_the_rest_is_16_bits(directory):
    model, tokenizer = load_four_bit(source=directory, dtype=torch.bfloat16)
    states = [linear.weight.quant_state for _, linear in four_bit_linears(model)]
    assert len(states) == 2 * 7
    assert {(s.quant_type, s.nested, s.blocksize) for s in states} == {("nf4", True, 64)}
    rest = {p.dtype for p in model.parameters() if not isinstance(p, bitsandbytes.nn.Params4bit)}
    assert rest == {torch.bfloat16}
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert tokenizer.pad_token_id is not None


def test_the_weights_are_the_dense_models_in_nf4(base, directory):
    dense, _ = load_base(source=directory, dtype=torch.float32)
    ours = to_four_bits(dense)
    for path, linear in four_bit_linears(base):
        close(dense_weight(linear), dense_weight(ours.get_submodule(path)), atol=2e-3, rtol=0)
        assert (dense_weight(linear) != dense_weight(ours.get_submodule(path))).float().mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_in_the_dtype_that_the_device_has(directory, monkeypatch, tiny_tokens, dtype):
    monkeypatch.setattr(hardware, "dtype", lambda device: dtype)
    model, _ = load_four_bit(source=directory)
    assert {linear.compute_dtype for _, linear in four_bit_linears(model)} == {dtype}
    assert model.lm_head.weight.dtype == dtype
    assert torch.isfinite(logits(model, tiny_tokens)).all()


def test_no_bfloat16_on_a_t4(monkeypatch):
    # A T4 only emulates bfloat16: torch says so where emulation is not counted.
    monkeypatch.delenv("LESSONLIB_DTYPE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert hardware.dtype(torch.device("cuda")) == torch.float16


def test_a_directory_that_lacks_a_weight_is_refused(directory, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"model.layers.1.mlp.up_proj.weight|cannot be loaded"):
        load_four_bit(source=tmp_path)


def test_a_truncated_file_is_refused(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        load_four_bit(source=tmp_path)


# --- the layout that bitsandbytes must not change -----------------------------------------------------------


def test_the_flag_is_off_on_every_linear4bit(base):
    add_lora(base, ["q_proj"], r=4, layer=QLoRALinear)
    flags = [linear.support_avx512bf16_for_cpu for _, linear in four_bit_linears(base)]
    assert len(flags) == 2 * 7
    assert flags == [False] * len(flags)


@pytest.mark.parametrize("by", ["ours", "PEFT"])
def test_gradients_after_an_evaluation_equal_those_before(base, tiny_tokens, by):
    if by == "ours":
        model = filled(add_lora(base, ALL, r=4, layer=QLoRALinear))
    else:
        model = get_peft_model(base, LoraConfig(r=4, target_modules=list(ALL), init_lora_weights=False))
    before = gradients(model.train(), tiny_tokens)
    logits(model.eval(), tiny_tokens)
    after = gradients(model.train(), tiny_tokens)
    assert len(before) == 2 * 7 * 2
    assert all(gradient.abs().max() > 0 for gradient in before.values())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_evaluation_leaves_the_packed_weights_as_they_were(base, tiny_tokens):
    before = [linear.weight.data.clone() for _, linear in four_bit_linears(base)]
    logits(base.eval(), tiny_tokens)
    after = [linear.weight.data for _, linear in four_bit_linears(base)]
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_matrices_that_neither_32_nor_64_divides_are_evaluated_and_trained(tmp_path, tiny_tokens):
    # 32: what bitsandbytes' other layout asks for; 64: the block size.
    from tiny_models import tiny_model, tiny_tokenizer

    tiny_model(hidden_size=72, intermediate_size=100).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _ = load_four_bit(source=tmp_path, dtype=torch.float32)
    assert {linear.out_features % 32 for _, linear in four_bit_linears(model)} == {72 % 32, 36 % 32, 100 % 32}
    filled(add_lora(model, ALL, r=4, layer=QLoRALinear))
    before = gradients(model.train(), tiny_tokens)
    assert torch.isfinite(logits(model.eval(), tiny_tokens)).all()
    after = gradients(model.train(), tiny_tokens)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered.*:UserWarning")
@pytest.mark.skipif(not bitsandbytes.functional.has_avx512bf16(), reason="the bug needs AVX512-BF16")
def test_without_the_work_around_gradients_vanish(base, tiny_tokens):
    # If this fails after an update of bitsandbytes, the bug is mended there and keep_layout may go.
    filled(add_lora(base, ["q_proj", "v_proj"], r=4, layer=QLoRALinear))
    before = gradients(base.train(), tiny_tokens)
    for _, linear in four_bit_linears(base):
        linear.support_avx512bf16_for_cpu = True
    logits(base.eval(), tiny_tokens)
    after = gradients(base.train(), tiny_tokens)
    assert all(before[name].any() and not after[name].any() for name in before)


def test_merging_with_peft_after_an_evaluation_changes_nothing_where_the_adapter_is_zero(base, tiny_tokens):
    model = get_peft_model(base, LoraConfig(r=4, target_modules=list(ALL)))
    before = logits(model.eval(), tiny_tokens)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Merge lora module to 4-bit")
        merged = model.merge_and_unload()
    close(logits(merged, tiny_tokens), before, atol=1e-2, rtol=0)
    assert all(not linear.support_avx512bf16_for_cpu for _, linear in four_bit_linears(merged))


# --- training -----------------------------------------------------------------------------------------------


def test_lora_on_bitsandbytes_layers_gets_the_gradients_of_the_dequantized_twin(base, tiny_tokens):
    filled(add_lora(base, ALL, r=4, layer=QLoRALinear))
    twin = copy.deepcopy(base)
    for _, layer in lora_layers(twin):
        plain = nn.Linear(layer.base.in_features, layer.base.out_features, bias=False)
        plain.weight.data = dense_weight(layer.base)
        layer.base = plain.requires_grad_(False)
    ours, theirs = gradients(base, tiny_tokens), gradients(twin, tiny_tokens)
    for name in theirs:
        close(ours[name], theirs[name], atol=1e-6, rtol=0)


def test_ours_and_pefts_compute_the_same_on_the_same_base(base, tiny_tokens, tmp_path):
    ours = filled(add_lora(copy.deepcopy(base), ALL, r=4, layer=QLoRALinear))
    save_lora(ours, tmp_path)
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(base, tmp_path)
    assert (logits(ours, tiny_tokens) - logits(theirs.get_base_model(), tiny_tokens)).abs().max() < 1e-5
    with theirs.disable_adapter():
        assert (logits(ours, tiny_tokens) - logits(theirs, tiny_tokens)).abs().max() > 0.1


def test_an_adapter_of_pefts_is_loaded_over_four_bits(base, tiny_tokens, tmp_path):
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, target_modules=list(ALL), init_lora_weights=False))
    theirs.save_pretrained(tmp_path)
    ours = load_lora(base, tmp_path, layer=QLoRALinear)
    close(logits(ours, tiny_tokens), logits(theirs.eval(), tiny_tokens), atol=1e-5, rtol=0)


def test_fit_trains_with_the_paged_optimizer_where_there_is_one(base, tiny_tokens):
    add_lora(base, ALL, r=4, layer=QLoRALinear)
    history = fit(
        base,
        [Tokens(tiny_tokens)] * 15,
        learning_rate=0.01,
        loss=lambda model, batch: model(batch.ids, labels=batch.ids).loss,
        optimizer=paged_adamw,
    )
    assert history.losses[-1] < history.losses[0] - 0.1


def test_the_optimizer_is_paged_on_a_gpu_and_torchs_on_a_cpu():
    assert adamw_for(torch.device("cpu")) is torch.optim.AdamW
    paged = adamw_for(torch.device("cuda"))([nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.0)
    assert paged.is_paged and paged.args.optim_bits == 32


# --- bytes --------------------------------------------------------------------------------------------------


def test_bytes_are_codes_scales_and_the_rest(base):
    # By hand, a block of 64 codes: 32 bytes and one 8-bit scale; a float32 for 256 of those; two code books of 16 and
    # 256 values and an offset a matrix, as bitsandbytes keeps them.
    matrices = [linear.in_features * linear.out_features for _, linear in four_bit_linears(base)]
    packed = sum(n // 2 + n // 64 + 4 * -(-(n // 64) // 256) + 4 * (16 + 256 + 1) for n in matrices)
    rest = sum(p.numel() * 4 for p in base.parameters() if not isinstance(p, bitsandbytes.nn.Params4bit))
    buffers = sum(b.numel() * b.element_size() for b in base.buffers())
    assert model_bytes(base) == pytest.approx(packed + rest + buffers, abs=64)


def test_bytes_of_a_plain_model_are_its_parameters_and_buffers(tiny):
    expected = sum(t.numel() * t.element_size() for t in [*tiny.parameters(), *tiny.buffers()])
    assert model_bytes(tiny) == expected


def test_pefts_preparation_makes_the_embeddings_float32(directory):
    # That is why load_four_bit does not call it.
    model, _ = load_four_bit(source=directory, dtype=torch.bfloat16)
    before = model_bytes(model)
    prepared = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    assert prepared.get_input_embeddings().weight.dtype == torch.float32
    assert model_bytes(prepared) > 1.3 * before


@pytest.mark.model
def test_the_real_model_takes_at_most_0_42_of_its_bytes_in_bfloat16_and_as_many_as_predicted():
    lora = {"r": 8, "targets": ("q_proj", "v_proj")}
    dense = add_lora(load_base(dtype=torch.bfloat16)[0], lora["targets"], r=8)
    plan = {
        method: training_memory(dense.config, method, precision=PURE_BFLOAT16, batch=1, tokens=16).weights
        for method in (LoRA(**lora), QLoRA(**lora))
    }
    dense_bytes = model_bytes(dense)
    del dense
    small = add_lora(load_four_bit(dtype=torch.bfloat16)[0], lora["targets"], r=8, layer=QLoRALinear)
    assert len(list(four_bit_linears(small))) == 210
    assert not any(linear.support_avx512bf16_for_cpu for _, linear in four_bit_linears(small))
    assert model_bytes(small) / dense_bytes <= 0.42
    assert dense_bytes == pytest.approx(plan[LoRA(**lora)], rel=0.001)
    assert model_bytes(small) == pytest.approx(plan[QLoRA(**lora)], rel=0.01)


# --- merging ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["bitsandbytes", "ours"])
def trained(request, base, directory):
    """A 4-bit model with an adapter that moves the logits, over bitsandbytes' layers or over ours."""
    model = (
        base if request.param == "bitsandbytes" else to_four_bits(load_base(source=directory, dtype=torch.float32)[0])
    )
    return filled(add_lora(model, ALL, r=4, layer=QLoRALinear))


def test_merging_into_a_dense_layer_keeps_what_was_trained(trained, tiny_tokens):
    before = logits(trained, tiny_tokens)
    merge_lora(trained)
    assert not any(isinstance(module, QLoRALinear | FourBitLinear) for module in trained.modules())
    close(logits(trained, tiny_tokens), before, atol=1e-5, rtol=0)


def test_merging_into_4_bits_changes_what_was_trained_and_can_be_undone(trained, tiny_tokens):
    before = logits(trained, tiny_tokens)
    merge_into_four_bits(trained)
    assert sum(isinstance(module, FourBitLinear) for module in trained.modules()) == 2 * 7
    assert not any(isinstance(module, QLoRALinear) for module in trained.modules())
    assert (logits(trained, tiny_tokens) - before).abs().max() > 0.05
    assert torch.equal(logits(unmerge_lora(trained), tiny_tokens), before)


def test_merged_weight_is_the_dequantized_one_plus_the_update(base):
    layer = filled(add_lora(base, ["up_proj"], r=4, alpha=12, layer=QLoRALinear)).model.layers[0].mlp.up_proj
    W = dequantize_4bit(layer.base.weight.data, layer.base.weight.quant_state)
    close(layer.merged().weight, W + 12 / 4 * layer.B @ layer.A, atol=1e-7, rtol=0)


def test_merging_twice_is_refused(trained):
    merge_into_four_bits(trained)
    with pytest.raises(LoRAError, match="merged already"):
        merge_into_four_bits(trained)


def test_a_small_update_is_lost_whole_and_a_large_one_is_not():
    # One entry of a block, off its largest weight, by far less than half a step: the code stays what it was.
    torch.manual_seed(0)
    layer = QLoRALinear(FourBitLinear(nn.Linear(64, 64, bias=False)), r=1, alpha=1)
    W = dense_weight(layer.base)
    column = W.abs().argmin(1)[0]
    layer.A.data.zero_()[0, column] = 1.0
    layer.B.data[0] = 1e-4 * W[0].abs().max()
    # Double quantization rounds the scales anew as well, so the error is a little more than the update.
    assert update_lost(layer) > 0.9
    layer.A.data.normal_()
    layer.B.data.normal_()
    assert update_lost(layer) < 0.15


def test_an_update_of_zero_has_nothing_to_lose(base):
    add_lora(base, ["q_proj"], r=4, layer=QLoRALinear)
    with pytest.raises(ValueError, match="update is zero: train the adapter first"):
        update_lost(base.model.layers[0].self_attn.q_proj)


def test_a_merged_layer_keeps_its_bias():
    source = nn.Linear(64, 32)
    layer = QLoRALinear(FourBitLinear(source), r=2)
    x = torch.randn(3, 64)
    close(layer.merged()(x), layer(x), atol=1e-5, rtol=0)
    close(layer.merged().bias.data, source.bias.data)


def test_keep_layout_returns_the_model(tiny):
    assert keep_layout(tiny) is tiny
