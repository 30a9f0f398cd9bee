"""Trainable parameters of each method, against PEFT on the meta device and against the papers' own tables."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from lessonlib.corpora.published import published
from lessonlib.costs import (
    Adapters,
    FullFineTuning,
    LoRA,
    MethodError,
    PrefixTuning,
    PromptTuning,
    QLoRA,
    architecture,
    meta_model,
)

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _of_peft(name, config):
    with torch.device("meta"):
        model = get_peft_model(meta_model(name), config)
    return model.get_nb_trainable_parameters()


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ALL])
def test_lora_counts_what_peft_counts_on_70_billion_parameters(targets):
    trainable, total = _of_peft("llama2-70b", LoraConfig(r=16, target_modules=targets))
    ours = LoRA(16, targets).trainable(architecture("llama2-70b"))
    assert ours == trainable == {2: 32_768_000, 7: 207_093_760}[len(targets)]
    assert total == architecture("llama2-70b").parameters + ours


def test_all_linear_is_the_seven_of_a_llama_block():
    model = architecture("llama2-70b")
    assert LoRA(8).trainable(model) == LoRA(8, ALL).trainable(model) == 103_546_880


@pytest.mark.parametrize("rank", [1, 2, 4, 8, 64])
def test_lora_on_gpt3_counts_the_rows_of_the_papers_table(rank):
    ours = LoRA(rank, ("q_proj", "v_proj")).trainable(architecture("opt-175b"))  # GPT-3's shapes, q, k, v apart
    assert ours / 1e6 == pytest.approx(published("hu2021_table15", f"LoRA QV r={rank}", "parameters"), abs=0.1)


def test_adapters_count_what_the_papers_count():
    assert Adapters(64).trainable(architecture("bert-large")) == 6_343_680  # 2 x 24 (2 x 1024 x 64 + 64 + 1024)
    assert Adapters(64).trainable(architecture("gpt3-175b")) == 304_361_472  # LoRA paper, Table 15: 304.4M
    assert Adapters(1).trainable(architecture("gpt3-175b")) / 1e6 == pytest.approx(7.1, abs=0.05)


def test_prompts_count_what_their_paper_counts():
    for size, parameters in {"t5-base": 76_800, "t5-v1.1-xxl": 409_600, "gpt3-175b": 1_228_800}.items():
        assert PromptTuning(100).trainable(architecture(size)) == parameters  # Lester et al. 2021, Table 4


def test_prompt_and_prefix_tuning_count_what_peft_counts():
    name = "smollm2-135m"
    model = architecture(name)
    for ours, theirs in (
        (PromptTuning(20), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)),
        (PrefixTuning(20), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)),
    ):
        assert ours.trainable(model) == _of_peft(name, theirs)[0]


def test_full_fine_tuning_trains_everything_and_qlora_what_lora_does():
    model = architecture("llama2-7b")
    assert FullFineTuning().trainable(model) == model.parameters
    assert QLoRA(16).trainable(model) == LoRA(16).trainable(model)


@pytest.mark.parametrize(
    "method", [LoRA(0), LoRA(-1), LoRA(1.5), Adapters(0), PromptTuning(-2), PrefixTuning(True), QLoRA(0)]
)
def test_a_size_that_cannot_be_is_refused_with_its_value(method):
    with pytest.raises(MethodError, match=r"expected a whole number of at least 1"):
        method.trainable(architecture("gpt2"))


def test_a_target_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(MethodError, match=r"'q_proj'.*c_attn"):
        LoRA(8, ["q_proj"]).trainable(architecture("gpt2"))
    with pytest.raises(MethodError, match="a list"):
        LoRA(8, "q_proj").trainable(architecture("llama2-7b"))
