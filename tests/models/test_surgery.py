"""Claims of lessonlib.models.surgery: what is found, copied, refused and read, whichever method asks."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lessonlib.models.surgery import (
    find_targets,
    open_tensors,
    read_object,
    read_tensors,
    refuse_not_finite,
    shallow_copy,
)

MISSING, DAMAGED = "{path.name} is not in {path.parent.name}", "{path.name} ({cause})!"


class RefusedError(Exception):
    pass


def test_targets_are_names_or_whole_paths_and_match_exactly(tiny):
    found, missing = find_targets(tiny, ["v_proj", "model.layers.1.mlp", "proj", "layers.0.mlp", "self_attn.q_proj"])
    assert [path for path, _ in found] == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.1.mlp",
    ]
    assert all(tiny.get_submodule(path) is module for path, module in found)
    assert missing == ["layers.0.mlp", "proj", "self_attn.q_proj"]
    assert find_targets(tiny, []) == ([], [])


def test_a_shallow_copy_shares_every_number_and_no_module(tiny):
    before = copy.deepcopy(tiny.state_dict())
    twin = shallow_copy(tiny)
    theirs = twin.state_dict()
    assert all(t.data_ptr() == theirs[name].data_ptr() for name, t in tiny.state_dict().items())
    assert not {id(m) for m in tiny.modules()} & {id(m) for m in twin.modules()}
    assert not any(p.requires_grad for p in twin.parameters())
    assert all(p.requires_grad for p in tiny.parameters())
    twin.set_submodule("model.layers.0.mlp", nn.Identity())
    assert tiny.state_dict().keys() == before.keys()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_one_number_that_is_not_finite_is_enough(value, dtype):
    good, bad = torch.ones(3).to(dtype), torch.tensor([1.0, value, 1.0]).to(dtype)
    refuse_not_finite({"good": good}, RefusedError, "do better")
    with pytest.raises(RefusedError, match=r"^second holds NaN or infinity: do better$"):
        refuse_not_finite({"first": good, "second": bad}, RefusedError, "do better")


def test_a_number_beyond_float32_is_refused():
    with pytest.raises(RefusedError, match="w holds NaN or infinity"):
        refuse_not_finite({"w": torch.tensor([1e300], dtype=torch.float64)}, RefusedError, "")


def test_a_float8_that_torch_cannot_ask_is_asked_all_the_same():
    bad = torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn)
    with pytest.raises(RefusedError, match="w holds NaN"):
        refuse_not_finite({"w": bad}, RefusedError, "")


def test_whole_numbers_and_shapes_alone_are_not_asked():
    refuse_not_finite({"i": torch.ones(2).int(), "m": torch.ones(2, device="meta")}, RefusedError, "")


def test_tensors_and_words_come_back(tmp_path):
    file, tensors = tmp_path / "x.safetensors", {"b": torch.arange(3), "a": torch.ones(2, 2).half()}
    save_file(tensors, file, metadata={"who": "I"})
    read, words = read_tensors(file, RefusedError, MISSING)
    assert words == {"who": "I"} and read.keys() == tensors.keys()
    assert all(torch.equal(read[name], t) and read[name].dtype == t.dtype for name, t in tensors.items())
    save_file(tensors, file)
    assert read_tensors(file, RefusedError, MISSING)[1] == {}
    with open_tensors(file, RefusedError, MISSING) as opened:
        assert set(opened.keys()) == {"a", "b"}


@pytest.mark.parametrize("read", [read_tensors, read_object])
def test_a_file_that_is_missing_or_damaged_is_named_in_the_callers_words(tmp_path, read):
    path = tmp_path / "{odd} name.json"  # braces in a path are not holes in the sentence
    with pytest.raises(RefusedError, match=f"^{{odd}} name.json is not in {tmp_path.name}$"):
        read(path, RefusedError, MISSING, DAMAGED)
    for content in (b"", b"{", b"\x80" * 100, b"[1, 2]"):
        path.write_bytes(content)
        with pytest.raises(RefusedError, match=r"^{odd} name.json \(.+\)!$"):
            read(path, RefusedError, MISSING, DAMAGED)
    path.unlink()
    path.mkdir()
    with pytest.raises(RefusedError, match=r"^{odd} name.json \(.+\)!$"):
        read(path, RefusedError, MISSING, DAMAGED)


def test_the_usual_words_for_a_damaged_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(RefusedError, match=r"x\.safetensors is damaged \(.+\): save it again$"):
        read_tensors(path, RefusedError, MISSING)


def test_an_object_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"r": 8, "ü": None}), "utf8")
    assert read_object(path, RefusedError, MISSING) == {"r": 8, "ü": None}


def test_a_refusal_inside_an_open_file_stays_what_it_is(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(KeyError), open_tensors(tmp_path / "x.safetensors", RefusedError, MISSING):
        raise KeyError("mine")
