"""What notebook 02 promises beyond what holds for all notebooks."""

import numpy as np
import pytest
import torch
from lesson_cells import definitions
from torch import nn
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.experiments import rerun
from lessonlib.experiments.lesson02_in_context import (
    DRAWS,
    FORMS,
    SHOTS,
    WORDS,
    balanced_draw,
    chosen_form,
    examples,
    label_runs,
    shots_runs,
)
from lessonlib.networks.small_transformer import linear_functions, regression_loss
from lessonlib.runs import load_runs
from lessonlib.training import fit


def losses(source: str) -> list[float]:
    """Losses of training the network that the notebook's cells define."""
    names = {"torch": torch, "nn": nn, "F": F}
    exec(source, names)
    torch.manual_seed(0)
    model = names["SmallTransformer"](nn.Linear(3, 16), outputs=1, width=16, layers=2)
    batches = [linear_functions(8, 2, 5, seed) for seed in range(5)]
    return fit(model, batches, learning_rate=1e-2, loss=regression_loss, warmup=1).losses


@pytest.mark.parametrize(
    "line, edited",
    [
        ("is_causal=True", "is_causal=False"),
        ("return h + self.mlp", "return 0 * h + self.mlp"),
        ("self.embed(x) + self.position", "self.embed(x) + 0 * self.position"),
    ],
)
def test_an_edit_in_the_notebooks_own_network_changes_the_outcome(line, edited):
    source = definitions("02")
    assert line in source
    before = losses(source)
    assert losses(source) == before
    assert losses(source.replace(line, edited)) != before


def test_a_balanced_draw_shows_each_topic_as_often_and_grows_by_its_end():
    labels = corpora.tickets("train")["intent"]
    for draw in DRAWS:
        assert balanced_draw(labels, 4, draw) == balanced_draw(labels, 16, draw)[:4]
        shown = np.bincount([labels[row] for row in balanced_draw(labels, 16, draw)])
        assert shown.tolist() == [2] * 8
    assert balanced_draw(labels, 8, 0) != balanced_draw(labels, 8, 1)


def test_a_draw_that_the_rarest_label_does_not_allow_is_refused():
    with pytest.raises(ValueError, match="k is 3; the rarest label allows 2 rows"):
        balanced_draw([0, 0, 0, 1], 3, 0)


def test_the_sweep_is_whole_and_of_the_form_that_validation_chose():
    runs = shots_runs()
    assert list(runs) == list(SHOTS)
    assert [len(group) for group in runs.values()] == [1] + [len(DRAWS)] * (len(SHOTS) - 1)
    form = chosen_form()
    for shots, group in runs.items():
        for run in group:
            assert run.settings["form"] == form and run.score["n"] == 200
            assert run.results["shown"] == [word for _, word in examples(shots, run.settings["draw"])]
    tried = {run.settings["form"] for run in load_runs("few_shot", split="validation")}
    assert tried == set(FORMS)


def test_random_labels_stand_behind_the_same_examples():
    right, random = label_runs().values()
    assert [run.settings["draw"] for run in right] == [run.settings["draw"] for run in random] == list(DRAWS)
    shown = [word for run in random for word in run.results["shown"]]
    correct = [word for run in right for word in run.results["shown"]]
    assert len(shown) == len(correct) == 8 * len(DRAWS) and set(shown) <= set(WORDS)
    # One in eight is right by chance: of 40, with a probability above 0.999 fewer than 14.
    assert sum(a == b for a, b in zip(shown, correct)) < 14


@pytest.mark.robust
def test_a_recorded_run_repeats_itself_inside_its_band():
    assert rerun(shots_runs()[0][0].id).inside
