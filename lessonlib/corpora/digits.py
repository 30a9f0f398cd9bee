"""Two sets of digits, small enough that a network learns them in a second.

`digits`: 1,797 scanned digits of 8 × 8 pixels, part of scikit-learn (Alpaydin and Kaynak, 1998). `mnist1d`: signals of 40
points in the shapes of ten digits, shifted, sheared and noisy (Greydanus and Kobak, 2020, arXiv:2011.14439), made here
by the authors' own package: nothing is fetched.
"""

import functools
import hashlib
import random
from dataclasses import dataclass

import numpy as np
import torch

from .own import CorpusError

TRAINING_DIGITS = 1300


@dataclass(frozen=True)
class Images:
    """n images of one set: x (n, pixels) float32, y (n,) the digits."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self):
        return len(self.y)

    def to(self, device) -> "Images":
        return Images(self.x.to(device), self.y.to(device))


def digits(split: str) -> Images:
    """Scanned digits, pixels from 0 to 1: "train" (1,300) or "test" (497), shuffled once and for all.

    >>> digits("test").x.shape
    torch.Size([497, 64])
    """
    return _chosen(_digits(), split)


def mnist1d(split: str) -> Images:
    """Signals in the shapes of digits, the published set: "train" (4,000) or "test" (1,000).

    >>> mnist1d("test").x.shape
    torch.Size([1000, 40])
    """
    return _chosen(_mnist1d(), split)


SETS = {"digits": digits, "mnist1d": mnist1d}


def _chosen(sets: dict[str, Images], split: str) -> Images:
    if split not in sets:
        raise CorpusError(f"no split {split!r} of the digits; there are {', '.join(sets)}")
    return sets[split]


@functools.cache
def _digits() -> dict[str, Images]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = torch.tensor(x[order] / 16, dtype=torch.float32), torch.tensor(y[order])
    n = TRAINING_DIGITS
    return {"train": Images(x[:n], y[:n]), "test": Images(x[n:], y[n:])}


@functools.cache
def _mnist1d() -> dict[str, Images]:
    # `make_dataset`, and not the package's `get_dataset`, which downloads a pickle.
    from mnist1d.data import make_dataset

    kept = random.getstate(), np.random.get_state()
    try:
        made = make_dataset()  # seeds Python and numpy by itself
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
    tensors = {name: torch.tensor(made[name]) for name in ("x", "y", "x_test", "y_test")}
    return {
        "train": Images(tensors["x"].float(), tensors["y"].long()),
        "test": Images(tensors["x_test"].float(), tensors["y_test"].long()),
    }


def fingerprint(name: str) -> str:
    """A short hash of a set, "digits" or "mnist1d", that the last bit of a floating-point unit does not change."""
    digest = hashlib.sha256()
    for split in ("train", "test"):
        images = SETS[name](split)
        rounded = (images.x.double() * 1000).round().short()
        digest.update(rounded.numpy().tobytes() + images.y.short().numpy().tobytes())
    return digest.hexdigest()[:16]
