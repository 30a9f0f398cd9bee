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


@pytest.fixture
def container(monkeypatch):
    """container({path: text}): the kernel's files about this process's groups, on a machine with 64 GB free."""

    def container(files: dict[str, str]) -> float:
        monkeypatch.setattr(hardware, "_text", lambda path: files.get(path, ""))
        return hardware.memory_gb(CPU)

    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * 10**9))
    return container


def group(folder, limit, used, idle, version=2):
    """The files of one control group, in GB."""
    names = ("memory.max", "memory.current", "inactive_file")
    names = names if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    stat = f"anon 1\nfile {round(1e9 * used)}\n{names[2]} {round(1e9 * idle)}\nactive_file 7"
    bounds = limit if isinstance(limit, str) else str(round(1e9 * limit))
    return {
        f"{folder}/{names[0]}": bounds,
        f"{folder}/{names[1]}": str(round(1e9 * used)),
        f"{folder}/memory.stat": stat,
    }


ROOTS = {2: "/sys/fs/cgroup", 1: "/sys/fs/cgroup/memory"}


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_idle_file_cache_counts_as_free(container, version):
    # By hand, as the kubelet does: 8 - (7.4 - 5.9).
    assert container(group(ROOTS[version], 8, 7.4, 5.9, version)) == pytest.approx(6.5)


@pytest.mark.parametrize("version", [1, 2])
def test_of_nested_groups_the_tightest_holds(container, version):
    kinds = {1: "4:cpu,memory:", 2: "0::"}[version]
    files = {"/proc/self/cgroup": f"{kinds}/pod/box"} | group(f"{ROOTS[version]}/pod/box", 6, 1, 0, version)
    assert container(files | group(f"{ROOTS[version]}/pod", 4, 2.5, 1, version)) == pytest.approx(2.5)
    assert container(files | group(f"{ROOTS[version]}/pod", 40, 2.5, 1, version)) == pytest.approx(5)


def test_a_group_without_a_limit_and_a_machine_without_groups_have_what_the_machine_has(container):
    assert container(group(ROOTS[2], "max", 3, 1)) == container({}) == 64
    assert container(group(ROOTS[1], 9223372036854771712 / 1e9, 3, 1, 1)) == 64  # version 1's way to say so


def test_a_full_container_has_no_memory_and_not_less(container):
    assert container(group(ROOTS[2], 2, 2.5, 0)) == 0


def test_what_does_not_fit_is_refused_in_one_line_with_the_cure(container):
    container(group(ROOTS[2], 2, 0.76, 0))
    hardware.require_memory(1.2, "this", CPU)
    with pytest.raises(hardware.NotEnoughMemory) as error:
        hardware.require_memory(1.3, "a model", CPU)
    assert str(error.value).startswith("a model needs 1.3 GB and 1.2 GB are free: shut other kernels down (")
    assert "Colab" in str(error.value) and "\n" not in str(error.value)


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
