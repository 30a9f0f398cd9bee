"""What the tests of experiments share: an experiment that takes no time in a registered one's place, a tiny base."""

import dataclasses

import pytest

pytest.register_assert_rewrite("tiny_records")  # it asserts

# isort: split
import tiny_records

from lessonlib.experiments import experiments, registry


@pytest.fixture
def stand_in(monkeypatch):
    """stand_in(name, function): what `record` and `rerun` call under this name in the test."""
    real = experiments()

    def stand_in(name, function):
        known = real.get(name, registry.Experiment(name, function, lambda run: [1] * 200))
        put = dataclasses.replace(known, function=function)
        put.__dict__["code"] = f"{name:x<12.12}"
        monkeypatch.setitem(registry._registered, name, put)
        return put

    return stand_in


@pytest.fixture
def base(monkeypatch, cache):
    """A tiny model in the base's place and a few marked tickets in the tickets': see tiny_records."""
    yield tiny_records.stand_in(monkeypatch)
    tiny_records.forget()
