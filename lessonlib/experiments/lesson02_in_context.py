"""The recorded runs of 02: how many examples help, on the tickets, with right and with random labels.

Nothing is trained. One run is one prompt, scored on a split: the form of the prompt is chosen on validation tickets
(`chosen_form`), the test tickets are read with that form alone, and five draws of examples show what the draw decides.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lessonlib import corpora
from lessonlib.display import Bar
from lessonlib.evaluation import Accuracy
from lessonlib.models import load_base
from lessonlib.prompting import CONTENT_FREE, FewShotPrompt, calibrate, score_labels
from lessonlib.runs import Run, load_runs

from .registry import experiment, record

WORDS = [corpora.WORDS.get(name, name) for name in corpora.INTENTS]
TOPICS = f"Topics: {', '.join(WORDS)}."
# Three ways to ask, each with and without the topics named first.
TEMPLATES = {
    "ticket": "Ticket: {text}\nTopic:",
    "quote": 'Customer: "{text}"\nThis message is about:',
    "message": "Message: {text}\nCategory:",
}
FORMS = {
    f"{name}{suffix}": {"template": template, "instruction": instruction}
    for name, template in TEMPLATES.items()
    for suffix, instruction in (("", ""), (", topics named", TOPICS))
}
SHOTS, DRAWS = (0, 1, 2, 4, 8, 16), (0, 1, 2, 3, 4)


def _intents_of_split(run: Run) -> list[int]:
    return list(corpora.tickets(run.settings["split"])["intent"])


def balanced_draw(labels: Sequence[int], k: int, seed: int) -> list[int]:
    """Row numbers of k rows, each label as often as any other, or once more.

    Of the same seed, fewer rows are the first of more. Raises ValueError where the rarest label has too few rows for k.

    >>> [[0, 0, 1, 1, 0][row] for row in balanced_draw([0, 0, 1, 1, 0], 4, seed=0)]
    [0, 1, 0, 1]
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    classes = np.unique(labels)
    pools = {c: list(rng.permutation(np.flatnonzero(labels == c))) for c in classes}
    if k > (most := len(classes) * min(map(len, pools.values()))):
        raise ValueError(f"k is {k}; the rarest label allows {most} rows with all labels equally often")
    rounds = [rng.permutation(classes) for _ in range(-(-k // len(classes)))]
    return [int(pools[c].pop()) for c in np.concatenate(rounds or [[]])[:k]]


def examples(shots: int, draw: int) -> list[tuple[str, str]]:
    """Training tickets with their label words, each topic in turn."""
    rows = corpora.tickets("train")
    chosen = balanced_draw(rows["intent"], shots, draw)
    return [(rows[row]["text"], WORDS[rows[row]["intent"]]) for row in chosen]


@experiment(right_answers=_intents_of_split)
def few_shot(shots: int, draw: int, form: str, split: str, count: int) -> dict:
    """The first `count` tickets of a split, behind this many examples with their right labels."""
    return _score(FewShotPrompt(WORDS, examples(shots, draw), **FORMS[form]), split, count)


@experiment(right_answers=_intents_of_split)
def random_labels(shots: int, draw: int, form: str, split: str, count: int) -> dict:
    """The same tickets behind the same examples, each with a label word drawn at random (Min et al., 2022)."""
    rng = np.random.default_rng(1000 + draw)
    shown = [(text, WORDS[rng.integers(len(WORDS))]) for text, _ in examples(shots, draw)]
    return _score(FewShotPrompt(WORDS, shown, **FORMS[form]), split, count)


def _score(prompt: FewShotPrompt, split: str, count: int) -> dict:
    model, tokenizer = load_base()
    model.set_attn_implementation("sdpa")  # the same numbers in half the time
    rows = corpora.tickets(split).select(range(count))
    bar = Bar(total=count, desc="Scoring")
    queries = [prompt.query(text) for text in [*rows["text"], *CONTENT_FREE]]
    scores = score_labels(model, tokenizer, prompt.prefix, queries, prompt.endings, progress=bar.update)
    predictions = scores[:count].argmax(-1).tolist()
    calibrated = Accuracy(calibrate(scores[:count], scores[count:]).argmax(-1).tolist(), list(rows["intent"]))
    result = Accuracy(predictions, list(rows["intent"]))
    bar.finish(f"Scored {count} texts: {result}")
    label, times = Counter(predictions).most_common(1)[0]
    return {
        "score": result,
        "calibrated": calibrated.value,
        "prompt_tokens": prompt.tokens(tokenizer),
        "shown": [label for _, label in prompt.examples],
        "most_said": [WORDS[label], times],
    }


# --- which runs are recorded -----------------------------------------------------------------------------------------

VALIDATION, TEST = {"split": "validation", "count": 100}, {"split": "test", "count": 200}


def chosen_form() -> str:
    """The form with the best mean accuracy on validation tickets, over no and over eight examples."""
    means = {
        form: np.mean([run.accuracy for run in load_runs("few_shot", form=form, **VALIDATION)]) for form in FORMS
    }
    return max(means, key=means.get)


def shots_runs() -> dict[int, list[Run]]:
    """The sweep on the test tickets: for each number of examples the runs of its draws."""
    form = chosen_form()
    return {shots: load_runs("few_shot", shots=shots, form=form, **TEST) for shots in SHOTS}


def label_runs(shots: int = 8) -> dict[str, list[Run]]:
    """Right and random labels, draw by draw."""
    form = chosen_form()
    return {
        name.replace("few_shot", "right labels").replace("_", " "): load_runs(name, shots=shots, form=form, **TEST)
        for name in ("few_shot", "random_labels")
    }


def record_all() -> None:
    """Record every run of 02 that is not there yet."""
    for form in FORMS:
        for shots in (0, 8):
            record("few_shot", shots=shots, draw=0, form=form, **VALIDATION)
    form = chosen_form()
    for draw in DRAWS:
        for shots in SHOTS if draw == 0 else SHOTS[1:]:
            record("few_shot", shots=shots, draw=draw, form=form, **TEST)
        record("random_labels", shots=8, draw=draw, form=form, **TEST)
