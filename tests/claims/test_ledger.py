"""The ledger: every row has a kind, and its evidence bears it out."""

import csv
import importlib
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from evidence import EVIDENCE, claim
from lesson_cells import cells

from lessonlib.corpora import DATA
from lessonlib.course.claims import VERDICTS, Claim, _number, claims
from lessonlib.course.session import lessons
from lessonlib.experiments import experiments
from tools import claims as tool
from tools.claims import KINDS, EvidenceError, cited_value

# Lessons whose rows have moved from their notebook to a file claimsNN beside this one.
MOVED = sorted(path.stem.removeprefix("claims") for path in Path(__file__).parent.glob("claims[0-9]*.py"))
for number in MOVED:
    importlib.import_module(f"claims{number}")
ROWS = list(claims().values())


def of_kind(*kinds):
    return pytest.mark.parametrize("row", [row for row in ROWS if row.kind in kinds], ids=lambda row: row.id)


def agrees(value, stated: str, row: Claim) -> bool:
    return math.isclose(float(value), float(stated), rel_tol=1e-12, abs_tol=float(row.tolerance or 0))


def unknown_experiments(row: Claim) -> list[str]:
    """The names in a measured row's evidence that no experiment bears."""
    return [name for name in row.evidence.split() if name not in experiments()]


def settled(number: str) -> set[str]:
    """The ids that a notebook settles by itself."""
    code = "\n".join(cell.source for cell in cells(number) if cell.cell_type == "code")
    return set(re.findall(r'settle\(\s*"(C\d{3})"', code))


def test_every_row_has_its_fields():
    with (DATA / "claims.csv").open(encoding="utf8", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == sorted(set(ids)) and len(ids) == len(ROWS) == 223
    for row in ROWS:
        assert row.verdict in VERDICTS and row.kind in KINDS, row.id
        assert re.fullmatch("0[1-9]|10", row.notebook) and row.claim and row.source, row.id
        assert (row.tolerance != "") == (_number(row.correct) is not None), f"{row.id}: a number has a tolerance"


def test_a_wrong_row_has_something_else_than_what_is_stated():
    for row in ROWS:
        if row.verdict == "wrong" and _number(row.correct) is not None and _number(row.stated) is not None:
            assert not agrees(row.correct, row.stated, row), row.id


@pytest.mark.parametrize("id", sorted(EVIDENCE))
def test_the_evidence_gives_what_the_row_calls_right(id):
    row, value = claims()[id], EVIDENCE[id]()
    assert row.kind in ("computed", "measured") and row.notebook in MOVED
    if _number(row.correct) is None:
        assert value is True or (value is not False and bool(value) and not isinstance(value, float | int))
    else:
        assert agrees(value, row.correct, row), f"{id}: {value}, the row says {row.correct}"


@of_kind("computed", "measured")
def test_a_row_that_can_be_computed_has_its_evidence(row):
    if row.notebook in MOVED:
        assert row.id in EVIDENCE, f"write its evidence into tests/claims/claims{row.notebook}.py"
    else:
        assert row.id in settled(row.notebook), f"notebook {row.notebook} does not settle it"


@of_kind("measured")
def test_a_measured_row_names_experiments_that_there_are(row):
    assert unknown_experiments(row) == []
    assert row.evidence or row.notebook not in MOVED, "a row that has moved names its recorded runs"


@of_kind("cited")
def test_a_cited_row_names_what_is_kept_and_agrees_with_it(row):
    value = cited_value(row)
    assert row.evidence and (value is None or agrees(value, row.correct, row)), value


@of_kind("computed", "open")
def test_what_is_computed_or_open_cites_nothing(row):
    assert row.evidence == ""


def test_an_open_row_claims_no_more_than_it_knows():
    for row in ROWS:
        if row.kind == "open":
            assert row.verdict in ("unverifiable", "rule of thumb", "inconsistent", "misleading"), row.id


@pytest.mark.parametrize("number", MOVED)
def test_a_notebook_whose_rows_have_moved_settles_none(number):
    assert settled(number) == set()
    assert "claims" not in "\n".join(cell.source for cell in cells(number) if cell.cell_type == "code")


def test_no_claim_is_settled_twice_or_in_another_notebook():
    for number in lessons():
        found = settled(number)
        assert all(claims()[id].notebook == number for id in found)
    counts = Counter(
        id
        for number in lessons()
        for cell in cells(number)
        if cell.cell_type == "code"
        for id in re.findall(r'settle\(\s*"(C\d{3})"', cell.source)
    )
    assert not [id for id, count in counts.items() if count > 1]


def test_the_page_is_fresh():
    assert tool.PAGE.read_text("utf8") == tool.page(), "run `make claims`"


# --- the checks themselves can say no --------------------------------------------------------------------------------


def row(**fields) -> Claim:
    given = dict.fromkeys(Claim.__dataclass_fields__, "") | {"id": "C999", "kind": "cited", "tolerance": "0"}
    return Claim(**given | fields)


@pytest.mark.parametrize(
    "evidence, words",
    [
        ("= [hu2021_table4|LoRA 4.7M|nothing]", "no column 'nothing'"),
        ("= [hu2021_table99|FT|WikiSQL]", "no table 'hu2021_table99'"),
        ("nobody2021", "no paper 'nobody2021'"),
        ("= __import__('os')", "is no arithmetic"),
    ],
)
def test_evidence_that_is_not_there_is_named(evidence, words):
    with pytest.raises(EvidenceError, match=f"C999: .*{re.escape(words)}"):
        cited_value(row(evidence=evidence))


def test_a_formula_is_computed_over_cells():
    # 73.4 / 73.8 as Hu et al. print them.
    formula = "= 100 * [hu2021_table4|LoRA 4.7M|WikiSQL] / [hu2021_table4|FT|WikiSQL]"
    assert cited_value(row(evidence=formula)) == pytest.approx(100 * 73.4 / 73.8)


def test_evidence_stands_once():
    with pytest.raises(ValueError, match="C095 has evidence already, by frozen_matrices_of_a_layer"):
        claim("C095")(print)


def test_an_unknown_experiment_is_named():
    assert unknown_experiments(row(kind="measured", evidence="houlsby houlsbi")) == ["houlsbi"]


@pytest.mark.parametrize(
    "id, slip",
    # Slips that the two lessons made, or that are easy to make: one adapter a layer; BERT's adapters over GPT-3's size;
    # BERT-large's file for GPT-3; the merged weight without alpha / r; a base counted in 16 bits, and their like.
    [
        ("C101", 0.93), ("C097", 0.004), ("C105", 25), ("C104", 88.0), ("C094", 1), ("C098", 0),
        ("C054", 0.81), ("C049", 0.01), ("C042", 1), ("C053", 5), ("C051", 3.2),
        ("C118", 1), ("C134", 64), ("C206", 10), ("C124", 10), ("C119", 0.5), ("C208", 1),
        ("C139", 6_300_000), ("C140", 4_700_000), ("C141", 77_000), ("C144", 5_000), ("C178", 0.01), ("C146", 0.003),
        ("C142", 20), ("C159", 4), ("C161", 16), ("C163", 18_874_368), ("C164", 24), ("C158", 8), ("C185", 4096),
        ("C162", 65e9), ("C220", 2), ("C172", 5), ("C188", 2021), ("C189", 2024), ("C173", 78.7), ("C176", 0),
    ],
)  # fmt: skip
def test_a_slip_is_not_what_the_row_calls_right(id, slip):
    assert not agrees(slip, claims()[id].correct, claims()[id])
