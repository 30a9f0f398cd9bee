"""Claims of lessonlib.lora.adalora. References: PEFT's own forward, which adds the orthogonality; the budget by hand."""

import pytest
import torch
from tiny_models import tiny_model

from lessonlib.lora.adalora import adalora_loss, adalora_optimizer, add_adalora, orthogonality, ranks
from lessonlib.training import fit, trainable_parameters
from lessonlib.training.labels import Batch, label_loss

TARGETS = ["q_proj", "v_proj", "down_proj"]


def adapted(steps=20):
    torch.manual_seed(0)
    return add_adalora(tiny_model(), TARGETS, steps=steps, r=2, start_r=6)


def batches(steps):
    generator = torch.Generator().manual_seed(0)
    for_one = torch.tensor([10, 20])
    ids = [torch.randint(2, 512, (4, 8), generator=generator) for _ in range(steps)]
    return [Batch(t, torch.full((4,), 7), (t[:, 0] > 256).long(), for_one) for t in ids]


def trained(steps=20):
    model = adapted(steps)
    history = fit(model, batches(steps), learning_rate=2e-2, loss=adalora_loss, optimizer=adalora_optimizer(model))
    return model, history


def test_a_fresh_model_computes_what_its_base_does(tiny_tokens):
    with torch.no_grad():
        before = tiny_model()(tiny_tokens).logits
        assert torch.equal(adapted()(tiny_tokens).logits, before)


def test_orthogonality_is_what_pefts_forward_adds(tiny_tokens):
    model = adapted()
    plain = model.base_model.model(tiny_tokens, labels=tiny_tokens).loss
    theirs = model(tiny_tokens, labels=tiny_tokens).loss - plain
    assert 0.5 * orthogonality(model).item() == pytest.approx(theirs.item(), rel=1e-5)  # PEFT weighs it 0.5
    batch = batches(1)[0]
    added = adalora_loss(model, batch) - label_loss(model, batch)
    assert added.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_rank_ends_at_the_budget_and_is_not_the_same_everywhere():
    model, _ = trained()
    left = ranks(model)
    assert len(left) == 6 and sum(left.values()) == 6 * 2  # three names, two layers, r = 2 on average
    assert max(left.values()) > min(left.values())


def test_pruning_waits_for_a_fifth_of_the_steps_and_is_done_at_three_fifths():
    model, totals = adapted(), []
    make = adalora_optimizer(model)

    def watched(parameters, **settings):
        engine = make(parameters, **settings)
        engine.register_step_post_hook(lambda *_: totals.append(sum(ranks(model).values())))
        return engine

    fit(model, batches(20), learning_rate=2e-2, loss=adalora_loss, optimizer=watched)
    assert totals[:4] == [36] * 4 and totals[11:] == [12] * 9
    assert totals == sorted(totals, reverse=True)


def test_it_learns_and_only_its_own_parameters_train():
    model, history = trained(40)
    assert history.losses[-1] < 0.8 * history.losses[0]
    names = {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"lora_A", "lora_B", "lora_E"}
    # By hand: start_r (in + out + 1) for q 32 x 32, v 16 x 32, down 32 x 64, in two layers.
    assert sum(p.numel() for p in trainable_parameters(model)) == 2 * 6 * (65 + 49 + 97)


@pytest.mark.parametrize("r, start_r", [(0, 6), (6, 6), (8, 6)])
def test_a_budget_that_leaves_nothing_to_prune_is_refused(tiny, r, start_r):
    with pytest.raises(ValueError, match=f"r is {r} and start_r {start_r}"):
        add_adalora(tiny, steps=20, r=r, start_r=start_r)
