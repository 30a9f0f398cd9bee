"""The files for Axolotl and LLaMA-Factory ask for what lesson09_distributed does. References: its own defaults and
constants, Transformers' TrainingArguments, the task's own tokens."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from peft import PeftModel
from tiny_models import logits, tiny_model, tiny_tokenizer
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from lessonlib.corpora import DATA
from lessonlib.experiments import lesson09_distributed as script
from lessonlib.experiments.tickets import ALL_LINEAR, short_tickets, ticket_task
from lessonlib.models import HUB
from lessonlib.quantization.qlora import four_bits
from lessonlib.training import Steps

RECIPES = DATA / "recipes"
README = (RECIPES / "README.md").read_text("utf8")
# What each key of theirs is in LLaMA-Factory's own sources; any other must be one of Transformers' TrainingArguments.
OWN = {
    "model_args.py": "model_name_or_path quantization_method quantization_bit quantization_type double_quantization "
    "disable_gradient_checkpointing",
    "finetuning_args.py": "stage finetuning_type lora_rank lora_alpha lora_dropout lora_target",
    "data_args.py": "dataset dataset_dir template cutoff_len",
}


@pytest.fixture(scope="module")
def axolotl():
    return yaml.safe_load((RECIPES / "axolotl_qlora.yml").read_text("utf8"))


@pytest.fixture(scope="module")
def factory():
    return yaml.safe_load((RECIPES / "llama_factory_qlora.yaml").read_text("utf8"))


@pytest.fixture(scope="module")
def ours():
    """What our script does when nothing but --four-bit is asked of it."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "train", lambda options: seen.update(vars(options)) or {})
        script.main(["--four-bit", "--output", "adapter"])
    return seen | {name: Steps.__init__.__kwdefaults__[name] for name in ("warmup", "clip", "weight_decay")}


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


# --- the same values ----------------------------------------------------------------------------------------


def test_axolotl_adapts_what_we_do(axolotl, ours):
    assert (axolotl["lora_r"], axolotl["lora_alpha"]) == (ours["r"], 2 * ours["r"])
    assert tuple(axolotl["lora_target_modules"]) == tuple(ALL_LINEAR)
    assert axolotl["lora_dropout"] == 0


def test_llama_factory_adapts_what_we_do(factory, ours):
    assert (factory["lora_rank"], factory["lora_alpha"]) == (ours["r"], 2 * ours["r"])
    assert tuple(factory["lora_target"].split(",")) == tuple(ALL_LINEAR)
    assert factory["lora_dropout"] == 0


def test_both_quantize_as_we_do(axolotl, factory):
    expected = four_bits(torch.bfloat16)
    theirs = axolotl["bnb_config_kwargs"]
    assert axolotl["load_in_4bit"] and axolotl["adapter"] == "qlora" and factory["quantization_bit"] == 4
    assert theirs["bnb_4bit_quant_type"] == factory["quantization_type"] == expected.bnb_4bit_quant_type
    double = theirs["bnb_4bit_use_double_quant"], factory["double_quantization"]
    assert double == (expected.bnb_4bit_use_double_quant,) * 2 == (True, True)


def test_both_take_our_steps(axolotl, factory, ours):
    expected = (ours["steps"], ours["learning_rate"], ours["warmup"], ours["clip"], ours["weight_decay"])
    for theirs in (axolotl, factory):
        named = ("max_steps", "learning_rate", "warmup_steps", "max_grad_norm", "weight_decay")
        assert tuple(theirs[name] for name in named) == expected
    assert axolotl["lr_scheduler"] == factory["lr_scheduler_type"] == "linear"
    assert axolotl["optimizer"] == factory["optim"] == OptimizerNames.ADAMW_TORCH


def test_both_take_our_batches(axolotl, factory, ours):
    assert axolotl["micro_batch_size"] * axolotl["gradient_accumulation_steps"] == ours["batch_size"]
    assert factory["per_device_train_batch_size"] * factory["gradient_accumulation_steps"] == ours["batch_size"]
    longest = ticket_task(tiny_tokenizer()).max_tokens
    assert axolotl["sequence_len"] == factory["cutoff_len"] == longest
    assert not axolotl["sample_packing"]


def test_both_begin_from_our_base_model_and_write_where_we_do(axolotl, factory, ours):
    assert axolotl["base_model"] == factory["model_name_or_path"] == HUB["smollm2-135m"]
    assert axolotl["output_dir"] == factory["output_dir"] == str(ours["output"])


def test_every_key_of_llama_factory_is_its_own_or_transformers(factory):
    own = {key for keys in OWN.values() for key in keys.split()}
    transformers = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(factory) <= own | transformers
    assert own <= set(factory)


# --- the data -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The lines that the README's code writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("recipes"))
        exec(blocks()[0], {})
        with open("tickets.jsonl", encoding="utf8") as file:  # noqa: PTH123
            return [json.loads(line) for line in file]


def test_their_texts_and_answers_are_ours(rows):
    tokenizer = tiny_tokenizer()
    task, (texts, targets) = ticket_task(tokenizer), short_tickets()
    assert len(rows) == len(texts) == 393
    for row, text, target in zip(rows, texts, targets, strict=True):
        assert row["prompt"] == task.template.format(text=text)
        assert row["response"] == f" {task.verbalizer[target]}"
        assert tokenizer(row["response"]).input_ids[0] == task.label_ids[target]


def test_only_the_answer_counts_and_both_tools_read_the_same(rows, axolotl, factory):
    for row in rows:
        assert [segment["text"] for segment in row["segments"]] == [row["prompt"], row["response"]]
        assert [segment["label"] for segment in row["segments"]] == [False, True]
    info = json.loads((RECIPES / "dataset_info.json").read_text("utf8"))[factory["dataset"]]
    assert info["columns"] == {"prompt": "prompt", "response": "response"}
    assert axolotl["datasets"] == [{"path": info["file_name"], "ds_type": "json", "type": "input_output"}]
    assert axolotl["train_on_inputs"] is False and factory["template"] == "empty"


# --- the sharded script -------------------------------------------------------------------------------------


@pytest.mark.robust
def test_the_sharded_script_runs_in_two_processes_and_writes_an_adapter(tmp_path, tiny_tokens):
    tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "sharded.py").write_text(blocks()[1], "utf8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "sharded.py", "base", "adapter"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DATA.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.50 of the weights a process")
    adapted = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    assert (logits(adapted, tiny_tokens) - logits(tiny_model(), tiny_tokens)).abs().max() > 1e-3
