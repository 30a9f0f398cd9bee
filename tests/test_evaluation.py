"""Claims of lessonlib.evaluation. References: Newcombe (1998), scipy.stats, hand arithmetic."""

import gc
import weakref

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from lessonlib import evaluation
from lessonlib.evaluation import (
    Accuracy,
    SavedTensors,
    Times,
    accuracy,
    mean_difference,
    paired_difference,
    paired_times,
    tensor_bytes,
    text_interval,
    training_bytes,
    wilson_interval,
)
from lessonlib.lora import add_lora
from lessonlib.training.labels import LabelTask

TEXTS = ["late", "thanks " * 9, "broken parcel", "billing " * 5, "refund", "delivery late " * 3, "question"]


# --- accuracy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3 (score without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_gives_the_published_values(right, n, low, high):
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_solves_its_equation():
    # By definition the ends p of the interval are where (share - p)^2 = z^2 p (1 - p) / n.
    z = stats.norm.ppf(0.995)
    for p in wilson_interval(37, 50, level=0.99):
        assert (37 / 50 - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / 50)


@pytest.mark.parametrize(("right", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(right, n):
    with pytest.raises(ValueError, match=f"{right} right of {n}"):
        wilson_interval(right, n)


def one_by_one(model, task, texts):
    """The likeliest label of each text, from a full forward pass of that text alone."""
    with torch.no_grad():
        rows = [model(torch.tensor([task.encode(text)])).logits[0, -1, task.label_ids] for text in texts]
    return [row.argmax().item() for row in rows]


def test_predictions_come_in_the_callers_order(make_tiny, tokenizer):
    model, task = (
        make_tiny(initializer_range=0.5),
        LabelTask(tokenizer, ["refund", "billing", "technical", "account"]),
    )
    expected = one_by_one(model, task, TEXTS * 6)
    result = accuracy(model, task, TEXTS * 6, [0] * len(TEXTS * 6))
    assert len(set(expected)) > 1
    assert result.predictions == expected
    assert result.value == expected.count(0) / len(expected)


def test_accuracy_leaves_the_model_in_its_mode_and_without_gradients(tiny, tokenizer):
    task = LabelTask(tokenizer, ["refund", "billing"])
    for mode in (True, False):
        accuracy(tiny.train(mode), task, TEXTS, [0, 1, 0, 1, 0, 1, 0])
        assert tiny.training is mode
    assert all(p.grad is None for p in tiny.parameters())


def test_accuracy_is_a_share_with_its_interval():
    result = Accuracy(predictions=[0, 1, 2, 2, 1], targets=[0, 1, 2, 0, 1])
    assert (result.value, result.n, result.interval) == (0.8, 5, wilson_interval(4, 5))
    assert repr(result) == "0.800 (95 % interval 0.376 to 0.964, n = 5)"


# --- paired comparison --------------------------------------------------------------------------------------


def answers(right):
    return Accuracy([0 if r else 1 for r in right], [0] * len(right))


def test_no_difference_is_zero():
    same = answers([True, False, True])
    assert paired_difference(same, same) == (0.0, 0.0, 0.0)


def test_the_difference_is_as_minus_bs():
    draw = np.random.default_rng(0)
    a, b = answers(draw.random(300) < 0.9), answers(draw.random(300) < 0.7)
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(a.value - b.value)
    assert 0 < low < difference < high
    assert paired_difference(b, a)[0] == -difference


def test_the_bootstrap_interval_is_near_the_normal_one():
    draw = np.random.default_rng(1)
    a, b = answers(draw.random(1000) < 0.8), answers(draw.random(1000) < 0.75)
    gain = a.right.astype(float) - b.right
    expected = stats.norm.interval(0.95, gain.mean(), gain.std() / 1000**0.5)
    assert paired_difference(a, b)[1:] == pytest.approx(expected, abs=0.004)


def test_pairing_narrows_the_interval():
    draw = np.random.default_rng(2)
    right = draw.random(400) < 0.7
    a, b = answers(right | (draw.random(400) < 0.1)), answers(right)
    other = answers(draw.permutation(right))
    (_, low, high), (_, low_other, high_other) = paired_difference(a, b), paired_difference(a, other)
    assert high - low < 0.6 * (high_other - low_other)


def test_other_texts_are_refused():
    for targets in ([0, 1, 1], [0, 1]):
        with pytest.raises(ValueError, match=r"not measured on the same texts in the same order"):
            paired_difference(Accuracy([0, 1, 0], [0, 1, 0]), Accuracy([0] * len(targets), targets))


def test_a_difference_over_several_runs_is_paired_by_text():
    # 50 more right of 200: the gain is 0.25, and by the normal approximation its interval 0.25 +- 1.96 x 0.0306.
    plain, more = Accuracy([1] * 100 + [0] * 100, [1] * 200), Accuracy([1] * 150 + [0] * 50, [1] * 200)
    gain, low, high = mean_difference([more], [plain])
    assert gain == 0.25 and abs(low - 0.19) < 0.015 and abs(high - 0.31) < 0.015
    assert mean_difference([more, plain], [plain])[0] == 0.125
    assert mean_difference([plain], [plain]) == (0, 0, 0)


def test_values_that_are_all_the_same_have_no_spread():
    assert text_interval(np.full(5, 0.5)) == (0.5, 0.5, 0.5)


# --- bytes --------------------------------------------------------------------------------------------------


def mlp():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def saved_bytes(model, x):
    with SavedTensors(model) as saved:
        y = model(x)
    del y
    return saved.bytes


def test_saved_tensors_are_what_the_hand_counts():
    # Kept: x (7, 3), and the ReLU's result (7, 5), once for its own gradient and the second layer's.
    assert saved_bytes(mlp(), torch.randn(7, 3)) == 4 * (7 * 3 + 7 * 5)


def test_a_frozen_first_layer_keeps_nothing():
    model = mlp()
    model[0].requires_grad_(False)
    assert saved_bytes(model, torch.randn(7, 3)) == 4 * 7 * 5


def test_half_the_width_of_a_number_is_half_the_bytes():
    assert saved_bytes(mlp().bfloat16(), torch.randn(7, 3).bfloat16()) == 2 * (7 * 3 + 7 * 5)


def test_nothing_is_kept_without_gradients():
    with torch.no_grad():
        assert saved_bytes(mlp(), torch.randn(7, 3)) == 0


def test_what_was_counted_is_given_back():
    # tanh keeps its own output for the backward pass.
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
    weights = weakref.ref(model[0].weight)
    saved_bytes(model, torch.randn(7, 3))
    del model
    gc.collect()
    assert weights() is None


def test_counting_does_not_change_the_gradients():
    model, x = mlp(), torch.randn(7, 3)
    model(x).sum().backward()
    expected = model[0].weight.grad.clone()
    model.zero_grad()
    with SavedTensors(model):
        y = model(x)
    y.sum().backward()
    assert torch.equal(model[0].weight.grad, expected)


def test_adamw_holds_two_states_a_number_and_a_step_a_tensor():
    model = nn.Linear(10, 4)  # 40 + 4 numbers
    optimizer = torch.optim.AdamW(model.parameters())
    assert training_bytes(model, optimizer) == {"weights": 176, "gradients": 0, "optimizer states": 0}
    model(torch.randn(2, 10)).sum().backward()
    optimizer.step()
    assert training_bytes(model, optimizer) == {
        "weights": 4 * 44,
        "gradients": 4 * 44,
        "optimizer states": 2 * 4 * 44 + 2 * 4,  # two tensors, a float32 step each
    }


def test_lora_has_gradients_and_states_of_its_own_numbers_only(tiny, tiny_tokens):
    base = sum(p.numel() for p in tiny.parameters())
    add_lora(tiny.bfloat16(), ["q_proj"], r=4)
    optimizer = torch.optim.AdamW([p for p in tiny.parameters() if p.requires_grad])
    tiny(tiny_tokens, labels=tiny_tokens).loss.backward()
    optimizer.step()
    adapter = 2 * 4 * (32 + 32)
    assert training_bytes(tiny, optimizer) == {
        "weights": 2 * base + 4 * adapter,
        "gradients": 4 * adapter,
        "optimizer states": 2 * 4 * adapter + 4 * 4,
    }


def test_shared_storage_is_counted_once(make_tiny):
    apart, tied = make_tiny(), make_tiny(tie_word_embeddings=True)
    assert training_bytes(apart)["weights"] - training_bytes(tied)["weights"] == 4 * 512 * 32
    x = torch.zeros(10)
    assert tensor_bytes([x, x[:5], x.view(2, 5), None]) == 40


# --- times --------------------------------------------------------------------------------------------------


def test_functions_are_timed_in_turns_and_the_warm_up_is_left_out(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(evaluation, "clock", lambda: now[0])

    def takes(name, seconds):
        def function():
            calls.append(name)
            now[0] += 100.0 if len(calls) <= 4 else seconds

        return function

    times = paired_times({"a": takes("a", 3.0), "b": takes("b", 2.0)}, rounds=5, warmup=2)
    assert calls == ["a", "b"] * 7
    assert times.seconds == {"a": pytest.approx([3.0] * 5), "b": pytest.approx([2.0] * 5)}
    assert times.ratio("a", to="b") == pytest.approx((1.5, 1.5, 1.5))


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    times = Times({"a": [2.0, 30.0, 4.0], "b": [1.0, 10.0, 4.0]})  # ratios 2, 3, 1
    assert times.ratio("a", to="b")[0] == 2.0
    assert repr(times) == "a 4000.0 ms · b 4000.0 ms"


@pytest.mark.parametrize("n", [6, 9, 10, 19, 20, 50])
def test_the_ratios_interval_is_that_of_a_median(n):
    ratios = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    expected = stats.quantile_test(ratios, q=0, p=0.5).confidence_interval(0.95)
    assert Times({"a": list(ratios), "b": [1.0] * n}).ratio("a", to="b")[1:] == (expected.low, expected.high)


def test_few_rounds_give_the_widest_interval_there_is():
    assert Times({"a": [1.0, 2.0, 3.0], "b": [1.0] * 3}).ratio("a", to="b") == (2.0, 1.0, 3.0)
