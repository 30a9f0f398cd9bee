"""Claims of lessonlib.pruning.subspace. References: P written out as a matrix, and theta_0 + P z formed by hand."""

import copy

import pytest
import torch
from tiny_models import ALL, logits
from torch import nn

from lessonlib.pruning.subspace import (
    RandomSubspace,
    SubspaceError,
    add_subspace,
    intrinsic_dimension,
    remove_subspace,
    subspace_layers,
)

close = torch.testing.assert_close


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10))  # 940 parameters


def projection(subspace):
    """P (D, d), column by column: the update that a unit vector z gives."""
    columns = []
    for unit in torch.eye(len(subspace.z)):
        subspace.z.data.copy_(unit)
        columns.append(subspace.update().detach())
    return torch.stack(columns, dim=1)


def projection_of_layers(model):
    z = next(p for p in model.parameters() if p.requires_grad)
    columns = []
    for unit in torch.eye(len(z)):
        z.data.copy_(unit)
        columns.append(torch.cat([layer.update().detach().flatten() for _, layer in subspace_layers(model)]))
    return torch.stack(columns, dim=1)


# --- the projection ---------------------------------------------------------------------------------------------


def test_fresh_subspace_changes_nothing():
    plain, x = network(), torch.randn(5, 20)
    assert torch.equal(RandomSubspace(copy.deepcopy(plain), d=7)(x), plain(x))


def test_columns_are_orthogonal_and_of_length_about_one():
    P = projection(RandomSubspace(network(), d=12))
    gram = P.T @ P
    assert torch.equal(gram - gram.diag().diag(), torch.zeros(12, 12))
    # Entries a column are binomial, 940 / 12 = 78 on average with a deviation of 8.5: lengths within 3 of those.
    assert (gram.diag() - 1).abs().max() < 3 * 8.5 / 78


def test_the_projection_is_unbiased():
    # Over seeds, P P^T averages (d / D) I: no direction of the parameters is favoured (Li et al., section 2).
    model, d, seeds = nn.Linear(4, 5), 3, 4000  # D = 25
    mean = sum(P @ P.T for P in (projection(RandomSubspace(model, d, seed)) for seed in range(seeds))) / seeds
    # Off the diagonal an entry is ± d / D with probability 1 / d: its mean deviates by d / D / sqrt(d seeds) = 0.0011.
    close(mean, d / 25 * torch.eye(25), atol=0.0055, rtol=0)


def test_one_entry_a_row_of_either_sign():
    P = projection(RandomSubspace(network(), d=12))
    assert ((P != 0).sum(dim=1) == 1).all()
    assert abs((P > 0).sum().item() - 470) < 5 * 940**0.5 / 2


def test_the_forward_pass_is_at_theta_0_plus_P_z():
    plain, x = network(), torch.randn(5, 20)
    subspace = RandomSubspace(copy.deepcopy(plain), d=12, seed=3)
    P, z = projection(subspace), torch.randn(12)
    subspace.z.data.copy_(z)
    theta = nn.utils.parameters_to_vector(plain.parameters()) + P @ z
    nn.utils.vector_to_parameters(theta, plain.parameters())
    close(subspace(x), plain(x), atol=1e-6, rtol=0)


def test_the_gradient_of_z_is_the_projected_gradient_of_theta():
    plain, x = network(), torch.randn(5, 20)
    subspace = RandomSubspace(copy.deepcopy(plain), d=12)
    P = projection(subspace)
    subspace.z.data.zero_()
    subspace(x).square().sum().backward()
    plain(x).square().sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])
    close(subspace.z.grad, P.T @ gradient, atol=1e-5, rtol=1e-5)


def test_only_z_trains_and_the_model_keeps_its_bits():
    model = network()
    before = copy.deepcopy(model.state_dict())
    subspace = RandomSubspace(model, d=12)
    optimizer = torch.optim.Adam(p for p in subspace.parameters() if p.requires_grad)
    for _ in range(3):
        subspace(torch.randn(5, 20)).square().sum().backward()
        optimizer.step()
    assert [name for name, p in subspace.named_parameters() if p.requires_grad] == ["z"]
    assert subspace.z.abs().min() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_seed_draws_the_same_subspace_and_another_seed_another():
    first, same, other = (RandomSubspace(network(), d=12, seed=seed).place for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_twenty_parameters_make_an_update_of_full_rank():
    layer = nn.Linear(64, 64, bias=False)
    subspace = RandomSubspace(layer, d=20)
    nn.init.normal_(subspace.z, generator=torch.Generator().manual_seed(0))
    assert torch.linalg.matrix_rank(subspace.update().view(64, 64)) == 64


# --- in a language model -----------------------------------------------------------------------------------------


def test_a_fresh_subspace_changes_no_logit(tiny, tiny_tokens):
    before = logits(tiny, tiny_tokens)
    assert torch.equal(logits(add_subspace(tiny, ALL, d=50), tiny_tokens), before)


def test_layers_share_one_z_and_their_columns_are_orthogonal(tiny):
    add_subspace(tiny, ("q_proj", "down_proj"), d=9)
    assert [p.shape for p in tiny.parameters() if p.requires_grad] == [torch.Size([9])]
    gram = (P := projection_of_layers(tiny)).T @ P
    assert P.shape == (2 * (32 * 32 + 32 * 64), 9)
    assert torch.equal(gram - gram.diag().diag(), torch.zeros(9, 9))
    assert (gram.diag() - 1).abs().max() < 0.2  # 683 entries a column, a deviation of 25


def test_layers_compute_with_the_moved_weight(tiny, make_tiny, tiny_tokens):
    add_subspace(tiny, ALL, d=50)
    nn.init.normal_(next(p for p in tiny.parameters() if p.requires_grad), std=0.5)
    moved = make_tiny()
    with torch.no_grad():
        for path, layer in subspace_layers(tiny):
            moved.get_submodule(path).weight += layer.update()
    assert (logits(moved, tiny_tokens) - logits(make_tiny(), tiny_tokens)).abs().max() > 0.01
    close(logits(tiny, tiny_tokens), logits(moved, tiny_tokens), atol=1e-5, rtol=0)


def test_training_lowers_the_loss_and_removing_gives_the_base_back(tiny, make_tiny, tiny_tokens):
    add_subspace(tiny.bfloat16(), ALL, d=200)
    optimizer = torch.optim.Adam([p for p in tiny.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(10):
        loss = tiny(tiny_tokens, labels=tiny_tokens).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.1
    remove_subspace(tiny)
    expected = make_tiny().bfloat16().state_dict()
    assert tiny.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in tiny.state_dict().items())


@pytest.mark.parametrize(
    ("targets", "d", "message"),
    [
        (["q_pro"], 5, "no module is called 'q_pro'"),
        (["q_proj", "nonsense"], 5, "no module is called 'nonsense'"),
        ([], 5, "no module is called"),
        (["self_attn"], 5, "self_attn is a LlamaAttention: name linear modules"),
        (["q_proj"], 0, "d is 0; expected a whole number from 1 to 2,048"),
        (["q_proj"], 2049, "d is 2049"),
        (["q_proj"], 2.5, "d is 2.5"),
    ],
)
def test_what_makes_no_subspace_is_named_and_changes_nothing(tiny, targets, d, message):
    with pytest.raises(SubspaceError, match=message):
        add_subspace(tiny, targets, d)
    assert not list(subspace_layers(tiny)) and all(p.requires_grad for p in tiny.parameters())


def test_a_path_is_one_module_and_a_name_all_of_that_name(tiny):
    add_subspace(tiny, ["model.layers.1.self_attn.q_proj", "up_proj"], d=5)
    assert {path for path, _ in subspace_layers(tiny)} == {
        "model.layers.1.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
    }


def test_adding_twice_and_removing_nothing_are_refused(tiny):
    with pytest.raises(SubspaceError, match="no subspace: call add_subspace"):
        remove_subspace(tiny)
    add_subspace(tiny, ["q_proj"], d=5)
    with pytest.raises(SubspaceError, match="has a subspace already: call remove_subspace"):
        add_subspace(tiny, ["q_proj"], d=5)


# --- the measure --------------------------------------------------------------------------------------------------


def test_d90_is_the_smallest_d_from_which_on_nine_tenths_are_reached():
    # 0.9 x 0.8 = 0.72: reached at 100, lost again at 300, reached for good from 1000 on.
    scores = {10: 0.3, 100: 0.73, 300: 0.71, 1000: 0.75, 3000: 0.8}
    assert intrinsic_dimension(scores, full=0.8) == 1000
    assert intrinsic_dimension(scores, full=0.8, share=0.85) == 100


def test_d90_is_none_where_nothing_reaches_it():
    assert intrinsic_dimension({10: 0.3, 100: 0.5}, full=0.8) is None


@pytest.mark.parametrize(("scores", "share"), [({}, 0.9), ({1: 0.5}, 0), ({1: 0.5}, 1.1)])
def test_a_measure_without_sense_is_refused(scores, share):
    with pytest.raises(SubspaceError, match="expected at least one, and 0 < share <= 1"):
        intrinsic_dimension(scores, full=0.8, share=share)
