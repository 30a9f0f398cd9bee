"""The exercises of 05 Lottery tickets."""

import math

import torch
from torch.nn import functional as F

from . import Exercise, NotYet, code
from .answers import answered, number


def _mask(value, shape) -> torch.Tensor:
    value = answered(value)
    if not isinstance(value, torch.Tensor):
        raise NotYet(f"a {type(value).__name__} comes back; a mask is a tensor")
    if value.shape != shape:
        raise NotYet(
            f"your mask is {tuple(value.shape)}, the weights are {tuple(shape)}; they belong together entry by entry"
        )
    if value.dtype != torch.bool and not ((value == 0) | (value == 1)).all():
        raise NotYet("weights come back; give the mask, True where a weight is left")
    return value.bool()


# --- 05.1 ------------------------------------------------------------------------------------------------------------


def _why_not_pruned(ours: torch.Tensor, W: torch.Tensor) -> str:
    size = W.abs().flatten()
    if torch.equal(ours, size <= size.sort().values[9]):
        return "True stands where a weight goes; a mask is True where one is left"
    if torch.equal(ours, size >= size.sort().values[30]):
        return "only the share is left; `share` is what goes"
    if torch.equal(ours, W.flatten() > W.flatten().sort().values[9]):
        return "you sort by value, so the most negative weights go; the size is the absolute value"
    if torch.equal(ours, size > 0.25):
        return "you cut at the size 0.25; `share` is a share of the weights, not a size"
    return f"of 40 weights and a share of 0.25 you leave {int(ours.sum())}; 30 should be left, the largest in absolute value"


def _verify_prune(answer):
    W = torch.randn(8, 5)
    ours = _mask(answer(W.clone(), 0.25), W.shape).flatten()
    if not torch.equal(ours, W.abs().flatten() > W.abs().flatten().sort().values[9]):
        raise NotYet(_why_not_pruned(ours, W))
    ties = torch.cat([torch.ones(6), torch.full((4,), 2.0)]).view(2, 5)
    kept = int(_mask(answer(ties.clone(), 0.3), ties.shape).sum())
    if kept != 7:
        raise NotYet(
            f"right where all sizes differ; of ten weights, six of them of one size, 3 should go, and you leave {kept}. "
            "A threshold takes all or none of equals: choose places instead, with topk or argsort"
        )


PRUNE = Exercise(
    id="05.1",
    title="Prune the smallest",
    name="prune",
    difficulty=1,
    minutes=6,
    stub=code("""
        def prune(W, share):
            mask = torch.ones_like(W, dtype=torch.bool)
            k = round(share * W.numel())
            ...                # False for the k smallest
            return mask
    """),
    solution=code("""
        def prune(W, share):
            mask = torch.ones_like(W, dtype=torch.bool)
            k = round(share * W.numel())
            smallest = W.abs().flatten().topk(k, largest=False).indices
            return mask.flatten().index_fill(0, smallest, False).view_as(mask)
    """),
    verify=_verify_prune,
    hints=(
        "Flatten the absolute values; `topk(k, largest=False)` gives the k smallest, and where they are.",
        "mask.view(-1) is the mask as one long row: write False at the indices that topk found.",
    ),
    wrong={
        code("""
            def prune(W, share):
                k = round(share * W.numel())
                mask = torch.zeros_like(W, dtype=torch.bool)
                mask.view(-1)[W.abs().flatten().topk(k, largest=False).indices] = True
                return mask
        """): "True stands where a weight goes",
        code("""
            def prune(W, share):
                k = round(share * W.numel())
                mask = torch.ones_like(W, dtype=torch.bool)
                mask.view(-1)[W.flatten().topk(k, largest=False).indices] = False
                return mask
        """): "you sort by value",
        code("""
            def prune(W, share):
                return W.abs() > share
        """): "you cut at the size",
        code("""
            def prune(W, share):
                return W.abs() > W.abs().flatten().sort().values[round(share * W.numel()) - 1]
        """): "all or none of equals",
        code("""
            def prune(W, share):
                k = round(share * W.numel())
                mask = torch.zeros_like(W, dtype=torch.bool)
                mask.view(-1)[W.abs().flatten().topk(k).indices] = True
                return mask
        """): "only the share is left",
    },
    praise="As many go as you said, also where weights are equal.",
)


# --- 05.2 ------------------------------------------------------------------------------------------------------------


def _after(answer):
    """Whether pruned weights are zero and others move, after two steps of an Adam that remembers them."""
    layer, x = torch.nn.Linear(6, 4), torch.randn(16, 6)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask.view(-1)[::3] = False

    def backward():
        optimizer.zero_grad()
        F.mse_loss(layer(x), torch.ones(16, 4)).backward()

    for _ in range(3):
        backward()
        optimizer.step()
    before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    for _ in range(2):
        backward()
        answer(optimizer, [layer.weight], [mask])
    return layer, mask, before, bias


def _verify_held(answer):
    try:
        layer, mask, before, bias = _after(answer)
    except RuntimeError as problem:
        if "in-place" in str(problem):
            raise NotYet(
                "autograd watches the weights: write into them under `with torch.no_grad():`, or into W.data"
            ) from problem
        raise
    moved = layer.weight.detach()
    if torch.equal(layer.bias, bias):
        raise NotYet("the bias has not moved; the optimizer has to make its step")
    if (moved[~mask] == 0).all() and (moved[mask] != before[mask]).all():
        return
    if (moved[mask] == 0).all():
        raise NotYet("the weights that are left became zero; the mask is True where a weight is left")
    if torch.equal(moved[mask], before[mask]):
        raise NotYet("the weights that are left do not move any more; only the pruned ones should be held")
    raise NotYet(
        f"after two steps {int((moved[~mask] != 0).sum())} of {int((~mask).sum())} pruned weights are not zero. Adam moves "
        "a weight by what it remembers, even where its gradient is zero: write the zeros after the step"
    )


HELD = Exercise(
    id="05.2",
    title="A step that keeps zeros",
    name="held_step",
    difficulty=2,
    minutes=6,
    stub=code("""
        def held_step(optimizer, weights, masks):
            optimizer.step()
            ...
    """),
    solution=code("""
        def held_step(optimizer, weights, masks):
            optimizer.step()
            with torch.no_grad():
                for W, mask in zip(weights, masks):
                    W *= mask
    """),
    verify=_verify_held,
    hints=(
        "Let the optimizer do what it likes; what matters is what stands in the weights afterwards.",
        "After optimizer.step(), under torch.no_grad(), multiply each W in place by its mask.",
    ),
    wrong={
        code("""
            def held_step(optimizer, weights, masks):
                for W, mask in zip(weights, masks):
                    W.grad *= mask
                optimizer.step()
        """): "write the zeros after the step",
        code("""
            def held_step(optimizer, weights, masks):
                with torch.no_grad():
                    for W, mask in zip(weights, masks):
                        W *= mask
                optimizer.step()
        """): "write the zeros after the step",
        code("""
            def held_step(optimizer, weights, masks):
                optimizer.step()
                with torch.no_grad():
                    for W, mask in zip(weights, masks):
                        W *= ~mask
        """): "weights that are left became zero",
        code("""
            def held_step(optimizer, weights, masks):
                optimizer.step()
                for W, mask in zip(weights, masks):
                    W *= mask
        """): "autograd watches",
        code("""
            def held_step(optimizer, weights, masks):
                with torch.no_grad():
                    for W, mask in zip(weights, masks):
                        W *= mask
        """): "has to make its step",
    },
    praise="No memory of the optimizer's survives that.",
)


# --- 05.3 ------------------------------------------------------------------------------------------------------------


def _verify_rounds(answer):
    ours = number(answer(0.2, 0.9))
    if ours in (4, 4.5, 5):
        raise NotYet(
            f"you get {ours:g}: the shares do not add up, since each round takes its share of what is left, which gets less"
        )
    if ours == 10:
        raise NotYet("after 10 rounds 10.7 % are left, which is still too much; round up")
    if 10 < ours < 11:
        raise NotYet(f"you get {ours:.2f}; rounds are whole, so round up")
    if ours != 11:
        raise NotYet(f"for a fifth each round and 90 % you get {ours:g}; 0.8 ** n falls below 0.1 at n = 11")
    if (found := number(answer(0.5, 0.9))) != 4:
        raise NotYet(f"right for a fifth; with a half each round you get {found:g}, and 1/16 < 0.1 < 1/8 means 4")


ROUNDS = Exercise(
    id="05.3",
    title="How many rounds?",
    name="rounds_needed",
    difficulty=1,
    minutes=4,
    stub=code("""
        import math

        def rounds_needed(share, sparsity):
            ...
    """),
    solution=code("""
        import math

        def rounds_needed(share, sparsity):
            return math.ceil(math.log(1 - sparsity) / math.log(1 - share))
    """),
    verify=_verify_rounds,
    hints=(
        "After one round 1 - share is left. After two rounds, that share of that share. A loop or a logarithm finds the rest.",
        "Multiply by 1 - share until no more than 1 - sparsity is left, and count; or divide their logarithms and round up.",
    ),
    wrong={
        code("""
            import math
            def rounds_needed(share, sparsity):
                return math.ceil(sparsity / share)
        """): "do not add up",
        code("""
            import math
            def rounds_needed(share, sparsity):
                return math.log(1 - sparsity) / math.log(1 - share)
        """): "rounds are whole",
        code("""
            import math
            def rounds_needed(share, sparsity):
                return int(math.log(1 - sparsity) / math.log(1 - share))
        """): "round up",
    },
    praise="Eleven rounds for 90 %, where the printed loop has five.",
)


# --- 05.4 ------------------------------------------------------------------------------------------------------------


def _verify_random(answer):
    mask = torch.zeros(12, 20, dtype=torch.bool)
    mask[0], mask[1, :4] = True, True  # 24 of 240, nearly all in the first row
    masks = [_mask(answer(mask.clone()), mask.shape) for _ in range(8)]
    counts = sorted({int(m.sum()) for m in masks})
    if counts != [24]:
        if 12 < sum(counts) / len(counts) < 40:
            raise NotYet(
                f"your masks leave {counts[0]} to {counts[-1]} weights where the ticket leaves 24; a control should differ in "
                "one thing only, so keep the count exactly"
            )
        raise NotYet(f"your mask leaves {counts[-1]} weights; as many as in the ticket should be left, 24")
    if all(torch.equal(m, mask) for m in masks):
        raise NotYet("that is the ticket's own mask; the places should be random")
    if all(torch.equal(m, masks[0]) for m in masks):
        raise NotYet("each call gives the same places; draw them anew")
    if all(torch.equal(m.sum(0), mask.sum(0)) for m in masks):
        raise NotYet("you shuffle whole rows, so whole units stay together; shuffle the single entries")
    if all(torch.equal(m.sum(1), mask.sum(1)) for m in masks):
        raise NotYet("you shuffle whole columns, so whole inputs stay together; shuffle the single entries")


RANDOM = Exercise(
    id="05.4",
    title="The control",
    name="random_mask",
    difficulty=2,
    minutes=5,
    stub=code("""
        def random_mask(mask):
            ...
    """),
    solution=code("""
        def random_mask(mask):
            order = torch.randperm(mask.numel())
            return mask.flatten()[order].view_as(mask)
    """),
    verify=_verify_random,
    hints=(
        "The same number of True in other places is a shuffled mask. What shuffles the numbers 0, 1, 2, ...?",
        "torch.randperm(mask.numel()) is a random order; index the flattened mask with it and give it its shape back.",
    ),
    wrong={
        code("""
            def random_mask(mask):
                return torch.rand(mask.shape) < mask.float().mean()
        """): "keep the count exactly",
        code("""
            def random_mask(mask):
                return mask[torch.randperm(len(mask))]
        """): "shuffle whole rows",
        code("""
            def random_mask(mask):
                return mask[:, torch.randperm(mask.shape[1])]
        """): "shuffle whole columns",
        code("""
            def random_mask(mask):
                return mask.clone()
        """): "ticket's own mask",
    },
    praise="Same count, other places: whatever differs now is due to the places.",
)


# --- 05.5 ------------------------------------------------------------------------------------------------------------


def _verify_bytes(answer):
    ours = number(answer(43_000, 4_300))
    if math.isclose(ours, 4 * 4_300):
        raise NotYet("those are the values alone; whoever reads them has to know where they belong")
    if math.isclose(ours, 43_000 + 4 * 4_300):
        raise NotYet("a place needs a bit, not a byte: eight of them fit into one")
    if math.isclose(ours, 8 * 4_300):
        raise NotYet(
            "you store a 4-byte index beside each value, which is another format; here a bit for each weight of the "
            "layer says whether it is left"
        )
    if math.isclose(ours, 4 * 43_000):
        raise NotYet("that is the dense file; of the pruned weights no value is stored")
    if math.isclose(ours, 43_000 / 8 + 4_300 / 8):
        raise NotYet("a value is a float32 number and takes four bytes")
    if not math.isclose(ours, 43_000 / 8 + 4 * 4_300, abs_tol=1):
        raise NotYet(
            f"for 43,000 weights with 4,300 left you get {ours:,.0f}; 43,000 bits and 4,300 numbers of four bytes are "
            f"{43_000 / 8 + 4 * 4_300:,.0f}"
        )
    if not math.isclose(number(answer(1_600, 0)), 200, abs_tol=1):
        raise NotYet("right for that network; with nothing left the bits remain, 200 bytes for 1,600 weights")


BYTES = Exercise(
    id="05.5",
    title="What a ticket weighs",
    name="sparse_bytes",
    difficulty=1,
    minutes=3,
    stub=code("""
        def sparse_bytes(weights, left):
            ...
    """),
    solution=code("""
        def sparse_bytes(weights, left):
            return weights / 8 + 4 * left
    """),
    verify=_verify_bytes,
    hints=(
        "Two parts: one bit for every weight of the layer, and four bytes for each one that is left.",
        "weights / 8 bytes of bits, plus 4 * left bytes of values.",
    ),
    wrong={
        code("""
            def sparse_bytes(weights, left):
                return 4 * left
        """): "values alone",
        code("""
            def sparse_bytes(weights, left):
                return weights + 4 * left
        """): "a bit, not a byte",
        code("""
            def sparse_bytes(weights, left):
                return 8 * left
        """): "4-byte index",
        code("""
            def sparse_bytes(weights, left):
                return 4 * weights
        """): "dense file",
    },
    praise="At 90 % sparsity a bit mask is cheaper than an index beside each value.",
)

EXERCISES = [PRUNE, HELD, ROUNDS, RANDOM, BYTES]
