"""Claims of lessonlib.networks.mlp. References: hand arithmetic, another run."""

import pytest
import torch

from lessonlib.corpora import digits
from lessonlib.corpora.digits import Images
from lessonlib.networks.mlp import digit_network, learn, score


def test_a_network_of_a_seed_is_the_same_and_leaves_torchs_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = digit_network(40, seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), digit_network(40, seed=3).parameters()))
    assert not torch.equal(first[0].weight, digit_network(40, seed=4)[0].weight)


def test_learning_makes_the_steps_it_says_each_image_once_an_epoch():
    images, seen = Images(torch.arange(10.0)[:, None], torch.zeros(10, dtype=torch.long)), []

    class Watched(torch.nn.Linear):
        def forward(self, x):
            seen.append(x[:, 0].tolist())
            return super().forward(x)

    learn(Watched(1, 2), images, steps=4, batch_size=5, seed=1)
    assert len(seen) == 4
    for epoch in (seen[0] + seen[1], seen[2] + seen[3]):
        assert sorted(epoch) == list(range(10))


def test_learning_is_the_same_for_a_seed_and_moves_every_parameter():
    images = digits.digits("train")
    networks = [digit_network(64) for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1)):
        learn(network, images, steps=5, seed=seed)
    same, again, other = (network.state_dict() for network in networks)
    start = digit_network(64).state_dict()
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["0.weight"], other["0.weight"])
    assert all(not torch.equal(same[name], start[name]) for name in same)


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(FloatingPointError, match="try a smaller learning_rate"):
        learn(digit_network(64), digits.digits("train"), learning_rate=1e30, steps=5)


def test_the_score_counts_the_likeliest_class():
    network = torch.nn.Linear(3, 3, bias=False)
    network.weight.data = torch.eye(3)
    answers = score(network, Images(torch.eye(3), torch.tensor([0, 1, 1])))
    assert answers.predictions == [0, 1, 2] and answers.value == pytest.approx(2 / 3)
