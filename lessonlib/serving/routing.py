"""A router over LoRA experts: a small gate reads what the frozen base makes of a text and says whose text it is.

    g(x) = softmax(G h̄ + b)        h̄ (D,): the mean of the base's last hidden states over the text's tokens

Top 1 serves the likeliest expert's adapter, by its number in a `LoRABank`. The soft mixture adds the experts' updates
with the gate's weights:

    W x + Σ_k g_k B_k A_k x

Only the gate trains, by cross-entropy on which task a text belongs to; base and experts stay as they are. One gate for
a whole text is the simplest kind; mixtures with a gate in each layer (Wu et al., 2024, arXiv:2404.13628) go further.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib.evaluation import wilson_interval
from lessonlib.training import History, fit

from .bank import LoRABank


class RouterError(ValueError):
    """The router cannot be trained or used like this; the message says why."""


# --- what the gate reads ---------------------------------------------------------------------------------------------


@torch.no_grad()
def mean_hidden(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean of the last hidden states over each text's own tokens, float32: (N, T), (N, T) -> (N, D).

    In a bank the model is the bare base here, as long as nobody is `using` it.
    """
    states = model.get_decoder()(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    return _mean(states, attention_mask)


def _mean(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    own = (torch.ones(states.shape[:2], device=states.device) if mask is None else mask).float()[..., None]
    return (states.float() * own).sum(1) / own.sum(1)


# --- the gate --------------------------------------------------------------------------------------------------------


class Router(nn.Module):
    """The gate: one linear layer on the mean hidden state, brought to mean 0 and variance 1.

    h (N, D) -> logits (N, K) of the K experts
    """

    def __init__(self, width: int, experts: int):
        super().__init__()
        self.gate = nn.Linear(width, experts)

    def forward(self, h):
        return self.gate(F.layer_norm(h, h.shape[-1:]))

    @torch.no_grad()
    def pick(self, h) -> list[int]:
        """The likeliest expert of each text: `rows` for a bank that holds the experts in this order."""
        return self(h).argmax(-1).tolist()

    @torch.no_grad()
    def mix(self, h) -> torch.Tensor:
        """The weight of each expert for each text, (N, K), rows of sum 1: for `mixing`."""
        return self(h).softmax(-1)


@dataclass
class Labelled:
    """Texts' features h (N, D) and the experts that they belong to, (N,)."""

    h: torch.Tensor
    experts: torch.Tensor

    def to(self, device) -> "Labelled":
        return Labelled(self.h.to(device), self.experts.to(device))


def train_router(
    router: Router, h: torch.Tensor, experts: Sequence[int], *, steps: int = 100, learning_rate: float = 0.02
) -> History:
    """Train the gate on all texts at once, `steps` times, by cross-entropy on the right expert's number.

    h: (N, D), from `mean_hidden`. Raises RouterError for numbers that the router has no expert for, and
    for another number of experts than of texts.
    """
    known = router.gate.out_features
    if odd := sorted(set(experts) - set(range(known))):
        raise RouterError(f"expert {odd[0]} is asked for, the router has the {known} experts 0 to {known - 1}")
    if len(h) != len(experts):
        raise RouterError(f"{len(h)} texts and {len(experts)} experts' numbers: give one for each")
    batch = Labelled(h, torch.tensor(experts))
    return fit(router, [batch] * steps, learning_rate=learning_rate, loss=router_loss)


def router_loss(router: Router, batch: Labelled) -> torch.Tensor:
    """Cross-entropy of the right expert, averaged over the texts."""
    return F.cross_entropy(router(batch.h), batch.experts)


def wrong_expert_rate(picked: Sequence[int], right: Sequence[int]) -> tuple[float, float, float]:
    """The share of texts that went to another expert than theirs: (rate, low, high), a 95 % Wilson interval.

    Raises RouterError for no texts, or another number of picks than of texts.

    >>> [round(x, 2) for x in wrong_expert_rate([0, 1, 1, 0], [0, 1, 0, 0])]
    [0.25, 0.05, 0.7]
    """
    if len(picked) != len(right) or not len(right):
        raise RouterError(f"{len(picked)} picks for {len(right)} texts: give one for each, and at least one")
    wrong = sum(a != b for a, b in zip(picked, right, strict=True))
    return wrong / len(right), *wilson_interval(wrong, len(right))


# --- the soft mixture ------------------------------------------------------------------------------------------------


class MixedLinear(nn.Module):
    """A frozen linear layer and K low-rank updates, all of them for each row, with the row's own weights.

    x (N, T, d_in) -> (N, T, d_out);  g (N, K), or (1, K) for all rows
    """

    def __init__(self, base, A, B, g):
        super().__init__()
        self.base, self.A, self.B = base, A, B  # (K, r, d_in), (K, d_out, r)
        self.g = g.to(A)[:, None, :, None]  # (N, 1, K, 1)

    def forward(self, x):
        h = torch.einsum("ntd,krd->ntkr", x, self.A)
        return self.base(x) + torch.einsum("ntkr,kor->nto", self.g * h, self.B)


@contextmanager
def mixing(bank: LoRABank, weights: torch.Tensor):
    """Inside, the bank's model adds all its experts' updates to row n of a batch, with the weights of row n.

    weights: (N, K) from `Router.mix`, column k for the bank's adapter of number k; (1, K) is for all rows. Raises
    RouterError for weights of another shape.

    >>> with mixing(bank, router.mix(h)):  # doctest: +SKIP
    ...     logits = model(input_ids).logits
    """
    numbers = bank.numbers
    if weights.dim() != 2 or weights.shape[1] != len(numbers):
        raise RouterError(
            f"weights of shape {tuple(weights.shape)}, expected (N, {len(numbers)}): one for each of {numbers}"
        )
    layers = bank.layers
    mixed = {
        path: MixedLinear(layer.base, layer.A[numbers], layer.B[numbers], weights) for path, layer in layers.items()
    }
    bank.put(mixed)
    try:
        yield bank.model
    finally:
        bank.put(layers)
