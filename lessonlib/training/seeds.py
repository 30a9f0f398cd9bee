"""The one seed of a run."""

import random

import numpy as np
import torch


def seed_everything(seed: int = 0) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
