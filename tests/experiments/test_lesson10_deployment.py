"""Claims of lessonlib.experiments.lesson10_deployment, on a tiny model. References: each expert alone, counts by hand."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import random_adapter, tiny_model, tiny_tokenizer

from lessonlib import corpora
from lessonlib.experiments import lesson10_deployment as x
from lessonlib.lora.merging import merge_deltas

TRAINING = {"r": 2, "learning_rate": 1e-2, "steps": 3, "batch_size": 4}
N = 12


@pytest.fixture(autouse=True)
def tiny_base(monkeypatch):
    """The tiny model in the base's place, twelve test tickets."""
    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(x, "load_base", lambda: (tiny_model(max_position_embeddings=4096), tokenizer), raising=True)
    monkeypatch.setattr(x, "TESTED", N)
    monkeypatch.setattr(x, "VALIDATION", 10)


@pytest.fixture
def trio():
    """Three adapters that answer differently, by question."""
    return {task: random_adapter(tiny_model(), seed, targets=x.TARGETS) for seed, task in enumerate(x.TASKS)}


def alone(trio):
    base, tokenizer = x.load_base()
    return {f"expert on {task}": x._with(base, adapter, tokenizer) for task, adapter in trio.items()}


def test_all_three_questions_are_scored_on_the_same_tickets():
    rows = corpora.tickets("test").select(range(N))
    right = {task: list(rows[task]) for task in x.TASKS}
    assert x.scored(right).value == 1 and x.scored(right).n == 3 * N
    wrong = right | {"urgency": [(answer + 1) % 3 for answer in right["urgency"]]}
    assert x.scored(wrong).value == pytest.approx(2 / 3)
    assert [score.value for score in x.by_task(wrong).values()] == [1, 1, 0]


def test_answers_come_in_the_order_of_the_texts():
    model, tokenizer = x.load_base()
    task, texts = x.ticket_task(tokenizer), corpora.tickets("test")["text"][:8]
    assert x.answers(model, task, texts) == [x.answers(model, task, [text])[0] for text in texts]


def test_one_adapter_for_three_questions_sees_each_of_them_as_often():
    _, tokenizer = x.load_base()
    mixed = x._batches(tokenizer, list(x.TASKS), 0, 6, 4)
    labels = sorted(len(batch.label_ids) for batch in mixed)
    assert labels == [3, 3, 3, 3, 8, 8]
    found = x.one_adapter(["sentiment"], 0, **TRAINING)
    assert found["score"].n == 3 * N and 0 <= found["validation"] <= 1 and len(found["losses"]) == 3


def test_the_routers_new_words_were_not_trained_on():
    texts = ["Late again."]
    known, new = (set(x.requests_about(texts * 4, w)) for w in (range(x.KNOWN), range(x.KNOWN, 6)))
    assert len(known) == 12 and len(new) == 6 and not known & new
    assert all(len(set(wordings)) == 6 for wordings in x.REQUESTS.values())


def test_the_routed_answer_is_the_picked_experts(trio):
    said = alone(trio)
    picks = [(i % 3) for i in range(3 * N)]
    found = x._of_the_picked(picks, said)
    names = list(said)
    for n, task in enumerate(x.TASKS):
        assert found[task] == [said[names[picks[n * N + i]]][task][i] for i in range(N)]
    assert found != said[names[0]]


def test_a_mixture_that_gives_all_weight_to_one_expert_is_that_expert(trio):
    base, tokenizer = x.load_base()
    said = alone(trio)
    for n, name in enumerate(said):
        weights = torch.eye(3)[[n] * (3 * N)]
        assert x._softly(base, tokenizer, trio, weights) == said[name]


def test_the_experts_run_holds_all_ways():
    found = x.experts(0, **TRAINING)
    ways = {f"expert on {task}" for task in x.TASKS} | set(x.MERGES)
    assert set(found["said"]) == ways | {
        "router, known words", "router, new words", "soft mixture, new words",
    }  # fmt: skip
    assert found["ranks"]["average"] == 6 and found["ranks"]["TIES"] == found["ranks"]["SVD of the sum"] == 2
    wrong, low, high = found["routing"]["new words"]["wrong"]
    assert low <= wrong <= high
    assert found["score"].predictions == x.scored(found["said"]["router, new words"]).predictions


def test_the_weighted_merge_leans_to_the_intent(trio):
    merged = x.MERGES["intent weighs double"](list(trio.values()))
    one, two, three = trio.values()
    path = next(iter(one))
    by_hand = 0.5 * one[path].dense() + 0.25 * (two[path].dense() + three[path].dense())
    torch.testing.assert_close(merged[path].dense(), by_hand)
    assert not torch.allclose(by_hand, merge_deltas(list(trio.values()))[path].dense())


def test_mean_scores_are_those_of_hand_arithmetic():
    runs = [SimpleNamespace(results={"scores": rows}) for rows in ([[0.5], [0.2, 1.0]], [[0.7], [0.4, 0.0]])]
    assert x.mean_scores(runs) == [[pytest.approx(0.6)], [pytest.approx(0.3), pytest.approx(0.5)]]


@pytest.mark.parametrize("stack", [True, False])
def test_what_is_forgotten_is_counted_from_the_answers(stack):
    found = x.stacked_tasks(stack, 0, **TRAINING)
    assert [len(row) for row in found["scores"]] == [1, 2, 3]
    rows = corpora.tickets("test").select(range(N))
    first = sum(a == b for a, b in zip(found["stages"][0]["intent"], rows["intent"])) / N
    middle, last = found["scores"][1][0], found["scores"][2][0]
    assert found["scores"][0][0] == pytest.approx(first)
    assert found["forgetting"][0] == pytest.approx(max(first, middle) - last)
