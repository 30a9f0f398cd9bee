"""A lesson's session: what this machine will run, said in one line, and refused in time where it cannot."""

import time
import tomllib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lessonlib import hardware
from lessonlib.training import seed_everything

LESSONS = Path(__file__).parents[2] / "notebooks" / "lessons.toml"
# Two cores without fast bfloat16 take three to four times as long as the two on which the minutes were measured.
SLOW_CPU = 3.5
# Of the base model in memory at a time, at most: as it was, beside one that trains or is merged.
COPIES = 2


def lessons() -> dict[str, dict]:
    """The ten lessons' metadata by number: title, minutes, memory, what the learner builds."""
    return tomllib.loads(LESSONS.read_text(encoding="utf8"))


@dataclass
class Session:
    """What `start` found out. `load_base()` gives a fresh model, `tickets(split)` the texts to work on."""

    lesson: str
    device: torch.device
    dtype: torch.dtype
    minutes: float
    model: str | Path | None = None
    data: object = None
    began: float = field(default_factory=time.perf_counter)

    def load_base(self, dtype: torch.dtype | None = None):
        """A fresh (model, tokenizer): the course's base model, or the one that was given to `start`."""
        from lessonlib.models import load_base

        hardware.release_memory()  # the models of earlier sections, if no variable holds them any more

        return load_base(self.base, dtype or self.dtype)

    def base_weight(self, path: str) -> torch.Tensor:
        """One weight of the base model, such as "model.layers.0.mlp.up_proj.weight", read alone and put on this device.

        What fits only in 4 bits is never loaded in 16 by it. Raises ModelFileError as `models.read_weight` does.
        """
        from lessonlib.models import read_weight

        return read_weight(path, self.base).to(self.device, self.dtype)

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether the base model's weights, in this dtype, take less than the free memory, with a fifth to spare."""
        from lessonlib.models import weights_gb

        hardware.release_memory()
        return 1.2 * weights_gb(self.base, dtype) < hardware.memory_gb(self.device)

    @property
    def base(self) -> str:
        """The base model as `load_base` takes it: the course's own, or the one that was given to `start`."""
        from lessonlib.models import DEFAULT

        return str(self.model or DEFAULT)

    def tickets(self, split: str):
        """Texts of a split with their `label`: the tickets' intent, or the learner's own where `start` was given a file."""
        from lessonlib import corpora

        return corpora.tickets(split).rename_column("intent", "label") if self.data is None else self.data[split]

    @property
    def labels(self) -> list[str]:
        """The intents to tell apart, or the learner's own labels."""
        from lessonlib import corpora

        return corpora.INTENTS if self.data is None else self.data["train"].features["label"].names

    def expect(self, fact: bool, what: str) -> None:
        """Assert a fact about the course's own model and data; with the learner's own, only say if it is not so.

        Raises AssertionError with `what` was expected.
        """
        if not fact and self.model is None and self.data is None:
            raise AssertionError(f"expected: {what}")
        print(f"As expected: {what}." if fact else f"Not so with your model or data: {what}.")

    def took(self) -> str:
        """Minutes and peak memory of this session so far, beside what was expected."""
        minutes, peak = (time.perf_counter() - self.began) / 60, hardware.peak_memory_gb(self.device)
        return f"{minutes:.1f} minutes (expected {self.minutes:.0f}), at most {peak:.1f} GB"


def _more_memory_gb(model: str | Path | None, dtype: torch.dtype) -> float:
    """What a lesson needs above its own figure with a larger model of the course, which must be here."""
    if model is None:
        return 0.0
    from lessonlib.models import DEFAULT, PINNED, find_base

    if (name := str(model)) not in PINNED:
        return 0.0
    find_base(name)
    return COPIES * (PINNED[name].weights_gb(dtype) - PINNED[DEFAULT].weights_gb(dtype))


def start(lesson: str, model: str | Path | None = None, data=None) -> Session:
    """Begin a lesson: seed, probe, and say in one line what will run here and for how long.

    lesson: its number, "01" to "10".
    model: another base model: "qwen2.5-coder-0.5b" or "qwen2.5-coder-1.5b", once `load_base` has fetched it, or your
        own, a directory or a Hub name; None takes SmolLM2-135M-Instruct.
    data: your own texts where tickets stand, as `corpora.from_csv` returns them, or the path of a CSV or JSONL file
        with the columns `text` and `label`.

    Raises KeyError for an unknown lesson, NotEnoughMemory where the lesson would not fit, and ModelFileError where a
    larger model is not here.

    >>> session = start("07")  # doctest: +SKIP
    07 LoRA from scratch · CPU, 2 threads · bfloat16 (4.1 × as fast as float32) · 21 GB free · about 4 minutes
    """
    table = lessons()
    if lesson not in table:
        raise KeyError(f"no lesson {lesson!r}; there are {', '.join(table)}")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    about, device, dtype = table[lesson], hardware.device(), hardware.dtype()
    more = _more_memory_gb(model, dtype)
    what = f"lesson {lesson}" + (f" with {model}" if more else "")
    free = hardware.require_memory(about["memory_gb"] + more, what, device)
    if isinstance(data, str | Path):
        from lessonlib.corpora import from_csv

        data = from_csv(data)
    where = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    fast = device.type != "cpu" or dtype == torch.bfloat16
    minutes = about["minutes"] * (1 if fast else SLOW_CPU)
    parts = [
        f"{lesson} {about['title']}",
        f"{where}, {hardware.threads()} threads" if device.type == "cpu" else where,
        str(dtype).removeprefix("torch.")
        + (
            f" ({hardware.bfloat16_speed():.1f} × as fast as float32)"
            if dtype == torch.bfloat16 and where == "CPU"
            else ""
        ),
        f"{free:.0f} GB free",
        *([f"model {model}"] if model else []),
        f"about {minutes:.0f} minute{'s' * (round(minutes) != 1)}",
    ]
    print(" · ".join(parts))
    seed_everything()  # last of all: the probe draws numbers at its first call
    return Session(lesson, device, dtype, minutes, model, data)
