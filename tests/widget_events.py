"""A figure with controls as a front end sees it: what can be moved, moving it, and what is shown then."""

import html
import re

import ipywidgets as widgets

CONTROLS = (widgets.Dropdown, widgets.SelectionSlider, widgets.RadioButtons)


def inside(widget):
    """A widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def controls(figure) -> list:
    """What can be moved now; answering a question of the tree changes what can be answered next."""
    return [widget for widget in inside(figure.box) if isinstance(widget, CONTROLS)]


def state(figure) -> tuple[int, ...]:
    return tuple(control.index for control in controls(figure))


def move(figure, which: int, index: int) -> None:
    controls(figure)[which].set_state({"index": index})  # as a front end sends it


def shown(figure) -> str:
    """The picture that is seen, as HTML."""
    return next(w.value for w in inside(figure.box) if isinstance(w, widgets.HTML) and "<img" in w.value)


def description(figure) -> str:
    return html.unescape(re.search(r'alt="([^"]*)"', shown(figure))[1])


def positions(figure) -> list[tuple[int, int]]:
    """Each option of each control that is there now."""
    return [(i, index) for i, control in enumerate(controls(figure)) for index in range(len(control.options))]
