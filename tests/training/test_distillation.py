"""Claims of lessonlib.training.distillation. References: the paper's equations 2 and 4, torch's KL divergence, hand arithmetic."""

import copy
from functools import partial

import pytest
import torch
from tiny_models import bits, filled, logits, same, tiny_model
from torch.nn import functional as F

from lessonlib.lora import add_lora, lora_layers, merge_lora
from lessonlib.training import fit, trainable_parameters
from lessonlib.training.distillation import (
    DistillationError,
    distillation_loss,
    evenly_spaced,
    first_layers,
    soft_target_loss,
    with_fewer_layers,
)
from lessonlib.training.labels import LabelTask, label_logits, label_loss

LABELS = ["billing", "delivery", "refund"]
TEXTS = ["late parcel", "thanks", "broken question", "refund late", "billing", "delivery thanks late"]
TARGETS = [1, 0, 2, 2, 0, 1]


def pair(classes=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, classes, generator=generator), 3 * torch.randn(4, classes, generator=generator)


@pytest.fixture
def task(tokenizer):
    return LabelTask(tokenizer, LABELS)


@pytest.fixture
def batch(task):
    return task.batch([task.encode(text) for text in TEXTS], TARGETS)


@pytest.fixture
def teacher():
    return tiny_model(num_hidden_layers=7)


# --- the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1.0, 2.0, 5.0])
def test_the_gradient_is_the_papers_times_T_squared(T):
    # Equation 2: dC/dz_i = (q_i - p_i) / T for each case; here times T² and averaged over four cases.
    z, v = pair()
    z.requires_grad_(True)
    soft_target_loss(z, v, T).backward()
    expected = T * ((z / T).softmax(-1) - (v / T).softmax(-1)) / 4
    torch.testing.assert_close(z.grad, expected)


def test_at_a_high_temperature_logits_are_matched():
    # Equation 4: (z_i - v_i) / (N T²) for logits of mean zero, times T².
    z, v = (x - x.mean(-1, keepdim=True) for x in pair())
    z.requires_grad_(True)
    soft_target_loss(z, v, 1e3).backward()
    torch.testing.assert_close(z.grad, (z - v).detach() / 5 / 4, rtol=1e-2, atol=1e-3)


def test_at_temperature_one_it_is_torchs_divergence():
    z, v = pair()
    expected = F.kl_div(z.log_softmax(-1), v.log_softmax(-1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(soft_target_loss(z, v, 1.0), expected)


def test_a_model_has_nothing_to_learn_from_itself(teacher, batch):
    assert distillation_loss(teacher, batch, teacher, weight=1.0).item() == pytest.approx(0, abs=1e-6)


def test_weight_zero_is_training_on_labels_alone(teacher, batch):
    student = with_fewer_layers(teacher, 2)
    ours = distillation_loss(student, batch, teacher, weight=0.0)
    torch.testing.assert_close(ours, label_loss(student, batch))


def test_the_loss_is_the_weighted_sum_by_hand(teacher, batch):
    student = with_fewer_layers(teacher, 2)
    q = (label_logits(student, batch) / 3).softmax(-1)
    p = (label_logits(teacher, batch) / 3).softmax(-1)
    soft = 9 * (p * (p / q).log()).sum() / len(TEXTS)
    hard = -label_logits(student, batch).softmax(-1)[range(len(TEXTS)), TARGETS].log().mean()
    ours = distillation_loss(student, batch, teacher, T=3.0, weight=0.7)
    torch.testing.assert_close(ours, 0.7 * soft + 0.3 * hard)


def test_only_the_student_gets_a_gradient(teacher, batch):
    student = with_fewer_layers(teacher, 2)
    teacher.requires_grad_(True)
    distillation_loss(student, batch, teacher).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in trainable_parameters(student))


def test_a_student_comes_nearer_to_its_teacher(teacher, task, batch):
    student, before = with_fewer_layers(teacher, 2), bits(teacher)
    batches = task.training_batches(TEXTS, TARGETS, steps=30, batch_size=6)
    history = fit(student, batches, learning_rate=3e-3, loss=partial(distillation_loss, teacher=teacher, weight=1.0))
    assert history.losses[-1] < 0.2 * history.losses[0]
    same(before, bits(teacher))


# --- the student --------------------------------------------------------------------------------------------


def test_layers_are_chosen_evenly_from_first_to_last():
    assert evenly_spaced(10, of=30) == [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]  # i * 29 / 9, rounded
    assert evenly_spaced(1, of=30) == [0]
    assert evenly_spaced(29, of=30) == sorted(set(evenly_spaced(29, of=30)))


def test_a_student_computes_with_the_chosen_layers(teacher, tiny_tokens):
    student, by_hand = with_fewer_layers(teacher, 3), copy.deepcopy(teacher)
    by_hand.model.layers = torch.nn.ModuleList(teacher.model.layers[i] for i in (0, 3, 6))
    by_hand.config.num_hidden_layers = 3
    for number, layer in enumerate(by_hand.model.layers):
        layer.self_attn.layer_idx = number
    assert student.config.num_hidden_layers == 3 and len(student.model.layers) == 3
    assert torch.equal(logits(student, tiny_tokens), logits(by_hand, tiny_tokens))


def test_the_first_layers_can_be_kept_instead(teacher):
    student = with_fewer_layers(teacher, 2, choose=first_layers)
    for ours, theirs in zip(student.model.layers, teacher.model.layers):
        assert torch.equal(ours.mlp.up_proj.weight, theirs.mlp.up_proj.weight)


def test_a_student_writes_with_its_key_value_cache(teacher, tiny_tokens):
    student = with_fewer_layers(teacher, 2)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with_cache, without = (student.generate(tiny_tokens, use_cache=c, **settings) for c in (True, False))
    assert torch.equal(with_cache, without)
    assert len(student(tiny_tokens, use_cache=True).past_key_values.layers) == 2


def test_the_teacher_stays_as_it_was(teacher, tiny_tokens):
    before, said = bits(teacher), logits(teacher, tiny_tokens)
    student = with_fewer_layers(teacher, 2)
    with torch.no_grad():
        for p in student.parameters():
            p.zero_()
    same(before, bits(teacher))
    assert torch.equal(logits(teacher, tiny_tokens), said)
    assert len(teacher.model.layers) == teacher.config.num_hidden_layers == 7


def test_what_is_left_of_the_layers_trains_and_the_vocabulary_does_not(teacher):
    student = with_fewer_layers(teacher, 2)
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "lm_head.weight"}


def test_a_merged_adapter_is_plain_weights_in_the_student(teacher, tiny_tokens):
    merge_lora(filled(add_lora(teacher, r=2)))
    student = with_fewer_layers(teacher, 2)
    assert not list(lora_layers(student)) and list(lora_layers(teacher))
    q = student.model.layers[1].self_attn.q_proj.weight
    assert torch.equal(q, teacher.model.layers[6].self_attn.q_proj.weight)


def test_a_student_can_be_saved_and_loaded(teacher, tiny_tokens, tmp_path):
    student = with_fewer_layers(teacher, 2)
    student.save_pretrained(tmp_path)
    again = type(student).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert torch.equal(logits(again, tiny_tokens), logits(student, tiny_tokens))


@pytest.mark.parametrize("layers", [0, 7, 8, -1])
def test_a_number_of_layers_that_makes_no_student_is_refused(teacher, layers):
    with pytest.raises(DistillationError, match=f"{layers} layers of 7: a student needs at least 1"):
        with_fewer_layers(teacher, layers)


def test_an_unmerged_adapter_is_refused(teacher):
    add_lora(teacher, r=2)
    with pytest.raises(DistillationError, match=r"self_attn\.q_proj is a LoRALinear.*call merge_lora"):
        with_fewer_layers(teacher, 2)
