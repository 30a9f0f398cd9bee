"""Recorded runs: one JSON file a run in data/runs, written by `lessonlib.experiments` and never edited.

A run names its experiment, the settings, where it ran, the hash of the data that judged it and of the code that made
it, and keeps every single answer.
"""

import functools
import hashlib
import json
import textwrap
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lessonlib.corpora import DATA
from lessonlib.display import PAGE, written_aside
from lessonlib.evaluation import Accuracy, wilson_interval

DIRECTORY = DATA / "runs"
SIGNED_OFF = DIRECTORY / "signed_off.toml"
INHERITED = "inherited"  # the code of a run that was made before runs kept a hash of it
POINTER = "version https://git-lfs"  # how a file begins that stands for one that was not fetched


class RunError(ValueError):
    """A record cannot be read; the message names the file and the cause."""


@dataclass(frozen=True)
class Run:
    """One recorded run: what was asked, where it ran, what made and what judged it, what came out."""

    id: str
    experiment: str
    settings: dict
    environment: dict
    data: str
    code: str
    seconds: float
    score: dict
    results: dict

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.score["value"]

    @property
    def band(self) -> tuple[float, float]:
        """Where another processor's score may fall: the 99 % interval of the recorded count."""
        right = round(self.score["value"] * self.score["n"])
        return wilson_interval(right, self.score["n"], level=0.99)

    def answers(self) -> Accuracy:
        """The run's single answers, for paired comparisons."""
        return Accuracy(self.score["predictions"], self.score["targets"])

    def __repr__(self):
        low, high = self.score["interval"]
        settings = ", ".join(
            f"{name} {value}" for name, value in self.settings.items() if not isinstance(value, list)
        )
        line = f"{self.id}: {self.accuracy:.3f} ({low:.3f} to {high:.3f}, n = {self.score['n']}) · {settings}"
        return textwrap.fill(line, PAGE, subsequent_indent=" " * 4)


def identity(experiment: str, settings: dict) -> str:
    """A run's name: the experiment, and a hash of the settings."""
    text = json.dumps(settings, sort_keys=True)
    return f"{experiment}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _path(id: str) -> Path:
    return DIRECTORY / f"{id}.json"


def kept(id: str) -> Run | None:
    """The recorded run of this id, None where there is none.

    Raises RunError for a file that is not a whole record.
    """
    path = _path(id)
    return _read(path) if path.exists() else None


def keep(run: Run) -> Run:
    """Write a run, whole or not at all, in place of an older one of its id, and read it back."""
    path = _path(run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(json.dumps(asdict(run), indent=1) + "\n", "utf8")
    _read.cache_clear()
    return _read(path)


@functools.cache
def _read(path: Path) -> Run:
    text = path.read_text("utf8")
    if text.startswith(POINTER):
        raise RunError(f"{path} is a pointer and not the record: call `git lfs pull` and try again")
    cure = f"take it back with `git checkout -- {path.name}`, or delete it and call `make runs`"
    try:
        record = json.loads(text)
    except json.JSONDecodeError as cause:
        raise RunError(f"{path} is not a whole record ({len(text)} characters, {cause}): {cure}") from None
    names = {field.name for field in fields(Run)}
    if not isinstance(record, dict) or record.keys() != names:
        content = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise RunError(f"{path} holds {content}; a record holds {sorted(names)}: {cure}")
    return Run(**record)


def load_runs(experiment: str, **settings) -> list[Run]:
    """The recorded runs of an experiment whose settings include the given ones.

    Raises LookupError where there is none, with what there is, and RunError for a file that is not a whole record.
    """
    runs = [_read(path) for path in sorted(DIRECTORY.glob(f"{experiment}-*.json"))]
    matching = [run for run in runs if settings.items() <= run.settings.items()]
    if not matching:
        raise LookupError(f"no recorded run of {experiment!r} with {settings}; {len(runs)} of it are in {DIRECTORY}")
    return sorted(matching, key=lambda run: json.dumps(run.settings, sort_keys=True))


def _signatures() -> dict:
    return tomllib.loads(SIGNED_OFF.read_text("utf8"))


def taken_over() -> dict[str, str]:
    """By experiment, the hash of its code on the day when its inherited runs were taken over."""
    return _signatures()["taken_over"]


def signed_off() -> dict[str, str]:
    """By experiment, the hash of the changed code for which somebody has said that its older runs still stand.

    Raises RunError for a signature without a reason.
    """
    signatures = _signatures()["signed_off"]
    for name, signature in signatures.items():
        if not signature.get("reason", "").strip():
            raise RunError(f"{SIGNED_OFF.name}: {name} is signed off without a reason")
    return {name: signature["code"] for name, signature in signatures.items()}
