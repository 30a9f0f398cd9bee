"""The recorded experiments of 09 and 10 on whole models, in small: rounded, distilled, merged, routed, stacked.

References: numpy on the logits of one text at a time, updates multiplied out by hand, losses by their formulae.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_records import CHOICES, LONG, SHIFT, TOPICS, home, labels, marks, put, texts

from lessonlib.experiments import find

ASKED, CHOSEN_ON = 10, 7  # test and validation tickets
HEADINGS = {task: f"Ticket: {{}}\n{task.capitalize()}:" for task in CHOICES} | {"intent": "Ticket: {}\nTopic:"}


@pytest.fixture(autouse=True)
def fewer(base, monkeypatch):
    put(monkeypatch, "TESTED", ASKED, int)
    put(monkeypatch, "VALIDATION", CHOSEN_ON, int)
    base.layers = 3
    return base


def answers(base, model, task="intent", split="test", first=ASKED) -> list[int]:
    prompts = [HEADINGS[task].format(text) for text in texts(split, first)]
    return base.answers(model, prompts, CHOICES[task])


# --- a base in a format of few bits ------------------------------------------------------------------------------------


def log_probs(base, model) -> tuple[np.ndarray, list[int]]:
    """Of every next token in the first validation tickets, and which one came."""
    rows, came = [], []
    for text in texts("validation", 4):
        ids = base.tokenizer(text).input_ids
        with torch.no_grad():
            rows.append(model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1).numpy())
        came += ids[1:]
    return np.concatenate(rows), came


@pytest.fixture
def coarse(base, monkeypatch):
    """A format that keeps multiples of a tenth; four validation tickets are read."""

    def tenths(weight):
        return (weight * 10).round() / 10

    format = SimpleNamespace(quantize=lambda weight: weight, dequantize=tenths)
    monkeypatch.setitem(home("base_in").FORMAT, "tenths", format)
    put(monkeypatch, "READ", 4, int)
    model = base.fresh()
    with torch.no_grad():
        for path, module in model.named_modules():
            if path.endswith("_proj"):  # in the blocks; the head stays whole
                module.weight.copy_(tenths(module.weight))
    return model


def test_the_divergence_is_the_rounded_model_from_the_whole_one(base, coarse):
    found = find("base_in").function(format="tenths")
    p, came = log_probs(base, base.fresh())
    q, _ = log_probs(base, coarse)
    divergence = (np.exp(p) * (p - q)).sum(1).mean()
    reversed_divergence = (np.exp(q) * (q - p)).sum(1).mean()
    assert found["divergence"] == pytest.approx(divergence, rel=1e-3)
    assert abs(divergence / reversed_divergence - 1) > 0.01  # so that the two can be told apart
    rows = np.arange(len(came))
    assert found["text_loss_before"] == pytest.approx(-p[rows, came].mean(), rel=1e-4)
    assert found["text_loss"] == pytest.approx(-q[rows, came].mean(), rel=1e-4)
    assert found["score"].targets == came and found["score"].predictions == q.argmax(1).tolist()
    assert base.splits and set(base.splits) == {"validation"}


# --- distillation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_steps(monkeypatch):
    """A teacher of two steps; students are noted as they are cut."""
    x, students = home("distilled"), []
    monkeypatch.setitem(x.TEACHER, "steps", 2)
    cut = x.with_fewer_layers

    def shorter(teacher, layers, choose):
        student = cut(teacher, layers, choose)
        students.append(student)
        students.append(copy.deepcopy(student))
        return student

    put(monkeypatch, "with_fewer_layers", shorter)
    return students


STUDENT = {"layers": 2, "seed": 0, "learning_rate": 1e-2, "steps": 2, "batch_size": 4}


def judged_by_test(base, found, model) -> None:
    assert found["score"].targets == labels("test") and found["score"].predictions == answers(base, model, first=None)
    right = np.array(answers(base, model, split="validation", first=CHOSEN_ON)) == labels(
        "validation", first=CHOSEN_ON
    )
    assert found["validation"] == pytest.approx(right.mean())


def test_a_teacher_is_tuned_on_short_tickets_and_judged_merged(base, two_steps):
    found = find("teacher").function(seed=0)
    judged_by_test(base, found, base.models[0])
    assert base.trained_on <= marks("train", LONG) and base.scored_on >= marks("test")
    assert not any(hasattr(m, "base") for m in base.models[0].modules())
    assert found["bytes"] == 4 * sum(p.numel() for p in base.fresh().parameters()) and found["teacher_seconds"] > 0


@pytest.mark.parametrize("kept, layers", [("first", (0, 1)), ("evenly", (0, 2))])
def test_an_untrained_student_is_its_teacher_without_layers(kept, layers, base, two_steps):
    found = find("untrained").function(kept=kept, layers=2, seed=0)
    by_hand = copy.deepcopy(base.models[0])
    by_hand.model.layers = torch.nn.ModuleList(base.models[0].model.layers[i] for i in layers)
    judged_by_test(base, found, by_hand)
    assert len(base.fits) == 1  # the teacher's


@pytest.mark.parametrize("name", ["distilled", "by_labels"])
def test_a_student_begins_at_the_loss_of_its_way(name, base, two_steps):
    soft = {"T": 2.0, "weight": 0.75} if name == "distilled" else {}
    found = find(name).function(kept="first", **soft, **STUDENT)
    student, untrained = two_steps
    judged_by_test(base, found, student)
    model, batches, _ = base.fits[-1]
    assert model is student and base.trained_on <= marks("train", LONG)
    (p, targets), (q, _) = (label_log_odds(base, one, batches[0]) for one in (base.models[0], untrained))
    hard = -np.mean([log_softmax(row)[target] for row, target in zip(q, targets)])
    teach, learn = (np.array([log_softmax(row / 2) for row in logits]) for logits in (p, q))
    softened = (np.exp(teach) * (teach - learn)).sum(1).mean() * 2**2
    expected = 0.75 * softened + 0.25 * hard if soft else hard
    assert found["losses"][0] == pytest.approx(expected, rel=1e-3)


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - np.log(np.exp(row - row.max()).sum()) - row.max()


def label_log_odds(base, model, batch) -> tuple[np.ndarray, list[int]]:
    tokens = [base.tokenizer(f" {word}").input_ids[0] for word in TOPICS]
    rows = []
    for ids, last in zip(batch.input_ids, batch.last.tolist()):
        with torch.no_grad():
            rows.append(model(ids[None, : last + 1]).logits[0, -1, tokens].double().numpy())
    return np.array(rows), batch.targets.tolist()


# --- experts -----------------------------------------------------------------------------------------------------------

EXPERT = {"r": 2, "learning_rate": 0.3, "steps": 2, "batch_size": 4}


def three_columns() -> list[int]:
    return [label for task in CHOICES for label in labels("test", task, ASKED)]


def test_one_adapter_is_taught_the_questions_that_are_named_and_asked_all_three(base):
    found = find("one_adapter").function(tasks=["urgency"], seed=0, **EXPERT)
    (model,) = base.models
    assert found["score"].targets == three_columns()
    assert found["score"].predictions == [n for task in CHOICES for n in answers(base, model, task)]
    right = answers(base, model, "urgency", "validation", CHOSEN_ON)
    by_hand = np.mean(np.array(right) == labels("validation", "urgency", CHOSEN_ON))
    assert found["validation"] == pytest.approx(by_hand)
    assert all(target == labels("train", "urgency")[n] for (_, n), target in base.lessons())
    assert {path.split(".")[-2] for path, p in model.named_parameters() if p.requires_grad} == {
        "q_proj",
        "v_proj",
    }


def by_hand(base, weights: list[float]):
    """The base with the weighted updates of the three experts multiplied out and added."""
    model = base.fresh()
    with torch.no_grad():
        for weight, expert in zip(weights, base.models):
            for path, layer in expert.named_modules():
                if hasattr(layer, "B"):
                    update = layer.scale * layer.B.detach() @ layer.A.detach()
                    model.get_submodule(path).weight += weight * update
    return model


@pytest.fixture
def quick_router(monkeypatch):
    """A router that is taught for a moment, and what it was taught."""
    taught = []

    def train_router(router, features, numbers, **_):
        taught.append(numbers)

    put(monkeypatch, "train_router", train_router)
    return taught


def test_experts_and_their_merges_answer_by_their_own_updates(base, quick_router):
    found = find("experts").function(seed=0, **EXPERT)
    said = found["said"]
    for task, expert in zip(CHOICES, base.models):
        (_, batches, _) = base.fits[list(CHOICES).index(task)]
        assert {len(batch.label_ids) for batch in batches} == {len(CHOICES[task])}
        assert said[f"expert on {task}"] == {asked: answers(base, expert, asked) for asked in CHOICES}
    for name, weights in {
        "average": [1 / 3] * 3,
        "sum": [1, 1, 1],
        "intent weighs double": [0.5, 0.25, 0.25],
    }.items():
        merged = by_hand(base, weights)
        assert said[name] == {asked: answers(base, merged, asked) for asked in CHOICES}
    picks = found["routing"]["new words"]["picks"]
    routed = [
        said[f"expert on {list(CHOICES)[picks[ASKED * n + i]]}"][task][i]
        for n, task in enumerate(CHOICES)
        for i in range(ASKED)
    ]
    assert found["score"].predictions == routed and found["score"].targets == three_columns()
    assert sorted(set(quick_router[0])) == [0, 1, 2] and quick_router[0] == sorted(quick_router[0])


@pytest.mark.parametrize("stack", [True, False])
def test_what_is_learnt_one_after_another_is_asked_so_far(stack, base):
    found = find("stacked_tasks").function(stack=stack, seed=0, **EXPERT)
    (model,) = base.models
    assert [list(stage) for stage in found["stages"]] == [list(CHOICES)[: n + 1] for n in range(3)]
    last = {task: answers(base, model, task) for task in CHOICES}
    assert found["stages"][-1] == last and found["score"].targets == three_columns()
    assert found["score"].predictions == [n for task in CHOICES for n in last[task]]
    learnt = [{len(batch.label_ids) for batch in batches} for _, batches, _ in base.fits]
    assert learnt == [{8}, {3}, {3}] and SHIFT["train"] == 0
    adapted = [m for m in model.modules() if hasattr(m, "B")]
    below = [len(getattr(m.base, "updates", [])) for m in adapted]
    assert below == [2 if stack else 0] * 6  # under each layer that trained last; three layers, queries and values
    for stage, scores in zip(found["stages"], found["scores"]):
        by_task = [np.mean(np.array(said) == labels("test", task, ASKED)) for task, said in stage.items()]
        assert scores == pytest.approx(by_task)
