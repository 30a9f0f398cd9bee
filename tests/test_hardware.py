"""Claims of lessonlib.hardware."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from lessonlib import hardware

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("there", "asked", "expected"), [(True, "", GPU), (True, "cpu", CPU), (False, "", CPU)])
def test_a_gpu_is_used_unless_the_variable_leaves_it_alone(monkeypatch, there, asked, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setenv("LESSONLIB_DEVICE", asked)
    assert hardware.device() == expected


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_the_variable_overrules_the_probe(monkeypatch, name, device):
    monkeypatch.setenv("LESSONLIB_DTYPE", name)
    assert hardware.dtype(device) == getattr(torch, name)


@pytest.mark.parametrize("bad", ["float64", "bf16", "torch.float32", "load"])
def test_a_bad_value_of_the_variable_is_named(monkeypatch, bad):
    monkeypatch.setenv("LESSONLIB_DTYPE", bad)
    with pytest.raises(ValueError, match=rf"LESSONLIB_DTYPE is '{bad}'; it may be float32, bfloat16 or float16"):
        hardware.dtype()


@pytest.mark.parametrize(("speed", "expected"), [(4.0, torch.bfloat16), (1.0, torch.float32), (0.3, torch.float32)])
def test_a_cpu_gets_bfloat16_only_where_it_is_faster(monkeypatch, speed, expected):
    monkeypatch.delenv("LESSONLIB_DTYPE", raising=False)
    monkeypatch.setattr(hardware, "bfloat16_speed", lambda: speed)
    assert hardware.dtype(CPU) == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_gets_float16(monkeypatch, supported, expected):
    monkeypatch.delenv("LESSONLIB_DTYPE", raising=False)
    # A T4 emulates bfloat16, and says that it supports it unless asked to leave emulation out.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported or including_emulation
    )
    assert hardware.dtype(GPU) == expected


def test_the_probe_measures_once():
    assert 0.01 < hardware.bfloat16_speed() < 100
    assert hardware.bfloat16_speed() is hardware.bfloat16_speed()


def test_free_memory_is_at_most_what_the_system_says(monkeypatch):
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000_000))
    assert 0 <= hardware.memory_gb(CPU) <= 0.05


def test_peak_memory_grows_with_what_is_held():
    before = hardware.peak_memory_gb(CPU)
    held = torch.ones(int((before + 0.1) * 1e9 / 4))  # more than ever before
    assert hardware.peak_memory_gb(CPU) >= held.nbytes / 1e9


def test_the_processor_has_a_name():
    assert hardware.processor().strip()


def test_models_in_circles_are_given_back():
    class Node:
        pass

    hardware.release_memory()  # what earlier tests freed would otherwise be used again, and nothing seem to be taken
    before = psutil.Process().memory_info().rss
    one = Node()
    one.itself, one.weight = one, torch.ones(30_000_000)  # 120 MB
    assert psutil.Process().memory_info().rss - before > 1e8
    del one
    hardware.release_memory()
    assert psutil.Process().memory_info().rss - before < 2e7
