"""The figures of 08: what every picture must be, what their descriptions say by hand arithmetic, and the playground's steps."""

import functools
import random
import threading
import time
from typing import ClassVar

import pytest
import torch
from pictures import PictureChecks
from tiny_models import tiny_model, tiny_tokenizer
from torch import nn

from lessonlib import figures
from lessonlib.adapters import add_adapters
from lessonlib.choosing import TREE, Situation, decide, leaves
from lessonlib.figures import Picture
from lessonlib.figures.lesson08 import _indexes, draw_cost, draw_tree, front
from lessonlib.figures.playground import Seen, Steps, Watch, Way, as_html, draw_playground
from lessonlib.lora import add_lora, lora_layers
from lessonlib.prompting.soft_prompts import add_prefix, add_prompt
from lessonlib.training import fit
from lessonlib.training.labels import LabelTask

MEANS = (0.35, 0.41, 0.52, 0.61, 0.7, 0.82, 0.84, 0.83)
METHODS = (
    "zero-shot", "few-shot", "calibrated", "prompt tuning", "prefix tuning", "adapter", "LoRA", "full fine-tuning",
)  # fmt: skip
SCORES = {name: (mean, mean - 0.06, mean + 0.055) for name, mean in zip(METHODS, MEANS)}
SEEDS = {name: (mean - 0.02, mean, mean + 0.03) for name, mean in zip(METHODS, MEANS)}
SIZES = (10, 30, 100, 300, 661)
CURVES = {
    "LoRA": dict(zip(SIZES, ((0.3, 0.4), (0.5, 0.6), (0.7,), (0.8, 0.82), (0.84, 0.86)))),
    "full fine-tuning": dict(zip(SIZES, ((0.2, 0.4), (0.5, 0.5), (0.72,), (0.8, 0.8), (0.85, 0.86)))),
    "prompt tuning": dict(zip(SIZES, ((0.2,), (0.3,), (0.4,), (0.5,), (0.6,)))),
}
GAPS = {
    "as it was": (0.01, -0.03, 0.05),
    "another task": (-0.08, -0.12, -0.04),
    "a third gone": (0.0, -0.05, 0.05),
}
PERPLEXITY = dict(zip(("zero-shot", *METHODS[3:]), (22.1, 22.1, 23.5, 28.0, 26.2, 41.7)))
SENTIMENT = dict(zip(("zero-shot", *METHODS[3:]), (0.71, 0.7, 0.64, 0.6, 0.66, 0.52)))
COSTS = {
    "trained parameters (log scale)": dict(
        zip(METHODS, (0, 0, 0, 9_216, 184_320, 2_248_320, 2_442_240, 134_515_008))
    ),
    "megabytes held": dict(zip(METHODS, (269, 269, 269, 718, 711, 768, 780, 2_700))),
    "time of an answer, base = 1": dict(zip(METHODS, (1.0, 2.4, 2.4, 1.02, 1.02, 1.3, 1.0, 1.0))),
}
KINDS = ("query", "key", "value", "output", "gate", "up", "down")
LIT = {(i, kind): 10 ** -(4 - (i % 9) / 3) for i in range(30) for kind in KINDS}
HALFWAY = Seen("LoRA", 40, 30, KINDS, [2.5, 2.0, 1.4], LIT, 2_442_240, 297_000_000, 0.8)


def cost(name: str):
    return Picture(draw_cost, name, COSTS[name], SCORES, "parameters" in name, front, size=(8.6, 4.4))


def tree(way: tuple[int, ...]):
    return Picture(draw_tree, TREE, way, size=(13.6, 8.2), dpi=80)


def play(seen: Seen):
    return Picture(draw_playground, seen, size=(11, 3.7), columns=2, dpi=80)


PICTURES = {
    "ways": lambda: figures.ways_compared(SCORES, SEEDS),
    "two ways": lambda: figures.ways_compared(dict(list(SCORES.items())[:2]), SEEDS),
    "examples": lambda: figures.accuracy_by_examples(CURVES, ("calibrated prompt", 0.52)),
    "examples, lines that end together": lambda: figures.accuracy_by_examples(
        {name: {10: (0.5,), 661: (0.8,)} for name in CURVES}, ("prompt", 0.8)
    ),
    "gaps": lambda: figures.gaps(GAPS),
    "forgotten": lambda: figures.forgotten(PERPLEXITY, SENTIMENT),
    "parameters": lambda: cost("trained parameters (log scale)"),
    "megabytes": lambda: cost("megabytes held"),
    "answers": lambda: cost("time of an answer, base = 1"),
    "spectrum": lambda: figures.cost_accuracy(COSTS, SCORES).still,
    "tree": lambda: figures.decision_tree(decide(Situation(500)).path).still,
    "tree, first way": lambda: tree((0, 0)),
    "tree, last way": lambda: tree(_indexes(list(leaves())[-1][0])),
    "playground": lambda: play(HALFWAY),
    "playground before it begins": lambda: play(Seen("LoRA", 40, 30, KINDS)),
    "playground, everything": lambda: play(
        Seen(
            "full fine-tuning",
            2,
            30,
            KINDS,
            [2.5, 0.1],
            LIT | {(None, "in front"): 0.3, (2, "norms"): 1e-3},
            5,
            9,
            2.0,
        )
    ),
}


class TestPictures(PictureChecks):
    pictures = PICTURES
    height = (150, 800)
    figure_shown: ClassVar = {"spectrum": 0}


# --- what the descriptions say, from hand arithmetic -----------------------------------------------------------------


def test_ways_say_mean_and_interval_and_which_is_highest():
    alt = figures.ways_compared(SCORES, SEEDS).alt
    assert "zero-shot 35 (29 to 40)" in alt and alt.endswith("Highest is LoRA.")


def test_examples_say_means_over_seeds():
    alt = figures.accuracy_by_examples(CURVES, ("prompt", 0.52)).alt
    assert "LoRA 35 at 10, 55 at 30, 70 at 100, 81 at 300, 85 at 661" in alt and "prompt, 52" in alt


def test_gaps_count_the_intervals_without_zero():
    assert figures.gaps(GAPS).alt.endswith("1 of 3 intervals leave zero out.")


def test_the_front_is_who_nobody_beats():
    ways = {"a": (0, 0.5), "b": (9, 0.6), "c": (1, 0.6), "d": (5, 0.8), "e": (9, 0.8), "f": (50, 0.9)}
    assert front(ways) == ["a", "c", "d", "f"]
    assert front({"one": (1, 0.5), "other": (1, 0.5)}) == ["one", "other"]


# --- the tree --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_way_through_the_tree_can_be_clicked():
    walk = figures.decision_tree(decide(Situation(500)).path).walk
    walk.picture = functools.cache(lambda way: figures.Picture(draw_tree, TREE, way, size=(8, 6), dpi=40))
    for path, advice in leaves():
        for depth, (question, answer) in enumerate(path):
            walk.answer(depth, question.answers.index(answer))
        assert walk.way == _indexes(path)
        assert advice.what.split(":")[0] in walk.advice.value and len(walk.questions.children) == len(path)


def test_an_answer_walks_the_tree_and_its_evidence_is_beside():
    walk = figures.decision_tree(decide(Situation(500)).path).walk
    answers = walk.questions.children[0]
    answers.set_state({"index": 0})  # as a front end sends it
    assert walk.way == (0, 0) and "zero-shot: ask" in walk.advice.value
    assert "✓" in walk.advice.value and "Advised: zero-shot" in walk.image.value


def test_the_cheat_sheet_has_every_way_and_counts_what_holds():
    sheet = figures.cheat_sheet()
    assert [row[1] for row in sheet.rows] == [advice.what for _, advice in leaves()]
    assert sheet.rows[0][0] == "the model gives: text only; examples: none" and sheet.rows[0][3] == "1 of 1"


# --- the playground --------------------------------------------------------------------------------------------------

BUILD = {
    "LoRA": lambda model, _: add_lora(model, ["q_proj", "down_proj"], r=2),
    "adapter": lambda model, _: add_adapters(model, 4),
    "prompt": lambda model, tokenizer: add_prompt(model, 3, tokenizer("billing refund").input_ids),
    "prefix": lambda model, tokenizer: add_prefix(model, 3, tokenizer("billing refund").input_ids),
    "everything": lambda model, _: model.requires_grad_(True),
}
MOVES = {  # by hand, for the tiny model's two layers
    "LoRA": {(i, kind) for i in (0, 1) for kind in ("query", "down")},
    "adapter": {(i, kind) for i in (0, 1) for kind in ("adapter 1", "adapter 2")},
    "prompt": {(None, "in front")},
    "prefix": {(0, "prefix"), (1, "prefix")},
    "everything": {(i, kind) for i in (0, 1) for kind in (*KINDS, "norms")} | {(None, "in front")},
}


def built(way: str = "LoRA"):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    BUILD[way](model, tokenizer)
    return model, tokenizer


def batches(steps: int = 6):
    task = LabelTask(tiny_tokenizer(), ["billing", "refund", "account"])
    texts = ["late parcel", "broken thanks", "my account", "feedback"]
    return task.training_batches(texts, [0, 1, 2, 0], steps=steps, batch_size=2)


def playground(steps: int = 6):
    ways = {name: Way(build, 1e-2) for name, build in BUILD.items()}
    torch.manual_seed(0)
    return figures.playground(lambda: (tiny_model(), tiny_tokenizer()), ways, batches(steps))


def wait(condition, seconds: float = 20.0):
    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("way", BUILD)
def test_the_parts_that_light_up_are_those_that_train(way):
    shown = playground().run(way, 2)
    assert {key for key, value in shown.seen.moved.items() if value > 0} == MOVES[way]
    rows = {shown.seen.rows[row] for row, _, strength in shown.seen.cells() if strength is not None}
    assert rows == {kind for _, kind in MOVES[way]}


def test_what_has_not_trained_has_not_moved():
    watch = Watch(built("LoRA")[0])
    assert set(watch.moved().values()) == {0.0}


def test_lora_has_moved_by_the_norm_of_its_update_over_the_weights():
    model, _ = built("LoRA")
    watch = Watch(model)
    (_, layer), *_ = lora_layers(model)
    nn.init.normal_(layer.B)
    update = layer.scale * layer.B @ layer.A
    assert watch.moved()[0, "query"] == pytest.approx((update.norm() / layer.base.weight.norm()).item(), rel=1e-4)


def test_a_weight_has_moved_by_the_norm_of_its_change():
    model, _ = built("everything")
    watch = Watch(model)
    weight = model.get_decoder().layers[1].mlp.up_proj.weight
    weight.data *= 1.25
    moved = {key: value for key, value in watch.moved().items() if value > 0}
    assert moved == {(1, "up"): pytest.approx(0.25, rel=1e-5)}


@pytest.mark.parametrize("way", ["LoRA", "everything"])
def test_steps_taken_one_by_one_have_the_losses_of_fit(way):
    torch.manual_seed(3)
    steps = Steps(built(way)[0].train(), batches(), learning_rate=1e-2)
    ours = [steps.step() for _ in range(6)]
    torch.manual_seed(3)
    assert ours == fit(built(way)[0], batches(), learning_rate=1e-2).losses and steps.done


def test_stopped_and_gone_on_it_ends_where_an_unbroken_run_ends():
    torch.manual_seed(5)
    whole = playground().run("LoRA").seen
    torch.manual_seed(5)
    shown = playground()
    shown.run("LoRA", 2)
    shown.start()
    wait(lambda: len(shown.seen.losses) == 6 and not shown.seen.training)
    assert shown.seen.losses == whole.losses and shown.seen.moved == whole.moved
    shown.start()  # done is done
    wait(lambda: not shown.seen.training)
    assert len(shown.seen.losses) == 6


def test_it_stops_after_the_step_under_way_and_another_way_begins_anew():
    shown = playground(steps=2000)
    box = shown.box()
    (chooser, start, stop, _), panel = box.children[0].children, box.children[1]
    start.click()
    wait(lambda: len(shown.seen.losses) >= 2)
    stop.click()
    wait(lambda: not shown.seen.training)
    done = len(shown.seen.losses)
    time.sleep(0.1)
    assert len(shown.seen.losses) == done < 2000 and f"step <b>{done}</b>" in panel.value
    chooser.set_state({"index": list(BUILD).index("prefix")})
    assert shown.seen.way == "prefix" and not shown.seen.losses and "prefix" in panel.value
    start.click()
    wait(lambda: len(shown.seen.losses) >= 1)
    chooser.set_state({"index": 0})  # in the midst of training: that ends, and nothing begins by itself
    wait(lambda: shown._thread is None)
    assert shown.seen.way == "LoRA" and shown.seen.losses == [] and not shown.seen.training


def test_controls_answer_while_a_step_is_under_way():
    shown = playground(steps=3)
    box = shown.box()
    slow, inner = [], Steps.step

    def sleepy(self):
        slow.append(1)
        time.sleep(0.5)
        return inner(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "step", sleepy)
        shown.start()
        wait(lambda: slow)
        began = time.thread_time()
        box.children[0].children[0].set_state({"index": 2})
        shown.stop()
        assert time.thread_time() - began < 0.1 and shown.seen.way == "prompt"
        wait(lambda: shown._thread is None)
    assert shown.seen.losses == []  # the old way's step did not leak into the new one's picture


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_presses_leaves_one_run_that_can_go_on(seed):
    """Start, stop, begin anew, take another way, in any order and at any pace: what is shown is what trains."""
    draw, shown = random.Random(seed), playground(steps=400)
    box = shown.box()
    (chooser, start, stop, anew), panel = box.children[0].children, box.children[1]
    for _ in range(40):
        before = shown.trial
        event = draw.choice(("start", "start", "stop", "anew", "way"))
        if event == "way":
            chooser.set_state({"index": draw.randrange(len(BUILD))})
        else:
            {"start": start, "stop": stop, "anew": anew}[event].click()
        assert shown.seen.way == chooser.value and f"<b>{chooser.value}</b>" in panel.value
        assert (shown.trial is not before) <= (event in ("anew", "way"))
        # One that has nothing left to do may not be gone yet; one that trains beside another would stay.
        wait(lambda: sum(thread.name == shown.thread_name for thread in threading.enumerate()) <= 1)
        time.sleep(draw.choice((0.0, 0.02)))
    stop.click()
    wait(lambda: shown._thread is None)
    done = len(shown.seen.losses)
    shown.start()
    wait(lambda: len(shown.seen.losses) > done)
    shown.stop()
    wait(lambda: shown._thread is None)
    assert not shown.seen.training and f"step <b>{len(shown.seen.losses)}</b>" in panel.value


def test_a_redraw_takes_no_time_beside_a_step():
    began = time.thread_time()
    for _ in range(10):
        as_html(HALFWAY)
    assert (time.thread_time() - began) / 10 < 0.1


def test_the_playground_shows_itself_without_a_front_end():
    shown = playground().run("LoRA", 1)
    data, metadata = shown._repr_mimebundle_()
    assert "step 1 of 6" in metadata["image/png"]["alt"] and "application/vnd.jupyter.widget-view+json" in data
    assert shown.seen.held > 0 and shown.model is not None
