"""The figures of 10: the checks of tests/pictures.py, and what their descriptions say by hand arithmetic."""

from typing import ClassVar

import pytest
from pictures import PictureChecks
from widget_events import controls, shown

from lessonlib import figures
from lessonlib.corpora.published import papers
from lessonlib.serving.monitoring import Verdict
from lessonlib.serving.traffic import lru_hits, zipf

TRACE = zipf(12, 150, seed=0)
QUESTIONS = ("intent", "sentiment", "urgency")
NAMED = {"houlsby2019": "adapters", "hu2021": "LoRA", "dettmers2023": "QLoRA", "hinton2015": "distillation"}
WAYS = {
    "base": (21.0, 269.0),
    "unmerged adapter": (27.4, 272.1),
    "merged": (21.3, 269.0),
    "4 bits, unmerged": (63.0, 108.0),
}


def requests(clients: int = 16):
    """Requests of so many clients at once, each 0.3 to 1.1 seconds long."""
    names = ["base", "intent", "sentiment", "urgency", "intent-2"]
    return [
        (names[(i * 7) % 5], 0.4 * (i // clients), 0.4 * (i // clients) + 0.3 + 0.05 * (i % 17)) for i in range(96)
    ]


def scores(*values):
    return dict(zip(QUESTIONS, values))


def by_question(count: int = 11):
    names = (
        "three experts, right one each",
        "one adapter for all",
        "average",
        "sum",
        "TIES",
        "SVD of the sum",
    )
    ways = {f"{names[i % 6]} {'again' * (i > 5)}": scores(0.6 - 0.04 * i, 0.5, 0.68) for i in range(count)}
    return figures.by_question(ways)


def after():
    rows = [[0.6], [0.41, 0.55], [0.12, 0.5, 0.66]]
    return figures.after_each_task({"stacked": rows, "one adapter trains on": rows}, QUESTIONS)


def drift(shifted: float = 0.2):
    fair = [Verdict(0.02, 0.05, 0.4, False)] * 4
    return figures.drift({"fair": fair, "shifted": [Verdict(shifted, 0.05, 0.001, shifted > 0.05)] * 4})


PICTURES = {
    "traffic": lambda: figures.traffic(TRACE, lru_hits).still,
    "traffic, few": lambda: figures.traffic(TRACE[:30], lru_hits, held=(1, 2, 12), start=12).still,
    "requests": lambda: figures.requests_over_time(requests()),
    "requests, one client": lambda: figures.requests_over_time(requests(1)[:20]),
    "ways": lambda: figures.ways_to_serve(WAYS),
    "by question": by_question,
    "by question, few": lambda: by_question(4),
    "after each": after,
    "drift": drift,
    "no drift": lambda: drift(0.01),
    "timeline": lambda: figures.timeline(papers(), NAMED),
}


class TestPictures(PictureChecks):
    pictures: ClassVar = PICTURES
    figure_shown: ClassVar = {"traffic": 2, "traffic, few": 2}


def test_the_description_counts_what_had_to_be_loaded():
    # By hand: with one place every change of adapter is a load, with as many as there are only the first requests.
    trace = [0, 0, 1, 0, 2, 2]
    slider = figures.traffic(trace, lru_hits, held=(1, 3), start=1)
    assert "4 requests wait for a load" in slider.still.alt and "33 at 1, 50 at 3" in slider.still.alt


def test_the_slider_changes_the_picture():
    interactive = figures.traffic(TRACE, lru_hits, held=(2, 8), start=2)
    control, _ = controls(interactive)
    before = shown(interactive)
    control.value = 8
    assert shown(interactive) != before and "With 8 held" in shown(interactive)


def test_percentiles_are_those_of_the_requests():
    # A hundred requests of 1 to 100 seconds: numpy's linear percentiles are 50.5 and 95.05.
    picture = figures.requests_over_time([("base", 0.0, float(s)) for s in range(1, 101)])
    assert "Half are answered in 50.50 seconds, 95 of 100 in 95.05" in picture.alt


@pytest.mark.parametrize("distance, said", [(0.2, "shifted: 4 of 4 alarm"), (0.01, "shifted: 0 of 4 alarm")])
def test_alarms_are_counted(distance, said):
    assert said in drift(distance).alt and "fair: 0 of 4 alarm" in drift(distance).alt


def test_the_smallest_way_is_named():
    assert "Smallest is 4 bits, unmerged" in figures.ways_to_serve(WAYS).alt
