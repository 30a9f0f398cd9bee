"""The figures with controls, moved over their whole range in any order, as a front end moves them."""

import asyncio
import functools
import inspect
import random
import statistics
import time

import pytest
from interactive_figures import INTERACTIVE
from widget_events import controls, description, move, positions, shown, state

from lessonlib import figures
from lessonlib.figures import Picture
from lessonlib.figures.widgets import WhenIdle, chooser, slider

each = pytest.mark.parametrize("name", list(INTERACTIVE))


@functools.cache
def built(name: str):
    return INTERACTIVE[name]()


@each
@pytest.mark.slow
def test_every_position_of_every_control_shows_a_picture_with_words(name):
    figure, which = built(name), 0
    while which < len(controls(figure)):  # the tree has more, or fewer, after an answer
        seen = set()
        for index in range(len(controls(figure)[which].options)):
            move(figure, which, index)
            assert state(figure)[which] == index
            assert len(description(figure)) >= 40 and "nan" not in description(figure)
            seen.add(shown(figure))
        assert len(seen) >= 2, f"control {which} of {name} changes nothing"
        which += 1


@each
@pytest.mark.slow
def test_any_sequence_of_events_ends_with_the_picture_of_what_is_chosen(name):
    """The way to a choice leaves no trace: the same choice is the same picture, whatever was moved before it."""
    figure, draw, first = built(name), random.Random(20), {}
    for _ in range(120):
        move(figure, *draw.choice(positions(figure)))
        assert shown(figure) == first.setdefault(state(figure), shown(figure))
    assert len(first) >= 3
    assert len(set(first.values())) >= 3


@each
@pytest.mark.slow
def test_a_fresh_figure_moved_straight_to_a_choice_shows_the_same(name):
    moved, draw = built(name), random.Random(21)
    for _ in range(12):
        move(moved, *draw.choice(positions(moved)))
    straight = INTERACTIVE[name]()
    for which, index in enumerate(state(moved)):
        move(straight, which, index)
    assert state(straight) == state(moved)
    assert shown(straight) == shown(moved)


@each
def test_the_still_is_the_picture_that_the_controls_begin_with(name):
    figure = INTERACTIVE[name]()
    assert figure.still.alt == description(figure)


@each
def test_an_option_that_does_not_exist_changes_nothing(name):
    figure = built(name)
    before = state(figure), shown(figure)
    for which in range(len(controls(figure))):
        for index in (-1, 10_000):
            with pytest.raises(Exception, match=r"[Ii]nvalid|range"):
                move(figure, which, index)
    assert (state(figure), shown(figure)) == before


@each
def test_a_picture_that_is_there_is_shown_in_less_than_a_tenth_of_a_second(name):
    figure, which, seconds = built(name), 0, []
    while which < len(controls(figure)):
        ends = (0, len(controls(figure)[which].options) - 1)
        for index in ends:  # from here on both are there
            move(figure, which, index)
        for index in ends * 3:
            began = time.thread_time()
            move(figure, which, index)
            seconds.append(time.thread_time() - began)
        which += 1
    assert statistics.median(seconds) < 0.1


# --- at once ---------------------------------------------------------------------------------------------------------


@each
@pytest.mark.slow
def test_after_a_moment_of_rest_no_picture_is_drawn_while_the_learner_waits(name, monkeypatch):
    """Whatever is one choice away is there before it is asked for."""
    drawings = []

    def draw_quickly(self, draw, *data, **size):
        drawings.append(data)
        self.alt, self.png = "", b""

    monkeypatch.setattr(Picture, "__init__", draw_quickly)

    async def play():
        figure, draw = INTERACTIVE[name](), random.Random(22)
        for _ in range(6):
            await asyncio.sleep(0.2)
            drawings.clear()
            move(figure, *draw.choice(positions(figure)))
            assert drawings == []

    asyncio.run(play())


def test_a_chooser_draws_ahead_what_is_one_choice_away_and_nothing_twice():
    asked = []

    def picture(*choice):
        asked.append(choice)
        return Picture(lambda ax: f"A picture of {choice}, of which nothing else is worth saying, 1.")

    async def play():
        made = chooser({"a": ["x", "y"], "b": ["1", "2", "3"]}, picture, start=["x", "1"])
        assert asked == [("x", "1")]
        await asyncio.sleep(1)
        assert sorted(asked) == [("x", "1"), ("x", "2"), ("x", "3"), ("y", "1")]
        made.box.children[0].children[0].value = "y"
        await asyncio.sleep(1)
        assert len(asked) == len(set(asked)) == 6

    asyncio.run(play())


def test_new_work_ahead_replaces_the_old():
    done = []

    async def play():
        ahead = WhenIdle()
        ahead(lambda i=i: (time.sleep(0.01), done.append(("old", i))) for i in range(100))
        await asyncio.sleep(0.1)
        ahead(lambda i=i: done.append(("new", i)) for i in range(3))
        await asyncio.sleep(0.3)

    asyncio.run(play())
    names = [name for name, _ in done]
    assert 1 <= names.count("old") < 50 and names[-3:] == ["new"] * 3 and names.count("new") == 3


def test_a_script_draws_nothing_ahead():
    asked = []

    def picture(way):
        asked.append(way)
        return Picture(lambda ax: f"A picture of the way {way}, of which nothing else is worth saying.")

    chooser({"way": ["a", "b"]}, picture, start=["a"])
    assert asked == ["a"]


def test_a_slider_has_drawn_everything_before_it_is_moved():
    asked = []

    def picture(value):
        asked.append(value)
        return Picture(lambda ax: f"A picture of the value {value}, of which nothing else is worth saying.")

    made = slider("value", [1, 2, 3], picture, start=2)
    assert sorted(asked) == [1, 2, 3]
    for value in (1, 3, 2):
        made.box.children[0].children[1].value = value
    assert len(asked) == 3


def test_an_answer_leaves_the_question_where_it_is():
    """Whoever walks the tree by keyboard keeps the place that has the focus."""
    figure = built("decision tree")
    answers = controls(figure)[0]
    for index in (1, 0, 2):
        move(figure, 0, index)
        assert controls(figure)[0] is answers


def test_list_and_slider_say_the_same():
    figure = built("shots")
    listed, moved = controls(figure)
    for which, index in ((0, 1), (1, 3), (0, 0), (1, 0), (0, 5)):
        move(figure, which, index)
        assert listed.index == moved.index == index


def test_every_builder_of_the_library_that_makes_controls_is_played_with_here():
    """A new figure with controls has to be added to tests/interactive_figures.py."""
    makers = {"slider(", "chooser(", "_Walk("}
    found = {
        name
        for name, one in vars(figures).items()
        if inspect.isfunction(one) and any(maker in inspect.getsource(one) for maker in makers)
    }
    assert len(found) == len(INTERACTIVE), sorted(found)


@pytest.mark.slow
def test_a_kernel_draws_ahead_between_two_cells():
    from jupyter_client.manager import run_kernel

    build = """
        from lessonlib.figures import Picture
        from lessonlib.figures.widgets import chooser
        asked = []
        def picture(way):
            asked.append(way)
            return Picture(lambda ax: f"A picture of the way {way}, of which nothing else is worth saying.")
        made = chooser({"way": ["a", "b", "c"]}, picture, start=["a"]); print(len(asked))
    """
    with run_kernel(kernel_name="python3") as client:
        printed = []
        for source in (inspect.cleandoc(build), "print(len(asked))"):
            client.execute_interactive(
                source,
                timeout=60,
                output_hook=lambda message: printed.append(message["content"].get("text", "")),
            )
            time.sleep(1.5)
    assert [int(text) for text in printed if text.strip().isdigit()] == [1, 3]
