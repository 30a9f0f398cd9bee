"""Everything that is read from data/, and your own file in its place."""

from .own import SPLITS, CorpusError, from_csv
from .texts import (
    DATA,
    INTENTS,
    REASONING,
    SENTIMENTS,
    URGENCIES,
    WORDS,
    fingerprint,
    handbook,
    handbook_questions,
    reasoning,
    replies,
    tickets,
    vocabulary,
    word_problems,
)
