"""docs/claims.md, made from data/claims.csv: `python -m tools.claims`."""

from collections import Counter
from pathlib import Path

from lessonlib.course.claims import KINDS, Claim, claims
from lessonlib.course.session import lessons
from lessonlib.experiments import experiments

PAGE = Path(__file__).parent.parent / "docs" / "claims.md"


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
        f"measured: {', '.join(f'`{name}`' for name in row.evidence.split())}"
        if row.evidence
        else "measured, live"
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def unknown_experiments(row: Claim) -> list[str]:
    """The names in a measured row's evidence that no experiment bears."""
    return [name for name in row.evidence.split() if name not in experiments()]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
