"""What a forward pass must keep for the backward pass, tensor by tensor.

A matrix product keeps its input, if the matrix is to be trained, and a product of two activations keeps both. Counted
are the tensors of one block, and of the head that turns the last state into a loss over the vocabulary.

    gated block (LLaMA)   as listed in `_gated`, in the order of its forward pass
    classic block (GPT)   s b h (34 + 5 a s / h) bytes with 16-bit numbers and dropout: Korthikanti et al. 2022, eq. 1
"""

from dataclasses import dataclass

from .architecture import Architecture
from .methods import Adapters, LoRA

# What the families call the matrices of a block. GPT-2's c_proj stands at the end of both halves.
INTO_ATTENTION = {"q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v", "c_attn", "qkv_proj"}
OUT_OF_ATTENTION = {"o_proj", "out_proj", "o", "dense", "c_proj"}
INTO_FEED_FORWARD = {"gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "wi", "wi_0", "wi_1", "dense"}
OUT_OF_FEED_FORWARD = {"down_proj", "fc2", "wo", "c_proj", "dense"}


@dataclass(frozen=True)
class Activations:
    """Bytes kept from forward to backward (`held`), and at the worst moment of the backward pass (`peak`)."""

    held: float
    peak: float


def activations(
    model: Architecture,
    method,
    *,
    element: int,
    batch: int,
    tokens: int,
    recompute: bool = False,
    fused_attention: bool = False,
) -> Activations:
    """Bytes of activations of one training step with a loss on every token.

    element: bytes of a number (2 or 4). tokens: of one sequence. recompute: keep the input of each block only, and
    run the block again when its turn comes. fused_attention: never store the attention maps (FlashAttention).
    """
    block = sum(block_parts(model, method, element, batch, tokens, fused_attention).values())
    head = sum(head_parts(model, method, element, batch * tokens).values())
    if not recompute:
        held = model.layers * block + head
        return Activations(held, held)
    held = model.layers * element * batch * tokens * model.d + head
    return Activations(held, held + block)


def block_parts(
    model: Architecture, method, element: int, batch: int, tokens: int, fused_attention: bool = False
) -> dict[str, float]:
    """Bytes that one block keeps, by what they are."""
    N = batch * tokens
    parts = (_gated if model.gated else _classic)(model, method, element, N)
    if fused_attention:
        parts["attention maps"] = 0
    else:
        parts["attention maps"] *= tokens
    return parts | _added(model, method, element, N)


def _gated(model: Architecture, method, e: int, N: int) -> dict[str, float]:
    d, d_q, d_ff = model.d, model.d_q, model.d_ff
    kept = _inputs_kept(model, method)
    normed = 2 * e * N * d if method.trains_everything else 0  # a frozen gain needs no input
    softmax = 4 if e == 4 else 4 + e  # taken in float32, then rounded
    return {
        "into the norms": 2 * 4 * N * d + normed,  # in float32
        "into query, key, value": e * N * d if kept & INTO_ATTENTION else 0,
        "queries, keys, values": 3 * e * N * d_q,  # keys and values repeated for all heads
        "attention maps": softmax * N * model.heads,  # times the tokens that each one looks at
        "into the output matrix": e * N * d_q if kept & OUT_OF_ATTENTION else 0,
        "into the feed-forward": e * N * d if kept & INTO_FEED_FORWARD else 0,
        "gate, activated gate, up": 3 * e * N * d_ff,
        "into down": e * N * d_ff if kept & OUT_OF_FEED_FORWARD else 0,
    }


def _classic(model: Architecture, method, e: int, N: int) -> dict[str, float]:
    d, d_ff = model.d, model.d_ff
    kept = _inputs_kept(model, method)
    return {
        "into the norms": 2 * e * N * d,
        "into query, key, value": e * N * d if kept & INTO_ATTENTION else 0,
        "queries, keys, values": 3 * e * N * d,
        "attention maps": (2 * e + 1) * N * model.heads,  # softmax, its dropout's mask, what dropout left
        "into the output matrix": e * N * d if kept & OUT_OF_ATTENTION else 0,
        "masks of dropout": 2 * N * d,
        "into the feed-forward": e * N * d if kept & INTO_FEED_FORWARD else 0,
        "into the nonlinearity": e * N * d_ff,
        "into the second matrix": e * N * d_ff if kept & OUT_OF_FEED_FORWARD else 0,
    }


def _added(model: Architecture, method, e: int, N: int) -> dict[str, float]:
    """What the method's own modules keep besides."""
    if isinstance(method, LoRA):
        return {"A x": e * N * method.r * len(method.chosen(model)) / model.layers}
    if isinstance(method, Adapters):
        return {"in the bottlenecks": 2 * e * N * (model.d + 2 * method.m)}
    return {}


def _inputs_kept(model: Architecture, method) -> set[str]:
    """Names of the matrices whose inputs are needed again: those that are trained or have an update beside them."""
    if method.trains_everything:
        return {linear.name for linear in model.linears}
    return {linear.name for linear in method.chosen(model)} if isinstance(method, LoRA) else set()


def head_parts(model: Architecture, method, element: int, N: int) -> dict[str, float]:
    """Bytes that the last norm and the loss keep: the log-probability of every word, in float32."""
    if model.head is None:
        return {}
    trained = method.trains_everything
    return {
        "into the last norm": 4 * N * model.d + (element * N * model.d if trained else 0),
        "into the head": element * N * model.d if trained else 0,
        "log-probabilities": 4 * N * model.vocabulary,
    }
