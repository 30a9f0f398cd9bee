"""Claims of lessonlib.prompting.soft_prompts. References: PEFT on the same weights, and the same model with the text itself in
front of its input."""

import copy
import json
import math
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lessonlib.prompting.soft_prompts import (
    Prefix,
    SoftPrompt,
    SoftPromptError,
    add_prefix,
    add_prompt,
    learned,
    load_prefix,
    load_prompt,
    remove_prefix,
    remove_prompt,
    save_prefix,
    save_prompt,
)
from lessonlib.training import fit
from lessonlib.training.labels import LabelTask, label_logits

BOTH = pytest.mark.parametrize(
    ("add", "remove", "save", "load"),
    [
        (add_prompt, remove_prompt, save_prompt, load_prompt),
        (add_prefix, remove_prefix, save_prefix, load_prefix),
    ],
    ids=["prompt", "prefix"],
)
ADD = pytest.mark.parametrize("add", [add_prompt, add_prefix])
TEXT = [7, 300, 12, 12, 45]
LABELS = ["refund", "billing", "technical"]
TEXTS = ["late", "thanks " * 9, "broken parcel", "", "billing " * 5, "delivery late " * 3]
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(5)


def logits(model, tokens, **more):
    with torch.no_grad():
        return model(tokens, **more).logits


def gpt2():
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 512, "n_positions": 128}
    return GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.1)).eval()


def peft_twin(model, add, tokens=5, **settings):
    """The same base twice, with our prompt or prefix and with PEFT's, and PEFT's own random start in both."""
    kind = PromptTuningConfig if add is add_prompt else PrefixTuningConfig
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=tokens, **settings)
    theirs = get_peft_model(copy.deepcopy(model), config).eval()
    weight = theirs.prompt_encoder["default"].embedding.weight
    add(model, tokens, weight if add is add_prompt else from_rows(weight, model))
    return model, theirs


def from_rows(rows, model):
    """PEFT's rows as (K, V), in the words of its forward pass."""
    heads = model.config.to_dict().get("num_key_value_heads", model.config.num_attention_heads)
    past = rows.view(1, len(rows), 2 * model.config.num_hidden_layers, heads, -1).permute([2, 0, 3, 1, 4])
    return torch.stack([k[0] for k in past[0::2]]), torch.stack([v[0] for v in past[1::2]])


def bits(model):
    """All that a refused call must leave as it was: modules, modes, values, and what trains."""
    modules = [(path, type(module), module.training) for path, module in model.named_modules()]
    values = [(n, p.requires_grad, p.detach().clone().view(torch.uint8)) for n, p in model.named_parameters()]
    return modules, values


def same(before, after):
    assert before[0] == after[0]
    for (name, trains, value), (name_after, trains_after, value_after) in zip(before[1], after[1], strict=True):
        assert (name, trains) == (name_after, trains_after)
        assert torch.equal(value, value_after), name


# --- equal to PEFT ------------------------------------------------------------------------------------------


def wide_heads(make_tiny):
    return make_tiny(head_dim=16, num_key_value_heads=1)


def one_group(make_tiny):
    return make_tiny(num_key_value_heads=4, attn_implementation="sdpa")


MODELS = pytest.mark.parametrize(
    "make",
    [lambda make_tiny: make_tiny(), wide_heads, one_group, lambda _: gpt2()],
    ids="tiny wide sdpa gpt2".split(),
)


@MODELS
def test_logits_behind_a_prompt_equal_pefts(make, make_tiny, tiny_tokens):
    model = make(make_tiny)
    before = logits(model, tiny_tokens)
    ours, theirs = peft_twin(model, add_prompt)
    assert (logits(ours, tiny_tokens) - before).abs().max() > 0.1
    close(logits(ours, tiny_tokens), logits(theirs, tiny_tokens)[:, 5:], atol=1e-5, rtol=0)


@MODELS
def test_logits_behind_a_prefix_equal_pefts(make, make_tiny, tiny_tokens):
    model = make(make_tiny)
    before = logits(model, tiny_tokens)
    ours, theirs = peft_twin(model, add_prefix)
    assert (logits(ours, tiny_tokens) - before).abs().max() > 0.1
    close(logits(ours, tiny_tokens), logits(theirs, tiny_tokens), atol=1e-5, rtol=0)


@ADD
def test_gradients_equal_pefts(tiny, tiny_tokens, add):
    ours, theirs = peft_twin(tiny, add)
    for model in (ours, theirs):
        model(tiny_tokens).logits[:, -3:, :40].square().sum().backward()
    expected = theirs.prompt_encoder["default"].embedding.weight.grad
    if add is add_prompt:
        close(learned(ours).P.grad, expected, atol=1e-5, rtol=0)
    else:
        K, V = from_rows(expected, ours)
        close(learned(ours).K.grad, K, atol=1e-5, rtol=0)
        close(learned(ours).V.grad, V, atol=1e-5, rtol=0)
    assert expected.abs().max() > 0.01


@ADD
def test_label_logits_equal_pefts_whole_forward_pass(tiny, tokenizer, add):
    ours, theirs = peft_twin(tiny, add)
    task = LabelTask(tokenizer, LABELS)
    batch = task.batch([task.encode(text) for text in TEXTS], [0] * 6)
    mask = (torch.arange(batch.input_ids.shape[1]) <= batch.last[:, None]).long()
    full = logits(theirs, batch.input_ids, attention_mask=mask)[:, -mask.shape[1] :]
    close(label_logits(ours, batch), full[torch.arange(6), batch.last][:, task.label_ids], atol=1e-5, rtol=0)


@ADD
def test_training_follows_pefts_step_by_step(tiny, tokenizer, add):
    ours, theirs = peft_twin(tiny, add)
    task = LabelTask(tokenizer, LABELS)
    batches = task.training_batches(TEXTS, [0, 1, 2, 0, 1, 2], steps=6, batch_size=3)

    def loss(model, batch):  # PEFT's forward pass must be the one of its own class
        rows = model(batch.input_ids).logits[:, -batch.input_ids.shape[1] :]
        last = rows[torch.arange(3), batch.last][:, batch.label_ids]
        return nn.functional.cross_entropy(last, batch.targets)

    expected = fit(theirs, batches, learning_rate=0.05, loss=loss)
    history = fit(ours, batches, learning_rate=0.05)
    close(torch.tensor(history.losses), torch.tensor(expected.losses), atol=1e-4, rtol=0)
    assert abs(history.losses[0] - history.losses[-1]) > 0.01


@ADD
@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT's, of positions that it need not know
def test_generation_equals_pefts(tiny, tiny_tokens, add):
    ours, theirs = peft_twin(tiny, add)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(tiny_tokens)
    expected = theirs.generate(input_ids=tiny_tokens, attention_mask=mask, **settings)
    written = ours.generate(input_ids=tiny_tokens, attention_mask=mask, **settings)
    assert torch.equal(written, expected) and len(set(written[:, -8:].flatten().tolist())) > 5


# --- what they are ------------------------------------------------------------------------------------------


def test_a_prompt_has_p_times_D_parameters_and_a_prefix_2_p_for_each_layer_and_head(make_tiny):
    # By hand: 7 x 32; and 2 x 7 x 2 layers x 2 key-value heads x 8.
    for add, expected in ((add_prompt, 7 * 32), (add_prefix, 2 * 7 * 2 * 2 * 8)):
        model = add(make_tiny(), 7)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_a_model_without_weights_can_be_counted():
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=12288, n_layer=96, n_head=96))  # GPT-3's shape
    P = learned(add_prompt(model, 100)).P
    assert P.is_meta and P.numel() == 1_228_800  # by hand: 100 x 12288
    K = learned(add_prefix(remove_prompt(model), 8)).K
    assert K.is_meta and 2 * K.numel() == 18_874_368  # by hand: 2 x 96 x 8 x 12288


@ADD
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_start_from_a_text_equals_that_text_in_front(make_tiny, tiny_tokens, add, attention):
    tiny = make_tiny(attn_implementation=attention)
    whole = torch.cat([torch.tensor(TEXT).expand(3, -1), tiny_tokens], dim=1)
    expected = logits(tiny, whole)[:, len(TEXT) :]
    assert (expected - logits(tiny, tiny_tokens)).abs().max() > 0.1
    close(logits(add(tiny, len(TEXT), TEXT), tiny_tokens), expected, atol=1e-5, rtol=0)


def test_a_start_from_a_text_knows_no_dropout(make_tiny):
    model = add_prefix(make_tiny(attention_dropout=0.9).train(), 5, TEXT)
    close(learned(model).K, learned(add_prefix(make_tiny(), 5, TEXT)).K, atol=1e-6, rtol=0)
    assert all(module.training for module in model.modules())


@ADD
@pytest.mark.parametrize("tokens", [1, 3, 5, 12])
def test_a_start_is_repeated_or_cut_to_the_number_of_tokens(make_tiny, tiny_tokens, add, tokens):
    filled = add(make_tiny(), tokens, torch.tensor(TEXT))
    by_hand = add(make_tiny(), tokens, (TEXT * 3)[:tokens])
    assert torch.equal(logits(filled, tiny_tokens), logits(by_hand, tiny_tokens))
    assert next(learned(filled).parameters()).shape[-2] == tokens


def test_a_random_prompt_begins_as_tokens_of_the_vocabulary(tiny):
    E = tiny.get_input_embeddings().weight
    P = learned(add_prompt(tiny, 9)).P
    assert all((row == E).all(1).any() for row in P) and len(P.unique(dim=0)) > 5


def test_a_random_prefix_is_standard_normal(tiny):
    prefix = learned(add_prefix(tiny, 100))
    for values in (prefix.K, prefix.V):
        assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1
    assert not torch.equal(prefix.K, prefix.V)


def test_the_start_is_copied(tiny):
    start = torch.ones(4, 32)
    learned(add_prompt(tiny, 4, start)).P.data.zero_()
    assert start.all()


@ADD
def test_only_what_is_learned_trains_and_all_of_it(tiny, tiny_tokens, add):
    add(tiny, 4)
    tiny(tiny_tokens, labels=tiny_tokens).loss.backward()
    expected = {f"model.learned.{name}" for name, _ in learned(tiny).named_parameters()}
    assert {name for name, p in tiny.named_parameters() if p.requires_grad} == expected
    assert {name for name, p in tiny.named_parameters() if p.grad is not None} == expected
    assert all(p.grad.any(-1).all() for p in learned(tiny).parameters())


@ADD
def test_what_is_learned_stays_float32_on_a_bfloat16_base(tiny, tiny_tokens, add):
    add(tiny.bfloat16(), 4, TEXT)
    assert {p.dtype for p in tiny.parameters() if p.requires_grad} == {torch.float32}
    assert tiny(tiny_tokens).logits.dtype == torch.bfloat16 == tiny.dtype


# --- padding, masks, positions ------------------------------------------------------------------------------


@ADD
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask_dtype", [torch.long, torch.bool])
@pytest.mark.parametrize("make", [lambda make_tiny: make_tiny(), lambda _: gpt2()], ids=["tiny", "gpt2"])
def test_padding_changes_nothing_on_either_side(make, make_tiny, tiny_tokens, add, side, mask_dtype):
    model = add(make(make_tiny), 4)
    texts = [tiny_tokens[0, :12], tiny_tokens[1, :5], tiny_tokens[2, :1]]
    ids, mask = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 12, dtype=mask_dtype)
    for i, text in enumerate(texts):
        place = slice(12 - len(text), 12) if side == "left" else slice(0, len(text))
        ids[i, place], mask[i, place] = text, 1
    together = logits(model, ids, attention_mask=mask)
    for i, text in enumerate(texts):
        close(together[i][mask[i].bool()], logits(model, text[None])[0], atol=1e-5, rtol=0)


@ADD
def test_a_text_taken_up_from_a_cache_equals_the_whole(tiny, tiny_tokens, add):
    add(tiny, 4)
    whole = logits(tiny, tiny_tokens)
    for given in ({}, {"attention_mask": torch.ones(3, 12, dtype=torch.long)}):
        first = {name: mask[:, :7] for name, mask in given.items()}
        cache = tiny(tiny_tokens[:, :7], use_cache=True, **first).past_key_values
        rest = logits(tiny, tiny_tokens[:, 7:], past_key_values=cache, **given)
        close(rest, whole[:, 7:], atol=1e-5, rtol=0)


@ADD
def test_given_positions_are_those_of_the_text(tiny, tiny_tokens, add):
    add(tiny, 4)
    positions = torch.arange(12).expand(3, -1)
    whole = logits(tiny, tiny_tokens)
    close(logits(tiny, tiny_tokens, position_ids=positions), whole, atol=1e-5, rtol=0)
    assert (logits(tiny, tiny_tokens, position_ids=positions + 9) - whole).abs().max() > 1e-3


@ADD
def test_embeddings_may_come_in_the_place_of_tokens(tiny, tiny_tokens, add):
    add(tiny, 4)
    embedded = tiny.get_input_embeddings()(tiny_tokens)
    close(logits(tiny, None, inputs_embeds=embedded), logits(tiny, tiny_tokens), atol=1e-6, rtol=0)


@ADD
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_a_mask_of_four_dimensions_is_the_texts(tiny, tiny_tokens, add, dtype):
    add(tiny, 4).set_attn_implementation("sdpa")
    sees = torch.ones(12, 12).tril().bool().expand(3, 1, -1, -1)
    mask = sees if dtype == torch.bool else torch.zeros(sees.shape).masked_fill(~sees, -1e9)
    close(logits(tiny, tiny_tokens, attention_mask=mask), logits(tiny, tiny_tokens), atol=1e-5, rtol=0)


# --- training -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_comes_back_bit_for_bit_after_training(tiny, tokenizer, tiny_tokens, dtype, add, remove, save, load):
    tiny.to(dtype).requires_grad_(False)
    before, output = bits(tiny), logits(tiny, tiny_tokens)
    task = LabelTask(tokenizer, LABELS)
    start = copy.deepcopy(learned(add(tiny, 4)).state_dict())
    fit(tiny, task.training_batches(TEXTS, [0, 1, 2, 0, 1, 2], steps=4, batch_size=3), learning_rate=0.05)
    assert all(not torch.equal(start[name], p) for name, p in learned(tiny).named_parameters())
    same(before, bits(remove(tiny)))
    assert torch.equal(logits(tiny, tiny_tokens), output) and learned(tiny) is None


@ADD
@pytest.mark.parametrize("target", [0, 1, 2])
def test_training_teaches_a_label(tiny, tokenizer, add, target):
    task = LabelTask(tokenizer, LABELS)
    batches = task.training_batches(TEXTS, [target] * 6, steps=60, batch_size=6)
    losses = fit(add(tiny, 8, TEXT), batches, learning_rate=0.1).losses
    assert losses[0] > 0.8 and losses[-1] < 0.6 * losses[0]


@ADD
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_which_would_drop_what_is_learned_is_refused(tiny, tiny_tokens, add):
    add(tiny, 4).gradient_checkpointing_enable()
    with pytest.raises(SoftPromptError, match=f"gradient checkpointing drops the {add.__name__[4:]}"):
        tiny.train()(tiny_tokens)
    tiny.eval()(tiny_tokens)


# --- add, remove, refuse ------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_remove_undoes_add(tiny, tiny_tokens, training, add, remove, save, load):
    tiny.train(training).requires_grad_(False)
    before = bits(tiny)
    add(tiny, 4)
    assert all(module.training == training for module in tiny.modules())
    same(before, bits(remove(tiny)))


@ADD
@pytest.mark.parametrize(("first", "kind"), [(add_prompt, "prompt"), (add_prefix, "prefix")])
def test_adding_twice_is_refused(tiny, add, first, kind):
    before = bits(first(tiny, 4))
    with pytest.raises(SoftPromptError, match=f"has a {kind} already: call remove_{kind}"):
        add(tiny, 4)
    same(before, bits(tiny))


@BOTH
def test_nothing_to_remove_or_save_is_said(tiny, tmp_path, add, remove, save, load):
    (add_prefix if add is add_prompt else add_prompt)(tiny, 4)
    kind = add.__name__.removeprefix("add_")
    for action in (remove, lambda model: save(model, tmp_path / "adapter")):
        with pytest.raises(SoftPromptError, match=f"no {kind}: call add_{kind}"):
            action(tiny)
    assert not (tmp_path / "adapter").exists()


BAD = [
    ((0,), "tokens is 0"),
    ((2.5,), "tokens is 2.5"),
    ((4, []), r"start is \[\]: give the token numbers"),
    ((4, "Sort this."), "start is 'Sort this.': give the token numbers of one text"),
    ((4, [[1, 2]]), "give the token numbers of one text"),
    ((4, [1, 512]), "this model's tokens are 0 to 511"),
    ((4, [-1]), "this model's tokens are 0 to 511"),
]


@ADD
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_bad_number_of_tokens_or_start_is_named_and_changes_nothing(tiny, add, arguments, message):
    before = bits(tiny)
    with pytest.raises(SoftPromptError, match=message):
        add(tiny, *arguments)
    same(before, bits(tiny))


def test_vectors_that_do_not_fit_are_refused(tiny):
    before, nan = bits(tiny), torch.full((4, 32), math.nan)
    with pytest.raises(SoftPromptError, match=r"start has the shape \(3, 32\); this model needs \(4, 32\)"):
        add_prompt(tiny, 4, torch.zeros(3, 32))
    with pytest.raises(SoftPromptError, match="start holds NaN"):
        add_prompt(tiny, 4, nan)
    with pytest.raises(SoftPromptError, match=r"V has the shape \(2, 4, 4, 8\); this model needs \(2, 2, 4, 8\)"):
        add_prefix(tiny, 4, (torch.zeros(2, 2, 4, 8), torch.zeros(2, 4, 4, 8)))
    same(before, bits(tiny))


@ADD
def test_a_decoder_without_a_head_is_refused(tiny, add):
    with pytest.raises(SoftPromptError, match="LlamaModel is a decoder without a head"):
        add(tiny.model, 4)


# --- a class of your own ------------------------------------------------------------------------------------


class Scaled(SoftPrompt):
    """A prompt of the learner's own, with one more thing to train."""

    def __init__(self, P):
        super().__init__(P)
        self.scale = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, cache, B, decoder):
        for layer, (K, V, *_) in enumerate(decoder(inputs_embeds=(self.scale * self.P)[None]).past_key_values):
            cache.update(K.expand(B, -1, -1, -1), V.expand(B, -1, -1, -1), layer)


class KeysOnly(Prefix):
    """A prefix whose values do not count."""

    def forward(self, cache, B, decoder):
        for layer, K in enumerate(self.K):
            cache.update(K.expand(B, -1, -1, -1), torch.zeros_like(K).expand(B, -1, -1, -1), layer)


@pytest.mark.parametrize(
    ("add", "own", "trains", "load", "save"),
    [
        (add_prompt, Scaled, {"P", "scale"}, load_prompt, save_prompt),
        (add_prefix, KeysOnly, {"K", "V"}, load_prefix, save_prefix),
    ],
)
def test_your_own_class_is_used_trained_saved_and_loaded(
    make_tiny, tiny_tokens, tmp_path, add, own, trains, load, save
):
    model = add(make_tiny(), 4, TEXT, module=own)
    assert type(learned(model)) is own and {n for n, p in learned(model).named_parameters()} == trains
    plain = logits(add(make_tiny(), 4, TEXT), tiny_tokens)
    assert (logits(model, tiny_tokens) - plain).abs().max() > 0.01
    again = load(make_tiny(), save(model, tmp_path), module=own)
    assert type(learned(again)) is own
    close(logits(again, tiny_tokens), logits(model, tiny_tokens), atol=0, rtol=0)


# --- files --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "make", [lambda make_tiny: make_tiny(), wide_heads, lambda _: gpt2()], ids="tiny wide gpt2".split()
)
def test_peft_reads_what_we_wrote(make, make_tiny, tiny_tokens, tmp_path, add, remove, save, load):
    base = make(make_tiny)
    ours = add(copy.deepcopy(base), 6, None)
    save(ours, tmp_path / "new" / "adapter")
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "new" / "adapter").eval()
    expected = logits(theirs, tiny_tokens)[:, -12:]
    close(logits(ours, tiny_tokens), expected, atol=1e-5, rtol=0)
    assert (expected - logits(base, tiny_tokens)).abs().max() > 0.1
    again = load(copy.deepcopy(base), tmp_path / "new" / "adapter")
    close(logits(again, tiny_tokens), logits(ours, tiny_tokens), atol=0, rtol=0)


@BOTH
def test_a_file_holds_what_is_learned_and_no_pickle(tiny, tmp_path, add, remove, save, load):
    directory = save(add(tiny, 6), tmp_path)
    assert sorted(p.name for p in directory.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    (values,) = load_file(directory / "adapter_model.safetensors").values()
    assert values.numel() == sum(p.numel() for p in learned(tiny).parameters())


def by_peft(model, directory, config):
    with warnings.catch_warnings():  # PEFT asks after gradient checkpointing by an old name
        warnings.simplefilter("ignore")
        theirs = get_peft_model(model, config).eval()
    theirs.save_pretrained(directory)
    return theirs


@pytest.mark.parametrize(
    ("config", "load"),
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6), load_prompt),
        (
            PromptTuningConfig(num_virtual_tokens=1, task_type="CAUSAL_LM", prompt_tuning_init="SAMPLE_VOCAB"),
            load_prompt,
        ),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6), load_prefix),
        (
            PrefixTuningConfig(
                task_type="CAUSAL_LM", num_virtual_tokens=6, prefix_projection=True, encoder_hidden_size=24
            ),
            load_prefix,
        ),
    ],
    ids=["prompt", "from vocabulary", "prefix", "projected prefix"],
)
def test_we_read_what_peft_wrote(make_tiny, tiny_tokens, tmp_path, config, load):
    theirs = logits(by_peft(make_tiny(), tmp_path, config), tiny_tokens)[:, -12:]
    ours = load(make_tiny(), tmp_path)
    close(logits(ours, tiny_tokens), theirs, atol=1e-5, rtol=0)
    assert (theirs - logits(make_tiny(), tiny_tokens)).abs().max() > 0.01
    assert {n for n, p in ours.named_parameters() if p.requires_grad} <= {f"model.learned.{x}" for x in "PKV"}


def refused(model, load, directory, message):
    before = bits(model)
    with pytest.raises(SoftPromptError, match=message):
        load(model, directory)
    same(before, bits(model))


def edit(directory, **changes):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORA"}, "holds LORA, not P"),
        ({"num_transformer_submodules": 2}, "sets num_transformer_submodules = 2"),
        ({"modules_to_save": ["lm_head"]}, r"sets modules_to_save = \['lm_head'\]"),
    ],
)
@BOTH
def test_a_file_of_another_kind_is_refused(make_tiny, tmp_path, changes, message, add, remove, save, load):
    edit(save(add(make_tiny(), 4), tmp_path), **changes)
    refused(make_tiny(), load, tmp_path, message)


def test_lora_and_the_other_kind_are_refused_by_name(make_tiny, tmp_path):
    by_peft(make_tiny(), tmp_path / "lora", LoraConfig(target_modules=["q_proj"]))
    refused(make_tiny(), load_prompt, tmp_path / "lora", "holds LORA, not PROMPT_TUNING: load it with PEFT")
    save_prefix(add_prefix(make_tiny(), 4), tmp_path / "prefix")
    refused(make_tiny(), load_prompt, tmp_path / "prefix", "holds PREFIX_TUNING, not PROMPT_TUNING")


@BOTH
def test_a_file_of_another_base_is_refused(make_tiny, tmp_path, add, remove, save, load):
    save(add(make_tiny(), 4), tmp_path)
    refused(make_tiny(hidden_size=64), load, tmp_path, r"\(4, \d+\); this model needs \(4, \d+\)")


@BOTH
def test_damaged_files_are_refused(make_tiny, tmp_path, add, remove, save, load):
    weights, config = (
        save(add(make_tiny(), 4), tmp_path) / n for n in ("adapter_model.safetensors", "adapter_config.json")
    )
    good, text = weights.read_bytes(), config.read_text()
    for keep in (0, 7, 90, -4):
        weights.write_bytes(good[:keep])
        refused(make_tiny(), load, tmp_path, "adapter_model.safetensors is damaged")
    save_file({"prompt_embeddings": torch.zeros(4, 32), "other": torch.zeros(1)}, weights)
    refused(make_tiny(), load, tmp_path, "holds .*'other'.*expected one matrix")
    weights.unlink()
    refused(make_tiny(), load, tmp_path, r"does not exist: only safetensors are read")
    config.write_text(text[:20])
    refused(make_tiny(), load, tmp_path, "adapter_config.json is not a JSON object")
    config.unlink()
    refused(make_tiny(), load, tmp_path, "adapter_config.json does not exist")


@BOTH
def test_values_that_are_not_finite_are_neither_saved_nor_loaded(make_tiny, tmp_path, add, remove, save, load):
    model = add(make_tiny(), 4)
    next(learned(model).parameters()).data.view(-1)[3] = math.nan
    with pytest.raises(SoftPromptError, match="holds NaN or infinity"):
        save(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    path = save(add(make_tiny(), 4), tmp_path) / "adapter_model.safetensors"
    save_file({"prompt_embeddings": load_file(path)["prompt_embeddings"] / 0}, path)
    refused(make_tiny(), load, tmp_path, "holds NaN or infinity")


@BOTH
def test_loading_over_another_is_refused(make_tiny, tmp_path, add, remove, save, load):
    save(add(make_tiny(), 4), tmp_path)
    refused(add_prompt(make_tiny(), 4), load, tmp_path, "has a prompt already: call remove_prompt")
