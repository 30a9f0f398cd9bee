"""What notebook 06 promises beyond what holds for all notebooks."""

import copy

import pytest
import torch
from lesson_cells import cells, definition
from tiny_models import six_steps
from torch import nn
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.adapters import adapter_layers, add_adapters
from lessonlib.exercises import exercises
from lessonlib.experiments import lesson06_adapters as room
from lessonlib.experiments import rerun
from lessonlib.experiments.trials import chosen
from lessonlib.runs import load_runs


def losses(source, model):
    """Losses of training with the class that the notebook's cell defines."""
    names = {"torch": torch, "nn": nn, "F": F}
    exec(source, names)
    torch.manual_seed(0)
    add_adapters(model, m=4, module=names["Bottleneck"])
    return six_steps(model)


@pytest.mark.parametrize(
    "line, edited",
    [
        ("F.gelu(", "torch.tanh("),
        ("nn.init.zeros_(self.up.weight)", "nn.init.normal_(self.up.weight)"),
        ("return x + F.linear", "return F.linear"),
    ],
)
def test_an_edit_in_the_notebooks_own_class_changes_the_outcome(line, edited, tiny):
    source = definition("06", "Bottleneck")
    assert line in source
    before = losses(source, copy.deepcopy(tiny))
    assert losses(source, copy.deepcopy(tiny)) == before
    assert losses(source.replace(line, edited), copy.deepcopy(tiny)) != before


def test_every_adapter_that_the_notebook_adds_is_its_own_class():
    code = "\n".join(cell.source for cell in cells("06") if cell.cell_type == "code")
    calls = [line for line in code.splitlines() if "add_adapters(" in line or "read_adapters(" in line]
    assert len(calls) >= 6 and all("module=" in line for line in calls)


def test_the_learners_own_swap_is_what_changes_the_tasks(tiny):
    swap = exercises("06")["06.5"].reference
    places = dict(adapter_layers(add_adapters(tiny, m=4)))
    other = {path: nn.Identity() for path in places}
    first = swap(places, other)
    assert all(part.adapter is other[path] for path, part in adapter_layers(tiny))
    assert swap(places, first) == other


def test_every_width_got_the_same_number_of_trials():
    asked = [("houlsby", {"m": m, "task": "intent"}, room.RATES) for m in room.WIDTHS]
    for experiment, settings, rates in asked:
        trials = load_runs(experiment, seed=0, **settings, **room.TRAINING)
        tried = {run.settings["learning_rate"] for run in trials} - {room.TOO_HIGH}
        assert tried == set(rates), (experiment, settings)


def test_recorded_places_hold_the_same_number_of_parameters_within_a_percent():
    both, one = (
        load_runs(name, m=m, **room.TRAINING)[0].results["trainable"]
        for name, m in (("houlsby", 64), ("pfeiffer", 128))
    )
    assert abs(both / one - 1) < 0.01


def test_the_three_tasks_have_labels_in_the_tickets():
    for name, (labels, _) in room.TASKS.items():
        assert corpora.tickets("test").features[name].names == labels


@pytest.mark.robust
def test_one_recorded_point_falls_in_its_band_again():
    point = chosen("houlsby", m=8, task="intent", **room.TRAINING)[0]
    again = rerun(point.id)
    assert again.inside, again
