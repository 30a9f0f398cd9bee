"""Claims of lessonlib.experiments.lesson08_tables. References: hand arithmetic, scipy's exact binomial, bytes counted on the real model."""

import numpy as np
import pytest
import torch
from scipy import stats

from lessonlib.experiments import lesson08_costs
from lessonlib.experiments import lesson08_gap as gap
from lessonlib.experiments import lesson08_methods as room
from lessonlib.experiments import lesson08_tables as comparison
from lessonlib.experiments.lesson08_tables import (
    AS_PLANNED,
    answer_time,
    both_ways,
    cost_table,
    counted,
    difference,
    off_task,
    points,
    predicted,
    quality_table,
    recorded,
    right,
    score,
)
from lessonlib.runs import Run
from lessonlib.training import seed_everything
from lessonlib.training.labels import Batch


def run(predictions, seed: int = 0, targets=None, **results) -> Run:
    """A recorded run, of which only what a test needs is filled in."""
    targets = list(targets or [1] * len(predictions))
    value = float(np.mean(np.array(predictions) == np.array(targets)))
    score = {"value": value, "n": len(targets), "predictions": list(predictions), "targets": targets}
    return Run("id", "e", {"seed": seed}, {}, "", "", 1.0, score, results)


A = [run([1, 1, 0, 0]), run([1, 0, 1, 0], seed=1)]
B = [run([1, 0, 0, 0]), run([1, 0, 0, 0], seed=1)]


def test_a_text_is_right_by_the_share_of_seeds_that_got_it():
    assert right(A).tolist() == [1.0, 0.5, 0.5, 0.0]
    assert score(A)[0] == 0.5 and score(B) == (0.25, *score(B)[1:])


def test_an_interval_is_that_of_a_proportion_where_there_is_one_seed():
    one = run([1] * 140 + [0] * 60)
    mean, low, high = score([one])
    exact = stats.binomtest(140, 200).proportion_ci(method="wilson")
    assert mean == 0.7 and low == pytest.approx(exact.low, abs=0.01) and high == pytest.approx(exact.high, abs=0.01)


def test_a_difference_is_paired_text_by_text():
    # Both wrong on the same 60 texts but for four: a binomial of each by itself would be 13 points wide.
    a, b = run([1] * 140 + [0] * 60), run([1] * 136 + [0] * 64)
    mean, low, high = difference([a], [b])
    assert mean == pytest.approx(0.02) and 0 < low < 0.02 < high < 0.045
    assert difference([b], [a])[0] == -mean


def test_a_difference_over_other_right_answers_is_refused():
    with pytest.raises(ValueError, match="not measured on the same texts"):
        difference(A, [run([1, 1, 1, 1], targets=[1, 1, 1, 2])])


def test_what_is_not_recorded_is_left_out():
    def read(name):
        if name == "gone":
            raise LookupError
        return name.upper()

    assert recorded(read, ("a", "gone", "b")) == {"a": "A", "b": "B"}


@pytest.mark.parametrize("condition", comparison.BOTH)
def test_both_ways_have_the_same_seeds_and_right_answers(condition, monkeypatch):
    seeds = {"LoRA": (0, 1, 2), "full fine-tuning": (1, 0)}

    def read(method, **_):
        return [run([1, 0], seed=seed, method=method) for seed in seeds[method]]

    monkeypatch.setattr(gap, "chosen", read)
    monkeypatch.setattr(gap, "load_runs", lambda experiment, condition, method: read(method))
    lora, full = both_ways(condition)
    assert sorted(one.settings["seed"] for one in lora) == [0, 1] == sorted(one.settings["seed"] for one in full)
    assert {one.results["method"] for one in full} == {"full fine-tuning"}


def test_tables_say_what_is_recorded_and_leave_open_what_is_not():
    off = {"perplexity": 20.0, "sentiment": 0.5}
    rows = quality_table(
        {"asked": B, "trained": [run([1, 1, 0, 0], elsewhere=off), run([1, 1, 1, 0], elsewhere=off)]}
    )
    assert rows.rows[0][-2:] == ("the base's", "the base's") and rows.rows[1][3:] == ("50, 75", "20.0", "50")
    times = {"as trained": [1.4, 1.3, 1.5], "merged": [1.01, 1.0, 1.1]}
    trained = run([1], trainable=12, bytes={"weights": 5e6, "gradients": 1e6}, step_time=[1, 1, 1], answer_time=times)
    prompted = run([1], trainable=0, bytes={"weights": 5e6}, answer_time={"as prompted": [2.0, 2, 2]})
    table = cost_table({"LoRA": trained, "few-shot": prompted})
    assert table.rows[0] == ("LoRA", "12", "6 MB", "1.00", "1.40 as trained, 1.01 merged")
    assert table.rows[1] == ("few-shot", "0", "–", "–", "2.00 as prompted")
    assert counted(trained) == 6e6 and answer_time(trained) == 1.01
    assert off_task(B) == {} and off_task([run([1], elsewhere=off)]) == off
    assert points((0.5, -0.25, 0.75), "+") == "+50 (-25 to +75)"


def test_every_way_that_trains_has_a_plan():
    assert set(AS_PLANNED) == set(room.TRAINED)


def test_a_longer_text_keeps_more_and_weights_stay():
    short, long = (predicted("LoRA", batch=8, tokens=tokens) for tokens in (40, 80))
    assert long.weights == short.weights and 2 < long.activations / short.activations < 2.4


@pytest.mark.model
@pytest.mark.parametrize("method", AS_PLANNED)
def test_the_bytes_of_a_step_are_as_predicted_within_two_percent(method):
    seed_everything(0)
    # As in the recorded runs: the plan is for two bytes a weight.
    model, tokenizer = room.load_base(dtype=torch.bfloat16)
    room.TRAINED[method].build(model, tokenizer)
    eight = lesson08_costs.longest(room.intent_task(tokenizer, room.CUT))
    # Two rows: processors without bfloat16 imitate it, at a tenth of the speed.
    two = Batch(eight.input_ids[:2], eight.last[:2], eight.targets[:2], eight.label_ids)
    held = sum(lesson08_costs.step_bytes(model, two, method).values())
    batch, tokens = two.input_ids.shape
    assert predicted(method, batch=batch, tokens=tokens).total == pytest.approx(held, rel=0.02)
