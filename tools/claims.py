"""docs/claims.md, made from data/claims.csv: `python -m tools.claims`."""

import re
from collections import Counter
from pathlib import Path

from lessonlib.corpora.published import papers, published
from lessonlib.course.claims import Claim, claims
from lessonlib.course.session import lessons

PAGE = Path(__file__).parent.parent / "docs" / "claims.md"

KINDS = {
    "computed": "a test computes it (tests/claims), or the notebook does until it is rewritten",
    "measured": "a recorded run says it, or the notebook measures it at every execution",
    "cited": "a paper says it: the cells of data/paper_tables, or the paper of data/papers.csv",
    "open": "no source was found, and nothing here bears on it",
}


class EvidenceError(ValueError):
    """A row of data/claims.csv names evidence that is not there."""


def page() -> str:
    """The whole page."""
    rows = list(claims().values())
    kinds, verdicts = Counter(row.kind for row in rows), Counter(row.verdict for row in rows)
    lines = [
        "# The ledger of claims",
        "",
        "Generated from data/claims.csv by `make claims`; a test says when it is stale.",
        "",
        f"The course grew out of two lessons on adapting language models. They make {len(rows)} claims that can be "
        "checked. Each stands here with a verdict, what is right, how that is known, and the source.",
        "",
        "Verdicts: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()) + ".",
        "",
        "| kind | rows | what it means |",
        "| --- | --- | --- |",
        *(f"| {kind} | {kinds[kind]} | {meaning} |" for kind, meaning in KINDS.items()),
    ]
    for number, lesson in lessons().items():
        mine = [row for row in rows if row.notebook == number]
        if mine:
            lines += ["", f"## {number} {lesson['title']}", "", *_table(mine)]
    return "\n".join(lines) + "\n"


def _table(rows: list[Claim]) -> list[str]:
    head = [
        "| id | claim | stated | verdict | right | kind | source |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return head + ["| " + " | ".join(map(_escaped, _cells(row))) + " |" for row in rows]


def _cells(row: Claim) -> tuple[str, ...]:
    return row.id, row.claim, row.says, row.verdict, row.right, _kind(row), row.source


def _kind(row: Claim) -> str:
    """The kind, with the experiments whose recorded runs say it."""
    if row.kind != "measured":
        return row.kind
    return (
        f"measured: {', '.join(f'`{name}`' for name in row.evidence.split())}" if row.evidence else "measured, live"
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


CELL = re.compile(r"\[([^|\]]+)\|([^|\]]+)\|([^\]]+)\]")


def cited_value(claim: Claim) -> float | None:
    """The figure that a cited row's formula gives: "= 100 * [table|row|column] / [table|row|column]".

    None where its evidence is a list of cells and papers, without a formula. Raises EvidenceError for a cell or a paper
    that is not kept here.
    """
    values = [_cell(claim, *match) for match in CELL.findall(claim.evidence)]
    if claim.evidence.startswith("="):
        formula = CELL.sub(lambda _: repr(values.pop(0)), claim.evidence.removeprefix("="))
        if not re.fullmatch(r"[\d.e+\-*/() ]+", formula):
            raise EvidenceError(f"{claim.id}: {claim.evidence!r} is no arithmetic over cells")
        return float(eval(formula))  # digits and operators alone, by the line above
    keys = {paper.key for paper in papers()}
    for part in filter(None, (part.strip() for part in CELL.sub("", claim.evidence).split(";"))):
        if part not in keys and not part.startswith("document: "):
            raise EvidenceError(f"{claim.id}: no paper {part!r} in data/papers.csv")
    return None


def _cell(claim: Claim, table: str, row: str, column: str) -> float:
    try:
        return published(table, row, column)
    except KeyError as cause:
        raise EvidenceError(f"{claim.id}: {cause.args[0]}") from None


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
