"""The one loop that trains every method, and what it trains on."""

from .loop import CHECKPOINT_SECONDS, History, Steps, first_process, fit, trainable_parameters
from .seeds import seed_everything

__all__ = [
    "CHECKPOINT_SECONDS",
    "History",
    "Steps",
    "first_process",
    "fit",
    "seed_everything",
    "trainable_parameters",
]
