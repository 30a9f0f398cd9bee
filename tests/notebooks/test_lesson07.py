"""What notebook 07 promises beyond what holds for all notebooks."""

import copy
import math
import re

import pytest
import torch
from lesson_cells import cells, definition
from tiny_models import six_steps

from lessonlib.evaluation import paired_difference
from lessonlib.experiments import lesson07_tasks as tasks
from lessonlib.experiments import lesson07_variants as variants
from lessonlib.experiments import rerun
from lessonlib.lora import add_lora
from lessonlib.runs import load_runs


def losses(source, model):
    """Losses of training with the class that the notebook's cell defines."""
    names = {"copy": copy, "math": math, "torch": torch, "nn": torch.nn}
    exec(source, names)
    torch.manual_seed(0)
    add_lora(model, ["q_proj", "v_proj"], r=2, alpha=4, layer=names["LoRALinear"])
    return six_steps(model)


@pytest.mark.parametrize(
    "line, edited",
    [
        ("self.scale = alpha / r", "self.scale = alpha"),
        ("self.scale = alpha / r", "self.scale = 0.0"),
        ("nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))", "nn.init.zeros_(self.A)"),
    ],
)
def test_an_edit_in_the_notebooks_own_class_changes_the_outcome(line, edited, tiny):
    source = definition("07", "LoRALinear")
    assert line in source
    before = losses(source, copy.deepcopy(tiny))
    assert losses(source, copy.deepcopy(tiny)) == before
    assert losses(source.replace(line, edited), copy.deepcopy(tiny)) != before


def test_every_lora_layer_that_the_notebook_adds_is_its_own_class_or_one_made_from_it():
    code = "\n".join(cell.source for cell in cells("07") if cell.cell_type == "code")
    calls = [line for line in code.splitlines() if re.search(r"\badd_lora\(\w", line) and "gpt2" not in line]
    given = [layer for line in calls for layer in re.findall(r"layer=(\w+)", line) or ["none"]]
    assert given.count("LoRALinear") >= 8 and set(given) <= {"LoRALinear", "kind"}
    assert "for kind, r in ((LoRALinear, 1), (Undivided, 1)" in code and "class Undivided(LoRALinear)" in code


def test_on_tickets_everything_beats_queries_and_values_alone_at_an_equal_number_of_parameters():
    recorded = {run.settings["variant"]: run for run in variants.variant_runs()}
    whole, narrow = recorded["LoRA"], recorded["queries, values"]
    assert abs(narrow.results["trainable"] / whole.results["trainable"] - 1) < 0.02
    assert paired_difference(whole.answers(), narrow.answers())[1] > 0


def test_all_seven_places_are_recorded_before_and_after():
    runs = tasks.task_runs()
    assert list(runs) == list(tasks.TASKS)
    for run in runs.values():
        assert len(tasks.before(run).predictions) == run.score["n"] >= 60


@pytest.mark.slow
def test_one_recorded_variant_comes_out_again():
    assert rerun(variants.digit_runs()["LoRA"][0].id).inside


@pytest.mark.robust
def test_one_recorded_place_comes_out_again():
    assert rerun(load_runs("looked_up", finder="the right one")[0].id).inside
