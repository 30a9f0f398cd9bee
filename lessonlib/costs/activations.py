"""What a forward pass must keep for the backward pass, tensor by tensor.

A matrix product keeps its input, if the matrix is to be trained, and a product of two activations keeps both. Counted
are the tensors of one block, and of the head that turns the last state into a loss over the vocabulary.

    gated block (LLaMA)   as listed in `_gated`, in the order of its forward pass
    classic block (GPT)   s b h (34 + 5 a s / h) bytes with 16-bit numbers and dropout: Korthikanti et al. 2022, eq. 1
"""

from dataclasses import dataclass

from .architecture import Architecture
from .methods import Adapters, LoRA, PrefixTuning, PromptTuning

# What the families call the matrices of a block. GPT-2's c_proj stands at the end of both halves.
INTO_ATTENTION = {"q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v", "c_attn", "qkv_proj"}
OUT_OF_ATTENTION = {"o_proj", "out_proj", "o", "dense", "c_proj"}
INTO_FEED_FORWARD = {"gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "wi", "wi_0", "wi_1", "dense"}
OUT_OF_FEED_FORWARD = {"down_proj", "fc2", "wo", "c_proj", "dense"}

FROZEN = PrefixTuning(0)  # a block in which nothing is trained, but through which gradients pass


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
    scored: int | None = None,
) -> Activations:
    """Bytes of activations of one training step.

    element: bytes of a number (2 or 4). tokens: of one sequence. scored: how many of them meet the head and have a loss
    (None: all; 1 where a text is sorted by the word behind it). recompute: keep the input of each block only, and
    run the block again when its turn comes. fused_attention: never store the attention maps (FlashAttention).
    """
    block = sum(block_parts(model, method, element, batch, tokens, fused_attention).values())
    head = sum(head_parts(model, method, element, batch * tokens, batch * (scored or tokens)).values())
    if not recompute:
        held = model.layers * block + head
        return Activations(held, held)
    held = model.layers * element * batch * tokens * model.d + head
    return Activations(held, held + block)


def block_parts(
    model: Architecture, method, element: int, batch: int, tokens: int, fused_attention: bool = False
) -> dict[str, float]:
    """Bytes that one block keeps, by what they are.

    The first block keeps a little less, since nothing below the first trained matrix has a gradient; not counted.
    """
    N = batch * tokens
    parts = (_gated if model.gated else _classic)(model, method, element, N)
    parts["attention maps"] *= 0 if fused_attention else tokens + _virtual(method)
    parts |= _added(model, method, element, N) | _in_front(model, method, element, batch)
    if isinstance(method, PromptTuning):  # it goes through the block itself, once for all texts
        alone = block_parts(model, FROZEN, element, 1, method.tokens, fused_attention)
        parts["the prompt's own"] = sum(alone.values())
    return parts


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
    """What the method's own modules keep besides. Their float32 weights are multiplied as 16-bit copies, kept as well."""
    if not isinstance(method, LoRA | Adapters):
        return {}
    copies = {"16-bit copies": e * method.trainable(model) / model.layers if e < 4 else 0}
    if isinstance(method, LoRA):
        return copies | {"A x": e * N * method.r * len(method.chosen(model)) / model.layers}
    return copies | {"in the bottlenecks": 2 * e * N * (model.d + 2 * method.m)}


def _virtual(method) -> int:
    """Tokens in front of each text that are no words, and that all of its own look at."""
    return method.tokens if isinstance(method, PromptTuning | PrefixTuning) else 0


def _in_front(model: Architecture, method, e: int, batch: int) -> dict[str, float]:
    """Keys and values of the virtual tokens, beside those of each text, repeated for all heads like theirs."""
    p = _virtual(method)
    return {"keys and values in front": 2 * e * batch * p * model.d_q} if p else {}


def _inputs_kept(model: Architecture, method) -> set[str]:
    """Names of the matrices whose inputs are needed again: those that are trained or have an update beside them."""
    if method.trains_everything:
        return {linear.name for linear in model.linears}
    return {linear.name for linear in method.chosen(model)} if isinstance(method, LoRA) else set()


def head_parts(model: Architecture, method, element: int, N: int, scored: int) -> dict[str, float]:
    """Bytes that the last norm keeps of N tokens, and the loss of those that are scored: the log-probability of every
    word, in float32."""
    if model.head is None:
        return {}
    trained = method.trains_everything
    return {
        "into the last norm": 4 * N * model.d + (element * N * model.d if trained else 0),
        "into the head": element * scored * model.d if trained else 0,
        "log-probabilities": 4 * scored * model.vocabulary,
    }
