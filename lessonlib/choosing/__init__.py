"""Which method to choose, with the evidence that speaks for it."""

from .evidence import Counted, Measured, Published, Row
from .rows import ALL, EVIDENCE, FEW
from .tree import (
    ACCESS,
    FACTS,
    LATENCY,
    MEMORY,
    MOST,
    SET_ASIDE,
    TREE,
    Advice,
    Answer,
    Question,
    Recommendation,
    Situation,
    all_evidence,
    decide,
    leaves,
    read_tree,
    recommend,
    trainable,
)
