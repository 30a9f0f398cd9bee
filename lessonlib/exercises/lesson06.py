"""The exercises of 06 Adapters."""

from numbers import Real

import torch
from torch import nn
from torch.nn import functional as F

from . import Exercise, NotYet, code
from .answers import answered, close, shaped

# --- 06.1 ------------------------------------------------------------------------------------------------------------


def _verify_count(answer):
    ours = answered(answer(1024, 64))
    if not isinstance(ours, Real) or isinstance(ours, bool):
        raise NotYet(f"a {type(ours).__name__} comes back; a count is a number")
    d, m = 1024, 64
    named = {
        d * m: "you count one of the two matrices; there is one down and one up",
        2 * d * m: "both matrices are there, the biases are missing: one number for each output",
        2 * d * m + 2 * d: "both biases have d numbers in your count; the first one has only m outputs",
        2 * d * m + 2 * m: "both biases have m numbers in your count; the second one has d outputs",
        2 * d * m + d: "the bias of the way down is missing: m numbers",
        2 * d * m + m: "the bias of the way up is missing: d numbers",
        d * d: "that is a full matrix of d × d; the point is to go through m instead",
        2 * (2 * d * m + m + d): "that is two adapters; count one",
    }
    if ours in named:
        raise NotYet(named[ours])
    if ours != 132_160:
        raise NotYet(f"for d = 1024 and m = 64 you get {ours}; how many numbers has each matrix, each bias?")
    if (other := answer(576, 8)) != 9800:
        raise NotYet(f"right for d = 1024, but for d = 576 and m = 8 you get {other}; it has to hold for any")


COUNT = Exercise(
    id="06.1",
    title="Count before you build",
    name="adapter_parameters",
    difficulty=1,
    minutes=4,
    stub=code("""
        def adapter_parameters(d, m):
            ...
    """),
    solution=code("""
        def adapter_parameters(d, m):
            down = d * m + m
            up = m * d + d
            return down + up
    """),
    verify=_verify_count,
    hints=(
        "A linear layer from a numbers to b numbers has a × b weights, and one bias for each number it gives.",
        "The way down is a layer from d to m, the way up a layer from m to d: add both, biases included.",
    ),
    wrong={
        code("""
            def adapter_parameters(d, m):
                return 2 * d * m
        """): "biases are missing",
        code("""
            def adapter_parameters(d, m):
                return d * m
        """): "one of the two matrices",
        code("""
            def adapter_parameters(d, m):
                return 2 * (d * m + d)
        """): "only m outputs",
        code("""
            def adapter_parameters(d, m):
                return 2 * 1024 * m + m + 1024
        """): "hold for any",
    },
    praise="Linear in m: twice the width, twice the cost.",
)


# --- 06.2 ------------------------------------------------------------------------------------------------------------


def _verify_bottleneck(answer):
    generator = torch.Generator().manual_seed(4)
    sizes = ((5, 6), (2, 6), (2,), (6, 2), (6,))
    given = x, down, b_down, up, b_up = [torch.randn(s, generator=generator) for s in sizes]
    copies = [tensor.clone() for tensor in given]
    ours = shaped(answer(*copies), (5, 6), "the result")
    for name, before, after in zip(("x", "down", "b_down", "up", "b_up"), given, copies):
        if not torch.equal(before, after):
            raise NotYet(f"your function changes {name} itself, so a second call would start from other numbers")
    narrow = x @ down.T + b_down
    right = x + F.gelu(narrow) @ up.T + b_up
    if close(ours, right - x):
        raise NotYet("the detour is right, x itself is lost on the way: with up at zero the model would hear nothing")
    if close(ours, x + narrow @ up.T + b_up):
        raise NotYet("nothing stands between the two matrices; put F.gelu where it is narrow")
    if close(ours, x + F.gelu(narrow @ up.T + b_up)):
        raise NotYet("F.gelu stands behind the way up; it belongs in the middle, where it is narrow")
    if close(ours, F.gelu(right)):
        raise NotYet("F.gelu bends x as well; only the detour goes through it")
    if any(close(ours, right - b) for b in (b_up, b_up + b_down @ up.T)) or close(
        ours, x + F.gelu(x @ down.T) @ up.T
    ):
        raise NotYet("a bias is missing: b_down is added before F.gelu, b_up behind the way up")
    if close(ours, x + F.relu(narrow) @ up.T + b_up):
        raise NotYet("a fine adapter, with ReLU; for the course's numbers take F.gelu")
    if not close(ours, right):
        raise NotYet("the numbers differ; it should be x + F.gelu(x down' + b_down) up' + b_up, with ' for .T")


BOTTLENECK = Exercise(
    id="06.2",
    title="The detour in code",
    name="bottleneck",
    difficulty=2,
    minutes=6,
    stub=code("""
        def bottleneck(x, down, b_down, up, b_up):
            narrow = x @ down.T    # (..., m)
            ...
    """),
    solution=code("""
        def bottleneck(x, down, b_down, up, b_up):
            narrow = F.gelu(x @ down.T + b_down)
            return x + narrow @ up.T + b_up
    """),
    verify=_verify_bottleneck,
    hints=(
        "Four steps: narrow it, bend it with F.gelu, widen it, add x. Each matrix has its bias.",
        "narrow = F.gelu(x @ down.T + b_down) is the first half; x + narrow @ up.T + b_up the second.",
    ),
    wrong={
        code("""
            def bottleneck(x, down, b_down, up, b_up):
                return F.gelu(x @ down.T + b_down) @ up.T + b_up
        """): "x itself is lost",
        code("""
            def bottleneck(x, down, b_down, up, b_up):
                return x + (x @ down.T + b_down) @ up.T + b_up
        """): "nothing stands between",
        code("""
            def bottleneck(x, down, b_down, up, b_up):
                return x + F.gelu((x @ down.T + b_down) @ up.T + b_up)
        """): "behind the way up",
        code("""
            def bottleneck(x, down, b_down, up, b_up):
                return x + F.gelu(x @ down.T) @ up.T
        """): "a bias is missing",
    },
    praise="With up and b_up at zero it gives back x.",
)


# --- 06.3 ------------------------------------------------------------------------------------------------------------


def _sublayer(x):
    return torch.tanh(x) * torch.tensor([1.0, -2.0, 3.0])


def _adapter(x):
    return x + torch.sin(x.roll(1, -1))


def _verify_place(answer):
    h = torch.tensor([[0.3, -0.7, 1.1], [0.9, 0.2, -0.4]])
    ours = shaped(answer(h.clone(), _sublayer, _adapter), (2, 3), "the result")
    if close(ours, h + _sublayer(h)):
        raise NotYet("the adapter is not called at all")
    if close(ours, _adapter(h + _sublayer(h))):
        raise NotYet(
            "the adapter stands behind the residual sum, where it bends the main road; Houlsby's stands before it"
        )
    if close(ours, h + _sublayer(_adapter(h))):
        raise NotYet("the adapter stands before the sublayer; it belongs behind it")
    if close(ours, h + _sublayer(h) + _adapter(h)):
        raise NotYet("the adapter stands beside the sublayer and reads h; it should read what the sublayer gives")
    if close(ours, _adapter(_sublayer(h))):
        raise NotYet("the residual sum is lost; h has to be added")
    if close(ours, h + _sublayer(h) + _adapter(_sublayer(h))):
        raise NotYet("the sublayer is added twice; the adapter hands it on already, x plus its detour")
    if not close(ours, h + _adapter(_sublayer(h))):
        raise NotYet("the numbers differ; sublayer first, then the adapter, and h is added last")


PLACE = Exercise(
    id="06.3",
    title="The place of an adapter",
    name="adapted_block",
    difficulty=2,
    minutes=5,
    stub=code("""
        def adapted_block(h, sublayer, adapter):
            return h + sublayer(h)    # put the adapter in
    """),
    solution=code("""
        def adapted_block(h, sublayer, adapter):
            return h + adapter(sublayer(h))
    """),
    verify=_verify_place,
    hints=(
        "Follow one vector: it goes into the sublayer, comes out, and is added to h. Where is 'behind, but before the sum'?",
        "The adapter reads sublayer(h), and what it gives is added to h.",
    ),
    wrong={
        code("""
            def adapted_block(h, sublayer, adapter):
                return adapter(h + sublayer(h))
        """): "bends the main road",
        code("""
            def adapted_block(h, sublayer, adapter):
                return h + sublayer(adapter(h))
        """): "before the sublayer",
        code("""
            def adapted_block(h, sublayer, adapter):
                return h + sublayer(h) + adapter(h)
        """): "beside the sublayer",
        code("""
            def adapted_block(h, sublayer, adapter):
                s = sublayer(h)
                return h + s + adapter(s)
        """): "added twice",
    },
    praise="The main road stays straight: h passes untouched.",
)


# --- 06.4 ------------------------------------------------------------------------------------------------------------


def _verify_fold(answer):
    generator = torch.Generator().manual_seed(6)
    sizes = ((5, 7), (5,), (2, 5), (2,), (5, 2), (5,))
    given = W, b, down, b_down, up, b_up = [torch.randn(s, generator=generator) for s in sizes]
    copies = [tensor.clone() for tensor in given]
    out = answered(answer(*copies))
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise NotYet("give back two things: the new weight and the new bias")
    if not all(torch.equal(before, after) for before, after in zip(given, copies)):
        raise NotYet("your function changes its arguments; build new tensors")
    weight, bias = shaped(out[0], (5, 7), "the new weight"), shaped(out[1], (5,), "the new bias")
    detour = up @ down
    right, right_bias = W + detour @ W, b + up @ (down @ b + b_down) + b_up
    if close(weight, detour @ W):
        raise NotYet("the residual is missing in the weight: x plus the detour is W plus up down W")
    if not close(weight, right):
        raise NotYet("the weight differs; y = W x goes in and y + up down y comes out. What stands in front of x?")
    if close(bias, b):
        raise NotYet("the weight is right; the bias is still the old one, but b goes through the detour as well")
    if close(bias, b + b_up) or close(bias, b + up @ b_down + b_up):
        raise NotYet("the weight is right; in the bias b itself has to go through up and down too")
    if close(bias, right_bias - b_up) or close(bias, b + detour @ b):
        raise NotYet("the weight is right; the adapter's own biases are missing in the new bias")
    if not close(bias, right_bias):
        raise NotYet("the weight is right, the bias differs; put x = 0 in: y = b goes through the adapter")


FOLD = Exercise(
    id="06.4",
    title="An adapter without a bend can be folded away",
    name="fold",
    difficulty=3,
    minutes=10,
    stub=code("""
        def fold(W, b, down, b_down, up, b_up):
            ...
            return W, b
    """),
    solution=code("""
        def fold(W, b, down, b_down, up, b_up):
            weight = W + up @ down @ W
            bias = b + up @ (down @ b + b_down) + b_up
            return weight, bias
    """),
    verify=_verify_fold,
    hints=(
        "Write y = W x + b, then y + up (down y + b_down) + b_up, and put the first into the second.",
        "What multiplies x is W + up down W. What is left when x is zero is the new bias.",
    ),
    wrong={
        code("""
            def fold(W, b, down, b_down, up, b_up):
                return up @ down @ W, b
        """): "residual is missing",
        code("""
            def fold(W, b, down, b_down, up, b_up):
                return W + up @ down @ W, b
        """): "still the old one",
        code("""
            def fold(W, b, down, b_down, up, b_up):
                return W + up @ down @ W, b + b_up
        """): "b itself",
        code("""
            def fold(W, b, down, b_down, up, b_up):
                return W + up @ down @ W, b + up @ down @ b
        """): "adapter's own biases",
    },
    praise="Its update is up down W: of rank m, like LoRA's.",
)


# --- 06.5 ------------------------------------------------------------------------------------------------------------


class _Place(nn.Module):
    """A place in a model: a frozen part, and the adapter behind it."""

    def __init__(self, m: int):
        super().__init__()
        self.base, self.adapter = nn.Linear(4, 4), nn.Linear(4, m)


def _verify_swap(answer):
    torch.manual_seed(5)
    places = {name: _Place(2) for name in ("a", "b")}
    bases = {name: place.base for name, place in places.items()}
    first = {name: place.adapter for name, place in places.items()}
    second = {name: nn.Linear(4, 3) for name in places}
    values = {name: adapter.weight.detach().clone() for name, adapter in {**first}.items()}
    back = answer(places, dict(second))
    if any(places[name].adapter is first[name] for name in places):
        if all(torch.equal(places[name].adapter.weight, values[name]) for name in places):
            raise NotYet("the old adapters still stand there; set place.adapter to the new one, at each place")
        raise NotYet("you copy numbers into the old adapters; hand over the modules themselves, of any width")
    if any(places[name].base is not bases[name] for name in places):
        raise NotYet("the base changed hands too; only place.adapter belongs to a task")
    if any(places[name].adapter is not second[name] for name in places):
        raise NotYet("a copy stands there; training it would not reach the task's own adapter. Hand over the module")
    back = answered(back)
    if not isinstance(back, dict) or back.keys() != first.keys():
        raise NotYet("give back what stood there, a dictionary by the same names, or the task before is lost")
    if any(back[name] is second[name] for name in places):
        raise NotYet("you give back the new adapters; remember the old ones before you put the new ones in")
    if any(back[name] is not first[name] for name in places):
        raise NotYet("give back the old adapters themselves, not copies or their weights")


SWAP = Exercise(
    id="06.5",
    title="Change the task",
    name="swap",
    difficulty=2,
    minutes=6,
    stub=code("""
        def swap(places, adapters):
            for name, place in places.items():
                ...    # place.base stays; place.adapter is the task's
            return adapters
    """),
    solution=code("""
        def swap(places, adapters):
            before = {name: place.adapter for name, place in places.items()}
            for name, place in places.items():
                place.adapter = adapters[name]
            return before
    """),
    verify=_verify_swap,
    hints=(
        "Nothing needs copying: an attribute can point to another module. First remember what stood there.",
        "before = {name: place.adapter for name, place in places.items()}, then place.adapter = adapters[name] for each.",
    ),
    wrong={
        code("""
            def swap(places, adapters):
                for name, place in places.items():
                    place.adapter = adapters[name]
                return adapters
        """): "you give back the new adapters",
        code("""
            def swap(places, adapters):
                for name, place in places.items():
                    place.adapter = adapters[name]
        """): "nothing comes back",
        code("""
            def swap(places, adapters):
                import copy
                before = {n: p.adapter for n, p in places.items()}
                for name, place in places.items():
                    place.adapter = copy.deepcopy(adapters[name])
                return before
        """): "a copy stands there",
        code("""
            def swap(places, adapters):
                for name, place in places.items():
                    place.adapter.weight = adapters[name].weight
                return adapters
        """): "copy numbers",
    },
    praise="Not one number was copied.",
)


EXERCISES = [COUNT, BOTTLENECK, PLACE, FOLD, SWAP]
