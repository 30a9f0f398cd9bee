"""Contextual calibration: what a prompt favours before it has seen any text is divided out."""

import torch

from lessonlib.models.writing import PromptError

# What Zhao et al. put in the text's place: inputs that say nothing.
CONTENT_FREE = ("N/A", "[MASK]", "")


def calibrate(log_probs: torch.Tensor, content_free: torch.Tensor) -> torch.Tensor:
    """Contextual calibration (Zhao et al., 2021, arXiv:2102.09690, section 5), (queries, labels) -> the same shape.

        q = W p + b      W = diag(p_cf)^-1,  b = 0

    p: a query's label probabilities, normalized over the labels. p_cf: the same for inputs without content behind the
    same prefix, averaged over those inputs, (inputs, labels) or (labels,). The label is the largest q. Returned is
    log q, normalized over the labels; the paper's softmax around W p changes the values, never their order.

    Raises PromptError where the shapes do not fit or a value is not finite.

    >>> p, p_cf = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    >>> calibrate(p.log(), p_cf.log()).exp()
    tensor([[0.2727, 0.7273]])
    """
    content_free = torch.atleast_2d(content_free)
    if not len(content_free) or log_probs.shape[-1] != content_free.shape[-1]:
        raise PromptError(
            f"log_probs {tuple(log_probs.shape)} and content_free {tuple(content_free.shape)} do not fit: both need "
            "a column for each label, and content_free at least one row"
        )
    if not (torch.isfinite(content_free).all() and torch.isfinite(log_probs).all()):
        raise PromptError("a log-probability is infinite or NaN: score the labels in float32")
    p = log_probs.float().log_softmax(-1)
    p_cf = content_free.float().softmax(-1).mean(0)
    return (p - p_cf.log()).log_softmax(-1)
