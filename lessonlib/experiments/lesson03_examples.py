"""The experiments of notebook 03 on which examples a prompt shows: at random, like the query, unlike each other, or hard."""

from collections.abc import Sequence

import torch

from lessonlib.evaluation import Accuracy
from lessonlib.prompting import CONTENT_FREE, calibrate, select_diverse, select_random, select_similar

from .lesson03_prompts import (
    draw_examples,
    example_pool,
    make_prompt,
    prompt_results,
    score_prompt,
    scorer,
    sentiment_tickets,
    sentiments_of_split,
)
from .registry import experiment, record

SHOTS = 4


WAYS = {
    "none": 1,
    "random": 5,
    "random, two of each": 5,
    "diverse": 5,
    "edge cases": 1,
    "half edge cases": 5,
    "similar": 1,
}


def edge_cases(k: int) -> list[tuple[str, int]]:
    """Training tickets that the model, without examples, is most surely wrong about; as many of either class."""
    negative, positive = example_pool()
    texts, labels = negative[: len(positive)] + positive, [0] * len(positive) + [1] * len(positive)
    bare = make_prompt("negative / positive", "blank line", "none", [])
    scores = score_prompt(*scorer(), bare, [*CONTENT_FREE, *texts])
    odds = calibrate(scores[3:], scores[:3])[:, 1]  # log-probability of "positive", the bias divided out
    order = odds.argsort().tolist()
    wrong = [[i for i in order[::-1] if labels[i] == 0], [i for i in order if labels[i] == 1]]
    return [(texts[i], labels[i]) for pair in zip(*wrong) for i in pair][:k]


def choose_examples(way: str, seed: int, queries: Sequence[str]) -> list[list[tuple[str, int]]]:
    """Four examples for each query, or one list that serves all, by one of the `WAYS`."""
    pool = [(text, label) for label, group in enumerate(example_pool()) for text in group]
    texts = [text for text, _ in pool]
    if way == "similar":
        return [[pool[i] for i in rows] for rows in select_similar(texts, list(queries), SHOTS)]
    if way in ("random", "diverse"):
        select = {"random": select_random, "diverse": select_diverse}[way]
        return [[pool[i] for i in select(texts, SHOTS, seed)]]
    one = {
        "none": list,
        "random, two of each": lambda: draw_examples("PNPN", seed),
        "edge cases": lambda: edge_cases(SHOTS),
        "half edge cases": lambda: edge_cases(2) + draw_examples("PN", seed),
    }[way]()
    return [one]


@experiment(right_answers=sentiments_of_split)
def examples_chosen(way: str, seed: int, split: str) -> dict:
    """Four examples chosen at random, by likeness to each query, as unlike as can be, or hard."""
    texts, targets = sentiment_tickets(split)
    groups = choose_examples(way, seed, texts)
    prompts = [make_prompt("negative / positive", "blank line", "none", group) for group in groups]
    if len(prompts) == 1:
        return prompt_results(prompts[0], split) | {"labels": [[label for _, label in groups[0]]]}
    model, tokenizer = scorer()
    scores = torch.stack(
        [score_prompt(model, tokenizer, p, [*CONTENT_FREE, text]) for p, text in zip(prompts, texts, strict=True)]
    )
    rounded = [[[round(value, 3) for value in row] for row in group] for group in scores.tolist()]
    agree = [sum(label == target for _, label in group) for group, target in zip(groups, targets)]
    return {
        "score": Accuracy(scores[:, -1].argmax(1).tolist(), targets),
        "content_free": [group[:-1] for group in rounded],
        "log_probs": [group[-1] for group in rounded],
        "labels": [[label for _, label in group] for group in groups],
        "same_label": sum(agree) / (SHOTS * len(agree)),
        "tokens": max(prompt.tokens(tokenizer) for prompt in prompts),
    }


# --- which runs are recorded -----------------------------------------------------------------------------------------


def record_all() -> None:
    """Record every choice of examples that is not there yet, on the validation tickets."""
    for way, draws in WAYS.items():
        for seed in range(draws):
            record("examples_chosen", way=way, seed=seed, split="validation")
