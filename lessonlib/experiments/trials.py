"""What the experiments share of trials: the learning rate that won on validation, and the runs at it."""

from lessonlib.runs import Run, best_on_validation, load_runs


def best_rate(experiment: str, **settings) -> float:
    """The learning rate with the best validation accuracy among the recorded trials (seed 0)."""
    return best_on_validation(load_runs(experiment, seed=0, **settings)).settings["learning_rate"]


def chosen(experiment: str, **settings) -> list[Run]:
    """The recorded runs, all seeds, at the learning rate that won on validation."""
    return load_runs(experiment, learning_rate=best_rate(experiment, **settings), **settings)
