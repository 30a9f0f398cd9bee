"""What notebook 07 promises beyond what holds for all notebooks."""

import copy
import math

import nbformat
import pytest
import torch
from torch.nn import functional as F

from lessonlib import notebooks
from lessonlib.lora import add_lora
from lessonlib.training import fit


class Tokens:
    """A batch of token numbers for a tiny model."""

    def __init__(self, ids):
        self.ids = ids

    def to(self, device):
        return Tokens(self.ids.to(device))


def next_token_loss(model, batch):
    logits = model(batch.ids).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten())


def definition():
    cells = nbformat.read(notebooks.paths(["07"])[0], as_version=4).cells
    return next(
        cell.source for cell in cells if "definition:lessonlib.lora:LoRALinear" in notebooks.tags(cell)
    )


def losses(source, model):
    """Losses of training with the class that the notebook's cell defines."""
    names = {"copy": copy, "math": math, "torch": torch, "nn": torch.nn}
    exec(source, names)
    torch.manual_seed(0)
    add_lora(model, ["q_proj", "v_proj"], r=2, alpha=4, layer=names["LoRALinear"])
    generator = torch.Generator().manual_seed(1)
    batches = [
        Tokens(torch.randint(0, model.config.vocab_size, (2, 8), generator=generator)) for _ in range(6)
    ]
    return fit(model, batches, learning_rate=1e-2, loss=next_token_loss).losses


@pytest.mark.parametrize(
    "line, edited",
    [
        ("self.scale = alpha / r", "self.scale = alpha"),
        ("self.scale = alpha / r", "self.scale = 0.0"),
        ("nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))", "nn.init.zeros_(self.A)"),
    ],
)
def test_an_edit_in_the_notebooks_own_class_changes_the_outcome(line, edited, tiny):
    source = definition()
    assert line in source
    before = losses(source, copy.deepcopy(tiny))
    assert losses(source, copy.deepcopy(tiny)) == before
    assert losses(source.replace(line, edited), copy.deepcopy(tiny)) != before
