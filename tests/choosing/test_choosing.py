"""Claims of lessonlib.choosing. References: recorded runs, published tables, and situations decided by hand."""

import itertools
import json

import pytest

from lessonlib import runs
from lessonlib.choosing import (
    ACCESS,
    ALL,
    FEW,
    LATENCY,
    MEMORY,
    SET_ASIDE,
    Advice,
    Counted,
    Measured,
    Published,
    Row,
    Situation,
    all_evidence,
    decide,
    leaves,
    recommend,
    rows,
    trainable,
    tree,
)
from lessonlib.corpora import tickets
from lessonlib.costs import LoRA, QLoRA

EIGHT = {
    "zero-shot", "few-shot", "calibrated", "prompt tuning", "prefix tuning", "adapter", "LoRA", "full fine-tuning",
}  # fmt: skip

EVERY = [
    Situation(*facts)
    for facts in itertools.product(
        (0, 1, FEW - 1, FEW, FEW + 1, 10**6), ACCESS, MEMORY, (False, True), LATENCY, (1, 2, 1000)
    )
]


# --- the tree -----------------------------------------------------------------------------------------------


def test_every_leaf_is_reached_and_nothing_else():
    reached = {id(decide(situation).advice) for situation in EVERY}
    assert reached == {id(advice) for _, advice in leaves()}


def test_every_way_through_the_tree_is_walked():
    walked = {tuple(answer.label for _, answer in decide(situation).path) for situation in EVERY}
    assert walked == {tuple(answer.label for _, answer in path) for path, _ in leaves()}


def test_exactly_one_answer_stands_for_every_value():
    for situation in EVERY:
        for question, answer in decide(situation).path:
            value = getattr(situation, question.asks)
            assert [one for one in question.answers if value in one.values] == [answer]


def test_the_picture_and_the_function_read_the_same_tree(monkeypatch):
    monkeypatch.setattr(tree, "TREE", Advice("only this", "", (), ()))
    assert decide(EVERY[0]).advice.what == "only this" and decide(EVERY[0]).path == ()


def test_every_method_of_the_head_to_head_is_advised_or_set_aside():
    advised = {method for _, advice in leaves() for method in advice.methods}
    assert advised | set(SET_ASIDE) == EIGHT and not advised & set(SET_ASIDE)


def test_every_advice_and_every_method_set_aside_rests_on_something():
    assert all(advice.rests_on for _, advice in leaves()) and all(SET_ASIDE.values())


# --- what it rests on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", all_evidence(), ids=lambda one: one.says)
def test_no_rule_is_contradicted_by_what_is_recorded_or_published(evidence):
    held = evidence.holds()
    assert held is not False, "the runs or the table say otherwise: mend the rule"
    assert held is True or isinstance(evidence, Measured), "only a run can be missing"


def test_rows_ask_for_settings_that_are_recorded_wherever_their_experiment_is():
    rows = [row for one in all_evidence() if isinstance(one, Measured) for row in (one.more, one.less)]
    assert len(rows) > 10
    for row in rows:
        if list(runs.DIRECTORY.glob(f"{row.experiment}-*.json")):
            row.value()  # raises LookupError for settings, KeyError for a measure, that no run has


def test_the_limits_are_those_of_the_evidence():
    assert rows.TRAINING_PAYS.more.settings["examples"] == FEW
    assert rows.TOO_FEW.less.settings["examples"] < FEW
    assert len(tickets("train")) == ALL
    by_examples = next(q for path, _ in leaves() for q, _ in path if q.rests_on and q.asks == "examples")
    assert by_examples.answer(FEW - 1) is not by_examples.answer(FEW)


def test_counted_bytes_can_say_no():
    assert not Counted("", LoRA(r=16), QLoRA(r=16), times=100).holds()
    assert not Published("", "hu2021_table4", ("FT", "WikiSQL"), ("LoRA 37.7M", "WikiSQL")).holds()


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Writes runs to a directory of the test's own: recorded(learning rate, seed, accuracy, validation)."""
    monkeypatch.setattr(runs, "DIRECTORY", tmp_path)

    def write(experiment, accuracy, results, **settings):
        name = runs.identity(experiment, settings)
        run = runs.Run(name, experiment, settings, {}, "", "", 1.0, {"value": accuracy}, results)
        (tmp_path / f"{name}.json").write_text(json.dumps(vars(run)))

    return write


def test_a_row_is_the_mean_over_seeds_at_the_rate_that_won_on_validation(recorded):
    recorded("e", 0.9, {"validation": 0.5}, learning_rate=1.0, seed=0)
    recorded("e", 0.6, {"validation": 0.7}, learning_rate=2.0, seed=0)
    recorded("e", 0.8, {"validation": 0.1, "time": {"merged": [1.5, 1, 2]}}, learning_rate=2.0, seed=1)
    recorded("e", 0.2, {"validation": 0.99}, learning_rate=1.0, seed=1)  # the first seed alone decides
    assert Row("e", {}).value() == pytest.approx(0.7)
    assert Row("e", {"learning_rate": 2.0, "seed": 1}, "time.merged.0").value() == 1.5


def test_evidence_holds_fails_or_is_not_recorded(recorded):
    recorded("e", 0.8, {"validation": 1, "size": 100}, learning_rate=1.0, seed=0, method="a")
    recorded("e", 0.7, {"validation": 1, "size": 3}, learning_rate=1.0, seed=0, method="b")
    a, b, c = (Row("e", {"method": method}) for method in "abc")
    assert Measured("", a, b, by=0.05).holds() is True and Measured("", b, a, by=-0.15).holds() is True
    assert Measured("", a, b, by=0.15).holds() is False and Measured("", b, a).holds() is False
    assert Measured("", a, c).holds() is None
    sizes = [Row("e", {"method": method}, "size") for method in "ab"]
    assert Measured("", *sizes, times=33).holds() is True and Measured("", *sizes, times=34).holds() is False


# --- situations decided by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "situation, begins",
    [
        (Situation(0, "text"), "zero-shot: ask"),
        (Situation(5000, "text"), "few-shot: examples"),
        (Situation(0, "probabilities"), "zero-shot, calibrated"),
        (Situation(12), "few-shot, calibrated"),
        (Situation(500, memory="nothing"), "a smaller base"),
        (Situation(500, memory="4-bit LoRA", tasks=9, far=True), "QLoRA"),
        (Situation(500), "full fine-tuning with float32 masters, beside LoRA"),
        (Situation(500, memory="LoRA"), "LoRA on all linear layers, merged"),
        (Situation(500, tasks=9, latency="relaxed"), "LoRA, unmerged"),
        (Situation(500, tasks=9), "LoRA, merged into a copy"),
        (Situation(10**5, far=True), "full fine-tuning"),
        (Situation(10**5, far=True, memory="LoRA"), "LoRA on all linear layers, of a high rank"),
    ],
)
def test_the_advice_fits_the_situation(situation, begins):
    assert decide(situation).advice.what.startswith(begins)


def test_memory_comes_from_the_costs():
    # Llama 2 of 7B: 6.74 billion weights are 13.5 GB in bfloat16, 108 GB with all that full fine-tuning keeps.
    assert [trainable("llama2-7b", gb) for gb in (4.0, 10.0, 24.0, 160.0)] == list(MEMORY)
    assert trainable("smollm2-135m", "T4") == "full fine-tuning"


def test_an_api_needs_no_gpu():
    assert recommend(5, "text", base="no such model", gpu="no such gpu").advice.what.startswith("few-shot")
    assert recommend(500, base="llama2-70b", gpu=24.0).advice.what.startswith("a smaller base")


def test_a_recommendation_says_how_it_was_reached():
    text = repr(recommend(500, base="llama2-7b", gpu=24.0))
    assert text.startswith("LoRA on all linear layers, merged")
    assert "How many labelled examples are there? 30 or more" in text and "LoRA trains in a fifth" in text


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"examples": -1}, "examples is -1; expected a whole number of at least 0"),
        ({"examples": 2.5}, "examples is 2.5; "),
        ({"examples": True}, "examples is True; "),
        ({"examples": 5, "tasks": 0}, "tasks is 0; expected a whole number of at least 1"),
        ({"examples": 5, "access": "api"}, "access is 'api'; expected one of 'text'"),
        ({"examples": 5, "latency": "low"}, "latency is 'low'; expected one of 'strict'"),
        ({"examples": 5, "far": "very"}, "far is 'very'"),
    ],
)
def test_what_is_no_situation_is_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        recommend(base="smollm2-135m", gpu=80.0, **facts)
