"""Claims of lessonlib.corpora.digits. References: scikit-learn's own arrays, the authors' package, hand arithmetic."""

import random

import numpy as np
import pytest
import torch
from mnist1d.data import make_dataset
from sklearn.datasets import load_digits

from lessonlib import corpora
from lessonlib.corpora import CorpusError, digits
from lessonlib.corpora.digits import Images, digit_network, learn, mnist1d, score

DIGITS_SHA, MNIST1D_SHA = "7b5e62dd64f4196d", "5409fe18fca900cc"


def test_the_scanned_digits_are_scikit_learns_each_once():
    x, y = load_digits(return_X_y=True)
    parts = [digits.digits(split) for split in ("train", "test")]
    ours = torch.cat([torch.cat([part.x * 16, part.y[:, None]], 1) for part in parts])
    theirs = torch.tensor(np.c_[x, y], dtype=torch.float32)
    assert [len(part) for part in parts] == [1300, 497]
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))


def test_the_signals_are_what_the_authors_package_makes():
    made = make_dataset()
    for split, suffix in (("train", ""), ("test", "_test")):
        images = mnist1d(split)
        np.testing.assert_allclose(images.x.numpy(), made[f"x{suffix}"], rtol=1e-6, atol=1e-6)
        assert images.y.tolist() == made[f"y{suffix}"].tolist()
    assert len(mnist1d("train")) == 4000 and mnist1d("test").x.dtype == torch.float32


def test_making_the_signals_leaves_the_learners_random_numbers_alone():
    random.seed(7)
    np.random.seed(7)
    expected = random.random(), np.random.rand()
    random.seed(7)
    np.random.seed(7)
    digits._mnist1d.__wrapped__()
    assert (random.random(), np.random.rand()) == expected


def test_a_network_of_a_seed_is_the_same_and_leaves_torchs_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = digit_network(40, seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), digit_network(40, seed=3).parameters()))
    assert not torch.equal(first[0].weight, digit_network(40, seed=4)[0].weight)


def test_both_sets_have_a_fingerprint_that_corpora_knows_and_that_sees_a_change(monkeypatch):
    assert corpora.fingerprint("digits") == DIGITS_SHA and corpora.fingerprint("mnist1d") == MNIST1D_SHA
    part = digits.digits("test")
    for changed in (Images(part.x + 0.01, part.y), Images(part.x, (part.y + 1) % 10)):
        monkeypatch.setitem(digits.SETS, "digits", lambda split, changed=changed: changed)
        assert corpora.fingerprint("digits") != DIGITS_SHA


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(CorpusError, match=r"no split 'validation'.*train, test"):
        mnist1d("validation")


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
