"""What notebook 07 promises beyond what holds for all notebooks."""

import copy
import math

import pytest
import torch
from lesson_cells import definition
from tiny_models import six_steps

from lessonlib.lora import add_lora


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
