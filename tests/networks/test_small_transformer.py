"""Claims of lessonlib.networks.small_transformer. References: numpy's lstsq, ridge in closed form, Python's own arithmetic."""

import numpy as np
import pytest
import torch
from torch import nn

from lessonlib.networks.small_transformer import (
    VOCABULARY,
    Chains,
    SmallTransformer,
    answer_only,
    arithmetician,
    chained_arithmetic,
    filler_dots,
    in_context,
    least_squares,
    linear_functions,
    regression_loss,
    ridge,
    share_right,
    spell,
    target_loss,
    with_chain,
    write_on,
)
from lessonlib.training import fit

close = torch.testing.assert_close


# --- the network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embed", "x"),
    [(nn.Embedding(10, 16), torch.arange(9).repeat(2, 1)), (nn.Linear(5, 16), torch.randn(2, 9, 5))],
)
def test_a_later_token_changes_no_earlier_output_and_every_later_one(embed, x):
    model = SmallTransformer(embed, outputs=7, width=16, layers=2, heads=4)
    other = x.clone()
    other[:, 4] = 1 + x[:, 5]
    before, after = model(x), model(other)
    assert before.shape == (2, 9, 7)
    close(after[:, :4], before[:, :4], rtol=0, atol=1e-6)
    assert ((after - before)[:, 4:].abs().amax(-1) > 1e-5).all()


def test_a_place_tells_equal_tokens_apart():
    model = SmallTransformer(nn.Embedding(10, 16), outputs=7, width=16, layers=1)
    same = model(torch.zeros(1, 5, dtype=torch.long))
    assert (same[0, 1:] - same[0, :-1]).abs().max() > 1e-4


def test_attention_is_softmax_of_scaled_products():
    # Vaswani et al. (2017), equation 1, place by place and head by head.
    model = SmallTransformer(nn.Linear(3, 8), outputs=2, width=8, layers=1, heads=2)
    block, x = model.blocks[0], torch.randn(1, 6, 3)
    h = model.embed(x) + model.position_embedding[:6]
    q, k, v = block.queries_keys_values(block.norm_attention(h)).chunk(3, -1)
    seen = torch.zeros_like(h)
    for place in range(6):
        for head in (slice(0, 4), slice(4, 8)):
            weights = torch.softmax(k[0, : place + 1, head] @ q[0, place, head] / 4**0.5, 0)
            seen[0, place, head] = weights @ v[0, : place + 1, head]
    h = h + block.out(seen)
    h = h + block.mlp(block.norm_mlp(h))
    close(model(x), model.head(h), rtol=0, atol=1e-5)


def test_parameters_by_hand():
    # A layer of width D: 4 D² + 4 D of attention, 8 D² + 5 D of the MLP, 4 D of the norms. D = 96, three layers;
    # 42 tokens in, 64 places, a norm, and 42 tokens out.
    D = 96
    expected = 3 * (12 * D * D + 13 * D) + 42 * D + 64 * D + 2 * D + (42 * D + 42)
    assert sum(p.numel() for p in arithmetician().parameters()) == expected


# --- in-context regression ----------------------------------------------------------------------------------


def test_the_prompt_holds_x_and_y_in_turns():
    functions = linear_functions(3, d=2, examples=4, seed=0)
    prompt = functions.prompt
    assert prompt.shape == (3, 8, 3)
    close(prompt[:, ::2, :2], functions.x)
    close(prompt[:, 1::2, 2], functions.y)
    assert not prompt[:, ::2, 2].any() and not prompt[:, 1::2, :2].any()


def test_functions_are_linear_but_for_the_noise():
    exact, noisy = (linear_functions(500, 3, 8, seed=1, noise=noise) for noise in (0.0, 0.5))
    for x, y in zip(exact.x.numpy(), exact.y.numpy()):
        assert np.abs(x @ np.linalg.lstsq(x, y)[0] - y).max() < 1e-4
    assert (noisy.y - exact.y).std().item() == pytest.approx(0.5, rel=0.05)
    assert exact.y.var().item() == pytest.approx(3, rel=0.1)


def test_a_value_is_given_before_its_y_is_seen():
    model, functions = SmallTransformer(nn.Linear(4, 64), 1, layers=1), linear_functions(2, 3, 6, seed=0)
    before = in_context(model, functions)
    functions.y[:, 3] += 5
    after = in_context(model, functions)
    close(after[:, :4], before[:, :4], rtol=0, atol=1e-6)
    assert ((after - before)[:, 4:].abs() > 1e-6).all()


def test_least_squares_is_numpys():
    functions = linear_functions(20, d=4, examples=11, seed=2)
    values = least_squares(functions)
    for x, y, ours in zip(functions.x.double().numpy(), functions.y.double().numpy(), values):
        for k in range(1, 11):
            if k != 4:  # as many examples as variables: nearly singular, rounding decides
                assert ours[k].item() == pytest.approx(x[k] @ np.linalg.lstsq(x[:k], y[:k])[0], abs=2e-2)
    assert not values[:, 0].any()


def test_ridge_is_the_closed_form():
    functions = linear_functions(20, d=4, examples=11, seed=2)
    for x, y, ours in zip(functions.x.double().numpy(), functions.y.double().numpy(), ridge(functions, 0.25)):
        for k in range(1, 11):
            w = np.linalg.inv(x[:k].T @ x[:k] + 0.25 * np.eye(4)) @ x[:k].T @ y[:k]
            assert ours[k].item() == pytest.approx(x[k] @ w, abs=1e-3)


def test_the_right_ridge_beats_least_squares_and_other_penalties():
    functions = linear_functions(20_000, d=4, examples=9, seed=3)
    error = lambda values: ((values - functions.y)[:, 8] ** 2).mean().item()  # noqa: E731
    best = error(ridge(functions, 0.25))
    assert best < error(ridge(functions, 0.025)) < error(least_squares(functions))
    assert best < error(ridge(functions, 2.5))
    # Noise, and d / (n - d - 1) of it for the estimated w: 0.25 (1 + 4 / 3), by the inverse Wishart's mean.
    assert error(least_squares(functions)) == pytest.approx(0.25 * (1 + 4 / 3), rel=0.1)


# --- chained arithmetic -------------------------------------------------------------------------------------


def worked(text):
    """The results of a question, by Python's own arithmetic."""
    value, *steps = text.removesuffix(" =").split()
    results = []
    for step in steps:
        value = str(eval(f"({value} {step})".replace("×", "*")) % 10)
        results.append(value)
    return " ".join(results)


def test_each_result_is_pythons():
    chains = chained_arithmetic(200, steps=8, seed=0)
    for question, results in zip(chains.question, chains.results):
        assert worked(spell(question)) == spell(results)
    assert {VOCABULARY[token][0] for token in chains.question[:, 1:-1].flatten()} == {"+", "-", "×"}


def test_targets_ask_for_the_same_answer_in_three_ways():
    chains = Chains(torch.tensor([[3, 14, 32, 40]]), torch.tensor([[7, 4]]))
    spelled = [
        [spell(part[0]) for part in vars(make(chains)).values()] for make in (with_chain, answer_only, filler_dots)
    ]
    assert spelled == [["3 +4 ×2 =", "7 4"], ["3 +4 ×2 =", "4"], ["3 +4 ×2 = .", "4"]]


def test_dots_take_as_many_tokens_as_the_chain():
    chains = chained_arithmetic(2, steps=8, seed=0)
    lengths = [make(chains).given.shape[1] + make(chains).wanted.shape[1] for make in (with_chain, filler_dots)]
    assert lengths[0] == lengths[1] == answer_only(chains).given.shape[1] + 8


def test_the_loss_is_the_mean_over_what_is_wanted():
    model, targets = arithmetician(layers=1), with_chain(chained_arithmetic(5, 3, seed=0))
    tokens, losses = torch.cat([targets.given, targets.wanted], 1), []
    for row in tokens:
        for place in range(5, 8):  # the chain's own places, behind digit, three steps and =
            losses.append(-torch.log_softmax(model(row[None, :place])[0, -1], -1)[row[place]])
    close(target_loss(model, targets), torch.stack(losses).mean(), rtol=0, atol=1e-5)


def test_what_is_written_is_read_again():
    class Counter(nn.Module):
        """Writes the digit behind the last token's."""

        def forward(self, tokens):
            return nn.functional.one_hot((tokens + 1) % 10, len(VOCABULARY)).float()

    chains = Chains(torch.tensor([[3, 14, 32, 14, 4]]), torch.tensor([[5, 6, 7]]))
    assert write_on(Counter(), with_chain(chains)).tolist() == [[5, 6, 7]]
    assert share_right(Counter(), with_chain(chains)) == 1.0
    assert share_right(Counter(), answer_only(chains)) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: chained_arithmetic(0, 3, 0),
        lambda: chained_arithmetic(3, 0, 0),
        lambda: linear_functions(3, 2, -1, 0),
    ],
)
def test_a_size_below_one_is_named(call):
    with pytest.raises(ValueError, match=r"(n|steps|examples) = (0|-1): give at least 1"):
        call()


# --- training -----------------------------------------------------------------------------------------------


def test_seeds_reproduce_and_differ():
    a, b, c = (linear_functions(5, 3, 6, seed).prompt for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    a, b, c = (chained_arithmetic(5, 3, seed).question for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def train(make, batches, loss, learning_rate):
    torch.manual_seed(0)
    model = make()
    return model, fit(model, batches, learning_rate=learning_rate, loss=loss, warmup=5).losses


def small_regressor():
    return SmallTransformer(nn.Linear(2, 32), 1, layers=2, width=32)


@torch.no_grad()
def test_a_few_steps_of_regression_beat_no_function_at_all():
    # Without a look at the examples 0 is the best value, with an error of 1 + 0.25.
    batches, unseen = (
        [linear_functions(64, 1, 5, seed) for seed in range(150)],
        linear_functions(2_000, 1, 5, 10**6),
    )
    with torch.enable_grad():
        model, _ = train(small_regressor, batches, regression_loss, 5e-3)
    errors = ((in_context(model, unseen) - unseen.y) ** 2).mean(0)
    assert errors[4] < 0.7 < 1.1 < errors[0] < 1.4


def test_the_same_seed_trains_the_same_network():
    batches = [linear_functions(16, 1, 5, seed) for seed in range(5)]
    one, again = (train(small_regressor, batches, regression_loss, 5e-3)[1] for _ in range(2))
    assert one == again


def test_one_step_of_arithmetic_is_learned():
    batches = [with_chain(chained_arithmetic(128, 1, seed)) for seed in range(250)]
    model, _ = train(lambda: arithmetician(layers=1, width=48), batches, target_loss, 3e-3)
    assert share_right(model, with_chain(chained_arithmetic(500, 1, seed=10**6))) > 0.9
