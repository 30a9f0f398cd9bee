"""The choice of a prompt's examples: at random, like the query, or unlike one another."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from lessonlib.models.writing import PromptError


def word_vectors(texts: Sequence[str]) -> Callable:
    """TF-IDF, its words and weights learned from the texts: a function from texts to rows of length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True).fit(texts).transform


def select_random(texts: Sequence[str], k: int, seed: int = 0) -> list[int]:
    """Row numbers of k texts drawn without return.

    >>> select_random(["a", "b", "c", "d"], 2, seed=0)
    [2, 0]
    """
    _refuse_k(k, texts)
    return np.random.default_rng(seed).permutation(len(texts))[:k].tolist()


def select_similar(
    texts: Sequence[str], queries: Sequence[str], k: int, vectors: Callable | None = None
) -> list[list[int]]:
    """For each query, row numbers of the k texts that are most like it, the most alike last, next to the query.

    Likeness is the cosine of the two vectors (Liu et al., 2022, arXiv:2101.06804, section 2). vectors: a function
    from texts to rows of length 1; None takes TF-IDF of the texts' words. Each query then has a prefix of its own, so
    nothing of the examples is shared.

    >>> select_similar(["late parcel", "wrong bill", "lost parcel"], ["my parcel is late"], k=2)
    [[2, 0]]
    """
    _refuse_k(k, texts)
    if not k or not queries:
        return [[] for _ in queries]
    vectors = vectors or word_vectors(texts)
    likeness = vectors(queries) @ vectors(texts).T  # (queries, texts)
    likeness = likeness.toarray() if hasattr(likeness, "toarray") else np.asarray(likeness)
    # Stable, and of the negative: equal texts come in the order in which they stand.
    return np.argsort(-likeness, axis=1, kind="stable")[:, :k][:, ::-1].tolist()


def select_diverse(texts: Sequence[str], k: int, seed: int = 0, vectors: Callable | None = None) -> list[int]:
    """Row numbers of k unlike texts: the one nearest to the centre of each of k clusters (k-means).

    As Zhang et al. choose their examples (2022, arXiv:2210.03493, section 4). vectors: as in `select_similar`.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    _refuse_k(k, texts)
    if not k:
        return []
    rows = (vectors or word_vectors(texts))(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal texts, which are told apart below
        distances = KMeans(k, n_init=3, random_state=seed).fit_transform(rows)  # (texts, k)
    chosen = []
    for cluster in range(k):  # where two clusters are nearest to one text, the second takes its next
        order = np.argsort(distances[:, cluster], kind="stable")
        chosen.append(next(int(row) for row in order if int(row) not in chosen))
    return chosen


def _refuse_k(k: int, texts: Sequence[str]) -> None:
    if not 0 <= k <= len(texts):
        raise PromptError(f"k is {k}; there are {len(texts)} texts to choose from")
