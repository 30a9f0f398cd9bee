"""Claims of lessonlib.lora.variants. References: PEFT's LoRA+ optimizer on the same values, and the rates by hand."""

import copy
import itertools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tiny_models import Tokens, tiny_model

from lessonlib import training
from lessonlib.lora import LoRAError, add_lora, lora_layers
from lessonlib.lora.variants import LoRAFALinear, lora_plus, tie_lora
from lessonlib.training import fit, trainable_parameters


def language_loss(model, tokens):
    return model(tokens, labels=tokens).loss


def adapted():
    torch.manual_seed(0)
    return add_lora(tiny_model(), r=4, alpha=8)


def built(model, ratio=16.0, lr=1e-3):
    return lora_plus(model, ratio)(trainable_parameters(model), lr=lr)


def test_B_and_A_have_their_own_rates():
    model = adapted()
    rates = {p: group["lr"] for group in built(model).param_groups for p in group["params"]}
    assert {rates[layer.A] for _, layer in lora_layers(model)} == {1e-3}
    assert {rates[layer.B] for _, layer in lora_layers(model)} == {16e-3}
    assert len(rates) == len(trainable_parameters(model))


def test_three_steps_equal_pefts(tiny_tokens):
    model = adapted()
    twin = get_peft_model(tiny_model(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    pairs = [(layer, twin.base_model.model.get_submodule(path)) for path, layer in lora_layers(model)]
    for mine, theirs in pairs:
        theirs.lora_A["default"].weight.data.copy_(mine.A)
    theirs = create_loraplus_optimizer(twin, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8)
    for one, optimizer in ((model, built(model, ratio=8)), (twin, theirs)):
        for _ in range(3):
            language_loss(one, tiny_tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
    for mine, other in pairs:
        torch.testing.assert_close(mine.A, other.lora_A["default"].weight, atol=1e-6, rtol=0)
        torch.testing.assert_close(mine.B, other.lora_B["default"].weight, atol=1e-5, rtol=0)
        assert mine.B.any()


def test_fit_takes_it_and_ratio_one_is_plain_lora(tiny_tokens):
    losses = {}
    for ratio in (None, 1, 16):
        model = adapted()
        optimizer = {} if ratio is None else {"optimizer": lora_plus(model, ratio)}
        losses[ratio] = fit(model, [tiny_tokens] * 6, learning_rate=1e-3, loss=language_loss, **optimizer).losses
    assert losses[1] == pytest.approx(losses[None], abs=1e-6)
    assert losses[16][-1] < losses[1][-1] - 0.01


def test_warm_up_and_decay_scale_both_rates(tiny_tokens):
    model, seen = adapted(), []
    make = lora_plus(model, ratio=4)

    def spied(parameters, **settings):
        engine = make(parameters, **settings)
        engine.register_step_pre_hook(lambda o, *_: seen.append([g["lr"] for g in o.param_groups]))
        return engine

    fit(model, [tiny_tokens] * 4, learning_rate=12.0, loss=language_loss, optimizer=spied, warmup=1, clip=1e-9)
    # By hand: half, then thirds downward, of 12 and of 48.
    assert seen == [pytest.approx(pair) for pair in ([6, 24], [12, 48], [8, 32], [4, 16])]


def test_a_killed_run_resumes_to_the_same_losses(cache, monkeypatch, tiny_tokens):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)

    def run(ratio, die_at=None):
        model = adapted()
        how = {"learning_rate": 1e-3, "loss": Loss(die_at), "optimizer": lora_plus(model, ratio)}
        return fit(model, [Tokens(tiny_tokens)] * 6, resume="run", **how)

    whole = run(8).losses
    with pytest.raises(KeyboardInterrupt):
        run(8, die_at=3)
    assert run(16).resumed_at == 0  # another ratio is another run
    again = run(8)
    assert again.resumed_at == 3 and again.losses == whole


class Loss:
    """The language loss, dying at a step: one class whatever the step, so that the run's key stays the same."""

    def __init__(self, die_at):
        self.die_at, self.steps = die_at, itertools.count()

    def __call__(self, model, batch):
        if next(self.steps) == self.die_at:
            raise KeyboardInterrupt
        return language_loss(model, batch.ids)


def test_tied_and_frozen_layers_work_too(tiny, make_tiny):
    assert sum(len(group["params"]) for group in built(tie_lora(add_lora(tiny, r=4))).param_groups) == 4
    (only_B,) = built(add_lora(make_tiny(), r=4, layer=LoRAFALinear)).param_groups
    assert only_B["lr"] == 16e-3


def test_what_makes_no_sense_is_refused(tiny):
    with pytest.raises(LoRAError, match="no LoRA layers"):
        lora_plus(tiny)
    with pytest.raises(ValueError, match="ratio is 0; "):
        lora_plus(copy.deepcopy(add_lora(tiny)), ratio=0)
