"""Claims of the head-to-head, its costs and its gap, on a tiny model. References: counts by hand, perplexity by definition."""

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from lessonlib import choosing, corpora, runs
from lessonlib.evaluation import Accuracy, accuracy
from lessonlib.experiments import find, registry
from lessonlib.experiments import lesson02_in_context as experiments_in_context
from lessonlib.experiments import lesson08_costs as costs
from lessonlib.experiments import lesson08_gap as gap
from lessonlib.experiments import lesson08_methods as experiments
from lessonlib.experiments.lesson08_tables import BOTH
from lessonlib.training import fit
from lessonlib.training.master_weights import MasterAdamW

SHORT = {"examples": 10, "seed": 0, "steps": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def tiny_base(monkeypatch):
    """The tiny model in the base's place, and sixty-four tickets a split."""
    tokenizer, all_rows = tiny_tokenizer(), corpora.tickets

    def load_base():
        return tiny_model(max_position_embeddings=4096), tokenizer

    def tickets(split):
        rows = all_rows(split)
        return rows if split == "train" else rows.select(range(64))

    for module in (experiments, costs, gap):
        monkeypatch.setattr(module, "load_base", load_base)
    monkeypatch.setattr(corpora, "tickets", tickets)
    monkeypatch.setattr(experiments, "VALIDATION", 20)
    experiments._prompt_scores.cache_clear()


@pytest.mark.parametrize("method", experiments.TRAINED)
def test_each_trained_way_gives_its_score_and_what_is_forgotten(method):
    rate = experiments.TRAINED[method].rates[0]
    found = experiments.head_to_head(method=method, learning_rate=rate, **SHORT)
    assert found["score"].n == 64 and 0 <= found["validation"] <= 1 and len(found["losses"]) == 2
    assert found["elsewhere"]["perplexity"] > 1 and found["elsewhere"]["sentiment_n"] > 5


@pytest.mark.parametrize("method", experiments.TRAINED)
def test_what_a_trained_way_costs_is_counted_and_timed(method):
    found = costs.what_it_costs(method, rounds=2)
    assert found["bytes"]["gradients"] >= 4 * found["trainable"] > 0  # float32, as all that trains here is
    assert found["bytes"]["optimizer states"] >= 8 * found["trainable"] and found["bytes"]["activations"] > 0
    assert set(found["answer_time"]) == ({"as trained", "merged"} if method == "LoRA" else {"as trained"})
    for median, low, high in [found["step_time"], *found["answer_time"].values()]:
        assert 0 < low <= median <= high


@pytest.mark.slow
def test_what_examples_in_the_prompt_cost_is_timed():
    found = costs.what_a_prompt_costs(2, rounds=2)
    assert found["trainable"] == 0
    assert found["prompt_tokens"] > experiments.few_shot_prompt(0, 0).tokens(tiny_tokenizer())
    median, low, high = found["answer_time"]["as prompted"]
    assert 0 < low <= median <= high


def test_the_ways_train_what_their_names_say():
    # By hand, width 32, inner 64, values 16, two layers, 4096 positions without parameters.
    counts = {}
    for method, way in experiments.TRAINED.items():
        model, tokenizer = experiments.load_base()
        way.build(model, tokenizer)
        counts[method] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    linear = 2 * (64 + 48 + 48 + 64 + 96 + 96 + 96)
    assert counts["prompt tuning"] == 16 * 32
    assert counts["prefix tuning"] == 2 * 2 * 16 * 16  # layers, K and V, tokens, heads x d
    assert counts["adapter"] == 2 * 2 * (2 * 32 * 32 + 32 + 32)
    assert counts["LoRA"] == 8 * linear
    assert counts["full fine-tuning"] == sum(p.numel() for p in tiny_model().parameters())


def test_full_fine_tuning_keeps_float32_masters_and_the_others_do_not_ask():
    optimizers = {method: way.optimizer for method, way in experiments.TRAINED.items()}
    assert optimizers.pop("full fine-tuning") is MasterAdamW
    assert set(optimizers.values()) == {torch.optim.AdamW}


def test_counting_and_timing_a_step_move_nothing():
    model, tokenizer = experiments.load_base()
    experiments.TRAINED["LoRA"].build(model, tokenizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = costs.longest(experiments.intent_task(tokenizer))
    costs.step_bytes(model, batch, "LoRA")
    costs._step(model, batch, "LoRA")()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("method, shots", [("zero-shot", 0), ("few-shot", 2), ("calibrated", 2)])
def test_each_prompted_way_gives_its_score(method, shots):
    found = experiments.head_to_head_prompts(method=method, shots=shots, seed=0)
    assert found["score"].n == 64 and found["trainable"] == 0
    assert ("elsewhere" in found) == (method == "zero-shot")
    assert found["prompt_tokens"] > experiments.few_shot_prompt(0, 0).tokens(tiny_tokenizer()) or not shots


def test_calibration_changes_what_is_read_and_not_what_is_scored(monkeypatch):
    scores = torch.tensor([[-1.0, -2.0], [-1.0, -4.0], [-0.5, -3.0], [-0.5, -3.0], [-0.5, -3.0]])  # the last 3 empty
    assert experiments._read("few-shot", scores) == [0, 0]
    assert experiments._read("calibrated", scores) == [1, 0]
    monkeypatch.setattr(experiments, "VALIDATION", 64)
    once = []
    monkeypatch.setattr(experiments, "score_labels", lambda *a, **k: once.append(1) or torch.zeros(67, 8))
    for method in ("few-shot", "calibrated"):
        experiments.head_to_head_prompts(method=method, shots=2, seed=1)
    assert len(once) == 2  # one a split: the second way reads what the first scored


def test_all_ways_see_the_same_prompt():
    assert experiments.FORM == experiments_in_context.chosen_form()
    text = "Where is my parcel?"
    shared = experiments.few_shot_prompt(0, 0).whole(text)
    assert experiments.intent_task(tiny_tokenizer()).template.replace("{text}", text) == shared


def test_training_tickets_are_cut_and_test_tickets_are_not(monkeypatch):
    seen = []
    monkeypatch.setattr(
        experiments, "fit", lambda model, batches, **_: seen.append(batches) or fit(model, batches, **_)
    )
    widths = []
    monkeypatch.setattr(
        experiments,
        "accuracy",
        lambda model, task, *rest: widths.append(task.max_tokens) or accuracy(model, task, *rest),
    )
    experiments.head_to_head(method="LoRA", learning_rate=1e-3, **SHORT)
    assert max(batch.input_ids.shape[1] for batch in seen[0]) <= experiments.CUT
    assert set(widths) == {160}


def test_training_rows_are_balanced_nested_and_all():
    labels = corpora.tickets("train")["intent"]
    few, more = (experiments.training_rows(n, seed=1) for n in (10, 100))
    assert set(few) < set(more) and len(more) == 100
    counts = [sum(labels[row] == label for row in more) for label in range(8)]
    assert max(counts) - min(counts) <= 1
    assert experiments.training_rows(experiments.ALL, 0) == list(range(len(labels)))
    assert experiments.training_rows(10, 0) != few


def test_perplexity_is_measured_on_texts_that_have_nothing_of_the_tickets():
    texts = experiments.other_texts()
    assert len(texts) >= 100 and not any("ticket" in text.lower() for text in texts)
    model, tokenizer = experiments.load_base()
    model.get_output_embeddings().weight.data.zero_()  # then every token is as likely as any other
    assert experiments.off_task(model, tokenizer)["perplexity"] == pytest.approx(512, rel=1e-3)


# --- what moves the gap --------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", gap.CONDITIONS)
@pytest.mark.slow
def test_each_condition_trains_both_ways(condition):
    for method in ("LoRA", "full fine-tuning"):
        found = gap.gap(condition, method, learning_rate=1e-3, seed=0, steps=2, batch_size=4)
        assert found["score"].n == 64 and len(found["losses"]) == 2
    column = "urgency" if condition == "another task" else "intent"
    assert found["score"].targets == list(corpora.tickets("test")[column])


def test_a_quarter_of_the_labels_is_another_one():
    labels = list(corpora.tickets("train")["intent"])
    wrong = gap.with_label_noise(labels, 0.25, seed=0)
    assert sum(a != b for a, b in zip(labels, wrong)) == round(0.25 * len(labels))
    assert gap.with_label_noise(labels, 0.25, seed=1) != wrong and set(wrong) == set(labels)


def test_a_shorter_base_loses_its_last_layers_and_still_runs(tiny_tokens):
    model = tiny_model(num_hidden_layers=7)
    kept = list(model.model.layers)[:5]
    gap.truncated(model)
    assert list(model.model.layers) == kept
    assert torch.isfinite(model(tiny_tokens).logits).all()


# --- which runs are recorded ---------------------------------------------------------------------------------


@pytest.fixture
def faked(tmp_path, monkeypatch, stand_in):
    """record_all with experiments that take no time; the middle rate and two shots are best on validation."""
    monkeypatch.setattr(runs, "DIRECTORY", tmp_path)
    score = Accuracy([0] * 60, [0] * 60)

    def trained(method, learning_rate, **settings):
        best = experiments.TRAINED[method].rates[-2]
        return {"score": score, "validation": 0.9 if learning_rate == best else 0.5}

    stand_in("head_to_head", trained)
    for name in ("gap", "what_it_costs", "what_a_prompt_costs"):
        stand_in(name, lambda **settings: {"score": score})
    stand_in(
        "head_to_head_prompts",
        lambda shots, **settings: {"score": score, "validation": 0.9 if shots == 2 else 0.5},
    )
    return tmp_path


def record_all():
    for module in (experiments, costs, gap):
        module.record_all()


def test_record_all_is_complete_and_gives_every_way_the_same_effort(faked):
    record_all()
    for method, way in experiments.TRAINED.items():
        all_tickets = {"method": method, "examples": experiments.ALL, **experiments.TRAINING}
        trials = runs.load_runs("head_to_head", seed=0, **all_tickets)
        assert {run.settings["learning_rate"] for run in trials} == set(way.rates) and len(way.rates) == 3
    for method in ("few-shot", "calibrated"):
        assert len(runs.load_runs("head_to_head_prompts", method=method, seed=0)) == 3
    rates = {method: experiments.TRAINED[method].rates[-2] for method in experiments.TRAINED}
    for method in experiments.METHODS:
        found = experiments.chosen(method)
        assert len(found) == (1 if method == "zero-shot" else 3)
        dial = {"shots": 0} if method == "zero-shot" else {"shots": 2}
        expected = {"learning_rate": rates[method]} if method in rates else dial
        assert all(expected.items() <= run.settings.items() for run in found)
    assert len(experiments.METHODS) == 8
    assert list(experiments.SIZES) == [10, 30, 100, 300, len(corpora.tickets("train"))]
    for method in experiments.MAIN:
        assert [len(experiments.chosen(method, size)) for size in experiments.SIZES] == [3] * 5
    for condition in BOTH:
        seeds = 2 if condition == gap.LONGER_NAME else 3
        assert {len(gap.under(condition, method)) for method in experiments.MAIN} == {seeds}


@pytest.mark.parametrize("module", [costs, gap])
def test_each_module_first_records_what_its_own_runs_are_chosen_by(faked, module):
    module.record_all()
    names = {path.stem.rpartition("-")[0] for path in faked.iterdir()}
    assert (
        names
        == {
            costs: {"head_to_head_prompts", "what_it_costs", "what_a_prompt_costs"},
            gap: {"head_to_head", "gap"},
        }[module]
    )


def test_record_all_resumes(faked, monkeypatch):
    record_all()
    written = {path.name for path in faked.iterdir()}
    # By hand: prompts, trials and seeds, long runs, sizes, what moves the gap, what ways and examples cost.
    assert len(written) == 1 + 2 * (3 + 2) + 5 * (3 + 2) + 2 * (2 + 1) + 3 * 2 * (4 + 3) + 5 + 1
    monkeypatch.setattr(registry, "perform", lambda *_: pytest.fail("nothing is left to record"))
    record_all()
    assert {path.name for path in faked.iterdir()} == written


def test_the_rules_ask_for_runs_that_are_recorded(faked):
    record_all()
    rows = [row for one in choosing.all_evidence() for row in vars(one).values() if isinstance(row, choosing.Row)]
    mine = [row for row in rows if row.experiment.startswith(("head_to_head", "what_it_costs"))]
    assert len(mine) >= 10 and all(row.runs() for row in mine)
    assert {row.settings["method"] for row in mine} <= set(experiments.METHODS)
    assert {row.settings.get("examples", experiments.ALL) for row in mine} <= set(experiments.SIZES)


def test_targets_are_read_from_the_column_that_was_asked(faked):
    record_all()
    asked = {run.settings["condition"]: find("gap").right_answers(run) for run in runs.load_runs("gap")}
    assert asked.pop("another task") == list(corpora.tickets("test")["urgency"])
    assert all(found == list(corpora.tickets("test")["intent"]) for found in asked.values())
