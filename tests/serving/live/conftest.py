"""One vLLM server for the whole folder: a tiny random model with the real tokenizer, and adapters that differ."""

import os

import pytest
from served_models import NAMES, adapted, base_model
from transformers import AutoTokenizer

from lessonlib.lora import save_lora
from lessonlib.models import find_base
from lessonlib.serving.engine import serving_python
from lessonlib.serving.traffic import WatchedEngine


def pytest_collection_modifyitems(items):
    absent = serving_python() is None and not os.environ.get("CI")
    for item in items:
        if "live" in item.path.parts:
            item.add_marker(pytest.mark.serving)
            if absent:  # where CI is set they fail instead, with the same words
                item.add_marker(pytest.mark.skip(reason="no vLLM here: run `make serve-env`"))


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """The directory in which the adapters lie."""
    place = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        save_lora(adapted(seed), place / name)
    return place


@pytest.fixture(scope="session")
def served_base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "base"
    base_model().save_pretrained(directory)
    AutoTokenizer.from_pretrained(find_base()).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def running(served_base, place):
    """The server: two adapters, two places in a batch, three in memory."""
    engine = WatchedEngine(
        served_base,
        {name: place / name for name in NAMES[:2]},
        max_loras=2,
        max_cpu_loras=3,
        max_lora_rank=8,
        max_model_len=256,
        adapter_directory=place,
        startup_seconds=600,
    )
    with engine:
        yield engine


@pytest.fixture
def engine(running):
    """The server as every test finds it: alive, with the two adapters."""
    if not running.alive:
        running.restart()
    yield running
    for name in set(running.models()) - {"base", *NAMES[:2]}:
        running.unload(name)
