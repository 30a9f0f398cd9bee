"""Parts taken out of a language model, and given back bit for bit: attention heads, whole layers, single weights.

Each `without_...` is a context: inside it the model lacks the parts, after it the model is what it was. Which parts to
take first is a question of its own: `head_importance` (Michel, Levy and Neubig, 2019, arXiv:1905.10650, section 4.1),
`layer_influence` (Men et al., 2024, arXiv:2403.03853, section 2), and for weights their magnitude.

The model is of Llama's kind: layers with `self_attn.o_proj`, which reads the heads' outputs side by side.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib.models.reading import head_logits

Head = tuple[int, int]  # (layer, head), both from 0


class PartError(ValueError):
    """A head, layer or share that the model does not have; the message says what it has."""


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The model's layers, first to last."""
    return model.get_decoder().layers


def every_head(model: nn.Module) -> list[Head]:
    """All query heads, layer by layer."""
    heads = model.config.num_attention_heads
    return [(layer, head) for layer in range(len(decoder_layers(model))) for head in range(heads)]


# --- taking out --------------------------------------------------------------------------------------------------------


@contextmanager
def without_heads(model: nn.Module, heads: Iterable[Head]) -> Iterator[nn.Module]:
    """The model with these query heads silent: what they would pass on to `o_proj` is zero.

    No weight is touched. Where several query heads share keys and values, the others still use them.
    Raises PartError for a head that the model does not have.

    >>> with without_heads(model, [(0, 3), (29, 8)]):  # doctest: +SKIP
    ...     perplexity(model, windows)
    """
    heads, known = list(heads), set(every_head(model))
    if strangers := [head for head in heads if head not in known]:
        last = max(known)
        raise PartError(f"no head {strangers[0]}: layers go from 0 to {last[0]}, heads from 0 to {last[1]}")
    gates = torch.ones(len(decoder_layers(model)), model.config.num_attention_heads)
    for layer, head in heads:
        gates[layer, head] = 0
    with _gated(model, gates.unsqueeze(1)):
        yield model


@contextmanager
def _gated(model: nn.Module, gates: torch.Tensor) -> Iterator[None]:
    """Each head's output times its gate; gates (layers, N or 1, heads), one a text or one for all."""
    handles = []
    for layer, gate in zip(decoder_layers(model), gates):
        if gate.requires_grad or not gate.all():
            handles.append(layer.self_attn.o_proj.register_forward_pre_hook(_multiplied_by(gate)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiplied_by(gate: torch.Tensor) -> Callable:
    def hook(module, inputs):
        (x,) = inputs  # (N, T, heads * width)
        by_head = x.unflatten(-1, (gate.shape[-1], -1)) * gate[:, None, :, None].to(x)
        return (by_head.flatten(-2),)

    return hook


@contextmanager
def without_layers(model: nn.Module, layers: Iterable[int]) -> Iterator[nn.Module]:
    """The model with these layers left out: each passes on what came in.

    Raises PartError for a layer that the model does not have.
    """
    decoder, whole, gone = model.get_decoder(), decoder_layers(model), set(layers)
    if strangers := sorted(gone - set(range(len(whole)))):
        raise PartError(f"no layer {strangers[0]}: the model's layers go from 0 to {len(whole) - 1}")
    decoder.layers = nn.ModuleList(layer for i, layer in enumerate(whole) if i not in gone)
    try:
        yield model
    finally:
        decoder.layers = whole


@contextmanager
def without_small_weights(model: nn.Module, amount: float) -> Iterator[nn.Module]:
    """The model with the smallest `amount` of each of its layers' weight matrices at zero; embeddings stay whole.

    The weights are copied aside and written back. Raises PartError for an amount that is not from 0 to 1.
    """
    if not 0 <= amount <= 1:
        raise PartError(f"amount = {amount!r}: give a number from 0 (nothing goes) to 1 (everything)")
    linear = [m for layer in decoder_layers(model) for m in layer.modules() if isinstance(m, nn.Linear)]
    kept = [module.weight.detach().clone() for module in linear]
    try:
        with torch.no_grad():
            for module in linear:
                module.weight.masked_fill_(smallest(module.weight, amount), 0)
        yield model
    finally:
        with torch.no_grad():
            for module, weight in zip(linear, kept):
                module.weight.copy_(weight)


def smallest(weight: torch.Tensor, amount: float) -> torch.Tensor:
    """Where the smallest weights of a matrix (d_out, d_in) are, exactly round(amount * size) of them.

    Weights of four bits come in few sizes, so at the border the first ones of equal size are taken.

    >>> smallest(torch.tensor([[3.0, -1.0], [1.0, -2.0]]), 0.5)
    tensor([[False,  True],
            [ True, False]])
    """
    sizes, k = weight.detach().abs().flatten().float(), round(amount * weight.numel())
    if k == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    border = sizes.kthvalue(k).values
    below, equal = sizes < border, sizes == border
    chosen = below | (equal & (equal.cumsum(0) <= k - below.sum()))
    return chosen.view_as(weight)


# --- what to take first --------------------------------------------------------------------------------------------------


def head_importance(
    model: nn.Module, batches: Sequence, loss: Callable[[nn.Module, object], torch.Tensor]
) -> torch.Tensor:
    """How much the loss would feel each head: the mean over texts of |d loss / d gate|, (layers, heads).

    The gate multiplies the head's output and stands at one. As in the paper, each layer is divided by its norm.
    batches: each with `input_ids` (N, T) and `.to(device)`. loss(model, batch) gives the mean over the batch's texts.
    """
    shape = len(decoder_layers(model)), model.config.num_attention_heads
    total, texts = torch.zeros(shape), 0
    trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    device = next(model.parameters()).device
    for batch in batches:
        N = len(batch.input_ids)
        gates = torch.ones(shape[0], N, shape[1], device=device, requires_grad=True)
        with _gated(model, gates):
            (gradient,) = torch.autograd.grad(N * loss(model, batch.to(device)), gates)
        total += gradient.abs().sum(1).float().cpu()
        texts += N
    for parameter in trains:
        parameter.requires_grad_(True)
    mean = total / texts
    return mean / mean.norm(dim=1, keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def layer_influence(model: nn.Module, windows: torch.Tensor) -> list[float]:
    """One minus the mean cosine between what goes into a layer and what comes out of it, layer by layer.

    windows (n, T): tokens. A layer that hardly turns its input has an influence near zero (ShortGPT's block influence).
    """
    found = []

    def hook(module, inputs, output):
        after = output[0] if isinstance(output, tuple) else output
        found.append(1 - F.cosine_similarity(inputs[0].float(), after.float(), dim=-1).mean().item())

    handles = [layer.register_forward_hook(hook) for layer in decoder_layers(model)]
    try:
        model.get_decoder()(input_ids=windows.to(next(model.parameters()).device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def weakest(importance: torch.Tensor, amount: float) -> list[Head]:
    """The heads of the lowest importance (layers, heads), round(amount * all) of them, lowest first.

    Raises PartError for an amount that is not from 0 to 1.

    >>> weakest(torch.tensor([[0.9, 0.1], [0.3, 0.2]]), 0.5)
    [(0, 1), (1, 1)]
    """
    if not 0 <= amount <= 1:
        raise PartError(f"amount = {amount!r}: give a number from 0 (no head) to 1 (all)")
    order = importance.flatten().argsort(stable=True)[: round(amount * importance.numel())].tolist()
    return [divmod(place, importance.shape[1]) for place in order]


# --- what is left --------------------------------------------------------------------------------------------------------


def text_windows(tokenizer, texts: Iterable[str], length: int = 128) -> torch.Tensor:
    """The texts' tokens, one text behind the other, cut into windows of one length: (n, length). The rest is dropped.

    Raises PartError for texts that are shorter than one window.
    """
    ids = tokenizer("\n".join(texts), add_special_tokens=False).input_ids
    if len(ids) < length:
        raise PartError(f"the texts have {len(ids)} tokens, a window {length}: give more text or a shorter length")
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


@torch.no_grad()
def perplexity(model: nn.Module, windows: torch.Tensor, batch_size: int = 8) -> float:
    """The exponential of the mean loss of each next token within its window; windows (n, T)."""
    losses = []
    for batch in windows.to(next(model.parameters()).device).split(batch_size):
        hidden = model.get_decoder()(input_ids=batch, use_cache=False).last_hidden_state[:, :-1]
        logits = head_logits(model, hidden).float()
        losses.append(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none"))
    return torch.cat(losses).mean().exp().item()
