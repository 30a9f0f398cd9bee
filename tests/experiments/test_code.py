"""The hash of an experiment's code: what changes it, and what does not."""

import importlib
import sys

import pytest

from lessonlib import experiments
from lessonlib.experiments import code

SHARED = '''
"""Shared."""
LEARNING_RATE = 1e-3
UNUSED = 7


def train(steps, rate=LEARNING_RATE):
    """Train."""
    return steps * rate
'''
RECORD = '''
"""A record."""
import math

from lessonlib import corpora
from lessonlib.experiments.zz_shared import train

SEEDS = (0, 1)


def helper(x):
    """Help."""
    return math.floor(x) + len(corpora.INTENTS)  # a comment


class Room:
    def judge(self, x):
        return helper(x)


def made(steps):
    """An experiment."""
    return {"score": Room().judge(train(steps))}


def record_all():
    return SEEDS
'''


@pytest.fixture
def hash_of(tmp_path, monkeypatch):
    """The hash of `made` after edits ("old text", "new text") in the two modules."""
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])

    def hash_of(*edits, shared="zz_shared"):
        texts = {"zz_record": RECORD, "zz_shared": SHARED}
        for old, new in edits:
            assert any(old in text for text in texts.values()), old
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        texts = {shared if name == "zz_shared" else name: text for name, text in texts.items()}
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text, "utf8")
            sys.modules.pop(f"lessonlib.experiments.{name}", None)
        for cache in (code._sources, code._is_module):
            cache.cache_clear()
        importlib.invalidate_caches()
        import linecache

        linecache.clearcache()
        module = importlib.import_module("lessonlib.experiments.zz_record")
        return code.code_hash(module.made)

    yield hash_of
    for name in [name for name in sys.modules if name.startswith("lessonlib.experiments.zz_")]:
        del sys.modules[name]
    code._sources.cache_clear()


@pytest.mark.parametrize(
    "old, new",
    [
        ("return steps * rate", "return steps / rate"),  # what is called in another module of experiments
        ("LEARNING_RATE = 1e-3", "LEARNING_RATE = 2e-3"),  # a constant there
        ("math.floor(x)", "math.ceil(x)"),  # a helper's helper, through a class
        ("corpora.INTENTS", "corpora.URGENCIES"),
        ('{"score": ', '{"loss": '),
    ],
)
def test_a_changed_line_changes_the_hash(hash_of, old, new):
    assert hash_of() != hash_of((old, new))


@pytest.mark.parametrize(
    "old, new",
    [
        ("# a comment", "# another one"),
        ('"""An experiment."""', '"""Other words."""'),
        ('"""Train."""', ""),
        ("SEEDS = (0, 1)", "SEEDS = (0, 1, 2)"),  # which runs there are, not how one is made
        ("UNUSED = 7", "UNUSED = 8"),
        ("import math\n", "import json\nimport math\n"),
        ("    return steps * rate", "    return (\n        steps * rate\n    )"),
    ],
)
def test_words_layout_and_what_is_not_called_leave_the_hash(hash_of, old, new):
    assert hash_of() == hash_of((old, new))


def test_a_move_to_another_file_leaves_the_hash(hash_of):
    before = hash_of()
    assert before == hash_of(("zz_shared", "zz_elsewhere"), shared="zz_elsewhere")


def test_a_module_under_another_name_leaves_the_hash(hash_of):
    before = hash_of()
    assert before == hash_of(
        ("from lessonlib import corpora", "from lessonlib import corpora as texts"),
        ("corpora.INTENTS", "texts.INTENTS"),
    )
