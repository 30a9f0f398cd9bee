"""Pictures that follow a control, in core ipywidgets; where there is no front end, the first picture stands still."""

import functools
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from .style import Picture


class Interactive:
    """A box of widgets, and the still that stands for it on GitHub, in print, and in the stored notebook."""

    def __init__(self, box: widgets.Widget, still: Picture):
        self.box, self.still = box, still

    def _repr_mimebundle_(self, include=None, exclude=None):
        data, metadata = self.still._repr_mimebundle_()
        return self.box._repr_mimebundle_() | data, metadata


def slider(name: str, values: Sequence, picture: Callable[[object], Picture], start) -> Interactive:
    """A slider over `values` above the picture of the chosen one. All are drawn at once, so that moving it is immediate."""
    drawn = {value: picture(value) for value in values}
    control = widgets.SelectionSlider(
        options=list(values),
        value=start,
        description=name,
        continuous_update=True,
        style={"description_width": "initial"},
    )
    image = widgets.HTML(drawn[start].html())

    def redraw(change):
        image.value = drawn[change["new"]].html()

    control.observe(redraw, names="value")
    return Interactive(widgets.VBox([control, image]), drawn[start])


def chooser(
    controls: dict[str, Sequence[str]], picture: Callable[..., Picture], start: Sequence[str]
) -> Interactive:
    """Drop-down lists above a picture of what they say. A picture is drawn when it is first asked for, and kept.

    controls: the options of each list by its label. picture: called with one option of each, in that order.
    """
    drawn = functools.cache(picture)
    lists = [
        widgets.Dropdown(
            options=list(options), value=first, description=name, style={"description_width": "initial"}
        )
        for (name, options), first in zip(controls.items(), start, strict=True)
    ]
    image = widgets.HTML(drawn(*start).html())

    def redraw(_):
        image.value = drawn(*(control.value for control in lists)).html()

    for control in lists:
        control.observe(redraw, names="value")
    rows = widgets.HBox(lists, layout={"flex_flow": "row wrap"})
    return Interactive(widgets.VBox([rows, image]), drawn(*start))
