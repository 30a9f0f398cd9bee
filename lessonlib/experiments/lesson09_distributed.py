"""The training of notebook 09 as a script, for one process or for several that share the work (data parallelism).

    python -m lessonlib.experiments.lesson09_distributed --output adapter
    OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 -m lessonlib.experiments.lesson09_distributed --output adapter

How they share it stands in `lessonlib.training.parallel`. A run that was killed goes on where it stood when the same
command is given again (off under CI, as in `fit`). On several machines LESSONLIB_WORK must then be a directory that
all of them see. It records no run: what it writes is an adapter.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import distributed

from lessonlib.lora import LoRALinear, add_lora, save_lora
from lessonlib.models import load_base
from lessonlib.training import first_process, seed_everything
from lessonlib.training.labels import Batch
from lessonlib.training.parallel import LaunchError, join, refuse_uneven, train_together

from .tickets import ALL_LINEAR, short_tickets, ticket_task


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
    return task.training_batches(texts[:whole], targets[:whole], steps=steps, batch_size=batch_size, seed=seed)


def train(options: argparse.Namespace) -> dict:
    """Join, train, write the adapter from the first process; returns what the script prints."""
    processes = join(options.processes)
    try:
        refuse_uneven(options.batch_size, processes)
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
    parser = argparse.ArgumentParser(
        prog="lessonlib.experiments.lesson09_distributed", description="LoRA on tickets."
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the adapter, in PEFT's format")
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
