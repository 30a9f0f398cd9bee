"""Claims of lessonlib.corpora.digits. References: scikit-learn's own arrays, the authors' package."""

import random

import numpy as np
import pytest
import torch
from mnist1d.data import make_dataset
from sklearn.datasets import load_digits

from lessonlib import corpora
from lessonlib.corpora import CorpusError, digits
from lessonlib.corpora.digits import Images, mnist1d

DIGITS_SHA, MNIST1D_SHA = "7b5e62dd64f4196d", "5409fe18fca900cc"


def test_the_scanned_digits_are_scikit_learns_each_once():
    x, y = load_digits(return_X_y=True)
    parts = [digits.digits(split) for split in ("train", "test")]
    ours = torch.cat([torch.cat([part.x * 16, part.y[:, None]], 1) for part in parts])
    theirs = torch.tensor(np.c_[x, y], dtype=torch.float32)
    assert [len(part) for part in parts] == [1300, 497]
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))


@pytest.mark.slow
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


def test_both_sets_have_a_fingerprint_that_corpora_knows_and_that_sees_a_change(monkeypatch):
    assert corpora.fingerprint("digits") == DIGITS_SHA and corpora.fingerprint("mnist1d") == MNIST1D_SHA
    part = digits.digits("test")
    for changed in (Images(part.x + 0.01, part.y), Images(part.x, (part.y + 1) % 10)):
        monkeypatch.setitem(digits.SETS, "digits", lambda split, changed=changed: changed)
        assert corpora.fingerprint("digits") != DIGITS_SHA


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(CorpusError, match=r"no split 'validation'.*train, test"):
        mnist1d("validation")
