"""Data parallelism: several processes train one model together, each on its share of every batch.

torchrun starts a script several times and tells each process its number (RANK) and how many there are (WORLD_SIZE).
Each holds the whole model and takes its share of every batch. Before each step of the optimizer they average their
gradients, so that all make the same step, the one that a single process would make with the whole batch:

    g = (g_0 + ... + g_(N-1)) / N        g_i the gradient of the mean loss of share i; all shares are equally large

That is what torch's DistributedDataParallel does (Li et al., 2020, arXiv:2006.15704, section 3.2). Of a frozen base
nothing has to be averaged, only A and B: at r = 8, 2 numbers for each 100 of the course's model.

A script that trains so is `lessonlib/experiments/lesson09_distributed.py`.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import distributed, nn

from .labels import Batch, label_loss
from .loop import History, fit, trainable_parameters


class LaunchError(RuntimeError):
    """A script was started in a way that cannot train what was asked for; the message says how to start it."""


def join(asked: int | None = None) -> int:
    """Join the processes that torchrun started with this one, and return how many they are. 1 without torchrun.

    They train on GPUs where each process of each machine has one of its own. Where one has none, all train on the CPU:
    two processes cannot meet on one GPU, so LESSONLIB_DEVICE is then set to cpu, which `hardware.device` heeds.

    asked: how many there must be. Some launchers start fewer and say nothing, and then the batch is smaller than
        one thinks; so the processes are counted, by adding a one from each.

    Raises LaunchError where there are others than were asked for, or than torchrun says.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if asked not in (None, started):
        raise LaunchError(
            f"{asked} processes were asked for and {started} {'was' if started == 1 else 'were'} started: "
            f"launch the script with torchrun --standalone --nproc_per_node {asked} ..."
        )
    if started == 1:
        return 1
    store, rank, _ = next(distributed.rendezvous("env://"))
    with_gpu = _processes_with_a_gpu(store, started)
    on_gpu = with_gpu == started
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        os.environ["LESSONLIB_DEVICE"] = "cpu"
        if rank == 0 and torch.cuda.is_available():
            print(f"{started} processes and too few GPUs for them: all train on the CPU", file=sys.stderr)
    distributed.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=started)
    count = torch.ones(1, device="cuda" if on_gpu else "cpu")
    distributed.all_reduce(count)
    if int(count) != started:
        raise LaunchError(f"torchrun speaks of {started} processes, and {int(count)} answered")
    return started


def _processes_with_a_gpu(store: distributed.Store, processes: int) -> int:
    """How many processes stand on a machine with a GPU for each of its own: counted over all, who must agree on it."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    enough = os.environ.get("LESSONLIB_DEVICE") != "cpu" and torch.cuda.device_count() >= here
    store.add("with_gpu", int(enough))
    if store.add("asked", 1) == processes:
        store.set("counted", "")
    store.wait(["counted"])
    return store.add("with_gpu", 0)


def share(batch: Batch, rank: int, processes: int) -> Batch:
    """The texts of a batch that fall to process `rank`: every `processes`-th, so that all shares are equally long."""
    rows = slice(rank, None, processes)
    return Batch(batch.input_ids[rows], batch.last[rows], batch.targets[rows], batch.label_ids)


def mean_of_all(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all processes of a tensor that has the same shape in each."""
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


@contextlib.contextmanager
def averaged_gradients(parameters: Sequence[nn.Parameter], pieces: int = 1):
    """Within it each backward pass, or every `pieces`-th, ends with the mean of the gradients over all processes.

    They travel together, as one message, once the last of them is there. DistributedDataParallel sends messages of
    25 MB and begins while the backward pass still runs; the gradients of A and B are smaller than one of them.
    """
    arrived = []

    def hook(parameter):
        arrived.append(parameter)
        if len(arrived) < pieces * len(parameters):
            return
        arrived.clear()
        mean = mean_of_all(torch.cat([p.grad.flatten() for p in parameters]))
        for p, g in zip(parameters, mean.split([p.numel() for p in parameters])):
            p.grad.copy_(g.view_as(p))

    hooks = [parameter.register_post_accumulate_grad_hook(hook) for parameter in parameters]
    try:
        yield
    finally:
        for registered in hooks:
            registered.remove()


def shared_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """`label_loss` of this process's share: the gradient is its own, the value the mean over all processes."""
    own = label_loss(model, share(batch, distributed.get_rank(), distributed.get_world_size()))
    return own + (mean_of_all(own) - own).detach()


def loss_in_pieces(model: nn.Module, batch: Batch, pieces: int, loss=label_loss) -> Iterator[torch.Tensor]:
    """The loss of a batch in so many equal parts, whose sum it is: only one part's activations are held at a time."""
    for piece in range(pieces):
        yield loss(model, share(batch, piece, pieces)) / pieces


def train_together(model: nn.Module, batches: Sequence[Batch], learning_rate: float, pieces: int = 1) -> History:
    """`fit`, in every process that has joined, on whole batches that they share out among themselves.

    pieces: in how many each process takes its share of a batch, one after another (gradient accumulation).

    Raises LaunchError where a batch cannot be shared out evenly, and as `fit` does.
    """
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    for batch in batches:
        refuse_uneven(len(batch.last), processes, pieces)
    loss = label_loss if processes == 1 else shared_loss
    if pieces > 1:
        loss = functools.partial(loss_in_pieces, pieces=pieces, loss=loss)
    if processes == 1:
        return fit(model, batches, learning_rate=learning_rate, loss=loss, resume="distributed")
    parameters = trainable_parameters(model)
    for parameter in parameters:  # all begin where the first one does
        distributed.broadcast(parameter.data, 0)
    with averaged_gradients(parameters, pieces):
        return fit(model, batches, learning_rate=learning_rate, loss=loss, resume="distributed")


def refuse_uneven(batch_size: int, processes: int, pieces: int = 1) -> None:
    """Raises LaunchError where so many processes, each in so many pieces, cannot share a batch evenly: the mean of their
    losses would not be the batch's."""
    if pieces < 1 or batch_size % (processes * pieces):
        among = f"{processes} process{'es' * (processes != 1)}" + (f" in {pieces} pieces each" if pieces != 1 else "")
        raise LaunchError(
            f"{among} cannot share a batch of {batch_size} evenly: "
            f"take a batch size that is a multiple of {processes * max(pieces, 1)}"
        )
