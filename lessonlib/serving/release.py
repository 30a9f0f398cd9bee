"""The list that is gone through before a tuned model goes into service, each line a check that runs.

A check takes what was measured (answers, log-probabilities, seconds, files) and says whether it holds, with its figure
and what was expected. It judges and measures nothing of a model itself, so it fits any. A check that fails is a line of
the report like the others; an exception would hide the lines behind it.
"""

import math
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from lessonlib import hardware
from lessonlib.corpora.duplicates import near_duplicates
from lessonlib.display import to_numpy
from lessonlib.evaluation import Accuracy, paired_difference, text_interval
from lessonlib.models import sha256

from .report import Check, ReportError

PACKAGES = ("torch", "transformers", "peft", "safetensors", "lessonlib")
# Formats that may run code when they are read (pickle), by the names under which models are found in them.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


# --- quality ---------------------------------------------------------------------------------------------------------


def threshold_first(stated: float, trained: float) -> Check:
    """Whether the threshold was written down before training ended, both as seconds since 1970.

    >>> threshold_first(stated=100.0, trained=190.0)
    passed: threshold stated first: 90 s before the adapter (expected before training ends)
    """
    ahead = trained - stated
    figure = f"{abs(ahead):.0f} s {'before' if ahead > 0 else 'behind'} the adapter"
    return Check("threshold stated first", ahead > 0, figure, "before training ends")


def quality_reached(test: Accuracy, threshold: float) -> Check:
    """Whether the accuracy on held-out texts reaches the threshold that was set before training.

    >>> quality_reached(Accuracy([1, 0, 1, 1], [1, 0, 1, 0]), threshold=0.8)
    FAILED: quality on held-out texts: 0.750 (0.301 to 0.954, n = 4) (expected at least 0.800)
    """
    return Check(
        "quality on held-out texts",
        test.value >= threshold,
        _with_interval(test),
        f"at least {threshold:.3f}",
    )


def better_than(baseline: str, ours: Accuracy, theirs: Accuracy) -> Check:
    """Whether our accuracy is above a baseline's on the same texts, the whole 95 % interval of the difference."""
    difference, low, high = paired_difference(ours, theirs)
    figure = f"{ours.value:.3f} against {theirs.value:.3f}: {difference:+.3f} ({low:+.3f} to {high:+.3f})"
    return Check(f"better than {baseline}", low > 0, figure, "a difference whose interval is above 0")


def validation_holds(validation: Accuracy, test: Accuracy) -> Check:
    """Whether the test agrees with the validation set, on which everything was chosen.

    It does not where the test's accuracy is lower by more than two samples of these sizes differ: the 95 % interval of
    the difference, from Wilson's intervals of the two (Newcombe, 1998, method 10), lies above 0.
    """
    gap = validation.value - test.value
    low = gap - math.hypot(validation.value - validation.interval[0], test.interval[1] - test.value)
    high = gap + math.hypot(validation.interval[1] - validation.value, test.value - test.interval[0])
    figure = f"{validation.value:.3f} and {test.value:.3f}: {gap:+.3f} ({low:+.3f} to {high:+.3f})"
    return Check("validation agrees with test", low <= 0, figure, "a gap that chance explains")


def full_fine_tuning_answered(test: Accuracy, threshold: float, full: Accuracy | None = None) -> Check:
    """Whether, where the quality is below the threshold, full fine-tuning was tried beside the adapter."""
    name, expected = "full fine-tuning considered", "compared, where the threshold is missed"
    if full is not None:
        difference, low, high = paired_difference(test, full)
        return Check(name, True, f"the adapter's {difference:+.3f} ({low:+.3f} to {high:+.3f}) to it", expected)
    reached = test.value >= threshold
    return Check(name, reached, "not needed" if reached else "needed, and not compared", expected)


def no_regression(task: str, before: Accuracy, after: Accuracy, margin: float = 0.1) -> Check:
    """Whether another task's accuracy has fallen by no more than a margin; the interval says how sure that is."""
    difference, low, high = paired_difference(after, before)
    figure = f"{before.value:.3f} to {after.value:.3f}: {difference:+.3f} ({low:+.3f} to {high:+.3f})"
    return Check(f"no regression: {task}", difference >= -margin, figure, f"at most {margin:.2f} lost")


def text_kept(before: Sequence[float], after: Sequence[float], margin: float = 0.1) -> Check:
    """Whether plain text is still read as well: the mean loss of each text, in nats a token, before and after.

    margin: how many nats a token may be added. 0.1 is a perplexity 10.5 % higher.
    Raises ReportError where the two are not of the same texts, or of none.
    """
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if before.shape != after.shape or not before.size:
        raise ReportError(f"losses of {before.size} and of {after.size} texts: give those of the same ones")
    added, low, high = text_interval(after - before)
    figure = f"{before.mean():.3f} to {after.mean():.3f} nats a token: {added:+.3f} ({low:+.3f} to {high:+.3f})"
    return Check("no regression: plain text", bool(added <= margin), figure, f"at most {margin:.2f} nats added")


def calibration_error(confidence, right, bins: int = 10) -> float:
    """Expected calibration error: in bins of confidence, how far the mean confidence is from the share of right answers.

    confidence (n,): the probability of the answer that was given. right (n,): whether it was right. Bins are equally
    wide and weighted by their texts. Source: Guo et al., 2017, arXiv:1706.04599, section 2.

    >>> round(calibration_error([0.9, 0.9, 0.6, 0.6], [True, True, True, False]), 3)
    0.1
    """
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def calibrated(log_probs: torch.Tensor, targets: Sequence[int], at_most: float = 0.1, seed: int = 0) -> Check:
    """Whether the model is as sure as it is right: log_probs (n, classes), normalised over the classes.

    Few texts give some error even where every confidence is exact. How much is found by drawing right and wrong from
    the confidences themselves (Bröcker and Smith, 2007); what chance reaches once in a hundred times passes as well.
    """
    confidence, answers = log_probs.softmax(-1).double().max(-1)
    confidence, right = to_numpy(confidence), to_numpy(answers) == np.asarray(targets)
    error, random = calibration_error(confidence, right), np.random.default_rng(seed)
    drawn = [calibration_error(confidence, random.random(len(right)) < confidence) for _ in range(500)]
    chance = float(np.quantile(drawn, 0.99))
    figure = f"{error:.3f} (mean confidence {confidence.mean():.3f}, right {right.mean():.3f})"
    expected = f"at most {at_most:.2f}, or {chance:.3f} that chance gives"
    return Check("calibration error", error <= max(at_most, chance), figure, expected)


def _with_interval(score: Accuracy) -> str:
    low, high = score.interval
    return f"{score.value:.3f} ({low:.3f} to {high:.3f}, n = {score.n})"


# --- data ------------------------------------------------------------------------------------------------------------


def no_leak(train: Sequence[str], held_out: Sequence[str], overlap: float = 0.5) -> Check:
    """Whether no held-out text was trained on, neither as it is nor nearly so."""
    exact = len(set(train) & set(held_out))
    near = {index for index, _ in near_duplicates(held_out, train, overlap)}
    figure = f"{exact} exact, {len(near)} near duplicates of {len(held_out)} texts"
    return Check("no test text in training", not near and not exact, figure, "none")


# --- files, outputs, service ----------------------------------------------------------------------------------------


def same_outputs(name: str, one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-4) -> Check:
    """Whether two ways of asking the model give the same log-probabilities, (n, classes) each.

    Raises ReportError where their shapes differ, or there is nothing to compare.

    >>> same_outputs("merged equals unmerged", torch.tensor([[0.0, -1.0]]), torch.tensor([[0.0, -1.5]]))
    FAILED: merged equals unmerged: largest difference 5.0e-01, 1 of 1 answers the same (expected at most 1.0e-04)
    """
    if one.shape != other.shape or not one.numel():
        raise ReportError(f"{name}: outputs of shapes {tuple(one.shape)} and {tuple(other.shape)} cannot be compared")
    gap = (one.double() - other.double()).abs().max().item()
    same = int((one.argmax(-1) == other.argmax(-1)).sum())
    figure = f"largest difference {gap:.1e}, {same} of {len(one)} answers the same"
    return Check(name, gap <= tolerance, figure, f"at most {tolerance:.1e}")  # a NaN is not at most anything


def kept_quality(name: str, before: Accuracy, after: Accuracy, margin: float = 0.03) -> Check:
    """Whether a smaller or faster form of the model answers as well: to a margin, or to one answer of few."""
    difference, low, high = paired_difference(after, before)
    figure = f"{before.value:.3f} to {after.value:.3f}: {difference:+.3f} ({low:+.3f} to {high:+.3f})"
    allowed = max(margin, 1 / before.n)
    return Check(name, difference >= -allowed - 1e-9, figure, f"at most {allowed:.3f} lost")


def latency(name: str, seconds: Sequence[float], at_most: float) -> Check:
    """Whether 95 of 100 requests are answered within a time; not so where none was answered."""
    if not len(seconds):
        return Check(name, False, "no request was answered", f"p95 at most {1000 * at_most:.0f} ms")
    p50, p95 = np.quantile(np.asarray(seconds, dtype=float), (0.5, 0.95))
    figure = f"median {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms of {len(seconds)} requests"
    return Check(name, bool(p95 <= at_most), figure, f"p95 at most {1000 * at_most:.0f} ms")


def size(name: str, path: str | Path, at_most: int) -> Check:
    """Whether a file, or all files of a directory, take at most so many bytes. Raises ReportError for no file at all."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if not files:
        raise ReportError(f"{path} holds no file to be weighed")
    total = sum(file.stat().st_size for file in files)
    return Check(name, total <= at_most, f"{total:,} bytes", f"at most {at_most:,} bytes")


def safetensors_only(directory: str | Path) -> Check:
    """Whether the weights are safetensors and nothing beside them is a pickle, which may run code when it is read."""
    files = sorted(file for file in Path(directory).rglob("*") if file.is_file())
    pickled = [file.name for file in files if file.suffix in PICKLED]
    weights = sum(file.suffix == ".safetensors" for file in files)
    figure = f"{weights} safetensors, pickled: {', '.join(pickled) or 'none'}"
    return Check("safetensors only", bool(weights) and not pickled, figure, "at least one, none pickled")


def refuses(call: Callable, inputs: dict[str, object], error: type[Exception] = ValueError) -> Check:
    """Whether each of these inputs, by what is wrong with it, is refused by `error` and by no other exception.

    >>> refuses(int, {"a word": "seven", "a number": "7"})
    FAILED: bad inputs refused: 1 of 2; not refused: a number (expected all)
    """
    let_in = []
    for what, value in inputs.items():
        try:
            call(value)
            let_in.append(what)
        except error:
            pass
        except Exception as other:
            let_in.append(f"{what} ({type(other).__name__})")
    named = f"; not refused: {', '.join(let_in)}" if let_in else ""
    figure = f"{len(inputs) - len(let_in)} of {len(inputs)}{named}"
    return Check("bad inputs refused", not let_in, figure, "all")


def watch_tells(test: Callable, fair: Sequence, shifted: Sequence) -> Check:
    """Whether the drift test that will watch the service is silent on a fair window and speaks on a shifted one.

    test: a `monitoring.PredictionDrift` or `InputDrift`, or whatever returns something with `drifted` and `p`.
    """
    quiet, loud = test(fair), test(shifted)
    figure = f"fair window p = {quiet.p:.3f}, shifted window p = {loud.p:.3f}"
    return Check("drift watch armed", not quiet.drifted and loud.drifted, figure, "silent, then an alarm")


# --- where it comes from ---------------------------------------------------------------------------------------------


def provenance(**parts: str | Path) -> dict:
    """Versions and hashes of what the model is made of: files or directories by name, such as base, adapter and data.

    Raises ReportError for a part that does not exist.

    >>> provenance(adapter="adapters/billing")["adapter"]  # doctest: +SKIP
    {'path': 'adapters/billing', 'files': {'adapter_model.safetensors': '9f3c…', ...}}
    """
    found = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": hardware.processor(),
    }
    return found | {name: {"path": str(path), "files": _hashes(Path(path))} for name, path in parts.items()}


def unchanged(found: dict) -> Check:
    """Whether each file that `provenance` hashed is still there, the same, and none has come to it."""
    parts = {name: part for name, part in found.items() if isinstance(part, dict) and "files" in part}
    now = {name: _hashes(Path(part["path"])) if Path(part["path"]).exists() else {} for name, part in parts.items()}
    odd = [
        f"{name}/{file}"
        for name, part in parts.items()
        for file in sorted(part["files"].keys() | now[name].keys())
        if part["files"].get(file) != now[name].get(file)
    ]
    files = sum(len(part["files"]) for part in parts.values())
    figure = f"{files} files of {', '.join(parts)}; changed: {', '.join(odd) or 'none'}"
    return Check("hashes of base, adapter, data", bool(files) and not odd, figure, "at least one file, none changed")


def _hashes(path: Path) -> dict[str, str]:
    if not path.exists():
        raise ReportError(f"{path} does not exist: give the files that the model is made of")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    within = path.parent if path.is_file() else path
    return {str(file.relative_to(within)): sha256(file) for file in files}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # the library is used from its folder
        return "not installed"
