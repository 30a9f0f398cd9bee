"""Watching a served model without labels: do its answers, or its inputs, still look like the validation set's?

Both watches compare a window of what came in with the validation set and ask how often chance alone would give as
large a difference. Chance is not assumed but made: the two sets are pooled and split again, at random, many times
(a permutation test). If nothing has changed the window is exchangeable with the validation set, so the share of false
alarms is at most the level, whatever the number of classes and the size of the window. Fixed thresholds such as
"0.25 is a shift" have no such rate (Yurdakul and Naranjo, Journal of Risk Model Validation, on the population
stability index). An alarm says that something has changed, not that the model is wrong: look at the texts.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import jensenshannon


class MonitorError(ValueError):
    """What is to be watched cannot be compared; the message says why and what would do."""


# --- distances -------------------------------------------------------------------------------------------------------


def jensen_shannon(counts, reference) -> np.ndarray:
    """Jensen-Shannon divergence of two tables of counts, (..., K) and (K,) -> (...), in bits, from 0 to 1.

    The mean number of bits by which each tells more than their mixture. Source: Lin, 1991. scipy gives its root.

    >>> float(jensen_shannon([5, 0], [0, 9]))
    1.0
    """
    return jensenshannon(counts, reference, base=2, axis=-1) ** 2


# --- one window ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What a test says of a window: the distance, the largest that chance gives at this level, and how rare it is."""

    distance: float
    threshold: float
    p: float
    drifted: bool

    def __repr__(self):
        said = "DRIFT" if self.drifted else "no drift"
        return f"{said}: distance {self.distance:.3f}, threshold {self.threshold:.3f}, p = {self.p:.3f}"


def _verdict(distance: float, by_chance: np.ndarray, level: float) -> Verdict:
    # The window as it came counts as one of the permutations (Phipson and Smyth, 2010): p is never 0, and under no change
    # p ≤ level has at most that probability.
    n = 1 + len(by_chance)
    p = (1 + int((by_chance >= distance - 1e-12).sum())) / n
    threshold = np.sort(by_chance)[-int(level * n + 1e-9)]
    return Verdict(float(distance), float(threshold), p, p <= level)


class PredictionDrift:
    """Compares the frequencies of the predicted labels with those on the validation set.

    predictions: the label numbers that the model gave there. labels: how many labels there are. level: the largest
    chance of a false alarm for one window. distance(counts (..., K), reference (..., K)): `jensen_shannon`, or another.
    permutations: how many windows are drawn from the pool. seed: of that draw.

    Raises MonitorError for a level that is no chance or that so few permutations cannot tell, for no predictions, and
    for one that is no label's number.

    >>> watch = PredictionDrift([0, 1] * 100, labels=2)
    >>> watch([0] * 20).drifted, watch([0, 1] * 10).drifted
    (True, False)
    """

    def __init__(
        self,
        predictions: Sequence[int],
        labels: int,
        *,
        level: float = 0.01,
        distance: Callable = jensen_shannon,
        permutations: int = 1999,
        seed: int = 0,
    ):
        _refuse_level(level, permutations)
        self.labels, self.level = labels, level
        self.distance, self.permutations = distance, permutations
        self.counts = self._counted(predictions)
        self.random = np.random.default_rng(seed)

    def __call__(self, window: Sequence[int]) -> Verdict:
        counts = self._counted(window)
        pooled = counts + self.counts
        # (permutations, K): the counts of each window that is drawn from the pool
        drawn = self.random.multivariate_hypergeometric(pooled, counts.sum(), size=self.permutations)
        by_chance = self._distances(drawn, pooled - drawn)
        return _verdict(self._distances(counts, self.counts), by_chance, self.level)

    def _distances(self, counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return np.asarray(self.distance(counts, reference))

    def _counted(self, predictions: Sequence[int]) -> np.ndarray:
        numbers = np.asarray(predictions)
        if not numbers.size:
            raise MonitorError("no predictions: a window needs at least one")
        if odd := set(numbers.tolist()) - set(range(self.labels)):
            raise MonitorError(f"{min(odd)} is no label's number: expected whole numbers from 0 to {self.labels - 1}")
        return np.bincount(numbers, minlength=self.labels)


class InputDrift:
    """Compares the mean features of the texts with those of the validation set.

    features (n, D): numbers that describe each text, such as the mean hidden state of the base (`routing.mean_hidden`)
    or `text_statistics`. Over both sets together each has mean 0 and spread 1; the distance is the root mean square of
    the differences of the two sets' means. level, permutations, seed: as for `PredictionDrift`.

    Raises MonitorError for such a level, for features that are not a finite table of this width, and for none.

    >>> random = np.random.default_rng(1)
    >>> watch = InputDrift(random.normal(size=(200, 5)))
    >>> watch(random.normal(size=(50, 5))).drifted, watch(random.normal(1, 1, size=(50, 5))).drifted
    (False, True)
    """

    def __init__(self, features, *, level: float = 0.01, permutations: int = 999, seed: int = 0):
        _refuse_level(level, permutations)
        self.level, self.permutations = level, permutations
        self.random = np.random.default_rng(seed)
        self.reference = _matrix(features)

    def __call__(self, window) -> Verdict:
        window = _matrix(window)
        if window.shape[1] != self.reference.shape[1]:
            raise MonitorError(f"{window.shape[1]} features a text, the validation set has {self.reference.shape[1]}")
        n, pooled = len(window), _standard(np.concatenate([window, self.reference]))
        drawn = self._drawn(len(pooled), n) @ pooled  # (permutations, D): the sum of each window drawn
        sums = np.concatenate([pooled[:n].sum(0, keepdims=True), drawn])
        # the mean of the window minus the mean of the rest, since all sum to 0
        gaps = sums / n + sums / (len(pooled) - n)
        distances = np.sqrt((gaps**2).mean(-1))
        return _verdict(distances[0], distances[1:], self.level)

    def _drawn(self, total: int, n: int) -> np.ndarray:
        """Which of all texts are in each window drawn from the pool: (permutations, total), n ones in each row."""
        chosen = self.random.random((self.permutations, total)).argpartition(n - 1, axis=1)[:, :n]
        ones = np.zeros((self.permutations, total))
        np.put_along_axis(ones, chosen, 1.0, axis=1)
        return ones


def text_statistics(texts: Sequence[str]) -> np.ndarray:
    """Five numbers that describe each text without a model, (n, 5): the logarithms of its words and of the letters a
    word, and the shares of capitals, of digits and of other signs among its characters.

    >>> text_statistics(["Order 66 lost!"]).round(2).tolist()
    [[1.39, 1.39, 0.07, 0.14, 0.07]]
    """
    rows = []
    for text in texts:
        words, n = text.split(), max(len(text), 1)
        letters = sum(map(len, words)) / max(len(words), 1)
        signs = sum(not (c.isalnum() or c.isspace()) for c in text)
        shares = sum(map(str.isupper, text)) / n, sum(map(str.isdigit, text)) / n, signs / n
        rows.append((math.log(1 + len(words)), math.log(max(letters, 1)), *shares))
    return np.array(rows).reshape(-1, 5)


def _matrix(features) -> np.ndarray:
    features = np.asarray(features, dtype=float)
    if features.ndim != 2 or not features.size:
        raise MonitorError(f"features of shape {features.shape}: expected (texts, features), at least one of each")
    if not np.isfinite(features).all():
        raise MonitorError("the features hold NaN or infinity: leave such texts out, or mend what computes them")
    return features


def _standard(features: np.ndarray) -> np.ndarray:
    centred, spread = features - features.mean(0), features.std(0)
    return centred / np.where(spread > 0, spread, 1.0)


def _refuse_level(level: float, permutations: int) -> None:
    if not 0 < level < 1:
        raise MonitorError(f"level is {level}: expected a chance between 0 and 1, such as 0.01")
    if level * (permutations + 1) < 1:
        raise MonitorError(
            f"{permutations} permutations cannot tell a level of {level}: expected at least {math.ceil(1 / level)}"
        )


# --- a stream --------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Tests a stream window by window: texts are collected until a window is full, then tested, then dropped.

    test: a `PredictionDrift` or `InputDrift`. At level 0.01 fair streams give one alarm in a hundred windows or fewer:
    choose window and level by how often somebody has time to look. That is the average over validation sets. All
    windows of a stream are compared with the same one; if it is an odd sample, they alarm together.

    >>> watch = Watch(PredictionDrift([0, 1] * 100, labels=2), window=20)
    >>> for label in [0, 1] * 10 + [1] * 20:
    ...     if (verdict := watch.see(label)) and verdict.drifted:
    ...         print(f"after {watch.seen} texts")
    after 40 texts
    """

    test: Callable
    window: int = 50
    seen: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    waiting: list = field(default_factory=list)

    def see(self, item) -> Verdict | None:
        """Take in one text's label or features. Returns the verdict where a window has become full."""
        self.seen += 1
        self.waiting.append(item)
        if len(self.waiting) < self.window:
            return None
        full, self.waiting = self.waiting, []
        self.verdicts.append(self.test(full))
        return self.verdicts[-1]

    @property
    def alarms(self) -> list[int]:
        """The windows that drifted, counted from 0."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.drifted]


# --- and back --------------------------------------------------------------------------------------------------------


class NothingToGoBackTo(RuntimeError):
    """There is no earlier version."""


class Versions:
    """What is served now and what was served before; one call goes back.

    put: puts an adapter where requests get it, such as `functools.partial(bank.replace, 0)`. Copies are kept, so that
    what goes back into service is what was there before, bit for bit, whatever became of the original since. keep: how
    many earlier versions.

    >>> served = []
    >>> versions = Versions(served.append, "monday")
    >>> versions.deploy("tuesday")
    >>> versions.rollback(), served
    ('monday', ['monday', 'tuesday', 'monday'])
    """

    def __init__(self, put: Callable, first, keep: int = 3):
        self.put, self.keep, self.earlier = put, keep, []
        self.current = copy.deepcopy(first)
        put(self.current)

    def deploy(self, new) -> None:
        """Serve a new version. Where `put` refuses it, the current one stays."""
        new = copy.deepcopy(new)
        self.put(new)
        self.earlier = [*self.earlier, self.current][-self.keep :]
        self.current = new

    def rollback(self):
        """Serve the version before the current one again, and return it. The current one is dropped.

        Raises NothingToGoBackTo where there is no earlier version.
        """
        if not self.earlier:
            raise NothingToGoBackTo("this is the first version: deploy another before going back")
        self.put(self.earlier[-1])
        self.current = self.earlier.pop()
        return self.current
