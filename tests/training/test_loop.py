"""Claims of lessonlib.training. References: for the schedule hand arithmetic, for a resumed
run the uninterrupted one."""

import functools
import inspect
import json
import multiprocessing
import time
import warnings

import pytest
import torch
from safetensors import safe_open
from tiny_models import tiny_model
from torch import nn
from torch.nn import functional as F

from lessonlib import training
from lessonlib.lora import LoRALinear, add_lora
from lessonlib.training import Steps, checkpoint, fit, trainable_parameters, work_directory
from lessonlib.training.labels import Batch, label_loss
from lessonlib.training.master_weights import MasterAdamW


def batches(steps=12, seed=0):
    """Batches of four texts that fall into two classes by their first token."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(steps):
        tokens = torch.randint(2, 512, (4, 8), generator=generator)
        out.append(Batch(tokens, torch.full((4,), 7), (tokens[:, 0] > 256).long(), torch.tensor([10, 20])))
    return out


def adapted(layer=LoRALinear, seed=0):
    model = tiny_model()
    torch.manual_seed(seed)
    return add_lora(model, r=4, layer=layer)


@pytest.fixture
def eager(cache, monkeypatch):
    """A directory of unfinished work of the test's own, and a checkpoint after every step."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    return work_directory() / "unfinished"


# --- the loop -----------------------------------------------------------------------------------------------


def test_fit_lowers_the_loss():
    history = fit(adapted(), batches(1) * 40, learning_rate=1e-2)
    assert len(history.losses) == 40
    assert history.losses[-1] < 0.5 * history.losses[0]


def test_only_what_is_marked_trainable_moves():
    model = adapted()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = fit(model, batches(3), learning_rate=1e-2)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert history.trainable == sum(p.numel() for p in trainable_parameters(model)) == 2 * 4 * (64 + 48)


def test_fit_is_the_loop_written_out():
    model, twin = adapted(), adapted()
    losses = fit(model, batches(4), learning_rate=1e-2, warmup=0, clip=0.05).losses
    parameters = trainable_parameters(twin)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    for step, batch in enumerate(batches(4)):
        optimizer.param_groups[0]["lr"] = 1e-2 * (4 - step) / 4
        loss = label_loss(twin, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.05)
        optimizer.step()
        assert loss.item() == losses[step]


def test_the_learning_rate_warms_up_and_decays():
    rates = []

    class Spy(torch.optim.SGD):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    fit(adapted(), batches(6), learning_rate=12.0, optimizer=Spy, warmup=2, clip=1e-6)
    assert rates == pytest.approx([4, 8, 12, 9, 6, 3])  # by hand: thirds upward, then quarters downward


def test_the_model_is_left_in_the_mode_it_came_in():
    model, seen = adapted(), []
    fit(model, batches(1), learning_rate=0.1, loss=lambda m, b: (seen.append(m.training), label_loss(m, b))[1])
    assert seen == [True] and not model.training


def test_nothing_trainable_is_refused():
    with pytest.raises(ValueError, match=r"no parameter is trainable: add an adapter first"):
        fit(tiny_model().requires_grad_(False), batches(2), learning_rate=0.1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 2])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_does_harm(bad, step):
    model, calls = adapted(), iter(range(10))
    loss = lambda m, b: label_loss(m, b) * (bad if next(calls) == step else 1.0)  # noqa: E731
    with pytest.raises(FloatingPointError, match=rf"step {step} is {bad}: try a smaller learning_rate"):
        fit(model, batches(3), learning_rate=1e-2, loss=loss)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_history_says_what_happened():
    history = training.History([1.0] * 5 + [0.5] * 10, seconds=12.3, trainable=1234)
    assert repr(history) == "15 steps in 12 s, 1,234 trainable parameters, mean loss of the last 10: 0.50"


def test_fit_takes_what_a_step_is_made_of_and_says_so():
    shown, steps = inspect.signature(fit).parameters, inspect.signature(Steps).parameters
    assert list(shown) == [*steps, "resume"]
    assert all(shown[name] == steps[name] for name in steps)
    with pytest.raises(TypeError, match="'momentum'"):
        fit(adapted(), batches(1), learning_rate=0.1, momentum=0.9)


# --- float16, as on a GPU without bfloat16 -------------------------------------------------------------------


def test_a_step_that_overflows_moves_neither_weights_nor_the_schedule():
    model = add_lora(tiny_model().half(), r=4)
    steps = Steps(
        model, batches(8), learning_rate=12.0, loss=lambda m, b: 100 * label_loss(m, b), warmup=2, clip=1e-6
    )
    before, rate = [p.detach().clone() for p in steps.parameters], steps.schedule.get_last_lr()
    steps.step()
    assert steps.skipped == 1 and steps.scaler.get_scale() == 2.0**15
    assert all(torch.equal(a, b) for a, b in zip(before, steps.parameters)) and steps.schedule.get_last_lr() == rate
    while not steps.done:
        steps.step()
    taken = len(steps.losses) - steps.skipped
    assert 0 < steps.skipped < 8
    assert steps.schedule.last_epoch == taken
    assert all(torch.isfinite(p).all() for p in steps.parameters)


def test_skipped_steps_are_counted_and_said():
    model = add_lora(tiny_model().half(), r=4)
    history = fit(model, batches(8), learning_rate=1e-3, loss=lambda m, b: 100 * label_loss(m, b))
    assert history.skipped and f"8 steps ({history.skipped} skipped: float16 overflowed) in" in repr(history)
    assert "skipped" not in repr(fit(adapted(), batches(1), learning_rate=1e-3))
    assert "skipped" not in history.results()


def test_float16_weights_need_masters():
    model = tiny_model().half().requires_grad_(True)
    with pytest.raises(ValueError, match=r"float16 weights cannot train under AdamW.* give optimizer=MasterAdamW"):
        Steps(model, batches(1), learning_rate=1e-3)


@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_float16_weights_move_as_float32_ones(clip):
    """Within what rounding the weights to float16 allows: steps of 1e-3 beside weights of 0.05."""
    half, whole = tiny_model().half().requires_grad_(True), tiny_model().half().float().requires_grad_(True)
    settings = {"learning_rate": 1e-3, "optimizer": MasterAdamW, "warmup": 0, "clip": clip}
    steps = Steps(half, batches(4), **settings)
    steps.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # so that nothing overflows
    twin = Steps(whole, batches(4), **settings)
    for _ in range(4):
        steps.step()
        twin.step()
    assert steps.skipped == 0
    for p, q in zip(steps.parameters, twin.parameters):
        close = (steps.optimizer.state[p]["master"] - q.detach()).abs() if p in steps.optimizer.state else None
        if close is not None:  # Adam turns on the sign of a gradient near zero
            assert (close < 2e-4).float().mean() > 0.95


# --- resuming -----------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_at(step, loss=label_loss):
    """`loss`, but the kernel dies in this step. Of the same code as `loss` as far as fit can tell."""
    calls = iter(range(step + 1))

    @functools.wraps(loss)
    def dying(model, batch):
        if next(calls) == step:
            raise Killed
        return loss(model, batch)

    return dying


def interrupt(model, data=None, step=7, loss=label_loss, **settings):
    with pytest.raises(Killed):
        fit(
            model,
            data or batches(),
            loss=killed_at(step, loss),
            resume="run",
            **({"learning_rate": 1e-2} | settings),
        )


@pytest.mark.parametrize(
    "optimizer", [torch.optim.AdamW, torch.optim.SGD, functools.partial(torch.optim.SGD, momentum=0.9)]
)
def test_a_killed_run_resumes_to_the_same_losses(eager, optimizer):
    whole = fit(adapted(), batches(), learning_rate=1e-2, optimizer=optimizer)
    interrupt(adapted(), optimizer=optimizer)
    again = fit(adapted(), batches(), learning_rate=1e-2, optimizer=optimizer, resume="run")
    assert (again.resumed_at, again.losses) == (7, whole.losses)


def test_a_resumed_run_ends_in_the_same_weights(eager):
    whole, again = adapted(), adapted()
    fit(whole, batches(), learning_rate=1e-2)
    interrupt(adapted())
    fit(again, batches(), learning_rate=1e-2, resume="run")
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_run_with_dropout_resumes_to_the_same_losses(eager):
    class Dropping(LoRALinear):
        def forward(self, x):
            return super().forward(F.dropout(x, 0.5, self.training))

    whole = fit(adapted(Dropping), batches(), learning_rate=1e-2)
    interrupt(adapted(Dropping))
    torch.manual_seed(99)  # whatever else the new kernel drew
    model = tiny_model()
    torch.manual_seed(0)
    again = fit(add_lora(model, r=4, layer=Dropping), batches(), learning_rate=1e-2, resume="run")
    assert again.resumed_at == 7
    assert again.losses == whole.losses


def test_resuming_is_silent(eager):
    interrupt(adapted())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(adapted(), batches(), learning_rate=1e-2, resume="run").resumed_at == 7


def test_a_run_that_is_done_leaves_nothing_behind(eager):
    interrupt(adapted())
    assert len(list(eager.iterdir())) == 1
    fit(adapted(), batches(), learning_rate=1e-2, resume="run")
    assert list(eager.iterdir()) == []


def test_another_base_model_under_the_same_adapter_is_not_taken_up(eager):
    interrupt(adapted())
    other = adapted()
    with torch.no_grad():
        next(p for p in other.parameters() if not p.requires_grad).mul_(1.01)
    assert fit(other, batches(), learning_rate=1e-2, resume="run").resumed_at == 0


def test_a_kill_while_the_checkpoint_is_written_is_survived(eager, monkeypatch):
    whole, real, calls = fit(adapted(), batches(), learning_rate=1e-2), checkpoint.save_file, iter(range(10))

    def dies(tensors, path, **rest):
        real(tensors, path, **rest)
        if next(calls) == 4:
            path.write_bytes(path.read_bytes()[:100])
            raise Killed

    monkeypatch.setattr(checkpoint, "save_file", dies)
    interrupt(adapted(), step=11)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 1e9)
    again = fit(adapted(), batches(), learning_rate=1e-2, resume="run")
    assert (again.resumed_at, again.losses) == (4, whole.losses)
    assert list(eager.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 2e-2}, {"warmup": 3}, {"clip": 0.5}, {"weight_decay": 0.1}, {"resume": "another"}],
)
def test_other_settings_are_not_resumed(eager, settings):
    interrupt(adapted())
    assert fit(adapted(), batches(), **({"learning_rate": 1e-2, "resume": "run"} | settings)).resumed_at == 0


@pytest.mark.parametrize("data", [batches(seed=1), batches(13), list(reversed(batches()))])
def test_other_data_are_not_resumed(eager, data):
    interrupt(adapted())
    assert fit(adapted(), data, learning_rate=1e-2, resume="run").resumed_at == 0


def test_another_optimizer_is_not_resumed(eager):
    interrupt(adapted())
    again = fit(adapted(), batches(), learning_rate=1e-2, optimizer=torch.optim.Adam, resume="run")
    assert again.resumed_at == 0


def test_another_loss_is_not_resumed(eager):
    interrupt(adapted())
    again = fit(adapted(), batches(), learning_rate=1e-2, loss=lambda m, b: 2 * label_loss(m, b), resume="run")
    assert again.resumed_at == 0


def test_another_start_is_not_resumed(eager):
    interrupt(adapted())
    assert fit(adapted(seed=1), batches(), learning_rate=1e-2, resume="run").resumed_at == 0


def layer_class(body):
    """LoRALinear with another forward, of the same name, as a learner would run an edited cell again."""
    space = {"LoRALinear": LoRALinear, "torch": torch, "__name__": "__main__"}
    exec(f"class Layer(LoRALinear):\n    def forward(self, x):\n        {body}\n", space)
    return space["Layer"]


PLAIN = "return self.base(x) + self.scale * (x @ self.A.T @ self.B.T)"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (PLAIN, PLAIN.replace("+", "-", 1)),
        (PLAIN.replace("self.scale", "2.0"), PLAIN.replace("self.scale", "3.0")),
        (
            PLAIN.replace("x @ self.A.T", "torch.tanh(x @ self.A.T)"),
            PLAIN.replace("x @ self.A.T", "torch.relu(x @ self.A.T)"),
        ),
        (f"x = (lambda v: 2.0 * v)(x); {PLAIN}", f"x = (lambda v: 4.0 * v)(x); {PLAIN}"),
    ],
    ids=["operator", "constant", "function", "inner constant"],
)
def test_edited_layer_code_is_not_resumed(eager, first, second):
    interrupt(adapted(layer_class(first)))
    assert fit(adapted(layer_class(second)), batches(), learning_rate=1e-2, resume="run").resumed_at == 0


def test_the_same_code_typed_again_is_resumed(eager):
    interrupt(adapted(layer_class(PLAIN)))
    assert fit(adapted(layer_class(PLAIN)), batches(), learning_rate=1e-2, resume="run").resumed_at == 7


def test_a_method_replaced_in_its_class_is_not_resumed(eager):
    Layer = layer_class(PLAIN)
    interrupt(adapted(Layer))
    Layer.forward = layer_class(PLAIN.replace("+", "-", 1)).forward
    assert fit(adapted(Layer), batches(), learning_rate=1e-2, resume="run").resumed_at == 0


def test_edited_code_around_trainable_layers_is_not_resumed(eager):
    def wrapped(factor):
        class Around(nn.Module):  # has no parameter of its own, as a bottleneck of two linear layers has none
            def __init__(self, base):
                super().__init__()
                self.inner = base

            forward = (lambda self, x: 2.0 * self.inner(x)) if factor == 2 else (lambda self, x: 3.0 * self.inner(x))

        model = adapted()
        attention = model.model.layers[0].self_attn
        attention.q_proj = Around(attention.q_proj)
        return model

    interrupt(wrapped(2))
    assert fit(wrapped(3), batches(), learning_rate=1e-2, resume="run").resumed_at == 0


def test_edited_code_of_a_parent_class_is_not_resumed(eager):
    def child(body):
        return type("Layer", (layer_class(body),), {})

    interrupt(adapted(child(PLAIN)))
    again = fit(adapted(child(PLAIN.replace("+", "-", 1))), batches(), learning_rate=1e-2, resume="run")
    assert again.resumed_at == 0


def test_another_alpha_is_not_resumed(eager):
    interrupt(add_lora(tiny_model(), r=4, alpha=8))
    assert fit(add_lora(tiny_model(), r=4, alpha=9), batches(), learning_rate=1e-2, resume="run").resumed_at == 0


def test_a_bfloat16_model_trained_whole_resumes(eager):
    whole = fit(tiny_model().bfloat16(), batches(), learning_rate=1e-3)
    interrupt(tiny_model().bfloat16(), learning_rate=1e-3)
    again = fit(tiny_model().bfloat16(), batches(), learning_rate=1e-3, resume="run")
    assert (again.resumed_at, again.losses) == (7, whole.losses)


def test_nothing_is_kept_or_resumed_under_ci(eager, monkeypatch):
    interrupt(adapted())
    kept = sorted(eager.rglob("*"))
    monkeypatch.setenv("CI", "true")
    assert fit(adapted(), batches(), learning_rate=1e-2, resume="run").resumed_at == 0
    assert sorted(eager.rglob("*")) == kept


@pytest.mark.parametrize(("pace", "resumed"), [(0.0, 7), (1e9, 0)])
def test_the_pace_of_checkpoints_is_the_one_that_stands_on_the_package(cache, monkeypatch, pace, resumed):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", pace)
    interrupt(adapted())
    assert fit(adapted(), batches(), learning_rate=1e-2, resume="run").resumed_at == resumed


def test_nothing_is_kept_without_a_name(eager):
    fit(adapted(), batches(), learning_rate=1e-2)
    assert not eager.exists()


def slow_loss(model, batch):
    time.sleep(0.05)
    return label_loss(model, batch)


def train_in_a_process_that_is_killed():
    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = 0.0
    fit(adapted(), batches(40), learning_rate=1e-2, loss=slow_loss, resume="run")


@pytest.mark.slow
def test_a_process_killed_by_the_system_resumes_to_the_same_losses(eager):
    process = multiprocessing.get_context("spawn").Process(target=train_in_a_process_that_is_killed)
    process.start()
    deadline, steps = time.time() + 120, 0
    while steps < 3 and time.time() < deadline and process.is_alive():
        time.sleep(0.02)
        for path in eager.glob("run-????????????????.safetensors"):
            with safe_open(path, "pt") as file:
                steps = len(json.loads(file.metadata()["history"])["losses"])
    process.kill()  # SIGKILL
    process.join()
    assert process.exitcode == -9
    again = fit(adapted(), batches(40), learning_rate=1e-2, loss=slow_loss, resume="run")
    assert 3 <= again.resumed_at < 40
    assert again.losses == fit(adapted(), batches(40), learning_rate=1e-2).losses
