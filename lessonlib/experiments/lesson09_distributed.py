"""The training of notebook 09 as a script, for one process or for several that share the work (data parallelism).

    python -m lessonlib.experiments.lesson09_distributed --output adapter
    OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 -m lessonlib.experiments.lesson09_distributed --output adapter

    torchrun ... --data mine.csv --text body --label topic --base owner/name --four-bit --accumulate 4 --checkpointing ...

With --data it trains on your own file, on 70 per cent of it, and judges the adapter by its test texts; task.json (the
prompt) and the splits stand beside the adapter then. --base takes a directory or a Hub name; --accumulate and
--checkpointing make room where a batch does not fit. docs/cluster.md says how a scheduler starts it.

How they share it stands in `lessonlib.training.parallel`. A run that was killed goes on where it stood when the same
command is given again (off under CI, as in `fit`). On several machines LESSONLIB_WORK must then be a directory that
all of them see. It records no run: what it writes is an adapter.
"""

import argparse
import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import distributed

from lessonlib.corpora.own import CorpusError, read, split, write_splits
from lessonlib.lora import LoRAError, LoRALinear, add_lora, save_lora
from lessonlib.models import DEFAULT, ModelFileError, load_base
from lessonlib.training import first_process, seed_everything
from lessonlib.training.labels import Batch, LabelTask
from lessonlib.training.parallel import LaunchError, join, refuse_uneven, train_together

from .tickets import ALL_LINEAR, judged, short_tickets, ticket_task


def adapted(r: int, seed: int, four_bit: bool = False, base: str = DEFAULT, targets: Sequence[str] = ALL_LINEAR):
    """(model, tokenizer): the base, in 4 bits where asked, with LoRA of scale 2 beside every matrix of its blocks."""
    if four_bit:
        from lessonlib.quantization.qlora import QLoRALinear as layer
        from lessonlib.quantization.qlora import load_four_bit as load
    else:
        layer, load = LoRALinear, load_base
    model, tokenizer = load(base)
    seed_everything(seed)  # after the model is loaded: A starts with the same numbers over every base
    return add_lora(model, targets, r, alpha=2 * r, layer=layer), tokenizer


def ticket_batches(tokenizer, steps: int, batch_size: int, seed: int) -> list[Batch]:
    """Batches of short tickets. Raises LaunchError as `whole_batches` does."""
    return whole_batches(ticket_task(tokenizer), *short_tickets(), steps, batch_size, seed)


def whole_batches(
    task: LabelTask, texts: Sequence[str], targets: Sequence[int], steps: int, batch_size: int, seed: int
) -> list[Batch]:
    """Batches of the same size, all of them: texts that fill none are left out.

    Raises LaunchError for a batch size below 1 or above the number of texts.
    """
    if not 1 <= batch_size <= len(texts):
        raise LaunchError(f"batch size {batch_size}: expected 1 to {len(texts)}, the number of texts to train on")
    whole = len(texts) - len(texts) % batch_size
    return task.training_batches(texts[:whole], targets[:whole], steps=steps, batch_size=batch_size, seed=seed)


def recompute_activations(model) -> None:
    """Keep of each block only what goes in, and compute the rest again in the backward pass, as long as it trains."""
    older = not hasattr(model, "activation_checkpointing_enable")  # so it was called up to transformers 5.16
    enable = model.gradient_checkpointing_enable if older else model.activation_checkpointing_enable
    enable({"use_reentrant": False})


def own_task(tokenizer, labels: Sequence[str], max_tokens: int) -> LabelTask:
    """The question that is asked of texts of one's own: which of the labels, none of them named in the prompt.

    Raises LaunchError where the labels' first tokens cannot be told apart, nor letters put in their place.
    """
    words = [label.replace("_", " ") for label in labels]
    try:
        return LabelTask(tokenizer, labels, words, template="Text: {text}\nLabel:", max_tokens=max_tokens)
    except ValueError as cause:  # no labels and no {text} cannot be
        raise LaunchError(f"{cause}: give the labels other first words, or put some of them together") from cause


def train(options: argparse.Namespace) -> dict:
    """Join, train, write the adapter from the first process; returns what the script prints.

    Raises LaunchError, and CorpusError, ModelFileError and LoRAError for a file, a base or layers that cannot be used.
    """
    processes = join(options.processes)
    try:
        refuse_uneven(options.batch_size, processes, options.accumulate)
        splits = split(read(options.data, options.text, options.label), options.seed) if options.data else None
        model, tokenizer = adapted(options.r, options.seed, options.four_bit, options.base, options.targets)
        if options.checkpointing:
            recompute_activations(model)
        numbers = options.steps, options.batch_size, options.seed
        if splits is None:
            batches = ticket_batches(tokenizer, *numbers)
        else:
            task = own_task(tokenizer, splits["train"].features["label"].names, options.max_tokens)
            batches = whole_batches(task, splits["train"]["text"], splits["train"]["label"], *numbers)
        with _bar():
            history = train_together(model, batches, options.learning_rate, options.accumulate)
        result = {
            "processes": processes,
            "seconds": round(history.seconds, 2),
            "resumed_at": history.resumed_at,
            "trainable": history.trainable,
            "losses": history.losses,
        }
        if first_process():
            save_lora(model, options.output)
            if splits is not None:
                task.write(options.output)
                write_splits(splits, options.output / "splits")
                accuracy, _ = judged(model, task, splits["test"]["text"], splits["test"]["label"])
                result |= {"accuracy": accuracy.value, "interval": accuracy.interval, "n": accuracy.n}
        return result
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _bar():
    """A progress bar for a person at a terminal; a program that reads the output gets the one line of JSON alone."""
    seen = first_process() and sys.stdout.isatty()
    return contextlib.nullcontext() if seen else contextlib.redirect_stdout(io.StringIO())


def refuse_numbers(options: argparse.Namespace) -> None:
    """Raises LaunchError, with the option and its value, for a number out of range and for an output that is a file."""
    for name in ("steps", "max_tokens", "r", "processes"):
        if (value := getattr(options, name)) is not None and value < 1:
            option = "lora-r" if name == "r" else name.replace("_", "-")
            raise LaunchError(f"--{option} {value}: give a whole number from 1")
    if not 0 <= options.seed < 2**32:
        raise LaunchError(f"--seed {options.seed}: give a whole number from 0 to {2**32 - 1}")
    if not 0 < options.learning_rate < math.inf:  # nan is not either
        raise LaunchError(f"--learning-rate {options.learning_rate}: give a number above 0, such as 0.001")
    if (at := next(p for p in (options.output, *options.output.parents) if p.exists())) and not at.is_dir():
        raise LaunchError(f"--output {options.output}: {at} is a file; give a directory")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, train, and print one line of JSON from the first process."""
    parser = argparse.ArgumentParser(
        prog="lessonlib.experiments.lesson09_distributed", description="LoRA on tickets."
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the adapter, in PEFT's format")
    parser.add_argument("--processes", type=int, help="how many there must be (as many as there are)")
    parser.add_argument("--four-bit", action="store_true", help="QLoRA: the base in NF4")
    parser.add_argument("--base", default=DEFAULT, help="directory or Hub name of another base model")
    parser.add_argument("--data", type=Path, help="your own file, CSV or JSONL, in place of the tickets")
    parser.add_argument("--text", default="text", help="its column of texts")
    parser.add_argument("--label", default="label", help="its column of labels")
    parser.add_argument(
        "--checkpointing", action="store_true", help="keep no activations within a block, compute them again"
    )
    parser.add_argument(
        "--targets", type=lambda names: names.split(","), default=ALL_LINEAR, help="layers, as q_proj,v_proj"
    )
    about = {
        "steps": (40, ""),
        "batch-size": (8, "texts a step, of all processes together"),
        "accumulate": (1, "pieces in which a process takes its share of a batch, one after another"),
        "max-tokens": (160, "of a prompt: a longer text of your own loses its end"),
        "seed": (0, ""),
        "learning-rate": (1e-3, ""),
    }
    for name, (value, help) in about.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{help} ({value})".strip())
    # Not --r, which torchrun would take for one of its own options.
    parser.add_argument("--lora-r", dest="r", type=int, default=8, help="(8)")
    options = parser.parse_args(arguments)
    try:
        refuse_numbers(options)
        result = train(options)
    except (LaunchError, CorpusError, ModelFileError, LoRAError, MemoryError, OSError) as cause:
        parser.exit(2, f"{cause}\n")
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result))


if __name__ == "__main__":
    main()
