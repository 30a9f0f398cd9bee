"""Claims of lessonlib.lora.files and .settings: what belongs together, what is written, and which base it is for.

References: PEFT's own loading, on generated directories; the bits of the model, before and after a refusal.
"""

import copy
import functools
import json
import os
import re
import shutil
import time
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import ALL, bits, filled, logits, same, tiny_model

from lessonlib.lora import LoRAError, add_lora, load_lora, lora_layers, save_lora
from lessonlib.lora.dora import DoRALinear, load_dora, save_dora
from lessonlib.models import pinned, surgery
from lessonlib.quantization.linear import to_four_bits

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
close = torch.testing.assert_close


@pytest.fixture
def saved(make_tiny, tmp_path):
    """A directory with a good adapter of the tiny model, for a test to damage."""
    return save_lora(filled(add_lora(make_tiny(), ALL, r=4, alpha=8)), tmp_path / "adapter")


def edited(directory, **changes):
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def rewritten(directory, change):
    """The weights changed, and what is written beside them kept."""
    path = directory / WEIGHTS
    with safe_open(path, "pt") as file:
        beside = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=beside)
    return directory


def refused(model, directory, message, load=load_lora):
    before = bits(model)
    with pytest.raises(LoRAError, match=message):
        load(model, directory)
    same(before, bits(model))


def q_proj(layer):
    return f"base_model.model.model.layers.{layer}.self_attn.q_proj"


# --- files of two adapters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 8, "lora_alpha": 16},
        {"r": 2},
        {"rank_pattern": {"down_proj": 2}},
        {"rank_pattern": {r"layers\.1\..*": 16}},
    ],
)
def test_a_configuration_of_another_rank_is_refused(tiny, saved, changes):
    refused(tiny, edited(saved, **changes), r"has rank 4 in the weights.*adapter_config.json says .*save it again")


@pytest.mark.parametrize(
    "changes", [{"lora_alpha": 32}, {"alpha_pattern": {"q_proj": 4}}, {"use_rslora": True}, {"lora_alpha": -8}]
)
def test_a_configuration_of_the_same_rank_and_another_scale_is_refused(tiny, saved, changes):
    refused(tiny, edited(saved, **changes), r"was saved with the scale 2, and .*adapter_config.json makes it")


def test_a_configuration_that_means_the_same_scale_in_other_words_is_taken(tiny, make_tiny, saved, tiny_tokens):
    before = logits(load_lora(make_tiny(), saved), tiny_tokens)
    edited(saved, use_rslora=True, lora_alpha=4.0)
    close(logits(load_lora(tiny, saved), tiny_tokens), before, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, r"the weights change .*\.down_proj, which .* does not name"),
        ({"target_modules": [*ALL, "embed_tokens"]}, r"names model.embed_tokens, of which the weights hold nothing"),
        ({"exclude_modules": ["q_proj"]}, r"the weights change .*q_proj, which .* does not name"),
        ({"layers_to_transform": [0]}, r"the weights change model.layers.1"),
        ({"target_modules": r".*layers\.0.*_proj"}, r"the weights change model.layers.1"),
        ({"target_modules": None}, r"names no target_modules"),
        ({"target_modules": []}, r"names no target_modules"),
        ({"target_modules": "(q_proj"}, r"chooses modules in a way that cannot be read"),
        ({"target_modules": 5}, r"chooses modules in a way that cannot be read"),
    ],
)
def test_a_configuration_of_other_targets_is_refused(tiny, saved, changes, message):
    refused(tiny, edited(saved, **changes), message)


def test_weights_that_lack_a_module_are_refused(tiny, saved):
    def without_one(tensors):
        for side in "AB":
            del tensors[f"{q_proj(1)}.lora_{side}.weight"]

    refused(tiny, rewritten(saved, without_one), r"names model.layers.1.self_attn.q_proj, of which .* hold nothing")


def test_an_adapter_of_a_shallower_base_is_refused(make_tiny, saved):
    refused(make_tiny(num_hidden_layers=3), saved, r"names model.layers.2.*for another base")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": "4"}, "sets r = '4'"),
        ({"r": 4.0}, r"sets r = 4\.0"),
        ({"r": True}, "sets r = True"),
        ({"r": None}, "sets r = None"),
        ({"r": 0}, "sets r = 0"),
        ({"lora_alpha": "16"}, "sets lora_alpha = '16'"),
        ({"lora_alpha": float("nan")}, "sets lora_alpha = nan"),
        ({"lora_alpha": None}, "sets lora_alpha = None"),
        ({"rank_pattern": [4]}, r"sets rank_pattern = \[4\]"),
        ({"rank_pattern": {"q_proj": "4"}}, "sets rank_pattern q_proj = '4'"),
        ({"alpha_pattern": {"q_proj": float("inf")}}, "sets alpha_pattern q_proj = inf"),
        ({"alpha_pattern": {"(q_proj": 4}}, "has a pattern that cannot be read"),
        ({"use_rslora": "false"}, "sets use_rslora = 'false'"),
    ],
)
def test_what_is_no_rank_scale_or_pattern_is_refused_by_name(tiny, saved, changes, message):
    refused(tiny, edited(saved, **changes), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda A: A[0], r"A \(32,\) and B .*expected matrices"),
        (lambda A: A[None], r"A \(1, 4, 32\) and B .*expected matrices"),
        (lambda A: A[:0], r"A of rank 0 and B of rank 4"),
        (lambda A: A[:3], r"A of rank 3 and B of rank 4"),
        (lambda A: A.to(torch.int32), r"q_proj.lora_A.weight holds torch.int32, expected floating point"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(tiny, saved, change, message):
    name = f"{q_proj(0)}.lora_A.weight"
    refused(tiny, rewritten(saved, lambda t: t.update({name: change(t[name]).contiguous()})), message)


@pytest.mark.parametrize("scales", ["[]", "{", '{"model.layers.0.self_attn.q_proj": "two"}'])
def test_scales_that_cannot_be_read_are_refused(tiny, saved, scales):
    save_file(load_file(saved / WEIGHTS), saved / WEIGHTS, metadata={"format": "pt", "scales": scales})
    refused(tiny, saved, r"holds scales that cannot be read")


def test_a_dora_of_another_scale_is_refused(make_tiny, tmp_path):
    directory = save_dora(filled(add_lora(make_tiny(), r=4, layer=DoRALinear)), tmp_path / "dora")
    refused(make_tiny(), edited(directory, lora_alpha=2), r"was saved with the scale 4", load_dora)


def test_a_layer_that_cannot_be_built_leaves_the_model_as_it_was(make_tiny, saved):
    packed = to_four_bits(make_tiny())
    refused(packed, saved, r"holds packed bits", lambda model, path: load_lora(model, path, layer=DoRALinear))
    refused(packed, saved, r"holds packed bits", lambda model, _: add_lora(model, layer=DoRALinear))


def test_an_adapter_started_with_eva_is_loaded_as_peft_wrote_it(tiny, make_tiny, tiny_tokens, tmp_path):
    eva = {"init_lora_weights": "eva", "eva_config": EvaConfig(), "target_modules": ["q_proj"], "r": 4}
    with warnings.catch_warnings():  # PEFT's: it wants the data from which EVA starts
        warnings.simplefilter("ignore")
        theirs = get_peft_model(make_tiny(), LoraConfig(**eva))
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        theirs.save_pretrained(tmp_path)
    close(logits(load_lora(tiny, tmp_path), tiny_tokens), logits(theirs, tiny_tokens), atol=1e-5, rtol=0)


# --- written together ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save, layer", [(save_lora, None), (save_dora, DoRALinear)])
def test_where_writing_fails_the_older_adapter_stays_whole(
    make_tiny, tiny_tokens, tmp_path, monkeypatch, save, layer
):
    settings = {"layer": layer} if layer else {}
    directory = save(filled(add_lora(make_tiny(), r=4, **settings)), tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    full = OSError(28, "No space left on device")

    def fails(*_):
        raise full

    monkeypatch.setattr(LoraConfig, "save_pretrained", fails)  # the second of the two files
    with pytest.raises(OSError, match="No space left"):
        save(filled(add_lora(make_tiny(), r=8, **settings)), directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_files_are_synced_before_they_take_their_places(tiny, tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("sync"), sync(number)))
    monkeypatch.setattr(type(tmp_path), "replace", lambda path, to: (done.append(path.name), replace(path, to))[1])
    save_lora(add_lora(tiny), tmp_path / "adapter")
    assert done == ["sync", "sync", CONFIG, WEIGHTS]


def test_what_a_killed_process_left_aside_is_cleared_after_an_hour_and_not_before(tiny, tmp_path):
    for name, age in (("old", 7200), ("new", 0)):
        left = tmp_path / f"{surgery.TOGETHER}{name}{surgery.ASIDE}"
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
    save_lora(add_lora(tiny), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, WEIGHTS, f"{surgery.TOGETHER}new{surgery.ASIDE}"}


# --- which base ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("huggingfacetb/smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", False),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "/a/models/smollm2-135m", False),
        ("/a/hub/models--Qwen--Qwen2-0.5B/snapshots/1f", "/a/models/smollm2-135m", True),
        ("/a/hub/models--Qwen--Qwen2-0.5B/snapshots/1f", "Qwen/Qwen2-0.5B", False),
        ("/moved/away", "HuggingFaceTB/SmolLM2-135M", False),
        ("/moved/away", "/moved/elsewhere", False),
    ],
)
def test_two_names_are_known_to_differ_or_they_are_not(one, other, differ):
    assert pinned.known_to_differ(one, other) is pinned.known_to_differ(other, one) is differ


@pytest.mark.parametrize("seed, warned", [(0, []), (1, ["was trained on .*first, this base is .*second"])])
def test_a_base_with_other_weights_is_warned_of_and_a_copy_is_not(make_tiny, tmp_path, seed, warned):
    bases = {name: make_tiny(seed=number) for name, number in (("first", 0), ("second", seed))}
    for name, base in bases.items():
        base.save_pretrained(tmp_path / name)
        base.config._name_or_path = base.name_or_path = str(tmp_path / name)
    directory = save_lora(add_lora(bases["first"]), tmp_path / "adapter")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_lora(bases["second"], directory)
    assert len(seen) == len(warned)
    for pattern, warning in zip(warned, seen):
        assert re.search(pattern, str(warning.message))


# --- generated directories -------------------------------------------------------------------------------------------

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 64}
NAMES = st.sampled_from(ALL)
PATTERN_KEYS = st.sampled_from([*ALL, "layers.1.self_attn.q_proj", r"layers\.0\..*", "mlp", ".*", "x"])
ALPHAS = st.sampled_from([0, 1, 2.5, 8, 16, -4])
TARGETS = st.one_of(
    st.lists(NAMES, min_size=1, max_size=3, unique=True),
    st.sampled_from(["all-linear", r".*layers\.0\..*(q|up)_proj", ".*o_proj", "down_proj"]),
)
WRITTEN = {
    "r": st.sampled_from([1, 2, 4]),
    "lora_alpha": ALPHAS,
    "target_modules": TARGETS,
    "use_rslora": st.booleans(),
    "rank_pattern": st.dictionaries(PATTERN_KEYS, st.sampled_from([1, 2, 3, 8]), max_size=2),
    "alpha_pattern": st.dictionaries(PATTERN_KEYS, ALPHAS, max_size=2),
}
SETTINGS = st.fixed_dictionaries(
    {name: WRITTEN[name] for name in ("r", "target_modules")},
    optional={name: value for name, value in WRITTEN.items() if name not in ("r", "target_modules")},
)
ODD = st.sampled_from([None, "", "4", 0, -1, 2.5, True, False, [], {}, [1], {"q_proj": None}, "(", float("nan")])
# What happens to a directory that PEFT wrote: a value of the configuration, or a tensor, is another one.
HARM = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(sorted(WRITTEN)).flatmap(lambda n: st.tuples(st.just(n), WRITTEN[n]))),
    st.tuples(st.just("set"), st.tuples(st.sampled_from([*sorted(WRITTEN), "exclude_modules", "bias", "new"]), ODD)),
    st.tuples(st.just("unset"), st.sampled_from(sorted(WRITTEN))),
    st.tuples(
        st.sampled_from(["drop", "rename", "copy", "narrow", "flat", "nan", "int", "half"]), st.integers(0, 40)
    ),
)


def small(*changes):
    return copy.deepcopy(made(changes))


@functools.cache
def made(changes):
    return tiny_model(**SMALL | dict(changes))


def written(directory, settings, harms):
    """An adapter that PEFT wrote, each of its matrices filled, and then harmed."""
    torch.manual_seed(3)
    theirs = get_peft_model(small(), LoraConfig(**settings))
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.create_or_update_model_card = lambda directory: None  # it takes as long as all the rest
    theirs.save_pretrained(directory)
    config, tensors = json.loads((directory / CONFIG).read_text()), load_file(directory / WEIGHTS)
    for kind, what in harms:
        harm(kind, what, config, tensors)
    (directory / CONFIG).write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS)


def harm(kind, what, config, tensors):
    if kind == "set":
        config[what[0]] = what[1]
        return
    if kind == "unset":
        config.pop(what, None)
        return
    names = sorted(tensors)
    if not names:
        return
    name = names[what % len(names)]
    tensor = tensors.pop(name)
    changed = {
        "drop": {},
        "rename": {name.replace("layers.1", "layers.7").replace("q_proj", "qq_proj"): tensor},
        "copy": {name: tensor, name.replace("layers.0", "layers.1"): tensor.clone()},
        "narrow": {name: tensor[:, :-1]},
        "flat": {name: tensor.flatten()},
        "nan": {name: torch.full_like(tensor, torch.nan)},
        "int": {name: tensor.to(torch.int8)},
        "half": {name: tensor.half()},
    }[kind]
    tensors.update(changed)


def as_peft_or_refused(place, settings, harms, other_base):
    shutil.rmtree(place, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            written(place, settings, harms)
        except (ValueError, RuntimeError):  # PEFT itself makes no adapter of these settings
            return
        base = small(*other_base)
        before, tokens = bits(base), torch.arange(12).view(1, 12)
        try:
            load_lora(base, place)
        except LoRAError:
            same(before, bits(base))
            return
        theirs = PeftModel.from_pretrained(small(*other_base), place).eval()
    close(logits(base, tokens), logits(theirs, tokens), atol=1e-4, rtol=1e-4)


DIRECTORIES = given(
    drawn=SETTINGS,
    harms=st.lists(HARM, max_size=2),
    other_base=st.sampled_from([(), (), (), (("num_hidden_layers", 1),), (("hidden_size", 8),)]),
)


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@DIRECTORIES
def test_a_directory_is_loaded_as_peft_loads_it_or_refused(tmp_path_factory, drawn, harms, other_base):
    as_peft_or_refused(tmp_path_factory.getbasetemp() / "drawn", drawn, harms, other_base)


@pytest.mark.robust
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@DIRECTORIES
def test_many_directories_are_loaded_as_peft_loads_them_or_refused(tmp_path_factory, drawn, harms, other_base):
    as_peft_or_refused(tmp_path_factory.getbasetemp() / "drawn", drawn, harms, other_base)


def test_a_good_share_of_the_generated_directories_is_loaded(tmp_path):
    plain = {
        "r": 2,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"mlp.down_proj": 3},
        "use_rslora": True,
    }
    written(tmp_path, plain, [])
    assert len(list(lora_layers(load_lora(small(), tmp_path)))) == 4
