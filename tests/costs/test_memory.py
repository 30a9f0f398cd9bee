"""Predicted bytes against those of one real training step, and against the papers' figures."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import functools

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from lessonlib.adapters import add_adapters
from lessonlib.costs import (
    EIGHT_BIT_ADAM,
    FLOAT32,
    MASTER_WEIGHTS,
    MIXED,
    PURE_BFLOAT16,
    Adapters,
    FullFineTuning,
    LoRA,
    PrefixTuning,
    PromptTuning,
    QLoRA,
    activations,
    architecture,
    block_parts,
    checkpoint_bytes,
    training_memory,
)
from lessonlib.evaluation import SavedTensors, step_bytes, training_bytes
from lessonlib.experiments.tickets import ALL_LINEAR
from lessonlib.lora import add_lora
from lessonlib.models import load_base
from lessonlib.prompting.soft_prompts import add_prefix, add_prompt
from lessonlib.quantization.qlora import QLoRALinear, load_four_bit, model_bytes
from lessonlib.training import trainable_parameters
from lessonlib.training.master_weights import MasterAdamW

PRECISION = {torch.float32: FLOAT32, torch.bfloat16: PURE_BFLOAT16}


@pytest.mark.model
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "method", [FullFineTuning(), LoRA(8), LoRA(4, ("q_proj", "v_proj"))], ids=["full", "lora", "qv"]
)
@pytest.mark.parametrize(
    "dtype",
    # Processors without bfloat16 imitate it, at a tenth of the speed.
    [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.robust)],
    ids=["float32", "bfloat16"],
)
def test_a_real_step_holds_the_bytes_that_were_predicted(dtype, method, recompute):
    model, _ = load_base(dtype=dtype)
    if isinstance(method, LoRA):
        add_lora(model, {linear.name for linear in method.chosen(architecture(model.config))}, r=method.r)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = False
    held = step_bytes(model, torch.randint(0, 49_000, (2, 32), generator=torch.Generator().manual_seed(0)))
    settings = {"batch": 2, "tokens": 32, "recompute": recompute}
    predicted = training_memory(model.config, method, precision=PRECISION[dtype], **settings)
    kept = activations(architecture(model.config), method, element=PRECISION[dtype].weight, **settings)
    assert held["weights"] == predicted.weights
    assert held["gradients"] == predicted.gradients
    assert held["optimizer states"] == predicted.optimizer
    assert kept.held == pytest.approx(held["activations"], rel=0.05)


def everything(model):
    return model.requires_grad_(True)


# Each method as costs counts it, and as the library does it. Every base is in bfloat16.
METHODS = {
    "full fine-tuning, float32 masters": (FullFineTuning(), everything),
    "LoRA": (LoRA(8), functools.partial(add_lora, targets=ALL_LINEAR, r=8)),
    "QLoRA": (QLoRA(8), functools.partial(add_lora, targets=ALL_LINEAR, r=8, layer=QLoRALinear)),
    "adapters": (Adapters(16), functools.partial(add_adapters, m=16)),
    "prompt tuning": (PromptTuning(20), functools.partial(add_prompt, tokens=20)),
    "prefix tuning": (PrefixTuning(20), functools.partial(add_prefix, tokens=20)),
}
every_method = pytest.mark.parametrize("name", METHODS)


def held_and_predicted(name, source, tokens):
    """Bytes of one real step with AdamW (over masters in full fine-tuning), and those that costs gives."""
    method, prepared = METHODS[name]
    load = load_four_bit if isinstance(method, QLoRA) else load_base
    model = prepared(load(source=source, dtype=torch.bfloat16)[0]).train()
    adamw = MasterAdamW if method.trains_everything else torch.optim.AdamW
    optimizer = adamw(trainable_parameters(model), lr=0.0)
    with SavedTensors(model) as saved:
        loss = model(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    optimizer.step()
    counted = training_bytes(model, optimizer)
    held = [model_bytes(model), counted["gradients"], counted["optimizer states"], saved.bytes]
    precision = MASTER_WEIGHTS if method.trains_everything else PURE_BFLOAT16
    batch, length = tokens.shape
    plan = training_memory(model.config, method, precision=precision, batch=batch, tokens=length)
    return held, [plan.weights, plan.gradients, plan.optimizer, plan.activations]


@pytest.fixture(scope="module")
def tiny_directory(tmp_path_factory):
    """Eight blocks, so that what the first keeps less is little; 64 divides the matrices."""
    path = tmp_path_factory.mktemp("base")
    tiny_model(hidden_size=128, intermediate_size=384, num_hidden_layers=8).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@every_method
def test_every_method_holds_what_was_predicted_within_ten_per_cent(name, tiny_directory):
    tokens = torch.randint(2, 512, (2, 64), generator=torch.Generator().manual_seed(0))
    held, predicted = held_and_predicted(name, tiny_directory, tokens)
    assert predicted == pytest.approx(held, rel=0.1)
    assert predicted[1:3] == held[1:3]  # gradients and optimizer states to the byte


@pytest.mark.robust
@pytest.mark.parametrize("name", [name for name in METHODS if name != "LoRA"])  # which is counted above
def test_every_method_on_the_real_model_holds_what_was_predicted_within_five_per_cent(name):
    tokens = torch.randint(2, 49_000, (1, 48), generator=torch.Generator().manual_seed(0))
    held, predicted = held_and_predicted(name, None, tokens)
    assert predicted == pytest.approx(held, rel=0.05)
    assert predicted[0] == pytest.approx(held[0], rel=0.003)
    assert predicted[1:3] == held[1:3]


def test_masters_are_bytes_of_the_optimizer():
    plain, masters = (training_memory("gpt2", precision=precision) for precision in (MIXED, MASTER_WEIGHTS))
    assert masters.optimizer - plain.optimizer == 4 * architecture("gpt2").parameters
    assert masters.weights == plain.weights


def test_virtual_tokens_are_looked_at_and_those_of_a_prompt_go_through_the_layers():
    # By hand, Llama-2-7B: 32 heads, width 4096; keys and values in 2 bytes, a map's entry in 4 + 2.
    model, N, p = architecture("llama2-7b"), 3 * 512, 20
    none, prefix, prompt = (
        block_parts(model, method, 2, 3, 512) for method in (LoRA(8, ["q_proj"]), PrefixTuning(p), PromptTuning(p))
    )
    assert prefix["attention maps"] - none["attention maps"] == 6 * N * 32 * p
    assert prefix["keys and values in front"] == 2 * 2 * 3 * p * 4096
    alone = sum(block_parts(model, PrefixTuning(1), 2, 1, p).values()) - 6 * p * 32 - 2 * 2 * 4096
    assert prompt["the prompt's own"] == alone
    assert sum(prompt.values()) == sum(prefix.values()) + alone


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
    short, middle, long = (
        activations(model, LoRA(8), element=2, batch=1, tokens=tokens, fused_attention=True).held
        for tokens in (1024, 2048, 3072)
    )
    copies = 2 * LoRA(8).trainable(model)  # A and B in 16 bits, whatever the length
    assert long - middle == middle - short == short - copies


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


@pytest.mark.parametrize("settings", [{"batch": 0}, {"tokens": -1}, {"batch": 1.5}, {"tokens": True}, {"scored": 0}])
def test_an_impossible_batch_is_refused_with_its_value(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        training_memory("gpt2", **settings)
