"""Fixtures that the tests share: a tiny model of the base model's kind, a tiny tokenizer, an empty cache."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import random

import numpy as np
import pytest

pytest.register_assert_rewrite("pictures", "tiny_models")  # they assert, and are imported below and by tests

# isort: split
import torch
from tiny_models import tiny_model, tiny_tokenizer, write_gguf
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA card; `make gpu` runs it")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """The tiny model and tokenizer in one GGUF file; nothing in it is changed by a test."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny_model(), tiny_tokenizer())
    return path


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    """The tiny model as `save_pretrained` writes it; nothing in it is changed by a test."""
    directory = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True)
def one_thread(request):
    """Tiny models are slower on several threads; a real one (marked `model` or `notebook`) gets them all."""
    threads = torch.get_num_threads()
    if not any(request.node.get_closest_marker(name) for name in ("model", "notebook")):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def same_draws():
    """Every test draws the same numbers, whichever tests came before it and in whichever process.

    Without a GPU `torch.manual_seed` writes the stack down for the device that may come, four times a call and ten
    thousand tests long.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(0)
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    """A fresh tiny model, every test its own."""
    return tiny_model()


@pytest.fixture
def make_tiny():
    """tiny_model itself, for a test that needs another seed or another configuration."""
    return tiny_model


@pytest.fixture
def tiny_tokens() -> torch.Tensor:
    """Token numbers, (3, 12)."""
    return torch.randint(2, 512, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer; nothing in it is changed by a test."""
    return tiny_tokenizer()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache and no unfinished work, both the test's own, and resuming as on a learner's machine."""
    monkeypatch.setenv("LESSONLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LESSONLIB_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("CI", raising=False)
    return tmp_path / "cache"
