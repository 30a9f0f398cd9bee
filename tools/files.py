"""Where the notebooks and the README are, and how a generated part of a page is written."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"


def paths(numbers: list[str] | None = None) -> list[Path]:
    """The notebooks that exist, or those of the given lessons.

    Raises FileNotFoundError for a lesson without a notebook, with those that exist.
    """
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not numbers:
        return found
    chosen = [path for path in found if path.name[:2] in numbers]
    if len(chosen) < len(numbers):
        raise FileNotFoundError(f"no notebook for {', '.join(numbers)}; there are {', '.join(p.name for p in found)}")
    return chosen


def write_between(name: str, text: str, page: Path = ROOT / "README.md") -> None:
    """Write a generated part of a page between its two marks, as `<!-- table -->` and `<!-- end of table -->`.

    Raises ValueError where the page does not have these marks, or has them twice.
    """
    marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    new, found = re.subn(marks, lambda m: f"{m[1]}{text}\n{m[2]}", page.read_text("utf8"), flags=re.S)
    if found != 1:
        raise ValueError(f"{page.name} has {found} places marked <!-- {name} --> … <!-- end of {name} -->, not one")
    page.write_text(new, "utf8")
