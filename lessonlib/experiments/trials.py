"""What the experiments share of trials: the value that won on validation, and the runs at it."""

from collections.abc import Sequence

from lessonlib.runs import Run, load_runs


def best_on_validation(trials: Sequence[Run]) -> Run:
    """The trial with the best validation accuracy, the lower loss deciding ties where it was recorded.

    Where no accuracy was recorded, as of texts that are written, the trial with the lowest validation loss.
    """

    def quality(run: Run) -> tuple[float, float]:
        if "validation" not in run.results:
            return 0.0, -run.results["validation_loss"]
        return run.results["validation"], -run.results.get("validation_loss", 0.0)

    return max(trials, key=quality)


def best(setting: str, experiment: str, **settings):
    """The setting's value that won on validation among the recorded trials, all with seed 0."""
    return best_on_validation(load_runs(experiment, seed=0, **settings)).settings[setting]


def best_rate(experiment: str, **settings) -> float:
    """The learning rate that won on validation among the recorded trials, all with seed 0."""
    return best("learning_rate", experiment, **settings)


def chosen(experiment: str, **settings) -> list[Run]:
    """The recorded runs, all seeds, at the learning rate that won on validation."""
    return load_runs(experiment, learning_rate=best_rate(experiment, **settings), **settings)
