"""Rank-stabilized LoRA, rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732).

    h = W x + (alpha / sqrt(r)) B A x

What changes against LoRA is the scale alone. Divided by r, the update of a higher rank learns more and more
slowly; divided by sqrt(r), it learns about equally fast at every rank, by the paper's account.
"""

import math

from .layer import LoRALinear


class RsLoRALinear(LoRALinear):
    """A LoRA layer whose update is scaled by alpha / sqrt(r).

    x (..., d_in) -> (..., d_out)

    `save_lora` writes its scale, so the file loads as a plain LoRALinear: `load_lora(model, directory)`.
    """

    def __init__(self, base, r=8, alpha=16.0):
        super().__init__(base, r, alpha)
        self.scale = alpha / math.sqrt(r)
