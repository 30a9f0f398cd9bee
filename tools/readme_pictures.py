"""The README's pictures: one a notebook, taken from its stored outputs, with the description that it has there."""

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lessonlib.course.session import lessons

from .files import ROOT, paths, write_between

DIRECTORY = ROOT / "docs" / "pictures"
MOST_BYTES = 80_000  # of one picture, so that the README loads at once

# The figure that stands for each notebook: the one to play with, or the one that its headline is read from.
CHOSEN = {
    "01": "cost_bars",
    "02": "shots_slider",
    "03": "prompt_toggles",
    "04": "chain_toggle",
    "05": "sparsity_slider",
    "06": "adapter_slider",
    "07": "rank_slider",
    "08": "cost_accuracy",
    "09": "bits_slider",
    "10": "traffic",
}


@dataclass(frozen=True)
class Shown:
    """A picture of the README: its lesson, its notebook, the bytes of the PNG, its description."""

    number: str
    notebook: Path
    png: bytes
    alt: str

    @property
    def file(self) -> Path:
        return DIRECTORY / f"{self.number}.png"

    def html(self) -> str:
        """The picture as a link to its notebook."""
        alt = html.escape(f"Notebook {self.number}, {lessons()[self.number]['title']}. {self.alt}")
        source = self.file.relative_to(ROOT).as_posix()
        return f'<a href="notebooks/{self.notebook.name}"><img src="{source}" width="49%" alt="{alt}"></a>'


def outputs_of(notebook, figure: str) -> Iterator[tuple[bytes, str]]:
    """(PNG, description) of what the cells that call figures.FIGURE show."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and f"figures.{figure}(" in cell.source:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    alt = output.metadata.get("image/png", {}).get("alt", "")
                    yield base64.b64decode(output.data["image/png"]), alt


def shown(path: Path) -> Shown:
    """The picture that stands for a notebook. LookupError where its figure is not there, ValueError where it is too large."""
    import nbformat

    number = path.name[:2]
    figure = CHOSEN[number]
    found = next(outputs_of(nbformat.read(path, as_version=4), figure), None)
    if found is None:
        raise LookupError(
            f"{path.name} shows no figures.{figure}: execute it, or choose another figure in {Path(__file__).name}"
        )
    if len(found[0]) > MOST_BYTES:
        raise ValueError(
            f"{path.name}: figures.{figure} has {len(found[0]):,} bytes, at most {MOST_BYTES:,} are for the README; "
            "draw it smaller or choose another"
        )
    return Shown(number, path, *found)


def finished() -> list[Path]:
    """The notebooks that the table counts as built."""
    return [path for path in paths() if lessons()[path.name[:2]]["built"]]


def readme_part() -> str:
    """What stands between the README's marks: the pictures, two in a row on a wide page."""
    return "\n".join(["<p>", *(shown(path).html() for path in finished()), "</p>"])


def write() -> None:
    """Write the pictures into docs/pictures, and their part of the README."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for path in finished():
        picture = shown(path)
        picture.file.write_bytes(picture.png)
    write_between("pictures", readme_part())
