"""Predicted bytes against those of one real training step, and against the papers' figures."""

import pytest
import torch

from lessonlib.costs import (
    EIGHT_BIT_ADAM,
    FLOAT32,
    MASTER_WEIGHTS,
    MIXED,
    PURE_BFLOAT16,
    FullFineTuning,
    LoRA,
    PromptTuning,
    QLoRA,
    activations,
    architecture,
    block_parts,
    checkpoint_bytes,
    training_memory,
)
from lessonlib.evaluation import step_bytes
from lessonlib.lora import add_lora
from lessonlib.models import load_base

PRECISION = {torch.float32: FLOAT32, torch.bfloat16: PURE_BFLOAT16}


@pytest.mark.model
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "method", [FullFineTuning(), LoRA(8), LoRA(4, ("q_proj", "v_proj"))], ids=["full", "lora", "qv"]
)
@pytest.mark.parametrize("dtype", PRECISION, ids=["float32", "bfloat16"])
def test_a_real_step_holds_the_bytes_that_were_predicted(dtype, method, recompute):
    model, _ = load_base(dtype=dtype)
    if isinstance(method, LoRA):
        add_lora(model, {linear.name for linear in method.chosen(architecture(model.config))}, r=method.r)
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = False
    held = step_bytes(model, torch.randint(0, 49_000, (2, 96), generator=torch.Generator().manual_seed(0)))
    settings = {"batch": 2, "tokens": 96, "recompute": recompute}
    predicted = training_memory(model.config, method, precision=PRECISION[dtype], **settings)
    kept = activations(architecture(model.config), method, element=PRECISION[dtype].weight, **settings)
    assert held["weights"] == predicted.weights
    assert held["gradients"] == predicted.gradients
    assert held["optimizer states"] == predicted.optimizer
    assert kept.held == pytest.approx(held["activations"], rel=0.05)


def test_bytes_a_parameter_are_6_8_12_16_and_16():
    precisions = (EIGHT_BIT_ADAM, PURE_BFLOAT16, MIXED, MASTER_WEIGHTS, FLOAT32)
    assert [precision.bytes for precision in precisions] == [6, 8, 12, 16, 16]


def test_a_classic_block_holds_what_korthikanti_et_al_count():
    model = architecture("gpt3-175b")
    b, s, h, a = 1, 2048, model.d, model.heads
    ours = sum(block_parts(model, FullFineTuning(), 2, b, s).values())
    assert ours == s * b * h * (34 + 5 * a * s / h)  # their equation 1


def test_activations_of_the_175b_model_come_to_275_gb():
    kept = activations(architecture("gpt3-175b"), FullFineTuning(), element=2, batch=1, tokens=2048)
    assert kept.held / 1e9 == pytest.approx(275.4, abs=0.9)  # and 0.5 GB of the loss over the vocabulary


def test_recomputation_keeps_one_state_a_block_and_at_most_one_block_whole():
    model = architecture("llama2-7b")
    whole = activations(model, FullFineTuning(), element=2, batch=1, tokens=512)
    again = activations(model, FullFineTuning(), element=2, batch=1, tokens=512, recompute=True)
    block = sum(block_parts(model, FullFineTuning(), 2, 1, 512).values())
    assert again.peak - again.held == block
    assert whole.held - again.held == model.layers * (block - 2 * 512 * model.d)


def test_fused_attention_makes_activations_linear_in_the_length():
    model = architecture("llama2-7b")
    short, long = (
        activations(model, LoRA(8), element=2, batch=1, tokens=tokens, fused_attention=True).held
        for tokens in (1024, 2048)
    )
    assert long == 2 * short


def test_frozen_matrices_keep_no_input():
    model = architecture("llama2-7b")
    full, lora, prompt = (
        activations(model, method, element=2, batch=1, tokens=512).held
        for method in (FullFineTuning(), LoRA(8), PromptTuning(20))
    )
    assert prompt < lora < full


def test_four_bits_keep_70_billion_parameters_in_36_gb():
    held = training_memory("llama2-70b", QLoRA(16), batch=1, tokens=1).weights
    added = 4 * QLoRA(16).trainable(architecture("llama2-70b"))
    assert (held - added) / 1e9 == pytest.approx(36.4, abs=0.05)  # linear layers in NF4, doubly quantized


def test_a_checkpoint_is_the_model_or_what_was_added():
    assert checkpoint_bytes("gpt3-175b") / 1e9 == pytest.approx(350, rel=0.01)  # Hu et al. 2021, section 4.2
    assert checkpoint_bytes("llama2-70b", LoRA(16, ["q_proj", "k_proj", "v_proj", "o_proj"])) == 131_072_000


@pytest.mark.parametrize("settings", [{"batch": 0}, {"tokens": -1}, {"batch": 1.5}, {"tokens": True}])
def test_an_impossible_batch_is_refused_with_its_value(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        training_memory("gpt2", **settings)
