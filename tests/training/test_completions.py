"""Claims of lessonlib.training.completions. References: the model's own log-probabilities, one text at a time."""

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from lessonlib.training.completions import completion_batches, completion_loss, mean_completion_loss


def test_loss_is_that_of_the_completion_alone():
    tokenizer, model = tiny_tokenizer(), tiny_model()
    [batch] = completion_batches(tokenizer, [("Ticket: late", " parcel"), ("A", " refund thanks")], 1, 2, seed=0)
    logs = []
    for ids, targets in zip(batch.input_ids, batch.targets):  # one text at a time, without padding
        log_probs = model(ids[None]).logits[0].log_softmax(-1)
        logs += [log_probs[place, t] for place, t in enumerate(targets.tolist()) if t != -100]
    expected = len(tokenizer(" parcel").input_ids) + len(tokenizer(" refund thanks").input_ids) + 2
    assert len(logs) == expected
    assert torch.allclose(completion_loss(model, batch), -torch.stack(logs).mean(), atol=1e-5)


def test_every_batch_comes_once_an_epoch():
    pairs = [(f"A {n}", f" B {n}") for n in range(6)]
    batches = completion_batches(tiny_tokenizer(), pairs, steps=6, batch_size=2, seed=0)
    for epoch in (batches[:3], batches[3:]):
        assert len({tuple(row.tolist()) for batch in epoch for row in batch.input_ids}) == 6


def test_mean_loss_weighs_each_token_alike():
    tokenizer, model = tiny_tokenizer(), tiny_model()
    pairs = [("Ticket: late" * n, " parcel" * (1 + n % 3)) for n in range(1, 13)]  # more than one batch
    [whole] = completion_batches(tokenizer, pairs, steps=1, batch_size=12, seed=0)
    assert mean_completion_loss(model, tokenizer, pairs) == pytest.approx(
        completion_loss(model, whole).item(), abs=1e-5
    )
