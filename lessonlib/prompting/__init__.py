"""Prompts, the scores of their labels, calibration, the choice of examples, and writing."""

from lessonlib.models.writing import (
    Completion,
    PromptError,
    PromptTooLong,
    complete,
    completions,
    context_length,
    eval_mode,
)

from .calibration import CONTENT_FREE, calibrate
from .examples import select_diverse, select_random, select_similar, word_vectors
from .prompts import TEMPLATE, FewShotPrompt
from .scoring import HEAD_ROWS, longest_common_prefix, pad_right, score_labels, score_whole_texts
