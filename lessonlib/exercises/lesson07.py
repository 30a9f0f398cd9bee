"""The exercises of 07 LoRA from scratch."""

import torch
from torch import nn

from . import Exercise, NotYet, code
from .answers import answered, close, number

# --- 07.1 ------------------------------------------------------------------------------------------------------------


def _verify_rank(answer):
    values = torch.tensor([4.0, 3.0, 1.0, 1.0, 1.0])
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(size, 5, generator=generator))[0] for size in (7, 5))
    update = left @ torch.diag(values) @ right.T  # not square, so eigenvalues will not do
    ours = number(answer(update, 0.85))
    if ours == 5:
        raise NotYet("5 is the full rank; stop counting when the first ones hold the asked share")
    if ours == 4:
        raise NotYet("you add up the singular values; energy is the sum of their squares")
    if ours == 1:
        raise NotYet("the largest one holds 16 of 28, which is 57 per cent, not 85")
    if ours != 2:
        raise NotYet(
            f"for singular values 4, 3, 1, 1, 1 and a share of 0.85 you get {ours}; 16 + 9 of 28 is 89 per cent"
        )
    if (again := answer(update, 0.95)) != 4:
        raise NotYet(f"right for 0.85, but for a share of 0.95 you get {again}: 27 of 28 need four values")


RANK = Exercise(
    id="07.1",
    title="How low is low?",
    name="rank_at_energy",
    difficulty=2,
    minutes=6,
    stub=code("""
        def rank_at_energy(update, share):
            values = torch.linalg.svdvals(update.float())   # largest first
            ...
    """),
    solution=code("""
        def rank_at_energy(update, share):
            values = torch.linalg.svdvals(update.float())
            energy = torch.cumsum(values**2, 0) / torch.sum(values**2)
            return int((energy < share).sum()) + 1
    """),
    verify=_verify_rank,
    hints=(
        "The energy of a matrix is the sum of its squared singular values. Which fraction do the first k hold?",
        "torch.cumsum(values**2, 0) / torch.sum(values**2) is that fraction for k = 1, 2, …; count those below share.",
    ),
    wrong={
        code("""
            def rank_at_energy(update, share):
                return int(torch.linalg.matrix_rank(update))
        """): "full rank",
        code("""
            def rank_at_energy(update, share):
                v = torch.linalg.svdvals(update)
                e = torch.cumsum(v, 0) / v.sum()
                return int((e < share).sum()) + 1
        """): "sum of their squares",
        code("""
            def rank_at_energy(update, share):
                v = torch.linalg.svdvals(update)
                e = torch.cumsum(v**2, 0) / (v**2).sum()
                return int((e < share).sum())
        """): "57 per cent",
    },
    praise="Keep it: the next cell asks it.",
)


# --- 07.2 ------------------------------------------------------------------------------------------------------------


def _verify_count(answer):
    square, wide = number(answer(576, 576, 8)), answer(192, 576, 8)
    if square == 8 * 576 * 576:
        raise NotYet("you count r whole matrices; A is (r, d_in) and B is (d_out, r), two thin ones")
    if square == 576 * 576:
        raise NotYet("that is the frozen matrix W; count the entries of A and B")
    if square == 8 * 576:
        raise NotYet("you count one of the two; A and B both train")
    if square == 9216 and wide in (2 * 8 * 576, 2 * 8 * 192):
        raise NotYet("right for a square matrix only; v_proj is 192 × 576, so A and B differ in length")
    if (square, wide) != (9216, 6144):
        raise NotYet(f"for d_out = d_in = 576 and r = 8 you get {square}; how many entries has A, how many has B?")
    if (other := answer(192, 576, 3)) != 2304:
        raise NotYet(f"right for r = 8, but for r = 3 you get {other}; it has to hold for any r")


COUNT = Exercise(
    id="07.2",
    title="Count before you build",
    name="lora_parameters",
    difficulty=1,
    minutes=3,
    stub=code("""
        def lora_parameters(d_out, d_in, r):
            ...
    """),
    solution=code("""
        def lora_parameters(d_out, d_in, r):
            return r * d_in + d_out * r
    """),
    verify=_verify_count,
    hints=(
        "A has r rows of d_in numbers. B has d_out rows of how many?",
        "Add the entries of A, r × d_in, to those of B, d_out × r.",
    ),
    wrong={
        code("""
            def lora_parameters(d_out, d_in, r):
                return r * d_in * d_out
        """): "two thin ones",
        code("""
            def lora_parameters(d_out, d_in, r):
                return 2 * r * d_in
        """): "square matrix only",
        code("""
            def lora_parameters(d_out, d_in, r):
                return r * d_in
        """): "one of the two",
        code("""
            def lora_parameters(d_out, d_in, r):
                return 8 * (d_in + d_out)
        """): "for any r",
    },
    praise="The cost grows with d_in + d_out and no longer with d_in × d_out.",
)


# --- 07.3 ------------------------------------------------------------------------------------------------------------


def _verify_forward(answer):
    generator = torch.Generator().manual_seed(7)
    given = x, W, A, B = [torch.randn(s, generator=generator) for s in ((5, 6), (4, 6), (2, 6), (4, 2))]
    copies = [tensor.clone() for tensor in given]
    base, update = x @ W.T, x @ (B @ A).T
    h = answered(answer(*copies, 7.0))
    for name, before, after in zip("xWAB", given, copies):
        if not torch.equal(before, after):
            raise NotYet(f"your function changes {name} itself, so a second call would start from other weights")
    if not isinstance(h, torch.Tensor) or h.shape != (5, 4):
        raise NotYet(
            f"h should have the shape (5, 4): one row of d_out numbers a text; yours is {getattr(h, 'shape', h)}"
        )
    if close(h, base):
        raise NotYet("only W x is there; the update B A x is missing")
    if close(h, base + update):
        raise NotYet("the update is not scaled; multiply it by alpha / r")
    if close(h, base + 7.0 * update):
        raise NotYet("you scale by alpha; the paper scales by alpha / r, so that r can change without a new alpha")
    if close(h, base + 3.0 * update):
        raise NotYet("7 // 2 is 3: // drops what is behind the point, divide with /")
    if close(h, 3.5 * (base + update)):
        raise NotYet("alpha / r belongs to the update alone, W x stays as it is")
    if close(h, 3.5 * update):
        raise NotYet("the frozen W x is missing; the update comes on top of it")
    if not close(h, base + 3.5 * update):
        raise NotYet("the numbers differ from W x + (alpha / r) B A x; what is r here? It is the number of A's rows")


FORWARD = Exercise(
    id="07.3",
    title="One line of algebra",
    name="lora_forward",
    difficulty=2,
    minutes=6,
    stub=code("""
        def lora_forward(x, W, A, B, alpha):
            h = x @ W.T        # the frozen layer
            ...                # add the update here
            return h
    """),
    solution=code("""
        def lora_forward(x, W, A, B, alpha):
            r = A.shape[0]
            return x @ W.T + (alpha / r) * (x @ A.T @ B.T)
    """),
    verify=_verify_forward,
    hints=(
        "x holds one text a row, so a matrix M acts as x @ M.T. Which of A and B acts first?",
        "x @ A.T is (texts, r); times B.T it is (texts, d_out). Scale that by alpha / A.shape[0] and add it.",
    ),
    wrong={
        code("""
            def lora_forward(x, W, A, B, alpha):
                return x @ W.T
        """): "update B A x is missing",
        code("""
            def lora_forward(x, W, A, B, alpha):
                return x @ W.T + x @ A.T @ B.T
        """): "not scaled",
        code("""
            def lora_forward(x, W, A, B, alpha):
                return x @ W.T + alpha * (x @ A.T @ B.T)
        """): "scale by alpha",
        code("""
            def lora_forward(x, W, A, B, alpha):
                return x @ (W + A @ B).T
        """): "RuntimeError",
        code("""
            def lora_forward(x, W, A, B, alpha):
                return x @ W.T + alpha // A.shape[0] * (x @ A.T @ B.T)
        """): "divide with /",
        code("""
            def lora_forward(x, W, A, B, alpha):
                W += alpha / A.shape[0] * B @ A
                return x @ W.T
        """): "changes W itself",
    },
    praise="You never formed B A: two thin products cost far less than one wide one.",
)


# --- 07.4 ------------------------------------------------------------------------------------------------------------


class LoRALinear(nn.Module):
    """What makes a layer a LoRA layer, where the notebook has no class of that name: base, A, B and scale."""

    def __init__(self, base, r):
        super().__init__()
        self.base, self.scale = base, 1.0
        self.A = nn.Parameter(torch.ones(r, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, r))


class _Mixer(nn.Module):
    """No LoRA layer, though its weight is called A."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.ones(4))


class _Tiny(nn.Module):
    """A model whose attribute names say nothing of LoRA, or say it where it is not; one layer of two lies deeper."""

    def __init__(self, LoRALinear):
        super().__init__()
        self.q = LoRALinear(nn.Linear(6, 4), r=2)
        self.block = nn.Sequential(LoRALinear(nn.Linear(4, 4), r=2), nn.Linear(4, 4))
        self.mixer = _Mixer()
        self.lora_like_head = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(4)
        self.requires_grad_(True)


def _verify_freeze(answer):
    # The learner's own class, where the notebook has defined one: isinstance of it is a right answer as well.
    model = _Tiny(getattr(answer, "__globals__", {}).get("LoRALinear", LoRALinear))
    given = answer(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise NotYet("nothing is trainable afterwards; are A and B found at all? Their names hold no 'lora'")
    if any("base" in name for name in trainable):
        raise NotYet("the base's weight still trains; LoRA's point is that W stays as it was")
    if "lora_like_head.weight" in trainable:
        raise NotYet("a head called lora_like_head trains; its name says lora, but its type does not")
    if any(name.startswith("norm") for name in trainable):
        raise NotYet("the layer norm still trains; freeze everything first, then free A and B")
    if "mixer.A" in trainable:
        raise NotYet("a parameter called A trains, and it is in no LoRA layer; go by the module's type, not by names")
    if trainable == {"q.A", "q.B"}:
        raise NotYet("a LoRA layer inside another module stays frozen; model.modules() goes all the way down")
    if trainable != {"q.A", "q.B", "block.0.A", "block.0.B"}:
        raise NotYet(f"trainable are {', '.join(sorted(trainable))}; it should be A and B of each LoRA layer")
    if given is not None and given is not model:
        raise NotYet("change the model in place; return nothing, or the model itself")


FREEZE = Exercise(
    id="07.4",
    title="Freeze by type",
    name="train_only_lora",
    difficulty=2,
    minutes=6,
    stub=code("""
        def train_only_lora(model):
            for module in model.modules():
                ...
    """),
    solution=code("""
        def train_only_lora(model):
            from lessonlib.lora import LowRank

            model.requires_grad_(False)
            for module in model.modules():
                if isinstance(module, LowRank):
                    module.A.requires_grad_(True)
                    module.B.requires_grad_(True)
    """),
    verify=_verify_freeze,
    hints=(
        "First freeze all of it with one call, then walk over model.modules() and free what you recognize.",
        "isinstance(module, LowRank), from lessonlib.lora, is true of every layer with base, A, B and scale.",
    ),
    wrong={
        code("""
            def train_only_lora(model):
                for name, p in model.named_parameters():
                    p.requires_grad = name.endswith('.lora')
        """): "nothing is trainable",
        code("""
            def train_only_lora(model):
                for name, p in model.named_parameters():
                    p.requires_grad = 'lora' in name or name in ('q.A', 'q.B')
        """): "lora_like_head",
        code("""
            def train_only_lora(model):
                pass
        """): "base's weight still trains",
        code("""
            def train_only_lora(model):
                for name, p in model.named_parameters():
                    p.requires_grad = name.endswith(('.A', '.B'))
        """): "in no LoRA layer",
        code("""
            def train_only_lora(model):
                from lessonlib.lora import LowRank
                model.requires_grad_(False)
                for m in model.children():
                    if isinstance(m, LowRank):
                        m.A.requires_grad = m.B.requires_grad = True
        """): "all the way down",
    },
    praise="No renaming can break it.",
)


# --- 07.5 ------------------------------------------------------------------------------------------------------------


def _verify_truncate(answer):
    generator = torch.Generator().manual_seed(3)
    A, B = torch.randn(6, 20, generator=generator), torch.randn(12, 6, generator=generator)
    full = B @ A
    out = answered(answer(A.clone(), B.clone(), 2))
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise NotYet("give back two matrices: the new A and the new B")
    small_A, small_B = out
    if small_A.shape == (12, 2) and small_B.shape == (2, 20):
        raise NotYet("A and B are swapped; A is (r, d_in) and comes first")
    if small_A.shape != (2, 20) or small_B.shape != (12, 2):
        raise NotYet(
            f"A should be (2, 20) and B (12, 2); yours are {tuple(small_A.shape)} and {tuple(small_B.shape)}"
        )
    U, S, Vh = torch.linalg.svd(full)
    best = (U[:, :2] * S[:2]) @ Vh[:2]
    ours = small_B @ small_A
    if close(ours, B[:, :2] @ A[:2]):
        raise NotYet(
            "you kept the first rows of A and columns of B; they are in no order. Which two directions are largest?"
        )
    if close(ours, U[:, :2] @ Vh[:2]):
        raise NotYet("the directions are right, the singular values are left out; multiply them into A or B")
    if close(ours, (U[:, :2] * S[:2] ** 2) @ Vh[:2], 1e-2):
        raise NotYet("the singular values went into both A and B; put them into one, or their square roots into each")
    if not close(ours, best, 1e-3):
        lost, least = (full - ours).norm() / full.norm(), (full - best).norm() / full.norm()
        raise NotYet(
            f"your rank-2 update misses {lost:.0%} of B A, the best one misses {least:.0%}; take it from the SVD"
        )


TRUNCATE = Exercise(
    id="07.5",
    title="A smaller adapter from a trained one",
    name="truncate",
    difficulty=3,
    minutes=10,
    stub=code("""
        def truncate(A, B, r):
            U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
            ...
            return A, B
    """),
    solution=code("""
        def truncate(A, B, r):
            U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
            return Vh[:r], U[:, :r] * S[:r]
    """),
    verify=_verify_truncate,
    hints=(
        "Eckart and Young (1936): the best approximation of rank r keeps the r largest singular values.",
        "U[:, :r] * S[:r] is (d_out, r) and Vh[:r] is (r, d_in): one is the new B, the other the new A.",
    ),
    wrong={
        code("""
            def truncate(A, B, r):
                return A[:r], B[:, :r]
        """): "in no order",
        code("""
            def truncate(A, B, r):
                U, S, Vh = torch.linalg.svd(B @ A)
                return Vh[:r], U[:, :r]
        """): "singular values are left out",
        code("""
            def truncate(A, B, r):
                U, S, Vh = torch.linalg.svd(B @ A)
                return U[:, :r] * S[:r], Vh[:r]
        """): "swapped",
    },
    praise="The scale alpha / r changes with r: keep it by choosing alpha anew.",
)


EXERCISES = [RANK, COUNT, FORWARD, FREEZE, TRUNCATE]
