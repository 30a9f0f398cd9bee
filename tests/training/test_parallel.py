"""Claims of lessonlib.training.parallel that need no second process; the others stand in test_lesson09_distributed."""

import pytest
import torch

from lessonlib.training.labels import Batch
from lessonlib.training.parallel import LaunchError, join, refuse_uneven, share


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_shares_of_a_batch_are_equally_long_and_make_it_up(processes):
    batch = Batch(torch.arange(16).view(8, 2), torch.arange(8), torch.arange(8), torch.arange(3))
    shares = [share(batch, rank, processes) for rank in range(processes)]
    assert [len(part.last) for part in shares] == [8 // processes] * processes
    assert torch.equal(torch.cat([part.input_ids for part in shares]).sort(0).values, batch.input_ids)
    assert all(torch.equal(part.input_ids[:, 0], 2 * part.targets) for part in shares)
    assert all(torch.equal(part.label_ids, batch.label_ids) for part in shares)


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join() == join(1) == 1
    assert not torch.distributed.is_initialized()


def test_a_batch_is_shared_evenly_or_not_at_all():
    refuse_uneven(8, 4)
    with pytest.raises(LaunchError, match=r"3 processes cannot share a batch of 8 evenly: .* multiple of 3"):
        refuse_uneven(8, 3)
