"""LoRA with a frozen A, LoRA-FA (Zhang et al., 2023, arXiv:2308.03303).

    h = W x + (alpha / r) B A x        A (r, d_in) frozen as it was drawn,  B (d_out, r) trained

Half of the pair is pruned from training. B's gradient needs only A x, which has r numbers a token, so the layer need
not keep x, which has d_in: that is where memory is saved. (The paper's first version; a later one also corrects B's
gradient, as PEFT's optimizer of this name does.)
"""

from .layer import LoRALinear


class LoRAFALinear(LoRALinear):
    """A LoRA layer that trains B alone.

    x (..., d_in) -> (..., d_out)
    """

    def __init__(self, base, r=8, alpha=16.0):
        super().__init__(base, r, alpha)
        self.A.requires_grad_(False)
