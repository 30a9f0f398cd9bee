"""The exercises of 01 Cost arithmetic."""

import itertools
import math
from numbers import Real

from . import Exercise, NotYet, code
from .answers import number


def _same(a, b) -> bool:
    return math.isclose(a, b, rel_tol=1e-9)


def _name_mistakes(ours, choices, value) -> None:
    """Raise with the fewest mistakes, one to three, that lead to just this number, if there are such.

    choices: for each part of the answer what may stand there, as (what, words of the mistake); the right one has
    no words. value: makes the number of one choice from each part.
    """
    ways = sorted(itertools.product(*choices), key=lambda way: sum(words != "" for _, words in way))
    for way in ways:
        mistakes = [words for _, words in way if words]
        if 1 <= len(mistakes) <= 3 and _same(ours, value(*(what for what, _ in way))):
            raise NotYet(". Also: ".join(mistakes))


# --- 01.1 ------------------------------------------------------------------------------------------------------------


# What may stand in the sum, and how often.
_BYTES = (
    [(7, ""), (1, "that is for one parameter; multiply by their number")],
    [(1, ""), (0, "the weights are left out; a master copy is kept beside them, not instead")],
    [(1, ""), (0, "the gradient is left out; each parameter has one")],
    [
        (2, ""),
        (1, "you count one moment; Adam keeps two, the mean of gradients and that of their squares"),
        (0, "Adam's two moments are left out"),
    ],
    [
        (1, ""),
        (0, "the master copy is left out; where there is one, it is held besides the rest"),
        (2, "the master copy is counted twice; there are two moments, but one master copy"),
    ],
)


def _verify_bytes(answer):
    # One byte, ten, a hundred and a thousand: the digits of bytes a parameter are what was counted how often.
    ours = number(answer(7, 1, 10, 100, 1000))
    if _same(ours, 7 * 1):
        raise NotYet("only the weights are there; training keeps a gradient and two moments for each as well")
    if _same(ours, 7 * 200):
        raise NotYet("only Adam's moments are there; weights and gradients are held as well")
    if _same(ours, 7 * 12):
        raise NotYet("12 bytes are what the defaults come to; add up the arguments, so that other sizes work")
    _name_mistakes(ours, _BYTES, lambda N, w, g, m, master: N * (w + 10 * g + 100 * m + 1000 * master))
    if not _same(ours, 7 * 1211):
        raise NotYet(
            f"for 7 parameters with 1 byte a weight, 10 a gradient, 100 a moment and 1000 a master copy you get "
            f"{ours:,}; how often does each stand there for one parameter?"
        )
    _verify_defaults(answer)


def _verify_defaults(answer):
    if not _same(ours := number(answer(1000)), 12_000):
        raise NotYet(f"right with all sizes given, but 1,000 parameters with the defaults come to {ours:,} bytes")


BYTES = Exercise(
    id="01.1",
    title="Bytes a parameter",
    name="training_bytes",
    difficulty=1,
    minutes=4,
    stub=code("""
        def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
            ...
    """),
    solution=code("""
        def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
            return parameters * (weight + gradient + 2 * moment + master)
    """),
    verify=_verify_bytes,
    hints=(
        "Each parameter has its weight and its gradient. What does Adam remember of each besides, and how many of those?",
        "Add up for one parameter: weight, gradient, two times moment, master. Then multiply by parameters.",
    ),
    wrong={
        code("""
            def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
                return parameters * (weight + gradient + moment + master)
        """): "one moment",
        code("""
            def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
                return parameters * (weight + 2 * moment + master)
        """): "gradient is left out",
        code("""
            def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
                return parameters * (weight + gradient + 2 * (moment + master))
        """): "counted twice",
        code("""
            def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
                return parameters * (weight + gradient + 2 * moment)
        """): "master copy is left out",
        code("""
            def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
                return parameters * weight
        """): "only the weights",
        code("""
            def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
                return parameters * (gradient + 2 * moment + (master or weight))
        """): "not instead",
        code("""
            def training_bytes(parameters, weight=2, gradient=2, moment=4, master=0):
                return parameters * 12
        """): "12 bytes",
    },
    praise="With the defaults, 175 billion parameters hold 2.1 TB, and two thirds of it are Adam's moments.",
)


# --- 01.2 ------------------------------------------------------------------------------------------------------------


def _block_parts(d: int, d_kv: int, d_ff: int):
    """What may be counted in a block, right or wrong."""
    return (
        [(2 * d * d, ""), (d * d, "queries and output have a d × d matrix each; you count one of the two")],
        [
            (2 * d * d_kv, ""),
            (2 * d * d, "keys and values are counted d × d; they are shared by several heads, so d_kv × d"),
            (2 * d_kv * d_kv, "keys and values are counted d_kv × d_kv; they are made from all d numbers"),
            (d * d_kv, "keys and values have a d_kv × d matrix each; you count one of the two"),
        ],
        [
            (3 * d * d_ff, ""),
            (2 * d * d_ff, "two matrices in the feed-forward part are GPT's; LLaMA's has a third, the gate"),
            (d * d_ff, "you count one matrix in the feed-forward part; there are gate, up and down"),
        ],
        [
            (2 * d, ""),
            (0, "the two norms are forgotten; each has d numbers"),
            (d, "you count one norm; one stands before attention, one before the feed-forward part"),
            (4 * d, "the norms are counted with a bias; LLaMA's have a gain only"),
        ],
        [
            (0, ""),
            (3 * d + 2 * d_kv + 2 * d_ff, "biases are counted; LLaMA has none"),
            (2 * d + 2 * d_kv, "biases of attention are counted; LLaMA has none"),
        ],
    )


def _verify_block(answer):
    ours = number(answer(8192, 1024, 28_672))
    _name_mistakes(ours, _block_parts(8192, 1024, 28_672), lambda *parts: sum(parts))
    if not _same(ours, 855_654_400):
        raise NotYet(
            f"for d = 8192, d_kv = 1024, d_ff = 28672 (Llama-2-70B) you get {ours:,}, "
            "and the model has 855,654,400 a block"
        )
    if not _same(ours := number(answer(576, 192, 1536)), 3_540_096):
        raise NotYet(
            f"right for Llama-2-70B, but for d = 576, d_kv = 192, d_ff = 1536 (SmolLM2) you get {ours:,}, "
            "and the model has 3,540,096 a block"
        )


BLOCK = Exercise(
    id="01.2",
    title="Count a block",
    name="block_parameters",
    difficulty=2,
    minutes=6,
    stub=code("""
        def block_parameters(d, d_kv, d_ff):
            attention = ...         # queries, keys, values, output
            feed_forward = ...      # gate, up, down
            norms = ...
            return ...
    """),
    solution=code("""
        def block_parameters(d, d_kv, d_ff):
            attention = 2 * d * d + 2 * d_kv * d
            feed_forward = 3 * d_ff * d
            norms = 2 * d
            return attention + feed_forward + norms
    """),
    verify=_verify_block,
    hints=(
        "List the matrices with their shapes: four of them in attention, two of those narrower; three after it.",
        "Queries and output d × d each, keys and values d_kv × d each, gate, up and down d_ff × d each, two norms of d.",
    ),
    wrong={
        code("""
            def block_parameters(d, d_kv, d_ff):
                return 2 * d * d + 2 * d_kv * d + 2 * d_ff * d + 2 * d
        """): "GPT's",
        code("""
            def block_parameters(d, d_kv, d_ff):
                return 4 * d * d + 3 * d_ff * d + 2 * d
        """): "counted d × d",
        code("""
            def block_parameters(d, d_kv, d_ff):
                return 2 * d * d + 2 * d_kv * d + 3 * d_ff * d
        """): "norms are forgotten",
        code("""
            def block_parameters(d, d_kv, d_ff):
                return 4 * d * d + 2 * d_ff * d + 2 * d
        """): "counted d × d; they are shared by several heads, so d_kv × d. Also: two matrices",
        code("""
            def block_parameters(d, d_kv, d_ff):
                return 2 * d * d + 2 * d_kv * d + 3 * d_ff * d + 4 * d
        """): "a gain only",
        code("""
            def block_parameters(d, d_kv, d_ff):
                return 2 * d * d + 2 * d * (d // 8) + 3 * d_ff * d + 2 * d
        """): "right for Llama-2-70B",
    },
    praise="The same as torch counts on the meta device, without building anything.",
)


# --- 01.3 ------------------------------------------------------------------------------------------------------------


def _kept_wrongly(s: int, b: int, h: int, a: int):
    """What an activation may come to by mistake, with the words of it."""
    sbh, assb = s * b * h, a * s * s * b
    floored = "// drops what is behind the point, divide with /"
    yield 34 * sbh, "the attention maps are forgotten; the second list is in units of a s s b"
    yield 34 * sbh + 5 * s * s * b, "the maps are there for one head; each of the a heads has its own"
    yield (
        34 * sbh + 5 * a * s * b,
        "one s is missing: a map holds s numbers for each of s tokens, not s in all",
    )
    yield 39 * sbh, "all is added up in units of s b h; the second list has a unit of its own, a s s b"
    yield 5 * assb, "only the attention maps are there; the first list is in units of s b h"
    yield sbh * (34 + 5 * a * s), "5 a s stands undivided inside the bracket; s b h times a s / h is a s s b"
    yield 34 * sbh + 5 * a * s * s, "the maps are there for one sequence; multiply them by the batch b, too"
    yield 34 * s * h + 5 * a * s * s, "that is for one sequence; the batch has b of them"
    yield 34 + 5 * a * s / h, "that is in units of s b h; multiply by them"
    yield sbh * (34 + 5 * a * s // h), floored
    yield sbh * (34 + 5 * (a * s // h)), floored
    yield 2 * (34 * sbh + 5 * assb), "the lists are in bytes already; no factor of 2 for 16 bits"
    for n in range(1, 68):
        if n != 34:
            yield (
                n * sbh + 5 * assb,
                f"the units of s b h are added up to {n}; go through the first list again",
            )
    for n in (1, 2, 3, 4, 6, 7, 8):
        yield (
            34 * sbh + n * assb,
            f"the units of a s s b are added up to {n}; go through the second list again",
        )


def _verify_activations(answer):
    shape = 1000, 2, 768, 12  # the heads and width of GPT-2; a s / h is no whole number
    ours = number(answer(*shape))
    for value, words in _kept_wrongly(*shape):
        if _same(ours, value):
            raise NotYet(words)
    if not _same(ours, 172_224_000):
        raise NotYet(f"for s = 1000, b = 2, h = 768, a = 12 you get {ours:,}, and it should be 172,224,000")
    if not _same(ours := number(answer(2048, 1, 12_288, 96)), 2_868_903_936):
        raise NotYet(
            f"right for GPT-2, but for s = 2048, b = 1, h = 12288, a = 96 (GPT-3) you get {ours:,}, "
            "and it should be 2,868,903,936"
        )


KEPT = Exercise(
    id="01.3",
    title="What a block keeps",
    name="activation_bytes",
    difficulty=2,
    minutes=6,
    stub=code("""
        def activation_bytes(s, b, h, a):
            # In units of s b h bytes:
            #   attention     2 input, 4 queries and keys, 2 values, 2 into the output matrix, 1 mask of dropout
            #   feed-forward  2 input, 8 into the nonlinearity, 8 out of it, 1 mask of dropout
            #   norms         4 inputs
            # In units of a s s b bytes:
            #   attention     2 softmax, 1 mask of dropout, 2 after dropout
            ...
    """),
    solution=code("""
        def activation_bytes(s, b, h, a):
            return 34 * s * b * h + 5 * a * s * s * b
    """),
    verify=_verify_activations,
    hints=(
        "Add up each list by itself: one number times s b h, another times a s s b.",
        "Attention 11, feed-forward 19, norms 4: times s * b * h. Softmax, mask, after dropout 5: times a * s * s * b.",
    ),
    wrong={
        code("""
            def activation_bytes(s, b, h, a):
                return 34 * s * b * h
        """): "attention maps are forgotten",
        code("""
            def activation_bytes(s, b, h, a):
                return 34 * s * b * h + 5 * s * s * b
        """): "for one head",
        code("""
            def activation_bytes(s, b, h, a):
                return 34 * s * b * h + 5 * a * s * b
        """): "one s is missing",
        code("""
            def activation_bytes(s, b, h, a):
                return 39 * s * b * h
        """): "a unit of its own",
        code("""
            def activation_bytes(s, b, h, a):
                return s * b * h * (34 + 5 * a * s // h)
        """): "divide with /",
        code("""
            def activation_bytes(s, b, h, a):
                return 33 * s * b * h + 5 * a * s * s * b
        """): "added up to 33",
        code("""
            def activation_bytes(s, b, h, a):
                return 2 * (34 * s * b * h + 5 * a * s * s * b)
        """): "in bytes already",
    },
    praise=(
        "That is s b h (34 + 5 a s / h), equation 1 of Korthikanti et al. (2022). "
        "GPT-3's 96 blocks keep 275 GB for one text of 2,048 tokens."
    ),
)


# --- 01.4 ------------------------------------------------------------------------------------------------------------


_HELD_AMISS = {
    16: "held is that of only one block; each of the layers keeps something until its turn comes",
    1000: "held is that of only one block; each of the layers keeps something until its turn comes",
    32 * 1000: "layers × block is held without recomputation; with it a layer keeps its input alone",
    1512: "held holds a whole block; between the passes only the inputs of the blocks are kept",
}
_PEAK_AMISS = {
    1000: "peak is a block without the held states; when the backward pass begins, all of them are still there",
    1016: "peak is a block without the held states; when the backward pass begins, all of them are still there",
    512: "peak is no more than held; the block that is run again keeps its activations on top",
    32 * 1000: "peak has all blocks at once; they are run again one by one, and each is dropped after",
    32 * 1016: "peak has all blocks at once; they are run again one by one, and each is dropped after",
    1496: "you take the input of the block off, as it is held already; here block comes on top of held as it is",
}


def _verify_recomputed(answer):
    held, peak = _pair(answer(32, 1000, 16))
    if (held, peak) == (1512, 512):
        raise NotYet("the two are swapped; held comes first, and peak is the larger one")
    if held != 512:
        raise NotYet(
            _HELD_AMISS.get(held, f"for 32 layers and states of 16 bytes held is {held:,}; how many are kept?")
        )
    if peak != 1512:
        what = f"held is right; for blocks of 1,000 bytes peak is {peak:,}: what comes on top of held?"
        raise NotYet(_PEAK_AMISS.get(peak, what))
    if (again := _pair(answer(12, 100, 8))) != (96, 196):
        raise NotYet(f"right for 32 layers, but for 12 layers, blocks of 100 and states of 8 you get {again}")


def _pair(out) -> tuple:
    if out is None or isinstance(out, Real):
        raise NotYet("give back two numbers: return held, peak")
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise NotYet(f"give back two numbers, held and peak; a {type(out).__name__} comes back")
    return number(out[0]), number(out[1])


RECOMPUTED = Exercise(
    id="01.4",
    title="Keep less, run it again",
    name="recomputed",
    difficulty=3,
    minutes=8,
    stub=code("""
        def recomputed(layers, block, state):
            held = ...      # between the forward and the backward pass
            peak = ...      # at the worst moment of the backward pass
            return held, peak
    """),
    solution=code("""
        def recomputed(layers, block, state):
            held = layers * state
            return held, held + block
    """),
    verify=_verify_recomputed,
    hints=(
        "To run a block again you need its input and nothing else. How many blocks are being run again at one time?",
        "held is layers * state. At the worst moment one whole block comes on top of that.",
    ),
    wrong={
        code("""
            def recomputed(layers, block, state):
                return layers * state, block
        """): "without the held states",
        code("""
            def recomputed(layers, block, state):
                return layers * block, layers * block
        """): "without recomputation",
        code("""
            def recomputed(layers, block, state):
                return layers * state, layers * block
        """): "all blocks at once",
        code("""
            def recomputed(layers, block, state):
                return state, state + block
        """): "only one block",
        code("""
            def recomputed(layers, block, state):
                return layers * state, layers * state
        """): "no more than held",
        code("""
            def recomputed(layers, block, state):
                return layers * state + block, layers * state
        """): "swapped",
        code("""
            def recomputed(layers, block, state):
                return layers * state + block
        """): "two numbers",
    },
    praise="Layers now cost a state each instead of a block each, for one more forward pass.",
)


# --- 01.5 ------------------------------------------------------------------------------------------------------------


_N, _D, _PEAK, _UTILIZATION, _PRICE = _RUN = 7e9, 5e8, 312e12, 0.35, 2.5
_DOLLARS = (
    [
        (6, ""),
        (2, "2 N D are the forward passes alone; the backward passes take twice as much again"),
        (4, "4 N D leave one of three parts out: forward, gradients of inputs, gradients of weights"),
        (1, "N D are no FLOPs yet; each weight takes 6 a token, 2 forward and 4 backward"),
    ],
    [
        (_PEAK * _UTILIZATION, ""),
        (_PEAK, "utilization is forgotten; no GPU trains at the peak of its data sheet"),
        (_PEAK / _UTILIZATION, "utilization works the wrong way; a lower one has to make the run dearer"),
    ],
    [
        (3600, ""),
        (1, "seconds are taken for hours; the price is for an hour, 3600 seconds"),
        (60, "minutes are taken for hours; an hour has 3600 seconds"),
    ],
    [(_PRICE, ""), (1, "those are hours; multiply by the price of one")],
)


def _verify_dollars(answer):
    ours = number(answer(*_RUN))
    _name_mistakes(ours, _DOLLARS, lambda k, speed, hour, price: k * _N * _D / speed / hour * price)
    if not _same(ours, 6 * _N * _D / (_PEAK * _UTILIZATION) / 3600 * _PRICE):
        raise NotYet(
            "for 7 billion parameters, 500 million tokens, a peak of 312e12, a utilization of 0.35 and 2.50 dollars "
            f"an hour you get {ours:,.2f} dollars; 53.42 GPU-hours come to 133.55"
        )
    if not _same(ours := number(answer(1e9, 1e9, 1e14, 0.5, 3.0)), 100.0):
        raise NotYet(
            "right for one run, but for a billion parameters, a billion tokens, a peak of 1e14, a utilization of 0.5 "
            f"and 3 dollars an hour you get {ours:,.2f} dollars, not 100; does it use all of its arguments?"
        )


DOLLARS = Exercise(
    id="01.5",
    title="From tokens to dollars",
    name="training_dollars",
    difficulty=2,
    minutes=6,
    stub=code("""
        def training_dollars(parameters, tokens, peak, utilization, price):
            flops = ...
            seconds = ...      # of one GPU
            return ...
    """),
    solution=code("""
        def training_dollars(parameters, tokens, peak, utilization, price):
            flops = 6 * parameters * tokens
            seconds = flops / (peak * utilization)
            return seconds / 3600 * price
    """),
    verify=_verify_dollars,
    hints=(
        "How many FLOPs does it take in all, how many does one GPU really do in a second, and what is the price for?",
        "6 * parameters * tokens, divided by peak * utilization, are seconds; 3600 of them cost price.",
    ),
    wrong={
        code("""
            def training_dollars(parameters, tokens, peak, utilization, price):
                return 2 * parameters * tokens / (peak * utilization) / 3600 * price
        """): "forward passes alone",
        code("""
            def training_dollars(parameters, tokens, peak, utilization, price):
                return 6 * parameters * tokens / peak / 3600 * price
        """): "utilization is forgotten",
        code("""
            def training_dollars(parameters, tokens, peak, utilization, price):
                return 6 * parameters * tokens / peak * utilization / 3600 * price
        """): "wrong way",
        code("""
            def training_dollars(parameters, tokens, peak, utilization, price):
                return 6 * parameters * tokens / (peak * utilization) * price
        """): "seconds are taken for hours",
        code("""
            def training_dollars(parameters, tokens, peak, utilization, price):
                return 6 * parameters * tokens / (peak * utilization) / 3600
        """): "multiply by the price",
        code("""
            def training_dollars(parameters, tokens, peak, utilization, price):
                return 2 * parameters * tokens / peak / 3600 * price
        """): "again. Also: utilization is forgotten",
        code("""
            def training_dollars(parameters, tokens, peak, utilization, price):
                return 6 * parameters * tokens / (peak * 0.35) / 3600 * price
        """): "all of its arguments",
    },
    praise=(
        "The number of GPUs is nowhere in it: at the same utilization, twice as many take half as long "
        "and cost the same."
    ),
)


EXERCISES = [BYTES, BLOCK, KEPT, RECOMPUTED, DOLLARS]
