"""The experiments on LoRA's variants, in small: what each changes, and that all are compared on equal terms."""

from types import SimpleNamespace

import pytest

from lessonlib.experiments import lesson07_variants as x
from lessonlib.lora import lora_layers
from tests.tiny_models import tiny_model

ROW = {"q_proj": 1152, "k_proj": 768, "v_proj": 768, "o_proj": 1152} | dict.fromkeys(x.FEED_FORWARD, 2112)
PLACES = ("queries, values", "attention", "feed-forward")


@pytest.mark.parametrize("name", [name for name in PLACES if name in x.VARIANTS])
def test_places_are_compared_at_an_equal_number_of_parameters(name):
    # d_in + d_out of the base model's matrices, by hand from its configuration: 576, 192 for keys and values, 1536.
    plain = 8 * sum(ROW.values())
    variant = x.VARIANTS[name]
    count = variant.r * sum(ROW[target] for target in variant.targets)
    assert abs(count / plain - 1) < 0.02
    one_more = (variant.r + 1) * sum(ROW[target] for target in variant.targets)
    assert abs(count / plain - 1) <= abs(one_more / plain - 1)


def test_only_the_layers_of_a_variant_carry_lora():
    model = x.adapted(tiny_model(), x.Variant(r=2, layers=range(1)), steps=1)
    paths = [path for path, _ in lora_layers(model)]
    assert len(paths) == 7 and all(path.startswith("model.layers.0.") for path in paths)
    # "model.layers.1." must not catch the layers 10 to 19.
    many = x.adapted(tiny_model(num_hidden_layers=12), x.Variant(["q_proj"], r=2, layers=range(1, 2)), steps=1)
    assert [path for path, _ in lora_layers(many)] == ["model.layers.1.self_attn.q_proj"]


def test_alpha_is_twice_the_rank_unless_it_is_given():
    scales = [
        next(lora_layers(x.adapted(tiny_model(), variant, steps=1)))[1].scale
        for variant in (x.Variant(r=4), x.Variant(r=4, alpha=4), x.Variant(r=4, alpha=32))
    ]
    assert scales == [2, 1, 8]


def test_two_rates_have_the_asked_one_as_their_geometric_mean():
    model = x.adapted(tiny_model(), x.Variant(r=2), steps=1)
    asked = x.training(model, x.Variant(ratio=16), 1e-3)
    groups = asked["optimizer"](
        [p for p in model.parameters() if p.requires_grad], lr=asked["learning_rate"]
    ).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.25e-3, 4e-3])


def every_run():
    return [*x.variant_runs(), *(run for runs in x.digit_runs().values() for run in runs)]


def test_every_variant_had_the_same_trials_and_the_better_one_was_tested():
    for run in every_run():
        rates = x.RATES if "longest" in run.settings else x.DIGIT_RATES
        assert [trial["learning_rate"] for trial in run.results["trials"]] == rates
        best = max(run.results["trials"], key=lambda t: (t["validation"], -t["validation_loss"]))
        assert run.results["learning_rate"] == best["learning_rate"]


def test_every_variant_of_the_digits_has_the_same_seeds():
    for runs in x.digit_runs().values():
        assert tuple(run.settings["seed"] for run in runs) == x.DIGIT_SEEDS


@pytest.mark.parametrize("name", PLACES)
def test_places_of_the_digits_network_are_compared_at_an_equal_number_of_parameters(name):
    # 32 x 32 for q, k, v and o, 64 x 32 and 32 x 64 for the two of the feed-forward part: d_in + d_out is 64 or 96.
    rows = dict.fromkeys(x.MATRICES[:4], 64) | dict.fromkeys(x.MATRICES[4:], 96)
    variant = x.DIGIT_VARIANTS[name]
    count = variant.r * sum(rows[target] for target in variant.targets)
    assert abs(count / (4 * sum(rows.values())) - 1) < 0.04


def test_recorded_counts_on_tickets_are_those_of_hand_arithmetic():
    plain, outputs = 8 * 30 * sum(ROW.values()), 30 * (2 * 576 + 2 * 192 + 2 * 1536 + 576)
    expected = {
        "LoRA": plain,
        "queries, values": 30 * 42 * (1152 + 768),
        "last ten layers": plain // 3,
        "tied": plain // 30,
        "LoRA+, ratio 16": plain,
        "rsLoRA, rank 64": 8 * plain,
        "DoRA": plain + outputs,
    }
    counted = {run.settings["variant"]: run.results["trainable"] for run in x.variant_runs()}
    assert {"LoRA", "queries, values"} <= set(counted)
    known = expected.keys() & counted.keys()
    assert {name: counted[name] for name in known} == {name: expected[name] for name in known}


def test_recorded_counts_on_digits_are_those_of_hand_arithmetic():
    one_rank, outputs = 3 * (4 * 64 + 2 * 96), 3 * (4 * 32 + 64 + 32)
    expected = {
        "LoRA": 4 * one_rank,
        "last layer": 4 * one_rank // 3,
        "tied": 4 * one_rank // 3,
        "A frozen": 4 * outputs,
        "DoRA": 4 * one_rank + outputs,
        "rsLoRA, rank 32": 32 * one_rank,
    }
    counted = {name: runs[0].results["trainable"] for name, runs in x.digit_runs().items()}
    assert {name: counted[name] for name in expected} == expected


def test_trials_are_averaged_over_seeds():
    def run(first, second):
        made = [{"learning_rate": 1e-3, "validation": first}, {"learning_rate": 1e-2, "validation": second}]
        return SimpleNamespace(results={"trials": made})

    assert x.trials([run(0.5, 0.75), run(0.25, 0.25)]) == {1e-3: 0.375, 1e-2: 0.5}
