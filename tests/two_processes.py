"""What test_lesson09_distributed starts under torchrun: the script itself, watched. Not a test.

    torchrun ... two_processes.py DIRECTORY KILL_AFTER OPTIONS...

Writes gradients of each process to DIRECTORY, keeps a checkpoint after every step, kills process 0 after step
KILL_AFTER (0: never), and fails where process 1 writes a file of the script's.
"""

import os
import signal
import sys
from pathlib import Path

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import torch
from tiny_models import filled, tiny_model, tiny_tokenizer

from lessonlib import training
from lessonlib.experiments import lesson09_distributed as script
from lessonlib.lora import add_lora
from lessonlib.training.checkpoint import Checkpoint
from lessonlib.training.labels import Batch
from lessonlib.training.parallel import averaged_gradients, shared_loss


def adapted_tiny_model():
    model = tiny_model()
    torch.manual_seed(0)
    return filled(add_lora(model, ["q_proj", "up_proj"], r=2))


def doubled_batch() -> Batch:
    """A batch of eight, twice what each of two processes takes."""
    return script.ticket_batches(tiny_tokenizer(), steps=1, batch_size=8, seed=0)[0]


def write_gradients(directory: Path) -> None:
    model = adapted_tiny_model()
    rank = torch.distributed.get_rank()
    for again in range(2):
        model.zero_grad()
        loss = shared_loss(model, doubled_batch())
        with averaged_gradients(training.trainable_parameters(model)):
            loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        torch.save(found | {"loss": loss.detach()}, directory / f"{rank}-{again}.pt")


def refused(*_):
    raise AssertionError("process 1 wrote a file")


def watch(directory: Path, kill_after: int) -> None:
    together = script.train_together

    def train_together(*arguments):  # they have joined by now
        write_gradients(directory)
        return together(*arguments)

    script.train_together = train_together
    training.CHECKPOINT_SECONDS = 0.0
    save = Checkpoint.save

    def save_and_die(self, steps, history):
        save(self, steps, history)
        if len(history.losses) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.save = save_and_die
    if os.environ["RANK"] == "1":
        Checkpoint.save = Checkpoint.remove = script.save_lora = refused


if __name__ == "__main__":
    watch(Path(sys.argv[1]), int(sys.argv[2]))
    script.main(sys.argv[3:])
