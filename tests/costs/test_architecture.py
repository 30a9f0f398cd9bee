"""Counting on the meta device: against published counts, and against real modules."""

import json

import pytest
from tiny_models import tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from lessonlib.corpora.published import architectures
from lessonlib.costs import ArchitectureError, architecture, count_parameters, meta_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize("name", sorted(architectures()))
def test_every_listed_architecture_has_the_parameters_that_the_list_says(name):
    assert count_parameters(name) == architectures()[name]["parameters"]


def test_a_count_equals_that_of_the_real_modules():
    model = tiny_model()
    assert count_parameters(model.config) == sum(p.numel() for p in model.parameters())


def test_nothing_is_allocated():
    assert {p.device.type for p in meta_model("gpt3-175b").parameters()} == {"meta"}


def test_gpt2s_transposed_matrices_are_read_the_right_way_round():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, bos_token_id=0, eos_token_id=0))
    shapes = {linear.path: (linear.d_out, linear.d_in) for linear in architecture(model.config).linears}
    assert shapes["transformer.h.0.attn.c_attn"] == (24, 8)
    assert shapes["transformer.h.0.mlp.c_proj"] == (8, 32)


def test_shapes_of_llama_2_70b_are_those_of_its_paper():
    model = architecture("llama2-70b")  # Touvron et al. 2023: 80 layers, grouped queries, 8 of 64 heads
    assert (model.layers, model.d, model.heads, model.d_kv, model.gated) == (80, 8192, 64, 1024, True)


def test_a_path_a_dict_and_a_config_are_read_alike(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    assert architecture(path) == architecture(str(path)) == architecture(LLAMA) == architecture(tmp_path)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_missing_field_is_named_instead_of_filled_with_another_models(field):
    with pytest.raises(ArchitectureError, match=field):
        architecture({key: value for key, value in LLAMA.items() if key != field})


@pytest.mark.parametrize("value", [0, -3, 2.5, "64", 10**9, True])
def test_an_absurd_width_is_refused_by_name(value):
    with pytest.raises(ArchitectureError, match="hidden_size"):
        architecture(LLAMA | {"hidden_size": value})


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 7}, {"intermediate_size": -1}, {"num_key_value_heads": 0}]
)
def test_shapes_that_do_not_go_together_are_refused(change):
    with pytest.raises(ArchitectureError, match=next(iter(change))):
        architecture(LLAMA | change)


def test_the_fields_of_each_family_go_by_their_own_names():
    with pytest.raises(ArchitectureError, match="n_embd"):
        architecture({"model_type": "gpt2", "n_layer": 2, "n_head": 2, "vocab_size": 10})


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(ArchitectureError, match="mamba9"):
        architecture(LLAMA | {"model_type": "mamba9"})
    with pytest.raises(ArchitectureError, match="model_type"):
        architecture({"hidden_size": 4})
    with pytest.raises(ArchitectureError, match="llama2-7b"):
        architecture("llama2-7")


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArchitectureError, match=r"config\.json"):
        architecture(tmp_path)
    with pytest.raises(ArchitectureError, match="no file"):
        architecture(tmp_path / "none.json")
