"""Claims of lessonlib.lora.merging. References: PEFT's `add_weighted_adapter`, and arithmetic by hand."""

import peft
import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from torch import nn

from lessonlib.lora.deltas import Delta
from lessonlib.lora.merging import (
    MergeError,
    add_factors,
    merge_deltas,
    nearest,
    svd_merge,
    ties,
    trim,
    trim_elect_merge,
)

SHAPES = {"q": (12, 10), "v": (7, 10)}  # (d_out, d_in)
close = torch.testing.assert_close


def random_adapter(seed, r=3, scale=2.0, modules=tuple(SHAPES)):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return {path: Delta(normal(r, SHAPES[path][1]), normal(SHAPES[path][0], r), scale) for path in modules}


EQUAL = [random_adapter(0), random_adapter(1, scale=0.5), random_adapter(2, scale=3.0)]
UNEQUAL = [random_adapter(0), random_adapter(1, r=1, scale=0.5), random_adapter(2, r=5, scale=3.0)]
WEIGHTS = [0.7, 0.5, -0.3]


def by_peft(adapters, weights, kind, **settings):
    """The merged update of each module, as PEFT's model computes it."""
    base = nn.ModuleDict({path: nn.Linear(d_in, d_out, bias=False) for path, (d_out, d_in) in SHAPES.items()})
    configs = [
        LoraConfig(r=u.r, lora_alpha=u.r * u.scale, target_modules=list(adapter))
        for adapter in adapters
        for u in [adapter["q"]]
    ]
    model = get_peft_model(base, configs[0], adapter_name="0")
    for i, config in enumerate(configs[1:], 1):
        model.add_adapter(str(i), config)
    for i, adapter in enumerate(adapters):
        for path, update in adapter.items():
            layer = model.base_model.model[path]
            layer.lora_A[str(i)].weight.data.copy_(update.A)
            layer.lora_B[str(i)].weight.data.copy_(update.B)
    names = [str(i) for i in range(len(adapters))]
    model.add_weighted_adapter(names, list(weights), "merged", combination_type=kind, **settings)
    return {path: model.base_model.model[path].get_delta_weight("merged") for path in SHAPES}


def equal_pefts(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, update in ours.items():
        assert theirs[path].abs().max() > 0.1
        close(update.dense(), theirs[path], atol=1e-5, rtol=1e-5)


# --- the same as PEFT's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapters", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_merge_updates_is_pefts_cat(adapters):
    equal_pefts(merge_deltas(adapters, WEIGHTS), by_peft(adapters, WEIGHTS, "cat"))


pefts_svd = pytest.mark.skipif(
    Version(peft.__version__) < Version("0.21"),
    reason="PEFT before 0.21 multiplies an update by its scale twice there",
)


@pefts_svd
@pytest.mark.parametrize("r", [None, 2, 6])
@pytest.mark.parametrize("adapters", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_svd_merge_is_pefts_svd(adapters, r):
    equal_pefts(svd_merge(adapters, WEIGHTS, r), by_peft(adapters, WEIGHTS, "svd", svd_rank=r))


@pefts_svd
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], WEIGHTS])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("adapters", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.filterwarnings("ignore:The density 1.0")
def test_ties_is_pefts_ties_svd(adapters, density, weights):
    theirs = by_peft(adapters, weights, "ties_svd", density=density, svd_rank=4)
    equal_pefts(ties(adapters, density, weights, r=4), theirs)


@pytest.mark.parametrize("weights", [[0.5, 0.25, 0.25], WEIGHTS])
def test_add_factors_is_pefts_linear(weights):
    equal_pefts(add_factors(EQUAL, weights), by_peft(EQUAL, weights, "linear"))


@pefts_svd
def test_a_module_that_one_adapter_leaves_alone_is_merged_as_in_peft():
    adapters = [EQUAL[0], random_adapter(3, modules=["q"])]
    for ours, kind, settings in (
        (svd_merge(adapters, [0.5, 2.0], 3), "svd", {}),
        (ties(adapters, 0.5, [0.5, 2.0]), "ties_svd", {"density": 0.5}),
    ):
        equal_pefts(ours, by_peft(adapters, [0.5, 2.0], kind, **settings))


# --- PEFT's "linear" is no weighted sum of updates ----------------------------------------------------------


def away(found, wanted):
    """The distance of a merged update from what was wanted, as a share of the latter's size."""
    return {path: ((found[path] - wanted[path]).norm() / wanted[path].norm()).item() for path in wanted}


def weighted_sum(adapters, weights):
    return {p: sum(w * a[p].dense() for a, w in zip(adapters, weights, strict=True)) for p in SHAPES}


def test_pefts_linear_misses_the_weighted_sum_by_about_its_own_size():
    pair, weights = [random_adapter(0), random_adapter(1)], [0.5, 0.5]
    wanted = weighted_sum(pair, weights)
    assert max(away(by_peft(pair, weights, "cat"), wanted).values()) < 1e-6
    assert 0.6 < min(away(by_peft(pair, weights, "linear"), wanted).values())
    assert max(away(by_peft(pair, weights, "linear"), wanted).values()) < 1.6


def test_what_linear_adds_are_the_products_of_one_adapters_b_and_anothers_a():
    one, two = pair = [random_adapter(0), random_adapter(1)]
    extra = {p: (2.0 / 2) * (one[p].B @ two[p].A + two[p].B @ one[p].A) for p in SHAPES}  # scale 2, weights 1/2
    wanted, linear = weighted_sum(pair, [0.5, 0.5]), by_peft(pair, [0.5, 0.5], "linear")
    for path in SHAPES:
        close(linear[path] - wanted[path], extra[path], atol=1e-5, rtol=0)


def test_an_adapter_averaged_with_itself_by_linear_is_doubled():
    twice = [EQUAL[0], EQUAL[0]]
    for path, update in EQUAL[0].items():
        close(by_peft(twice, [0.5, 0.5], "linear")[path], 2 * update.dense(), atol=1e-5, rtol=0)
        close(merge_deltas(twice)[path].dense(), update.dense(), atol=1e-5, rtol=0)


def test_the_same_updates_in_other_factors_merge_differently_by_linear_alone():
    turned = {p: u._replace(A=-u.A.flip(0), B=-u.B.flip(1)) for p, u in EQUAL[0].items()}
    same = [[EQUAL[0], EQUAL[1]], [turned, EQUAL[1]]]
    for path in SHAPES:
        close(turned[path].dense(), EQUAL[0][path].dense(), atol=1e-5, rtol=0)
        sums, ties_, factors = (
            [merge(pair)[path].dense() for pair in same]
            for merge in (merge_deltas, lambda pair: ties(pair, 0.5), add_factors)
        )
        close(sums[0], sums[1], atol=1e-5, rtol=0)
        close(ties_[0], ties_[1], atol=1e-4, rtol=0)
        assert (factors[0] - factors[1]).norm() > 0.5 * factors[0].norm()


# --- what the merges are ------------------------------------------------------------------------------------


def test_without_weights_it_is_the_average():
    wanted = weighted_sum(UNEQUAL, [1 / 3] * 3)
    merged = merge_deltas(UNEQUAL)
    assert merged["q"].r == 3 + 1 + 5
    for path in SHAPES:
        close(merged[path].dense(), wanted[path], atol=1e-5, rtol=0)


def test_svd_merge_at_full_rank_loses_nothing_and_below_it_what_the_singular_values_say():
    wanted = weighted_sum(EQUAL, WEIGHTS)["q"]
    s = torch.linalg.svdvals(wanted)
    for r in (9, 4, 1):
        missed = (svd_merge(EQUAL, WEIGHTS, r)["q"].dense() - wanted).norm()
        close(missed, s[r:].norm(), atol=1e-4, rtol=1e-4)  # Eckart and Young


def test_ties_by_hand():
    updates = torch.tensor([[4.0, -3.0, 0.5, 2.0], [-1.0, -5.0, 3.0, 0.1], [2.0, 6.0, -2.5, 1.0]])
    # Half of each stays: (4, -3, 0, 0), (0, -5, 3, 0), (0, 6, -2.5, 0). Sums 4, -2, 0.5, 0: signs +, -, +.
    merged = trim_elect_merge(updates, 0.5, torch.ones(3))
    assert merged.tolist() == [4.0, -4.0, 3.0, 0.0]


def test_trim_keeps_the_largest_in_magnitude():
    assert trim(torch.tensor([[0.1, -5.0], [3.0, -0.2]]), 0.5).tolist() == [[0.0, -5.0], [3.0, 0.0]]


def test_nearest_has_the_rank_that_was_asked_for():
    update = nearest(torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), 2)
    assert (update.A.shape, update.B.shape) == ((2, 9), (6, 2))
    assert torch.linalg.matrix_rank(update.dense()) == 2


# --- what is refused ----------------------------------------------------------------------------------------


def test_factors_of_unequal_ranks_are_refused_as_by_peft():
    with pytest.raises(MergeError, match=r"factors of ranks \[3, 1, 5\] cannot be added: use merge_deltas"):
        add_factors(UNEQUAL)
    with pytest.raises(ValueError, match="same r value"):
        by_peft(UNEQUAL, [1.0, 1.0, 1.0], "linear")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: merge_deltas([]), "no adapter to merge"),
        (lambda: merge_deltas(EQUAL, [1.0]), "1 weights for 3 adapters"),
        (lambda: merge_deltas(EQUAL, [1.0, float("nan"), 0.0]), "not all finite"),
        (lambda: ties(EQUAL, 0.0), r"density is 0.0; expected a share above 0"),
        (lambda: ties(EQUAL, 20), r"density is 20"),
        (lambda: svd_merge(EQUAL, r=-1), "r is -1"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(MergeError, match=message):
        call()


def test_adapters_of_different_bases_are_refused():
    other = {"q": Delta(torch.ones(1, 4), torch.ones(12, 1))}
    with pytest.raises(MergeError, match=r"q: the adapters change matrices of \[\(12, 4\), \(12, 10\)\]"):
        merge_deltas([EQUAL[0], other])
