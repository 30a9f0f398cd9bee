"""Two sets of digits, small enough that a network learns them in a second, and the network that learns them.

`digits`: 1,797 scanned digits of 8 × 8 pixels, part of scikit-learn (Alpaydin and Kaynak, 1998). `mnist1d`: signals of 40
points in the shapes of ten digits, shifted, sheared and noisy (Greydanus and Kobak, 2020, arXiv:2011.14439), made here
by the authors' own package: nothing is fetched.
"""

import functools
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lessonlib.evaluation import Accuracy

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


# --- the network that learns them --------------------------------------------------------------------------------------


def digit_network(inputs: int, seed: int = 0) -> nn.Sequential:
    """Two hidden layers, 300 and 100 wide, the network of Frankle and Carbin's section 2 (LeCun et al., 1998).

    x (n, inputs) -> (n, 10)

    >>> sum(layer.weight.numel() for layer in digit_network(40) if isinstance(layer, nn.Linear))
    43000
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(inputs, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    return nn.Sequential(*layers)


def learn(
    network: nn.Module,
    images: Images,
    *,
    optimizer: Callable = torch.optim.Adam,
    learning_rate: float = 2e-3,
    steps: int = 600,
    batch_size: int = 128,
    seed: int = 0,
) -> None:
    """Train all parameters at a constant learning rate, on batches drawn in an order that the seed decides.

    optimizer(parameters, lr=, fused=) builds the optimizer. Quiet: a round of pruning trains many times, for a second each.
    Raises FloatingPointError where the loss is not finite at the end.
    """
    engine = optimizer(network.parameters(), lr=learning_rate, fused=True)  # twice as fast on a small network
    draw = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch_size // len(images))
    order = torch.cat([torch.randperm(len(images), generator=draw) for _ in range(epochs)])
    for batch in order.to(images.y.device).split(batch_size)[:steps]:
        loss = F.cross_entropy(network(images.x[batch]), images.y[batch])
        engine.zero_grad()
        loss.backward()
        engine.step()
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss after {steps} steps is {loss.item()}: try a smaller learning_rate"
        )


@torch.no_grad()
def score(network: nn.Module, images: Images) -> Accuracy:
    """How many of the images the network names rightly."""
    return Accuracy(network(images.x).argmax(-1).tolist(), images.y.tolist())
