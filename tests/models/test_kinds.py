"""Claims of lessonlib.models.kinds: what no lesson can be held with is refused, by name, before a weight is read."""

import json
import shutil

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from lessonlib.lora import add_lora, save_lora
from lessonlib.models import ModelFileError, load_base, load_tokenizer

BERT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
T5 = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 4, "d_kv": 8, "vocab_size": 512}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tiny model and its tokenizer, as save_pretrained writes them."""
    path = tmp_path_factory.mktemp("kinds") / "whole"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def own(whole, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(whole, tmp_path / "own")


def configured(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


@pytest.fixture
def unread(monkeypatch):
    """No weight is read."""
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: T5ForConditionalGeneration(T5Config(**T5)), "holds a t5, an encoder with a decoder"),
        (lambda: BertForMaskedLM(BertConfig(**BERT)), "holds a bert, which reads in both directions"),
        (
            lambda: LlamaForSequenceClassification(tiny_model().config),
            "holds a LlamaForSequenceClassification, which was made for another task",
        ),
    ],
)
def test_another_kind_of_model_is_refused_before_it_is_read(tmp_path, unread, make, message):
    make().save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=f"{tmp_path} {message}.*give a causal language model") as refusal:
        load_base(source=tmp_path)
    assert "damaged" not in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "holds a vit, which does not write texts"),
        ({"model_type": "made_up"}, "of the type 'made_up', which is unknown"),
        ({"model_type": None}, "of the type None, which is unknown"),
        (
            {"model_type": "made_up", "auto_map": {"AutoConfig": "m.C"}},
            "needs code of its own, which is not run here",
        ),
        ({"is_encoder_decoder": True}, "an encoder with a decoder"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(own, unread, changes, message):
    with pytest.raises(ModelFileError, match=message):
        load_base(source=configured(own, **changes))


def test_an_encoder_that_was_made_a_decoder_is_loaded(tmp_path, tiny_tokens):
    theirs = BertLMHeadModel(BertConfig(**BERT, is_decoder=True)).eval()
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    ours, _ = load_base(source=tmp_path, dtype=torch.float32)
    assert torch.allclose(ours(tiny_tokens).logits, theirs(tiny_tokens).logits, atol=1e-5)


def test_an_adapter_beside_the_model_is_refused_and_not_put_on_unasked(own, unread):
    save_lora(add_lora(tiny_model()), own)
    with pytest.raises(ModelFileError, match=r"holds an adapter \(adapter_config.json\) beside the model"):
        load_base(source=own)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_damaged_configuration_is_named(own, unread, content):
    (own / "config.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"config.json cannot be loaded"):
        load_base(source=own)


# --- quantized already -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"\(gptq\): give the directory of the original weights"),
        ({"quant_method": "awq", "bits": 4}, r"\(awq\): give the directory of the original"),
        ({"quant_method": "fp8"}, r"\(fp8\): give the directory of the original"),
        ({"quant_method": "compressed-tensors"}, r"\(compressed-tensors\): give the directory"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, r"\(bitsandbytes, 8 bits\): give the directory"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"4 bits\): load it with load_four_bit"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
            r"4 bits\): give the directory of the original",
        ),
    ],
)
@pytest.mark.parametrize("place", ["top", "text"])
def test_weights_that_are_quantized_already_are_refused(own, unread, said, message, place):
    changes = {"quantization_config": said}
    with pytest.raises(ModelFileError, match=message):
        load_base(source=configured(own, **(changes if place == "top" else {"text_config": changes})))


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_the_older_files_of_gptq_and_awq_count_as_well(own, unread, name):
    (own / name).write_text("{}")
    with pytest.raises(ModelFileError, match=rf"quantized already \({name}\)"):
        load_base(source=own)


# --- weights and tokens ----------------------------------------------------------------------------------------------


def test_weights_of_another_shape_are_named(own):
    with pytest.raises(ModelFileError, match=r"6 weights have another shape, .*mlp.down_proj.weight is \(32, 64\)"):
        load_base(source=configured(own, intermediate_size=48))


def test_a_tokenizer_with_neither_padding_nor_end_is_refused_with_the_cure(own):
    path = own / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None, "eos_token": None}))
    for load in (load_base, load_tokenizer):
        with pytest.raises(ModelFileError, match=r"neither a padding nor an end token.*set tokenizer.pad_token"):
            load(str(own))


def test_a_token_beyond_the_models_embeddings_is_refused_with_the_cure(own):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<filler {n}>" for n in range(600)])
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(own)
    with pytest.raises(
        ModelFileError, match=r"pad_token is token \d+, and the model has 512.*resize_token_embeddings"
    ):
        load_base(source=own)
