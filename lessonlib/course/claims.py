"""The ledger of claims: what two source lessons say, each with a verdict, the right value, and how that is known.

A notebook that has not been rewritten yet settles its own rows by `settle`; of the others, tests/claims compute what can
be computed and read what was recorded. docs/claims.md shows all rows.
"""

import csv
import functools
import math
import os
import textwrap
from dataclasses import dataclass

from lessonlib.corpora import DATA
from lessonlib.display import PAGE, Table

VERDICTS = ("holds", "wrong", "misleading", "inconsistent", "unverifiable", "rule of thumb", "plausible")


class ClaimNotSettled(AssertionError):
    """The notebook's own figure does not bear the verdict out."""


@dataclass(frozen=True)
class Claim:
    """A row of data/claims.csv."""

    id: str
    notebook: str
    claim: str
    stated: str
    verdict: str
    correct: str
    tolerance: str
    unit: str
    kind: str
    evidence: str
    source: str

    @property
    def right(self) -> str:
        """What is right, with its unit; where there is nothing to put in the claim's place, that."""
        if not self.correct:
            return "no published source found" if self.verdict == "unverifiable" else "no figure"
        return _with_unit(self.correct, self.unit)

    @property
    def says(self) -> str:
        """What the lesson states, with its unit; a dash where it states no figure."""
        return _with_unit(self.stated, self.unit) if self.stated else "–"


@functools.cache
def claims() -> dict[str, Claim]:
    """All rows of data/claims.csv by id."""
    with (DATA / "claims.csv").open(encoding="utf8", newline="") as file:
        return {row["id"]: Claim(**row) for row in csv.DictReader(file)}


# --- settled in a notebook -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """A claim beside the notebook's own figure."""

    claim: Claim
    ours: float | bool | str

    def __repr__(self):
        return f"{self.claim.id} {self.claim.verdict}: {self.claim.claim} {self.answer}"

    @property
    def answer(self) -> str:
        """This notebook's figure where it has one, otherwise what is right."""
        if self.has_figure:
            return f"Here: {_with_unit(self.ours, self.claim.unit)}."
        return f"Right: {self.claim.right}."

    @property
    def has_figure(self) -> bool:
        """Whether the notebook's own figure is what settles the claim."""
        return self.claim.kind in ("computed", "measured") and not isinstance(self.ours, bool)

    def _ipython_display_(self):
        """Nothing: `settle` has printed it, so that each of several in a cell is seen."""


_settled: dict[str, Settled] = {}


def settle(id: str, ours) -> Settled:
    """Hold a verdict of data/claims.csv to a figure of ours, print it with what is right, and keep it for the closing table.

    ours: a number, in the claim's unit, where the row has a correct value: it must lie within the row's tolerance
        of it, and for the verdict "wrong" farther than that from the stated value. A bool where the row has no
        number: whether what the row calls correct came out in the cell. A row that is cited or open is only printed.

    Under CI a figure that does not bear the verdict out raises ClaimNotSettled. Elsewhere it is a learner's, who has
    changed a number: it is printed beside the verdict, and the notebook goes on.
    Raises KeyError for an unknown id and TypeError for a bool where a number belongs or the reverse.
    """
    if id not in claims():
        raise KeyError(f"no claim {id!r} in data/claims.csv")
    claim = claims()[id]
    if claim.kind in ("computed", "measured") and (problem := _problem(claim, ours)):
        if os.environ.get("CI"):
            raise ClaimNotSettled(problem)
        _say(f"{id} {claim.verdict}: {claim.claim} With your values: {_with_unit(ours, claim.unit)}.")
        _say(f"     The verdict is for the course's own: {claim.right}.")
        return Settled(claim, ours)
    _settled[id] = Settled(claim, ours)
    _say(repr(_settled[id]))
    return _settled[id]


def _problem(claim: Claim, ours) -> str:
    """Why `ours` does not bear the verdict out; empty where it does."""
    correct, stated = _number(claim.correct), _number(claim.stated)
    if isinstance(ours, bool):
        if correct is not None:
            raise TypeError(f"{claim.id} has a number, {correct} {claim.unit}: pass yours and not {ours}")
        return "" if ours else f"{claim.id}: not shown: {claim.correct or claim.claim}"
    if correct is None:
        raise TypeError(f"{claim.id} has no number to compare {ours!r} with: pass True or False")
    tolerance = float(claim.tolerance)
    if not math.isclose(float(ours), correct, rel_tol=1e-12, abs_tol=tolerance):
        return f"{claim.id}: ours is {ours}, data/claims.csv says {correct} ± {tolerance} {claim.unit}"
    agrees = stated is not None and math.isclose(float(ours), stated, abs_tol=tolerance)
    if claim.verdict == "wrong" and agrees:
        return f"{claim.id}: ours is {ours}, which is what the lesson states, yet the verdict is 'wrong'"
    return ""


def _say(line: str) -> None:
    print(textwrap.fill(line, PAGE, subsequent_indent="     "))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _figure(value, unit: str = "") -> str:
    number = None if isinstance(value, bool) else _number(str(value))
    if number is None:
        return {True: "so", False: "not so"}.get(value, str(value))
    if unit == "year":
        return f"{number:.0f}"
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 1e4 else f"{number:,.4g}"


def _with_unit(value, unit: str) -> str:
    """A number with its unit; words as they are."""
    return " ".join(filter(None, [_figure(value, unit), unit if _number(str(value)) is not None else ""]))


def _cells(row: Settled) -> tuple[str, ...]:
    c = row.claim
    right = _with_unit(row.ours, c.unit) if row.has_figure else c.right
    return f"{c.id}. {c.claim}", c.says, c.verdict, right, c.source


def table() -> Table:
    """The closing table of what this notebook has settled, in the order of the ids."""
    columns = ("claim", "the lesson says", "verdict", "right", "source")
    return Table(columns, [_cells(_settled[id]) for id in sorted(_settled)])
