"""What fits, what does not, and whether the plan that is offered instead really does."""

import pytest

from lessonlib.catalogue import gpus
from lessonlib.costs import EIGHT_BIT_ADAM, FullFineTuning, LoRA, Plan, QLoRA, architecture, fits, smaller


def test_what_is_offered_fits_and_what_is_refused_does_not():
    for gpu in gpus():
        for name in ("smollm2-135m", "llama2-7b", "llama2-70b"):
            found = fits(name, gpu)
            assert found.fits == (found.memory.total <= found.usable)
            if found.nearest:
                assert found.nearest.memory(architecture(name)).total <= found.usable


def test_a_plan_that_fits_is_left_as_it_is():
    found = fits("smollm2-135m", "T4")
    assert found and found.nearest == found.plan


def test_plans_shrink_from_step_to_step():
    model = architecture("llama2-7b")
    sizes = [plan.memory(model).total for plan in smaller(Plan(FullFineTuning(), batch=8))]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 6


def test_time_is_given_up_before_precision_and_precision_before_the_method():
    changes = list(smaller(Plan(FullFineTuning(), batch=8)))
    assert [c.recompute for c in changes] == [False, True, True, True, True, True]
    assert changes[3].precision == EIGHT_BIT_ADAM and changes[3].method == FullFineTuning()
    assert [type(c.method) for c in changes[4:]] == [LoRA, QLoRA]


def test_7_billion_parameters_fit_a_t4_in_4_bits_only():
    assert not fits("llama2-7b", "T4", LoRA(8), recompute=True, fused_attention=True)
    assert fits("llama2-7b", "T4", QLoRA(8), recompute=True, fused_attention=True)


def test_65_billion_parameters_fit_48_gb_in_4_bits():
    assert fits("llama-65b", "L40S", QLoRA(16), tokens=512, recompute=True)  # Dettmers et al. 2023, abstract


def test_the_number_of_cards_holds_weights_and_states():
    found = fits("llama2-70b", "A100-80GB", tokens=512, recompute=True, fused_attention=True)
    room = found.usable - found.memory.activations
    states = found.memory.total - found.memory.activations
    assert (found.gpus - 1) * room < states <= found.gpus * room


def test_the_message_names_need_room_and_way_out():
    said = repr(fits("llama2-7b", "T4"))
    assert said.startswith("does not fit") and "nearest that fits: QLoRA" in said
    assert "no plan of ours" in repr(fits("gpt3-175b", "T4"))


def test_unknown_or_absurd_cards_are_refused():
    with pytest.raises(KeyError, match="A100"):
        fits("gpt2", "A100-80")
    for gpu in (0, -16, 1.0):
        with pytest.raises(ValueError, match="gigabytes"):
            fits("gpt2", gpu)
