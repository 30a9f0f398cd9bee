"""Trials: what wins on validation, and the runs at it. The scores are made up, the winners picked by hand."""

import pytest

from lessonlib.experiments import trials
from lessonlib.runs import Run


def trial(seed=0, rate=1e-3, **results):
    return Run("", "", {"seed": seed, "learning_rate": rate, "m": 8}, {}, "", "", 0.0, {}, results)


def test_the_best_trial_is_that_of_validation_and_the_loss_decides_ties():
    low, tie, best = (
        trial(validation=value, validation_loss=loss) for value, loss in ((0.5, 0.1), (0.7, 0.9), (0.7, 0.4))
    )
    assert trials.best_on_validation([low, tie, best]) is best


def test_where_no_accuracy_was_recorded_the_lowest_loss_wins():
    best, worse = trial(validation_loss=0.2), trial(validation_loss=0.3)
    assert trials.best_on_validation([worse, best]) is best
    with pytest.raises(KeyError):  # nothing to choose by is no tie
        trials.best_on_validation([trial()])


def test_only_the_first_seed_chooses_and_all_seeds_are_given(monkeypatch):
    recorded = [
        trial(0, 1e-3, validation=0.6),
        trial(0, 3e-3, validation=0.7),
        trial(1, 1e-3, validation=0.9),
        trial(1, 3e-3, validation=0.2),
    ]

    def load_runs(experiment, **settings):
        assert experiment == "houlsby" and settings.pop("m") == 8
        return [run for run in recorded if settings.items() <= run.settings.items()]

    monkeypatch.setattr(trials, "load_runs", load_runs)
    assert trials.best_rate("houlsby", m=8) == trials.best("learning_rate", "houlsby", m=8) == 3e-3
    assert trials.chosen("houlsby", m=8) == [recorded[1], recorded[3]]
