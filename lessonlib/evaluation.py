"""Accuracy with an interval, paired comparison, counted bytes, paired times."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import nn

from lessonlib.display import Bar
from lessonlib.training.clock import clock
from lessonlib.training.labels import LabelTask, label_logits


def wilson_interval(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: (low, high).

    Raises ValueError for no answers at all, and for a count that n cannot hold.

    >>> [round(x, 3) for x in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} right of {n}: n must be at least 1 and the count between 0 and n")
    interval = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass
class Accuracy:
    """A proportion of right answers, its 95 % interval, and each answer."""

    predictions: list[int]
    targets: list[int]

    @property
    def right(self) -> np.ndarray:
        return np.array(self.predictions) == np.array(self.targets)

    @property
    def n(self) -> int:
        return len(self.targets)

    @property
    def value(self) -> float:
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(int(self.right.sum()), self.n)

    def __repr__(self):
        low, high = self.interval
        return f"{self.value:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {self.n})"


@torch.no_grad()
def label_logits_of_texts(
    model: nn.Module,
    task: LabelTask,
    texts: Sequence[str],
    progress: Callable[[int], object] = lambda done: None,
) -> torch.Tensor:
    """Logits of the labels behind each text, in the order of the texts: (n, labels) float32, on the CPU.

    The model is asked in evaluation mode and left in the mode that it was in. progress: is called with the number of
    texts of each batch that is done.
    """
    batches, order = task.evaluation_batches(texts, [0] * len(texts))
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    logits = torch.empty(len(order), len(task.label_ids))
    for batch in batches:
        rows, order = order[: len(batch.last)], order[len(batch.last) :]
        logits[rows] = label_logits(model, batch.to(device)).float().cpu()
        progress(len(rows))
    model.train(was_training)
    return logits


def accuracy(model: nn.Module, task: LabelTask, texts: Sequence[str], targets: Sequence[int]) -> Accuracy:
    """The share of texts whose likeliest label is the right one. targets: the class number of each text."""
    bar = Bar(total=len(texts), desc="Evaluating")
    logits = label_logits_of_texts(model, task, texts, bar.update)
    result = Accuracy(logits.argmax(-1).tolist(), list(targets))
    bar.finish(f"Evaluated {result.n} texts: {result}")
    return result


def paired_difference(a: Accuracy, b: Accuracy) -> tuple[float, float, float]:
    """a's accuracy minus b's on the same texts: (difference, low, high), a 95 % bootstrap interval over the texts."""
    return mean_difference([a], [b])


def mean_difference(a: Sequence[Accuracy], b: Sequence[Accuracy]) -> tuple[float, float, float]:
    """a's accuracy minus b's, each the mean of its runs on the same texts: (difference, low, high), paired.

    The texts are drawn anew, each with the answers of all runs of both. Raises ValueError where the two were judged by
    other right answers.

    >>> mean_difference([Accuracy([1, 1], [1, 1])], [Accuracy([1, 0], [1, 1]), Accuracy([1, 1], [1, 1])])[0]
    0.25
    """
    if any(one.targets != a[0].targets for one in (*a, *b)):
        raise ValueError("the two were not measured on the same texts in the same order")
    return text_interval(shares_right(a) - shares_right(b))


def shares_right(answers: Sequence[Accuracy]) -> np.ndarray:
    """For each text the share of the runs that got it right, (texts,)."""
    return np.mean([one.right for one in answers], axis=0)


def text_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of values (texts,), one a text, and its 95 % bootstrap interval over the texts: (mean, low, high).

    >>> text_interval(np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0, 1.0)
    """
    if np.ptp(values) == 0:
        return (float(values[0]),) * 3
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(values.mean()), float(interval.low), float(interval.high)


def rank_at_energy(singular_values: Sequence[float], share: float) -> int:
    """The smallest number of directions that together hold a share of the energy, the sum of the squares.

    >>> rank_at_energy([4, 3, 1, 1, 1], 0.85)
    2
    """
    return int((cumulative_energy(singular_values) < share).sum()) + 1


def cumulative_energy(singular_values: Sequence[float]) -> np.ndarray:
    """Share of the energy that the largest 1, 2, ... singular values hold, (values,)."""
    squares = np.sort(np.asarray(singular_values, dtype=float))[::-1] ** 2
    return np.cumsum(squares) / squares.sum()


# --- bytes -----------------------------------------------------------------------------------------------------------


def tensor_bytes(tensors) -> int:
    """Bytes of tensors, each storage counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(storages.values())


class SavedTensors:
    """Counts what autograd keeps for the backward pass, the model's own parameters left out.

    >>> with SavedTensors(nn.Linear(3, 3)) as saved:
    ...     y = saved.model(torch.ones(5, 3))
    >>> saved.bytes
    60
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._kept = {}

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            # the storage too, so that no address comes twice
            self._kept[storage.data_ptr()] = (storage.nbytes(), storage)
        # Not the tensor itself: an operation that saves its own output would then hold itself, and never be freed.
        return tensor.detach()

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)
        self.bytes = sum(size for size, _ in self._kept.values())
        self._kept.clear()


def training_bytes(model: nn.Module, optimizer=None) -> dict[str, int]:
    """Bytes that training holds: weights, gradients, optimizer states. Counted, not estimated."""
    states = (
        [] if optimizer is None else [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    )
    return {
        "weights": tensor_bytes(model.parameters()),
        "gradients": tensor_bytes(p.grad for p in model.parameters()),
        "optimizer states": tensor_bytes(states),
    }


def step_bytes(model: nn.Module, tokens: torch.Tensor) -> dict[str, int]:
    """Bytes of one real training step with AdamW: weights, gradients, optimizer states, saved activations.

    tokens (B, T): the texts, with a loss on each next token. The learning rate is zero, so no weight moves; gradients
    are dropped at the end.
    """
    was_training = model.training
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    with SavedTensors(model) as saved:
        loss = model(tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    optimizer.step()
    counted = training_bytes(model, optimizer) | {"activations": saved.bytes}
    optimizer.zero_grad()
    model.train(was_training)
    return counted


# --- times -----------------------------------------------------------------------------------------------------------


@dataclass
class Times:
    """Seconds of several functions, measured in turns in one process."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """Median of the round-by-round ratios, and a 95 % interval of that median by order statistics."""
        ratios = sorted(a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))
        low, high = stats.binom.interval(0.95, len(ratios), 0.5)
        last = len(ratios) - 1
        return statistics.median(ratios), ratios[max(int(low) - 1, 0)], ratios[min(int(high), last)]

    def __repr__(self):
        return " · ".join(f"{name} {1000 * self.median(name):.1f} ms" for name in self.seconds)


def paired_times(functions: dict[str, Callable], rounds: int = 20, warmup: int = 2) -> Times:
    """Time the functions one after another, round after round, so that a busy moment falls on all of them."""
    times = Times({name: [] for name in functions})
    for i in range(warmup + rounds):
        for name, function in functions.items():
            start = clock()
            function()
            if i >= warmup:
                times.seconds[name].append(clock() - start)
    return times


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the seeds' values, and its 95 % interval by Student's t: (mean, low, high). One value has no width.

    >>> [round(x, 3) for x in seed_interval([0.60, 0.62, 0.64])]
    [0.62, 0.57, 0.67]
    """
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return mean, mean - half, mean + half
