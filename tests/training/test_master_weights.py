"""lessonlib.training.master_weights against torch's own AdamW in float32."""

import copy

import pytest
import torch
from tiny_models import Tokens, next_token_loss, tiny_model
from torch import nn

from lessonlib.evaluation import training_bytes
from lessonlib.training import fit
from lessonlib.training.master_weights import MasterAdamW

SETTINGS = {"lr": 3e-2, "weight_decay": 0.1}


def steps(parameter, optimizer, gradients):
    for gradient in gradients:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()
    return parameter


def drawn(count=30, scale=1.0):
    torch.manual_seed(0)
    return [scale * torch.randn(4, 5).bfloat16().float() for _ in range(count)]


def test_masters_move_as_torchs_float32_weights_do():
    start = torch.randn(4, 5).bfloat16().float()
    theirs = nn.Parameter(start.clone())
    steps(theirs, torch.optim.AdamW([theirs], **SETTINGS), drawn())
    ours = nn.Parameter(start.bfloat16())
    optimizer = MasterAdamW([ours], **SETTINGS)
    steps(ours, optimizer, drawn())
    torch.testing.assert_close(optimizer.state[ours]["master"], theirs.detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(ours.detach(), optimizer.state[ours]["master"].bfloat16())


def test_float32_weights_are_their_own_masters():
    ours = nn.Parameter(torch.randn(4, 5))
    theirs = copy.deepcopy(ours)
    steps(ours, MasterAdamW([ours], **SETTINGS), drawn())
    steps(theirs, torch.optim.AdamW([theirs], **SETTINGS), drawn())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_steps_below_bfloat16s_resolution_add_up():
    """A hundred steps of 1e-4 from 1: bfloat16's neighbours of 1 are 1/128 and 1/256 away."""
    gradients = [torch.ones(1)] * 100
    stalled, moving = nn.Parameter(torch.ones(1).bfloat16()), nn.Parameter(torch.ones(1).bfloat16())
    steps(stalled, torch.optim.AdamW([stalled], lr=1e-4, weight_decay=0.0), gradients)
    steps(moving, MasterAdamW([moving], lr=1e-4), gradients)
    assert stalled.item() == 1.0
    assert moving.item() == pytest.approx(0.99, abs=1 / 256)


def test_sixteen_bytes_a_parameter_are_held():
    """2 of weights, 2 of gradients, 12 of masters and moments: Rajbhandari et al. 2020, section 3.1."""
    model = nn.Linear(64, 64, bias=False).bfloat16()
    optimizer = MasterAdamW(model.parameters(), lr=1e-3)
    model(torch.ones(2, 64).bfloat16()).sum().backward()
    optimizer.step()
    held = sum(training_bytes(model, optimizer).values())
    assert held == pytest.approx(16 * 64 * 64, abs=8)


def test_a_parameter_without_gradient_stays_as_it_is():
    used, idle = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    used.grad = torch.ones(3)
    MasterAdamW([used, idle], lr=0.1).step()
    assert torch.equal(idle, torch.ones(3)) and not torch.equal(used, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(dtype):
    gradients = drawn(8, scale=1e-3)
    whole = nn.Parameter(torch.ones(4, 5, dtype=dtype))
    steps(whole, MasterAdamW([whole], lr=1e-4), gradients)
    first = nn.Parameter(torch.ones(4, 5, dtype=dtype))
    before = MasterAdamW([first], lr=1e-4)
    steps(first, before, gradients[:4])
    second = nn.Parameter(first.detach().clone())
    after = MasterAdamW([second], lr=1e-4)
    after.load_state_dict(before.state_dict())
    steps(second, after, gradients[4:])
    assert torch.equal(second, whole)


def test_fit_trains_every_weight_with_it():
    model = tiny_model().bfloat16().requires_grad_(True)
    torch.manual_seed(0)
    batches = [Tokens(torch.randint(5, 500, (2, 8)))] * 12
    history = fit(model, batches, learning_rate=3e-3, loss=next_token_loss, optimizer=MasterAdamW)
    assert history.losses[-1] < history.losses[0] - 0.1
