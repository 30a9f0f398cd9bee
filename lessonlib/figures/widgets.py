"""Pictures that follow a control, in core ipywidgets; where there is no front end, the first picture stands still."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import ipywidgets as widgets

from lessonlib.display import widget_view

from .style import Picture


class Interactive:
    """A box of widgets, and the still that stands for it on GitHub, in print, and in the stored notebook."""

    def __init__(self, box: widgets.Widget, still: Picture):
        self.box, self.still = box, still

    def _repr_mimebundle_(self, include=None, exclude=None):
        data, metadata = self.still._repr_mimebundle_()
        return widget_view(self.box) | data, metadata


def _list(name: str, options: Sequence, start, **settings) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=list(options),
        value=start,
        description=name,
        style={"description_width": "initial"},
        **settings,
    )


def slider(name: str, values: Sequence, picture: Callable[[object], Picture], start) -> Interactive:
    """A slider over `values` above the picture of the chosen one. All are drawn at once, so that moving it is immediate.

    Beside it a list chooses the same: a screen reader finds no name on a slider's handle, and one on a list.
    """
    drawn = {value: picture(value) for value in values}
    chosen = _list(name, values, start, layout={"width": "max-content"})
    moved = widgets.SelectionSlider(options=list(values), value=start, readout=False, tooltip=name)
    widgets.link((chosen, "index"), (moved, "index"))
    image = widgets.HTML(drawn[start].html())

    def redraw(change):
        image.value = drawn[change["new"]].html()

    moved.observe(redraw, names="value")
    return Interactive(widgets.VBox([widgets.HBox([chosen, moved]), image]), drawn[start])


class WhenIdle:
    """Does jobs one by one while the kernel waits for its next message, so that what is asked for next is there already.

    A script has no event loop, and no reader who waits: there nothing is done ahead.
    """

    def __init__(self):
        self.jobs: Iterator[Callable] = iter(())

    def __call__(self, jobs: Iterable[Callable[[], object]]) -> None:
        """Do these from now on, and no others."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self.jobs = mine = iter(jobs)

        def work():
            end = time.monotonic() + 0.02
            while mine is self.jobs and time.monotonic() < end:
                if (job := next(mine, None)) is None:
                    return
                job()
            loop.call_later(0.02, work)  # lets a message in between

        loop.call_later(0.02, work)


def chooser(controls: dict[str, Sequence[str]], picture: Callable[..., Picture], start: Sequence[str]) -> Interactive:
    """Drop-down lists above a picture of what they say. What is one choice away is drawn while nobody waits, and kept.

    controls: the options of each list by its label. picture: called with one option of each, in that order.
    """
    drawn, ahead = functools.cache(picture), WhenIdle()
    lists = [_list(name, options, first) for (name, options), first in zip(controls.items(), start, strict=True)]
    image = widgets.HTML()

    def redraw(_=None):
        chosen = tuple(control.value for control in lists)
        image.value = drawn(*chosen).html()
        ahead(
            functools.partial(drawn, *chosen[:i], option, *chosen[i + 1 :])
            for i, control in enumerate(lists)
            for option in control.options
        )

    for control in lists:
        control.observe(redraw, names="value")
    redraw()
    rows = widgets.HBox(lists, layout={"flex_flow": "row wrap"})
    return Interactive(widgets.VBox([rows, image]), drawn(*start))
