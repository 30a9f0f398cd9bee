"""A masked training step, and a round of pruning: this library beside torch.nn.utils.prune, in turns, in one process.

Same network (300-100, MNIST-1D's 40 inputs), same start, same masks at 90 % sparsity, same batches of 128, Adam. Two
widths: the lesson's network, and one of 2 × 2048 units where the products dominate. The losses are compared over 20
steps (they must agree to 1e-3). A round: scores, the smallest fifth of what is left of each layer, new masks.
Prints the ratio of medians with its interval; target at most 1.0.

    python benchmarks/pruning_step.py [rounds]
"""

import copy
import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from lessonlib.corpora.digits import mnist1d
from lessonlib.evaluation import paired_times
from lessonlib.pruning import full_masks, hold, layerwise_masks, magnitudes

TARGET_RATIO = 1.0
FAILS_OVER = 1.15 * TARGET_RATIO


def narrow_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def wide_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10))


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    return {path: m for path, m in network.named_modules() if isinstance(m, nn.Linear)}


class Trainer:
    """One step of Adam on the next batch of 128."""

    def __init__(self, network: nn.Module):
        self.network, self.images, self.place = network, mnist1d("train"), 0
        self.optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, fused=True)

    def step(self):
        batch = torch.arange(128) + 128 * (self.place % 31)
        loss = F.cross_entropy(self.network(self.images.x[batch]), self.images.y[batch])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.place += 1
        return loss.item()


def pair(network: nn.Module) -> tuple[Trainer, Trainer, dict]:
    """Our trainer and that of torch.nn.utils.prune, with the same start and masks at 90 %."""
    masks = full_masks(network)
    masks = layerwise_masks(magnitudes(network, masks), masks, dict.fromkeys(masks, 0.9))
    theirs = copy.deepcopy(network)
    for path, layer in linear_layers(theirs).items():
        prune.custom_from_mask(layer, "weight", masks[f"{path}.weight"])
    ours = Trainer(network)
    hold(network, masks, ours.optimizer)
    return ours, Trainer(theirs), masks


def one_round(network: nn.Module, masks: dict) -> dict:
    return layerwise_masks(magnitudes(network, masks), masks, dict.fromkeys(masks, 0.2))


def their_round(network: nn.Module) -> None:
    for layer in linear_layers(network).values():
        prune.l1_unstructured(layer, "weight", amount=0.2)


def round_times(network: nn.Module, rounds: int):
    """A fresh copy each time, made outside the clock, so that both prune the same weights."""
    masks = full_masks(network)
    copies = iter([copy.deepcopy(network) for _ in range(rounds + 2)])
    functions = {"ours": lambda: one_round(network, masks), "torch": lambda: their_round(next(copies))}
    return paired_times(functions, rounds)


def main(rounds: int = 40) -> int:
    failed = False
    for name, make in (("300-100", narrow_network), ("2048-2048", wide_network)):
        ours, theirs, masks = pair(make())
        worst = max(abs(ours.step() - theirs.step()) for _ in range(20))
        zero = all((ours.network.get_parameter(n)[~m] == 0).all() for n, m in masks.items())
        print(f"{name}: largest difference of the losses over 20 steps {worst:.1e}; pruned weights zero: {zero}")
        failed |= worst > 1e-3 or not zero
        for what, times in (
            ("masked step", paired_times({"ours": ours.step, "torch": theirs.step}, rounds)),
            ("pruning round", round_times(make(), rounds)),
        ):
            ratio, low, high = times.ratio("ours", to="torch")
            print(f"{name}: {what} {times} · ours / torch {ratio:.2f} ({low:.2f} to {high:.2f})")
            failed |= ratio > FAILS_OVER
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
