"""The larger model of "On your GPU": asked for where there is a device that holds it, loaded as the lesson wants it."""

import gc
import weakref

import pytest
import torch
from torch import nn

from lessonlib import hardware, models
from lessonlib.course import larger
from lessonlib.course.larger import MODEL, on_your_gpu
from lessonlib.course.session import Session

# No tensor lies on it: what is loaded here is a stand-in.
GPU = Session("09", torch.device("meta"), torch.float16, 1.0)
CPU = Session("09", torch.device("cpu"), torch.float32, 1.0)


@pytest.fixture
def memory(monkeypatch):
    def free(gb):
        monkeypatch.setattr(hardware, "memory_gb", lambda device: gb)

    free(16.0)
    return free


def never(*args, **kwargs):
    raise AssertionError("called")


def test_without_a_gpu_one_line_says_what_it_would_need(memory, capsys):
    assert on_your_gpu(CPU, never, load=never) is None
    assert (
        capsys.readouterr().out
        == "Not run: SmolLM2-1.7B-Instruct needs a GPU with 8 GB free, here there is no GPU.\n"
    )


def test_a_gpu_that_is_too_small_is_not_asked(memory, capsys):
    memory(4.4)
    assert on_your_gpu(GPU, never, needs_gb=6.0, load=never) is None
    assert "needs a GPU with 6 GB free, here the GPU has 4 GB free" in capsys.readouterr().out


def test_the_model_comes_as_the_base_models_do(memory, monkeypatch):
    monkeypatch.setattr(models, "load_base", lambda name, dtype: (name, dtype))
    assert on_your_gpu(GPU, lambda *both: both) == (MODEL, torch.float16)
    monkeypatch.setattr(larger, "MODEL", "mine")
    assert on_your_gpu(GPU, lambda *both: both) == ("mine", torch.float16)


def test_what_loads_it_otherwise_is_all_that_loads_it(memory, monkeypatch):
    monkeypatch.setattr(models, "load_base", never)
    loaded = []

    def in_four_bits(name, dtype):
        loaded.append(weakref.ref(model := nn.Linear(2, 2)))
        return model, name

    assert on_your_gpu(GPU, lambda model, name: name, load=in_four_bits) == MODEL
    gc.collect()
    assert [one() for one in loaded] == [None]  # one model, and nobody holds it any more
