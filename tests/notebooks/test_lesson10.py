"""What notebook 10 promises beyond what holds for all notebooks."""

import ast
import re

import pytest
import torch
from lesson_cells import cells, definition
from tiny_models import Tokens, random_adapter, served, tiny_model
from torch import nn
from torch.nn import functional as F

from lessonlib.course.claims import claims
from lessonlib.evaluation import Accuracy
from lessonlib.experiments import find, rerun
from lessonlib.experiments import lesson10_deployment as room
from lessonlib.lora.merging import trim
from lessonlib.runs import load_runs
from lessonlib.serving.bank import LoRABank
from lessonlib.training.distillation import soft_target_loss

TOKENS = torch.randint(2, 512, (2, 6), generator=torch.Generator().manual_seed(0))


def defined(name: str, source: str | None = None, **known):
    """What one of the notebook's definition cells defines, with what it may rely on."""
    names = {"torch": torch, "nn": nn, "F": F, "trim": trim} | known
    exec(source or definition("10", name), names)
    return names[name]


def bank_outcome(source: str):
    adapters = [random_adapter(tiny_model(), seed) for seed in (1, 2)]
    bank = LoRABank(tiny_model(), adapters, layer=defined("BankedLinear", source))
    return served(bank, [0, 1], TOKENS)


def merge_outcome(source: str):
    updates = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    return defined("trim_elect_merge", source)(updates, 0.5, torch.ones(3))


def distilled_outcome(source: str):
    loss = defined(
        "distillation_loss",
        source,
        label_logits=lambda model, batch: model(batch.ids).logits[:, -1, :4],
        soft_target_loss=soft_target_loss,
    )
    batch = Tokens(TOKENS)
    batch.targets = torch.tensor([1, 3])
    return loss(tiny_model(1), batch, tiny_model(0))


@pytest.mark.parametrize(
    "name, outcome, line, edited",
    [
        ("BankedLinear", bank_outcome, "self.A[rows], self.B[rows]", "self.A[rows], self.B[rows].flip(0)"),
        ("BankedLinear", bank_outcome, "h = self.base(x)", "h = 2 * self.base(x)"),
        ("trim_elect_merge", merge_outcome, "kept.sum(0) >= 0", "kept.sum(0) <= 0"),
        ("trim_elect_merge", merge_outcome, "trim(update, density)", "update"),
        ("distillation_loss", distilled_outcome, "F.cross_entropy(z", "0 * F.cross_entropy(z"),
        (
            "distillation_loss",
            distilled_outcome,
            "weight * soft_target_loss",
            "0.5 * weight * soft_target_loss",
        ),
    ],
)
def test_an_edit_in_the_notebooks_own_cells_changes_the_outcome(name, outcome, line, edited):
    source = definition("10", name)
    assert source.count(line) == 1
    before = outcome(source)
    assert torch.equal(outcome(source), before)
    assert not torch.allclose(outcome(source.replace(line, edited)), before)


def test_the_notebook_uses_its_own_classes():
    code = "\n".join(cell.source for cell in cells("10") if cell.cell_type == "code")
    assert code.count("layer=BankedLinear") == code.count("LoRABank(") >= 3
    assert "import BankedLinear" not in code and "trim_elect_merge, " not in code
    assert "nearest(trim_elect_merge(" in code and "partial(distillation_loss, teacher=" in code


def test_every_cell_that_calls_the_engine_says_so_where_there_is_none():
    calls = [c.source for c in cells("10") if c.cell_type == "code" and re.search(r"\bengine\.\w+\(", c.source)]
    assert len(calls) >= 5
    for source in calls:  # what runs at once; a function is called by cells of its own
        functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
        assert "served(" in source or all(f.decorator_list or f.name == "under_load" for f in functions), source


def test_the_prose_counts_the_verdicts_as_they_stand():
    prose = "\n".join(c.source for c in cells("10") if c.cell_type == "markdown")
    counted = [one.verdict for one in claims().values()]
    assert counted.count("holds") / len(counted) < 1 / 3
    assert "fewer than a third" in " ".join(prose.split())


def test_experts_and_the_mixed_adapter_took_as_many_steps_and_as_many_trials():
    (experts,), mixed = load_runs("experts"), room.mixed()
    assert mixed.settings["steps"] == len(room.TASKS) * experts.settings["steps"]
    trials = [load_runs("one_adapter", tasks=tasks) for tasks in (["intent"], list(room.TASKS))]
    assert len(trials[0]) == len(trials[1]) == len(room.RATES)
    assert experts.settings["learning_rate"] == room.rate()
    stacks = load_runs("stacked_tasks")
    assert [(run.settings["seed"], run.settings["stack"]) for run in stacks] == [
        (seed, stack) for seed in room.SEEDS for stack in (False, True)
    ]
    assert {run.settings["learning_rate"] for run in stacks} == {room.rate()}


def test_the_recorded_scores_are_those_of_the_recorded_answers():
    (experts,) = load_runs("experts")
    for run in (experts, room.mixed()):
        assert Accuracy(run.score["predictions"], find(run.experiment).right_answers(run)).value == run.accuracy
    assert room.scored(experts.results["said"]["router, new words"]).value == experts.accuracy


@pytest.mark.robust
def test_one_recorded_point_falls_in_its_band_again():
    again = rerun(load_runs("one_adapter", tasks=["intent"], learning_rate=room.rate())[0].id)
    assert again.inside, again
