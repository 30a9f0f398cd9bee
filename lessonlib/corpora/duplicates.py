"""Texts that stand twice, word for word or nearly: found among a file's rows, and between training and test.

Many mails end with the same footer, or are the same form filled in. What stands in many texts is no sign that two of
them are copies, and comparing all that share it would take time and memory by the square. So texts are compared by
their own words: by the word trigrams that few texts have.
"""

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported where texts are compared: it takes a quarter of a second
    from scipy import sparse

FEW = 10  # texts at most that share a trigram for it to be a sign of copies
OWN_WORDS = 2  # of a text beside the passages of many; with fewer it is nothing but these
PASSAGE = 8  # words at least of a passage that is worth naming
ROWS_AT_ONCE = 2000


def normalised(text: str) -> str:
    """A text without capitals, signs and figures, so that copies with small changes become equal.

    >>> normalised("  Order #4711: WHERE is it?! ")
    'order 0 where is it'
    """
    text = re.sub(r"\d+", "0", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"\w+", text))


def near_duplicates(texts: Sequence[str], others: Sequence[str], overlap: float = 0.5) -> list[tuple[int, int]]:
    """(index in texts, index in others) of the pairs that are equal when `normalised`, or nearly so.

    overlap: the share of the two texts' word trigrams that both have (Jaccard), from which a pair counts. Texts of
    fewer than three words have to be equal. Passages that stand in more than 10 different texts do not count, as long
    as one of the two has two words of its own beside them. Of equal texts among the others the first is given.
    """
    if not len(texts) or not len(others):
        return []
    known: dict[str, int] = {}
    ours, theirs = ([known.setdefault(_compared(text), len(known)) for text in part] for part in (texts, others))
    mine = _index(tuple(known))
    left, first = {}, {}
    for row, place in enumerate(ours):
        left.setdefault(place, []).append(row)
    for row, place in enumerate(theirs):
        first.setdefault(place, row)
    near = _near(mine, np.array(sorted(left)), np.array(sorted(first)), overlap)
    return sorted((row, first[other]) for place, other in near for row in left[place])


def _compared(text: str) -> str:
    return normalised(text) or text


@dataclass
class _Index:
    """Different texts by their trigrams: has (n, trigrams) 0 or 1; few (trigrams,) whether few texts have it; own (n,)
    how many words of each text no passage of many covers; words of each text as numbers, 1 for the first of the
    vocabulary, and as column[begin[i] : begin[i + 1]] its trigrams in their order."""

    has: "sparse.csr_array"
    few: np.ndarray
    own: np.ndarray
    words: list[np.ndarray]
    vocabulary: list[str]
    column: np.ndarray
    begin: np.ndarray


@functools.lru_cache(maxsize=1)  # the same texts are asked for copies, and again for their common passages
def _index(texts: tuple[str, ...]) -> _Index:
    from scipy import sparse

    number: dict[str, int] = {}  # a word's number, from 1
    split = (text.split() if re.search(r"\w", text) else [text] for text in texts)
    ids = [np.array([number.setdefault(word, len(number) + 1) for word in row], np.uint64) for row in split]
    base = np.uint64(len(number) + 1)
    keys = [_trigrams(row, base) for row in ids]
    names, columns = np.unique(np.concatenate(keys), return_inverse=True)
    rows = np.repeat(np.arange(len(keys)), [len(row) for row in keys])
    has = sparse.csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(texts), len(names)))
    has.data[:] = 1  # a trigram that stands twice in a text was added up
    few = np.bincount(has.indices, minlength=len(names)) <= FEW
    begin, often = np.cumsum([0, *map(len, keys)]), ~few[columns]
    own = [len(row) - int(_covered(len(row), often[begin[i] : begin[i + 1]]).sum()) for i, row in enumerate(ids)]
    return _Index(has, few, np.array(own), ids, list(number), columns.astype(np.int32), begin)


def _trigrams(ids: np.ndarray, base: np.uint64) -> np.ndarray:
    # One number for three words; of a text of one or two words, those are the only one.
    padded = np.concatenate([ids, np.zeros(max(3 - len(ids), 0), np.uint64)])
    return (padded[:-2] * base + padded[1:-1]) * base + padded[2:]


def _near(index: _Index, left: np.ndarray, right: np.ndarray, overlap: float) -> Iterator[tuple[int, int]]:
    """The pairs of places, one of `left` and one of `right`, whose texts are near each other."""
    scarce = index.has[:, np.flatnonzero(index.few)]
    sizes, scarce_sizes = index.has.sum(1), scarce.sum(1)
    bare = index.own < OWN_WORDS
    across = scarce[right].T.tocsr()
    stars = _first_holders(index, right[bare[right]])
    for begin in range(0, len(left), ROWS_AT_ONCE):
        part = left[begin : begin + ROWS_AT_ONCE]
        pairs = (scarce[part] @ across).tocoo()
        a, b, shared = part[pairs.row], right[pairs.col], pairs.data
        both = scarce_sizes[a] + scarce_sizes[b] - shared
        kept = (bare[a] & bare[b]) | (shared >= overlap * both)
        starred = [(place, other) for place in part[bare[part]] for other in stars(place)]
        same = np.intersect1d(part, right)
        a = np.concatenate([a[kept], same, [place for place, _ in starred]]).astype(int)
        b = np.concatenate([b[kept], same, [other for _, other in starred]]).astype(int)
        for i in range(0, len(a), ROWS_AT_ONCE):
            one, other = a[i : i + ROWS_AT_ONCE], b[i : i + ROWS_AT_ONCE]
            shared = index.has[one].multiply(index.has[other]).sum(1)
            near = shared >= overlap * (sizes[one] + sizes[other] - shared)
            yield from sorted(set(zip(one[near].tolist(), other[near].tolist())))


def _first_holders(index: _Index, places: np.ndarray):
    """Of texts that are hardly more than passages of many: for each such text, the first of `places` with each trigram
    of many that it has. So a hundred of them are a hundred pairs and not five thousand."""
    rows = index.has[places] if len(places) else None
    first: dict[int, int] = {}
    for place in range(len(places)):
        for trigram in rows.indices[rows.indptr[place] : rows.indptr[place + 1]].tolist():
            first.setdefault(trigram, int(places[place]))

    def holders(place: int) -> set[int]:
        trigrams = index.has.indices[index.has.indptr[place] : index.has.indptr[place + 1]].tolist()
        return {first[t] for t in trigrams if not index.few[t] and t in first}

    return holders


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


def common_passage(texts: Sequence[str]) -> tuple[str, int] | None:
    """The words that most different texts share, at least eight in a row, and how many texts hold them; None without.

    Such a passage, a footer or a form, tells no class from another, and takes the place of what would.

    >>> common_passage([f"{word} this mail was sent from a shared box" for word in "abcdefghijkl"])
    ('this mail was sent from a shared box', 12)
    """
    index = _index(tuple(dict.fromkeys(map(_compared, texts))))
    often = np.bincount(index.has.indices)[index.column] if len(index.column) else np.zeros(1)
    least = often.max()
    while least > FEW:
        least = max(least / 2, FEW + 1)
        found: Counter[tuple[str, ...]] = Counter()
        for place, words in enumerate(index.words):
            bare = ~_covered(len(words), often[index.begin[place] : index.begin[place + 1]] >= least)
            ends = np.flatnonzero(np.concatenate([[True], bare, [True]]))
            found.update(
                {tuple(words[a : b - 1].tolist()) for a, b in itertools.pairwise(ends) if b - 1 - a >= PASSAGE}
            )
        if found:
            passage, count = found.most_common(1)[0]
            return " ".join(index.vocabulary[word - 1] for word in passage), count
        if least == FEW + 1:
            break
    return None


def _covered(words: int, shared: np.ndarray) -> np.ndarray:
    """(words,): which words of a text stand in one of its trigrams (shared: one bool each) at least."""
    covered = np.zeros(words + 2, bool)
    for place in range(3):
        covered[place : place + len(shared)] |= shared
    return covered[:words]
