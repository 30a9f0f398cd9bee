"""No experiment is registered without a test of its record on a tiny model."""

from pathlib import Path

from lessonlib.experiments import experiments

TESTS = ("tickets", "prompts", "parts", "chains", "models")


def test_every_experiment_is_named_in_a_test_of_records():
    tests = "".join((Path(__file__).parent / f"test_records_{name}.py").read_text("utf8") for name in TESTS)
    assert [name for name in experiments() if f'"{name}"' not in tests] == []
