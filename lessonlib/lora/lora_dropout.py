"""LoRA with dropout on the way into its update, as PEFT places it.

    h = W x + (alpha / r) B A dropout(x)

The frozen product W x sees all of x. In evaluation, and once merged, dropout is the identity and this is plain LoRA.
"""

from torch.nn import functional as F

from .layer import LoRALinear


class DropoutLoRALinear(LoRALinear):
    """A LoRA layer that, in training, zeroes a share p of the numbers that its update reads; the rest grow by 1 / (1 - p).

    x (..., d_in) -> (..., d_out)

    >>> import functools
    >>> layer = functools.partial(DropoutLoRALinear, p=0.1)  # what add_lora takes: add_lora(model, layer=layer)
    """

    def __init__(self, base, r=8, alpha=16.0, p=0.05):
        super().__init__(base, r, alpha)
        if not 0 <= p < 1:
            raise ValueError(f"p is {p}; the share of dropped numbers must be at least 0 and below 1")
        self.p = p

    def forward(self, x):
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        kept = F.dropout(x, self.p, self.training)
        return self.base(x) + self.scale * (kept @ A.T) @ B.T
