"""The small network of two hidden layers that learns either set of digits in a second, and its training."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib.corpora.digits import Images
from lessonlib.evaluation import Accuracy


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
    # fused: twice as fast on a small network
    optimizer = optimizer(network.parameters(), lr=learning_rate, fused=True)
    draw = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch_size // len(images))
    order = torch.cat([torch.randperm(len(images), generator=draw) for _ in range(epochs)])
    for batch in order.to(images.y.device).split(batch_size)[:steps]:
        loss = F.cross_entropy(network(images.x[batch]), images.y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss after {steps} steps is {loss.item()}: try a smaller learning_rate")


@torch.no_grad()
def score(network: nn.Module, images: Images) -> Accuracy:
    """How many of the images the network names rightly, the likeliest class being its answer."""
    return Accuracy(network(images.x).argmax(-1).tolist(), images.y.tolist())
