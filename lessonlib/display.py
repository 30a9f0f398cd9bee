"""One progress bar that leaves a single line behind.

In a notebook the bar is one output that is updated in place and stays as its final line: no widget, nothing on
stderr. In a terminal it is tqdm's ordinary bar on stdout. Where stdout is a file, only the final line is written.
"""

import io
import sys

from IPython import get_ipython
from IPython.display import TextDisplayObject, display
from tqdm.std import tqdm


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
        kwargs.setdefault(
            "bar_format", "{desc} {bar:24} {n_fmt}/{total_fmt} · {elapsed}<{remaining}{postfix}"
        )
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
