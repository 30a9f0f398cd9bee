"""What notebook 08 promises beyond what holds for all notebooks."""

import dataclasses
import re

import pytest
import torch
from lesson_cells import cells, definition
from tiny_models import next_token_loss, tiny_model

from lessonlib import choosing
from lessonlib.choosing import TREE, Question, Recommendation, Situation, leaves
from lessonlib.exercises import exercises
from lessonlib.experiments import lesson08_methods as room
from lessonlib.experiments import rerun
from lessonlib.experiments.lesson08_tables import recorded, score
from lessonlib.figures.lesson08 import front
from lessonlib.runs import load_runs

CODE = "\n".join(cell.source for cell in cells("08") if cell.cell_type == "code")


def decided(source: str, situation: Situation) -> Recommendation:
    """What the notebook's own function advises."""
    names = {name: getattr(choosing, name) for name in ("TREE", "Question", "Recommendation", "Situation")}
    exec(source, names)
    return names["decide"](situation)


@pytest.mark.parametrize(
    "line, edited",
    [("getattr(situation, node.asks)", "0 if node.asks == 'examples' else getattr(situation, node.asks)")],
)
def test_an_edit_in_the_notebooks_own_decision_changes_the_advice(line, edited):
    source, situation = definition("08", "decide"), Situation(500)
    assert line in source
    assert decided(source, situation) == choosing.decide(situation)
    assert decided(source.replace(line, edited), situation).advice != choosing.decide(situation).advice


def test_the_notebook_draws_the_tree_by_its_own_decision():
    assert "figures.decision_tree(decide(" in CODE and not re.search(r"import .*\bdecide\b", CODE)
    assert isinstance(TREE, Question) and len(list(leaves())) > 10


def test_the_ten_cases_get_at_least_six_kinds_of_advice():
    cell = next(cell.source for cell in cells("08") if cell.source.startswith("cases = {"))
    names = {}
    exec(cell.partition("Table(")[0], names)
    advised = {choosing.recommend(**facts).advice.what for facts in names["cases"].values()}
    assert len(names["cases"]) == 10 and len(advised) >= 6


def test_what_the_learner_writes_is_what_the_notebook_asks():
    assert "keep=not_beaten" in CODE and "paired_interval(lora, full)" in CODE
    assert "honest_score(trials)" in CODE and "step_with_masters(weights, masters, optimizer) if with_masters" in CODE


def test_the_reference_of_the_front_is_the_pictures_own():
    ways = {"a": (0, 0.5), "b": (9, 0.6), "c": (1, 0.6), "d": (5, 0.8), "e": (9, 0.8)}
    assert sorted(exercises("08")["08.3"].reference(ways)) == sorted(front(ways))


def test_the_reference_of_the_paired_interval_agrees_with_the_librarys():
    from lessonlib.experiments.lesson08_tables import text_interval

    torch.manual_seed(0)
    a, b = torch.rand(200).round(), torch.rand(200).round()
    ours, theirs = exercises("08")["08.2"].reference(a, b), text_interval((a - b).numpy())
    assert ours == pytest.approx(theirs, abs=0.02)


def steps_in_bfloat16(with_masters: bool, rate: float = 3e-5) -> float:
    """How far a tiny model's loss falls in thirty steps on the same tokens."""
    model, step = tiny_model().bfloat16(), exercises("08")["08.5"].reference
    weights = list(model.parameters())
    masters = [p.detach().float().requires_grad_() for p in weights] if with_masters else weights
    optimizer, losses = torch.optim.AdamW(masters, lr=rate, weight_decay=0.0), []
    batch = type("Batch", (), {"ids": torch.arange(64).view(4, 16)})()
    for _ in range(30):
        loss = next_token_loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        step(weights, masters, optimizer) if with_masters else optimizer.step()
        model.zero_grad()
    return losses[0] - losses[-1]


def test_masters_learn_where_bfloat16_alone_stalls():
    assert steps_in_bfloat16(True) > 2 * steps_in_bfloat16(False) > -0.1


@pytest.mark.parametrize("method", room.TRAINED)
def test_every_way_got_the_same_number_of_trials(method):
    trials = load_runs("head_to_head", method=method, examples=room.ALL, seed=0, **room.TRAINING)
    tried = {run.settings["learning_rate"] for run in trials}
    assert tried == set(room.TRAINED[method].rates) and len(tried) == 3


def test_all_eight_are_recorded_with_three_seeds_each_but_the_one_without_chance():
    rows = recorded()
    assert list(rows) == list(room.METHODS)
    assert {name: len(runs) for name, runs in rows.items() if len(runs) != 3} == {"zero-shot": 1}
    assert all(0 < low < mean < high < 1 for mean, low, high in map(score, rows.values()))


def test_ways_of_the_playground_are_those_of_the_comparison():
    fields = {field.name for field in dataclasses.fields(room.Trained)}
    assert {"build", "rates", "optimizer"} <= fields and "for name, way in TRAINED.items()" in CODE


@pytest.mark.robust
def test_one_recorded_point_falls_in_its_band_again():
    point = room.chosen("calibrated")[0]
    again = rerun(point.id)
    assert again.inside, again
