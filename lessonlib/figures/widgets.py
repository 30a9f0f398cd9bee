"""Pictures that follow a control, in core ipywidgets; where there is no front end, the first picture stands still."""

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
