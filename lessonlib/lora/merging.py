"""Several LoRA adapters made one: averages, sums and TIES of their updates, and what is lost when factors are merged.

    ΔW = Σ_i w_i s_i B_i A_i = [w_1 s_1 B_1 … w_n s_n B_n] [A_1; …; A_n]

The sum of updates of ranks r_1 … r_n is an update of rank r_1 + … + r_n, written down without any arithmetic but the
weights': the As stacked, the Bs side by side. Back at a small rank, the singular value decomposition gives the nearest
one. To add the factors instead, as PEFT's "linear" does, is another thing: its product also holds every B_i A_j of two
different adapters.

An adapter is given as its `Deltas`. Where one does not change a module, its update there counts as absent, as in PEFT.
Sources: PEFT's documentation of `add_weighted_adapter`; TIES: Yadav et al., 2023, arXiv:2306.01708.
"""

import math
from collections.abc import Callable, Sequence

import torch

from .deltas import Delta, Deltas


class MergeError(ValueError):
    """These adapters cannot be made one in this way; the message says why and what would do."""


# --- sums of updates, exact ------------------------------------------------------------------------------------------


def merge_deltas(adapters: Sequence[Deltas], weights: Sequence[float] | None = None) -> Deltas:
    """The weighted sum of the updates, exact; its rank is the sum of the ranks. PEFT's "cat".

    weights: one an adapter, any sign (None: the average, 1/n each).

    >>> one = Delta(torch.ones(1, 2), torch.ones(2, 1))
    >>> merge_deltas([{"q": one}, {"q": one}], weights=[3, -1])["q"].dense().tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    return _each_module(adapters, weights, _side_by_side)


def _side_by_side(updates: list[Delta], weights: list[float]) -> Delta:
    A = torch.cat([u.A for u in updates])  # (Σ r, d_in)
    B = torch.cat([w * u.scale * u.B for w, u in zip(weights, updates, strict=True)], dim=1)  # (d_out, Σ r)
    return Delta(A, B)


def svd_merge(adapters: Sequence[Deltas], weights: Sequence[float] | None = None, r: int | None = None) -> Deltas:
    """The update of rank r that is nearest to the weighted sum (in the sum of squares). PEFT's "svd".

    r: None takes the largest rank of the adapters. Nearest by Eckart and Young (1936). ΔW is never written out: its
    singular values are those of a matrix of Σ r rows and columns.
    """
    return _each_module(
        adapters,
        weights,
        lambda updates, w: _nearest_factored(_side_by_side(updates, w), _rank(r, updates)),
    )


def _nearest_factored(update: Delta, r: int) -> Delta:
    Q, R = torch.linalg.qr(update.scale * update.B)  # (d_out, k), (k, Σ r)
    P, S = torch.linalg.qr(update.A.mT)  # (d_in, k'), (k', Σ r)
    small = nearest(R @ S.mT, r)
    return Delta(small.A @ P.mT, Q @ small.B)


def _rank(r: int | None, updates: list[Delta]) -> int:
    return max(u.r for u in updates) if r is None else r


def nearest(delta: torch.Tensor, r: int) -> Delta:
    """The update of rank r that is nearest to a matrix (d_out, d_in): its r largest singular directions.

    Raises MergeError for an r below 1.

    >>> nearest(torch.diag(torch.tensor([5.0, 2.0, 1.0])), r=2).dense().diagonal().tolist()
    [5.0, 2.0, 0.0]
    """
    if not isinstance(r, int) or r < 1:
        raise MergeError(f"r is {r!r}; the rank must be a whole number of at least 1")
    U, s, Vh = torch.linalg.svd(delta, full_matrices=False)
    return Delta(Vh[:r], U[:, :r] * s[:r])


# --- TIES ------------------------------------------------------------------------------------------------------------


def trim_elect_merge(updates: torch.Tensor, density: float, weights: torch.Tensor) -> torch.Tensor:
    """TIES of n tensors: updates (n, ...), weights (n,) -> (...).

    Trim: of each, only the `density` largest in magnitude stay. Elect: each entry gets the sign of the sum of what
    stayed. Merge: the mean, over those that stayed and agree with that sign.

    >>> two = torch.tensor([[3.0, -1.0, 0.2], [-1.0, -3.0, 0.1]])
    >>> trim_elect_merge(two, density=0.67, weights=torch.ones(2)).tolist()
    [3.0, -2.0, 0.0]
    """
    kept = torch.stack([trim(update, density) for update in updates])
    sign = torch.where(kept.sum(0) >= 0, 1.0, -1.0)
    agree = kept.sign() == sign  # false for what was trimmed
    weighted = kept * weights.to(kept.device).view(-1, *[1] * (kept.dim() - 1))
    return (weighted * agree).sum(0) / agree.sum(0).clamp(min=1)


def trim(update: torch.Tensor, density: float) -> torch.Tensor:
    """The tensor (...,) with all but the share `density` of its entries, the largest in magnitude, set to zero.

    Raises MergeError for a density that is not above 0 and at most 1.
    """
    if not 0 < density <= 1:
        raise MergeError(f"density is {density}; expected a share above 0 and at most 1 (the paper keeps 0.2)")
    flat = update.flatten()
    kept = flat.abs().topk(int(density * len(flat))).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(update)


def ties(
    adapters: Sequence[Deltas],
    density: float,
    weights: Sequence[float] | None = None,
    r: int | None = None,
) -> Deltas:
    """TIES of the updates B A, brought back to rank r. PEFT's "ties_svd".

    weights: None takes 1 each, the paper's plain mean. r: None takes the largest rank of the adapters; what TIES gives
    has full rank, so something is lost here. The paper trims a whole model's changes at once, PEFT and this function
    each matrix by itself.
    """
    weights = [1.0] * len(adapters) if weights is None else weights

    def merged(updates: list[Delta], w: list[float]) -> Delta:
        deltas = torch.stack([u.dense() for u in updates])
        return nearest(trim_elect_merge(deltas, density, torch.tensor(w).to(deltas)), _rank(r, updates))

    return _each_module(adapters, weights, merged)


# --- sums of factors: what PEFT calls "linear" -----------------------------------------------------------------------


def add_factors(adapters: Sequence[Deltas], weights: Sequence[float] | None = None) -> Deltas:
    """(Σ √(w_i s_i) B_i) (Σ √(w_i s_i) A_i), PEFT's "linear": not a weighted sum of updates.

    Beside the w_i s_i B_i A_i the product holds √(w_i s_i w_j s_j) B_i A_j for each two adapters, which neither has
    learned. An adapter averaged with itself comes out doubled. All ranks must be equal.
    """
    return _each_module(adapters, weights, _factors)


def _factors(updates: list[Delta], weights: list[float]) -> Delta:
    if len({u.r for u in updates}) > 1:
        raise MergeError(
            f"factors of ranks {[u.r for u in updates]} cannot be added: use merge_deltas, svd_merge or ties"
        )
    strengths = torch.tensor([w * u.scale for w, u in zip(weights, updates, strict=True)])
    A, B = torch.stack([u.A for u in updates]), torch.stack([u.B for u in updates])
    root = strengths.abs().sqrt().to(A)
    return Delta(_sum(strengths.sign().to(A) * root, A), _sum(root, B))


def _sum(weights: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (weights @ factors.flatten(1)).view_as(factors[0])


# --- module by module ------------------------------------------------------------------------------------------------


def _each_module(adapters: Sequence[Deltas], weights: Sequence[float] | None, merge: Callable) -> Deltas:
    """merge(updates, weights) at each path that an adapter changes, of those adapters that change it."""
    if not adapters:
        raise MergeError("no adapter to merge: give at least one")
    weights = [1 / len(adapters)] * len(adapters) if weights is None else list(map(float, weights))
    if len(weights) != len(adapters):
        raise MergeError(f"{len(weights)} weights for {len(adapters)} adapters: give one for each")
    if not all(map(math.isfinite, weights)):
        raise MergeError(f"the weights {weights} are not all finite numbers")
    merged = {}
    for path in sorted(set().union(*adapters)):
        own = [(adapter[path], w) for adapter, w in zip(adapters, weights, strict=True) if path in adapter]
        _refuse_other_shapes(path, [update for update, _ in own])
        merged[path] = merge(*map(list, zip(*own, strict=True)))
    return merged


def _refuse_other_shapes(path: str, updates: list[Delta]) -> None:
    if len(shapes := {u.shape for u in updates}) > 1:
        raise MergeError(f"{path}: the adapters change matrices of {sorted(shapes)}: they are for different bases")
