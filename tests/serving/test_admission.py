"""Claims of lessonlib.serving.admission. References: adapters that PEFT and our save_lora write; vLLM's own list of limits."""

import json
import os
import shutil
import warnings

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import ALL, filled, tiny_model

from lessonlib.lora import add_lora, save_lora
from lessonlib.serving.admission import (
    CONFIG,
    WEIGHTS,
    EngineError,
    check_directory,
    check_files,
    check_name,
    linear_shapes,
)


@pytest.fixture(scope="module")
def shapes(tiny_directory):
    return linear_shapes(tiny_directory)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_lora(filled(add_lora(tiny_model(), ALL, r=4)), tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def adapter(saved, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(saved, tmp_path / "adapter")


def configured(adapter, **changes):
    config = json.loads((adapter / CONFIG).read_text()) | changes
    (adapter / CONFIG).write_text(json.dumps(config))


def rewritten(adapter, change):
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)


# --- names and places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "billing-v2", "Team_7.refunds", "0", "a" * 64])
def test_plain_words_are_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "base",
        ".",
        "..",
        "../secret",
        "a/b",
        "/etc",
        "a\\b",
        "a b",
        "a\n",
        "-rf",
        "_a",
        "ä",
        "a" * 65,
        "a\0",
        None,
        7,
    ],
)
def test_paths_options_and_the_bases_name_are_no_names(name):
    with pytest.raises(EngineError, match="name"):
        check_name(name)


def test_a_directory_below_is_taken_and_made_absolute(tmp_path, monkeypatch):
    (tmp_path / "adapters" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert check_directory("adapters/a", "adapters") == tmp_path.resolve() / "adapters" / "a"


@pytest.mark.parametrize("path", ["other", "adapters/../other", "adapters-too", "adapters/link", "/"])
def test_what_lies_elsewhere_is_refused_even_behind_dots_and_links(path, tmp_path, monkeypatch):
    for name in ("adapters", "other", "adapters-too"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapters" / "link").symlink_to(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="not below"):
        check_directory(path, "adapters")


@pytest.mark.parametrize("place", [CONFIG, WEIGHTS, "more/notes.txt"])
def test_a_file_that_is_a_link_to_elsewhere_is_refused(tmp_path, place):
    root, outside = tmp_path / "adapters", tmp_path / "secret"
    inside = root / "mine" / place
    inside.parent.mkdir(parents=True)
    outside.write_text("{}")
    inside.symlink_to(outside)
    with pytest.raises(EngineError, match=rf"{inside.name} is a link to {outside}, which is not below {root}"):
        check_directory(root / "mine", below=root)


def test_a_link_from_one_file_below_to_another_is_taken(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1f").write_text("{}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CONFIG).symlink_to(tmp_path / "blobs" / "1f")  # as in the cache of the Hub
    assert check_directory(tmp_path / "mine", below=tmp_path) == tmp_path / "mine"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_what_is_no_file_is_refused_before_it_is_read(adapter, shapes, name):
    (adapter / name).unlink()
    os.mkfifo(adapter / name)  # reading it would wait for ever
    with pytest.raises(EngineError, match=f"{name} is no file"):
        check_files(adapter, shapes, max_rank=16)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EngineError, match="is no directory"):
        check_directory(tmp_path / "nothing")


# --- files -----------------------------------------------------------------------------------------------------------


def test_what_save_lora_writes_is_admitted(adapter, shapes):
    check_files(adapter, shapes, max_rank=4)


def test_what_peft_writes_is_admitted(tmp_path, shapes):
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 4})
    get_peft_model(tiny_model(), config).save_pretrained(tmp_path)
    check_files(tmp_path, shapes, max_rank=4)


def test_shapes_are_those_of_the_model(shapes):
    model = tiny_model()
    assert shapes["model.layers.1.mlp.down_proj"] == (32, 64)
    assert shapes == {
        path: tuple(module.weight.shape)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def test_a_rank_above_the_limit_is_refused_with_both(adapter, shapes):
    with pytest.raises(EngineError, match=r"ranks \[4\].*1 to 3.*max_lora_rank"):
        check_files(adapter, shapes, max_rank=3)


def test_a_larger_rank_of_some_layers_counts(adapter, shapes):
    configured(adapter, rank_pattern={"q_proj": 32})
    with pytest.raises(EngineError, match="32"):
        check_files(adapter, shapes, max_rank=16)


def test_a_rank_in_the_weights_that_the_configuration_does_not_own_up_to_is_refused(adapter, shapes):
    configured(adapter, r=1)
    with pytest.raises(EngineError, match="ranks 4 and 4"):
        check_files(adapter, shapes, max_rank=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 2]]),
        ("bias", "all"),
        ("peft_type", "IA3"),
        ("r", "4"),
        ("r", 0),
        ("r", None),
    ],
)
def test_what_vllm_cannot_serve_is_refused_by_name(adapter, shapes, name, value):
    configured(adapter, **{name: value})
    with pytest.raises(EngineError, match={"peft_type": "IA3", "r": "ranks"}.get(name, name)):
        check_files(adapter, shapes, max_rank=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, "has rank 4 in the weights, and .* says 8"),
        ({"rank_pattern": {"q_proj": 2}}, "q_proj has rank 4 in the weights, and .* says 2"),
        ({"target_modules": ["q_proj"]}, "the weights change .*, which .* does not name"),
        ({"target_modules": [*ALL, "lm_head"]}, "names lm_head, of which the weights hold nothing"),
        ({"alpha_pattern": 2}, "sets alpha_pattern = 2"),
    ],
)
def test_files_of_two_adapters_are_refused(adapter, shapes, changes, message):
    configured(adapter, **changes)
    with pytest.raises(EngineError, match=message):
        check_files(adapter, shapes, max_rank=16)


def test_an_adapter_started_with_eva_is_admitted_as_peft_wrote_it(tmp_path, shapes):
    with warnings.catch_warnings():  # PEFT's: it wants the data from which EVA starts
        warnings.simplefilter("ignore")
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="eva", eva_config=EvaConfig())
        get_peft_model(tiny_model(), config).save_pretrained(tmp_path)
    check_files(tmp_path, shapes, max_rank=16)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(adapter, shapes, name):
    (adapter / name).unlink()
    with pytest.raises(EngineError, match=name):
        check_files(adapter, shapes, max_rank=16)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_truncated_file_is_named(adapter, shapes, name):
    os.truncate(adapter / name, (adapter / name).stat().st_size // 2)
    with pytest.raises(EngineError, match=f"{name}.*save the adapter again"):
        check_files(adapter, shapes, max_rank=16)


def test_an_adapter_of_a_narrower_base_is_refused(tmp_path, shapes):
    other = tiny_model(hidden_size=16, intermediate_size=64)
    save_lora(filled(add_lora(other, ALL, r=4)), tmp_path)
    with pytest.raises(EngineError, match=r"for a width of 16; this model's is 32.*another base"):
        check_files(tmp_path, shapes, max_rank=16)


def test_an_adapter_of_a_deeper_base_is_refused(tmp_path, shapes):
    save_lora(filled(add_lora(tiny_model(num_hidden_layers=3), ALL, r=4)), tmp_path)
    with pytest.raises(EngineError, match=r"model\.layers\.2.*another base"):
        check_files(tmp_path, shapes, max_rank=16)


def test_numbers_that_are_not_finite_are_refused(adapter, shapes):
    rewritten(adapter, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))
    with pytest.raises(EngineError, match="NaN"):
        check_files(adapter, shapes, max_rank=16)


def test_half_an_adapter_is_refused(adapter, shapes):
    rewritten(adapter, lambda tensors: tensors.pop(next(name for name in tensors if "lora_B" in name)))
    with pytest.raises(EngineError, match="not whole"):
        check_files(adapter, shapes, max_rank=16)


def test_a_file_without_matrices_is_refused(adapter, shapes):
    rewritten(adapter, lambda tensors: tensors.clear())
    with pytest.raises(EngineError, match="not whole"):
        check_files(adapter, shapes, max_rank=16)


def test_a_foreign_tensor_is_refused_by_name(adapter, shapes):
    rewritten(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.zeros(2, 2)}))
    with pytest.raises(EngineError, match=r"lm_head\.weight, which is no matrix of a LoRA"):
        check_files(adapter, shapes, max_rank=16)
