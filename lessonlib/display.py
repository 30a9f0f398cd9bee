"""What leaves a process: what a cell shows, and files that are written whole or not at all.

A cell shows one progress bar that leaves a single line behind, tables, lines that fit the page, numbers to draw.

In a notebook the bar is one output that is updated in place and stays as its final line: no widget, nothing on
stderr. In a terminal it is tqdm's ordinary bar on stdout. Where stdout is a file, only the final line is written.
"""

import contextlib
import errno
import html
import io
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from IPython import get_ipython
from IPython.display import TextDisplayObject, display
from tqdm.std import tqdm

PAGE = 92  # letters in a printed line: JupyterLab breaks longer ones in the middle of a word


def widget_view(box) -> dict[str, dict]:
    """What a cell's output holds so that a front end shows this box of widgets: its id, under the type of widgets.

    A widget can say so itself only since ipywidgets 8, and Colab stays at 7; both read this.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def to_numpy(values) -> np.ndarray:
    """A tensor's numbers, from whatever device and whether they train; bfloat16, unknown to numpy, comes as float32.

    An array or a list of numbers comes as an array. What a picture draws goes through here.
    """
    if not hasattr(values, "detach"):
        return np.asarray(values)
    here = values.detach().cpu()
    return (here.float() if here.is_floating_point() and here.itemsize < 4 else here).numpy()


# --- files ---------------------------------------------------------------------------------------------------

ASIDE = ".partial"  # how a name ends that is not whole yet, or that a process left behind which was killed at it


@contextlib.contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A place beside `path` for a file or a directory to be written; whole and on the disk, it takes that name in one step.

    Whoever reads finds the old one or the new one, whatever stops the process or the machine, and two processes that
    write one name do not meet. A directory that is there is put away first: for that moment there is none. Where the
    block raises, or the disk does, nothing of the new one stays. Raises OSError where it cannot be written.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{ASIDE}")
    old = aside.with_name(f"{aside.stem}-old{ASIDE}")
    try:
        yield aside
        synced(aside)
        if path.is_dir():
            path.replace(old)
        aside.replace(path)
        _sync(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for leftover in (aside, old):
            remove(leftover)


def synced(path: Path) -> Path:
    """The path, once the disk holds it, a directory with all that is in it: a name may outlive a power cut, and its
    content not. Raises OSError where the disk does not take it."""
    for part in [*(path.rglob("*") if path.is_dir() else ()), path]:
        _sync(part)
    return path


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # which cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as cause:
        # A file system that cannot, for a directory above all, is no disk that fails.
        if cause.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a directory, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


# --- cells ---------------------------------------------------------------------------------------------------


class _Line(TextDisplayObject):
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": self.data}


class Bar(tqdm):
    """A tqdm bar; in a notebook it writes to one display that it keeps updating."""

    def __init__(self, *args, **kwargs):
        shell = get_ipython()
        self._in_notebook = shell is not None and hasattr(shell, "kernel")
        self._handle = None
        # In a notebook all goes through `display`; what tqdm writes besides, a newline at the end, goes nowhere.
        kwargs.setdefault("file", io.StringIO() if self._in_notebook else sys.stdout)
        kwargs.setdefault("bar_format", "{desc} {bar:24} {n_fmt}/{total_fmt} · {elapsed}<{remaining}{postfix}")
        kwargs.setdefault("mininterval", 0.3)
        quiet = not self._in_notebook and not kwargs["file"].isatty()
        super().__init__(*args, **(kwargs | ({"mininterval": 1e9, "disable": True} if quiet else {})))

    def display(self, msg=None, pos=None):
        if not self._in_notebook:
            return super().display(msg, pos)
        line = _Line(self.__str__() if msg is None else msg)
        if self._handle is None:
            self._handle = display(line, display_id=True)
        else:
            self._handle.update(line)

    def finish(self, line: str) -> None:
        """Close the bar and leave `line` in its place."""
        if self._in_notebook:
            self.display(line)
            self.leave = True
            self.disable = True
            self.close()
        else:
            self.leave = False
            self.close()
            print(line, flush=True)


class Table:
    """Rows of text under named columns; the first column names the row.

    Raises ValueError for a row with more or fewer cells than there are columns.

    >>> Table(("card", "GB"), [("T4", "16"), ("A100", "80")])
    card | GB
    T4 | 16
    A100 | 80
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence]):
        self.columns, self.rows = tuple(columns), [tuple(map(str, row)) for row in rows]
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the row {row} has {len(row)} cells; the table has {len(self.columns)} columns")

    def __len__(self):
        return len(self.rows)

    def __repr__(self):
        return "\n".join(" | ".join(cells) for cells in (self.columns, *self.rows))

    def _repr_html_(self):
        def line(kind, cells):
            attributes = "style='text-align:left'" + (" scope='col'" if kind == "th" else "")
            return "".join(f"<{kind} {attributes}>{html.escape(cell)}</{kind}>" for cell in cells)

        body = "".join(f"<tr>{line('td', row)}</tr>" for row in self.rows)
        return f"<table><thead><tr>{line('th', self.columns)}</tr></thead><tbody>{body}</tbody></table>"
