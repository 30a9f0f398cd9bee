"""The training of notebook 09 as a script, for one process or for several that share the work (data parallelism).

    python -m lessonlib.training.parallel --output adapter
    OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 -m lessonlib.training.parallel --output adapter

torchrun starts the script several times and tells each process its number (RANK) and how many there are (WORLD_SIZE).
Each holds the whole model and takes its share of every batch. Before each step of the optimizer they average their
gradients, so that all make the same step, the one that a single process would make with the whole batch:

    g = (g_0 + ... + g_(N-1)) / N        g_i the gradient of the mean loss of share i; all shares are equally large

That is what torch's DistributedDataParallel does (Li et al., 2020, arXiv:2006.15704, section 3.2). Of a frozen base
nothing has to be averaged, only A and B: at r = 8, 2 numbers for each 100 of the course's model.

A run that was killed goes on where it stood when the same command is given again (off under CI, as in `fit`). On
several machines LESSONLIB_CACHE must then be a directory that all of them see.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed, nn

from lessonlib.experiments.tickets import ALL_LINEAR, short_tickets, ticket_task
from lessonlib.lora import LoRALinear, add_lora, save_lora
from lessonlib.models import load_base

from .checkpoint import first_process
from .labels import Batch, label_loss
from .loop import History, fit, trainable_parameters
from .seeds import seed_everything


class LaunchError(RuntimeError):
    """The script was started in a way that cannot train what was asked for; the message says how to start it."""


# --- several processes -----------------------------------------------------------------------------------------------


def join(asked: int | None = None) -> int:
    """Join the processes that torchrun started with this one, and return how many they are. 1 without torchrun.

    asked: how many there must be. Some launchers start fewer and say nothing, and then the batch is smaller than
        one thinks; so the processes are counted, by adding a one from each.

    Raises LaunchError where there are others than were asked for, or than torchrun says.
    """
    said = int(os.environ.get("WORLD_SIZE", 1))
    if asked not in (None, said):
        raise LaunchError(
            f"{asked} processes were asked for and {said} {'was' if said == 1 else 'were'} started: launch with "
            f"torchrun --standalone --nproc_per_node {asked} -m lessonlib.training.parallel ..."
        )
    if said == 1:
        return 1
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    count = torch.ones(1, device="cuda" if on_gpu else "cpu")
    distributed.all_reduce(count)
    if int(count) != said:
        raise LaunchError(f"torchrun speaks of {said} processes, and {int(count)} answered")
    return said


def share(batch: Batch, rank: int, processes: int) -> Batch:
    """The texts of a batch that fall to process `rank`: every `processes`-th, so that all shares are equally long."""
    rows = slice(rank, None, processes)
    return Batch(batch.input_ids[rows], batch.last[rows], batch.targets[rows], batch.label_ids)


def mean_of_all(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, the same in each."""
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


@contextlib.contextmanager
def averaged_gradients(parameters: Sequence[nn.Parameter]):
    """Within it each backward pass ends with the mean of the gradients over all processes.

    They travel together, as one message, once the last of them is there. DistributedDataParallel sends messages of
    25 MB and begins while the backward pass still runs; the gradients of A and B are smaller than one of them.
    """
    arrived = []

    def hook(parameter):
        arrived.append(parameter)
        if len(arrived) < len(parameters):
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


def train_together(model: nn.Module, batches: Sequence[Batch], learning_rate: float) -> History:
    """`fit`, in every process that has joined, on whole batches that they share out among themselves.

    Raises LaunchError where a batch cannot be shared out evenly, and as `fit` does.
    """
    if not distributed.is_initialized():
        return fit(model, batches, learning_rate=learning_rate, resume="distributed")
    for batch in batches:
        _refuse_uneven(len(batch.last), distributed.get_world_size())
    parameters = trainable_parameters(model)
    for parameter in parameters:  # all begin where the first one does
        distributed.broadcast(parameter.data, 0)
    with averaged_gradients(parameters):
        return fit(model, batches, learning_rate=learning_rate, loss=shared_loss, resume="distributed")


def _refuse_uneven(batch_size: int, processes: int) -> None:
    if batch_size % processes:
        raise LaunchError(
            f"{processes} processes cannot share a batch of {batch_size} evenly: "
            f"take a batch size that is a multiple of {processes}"
        )


# --- the training of notebook 09 -------------------------------------------------------------------------------------


def adapted(r: int, seed: int, four_bit: bool = False, base: Path | None = None):
    """(model, tokenizer): the base, in 4 bits where asked, with LoRA of scale 2 beside every matrix of its blocks."""
    if four_bit:
        from lessonlib.quantization.qlora import QLoRALinear as layer
        from lessonlib.quantization.qlora import load_four_bit as load
    else:
        layer, load = LoRALinear, load_base
    model, tokenizer = load(source=base)
    seed_everything(seed)  # after the model is loaded: A starts with the same numbers over every base
    return add_lora(model, ALL_LINEAR, r, alpha=2 * r, layer=layer), tokenizer


def ticket_batches(tokenizer, steps: int, batch_size: int, seed: int) -> list[Batch]:
    """Batches of short tickets, all of the same size: tickets that fill none are left out.

    Raises LaunchError for a batch size below 1 or above the number of tickets.
    """
    texts, targets = short_tickets()
    if not 1 <= batch_size <= len(texts):
        raise LaunchError(f"batch size {batch_size}: expected 1 to {len(texts)}, the number of tickets")
    whole = len(texts) - len(texts) % batch_size
    task = ticket_task(tokenizer)
    return task.training_batches(
        texts[:whole], targets[:whole], steps=steps, batch_size=batch_size, seed=seed
    )


def train(options: argparse.Namespace) -> dict:
    """Join, train, write the adapter from the first process; returns what the script prints."""
    processes = join(options.processes)
    try:
        _refuse_uneven(options.batch_size, processes)
        model, tokenizer = adapted(options.r, options.seed, options.four_bit, options.base)
        batches = ticket_batches(tokenizer, options.steps, options.batch_size, options.seed)
        with _bar():
            history = train_together(model, batches, options.learning_rate)
        if first_process():
            save_lora(model, options.output)
        return {
            "processes": processes,
            "seconds": round(history.seconds, 2),
            "resumed_at": history.resumed_at,
            "trainable": history.trainable,
            "losses": history.losses,
        }
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _bar():
    """A progress bar for a person at a terminal; a program that reads the output gets the one line of JSON alone."""
    seen = first_process() and sys.stdout.isatty()
    return contextlib.nullcontext() if seen else contextlib.redirect_stdout(io.StringIO())


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, train, and print one line of JSON from the first process."""
    parser = argparse.ArgumentParser(prog="lessonlib.training.parallel", description="LoRA on tickets.")
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for the adapter, in PEFT's format"
    )
    parser.add_argument("--processes", type=int, help="how many there must be (as many as there are)")
    parser.add_argument("--four-bit", action="store_true", help="QLoRA: the base in NF4")
    parser.add_argument("--base", type=Path, help="directory of another base model")
    for name, value in (("steps", 40), ("batch-size", 8), ("seed", 0), ("learning-rate", 1e-3)):
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"({value})")
    # Not --r, which torchrun would take for one of its own options.
    parser.add_argument("--lora-r", dest="r", type=int, default=8, help="(8)")
    try:
        result = train(parser.parse_args(arguments))
    except LaunchError as cause:
        parser.exit(2, f"{cause}\n")
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result))


if __name__ == "__main__":
    main()
