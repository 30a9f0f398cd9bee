"""The examples in the docstrings of lessonlib and tools give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import lessonlib
import tools

MODULES = [
    module.name
    for package in (lessonlib, tools)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_give_what_they_say(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_examples_are_found():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(tests) >= 5
