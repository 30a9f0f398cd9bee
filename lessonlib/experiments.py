"""The experiments behind the recorded runs: plain functions of keyword arguments, one a question.

Each trains the real base model on the tickets and returns its score with what else was measured. `python -m
lessonlib.runs` (or `make runs`) records those that are missing; it resumes where it was stopped.
"""

import torch

from . import corpora, hardware
from .classification import LabelTask
from .evaluation import accuracy, training_bytes
from .lora import add_lora
from .models import load_base
from .runs import load_runs, record
from .session import seed_everything
from .training import fit, trainable_parameters

RANKS = (1, 2, 4, 8, 16, 64)
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
SEEDS = (0, 1, 2)
