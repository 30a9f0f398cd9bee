"""Claims about a real card that no pretended one can make: its kernels, its half precisions, its optimizers, its memory."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import ALL, Tokens, filled, logits, next_token_loss, six_steps, tiny_model, tiny_tokenizer

from lessonlib import hardware, training
from lessonlib.figures.lesson09 import code_book
from lessonlib.lora import add_lora, merge_lora, unmerge_lora
from lessonlib.quantization.nf4 import normal_float
from lessonlib.quantization.qlora import QLoRALinear, load_four_bit, paged_adamw
from lessonlib.training import fit
from lessonlib.training.master_weights import MasterAdamW

ROOT = Path(__file__).parents[2]
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def on_card():
    """on_card(dtype): the tiny model where models go here, in an arithmetic of its own."""
    return lambda dtype: tiny_model(attn_implementation="sdpa").to(hardware.device(), dtype)


def test_lora_trains_over_a_half_precise_base_as_over_a_whole_one(on_card):
    exact = six_steps(add_lora(on_card(torch.float32), ALL, r=4))
    for dtype in HALVES:
        losses = six_steps(add_lora(on_card(dtype), ALL, r=4))
        assert losses == pytest.approx(exact, rel=0.03), dtype
        assert losses[-1] < losses[0], dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precise_weights_train_themselves_with_masters(dtype, on_card):
    model = on_card(dtype).requires_grad_(True)
    before = model.lm_head.weight.detach().clone()
    fit(model, token_batches(), learning_rate=1e-3, loss=next_token_loss, optimizer=MasterAdamW)
    assert torch.isfinite(model.lm_head.weight).all() and not torch.equal(model.lm_head.weight, before)


def token_batches(steps: int = 8):
    generator = torch.Generator().manual_seed(1)
    return [Tokens(torch.randint(0, 512, (2, 8), generator=generator)) for _ in range(steps)]


def test_qlora_with_paged_states_stops_and_goes_on_where_it_stood(tmp_path, cache, monkeypatch):
    tiny_model(hidden_size=128, intermediate_size=192).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    stopped = []

    def fresh():
        model, _ = load_four_bit(source=tmp_path / "base")
        torch.manual_seed(0)
        return add_lora(model, ALL, r=4, layer=QLoRALinear)

    def loss(model, batch):
        if stopped and len(stopped) == stopped[0]:
            raise KeyboardInterrupt
        stopped.append(4)
        return next_token_loss(model, batch)

    settings = {"learning_rate": 1e-2, "loss": loss, "optimizer": paged_adamw, "resume": "gpu"}
    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), token_batches(), **settings)
    stopped[0] = -1
    assert fit(fresh(), token_batches(), **settings).resumed_at == 4


def test_merging_and_taking_apart_gives_back_the_base_bit_for_bit(on_card, tiny_tokens):
    tokens = tiny_tokens.to(hardware.device())
    model = on_card(torch.bfloat16)
    base = logits(model, tokens)
    filled(add_lora(model, ALL, r=4).cpu()).to(hardware.device())
    adapted = logits(model, tokens)
    assert not torch.equal(adapted, base)
    merge_lora(model)
    assert (logits(model, tokens) - adapted).abs().max() < 0.1 * (adapted - base).abs().max()
    unmerge_lora(model)
    assert torch.equal(logits(model, tokens), adapted)


def test_a_figure_takes_a_weight_that_lies_on_the_card():
    W = torch.randn(64, 64, device=hardware.device())
    assert "16 marks" in code_book(W, normal_float(4)).alt


def test_the_peak_counts_what_was_held_and_given_back():
    before = hardware.peak_memory_gb()
    held = torch.ones(int(2e8) // 4 + int(before * 1e9) // 4, device=hardware.device())
    del held
    assert hardware.peak_memory_gb() >= before + 0.19


def test_more_processes_than_cards_meet_on_the_processor(tmp_path):
    script = "import torch\nfrom lessonlib import hardware\nfrom lessonlib.training.parallel import join\n"
    script += "join()\nprint(torch.distributed.get_backend(), hardware.device())\ntorch.distributed.destroy_process_group()\n"
    (tmp_path / "met.py").write_text(script, "utf8")
    processes = torch.cuda.device_count() + 1
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(max(2, processes)),
    ]
    done = subprocess.run(
        [*torchrun, tmp_path / "met.py"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["gloo cpu"] * max(2, processes)
