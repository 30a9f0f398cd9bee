"""One look for all figures, and pictures that carry their own description."""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), safe for colour-blind readers, ordered by lightness so that grey tells them apart.
INK, BLUE, VERMILION, SKY, YELLOW, GREY = "#222222", "#0072B2", "#C44E00", "#56B4E9", "#E69F00", "#6E6E6E"
OCHRE = "#8A5F00"  # yellow, dark enough for words: on white 5.6 to 1

# Lines that stay apart in grey: a colour with a mark and a dash of its own. The colour is the name's beside it as well.
LOOKS = tuple(zip((BLUE, VERMILION, GREY, OCHRE), ("o-", "s--", "^:", "D-.")))

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Picture:
    """A drawn figure with its description, shown by a cell that ends in it.

    draw(ax, *data) draws and returns the description, which becomes the image's alt text. With `columns`, ax is that
    many axes side by side.
    """

    def __init__(
        self, draw: Callable, *data, size: tuple[float, float] = (7.2, 3.8), columns: int = 1, dpi: int = 100
    ):
        with rc_context(STYLE):
            figure = Figure(figsize=size, layout="constrained", dpi=dpi)
            self.alt = draw(figure.subplots(1, columns), *data)
            buffer = io.BytesIO()
            # Not savefig: it draws everything twice, and a picture that follows a control has to be there at once.
            FigureCanvasAgg(figure).print_png(buffer)
        self.png = buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        encoded = base64.b64encode(self.png).decode()
        return {"image/png": encoded, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def html(self) -> str:
        """The picture as an <img> element, description included."""
        encoded = base64.b64encode(self.png).decode()
        alt = self.alt.replace("&", "&amp;").replace('"', "&quot;")
        return f'<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{encoded}">'


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved up where they are nearer than `gap`, so that names beside line ends do not meet."""
    moved, lowest = list(heights), -np.inf
    for i in np.argsort(heights, kind="stable"):
        moved[i] = lowest = max(heights[i], lowest)
        lowest += gap
    return moved


def listed(items: Sequence[str]) -> str:
    """A description's enumeration.

    >>> listed(["20 at 1", "34 at 8"])
    '20 at 1, 34 at 8'
    """
    return ", ".join(items)
