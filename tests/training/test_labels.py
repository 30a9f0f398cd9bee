"""Claims of lessonlib.training.labels. Reference of the logits: the full forward pass of transformers,
one text alone or with an attention mask."""

import copy
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.lora import add_lora, lora_layers
from lessonlib.training.labels import Batch, LabelTask, label_logits, label_loss

LABELS = ["refund", "billing", "technical"]
TEXTS = [
    "late",
    "thanks " * 9,
    "broken parcel",
    "billing " * 5,
    "refund",
    "delivery late " * 3,
    "question",
    "",
]
close = torch.testing.assert_close


@pytest.fixture
def task(tokenizer):
    return LabelTask(tokenizer, LABELS)


def masked_forward(model, batch: Batch) -> torch.Tensor:
    """Label logits from all logits, the padding masked out."""
    mask = (torch.arange(batch.input_ids.shape[1]) <= batch.last[:, None]).long()
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=mask).logits
    return logits[torch.arange(len(batch.last)), batch.last][:, batch.label_ids]


# --- logits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("padding", [0, 1, 30])
def test_label_logits_equal_the_full_forward_pass(tiny, task, batch_size, padding):
    batches, order = task.evaluation_batches(TEXTS, [0] * 8, batch_size=batch_size)
    for batch in batches:
        batch.input_ids = F.pad(batch.input_ids, (0, padding), value=task.tokenizer.pad_token_id)
        close(label_logits(tiny, batch), masked_forward(tiny, batch), atol=1e-5, rtol=0)
    assert len(batches) == -(-8 // batch_size) and sorted(order) == list(range(8))


def test_label_logits_do_not_depend_on_the_other_texts_of_the_batch(tiny, task):
    together = label_logits(tiny, task.batch([task.encode(text) for text in TEXTS], [0] * 8))
    alone = [tiny(torch.tensor([task.encode(text)])).logits[0, -1, task.label_ids] for text in TEXTS]
    close(together, torch.stack(alone), atol=1e-5, rtol=0)
    assert together.std(dim=0).min() > 0.01


def test_label_logits_work_for_lora_and_for_pefts_model(tiny, task):
    batch = task.batch([task.encode(text) for text in TEXTS], [0] * 8)
    theirs = get_peft_model(
        copy.deepcopy(tiny), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    before = label_logits(tiny, batch)
    add_lora(tiny)
    for _, layer in lora_layers(tiny):
        layer.B.data.normal_(0, 0.1)
    for model in (tiny, theirs.eval()):
        close(label_logits(model, batch), masked_forward(model, batch), atol=1e-5, rtol=0)
        assert (label_logits(model, batch) - before).abs().max() > 0.01


def test_the_loss_is_the_cross_entropy_among_the_labels(tiny, task):
    batch = task.batch([task.encode(text) for text in TEXTS], [0, 1, 2, 0, 1, 2, 0, 1])
    log_probs = masked_forward(tiny, batch).log_softmax(-1)
    close(label_loss(tiny, batch), -log_probs[torch.arange(8), batch.targets].mean())
    assert label_loss(tiny.bfloat16(), batch).dtype == torch.float32


# --- label tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["Ticket: {text}\nTopic:", "{text} =>", "Ticket: {text}\nTopic: ", "{text}\n"])
def test_label_tokens_are_those_of_the_whole_text(tokenizer, template):
    context = template.format(text="broken parcel")
    for label, token in zip(LABELS, LabelTask(tokenizer, LABELS, template=template).label_ids, strict=True):
        whole = tokenizer(f"{context} {label}").input_ids
        assert whole[-1] == token and whole[:-1] == tokenizer(context).input_ids
        assert tokenizer.decode(token) == f" {label}"


def test_words_stand_for_the_labels(tokenizer):
    task = LabelTask(tokenizer, ["product_question", "praise"], verbalizer=["question", "feedback"])
    assert tokenizer.convert_ids_to_tokens(task.label_ids.tolist()) == ["Ġquestion", "Ġfeedback"]
    assert task.labels == ["product_question", "praise"]


def test_letters_stand_in_where_first_tokens_clash(tokenizer):
    clash = ["xylophone", "yacht", "refund"]  # the first two begin with the same token, a bare space
    assert tokenizer.tokenize(" xylophone")[0] == tokenizer.tokenize(" yacht")[0]
    task = LabelTask(tokenizer, clash)
    assert (task.labels, task.verbalizer) == (clash, ["A", "B", "C"])
    assert tokenizer.convert_ids_to_tokens(task.label_ids.tolist()) == ["ĠA", "ĠB", "ĠC"]


def test_letters_that_clash_as_well_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"begin with the same token"):
        LabelTask(tokenizer, [f"x{i}" for i in range(6)])  # this tokenizer knows " A" to " D" only


def test_more_clashing_labels_than_letters_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"27 labels, .* 26 letters are too few"):
        LabelTask(tokenizer, [f"x{i}" for i in range(27)])


def test_a_template_without_a_text_and_a_task_without_labels_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"'Topic:' has no {text} in it"):
        LabelTask(tokenizer, LABELS, template="Topic:")
    with pytest.raises(ValueError, match=r"at least one label"):
        LabelTask(tokenizer, [])


@pytest.mark.model
def test_the_courses_labels_are_one_token_each_for_the_real_tokenizer():
    from lessonlib.models import load_base

    _, tokenizer = load_base()
    words = [corpora.WORDS.get(label, label) for label in corpora.INTENTS]
    task = LabelTask(tokenizer, corpora.INTENTS, verbalizer=words)
    assert [tokenizer.decode(token) for token in task.label_ids] == [f" {word}" for word in words]


# --- prompts and batches ------------------------------------------------------------------------------------


def test_a_long_text_loses_its_end_and_the_template_keeps_its_own(tokenizer):
    task = LabelTask(tokenizer, LABELS, max_tokens=20)
    prompt = tokenizer.decode(task.encode("broken parcel " * 50))
    assert len(task.encode("broken parcel " * 50)) == 20
    assert prompt.startswith("Ticket: broken parcel broken") and prompt.endswith("\nTopic:")


def test_a_text_that_just_fits_is_left_whole(tokenizer):
    text = "broken parcel late"
    length = len(tokenizer(f"Ticket: {text}\nTopic:").input_ids)
    assert tokenizer.decode(LabelTask(tokenizer, LABELS, max_tokens=length).encode(text)).endswith("late\nTopic:")
    assert "late" not in tokenizer.decode(LabelTask(tokenizer, LABELS, max_tokens=length - 1).encode(text))


def test_braces_in_a_text_are_only_text(task, tokenizer):
    assert tokenizer.decode(task.encode("refund {text} {0}")) == "Ticket: refund {text} {0}\nTopic:"


def test_a_batch_is_padded_on_the_right(task):
    batch = task.batch([[5, 6], [7, 8, 9]], [1, 0])
    assert batch.input_ids.tolist() == [[5, 6, task.tokenizer.pad_token_id], [7, 8, 9]]
    assert (batch.last.tolist(), batch.targets.tolist()) == ([1, 2], [1, 0])
    assert batch.to("cpu").label_ids.equal(task.label_ids)


def same(first, second):
    return all(
        a.input_ids.equal(b.input_ids) and a.targets.equal(b.targets) for a, b in zip(first, second, strict=True)
    )


def test_batches_are_those_of_the_seed(task):
    def draw(seed):
        return task.training_batches(TEXTS * 3, range(24), steps=9, batch_size=4, seed=seed)

    assert same(draw(0), draw(0)) and not all(
        a.targets.equal(b.targets) for a, b in zip(draw(0), draw(1), strict=True)
    )


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(37, 5, 8), (8, 8, 1), (90, 8, 12)])
def test_an_epoch_covers_each_text_once(task, n, batch_size, steps):
    texts = [f"{'late ' * (i % 11)}{i}" for i in range(n)]  # targets say which text it is
    batches = task.training_batches(texts, range(n), steps=2 * steps, batch_size=batch_size)
    for epoch in (batches[:steps], batches[steps:]):
        assert Counter(row for batch in epoch for row in batch.targets.tolist()) == Counter(range(n))
    assert max(len(batch.targets) for batch in batches) == batch_size


def test_the_second_epoch_has_other_batches_in_another_order(task):
    batches = task.training_batches(TEXTS * 5, range(40), steps=16, batch_size=5)
    rows = [batch.targets.tolist() for batch in batches]
    assert {frozenset(group) for group in rows[:8]} != {frozenset(group) for group in rows[8:]}
    widths = [batch.input_ids.shape[1] for batch in batches]
    assert widths[:8] != sorted(widths[:8])  # not from short to long
    assert widths[:8] != widths[8:]


def test_each_text_stays_with_its_target(task, tokenizer):
    for batch in task.training_batches(TEXTS, range(8), steps=2, batch_size=4):
        for ids, last, target in zip(batch.input_ids, batch.last, batch.targets, strict=True):
            assert tokenizer.decode(ids[: last + 1]) == f"Ticket: {TEXTS[target]}\nTopic:"
