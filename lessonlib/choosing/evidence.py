"""What a rule rests on: recorded runs of ours, published figures, counted bytes. Each can be asked whether it holds."""

import statistics
from dataclasses import dataclass

from lessonlib.corpora.published import published
from lessonlib.costs import MASTER_WEIGHTS, FullFineTuning, training_memory
from lessonlib.runs import Run, load_runs


@dataclass(frozen=True)
class Row:
    """Recorded runs by their experiment and settings, and one number of each.

    measure: "accuracy", or the way to a number in the results: "answer_time.merged.0". Of runs that differ in
    their learning rate or number of examples, those count whose first seed was best on validation.
    """

    experiment: str
    settings: dict
    measure: str = "accuracy"

    def runs(self) -> list[Run]:
        """Raises LookupError where none is recorded."""
        found = load_runs(self.experiment, **self.settings)
        first = [run for run in found if run.settings.get("seed", 0) == 0] or found
        best = max(first, key=lambda run: run.results.get("validation", 0))
        dials = {"learning_rate", "shots"} & best.settings.keys()
        return [run for run in found if all(run.settings[dial] == best.settings[dial] for dial in dials)]

    def value(self) -> float:
        """The mean over the runs' seeds."""
        return statistics.mean(_number(run, self.measure) for run in self.runs())


def _number(run: Run, measure: str) -> float:
    if measure == "accuracy":
        return run.accuracy
    value = run.results
    for key in measure.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@dataclass(frozen=True)
class Measured:
    """Our own runs: `more` is at least `times` as much as `less`, and `by` more (in the measure's unit)."""

    says: str
    more: Row
    less: Row
    by: float = 0.0
    times: float = 1.0

    def holds(self) -> bool | None:
        """None where a run is not recorded."""
        try:
            return self.more.value() >= self.times * self.less.value() + self.by
        except LookupError:
            return None


@dataclass(frozen=True)
class Published:
    """A paper's table: the cell `more` (row, column) is above the cell `less` by at least `by`, in the table's unit."""

    says: str
    table: str
    more: tuple[str, str]
    less: tuple[str, str]
    by: float = 0.0

    def holds(self) -> bool:
        return published(self.table, *self.more) - published(self.table, *self.less) >= self.by


@dataclass(frozen=True)
class Counted:
    """Bytes of one training step on the meta device: `more` needs at least `times` what `less` needs."""

    says: str
    more: object
    less: object
    times: float
    base: str = "llama2-7b"

    def holds(self) -> bool:
        def total(method):
            precision = {"precision": MASTER_WEIGHTS} if method == FullFineTuning() else {}
            return training_memory(self.base, method, tokens=512, recompute=True, **precision).total

        return total(self.more) / total(self.less) >= self.times
