"""Published numbers that the notebooks plot or compare with: data/paper_tables, one CSV a table, one value a line.

Figures stand as the paper prints them, also where two of its tables differ in the last digit (Hu et al., Tables 6 and
15, r = 64). Target matrices are written Q, K, V and O; `lp` and `li` count prefix and infix tokens.
"""

import csv
import functools
from dataclasses import dataclass

from .texts import DATA

DIRECTORY = DATA / "paper_tables"


@dataclass(frozen=True)
class Cell:
    """One published value, with where it stands and its unit ("" where it has none)."""

    paper: str
    table: str
    row: str
    column: str
    value: float
    unit: str


def paper_table(name: str) -> list[Cell]:
    """The cells of a table in the order of its file, which is the paper's.

    name: the paper and the number of the table, such as "hu2021_table6".

    Raises KeyError for a table that is not kept here, with those that are.

    >>> [cell.value for cell in paper_table("hu2021_table6") if cell.row.startswith("QV") and cell.column == "WikiSQL"]
    [73.4, 73.3, 73.7, 73.8, 73.5]
    """
    return list(_read(name))


def published(name: str, row: str, column: str) -> float:
    """One value of a table, in the unit that its cell names.

    Raises KeyError for a table, a row or a column that does not exist, with those that do.

    >>> published("hu2021_table4", "LoRA 4.7M", "MNLI-m") - published("hu2021_table4", "FT", "MNLI-m") > 2
    True
    """
    cells = _read(name)
    in_row = {cell.column: cell.value for cell in cells if cell.row == row}
    if not in_row:
        raise KeyError(
            f"{name} has no row {row!r}; there are {', '.join(dict.fromkeys(cell.row for cell in cells))}"
        )
    if column not in in_row:
        raise KeyError(f"row {row!r} of {name} has no column {column!r}; there are {', '.join(in_row)}")
    return in_row[column]


@functools.cache
def _read(name: str) -> tuple[Cell, ...]:
    known = {path.stem: path for path in sorted(DIRECTORY.glob("*.csv"))}
    if name not in known:
        raise KeyError(f"no table {name!r} in data/paper_tables; there are {', '.join(known)}")
    with known[name].open(encoding="utf8", newline="") as file:
        return tuple(Cell(**row | {"value": float(row["value"])}) for row in csv.DictReader(file))
