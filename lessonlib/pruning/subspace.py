"""Training in a random subspace, and the intrinsic dimension that it measures (Li et al., 2018, arXiv:1804.08838).

    theta = theta_0 + P z        theta (D,) all parameters,  P (D, d) drawn once,  z (d,) the only numbers that train

z starts at zero, so a fresh subspace changes nothing. P is never written out. Each of its rows has a single entry, +1
or -1 over a common root, in a column drawn from a seed (the count sketch of Charikar, Chen and Farach-Colton, 2002):
four bytes a parameter hold it, its columns are orthogonal because no two share a row, and a product costs one look-up
a parameter. Li et al. (section 2) use dense, sparse and Fastfood projections, Aghajanyan et al. (2020) Fastfood; all
have columns that are nearly orthonormal, which is what the method needs.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lessonlib.models.surgery import find_targets


class RandomSubspace(nn.Module):
    """A frozen model whose D parameters move together, through the d numbers in z: theta_0 + P z.

    Called as the model is. P (D, d) has one entry in each row, of either sign; `place` says in which column.
    """

    def __init__(self, model, d, seed=0):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.z = nn.Parameter(torch.zeros(d))
        D = sum(parameter.numel() for parameter in model.parameters())
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("place", torch.randint(2 * d, (D,), generator=draw, dtype=torch.int32))
        self.scale = (d / D) ** 0.5  # each column has about D / d entries: so its length is about 1
        self.to(next(model.parameters()).device)

    def update(self):
        return self.scale * torch.cat([self.z, -self.z])[self.place]  # P z (D,)

    def forward(self, *inputs):
        sizes = [parameter.numel() for parameter in self.model.parameters()]
        moves = zip(self.model.named_parameters(), self.update().split(sizes))
        theta = {name: theta_0 + move.view_as(theta_0) for (name, theta_0), move in moves}
        return functional_call(self.model, theta, inputs)


class SubspaceError(ValueError):
    """A subspace cannot be made or removed; the message says why and what would do."""


# --- the linear layers of a language model -----------------------------------------------------------------------------


class SubspaceLinear(nn.Module):
    """A frozen linear layer beside its share of P z, the z of all layers being one.

    x (..., d_in) -> (..., d_out)

    The move is kept apart from the weight: added to a bfloat16 weight, most of it would be rounded away.
    """

    def __init__(self, base: nn.Linear, z: nn.Parameter, place: torch.Tensor, scale: float):
        super().__init__()
        self.base, self.z, self.scale = base.requires_grad_(False), z, scale
        self.register_buffer("place", place, persistent=False)  # (d_out * d_in,), drawn anew from the seed

    def update(self) -> torch.Tensor:
        """This layer's part of P z, in the shape of its weight."""
        both = self.scale * torch.cat([self.z, -self.z])
        return both.index_select(0, self.place).view_as(self.base.weight)

    def forward(self, x):
        return self.base(x) + F.linear(x, self.update().to(x.dtype))


def subspace_layers(model: nn.Module) -> Iterator[tuple[str, SubspaceLinear]]:
    """(path, layer) of each layer that `add_subspace` has put in."""
    return ((path, module) for path, module in model.named_modules() if isinstance(module, SubspaceLinear))


def add_subspace(model: nn.Module, targets: Sequence[str], d: int, seed: int = 0) -> nn.Module:
    """Freeze the model and let its target matrices move in one random subspace of d dimensions, as z says.

    targets: attribute names of linear modules, matched exactly ("q_proj"), or whole paths. Returns the same model; its
    only trainable parameter is z (d,), shared by all layers, in float32.

    Raises SubspaceError for d < 1 or above the number of weights, a target that is no linear layer here, and a model
    that has a subspace already; the model is then unchanged.

    >>> model = add_subspace(nn.Sequential(nn.Linear(6, 4)), ["0"], d=5)
    >>> [parameter.shape for parameter in model.parameters() if parameter.requires_grad]
    [torch.Size([5])]
    """
    if next(subspace_layers(model), None):
        raise SubspaceError("this model has a subspace already: call remove_subspace(model) first")
    chosen, missing = find_targets(model, targets)
    for path, module in chosen:
        if not isinstance(module, nn.Linear):
            raise SubspaceError(f"{path} is a {type(module).__name__}: name linear modules, such as 'q_proj'")
    if missing or not chosen:
        name = missing[0] if missing else "(no target)"
        raise SubspaceError(f"no module is called {name!r}: name linear modules of this model")
    D = sum(module.weight.numel() for _, module in chosen)
    if not isinstance(d, int) or not 1 <= d <= D:
        raise SubspaceError(f"d is {d!r}; expected a whole number from 1 to {D:,}, the number of weights")
    model.requires_grad_(False)
    device = chosen[0][1].weight.device
    z, draw = nn.Parameter(torch.zeros(d, device=device)), torch.Generator().manual_seed(seed)
    for path, module in chosen:
        place = torch.randint(2 * d, (module.weight.numel(),), generator=draw, dtype=torch.int32).to(device)
        model.set_submodule(path, SubspaceLinear(module, z, place, (d / D) ** 0.5))
    return model


def remove_subspace(model: nn.Module) -> nn.Module:
    """Take the subspace out; the model is then what it was, bit for bit. All is frozen still.

    Raises SubspaceError for a model without one.
    """
    layers = list(subspace_layers(model))
    if not layers:
        raise SubspaceError("this model has no subspace: call add_subspace(model, ...) first")
    for path, layer in layers:
        model.set_submodule(path, layer.base)
    return model


# --- the measure -------------------------------------------------------------------------------------------------------


def intrinsic_dimension(scores: Mapping[int, float], full: float, share: float = 0.9) -> int | None:
    """The smallest tried d from which on each score reaches `share` of full training's (Li et al., section 1: d90).

    scores: the score of training in a subspace of d dimensions, by d; of several seeds, their mean. full: the score of
    the same training with all parameters. None where no d reaches it.

    Raises SubspaceError for no scores, and for a share outside 0 to 1.

    >>> intrinsic_dimension({10: 0.30, 100: 0.86, 1000: 0.95}, full=0.95)
    100
    """
    if not scores or not 0 < share <= 1:
        raise SubspaceError(f"{len(scores)} scores and share {share}: expected at least one, and 0 < share <= 1")
    reached = None
    for d in sorted(scores, reverse=True):
        if scores[d] < share * full:
            break
        reached = d
    return reached
