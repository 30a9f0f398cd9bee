"""Texts that stand twice, word for word or nearly: found among a file's rows, and between training and test."""

import functools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np


def normalised(text: str) -> str:
    """A text without capitals, signs and figures, so that copies with small changes become equal.

    >>> normalised("  Order #4711: WHERE is it?! ")
    'order 0 where is it'
    """
    text = re.sub(r"\d+", "0", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"\w+", text))


def near_duplicates(texts: Sequence[str], others: Sequence[str], overlap: float = 0.5) -> list[tuple[int, int]]:
    """(index in texts, index in others) of all pairs that are equal when `normalised`, or nearly so.

    overlap: the share of the two texts' word trigrams that both have (Jaccard), from which a pair counts. Texts of
    fewer than three words have to be equal.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if not len(texts) or not len(others):
        return []
    counter = CountVectorizer(analyzer=_trigrams, binary=True, dtype=np.int32)
    all_texts = counter.fit_transform([*texts, *others])  # (texts + others, trigrams), sparse
    a, b = all_texts[: len(texts)], all_texts[len(texts) :]
    shared = (a @ b.T).tocoo()
    sizes_a, sizes_b = np.asarray(a.sum(1)).ravel(), np.asarray(b.sum(1)).ravel()
    either = sizes_a[shared.row] + sizes_b[shared.col] - shared.data
    near = shared.data >= overlap * either
    return sorted(zip(shared.row[near].tolist(), shared.col[near].tolist()))


def _trigrams(text: str) -> set[tuple[str, ...]]:
    words = normalised(text).split() or [text]
    return {tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1))}


@functools.lru_cache(maxsize=1)  # asked for the split, and again for the report
def copies(texts: tuple[str, ...]) -> list[tuple[int, ...]]:
    """The indices of the texts, in groups of near duplicates; a text that nothing resembles is a group of its own.

    >>> copies(("Where is order 12?", "thanks", "where is ORDER 99"))
    [(0, 2), (1,)]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.array(near_duplicates(texts, texts), dtype=int).reshape(-1, 2)
    near = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(texts), len(texts)))
    groups = {}
    for index, group in enumerate(connected_components(near, directed=False)[1].tolist()):
        groups.setdefault(group, []).append(index)
    return [tuple(indices) for indices in groups.values()]
