"""The experiments on LoRA's variants, in small: what each changes, and that all are compared on equal terms."""

import pytest

from lessonlib import experiments_variants as x
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
    many = x.adapted(
        tiny_model(num_hidden_layers=12), x.Variant(["q_proj"], r=2, layers=range(1, 2)), steps=1
    )
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


def test_every_variant_had_the_same_trials_and_the_better_one_was_tested():
    for run in x.variant_runs():
        assert [trial["learning_rate"] for trial in run.results["trials"]] == x.RATES
        best = max(run.results["trials"], key=lambda t: (t["validation"], -t["validation_loss"]))
        assert run.results["learning_rate"] == best["learning_rate"]


def test_recorded_counts_are_those_of_hand_arithmetic():
    counted = {run.settings["variant"]: run.results["trainable"] for run in x.variant_runs()}
    assert counted["LoRA"] == 8 * 30 * sum(ROW.values())
    assert counted["queries, values"] == 30 * 42 * (1152 + 768)
