"""The same experiment with a larger model, where there is a GPU that holds it; one line otherwise."""

from collections.abc import Callable

from lessonlib import hardware
from lessonlib.training import seed_everything

from .session import Session

MODEL = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
# 1.7 billion weights of 2 bytes, and as much again for activations, adapters and the allocator's slack.
NEEDS_GB = 8.0


def on_your_gpu(
    session: Session,
    experiment: Callable,
    model: str | None = None,
    needs_gb: float = NEEDS_GB,
    load: Callable | None = None,
):
    """Call experiment(model, tokenizer) with a larger model from the Hub, or say what that would need.

    load(name, dtype=): what loads it, `models.load_base` unless given; `load_four_bit` never holds it in 16 bits.

    Not run on the course's own machines, which have no GPU: there only the line, and in the tests the same path with
    a tiny model on a pretended device.
    """
    from lessonlib.models import load_base

    model = model or MODEL
    free = hardware.memory_gb(session.device)
    on_cpu = session.device.type == "cpu"
    if on_cpu or free < needs_gb:
        here = "there is no GPU" if on_cpu else f"the GPU has {free:.0f} GB free"
        print(f"Not run: {model.rpartition('/')[2]} needs a GPU with {needs_gb:.0f} GB free, here {here}.")
        return None
    hardware.release_memory()  # the models of earlier sections, if no variable holds them any more
    seed_everything()
    return experiment(*(load or load_base)(model, dtype=session.dtype))
