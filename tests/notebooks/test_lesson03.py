"""What notebook 03 promises beyond what holds for all notebooks."""

import copy

import pytest
import torch
from lesson_cells import definition
from tiny_models import six_steps
from transformers import DynamicCache  # noqa: F401  the notebook's cells may rely on it

from lessonlib import corpora
from lessonlib.evaluation import Accuracy
from lessonlib.exercises import exercises
from lessonlib.experiments import find, rerun
from lessonlib.experiments import lesson03_prompts as room
from lessonlib.experiments.lesson03_answers import parse_word
from lessonlib.prompting import calibrate
from lessonlib.prompting.soft_prompts import add_prefix, add_prompt
from lessonlib.runs import Run, load_runs


def losses(source, name, add, model):
    """Losses of training with the class that the notebook's cell defines."""
    names = {"torch": torch, "nn": torch.nn}
    exec(source, names)
    torch.manual_seed(0)
    add(model, 3, [5, 6, 7], module=names[name])
    return six_steps(model)


@pytest.mark.parametrize(
    "name, add, line, edited",
    [
        ("SoftPrompt", add_prompt, "nn.Parameter(P)", "nn.Parameter(0 * P)"),
        ("SoftPrompt", add_prompt, "K.expand(B", "(0 * K).expand(B"),
        ("Prefix", add_prefix, "nn.Parameter(V)", "nn.Parameter(-V)"),
        ("Prefix", add_prefix, "K.expand(B", "V.expand(B"),
    ],
)
def test_an_edit_in_the_notebooks_own_class_changes_the_outcome(name, add, line, edited, tiny):
    source = definition("03", name)
    assert line in source
    before = losses(source, name, add, copy.deepcopy(tiny))
    assert losses(source, name, add, copy.deepcopy(tiny)) == before
    assert losses(source.replace(line, edited), name, add, copy.deepcopy(tiny)) != before


# --- the task and the grid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_two_classes_are_equally_many_and_none_of_their_texts_is_an_example(split):
    texts, targets = room.sentiment_tickets(split)
    labels = corpora.tickets(split)["sentiment"]
    assert targets.count(0) == targets.count(1) == min(labels.count(0), labels.count(2))
    shown = {text for seed in range(5) for text, _ in room.draw_examples("NPNP", seed)}
    assert not shown & set(texts)


def test_recorded_prompts_were_scored_on_the_sentiment_of_the_tickets():
    _, targets = room.sentiment_tickets("validation")
    for name in ("prompt_grid", "example_orders", "label_balance", "examples_chosen", "answer_form"):
        for run in load_runs(name):
            assert run.score["targets"] == targets and run.settings["split"] == "validation"
    assert len(targets) >= 60


def test_a_draw_keeps_its_tickets_whatever_the_order_of_the_labels():
    one, other = room.draw_examples("NNPP", 3), room.draw_examples("PNPN", 3)
    assert sorted(one) == sorted(other) and one != other
    assert room.draw_examples("NNPP", 4) != one


def test_the_grid_is_recorded_whole_and_every_order_once():
    cells = {tuple(run.settings[f] for f in room.FACTORS) for run in room.recorded_grid()}
    assert (
        len(cells)
        == len(room.recorded_grid())
        == (len(room.WORDS) * len(room.SEPARATORS) * len(room.INSTRUCTIONS) * len(room.ORDERS))
    )
    assert len({room.order_name(run) for run in load_runs("example_orders", seed=0)}) == 24


def test_recorded_predictions_follow_from_the_recorded_scores():
    for run in room.recorded_grid():
        scores, _ = room.recorded_scores(run)
        clear = (scores[:, 0] - scores[:, 1]).abs() > 0.002  # the scores are kept to three places
        same = scores.argmax(1) == torch.tensor(run.score["predictions"])
        assert same[clear].all()


def test_swings_are_taken_with_all_else_equal():
    def cell(words, order):
        return {"words": words, "separator": "a", "instruction": "b", "order": order}

    cells = [(cell("x", 1), 0.5), (cell("y", 1), 0.8), (cell("x", 2), 0.6), (cell("y", 2), 0.55)]
    assert room.swings(cells, "words") == pytest.approx([0.3, 0.05])
    assert room.swings(cells, "order") == pytest.approx([0.1, 0.25])


def test_the_spread_over_orders_leaves_out_what_formats_do():
    def cell(words, order):
        return {"words": words, "separator": "a", "instruction": "b", "order": order}

    # Orders move "x" by 0.2 and "y" not at all; the standard deviation of 0.5 and 0.7 is 0.1 times the root of 2.
    cells = [(cell("x", 1), 0.5), (cell("x", 2), 0.7), (cell("y", 1), 0.9), (cell("y", 2), 0.9)]
    assert room.spread(cells, "order") == pytest.approx(0.1 * 2**0.5 / 2)
    assert room.spread(cells, "words", "separator", "instruction") == pytest.approx((0.4 + 0.2) / 2 / 2**0.5)
    assert room.spread(cells, *room.FACTORS) == pytest.approx(torch.tensor([0.5, 0.7, 0.9, 0.9]).std().item())


def test_a_recorded_run_is_judged_by_sentiment_or_by_intents():
    def run(name):
        return Run("id", name, {"split": "validation"}, {}, "", "", 0.0, {}, {})

    assert find("prompt_grid").right_answers(run("prompt_grid")) == room.sentiment_tickets("validation")[1]
    assert find("prefix_tuning").right_answers(run("prefix_tuning")) == list(corpora.tickets("test")["intent"])


def test_the_learners_function_reads_recorded_scores_as_the_library_does():
    solution = exercises("03")["03.2"].reference
    for run in room.recorded_grid()[::17] + load_runs("examples_chosen", way="similar"):
        assert room.read_again(run, solution).predictions == room.read_again(run, calibrate).predictions


def test_a_prompt_of_each_tickets_own_is_calibrated_by_its_own_inputs():
    results = {
        "log_probs": [[-1.0, -2.0], [-1.0, -2.0]],
        "content_free": [
            [[-1.0, -9.0]],
            [[-9.0, -1.0]],
        ],  # the first prompt likes label 0, the second label 1
    }
    run = Run("id", "f", {}, {}, "", "", 0.0, {"targets": [1, 0]}, results)
    assert room.read_again(run, calibrate).predictions == [1, 0]


def test_a_float32_head_tells_labels_apart_that_tie_in_bfloat16():
    head = torch.nn.Linear(1, 2, bias=False, dtype=torch.bfloat16)
    head.weight.data[:] = torch.tensor([[16.0], [16.125]])
    hidden = torch.tensor([[1.0078125]], dtype=torch.bfloat16)
    coarse, fine = head(hidden)[0], room.Float32Head(head)(hidden)[0]
    assert fine.dtype == torch.float32 and fine[1] - fine[0] == pytest.approx(0.125 * 1.0078125)
    assert coarse[1] - coarse[0] != fine[1] - fine[0]


def test_strict_reading_takes_whole_words_only():
    words = ["unhappy", "happy"]
    said = {
        " happy": 1,
        " Unhappy.\nTicket": 0,
        ' "happy"}': 1,
        " not happy": None,
        "": None,
        "happyish": None,
    }
    assert {text: parse_word(text, words) for text in said} == said


# --- what is asserted can fail ----------------------------------------------------------------------------------------


def test_bias_shows_in_what_was_recorded_and_not_in_a_model_without():
    rates = {
        run.settings["labels"]: sum(run.score["predictions"]) / run.score["n"] for run in load_runs("label_balance")
    }
    assert len(rates) == 16
    two_each = [labels for labels in rates if labels.count("P") == 2]
    last = {c: sum(rates[s] for s in two_each if s[-1] == c) / 3 for c in "NP"}
    assert last["P"] - last["N"] > 0.1


@pytest.mark.model
def test_a_recorded_prompt_scores_inside_its_band_again():
    run = next(run for run in room.zero_shot_runs() if run.settings["words"] == "unhappy / happy")
    again = rerun(run.id)
    assert again.inside, again
    assert isinstance(again.again.answers(), Accuracy)
