"""Claims of lessonlib.training.parallel that need no second process; the others stand in test_lesson09_distributed."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lessonlib.lora import add_lora
from lessonlib.training import fit, parallel
from lessonlib.training.labels import Batch, LabelTask, label_loss
from lessonlib.training.parallel import LaunchError, join, loss_in_pieces, refuse_uneven, share, train_together

ROOT = Path(__file__).parents[2]


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
    refuse_uneven(8, 2, 4)
    with pytest.raises(LaunchError, match=r"2 processes in 3 pieces each cannot share a batch of 8 evenly: .* of 6"):
        refuse_uneven(8, 2, 3)


# --- in pieces ----------------------------------------------------------------------------------------------


@pytest.fixture
def batches(tokenizer):
    task = LabelTask(tokenizer, ["refund", "delivery"])
    texts = [f"{word} parcel" for word in "late broken thanks billing account question feedback technical".split()]
    return task.training_batches(texts, [0, 1] * 4, steps=4, batch_size=8)


def test_the_pieces_of_a_loss_are_its_sum_with_its_gradient(tiny, batches):
    adapted, batch = add_lora(tiny, r=2), batches[0]
    whole = label_loss(adapted, batch)
    (expected,) = torch.autograd.grad(whole, [tiny.model.layers[0].self_attn.q_proj.B])
    pieces = list(loss_in_pieces(adapted, batch, 4))
    assert len(pieces) == 4
    torch.testing.assert_close(sum(pieces), whole)
    sum(pieces).backward()
    torch.testing.assert_close(tiny.model.layers[0].self_attn.q_proj.B.grad, expected)


def test_training_in_pieces_is_training_at_once_one_text_at_a_time(make_tiny, batches):
    seen = []

    def noted(model, batch):
        seen.append(len(batch.last))
        return label_loss(model, batch)

    at_once = fit(add_lora(make_tiny(), r=2), batches, learning_rate=1e-2)
    pieces = functools.partial(loss_in_pieces, pieces=8, loss=noted)
    assert fit(add_lora(make_tiny(), r=2), batches, learning_rate=1e-2, loss=pieces).losses == pytest.approx(
        at_once.losses, rel=1e-4
    )
    assert seen == [1] * 4 * 8
    assert train_together(add_lora(make_tiny(), r=2), batches, 1e-2, pieces=2).losses == pytest.approx(
        at_once.losses, rel=1e-4
    )


def test_a_piece_that_is_not_finite_stops_the_step_and_leaves_no_gradient(make_tiny, batches):
    def wrong(model, batch):
        yield label_loss(model, batch)
        yield label_loss(model, batch) * float("nan")

    model = add_lora(make_tiny(), r=2)
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        fit(model, batches, learning_rate=1e-2, loss=wrong)
    assert all(p.grad is None for p in model.parameters())


# --- fewer GPUs than processes -------------------------------------------------------------------------------


@pytest.mark.parametrize(("gpus", "asked_for", "with_one"), [(0, None, 0), (1, None, 0), (2, None, 2), (2, "cpu", 0)])
def test_processes_of_a_machine_that_has_a_gpu_for_each_are_counted_by_all(gpus, asked_for, with_one, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LESSONLIB_DEVICE", asked_for or "")
    store = torch.distributed.HashStore()
    with ThreadPoolExecutor() as pool:
        counted = list(pool.map(lambda _: parallel._processes_with_a_gpu(store, 2), range(2)))
    assert counted == [with_one] * 2


MET = """
import os, sys, torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: int(sys.argv[1 + int(os.environ["RANK"])])
from lessonlib import hardware
from lessonlib.training.parallel import join, mean_of_all
processes, mean = join(2), mean_of_all(torch.tensor(float(os.environ["RANK"]))).item()
sys.stdout.write(f"{processes} {torch.distributed.get_backend()} {hardware.device()} {mean}\\n")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("gpus", ["1 1", "8 0"])
def test_two_processes_of_which_one_has_no_gpu_meet_on_the_cpu(gpus, tmp_path):
    (tmp_path / "met.py").write_text(MET, "utf8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, tmp_path / "met.py", *gpus.split()],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 gloo cpu 0.5\n" * 2
    assert "2 processes and too few GPUs for them: all train on the CPU" in done.stderr
