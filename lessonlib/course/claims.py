"""The claims of the source lessons: each is settled, by a figure, in one cell of one notebook."""

import csv
import functools
import math
import textwrap
from dataclasses import dataclass

from lessonlib.corpora import DATA
from lessonlib.display import Table

VERDICTS = ("holds", "wrong", "misleading", "inconsistent", "unverifiable", "rule of thumb", "plausible")


PAGE = 92  # letters in a line: longer ones are broken by JupyterLab in the middle of a word


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
    source: str


@functools.cache
def claims() -> dict[str, Claim]:
    """All rows of data/claims.csv by id."""
    with (DATA / "claims.csv").open(encoding="utf8", newline="") as file:
        return {row["id"]: Claim(**row) for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Settled:
    """A claim beside the notebook's own figure."""

    claim: Claim
    ours: float | bool | str

    def __repr__(self):
        here = " ".join(
            filter(
                None,
                [_figure(self.ours, self.claim.unit), "" if isinstance(self.ours, bool) else self.claim.unit],
            )
        )
        return f"{self.claim.id} {self.claim.verdict}: {self.claim.claim} Here: {here}."

    def _ipython_display_(self):
        """Nothing: `settle` has printed it, so that each of several in a cell is seen."""


_settled: dict[str, Settled] = {}


def settle(id: str, ours) -> Settled:
    """Assert the verdict of data/claims.csv with a figure of ours, print it, and keep it for the closing table.

    ours: a number, in the claim's unit, where the row has a correct value: it must lie within the row's tolerance
        of it, and for the verdict "wrong" farther than that from the stated value. A bool where the row has no
        number: whether what the row calls correct came out in the cell.

    Raises KeyError for an unknown id, TypeError for a bool where a number belongs or the reverse, and ClaimNotSettled where the figure does not bear the verdict out.
    """
    if id not in claims():
        raise KeyError(f"no claim {id!r} in data/claims.csv")
    claim = claims()[id]
    correct, stated = _number(claim.correct), _number(claim.stated)
    if isinstance(ours, bool):
        if correct is not None:
            raise TypeError(f"{id} has a number, {correct} {claim.unit}: pass yours and not {ours}")
        if not ours:
            raise ClaimNotSettled(f"{id}: not shown: {claim.correct or claim.claim}")
    elif correct is None:
        raise TypeError(f"{id} has no number to compare {ours!r} with: pass True or False")
    else:
        tolerance = float(claim.tolerance)
        if not math.isclose(float(ours), correct, rel_tol=1e-12, abs_tol=tolerance):
            raise ClaimNotSettled(
                f"{id}: ours is {ours}, data/claims.csv says {correct} ± {tolerance} {claim.unit}"
            )
        if (
            claim.verdict == "wrong"
            and stated is not None
            and math.isclose(float(ours), stated, abs_tol=tolerance)
        ):
            raise ClaimNotSettled(
                f"{id}: ours is {ours}, which is what the lesson states, yet the verdict is 'wrong'"
            )
    _settled[id] = Settled(claim, ours)
    print(textwrap.fill(repr(_settled[id]), PAGE, subsequent_indent="     "))
    return _settled[id]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _figure(value, unit: str = "") -> str:
    number = None if isinstance(value, bool) else _number(str(value))
    if number is None:
        return {True: "shown", False: "not shown"}.get(value, str(value))
    if unit == "year":
        return f"{number:.0f}"
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 1e4 else f"{number:,.4g}"


def _cells(row: Settled) -> tuple[str, ...]:
    c = row.claim
    unit = f" {c.unit}" if c.unit else ""
    said = _figure(c.stated, c.unit) + (unit if _number(c.stated) is not None else "") if c.stated else "–"
    here = _figure(row.ours, c.unit) + ("" if isinstance(row.ours, bool) else unit)
    return f"{c.id}. {c.claim}", said, c.verdict, here, c.source


def table() -> Table:
    """The closing table of what this notebook has settled, in the order of the ids."""
    columns = ("claim", "the lesson says", "verdict", "here", "source")
    return Table(columns, [_cells(_settled[id]) for id in sorted(_settled)])
