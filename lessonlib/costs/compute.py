"""FLOPs of training, and what they come to in hours and money.

    forward   2 FLOPs a weight and token, and 4 s d a token and layer for attention over s tokens
    backward  as many again for the gradients of the inputs, and again for those of the weights that are trained

With everything trained that is the 6 N D of Kaplan et al. (2020, section 2.1), N being the weights in matrices and D
the tokens.
"""

from dataclasses import dataclass

from .architecture import architecture
from .methods import FullFineTuning


@dataclass(frozen=True)
class Compute:
    """FLOPs of training: forward passes, gradients of inputs, gradients of weights, blocks run again."""

    forward: float
    inputs: float
    weights: float
    again: float

    @property
    def total(self) -> float:
        return self.forward + self.inputs + self.weights + self.again

    def __repr__(self):
        return f"{self.total:.3g} FLOPs"


def training_compute(config, method=None, *, corpus: float, tokens: int = 2048, recompute: bool = False) -> Compute:
    """FLOPs of training on a corpus.

    corpus: tokens trained on, all epochs together. tokens: of one sequence, for attention grows with it.

    Raises ValueError for a corpus that is not above 0.

    >>> compute = training_compute("gpt3-175b", corpus=300e9)
    >>> 3.1e23 < compute.total < 3.3e23  # the paper: 3.14e23 (Brown et al. 2020, Table D.1)
    True
    """
    if not corpus > 0:
        raise ValueError(f"corpus is {corpus!r}; expected a number of tokens above 0")
    model, method = architecture(config), method or FullFineTuning()
    matrices = [*model.linears, *([model.head] if model.head else [])]
    weights = sum(linear.d_in * linear.d_out for linear in matrices)
    # products of queries with keys, and of maps with values
    attention = 2 * model.layers * tokens * model.d_q
    forward = 2 * corpus * (weights + attention)
    added = 0 if method.trains_everything else method.trainable(model)
    trained = weights if method.trains_everything else added
    return Compute(
        forward=forward + 2 * corpus * added,
        # a product of two activations has two gradients
        inputs=2 * corpus * (weights + 2 * attention + added),
        weights=2 * corpus * trained,
        again=forward if recompute else 0.0,
    )


def hours(flops: float, peak: float, *, utilization: float = 0.4, gpus: int = 1) -> float:
    """Hours that `flops` take on GPUs whose data sheet says `peak` FLOPs a second.

    utilization: the share of the peak that training reaches; 0.3 to 0.5 is usual, and nobody reaches 1.

    Raises ValueError where flops, peak or gpus are not above 0, and for a utilization that is no share.
    """
    for name, value in (("flops", flops), ("peak", peak), ("gpus", gpus)):
        if not value > 0:
            raise ValueError(f"{name} is {value!r}; expected a number above 0")
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization is {utilization!r}; expected a share between 0 and 1")
    return flops / (peak * utilization * gpus) / 3600


def dollars(hours: float, gpus: int = 1, *, price: float = 25 / 8) -> float:
    """Price of `gpus` for that many hours. price: dollars a GPU and hour; look yours up, it changes.

    Raises ValueError for a negative number, and for less than one GPU.

    >>> dollars(150, gpus=8)
    3750.0
    """
    if hours < 0 or price < 0 or gpus < 1:
        raise ValueError(f"hours {hours!r}, gpus {gpus!r}, price {price!r}: none of them can be negative")
    return hours * gpus * price
