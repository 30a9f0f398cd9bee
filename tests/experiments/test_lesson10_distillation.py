"""The experiments on distillation: the runs are comparable, and their counts are those of hand arithmetic."""

from statistics import fmean

import pytest
from tiny_models import bits, same, tiny_model

from lessonlib.evaluation import mean_difference
from lessonlib.experiments import lesson10_distillation as x
from lessonlib.experiments.trials import best_on_validation, chosen
from lessonlib.runs import load_runs

# The base model's shapes, by hand from its configuration: width 576, keys and values 192, feed-forward 1536.
BLOCK = 576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536 + 2 * 576
VOCABULARY = 49_152 * 576


def test_recorded_sizes_are_those_of_hand_arithmetic():
    for run in load_runs("distilled") + load_runs("by_labels"):
        assert run.results["trainable"] == 10 * BLOCK + 576
        assert run.results["bytes"] == 2 * (VOCABULARY + 10 * BLOCK + 576)
    assert load_runs("teacher")[0].results["bytes"] == 2 * (VOCABULARY + 30 * BLOCK + 576)


@pytest.mark.parametrize("kept", x.CHOICES)
def test_both_ways_had_the_same_trials(kept):
    def asked(way):
        settings = [run.settings for run in load_runs(way, kept=kept, seed=0)]
        return [{k: v for k, v in one.items() if k not in x.SOFT} for one in settings]

    assert asked("distilled") == asked("by_labels")
    assert sorted(one["learning_rate"] for one in asked("distilled")) == sorted(x.RATES)


@pytest.mark.parametrize("way", ["distilled", "by_labels"])
def test_the_rate_is_the_one_that_won_on_validation(way):
    trials = load_runs(way, kept="first", seed=0)
    best = max(trials, key=lambda run: (run.results["validation"], -run.results["validation_loss"]))
    assert best_on_validation(trials) == best == chosen(way, kept="first")[0]


def test_a_student_begins_with_nothing_of_the_task():
    # Eight labels; a quarter would be twice what chance gives.
    assert all(run.accuracy < 0.3 for run in load_runs("untrained"))
    for kept in x.CHOICES:
        (cut,) = load_runs("untrained", kept=kept)
        assert fmean(run.accuracy for run in load_runs("distilled", kept=kept)) > 0.3
        for run in load_runs("distilled", kept=kept) + load_runs("by_labels", kept=kept):
            assert mean_difference([run.answers()], [cut.answers()])[1] > 0  # every one has learned


def test_every_student_had_the_teacher_of_its_own_seed():
    assert [run.settings["seed"] for run in load_runs("teacher")] == list(x.SEEDS)
    for way in ("distilled", "by_labels"):
        for kept in x.CHOICES:
            assert [run.settings["seed"] for run in chosen(way, kept=kept)] == list(x.SEEDS)


def test_a_student_takes_less_than_half_its_teachers_time():
    for run in load_runs("distilled") + load_runs("by_labels"):
        assert run.results["student_seconds"] < 0.5 * run.results["teacher_seconds"]


@pytest.mark.slow
def test_a_student_is_trained_and_its_teacher_is_not(tokenizer, monkeypatch):
    teacher = tiny_model(num_hidden_layers=6).requires_grad_(False)
    monkeypatch.setattr(x, "tuned_teacher", lambda seed, **_: (teacher, tokenizer))
    before = bits(teacher)
    settings = {"kept": "evenly", "layers": 2, "steps": 4, "batch_size": 4, "learning_rate": 1e-3}
    taught = x.distilled(seed=0, **x.SOFT, **settings)
    labelled = x.by_labels(seed=0, **settings)
    same(before, bits(teacher))
    assert taught["score"].n == labelled["score"].n == 200
    assert taught["losses"] != labelled["losses"] and len(taught["losses"]) == 4
    assert taught["trainable"] == labelled["trainable"]
