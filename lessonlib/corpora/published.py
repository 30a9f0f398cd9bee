"""What the course looks up by name: shapes of published models, GPUs, papers, and the numbers in papers' tables.

Sources: data/references.md.

An architecture is a `config.json` in the form of transformers; its "architectures" names the class counted:

    config = architecture("llama2-70b")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))

The figures of data/paper_tables (one CSV a table, one value a line) stand as the paper prints them, also where two of its
tables differ in the last digit (Hu et al., Tables 6 and 15, r = 64). Target matrices are written Q, K, V and O; `lp` and
`li` count prefix and infix tokens.
"""

import copy
import csv
import difflib
import functools
import json
from collections.abc import Collection
from dataclasses import dataclass

from .texts import DATA

PAPER_TABLES = DATA / "paper_tables"


@dataclass(frozen=True)
class Paper:
    """A paper that the notebooks cite.

    year and month are those of the arXiv number, or of publication where there is none; lesson holds the
    two-digit numbers of the notebooks.
    """

    key: str
    year: int
    month: int
    authors: str
    title: str
    venue: str
    arxiv: str
    lesson: tuple[str, ...]
    in_one_line: str


@dataclass(frozen=True)
class Cell:
    """One published value, with where it stands and its unit ("" where it has none)."""

    paper: str
    table: str
    row: str
    column: str
    value: float
    unit: str


def architectures() -> dict[str, dict]:
    """All of data/architectures.json by name.

    An entry holds family, config (as of a `config.json`), parameters (counted on the meta device), published
    (the number as the paper states it), source, and a note where the two differ for a reason.

    >>> architectures()["gpt3-175b"]["parameters"]
    174604259328
    """
    return copy.deepcopy(_entries("architectures"))


def architecture(name: str) -> dict:
    """The configuration of a published model, in the form of a transformers `config.json`.

    Raises KeyError for a name that is not in the catalogue, with those nearest to it.

    >>> architecture("llama2-70b")["num_key_value_heads"]
    8
    """
    return copy.deepcopy(_entry("architectures", name)["config"])


def gpus() -> dict[str, dict]:
    """All of data/gpus.json by name.

    An entry holds memory_gb (as sold; read as 1e9 bytes never more than the card has), memory_mib (as the
    driver reports it, 2^20 bytes), bandwidth_gb_s, peak_flops (dense, a second, by dtype: fp32, tf32, fp16,
    bf16, int8, fp8, where the card has it), bfloat16 (in hardware), compute_capability and source.

    >>> sorted(name for name, card in gpus().items() if not card["bfloat16"])
    ['T4', 'V100-32GB']
    """
    return copy.deepcopy(_entries("gpus"))


def gpu(name: str) -> dict:
    """One entry of `gpus`.

    Raises KeyError for a name that is not in the catalogue, with those nearest to it.

    >>> gpu("T4")["memory_gb"]
    16
    """
    return copy.deepcopy(_entry("gpus", name))


def papers() -> list[Paper]:
    """The rows of data/papers.csv, the oldest first.

    >>> [paper.title[:4] for paper in papers() if paper.arxiv == "2106.09685"]
    ['LoRA']
    """
    with (DATA / "papers.csv").open(encoding="utf8", newline="") as file:
        return [_paper(row) for row in csv.DictReader(file)]


def _paper(row: dict[str, str]) -> Paper:
    numbers = {"year": int(row["year"]), "month": int(row["month"])}
    return Paper(**row | numbers | {"lesson": tuple(row["lesson"].split())})


def paper_table(name: str) -> list[Cell]:
    """The cells of a table in the order of its file, which is the paper's.

    name: the paper and the number of the table, such as "hu2021_table6".

    Raises KeyError for a table that is not kept here, with those nearest to it.

    >>> [cell.value for cell in paper_table("hu2021_table6") if cell.row.startswith("QV") and cell.column == "WikiSQL"]
    [73.4, 73.3, 73.7, 73.8, 73.5]
    """
    return list(_cells(name))


def published(name: str, row: str, column: str) -> float:
    """One value of a table, in the unit that its cell names.

    Raises KeyError for a table, a row or a column that does not exist, with those that do.

    >>> published("hu2021_table4", "LoRA 4.7M", "MNLI-m") - published("hu2021_table4", "FT", "MNLI-m") > 2
    True
    """
    cells = _cells(name)
    in_row = {cell.column: cell.value for cell in cells if cell.row == row}
    if not in_row:
        raise KeyError(f"{name} has no row {row!r}; there are {', '.join(dict.fromkeys(cell.row for cell in cells))}")
    if column not in in_row:
        raise KeyError(f"row {row!r} of {name} has no column {column!r}; there are {', '.join(in_row)}")
    return in_row[column]


@functools.cache
def _entries(kind: str) -> dict[str, dict]:
    return json.loads((DATA / f"{kind}.json").read_text("utf8"))


def _entry(kind: str, name: str) -> dict:
    entries = _entries(kind)
    if name not in entries:
        raise KeyError(f"no {name!r} in data/{kind}.json; {_nearest(name, entries)}")
    return entries[name]


@functools.cache
def _cells(table: str) -> tuple[Cell, ...]:
    known = {path.stem: path for path in sorted(PAPER_TABLES.glob("*.csv"))}
    if table not in known:
        raise KeyError(f"no table {table!r} in data/paper_tables; {_nearest(table, known)}")
    with known[table].open(encoding="utf8", newline="") as file:
        return tuple(Cell(**row | {"value": float(row["value"])}) for row in csv.DictReader(file))


def _nearest(name: str, known: Collection[str]) -> str:
    """The names nearest to one that is not known, or all where none is near, for an error's message."""
    lower = {own.lower(): own for own in known}
    near = [lower[hit] for hit in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.5)]
    return f"nearest: {', '.join(near)}" if near else f"there are {', '.join(known)}"
