"""Claims of lessonlib.pruning. References: torch.nn.utils.prune, hand arithmetic, Frankle and Carbin (2019)."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from lessonlib import pruning
from lessonlib.corpora.digits import Images
from lessonlib.networks.mlp import digit_network, learn
from lessonlib.pruning import (
    PruningError,
    full_masks,
    global_masks,
    hold,
    holding,
    iterative_magnitude_pruning,
    layer_amounts,
    layerwise_masks,
    load_sparse,
    lottery_round,
    magnitudes,
    prune_to,
    remaining,
    rewind,
    save_sparse,
    shuffled,
    snapshot,
    snip_scores,
    sparsity,
)
from lessonlib.training import fit

OPTIMIZERS = {
    "SGD with momentum": lambda p, lr=0.1, fused=None: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "Adam": lambda p, lr=0.1, fused=None: torch.optim.Adam(p, lr=lr),
    "AdamW": lambda p, lr=0.1, fused=None: torch.optim.AdamW(p, lr=lr, weight_decay=0.5),
    "Adam, fused": lambda p, lr=0.1, fused=None: torch.optim.Adam(p, lr=lr, fused=True),
}


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def images(n=64, inputs=6, classes=3):
    draw = torch.Generator().manual_seed(1)
    return Images(torch.randn(n, inputs, generator=draw), torch.randint(classes, (n,), generator=draw))


def steps(network, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(network(images().x), images().y).backward()
        optimizer.step()


def pruned_values(network, masks):
    return torch.cat([network.get_parameter(name).detach()[~mask] for name, mask in masks.items()])


def half(network):
    masks = full_masks(network)
    return layerwise_masks(magnitudes(network, masks), masks, dict.fromkeys(masks, 0.5))


# --- which weights go ------------------------------------------------------------------------------------------------


def test_a_layer_loses_the_weights_that_torchs_own_pruning_takes():
    network = small()
    masks = half(network)
    for path in ("0", "2"):
        layer = copy.deepcopy(network).get_submodule(path)
        prune.l1_unstructured(layer, "weight", amount=0.5)
        assert torch.equal(masks[f"{path}.weight"], layer.weight_mask.bool())


def test_the_whole_network_loses_the_weights_that_torchs_global_pruning_takes():
    network, theirs = small(), small()
    masks = full_masks(network)
    masks = global_masks(magnitudes(network, masks), masks, 0.5)
    layers = [theirs[0], theirs[2]]
    prune.global_unstructured([(m, "weight") for m in layers], prune.L1Unstructured, amount=0.5)
    assert torch.equal(masks["0.weight"], layers[0].weight_mask.bool())
    assert torch.equal(masks["2.weight"], layers[1].weight_mask.bool())


@pytest.mark.parametrize("prune_them", [layerwise_masks, global_masks])
def test_a_second_round_takes_its_share_of_what_is_left_and_brings_nothing_back(prune_them):
    network = small()
    once = prune_them(
        magnitudes(network, full_masks(network)),
        full_masks(network),
        dict.fromkeys(full_masks(network), 0.25),
    )
    zeroed = {name: torch.zeros_like(mask, dtype=torch.float) for name, mask in once.items()}  # all scores tie
    twice = prune_them(zeroed, once, dict.fromkeys(once, 0.25))
    # 48 + 24 weights: 12 and 6 go, then a quarter of 36 and of 18, whose 4.5 rounds to 4.
    assert remaining(once) == 36 + 18 and remaining(twice) == 27 + 14
    assert not any((twice[name] & ~once[name]).any() for name in once)


def test_weights_of_one_size_are_cut_to_the_exact_count():
    masks = {"W": torch.ones(10, 10, dtype=torch.bool)}
    cut = layerwise_masks({"W": torch.ones(10, 10)}, masks, {"W": 0.37})
    assert remaining(cut) == 63 and sparsity(cut) == pytest.approx(0.37, abs=1e-12)


def test_one_cut_leaves_exactly_as_many_as_asked_for_in_any_size():
    masks = {"W": torch.ones(37, 41, dtype=torch.bool)}
    for kept in (1, 7, 500, 1516, 1517):
        assert remaining(prune_to({"W": torch.rand(37, 41)}, masks, {"W": kept})) == kept


def test_snip_scores_are_the_change_of_the_loss_without_the_weight():
    # To first order; so with small weights it agrees with the loss with that weight at zero.
    network, data = small(), images()
    with torch.no_grad():
        network[2].weight.mul_(1e-3)
    scores = snip_scores(data)(network, full_masks(network))["2.weight"]
    before = F.cross_entropy(network(data.x), data.y).item()
    with torch.no_grad():
        kept = network[2].weight.double().clone()
        network.double()[2].weight[1, 4] = 0
    data = Images(data.x.double(), data.y)
    after = F.cross_entropy(network(data.x), data.y).item()
    with torch.no_grad():
        network[2].weight.copy_(kept)
    before = F.cross_entropy(network(data.x), data.y).item()
    assert abs(after - before) == pytest.approx(scores[1, 4].item(), rel=1e-2)
    assert all(p.grad is None for p in network.parameters())


def test_a_shuffled_mask_keeps_the_count_of_each_layer_and_not_its_places():
    masks = half(small())
    other = shuffled(masks, seed=3)
    assert all(other[name].sum() == masks[name].sum() for name in masks)
    assert not all(torch.equal(other[name], masks[name]) for name in masks)


def test_biases_and_norms_are_never_pruned():
    network = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    assert set(full_masks(network)) == {"0.weight", "2.weight"}


# --- masks that hold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_pruned_weights_stay_zero_through_an_optimizer_that_had_moved_them(kind):
    network = small()
    optimizer = OPTIMIZERS[kind](network.parameters())
    steps(network, optimizer, 5)  # momentum and second moments now know the weights that go
    masks = half(network)
    hold(network, masks, optimizer)
    before = snapshot(network)
    steps(network, optimizer, 20)
    assert (pruned_values(network, masks) == 0).all()
    assert all((network.get_parameter(n)[m] != before[n][m]).float().mean() > 0.9 for n, m in masks.items())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_masking_the_gradients_alone_does_not_hold(kind):
    network = small()
    optimizer = OPTIMIZERS[kind](network.parameters())
    steps(network, optimizer, 5)
    masks = half(network)
    rewind(network, snapshot(network), masks)
    for name, mask in masks.items():
        network.get_parameter(name).register_hook(lambda gradient, mask=mask: gradient * mask)
    steps(network, optimizer, 1)
    assert (pruned_values(network, masks) != 0).all()


def test_a_removed_handle_lets_the_weights_go():
    network = small()
    optimizer, masks = torch.optim.Adam(network.parameters()), half(network)
    hold(network, masks, optimizer).remove()
    assert (pruned_values(network, masks) == 0).all()
    steps(network, optimizer, 1)
    assert (pruned_values(network, masks) != 0).any()


def test_masks_hold_in_the_courses_training_loop():
    network = small()
    masks = half(network)
    loss = lambda network, batch: F.cross_entropy(network(batch.x), batch.y)  # noqa: E731
    fit(
        network,
        [images()] * 3,
        learning_rate=0.1,
        loss=loss,
        optimizer=holding(network, masks, torch.optim.AdamW),
    )
    assert (pruned_values(network, masks) == 0).all()


def test_not_a_number_under_the_mask_becomes_zero():
    network = small()
    masks = half(network)
    with torch.no_grad():
        network[0].weight[~masks["0.weight"]] = torch.nan
    hold(network, masks, torch.optim.SGD(network.parameters(), lr=0.1))
    assert (pruned_values(network, masks) == 0).all()


# --- rounds --------------------------------------------------------------------------------------------------------------


def no_training(network, masks):
    return remaining(masks)


def test_five_rounds_of_20_percent_leave_a_third_and_eleven_less_than_a_tenth():
    # 0.8^5 = 0.328 and 0.8^11 = 0.086, with one layer, which is then the last: twice the share.
    tickets = iterative_magnitude_pruning(nn.Linear(100, 100), no_training, rounds=11, amount=0.4)
    assert tickets[5].sparsity == pytest.approx(1 - 0.8**5, abs=1e-3)
    assert tickets[10].sparsity < 0.9 < tickets[11].sparsity


def test_each_ticket_comes_with_the_result_of_training_it():
    tickets = iterative_magnitude_pruning(small(), no_training, rounds=4, amount=0.3)
    assert [ticket.result for ticket in tickets] == [remaining(ticket.masks) for ticket in tickets]
    assert tickets[0].sparsity == 0 and len(tickets) == 5


def test_a_round_begins_where_the_network_stood_or_where_it_is_told_to():
    network, seen = small(), []
    start = snapshot(network)

    def watch(network, masks):
        seen.append((snapshot(network), masks))
        learn(network, images(), steps=3, batch_size=16, optimizer=holding(network, masks))

    iterative_magnitude_pruning(network, watch, rounds=2, amount=0.3)
    late = {name: value + 1 for name, value in start.items()}
    iterative_magnitude_pruning(network, watch, rounds=1, amount=0.3, start=late)
    for (weights, masks), origin in zip(seen, [start] * 3 + [late] * 2, strict=True):
        for name, value in weights.items():
            expected = origin[name] * masks[name] if name in masks else origin[name]
            assert torch.equal(value, expected)


def test_the_round_that_is_given_is_the_one_that_runs():
    def keeps_the_smallest(*args, **_):
        return lottery_round(*args, score=lambda *a: {name: -s for name, s in magnitudes(*a).items()})

    network = small()
    sizes = network[0].weight.detach().abs()
    tickets = iterative_magnitude_pruning(network, no_training, rounds=1, amount=0.5, one_round=keeps_the_smallest)
    mask = tickets[1].masks["0.weight"]
    assert sizes[mask].max() <= sizes[~mask].min()


def test_the_last_layer_loses_half_the_share():
    assert layer_amounts(full_masks(small()), 0.2) == {"0.weight": 0.2, "2.weight": 0.1}


def test_the_same_seeds_give_the_same_tickets():
    def run():
        network = digit_network(6, seed=2)
        train = lambda network, masks: learn(network, images(), steps=4, optimizer=holding(network, masks))  # noqa: E731
        return iterative_magnitude_pruning(network, train, rounds=2)[-1].masks

    assert all(torch.equal(a, b) for a, b in zip(run().values(), run().values()))


# --- files ----------------------------------------------------------------------------------------------------------------


def saved(tmp_path, network=None):
    network = network or digit_network(40)
    masks = full_masks(network)
    masks = layerwise_masks(magnitudes(network, masks), masks, dict.fromkeys(masks, 0.9))
    rewind(network, snapshot(network), masks)
    return network, masks, save_sparse(network, masks, tmp_path / "ticket.safetensors")


def test_a_sparse_file_gives_back_weights_and_masks_bit_for_bit(tmp_path):
    network, masks, path = saved(tmp_path)
    other = digit_network(40, seed=9)
    read = load_sparse(other, path)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), network.state_dict().values()))
    assert read.keys() == masks.keys() and all(torch.equal(read[name], masks[name]) for name in masks)


def test_masks_from_a_file_hold_again(tmp_path):
    _, _, path = saved(tmp_path, small())
    network = small()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    masks = load_sparse(network, path)
    hold(network, masks, optimizer)
    steps(network, optimizer, 3)
    assert (pruned_values(network, masks) == 0).all()


def test_a_sparse_file_has_a_bit_a_weight_and_the_values_that_are_left(tmp_path):
    network, masks, path = saved(tmp_path)
    # 43,000 weights: 5,375 bytes of bits; a tenth of them as float32; 410 biases; the header is below a kilobyte.
    expected = 43_000 // 8 + 4 * remaining(masks) + 4 * 410
    assert remaining(masks) == 4_300
    assert expected < path.stat().st_size < expected + 1024
    dense = tmp_path / "dense.safetensors"
    save_file(network.state_dict(), dense)
    assert path.stat().st_size < 0.15 * dense.stat().st_size


def test_a_kept_weight_that_is_zero_and_a_half_precision_network_come_back_too(tmp_path):
    network = small().to(torch.bfloat16)
    masks = half(network)
    rewind(network, snapshot(network), masks)
    place = masks["0.weight"].nonzero()[0]
    with torch.no_grad():
        network[0].weight[tuple(place)] = 0
    path = save_sparse(network, masks, tmp_path / "half.safetensors")
    read = load_sparse(other := small().to(torch.bfloat16), path)
    assert torch.equal(read["0.weight"], masks["0.weight"])
    assert torch.equal(other[0].weight, network[0].weight)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_that_is_negative_or_takes_everything_is_refused(share):
    with pytest.raises(PruningError, match=r"from 0 .* to below 1"):
        iterative_magnitude_pruning(small(), no_training, amount=share)


def test_rounds_that_leave_a_layer_empty_are_refused_with_the_layer():
    with pytest.raises(PruningError, match=r"round \d+ leaves no weight in 0\.weight"):
        iterative_magnitude_pruning(small(), no_training, rounds=30, amount=0.9)


@pytest.mark.parametrize("kept", [0, -1, 101])
def test_one_cut_to_nothing_or_to_more_than_there_is_is_refused(kept):
    masks = {"W": torch.ones(10, 10, dtype=torch.bool)}
    with pytest.raises(PruningError, match="W would keep"):
        prune_to({"W": torch.rand(10, 10)}, masks, {"W": kept})


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(PruningError, match="no Linear in this network"):
        full_masks(nn.ReLU())


def test_masks_of_another_network_are_refused_and_change_nothing():
    network = small()
    before, optimizer = snapshot(network), torch.optim.SGD(network.parameters(), lr=0.1)
    for stranger in ({"9.weight": torch.ones(2, 2).bool()}, {"0.weight": torch.zeros(2, 2).bool()}):
        with pytest.raises(PruningError, match="of another network"):
            hold(network, stranger, optimizer)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_file_whose_mask_does_not_hold_is_not_written(tmp_path):
    network = small()
    with pytest.raises(PruningError, match=r"24 pruned weights of 0\.weight are not zero"):
        save_sparse(network, half(network), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_network_is_refused_and_changes_nothing(tmp_path):
    _, _, path = saved(tmp_path)
    for other in (digit_network(64), nn.Sequential(nn.Linear(40, 300))):
        before = snapshot(other)
        with pytest.raises(PruningError, match="of another network"):
            load_sparse(other, path)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_missing_dense_and_damaged_files_are_refused_by_name(tmp_path):
    network, _, path = saved(tmp_path, small())
    with pytest.raises(PruningError, match="does not exist"):
        load_sparse(network, tmp_path / "nothing.safetensors")
    save_file(network.state_dict(), dense := tmp_path / "dense.safetensors")
    with pytest.raises(PruningError, match="dense file"):
        load_sparse(network, dense)
    tensors, about = load_file(path), {"masked": json.dumps({"0.weight": [8, 6], "2.weight": [3, 8]})}
    for name, change in {"0.weight.bits": slice(1, None), "0.weight.values": slice(1, None)}.items():
        save_file(tensors | {name: tensors[name][change].clone()}, broken := tmp_path / "broken.safetensors", about)
        with pytest.raises(PruningError, match=r"0\.weight: it is damaged"):
            load_sparse(network, broken)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(PruningError, match="is damaged"):
        load_sparse(network, path)


def test_definitions_of_the_lesson_fit_on_a_screen():
    import inspect

    for name in ("layerwise_masks", "lottery_round"):
        lines = inspect.getsource(getattr(pruning, name)).splitlines()
        assert sum(bool(line.strip()) for line in lines) <= 25
