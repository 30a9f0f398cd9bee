"""Claims of lessonlib.models.reading. References: the model's own forward; the tokenizer's own idea of a whole text."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model, tiny_tokenizer
from tokenizers import processors
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lessonlib.lora import LoRAError, add_lora, linear_names
from lessonlib.models.reading import first_tokens, head_logits, text_tokens
from lessonlib.prompting import score_labels, score_whole_texts
from lessonlib.prompting.soft_prompts import add_prompt

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
LLAMA = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2, "pad_token_id": 0}
WIDE = {"initializer_range": 0.5}


def gemma2(**changes):
    return Gemma2ForCausalLM(Gemma2Config(**LLAMA, **WIDE, head_dim=8, final_logit_softcapping=5.0, **changes))


def peft():
    return get_peft_model(gemma2(), LoraConfig(target_modules=["q_proj"]))


MODELS = {
    "llama": tiny_model,
    "gemma2": gemma2,
    "peft": peft,
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**LLAMA)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**LLAMA, logits_scaling=8.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**LLAMA, logit_scale=0.25)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**LLAMA, num_local_experts=2)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=512)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, intermediate_size=64)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32)),
    "soft prompt": lambda: add_prompt(tiny_model(), 4),
}


# --- logits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_logits_of_hidden_states_are_the_models_own(kind, tiny_tokens):
    model = MODELS[kind]().eval()
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=tiny_tokens, use_cache=False).last_hidden_state
        own = model(tiny_tokens, use_cache=False).logits
        torch.testing.assert_close(head_logits(model, hidden), own, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(head_logits(model, hidden[1, 3]), own[1, 3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_nothing_stands_behind_the_head_its_bits_are_the_logits(tiny, dtype):
    model, hidden = tiny.to(dtype), torch.randn(5, 32, dtype=dtype)
    assert torch.equal(head_logits(model, hidden), model.get_output_embeddings()(hidden))


def test_the_gradient_goes_through_and_the_model_is_left_as_it_was():
    model, hidden = gemma2(), torch.randn(3, 32, requires_grad=True)
    before = dict(model._modules)
    head_logits(model, hidden).sum().backward()
    assert hidden.grad.any() and dict(model._modules) == before


@pytest.mark.parametrize("score", [score_labels, score_whole_texts])
@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere"])
def test_labels_are_scored_by_the_logits_of_the_models_own_forward(tokenizer, kind, score):
    model, labels, query = MODELS[kind]().eval(), [" billing", " refund", " late delivery"], "Ticket: parcel\nTopic:"
    begin, expected = len(tokenizer(query).input_ids), []
    for label in labels:
        ids = tokenizer(query + label).input_ids
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        expected.append(sum(log_probs[i - 1, ids[i]].item() for i in range(begin, len(ids))))
    scores = score(model, tokenizer, "Ticket:", [query.removeprefix("Ticket:")], labels)
    torch.testing.assert_close(scores, torch.tensor([expected]), atol=1e-3, rtol=1e-4)


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def begins():
    """A tokenizer that begins every text with a token of its own, and ends it with another."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    template = {"single": "<bos> $A <eos>", "special_tokens": [("<bos>", tokenizer.bos_token_id), ("<eos>", 1)]}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(**template)
    return tokenizer


def test_a_text_begins_with_the_tokenizers_own_first_token_once_and_ends_with_none(begins):
    assert first_tokens(begins) == [begins.bos_token_id]
    for ids in text_tokens(begins, ["Ticket: late", "", "<bos>late"]):
        assert ids.index(begins.bos_token_id) == 0 and ids.count(begins.bos_token_id) == 1 and 1 not in ids


def test_without_such_a_token_and_without_control_tokens_a_text_is_what_it_was(tokenizer):
    texts = ["Ticket: late\nTopic: refund", "ŝ 한국어 \x00 {text}", ""]
    assert first_tokens(tokenizer) == []
    assert text_tokens(tokenizer, texts) == tokenizer(texts, add_special_tokens=False).input_ids
    assert text_tokens(tokenizer, []) == []


def test_control_tokens_in_a_text_are_letters(tokenizer):
    (ids,) = text_tokens(tokenizer, ["please <eos> refund <pad>"])
    assert not {0, 1} & set(ids) and tokenizer.decode(ids) == "please <eos> refund <pad>"
    assert tokenizer("<eos>", add_special_tokens=False).input_ids == [1]  # and the tokenizer is what it was


def test_scores_stand_behind_the_first_token_however_the_prefix_brings_it(tiny, begins):
    model, settings = tiny_model(vocab_size=600), (["late parcel"], [" refund", " billing"])
    by_itself = score_labels(model, begins, "Ticket: ", *settings)
    assert torch.equal(score_labels(model, begins, "<bos>Ticket: ", *settings), by_itself)
    bare = copy.deepcopy(begins)
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert torch.equal(score_labels(model, bare, "<bos>Ticket: ", *settings), by_itself)
    assert not torch.allclose(score_labels(model, bare, "Ticket: ", *settings), by_itself, atol=1e-4)


# --- what LoRA can be put on -----------------------------------------------------------------------------------------


def test_a_model_without_linear_layers_says_so_and_names_the_cure():
    gpt2 = MODELS["gpt2"]()
    for ask in (linear_names, lambda model: add_lora(model, [])):
        with pytest.raises(
            LoRAError, match=r"GPT2LMHeadModel has no nn.Linear.*Conv1D.*take a model such as SmolLM2"
        ):
            ask(gpt2)
    assert linear_names(tiny_model()) == sorted("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
