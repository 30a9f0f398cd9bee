"""What tests/claims collect: for a claim's id, a function that computes its value or reads it from recorded runs."""

from collections.abc import Callable

EVIDENCE: dict[str, Callable] = {}


def claim(id: str) -> Callable:
    """Register the decorated function as the evidence for a claim of data/claims.csv.

    The function returns the value in the claim's unit, or, where the row has words for what is right, whether they came
    out. Raises ValueError for an id that has evidence already.
    """

    def register(function: Callable) -> Callable:
        if id in EVIDENCE:
            raise ValueError(f"{id} has evidence already, by {EVIDENCE[id].__name__}")
        EVIDENCE[id] = function
        return function

    return register
