"""Scoring labels behind 16 examples: the shared prefix beside the naive pass, and beside lm-evaluation-harness.

100 queries, 4 labels of two tokens or three, the real model in float32 on two threads. Ours and the naive pass (each
whole text in full, as `score_whole_texts` does it) take turns in one process; printed are the ratio of medians with its
interval and the largest difference of the log-probabilities. The naive pass takes minutes.

    python benchmarks/score_labels.py [--rounds 3] [--queries 100] [--shots 16] [--harness PYTHON]

PYTHON is that of an environment of its own in which lm-evaluation-harness is installed; its Hugging Face backend then
scores the same requests, at the best of several batch sizes (tried on the first queries).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from lessonlib import corpora
from lessonlib.evaluation import Times, paired_times
from lessonlib.models import find_base, load_base
from lessonlib.prompting import FewShotPrompt, score_labels, score_whole_texts, select_random

THREADS = 2
TARGETS = {"naive": 5.0, "harness": 8.0}  # how many times faster; a median below target / 1.15 fails
LARGEST_DIFFERENCE = 1e-3
LABELS = {"delivery": "late delivery", "billing": "wrong invoice", "technical": "broken product"}
LABELS |= {"praise_or_complaint": "praise or complaint"}
LONGEST_EXAMPLE = 25  # tokens, so that the prefix is about as long as one of single sentences

RECIPE = """lm-evaluation-harness was not run. In an environment of its own:
    python -m venv .venv-harness
    .venv-harness/bin/pip install "lm_eval[hf]==0.4.13" transformers==5.23.0 torch==2.13.0
    python benchmarks/score_labels.py --harness .venv-harness/bin/python"""

# Runs in the other environment, which knows nothing of this library.
HARNESS = """
import json, sys, time
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

job = json.load(open(sys.argv[1]))
torch.set_num_threads(job["threads"])

def score(requests, batch_size):
    model.batch_size_per_gpu = batch_size
    rows = [Instance("loglikelihood", {}, tuple(request), i) for i, request in enumerate(requests)]
    begin = time.perf_counter()
    scores = [value for value, greedy in model.loglikelihood(rows, disable_tqdm=True)]
    return time.perf_counter() - begin, scores

model = HFLM(pretrained=job["model"], dtype="float32", device="cpu", batch_size=1)
score(job["requests"][:4], 4)
trials = {size: score(job["requests"][:job["trial"]], size)[0] for size in job["batch_sizes"]}
best = min(trials, key=trials.get)
runs = [score(job["requests"], best) for _ in range(job["rounds"])]
answer = {"best": best, "trials": trials, "seconds": [run[0] for run in runs], "scores": runs[0][1]}
json.dump(answer, open(sys.argv[2], "w"))
"""


def requests(tokenizer, shots: int, queries: int):
    """(prefix, queries, labels): examples of four intents from the training tickets, queries from the test."""
    rows = corpora.tickets("train")
    names = rows.features["intent"].names
    pool = [
        (row["text"], LABELS[names[row["intent"]]])
        for row in rows
        if names[row["intent"]] in LABELS and len(tokenizer(row["text"]).input_ids) <= LONGEST_EXAMPLE
    ]
    prompt = FewShotPrompt(list(LABELS.values()), [pool[i] for i in select_random(pool, shots)])
    texts = corpora.tickets("test")["text"][:queries]
    lengths = {label: len(tokenizer(label).input_ids) for label in prompt.endings}
    assert set(lengths.values()) <= {2, 3}, lengths
    print(f"{len(texts)} queries, labels of {sorted(lengths.values())} tokens, ", end="")
    print(f"{shots} examples, a prefix of {len(tokenizer(prompt.prefix).input_ids)} tokens, {THREADS} threads")
    return prompt.prefix, [prompt.query(text) for text in texts], list(prompt.endings)


def report(name: str, times: Times, difference: float) -> bool:
    """Print one comparison; whether it failed."""
    ratio, low, high = times.ratio(name, to="ours")
    target = TARGETS[name]
    print(f"{name} / ours {ratio:.1f} ({low:.1f} to {high:.1f}), target at least {target:.0f}")
    print(f"    largest difference of the log-probabilities {difference:.1e} (must be below {LARGEST_DIFFERENCE})")
    return ratio < target / 1.15 or difference > LARGEST_DIFFERENCE


def against_naive(model, tokenizer, texts, rounds: int) -> tuple[bool, Times, torch.Tensor]:
    prefix, queries, labels = texts
    for score in (score_labels, score_whole_texts):
        score(model, tokenizer, prefix, queries[:1], labels)
    results = {}

    def keep(name, score):
        results[name] = score(model, tokenizer, *texts)

    functions = {
        "ours": lambda: keep("ours", score_labels),
        "naive": lambda: keep("naive", score_whole_texts),
    }
    times = paired_times(functions, rounds, warmup=0)
    print(f"float32: {times}")
    difference = (results["ours"] - results["naive"]).abs().max().item()
    return report("naive", times, difference), times, results["ours"]


def against_harness(python: str, texts, ours: torch.Tensor, times: Times) -> bool:
    prefix, queries, labels = texts
    pairs = [(prefix + query, label) for query in queries for label in labels]
    job = {"requests": pairs, "threads": THREADS, "model": str(find_base()), "batch_sizes": [1, 4, 8, 16, 32]}
    with tempfile.TemporaryDirectory() as directory:
        asked, answered = Path(directory) / "job.json", Path(directory) / "answer.json"
        rounds = len(times.seconds["ours"])
        asked.write_text(json.dumps(job | {"trial": 8 * len(labels), "rounds": rounds}))
        subprocess.run([python, "-c", HARNESS, str(asked), str(answered)], check=True)
        answer = json.loads(answered.read_text())
    print(f"lm-evaluation-harness: best batch size {answer['best']} of {answer['trials']} (seconds on 8 queries)")
    times.seconds["harness"] = answer["seconds"]
    difference = (torch.tensor(answer["scores"]).view_as(ours) - ours).abs().max().item()
    return report("harness", times, difference)


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, default in (("rounds", 3), ("queries", 100), ("shots", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--harness", help="Python of an environment with lm-evaluation-harness")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    model, tokenizer = load_base(dtype=torch.float32)
    texts = requests(tokenizer, arguments.shots, arguments.queries)
    failed, times, ours = against_naive(model, tokenizer, texts, arguments.rounds)
    if not arguments.harness:
        print(RECIPE)
        return int(failed)
    return int(against_harness(arguments.harness, texts, ours, times) or failed)


if __name__ == "__main__":
    sys.exit(main())
