"""Claims of lessonlib.lora.stacking. References: LoRA's layers, the sum of their updates, arithmetic by hand."""

import pytest
import torch
from tiny_models import bits, filled, logits, same, train

from lessonlib.lora import LoRAError, add_lora, lora_layers, merge_lora, remove_lora, unmerge_lora
from lessonlib.lora.deltas import put_deltas
from lessonlib.lora.dora import DoRALinear
from lessonlib.lora.merging import merge_deltas
from lessonlib.lora.stacking import as_after, forgetting, settle, stack_lora, stacked, tasks, unstack_lora

close = torch.testing.assert_close


def learned(model, tokens, **settings):
    """One more task on the stack, learned for a few steps."""
    train(filled(stack_lora(model, **settings)), tokens)
    return model


def test_a_fresh_layer_on_the_stack_changes_nothing(tiny, tiny_tokens):
    before = logits(filled(add_lora(tiny, r=4)), tiny_tokens)
    assert torch.equal(logits(stack_lora(tiny, r=2), tiny_tokens), before)
    assert tasks(tiny) == 2


def test_only_the_last_pair_trains_and_the_earlier_stay_bit_for_bit(tiny, tiny_tokens):
    learned(tiny, tiny_tokens, r=4)
    first = stacked(tiny)[0]
    learned(tiny, tiny_tokens.flip(0), r=2)
    own = {f"{path}.{side}" for path, _ in lora_layers(tiny) for side in "AB"}
    assert {name for name, p in tiny.named_parameters() if p.requires_grad} == own
    for path, update in stacked(tiny)[0].items():
        assert torch.equal(update.A, first[path].A) and torch.equal(update.B, first[path].B)


def test_the_stack_is_the_sum_of_its_updates(tiny, make_tiny, tiny_tokens):
    learned(learned(tiny, tiny_tokens, r=4, alpha=6), tiny_tokens.flip(0), r=2)
    whole = put_deltas(make_tiny(), merge_deltas(stacked(tiny), weights=[1, 1]))
    close(logits(tiny, tiny_tokens), logits(whole, tiny_tokens), atol=1e-5, rtol=0)


def test_learning_a_second_task_changes_what_the_first_gets(tiny, tiny_tokens):
    before = logits(learned(tiny, tiny_tokens), tiny_tokens)
    learned(tiny, tiny_tokens.flip(0))
    assert (logits(tiny, tiny_tokens) - before).abs().max() > 0.05


def test_as_after_gives_each_stage_back_bit_for_bit(tiny, tiny_tokens):
    stages = [logits(tiny, tiny_tokens)]
    for texts in (tiny_tokens, tiny_tokens.flip(0), tiny_tokens.flip(1)):
        stages.append(logits(learned(tiny, texts), tiny_tokens))
    for task, stage in enumerate(stages):
        with as_after(tiny, task):
            assert torch.equal(logits(tiny, tiny_tokens), stage)
        assert torch.equal(logits(tiny, tiny_tokens), stages[-1])
    assert tasks(tiny) == 3 and list(lora_layers(tiny))


def test_unstacking_all_gives_the_base_back_bit_for_bit(tiny, tiny_tokens):
    before = bits(tiny.requires_grad_(False))
    learned(learned(tiny, tiny_tokens), tiny_tokens.flip(0))
    same(before, bits(unstack_lora(tiny)))


def test_unstacking_keeps_the_first(tiny, tiny_tokens):
    first = logits(learned(tiny, tiny_tokens), tiny_tokens)
    learned(tiny, tiny_tokens.flip(0))
    assert torch.equal(logits(unstack_lora(tiny, keep=1), tiny_tokens), first)
    assert tasks(tiny) == 1


def test_settling_computes_the_same_and_nothing_trains(tiny, tiny_tokens):
    before = logits(learned(tiny, tiny_tokens), tiny_tokens)
    settle(tiny)
    assert torch.equal(logits(tiny, tiny_tokens), before)
    assert not any(p.requires_grad for p in tiny.parameters()) and not list(lora_layers(tiny))


def test_merge_unmerge_and_remove_work_on_the_top_pair(tiny, tiny_tokens):
    first = logits(learned(tiny, tiny_tokens), tiny_tokens)
    both = logits(learned(tiny, tiny_tokens.flip(0)), tiny_tokens)
    close(logits(merge_lora(tiny), tiny_tokens), both, atol=1e-5, rtol=0)
    assert tasks(tiny) == 2
    assert torch.equal(logits(unmerge_lora(tiny), tiny_tokens), both)
    assert torch.equal(logits(remove_lora(tiny), tiny_tokens), first)


def test_other_targets_are_refused_and_change_nothing(tiny, tiny_tokens):
    learned(tiny, tiny_tokens)
    before = bits(tiny)
    for targets, message in (
        (["q_proj"], "v_proj is adapted for one task and not"),
        (["q_proj", "v_proj", "up_proj"], "up_proj is adapted for one task and not"),
        (["qq"], "'qq'"),
    ):
        with pytest.raises(LoRAError, match=message):
            stack_lora(tiny, targets)
        same(before, bits(tiny))


def test_what_b_a_does_not_describe_is_refused(tiny):
    with pytest.raises(LoRAError, match="DoRALinear with m beside A and B"):
        stack_lora(add_lora(tiny, layer=DoRALinear))


@pytest.mark.parametrize("task", [-1, 2])
def test_a_task_that_was_not_learned_is_refused(tiny, tiny_tokens, task):
    learned(tiny, tiny_tokens)
    with (
        pytest.raises(LoRAError, match=f"{task} tasks' adapters are asked for, this model has 1"),
        as_after(tiny, task),
    ):
        pass


def test_forgetting_is_the_drop_from_the_best():
    # By hand: task 0 was best after task 1 (0.95), task 1 after itself (0.8).
    scores = [[0.9, 0.2, 0.1], [0.95, 0.8, 0.1], [0.55, 0.7, 0.9]]
    assert forgetting(scores) == pytest.approx([0.4, 0.1])
    assert forgetting([[0.5]]) == []


def test_scores_that_are_missing_are_named():
    with pytest.raises(ValueError, match=r"row 1 has 1 scores; expected those of tasks 0 to 1"):
        forgetting([[0.9], [0.8]])
