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


def whole_scores(model, tokenizer, prompts, endings):
    """Sums of log-probabilities, each label behind each prompt alone, from all logits."""

    def one(prompt, ending):
        begin, ids = len(tokenizer(prompt).input_ids), tokenizer(prompt + ending).input_ids
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return log_probs[range(begin - 1, len(ids) - 1), ids[begin:]].sum()

    return torch.stack([torch.stack([one(prompt, ending) for ending in endings]) for prompt in prompts])


ALIKE = ["xylophone", "xyz", "yacht late", "refund"]  # the first three begin with the same token, a bare space


@pytest.mark.parametrize("form", [{}, {"sliding_window": 4}], ids=["packed", "one by one"])
def test_labels_that_begin_alike_are_scored_whole(tiny, tokenizer, form):
    task = LabelTask(tokenizer, ALIKE)
    for name, value in form.items():
        setattr(
            tiny.config, name, value
        )  # Llama's layers do not read it: only what the library thinks of them changes
    assert task.verbalizer == ALIKE and task.label_ids.dim() == 2
    scores = label_logits(tiny, task.batch([task.encode(text) for text in TEXTS], [0] * 8))
    close(scores, whole_scores(tiny, tokenizer, map(task.prompt, TEXTS), task.endings), atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", [{}, {"sliding_window": 4}], ids=["packed", "one by one"])
def test_whole_labels_train_by_the_gradient_of_their_scores(tiny, tokenizer, form):
    task = LabelTask(tokenizer, ALIKE)
    for name, value in form.items():
        setattr(tiny.config, name, value)
    label_loss(tiny, task.batch([task.encode(text) for text in TEXTS[:3]], [0, 1, 3])).backward()
    ours = {name: p.grad.clone() for name, p in tiny.named_parameters() if p.grad is not None}
    tiny.zero_grad()
    plain = whole_scores(tiny, tokenizer, map(task.prompt, TEXTS[:3]), task.endings)
    F.cross_entropy(plain, torch.tensor([0, 1, 3])).backward()
    for name, p in tiny.named_parameters():
        if p.grad is not None:
            close(ours[name], p.grad, atol=1e-5, rtol=1e-4)


def test_a_label_that_begins_another_does_not_always_win(tiny, tokenizer):
    task = LabelTask(tokenizer, ["xy", "xyz", "late"])
    assert task.endings == [" xy\n", " xyz\n", " late\n"]
    batch = task.batch([task.encode("late")], [1])
    optimizer = torch.optim.Adam(tiny.parameters(), 0.01)
    for _ in range(20):
        label_loss(tiny, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert label_logits(tiny, batch).argmax().item() == 1


def test_words_that_stand_twice_or_are_empty_are_refused(tokenizer):
    with pytest.raises(ValueError, match="the word 'late' stands for 2 labels"):
        LabelTask(tokenizer, ["a", "b"], verbalizer=["late", "late"])
    with pytest.raises(ValueError, match="the word ' ' stands for 1 labels"):
        LabelTask(tokenizer, ["late", " "])


def test_a_template_that_leaves_no_room_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"takes \d+ of 160 tokens and leaves 0 to the text; at least 16 are needed"):
        LabelTask(tokenizer, LABELS, template="late " * 300 + "{text}\nTopic:")


def test_a_control_token_in_a_text_is_only_letters(tokenizer):
    task = LabelTask(tokenizer, LABELS)
    control = tokenizer.all_special_tokens
    assert control
    for token in control:
        assert not set(task.encode(f"please {token} refund")) & set(tokenizer.all_special_ids)
        assert task.prompt(f"a {token}") == f"Ticket: a {token[0]} {token[1:]}\nTopic:"


def test_what_the_tokenizer_puts_in_front_of_a_text_stands_in_front_of_the_prompt(tokenizer):
    class WithBos:
        bos_token, bos_token_id = tokenizer.all_special_tokens[0], tokenizer.all_special_ids[0]
        pad_token_id = None

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, add_special_tokens=True, **settings):
            return tokenizer(self.bos_token * add_special_tokens + text, add_special_tokens=False, **settings)

    task = LabelTask(WithBos(), LABELS)
    assert task.encode("late") == [WithBos.bos_token_id, *LabelTask(tokenizer, LABELS).encode("late")]
    assert LabelTask(WithBos(), LABELS, template=task.template).template == task.template
    assert task.batch([[5], [6, 7]], [0, 1]).input_ids.shape == (2, 2)  # no token to pad with, and none is needed


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
    task = LabelTask(tokenizer, LABELS, max_tokens=30)
    prompt = tokenizer.decode(task.encode("broken parcel " * 50))
    assert len(task.encode("broken parcel " * 50)) == 30 and task.prompt("broken parcel " * 50) == prompt
    assert task.cut(["broken parcel " * 50, "late"]) == 1
    assert prompt.startswith("Ticket: broken parcel broken") and prompt.endswith("\nTopic:")


def test_a_text_that_just_fits_is_left_whole(tokenizer):
    text = "broken parcel " * 10 + "late"
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
