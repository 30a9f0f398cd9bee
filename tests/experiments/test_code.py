"""The hash of an experiment's code: what changes it, and what does not."""

import importlib
import sys

import pytest

from lessonlib import experiments
from lessonlib.experiments import code, registry

SHARED = '''
"""Shared."""
LEARNING_RATE = 1e-3
UNUSED = 7


def train(steps, rate=LEARNING_RATE):
    """Train."""
    return steps * rate


def double(x, factor=2):
    return factor * x


def half(x):
    return x / 2


WAYS = {"double": double}
WAYS["half"] = half
WAYS.update(same=lambda x: x)
'''
RECORD = '''
"""A record."""
import functools
import math

from lessonlib import corpora
from lessonlib.experiments import zz_shared
from lessonlib.experiments.registry import experiment
from lessonlib.experiments.zz_shared import train

SEEDS = (0, 1)


def right(run):
    return [1]


def helper(x):
    """Help."""
    return math.floor(x) + len(corpora.INTENTS)  # a comment


class Room:
    size = 3

    def judge(self, x):
        return helper(x)


@functools.cache
def cached(x):
    return x + 1


def late(x):
    return -x


@experiment(right_answers=right)
def made(steps):
    """An experiment."""
    from lessonlib.experiments.zz_shared import half as divided

    count = functools.partial(zz_shared.double, factor=3)
    values = [late(count(zz_shared.WAYS["half"](x))) for x in (steps, divided(steps), cached(steps))]
    return {"score": Room().judge(train(values[0]))}


def record_all():
    count = SEEDS
    return count
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
        for cache in (code._source, code._is_module):
            cache.cache_clear()
        importlib.invalidate_caches()
        module = importlib.import_module("lessonlib.experiments.zz_record")
        return code.code_hash(module.made)

    yield hash_of
    for name in [name for name in sys.modules if name.startswith("lessonlib.experiments.zz_")]:
        del sys.modules[name]
    code._source.cache_clear()
    registry._registered.pop("made", None)


@pytest.mark.parametrize(
    "old, new",
    [
        ("return steps * rate", "return steps / rate"),  # what is called in another module of experiments
        ("LEARNING_RATE = 1e-3", "LEARNING_RATE = 2e-3"),  # a constant there
        ("math.floor(x)", "math.ceil(x)"),  # a helper's helper, through a class
        ("corpora.INTENTS", "corpora.URGENCIES"),
        ('{"score": ', '{"loss": '),
        ("return factor * x", "return factor + x"),  # by a partial, through a module
        ("factor=2)", "factor=1)"),
        ("factor=3)", "factor=4)"),
        ("return x / 2", "return x // 2"),  # by a table of functions, and by an import inside of the function
        ('WAYS["half"] = half', 'WAYS["half"] = double'),
        ("same=lambda x: x", "same=lambda x: 2 * x"),
        ("return x + 1", "return x + 2"),  # behind a decorator
        ("@functools.cache", "@functools.lru_cache(1)"),
        ("return -x", "return +x"),  # inside of a list
        ("size = 3", "size = 4"),  # an attribute of a class
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
        ("return [1]", "return [0]"),  # what judges a run
        ("    count = SEEDS\n    return count", "    return SEEDS"),
        ("1e-3", "0.001"),
        ("from lessonlib.experiments.zz_shared import train\n", "from .zz_shared import train\n"),
    ],
)
def test_words_layout_and_what_is_not_called_leave_the_hash(hash_of, old, new):
    assert hash_of() == hash_of((old, new))


def test_a_move_to_another_file_leaves_the_hash(hash_of):
    before = hash_of()
    assert before == hash_of(("zz_shared", "zz_other"), shared="zz_other")


def test_a_module_under_another_name_leaves_the_hash(hash_of):
    before = hash_of()
    assert before == hash_of(
        ("from lessonlib import corpora", "from lessonlib import corpora as texts"),
        ("corpora.INTENTS", "texts.INTENTS"),
    )


@pytest.mark.parametrize(
    "edits",
    [
        [("import train\n", "import train as fitted\n"), ("judge(train(", "judge(fitted(")],
        [("import train\n", "import half\n"), ("judge(train(", "judge(zz_shared.train(")],
        [
            ("import zz_shared\n", "import zz_shared as z\n"),
            ("zz_shared.double", "z.double"),
            ("zz_shared.WAYS", "z.WAYS"),
        ],
        [
            (
                "from lessonlib.experiments import zz_shared\n",
                "import lessonlib.experiments.zz_shared as zz_shared\n",
            )
        ],
        [
            ("from lessonlib.experiments import zz_shared\n", "from lessonlib import experiments\n"),
            ("zz_shared.double", "experiments.zz_shared.double"),
            ("zz_shared.WAYS", "experiments.zz_shared.WAYS"),
        ],
        [("import half as divided", "import half"), ("divided(steps)", "half(steps)")],
    ],
)
def test_another_way_to_import_leaves_the_hash_and_loses_nothing(hash_of, edits):
    assert hash_of() == hash_of(*edits)
    for change in [
        ("return factor * x", "return factor + x"),
        ("return x / 2", "return x // 2"),
        ("1e-3", "2e-3"),
    ]:
        assert hash_of() != hash_of(*edits, change)


def test_a_hash_is_the_same_in_all_versions_of_python(hash_of):
    # Written down once (3.11); fields that a newer Python adds to a syntax tree must not change it.
    assert hash_of() == "4c194881e414"


def test_a_field_that_a_newer_python_adds_is_left_out_while_it_is_empty():
    (old,) = code.ast.parse("def f(x=None): return x").body
    (new,) = code.ast.parse("def f(x=None): return x").body
    new._fields, new.novelties = (*new._fields, "novelties"), []
    assert code._text(old) == code._text(new)
    new.novelties = [code.ast.Name("T")]
    assert code._text(old) != code._text(new)
    assert "value=None" in code._text(old)


def test_a_function_that_no_module_defines_has_no_hash():
    def inner():
        return {}

    with pytest.raises(LookupError, match="defines no 'inner' on its own level"):
        code.code_hash(inner)


def test_the_registry_is_no_part_of_an_experiments_code():
    seen = {}
    code._follow("lessonlib.experiments.lesson06_adapters", "houlsby", seen)
    names = {name for _, name in seen}
    assert {"houlsby", "train_and_judge", "short_tickets", "TASKS"} <= names
    assert not {"experiment", "record", "Experiment"} & names and not {"test_intents", "_labels_of_task"} & names
