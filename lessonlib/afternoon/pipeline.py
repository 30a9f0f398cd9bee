"""One afternoon: a file of texts and labels goes in, a tuned model in service comes out, with a report of what holds.

    python -m lessonlib.afternoon mine.csv --text body --label topic

Every step is a function of its own, in the order in which they are called: read, split, baselines, ask (zero-shot),
train, save, verify (with the merge), quantize, off_task_scores, serve and load, watch, and the report. `run` strings them
together in one directory and can be stopped and called again: it goes on where it stood. Settings are chosen on
validation texts; the test texts only judge.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from lessonlib.corpora.own import SPLITS, CorpusError, contradictions, read, split, write_splits
from lessonlib.display import written_aside
from lessonlib.lora import LoRAError
from lessonlib.models import ModelFileError, find_base, load_base, sha256
from lessonlib.models.cache import fingerprint
from lessonlib.serving import release
from lessonlib.serving.report import Check, Report

from .answers import AfternoonError, off_task_scores
from .checks import figures, off_task_checks, quality_checks, variants, verify
from .kept import begin, held
from .service import serving, watching
from .trials import Artifacts, tune


def run(
    file: str | Path,
    text: str,
    label: str,
    out: str | Path,
    *,
    model: str = "smollm2-135m",
    steps: int = 60,
    threshold: float | None = None,
    seed: int = 0,
    keep_merged: bool = False,
) -> Report:
    """The whole afternoon in one directory; the report that it writes there.

    threshold: the accuracy that the model has to reach; None takes the best on the validation texts of what needs no
    training: the most frequent label, word counts, the base zero-shot.
    Raises CorpusError for a file that cannot be used, ModelFileError for a model that cannot, AfternoonError for numbers
    out of range, and for a directory that is somebody else's or that another process is at.
    """
    _require_numbers(steps, threshold, seed)
    began, base, fresh = time.perf_counter(), find_base(model), functools.partial(load_base, model)
    rows = read(file, text, label)
    splits = split(rows, seed)
    settings = {"file": sha256(Path(file)), "text": text, "label": label, "model": model, "steps": steps}
    settings |= {"threshold": threshold, "seed": seed, "base": fingerprint(base)}
    with held(out):
        out = begin(out, settings)
        with written_aside(out / "splits") as aside:
            write_splits(splits, aside)
        sizes = ", ".join(f"{side} {len(splits[side])}" for side in SPLITS)
        print(f"Read: {len(rows)} rows, {sizes}", flush=True)
        artifacts, tuned, tokenizer = tune(fresh, splits, out, steps=steps, threshold=threshold, seed=seed)
        checks, facts = judge(artifacts, tuned, tokenizer, fresh, base, out, keep_merged)
        facts |= {"copies with two labels, lines": contradictions(rows)}
        facts |= {"seconds in all": round(time.perf_counter() - began)}
        origin = release.provenance(base=base, adapter=out / "adapter", data=file, splits=out / "splits")
        report = Report(f"Afternoon with {Path(file).name}", [*checks, release.unchanged(origin)], facts, origin)
        report.write(out)
    return report


def _require_numbers(steps: int, threshold: float | None, seed: int) -> None:
    if steps < 1:
        raise AfternoonError(f"--steps {steps}: give a whole number from 1")
    if threshold is not None and not 0 <= threshold <= 1:  # nan is not either
        raise AfternoonError(f"--threshold {threshold}: give an accuracy from 0 to 1, such as 0.85")
    if not 0 <= seed < 2**32:
        raise AfternoonError(f"--seed {seed}: give a whole number from 0 to {2**32 - 1}")


def judge(
    artifacts: Artifacts,
    model: nn.Module,
    tokenizer,
    fresh: Callable,
    base: Path,
    out: Path,
    keep_merged: bool = False,
) -> tuple[list[Check], dict]:
    """All lines of the list but the last, in its order, and the figures; merges and quantizes the model given."""
    few = artifacts.splits["validation"].select(range(min(16, len(artifacts.validation.targets))))
    checks = quality_checks(artifacts)
    checks += off_task_checks(artifacts.off_task, off_task_scores(model, tokenizer))
    checks += verify(fresh, out / "adapter", artifacts.task, model, few)
    more, facts = variants(model, tokenizer, artifacts, out, base, keep_merged)
    checks += more + serving(base, artifacts, out) + [watching(artifacts, out)]
    return checks, figures(artifacts) | facts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: its arguments, or those given. Returns the exit code.

    0: the report is written. 1, with --strict: one of its checks failed. 2: a file, a model, a directory or a number
    cannot be used, which a line on stderr says.
    """
    parser = argparse.ArgumentParser(prog="lessonlib.afternoon", description=__doc__.split("\n")[0])
    parser.add_argument("file", help="a CSV file whose first line names the columns, or JSONL; UTF-8")
    parser.add_argument("--text", default="text", help="the column of texts")
    parser.add_argument("--label", default="label", help="the column of labels")
    parser.add_argument("--out", help="a directory of its own (default: afternoon-FILE here)")
    parser.add_argument("--model", default="smollm2-135m", help="a name or a model directory")
    parser.add_argument("--steps", type=int, default=60, help="training steps of eight texts, for each of two rates")
    parser.add_argument("--threshold", type=float, help="accuracy to reach (default: the best baseline's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--merged", action="store_true", help="keep the merged model as well (as large as the base)")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a check of the report fails")
    options = parser.parse_args(arguments)
    out = options.out or f"afternoon-{Path(options.file).stem}"
    settings = {name: getattr(options, name) for name in ("model", "steps", "threshold", "seed")}
    try:
        report = run(options.file, options.text, options.label, out, keep_merged=options.merged, **settings)
    except (CorpusError, AfternoonError, ModelFileError, LoRAError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, SafetensorError) as error:  # a disk that is full or read-only, a file that cannot be read
        print(f"{error}: free some disk or name another place; the same command goes on from here", file=sys.stderr)
        return 2
    print(f"\n{report}\n\nWritten: {out}/report.md, report.json, adapter, splits, watch.json")
    return 1 if options.strict and not report.passed else 0
