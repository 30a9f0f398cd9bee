"""The report on a tuned model: its checks, figures and origin, as a table in a notebook and as two files on disk."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lessonlib.display import Table, written_aside

# The nine lines of the list, and how the names begin of the checks that answer each.
CHECKLIST = {
    "a quality threshold, set before the start": ("threshold stated first", "quality on held-out texts"),
    "training, validation and test apart": ("no test text in training",),
    "the base measured on the task": ("better than the base",),
    "trained, and judged on validation": ("validation agrees with test",),
    "full fine-tuning compared, where quality falls short": ("full fine-tuning considered",),
    "the merged model answers as the adapter does": ("merged",),
    "nothing lost on other tasks": ("no regression",),
    "loaded and switched as in production": ("adapter reloads", "base comes back", "served by the adapter"),
    "watched after deployment": ("drift watch armed",),
}


class ReportError(ValueError):
    """A report cannot be made or read; the message says why and what would do."""


@dataclass(frozen=True)
class Check:
    """One line of the list: its name, whether it holds, the figure that was found, and what was expected."""

    name: str
    passed: bool
    figure: str
    expected: str

    def __repr__(self):
        return f"{'passed' if self.passed else 'FAILED'}: {self.name}: {self.figure} (expected {self.expected})"


@dataclass
class Report:
    """The checks of one model, with where it comes from; a table in a notebook, two files on disk.

    facts: figures without a verdict, such as seconds of training. found: what `provenance` returned.

    >>> Report("Tickets", [Check("size", True, "9 bytes", "at most 10")])
    Tickets: 1 of 1 checks passed
    check | passed | figure | expected
    size | yes | 9 bytes | at most 10
    """

    title: str
    checks: list[Check] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    found: dict[str, object] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there are checks and all hold."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def headline(self) -> str:
        held = len(self.checks) - len(self.failures)
        return f"{self.title}: {held} of {len(self.checks)} checks passed"

    def table(self) -> Table:
        rows = [(c.name, "yes" if c.passed else "NO", c.figure, c.expected) for c in self.checks]
        return Table(("check", "passed", "figure", "expected"), rows)

    def checklist(self) -> Table:
        """The nine lines of CHECKLIST, each with how many of its checks passed; one that nobody checked is not done."""
        rows = []
        for line, names in CHECKLIST.items():
            found = {name: [c for c in self.checks if c.name.startswith(name)] for name in names}
            checks = [check for own in found.values() for check in own]
            held = sum(check.passed for check in checks)
            done = all(found.values()) and held == len(checks)
            rows.append(
                (
                    line,
                    "yes" if done else "NO",
                    f"{held} of {len(checks)} checks" if checks else "not checked",
                )
            )
        return Table(("line", "done", "by"), rows)

    def __repr__(self):
        return f"{self.headline}\n{self.table()}"

    def _repr_html_(self):
        return f"<p>{self.headline}</p>{self.table()._repr_html_()}"

    def markdown(self) -> str:
        """The report as a page: checks, figures, and where everything comes from."""
        lines = [f"# {self.headline}"]
        for heading, table in (("Checks", self.table()), ("The list, line by line", self.checklist())):
            lines += ["", f"## {heading}", "", *_markdown_table(table.columns, table.rows)]
        if self.facts:
            lines += ["", "## Figures", "", *_markdown_table(("what", "figure"), self.facts.items())]
        if self.found:
            lines += [
                "",
                "## Versions and hashes",
                "",
                *_markdown_table(("what", "value"), _flat(self.found)),
            ]
        return "\n".join(lines) + "\n"

    def write(self, directory: str | Path) -> list[Path]:
        """Write report.json and report.md into a directory; earlier ones of these names are replaced. Returns both."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "title": self.title,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }
        content |= {"facts": self.facts, "found": self.found}
        files = {
            "report.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
            "report.md": self.markdown(),
        }
        for name, text in files.items():
            with written_aside(directory / name) as aside:
                aside.write_text(text, "utf8")
        return [directory / name for name in files]

    @classmethod
    def read(cls, directory: str | Path) -> "Report":
        """The report that `write` left in a directory. Raises ReportError where there is none or it is damaged."""
        path = Path(directory) / "report.json"
        try:
            content = json.loads(path.read_text("utf8"))
            checks = [Check(**check) for check in content["checks"]]
            return cls(content["title"], checks, content["facts"], content["found"])
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ReportError(f"{path} is no report ({cause}): write it again with Report.write") from cause


def _markdown_table(columns: Sequence[str], rows) -> list[str]:
    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(columns), line("---" for _ in columns), *map(line, rows)]


def _flat(found: dict, before: str = "") -> list[tuple[str, object]]:
    rows = []
    for name, value in found.items():
        rows += _flat(value, f"{before}{name} · ") if isinstance(value, dict) else [(before + name, value)]
    return rows
