"""What any language model has to beat: words counted, with no language model in it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is fitted: it takes a second
    from sklearn.pipeline import Pipeline

STRENGTHS = (1, 10, 100)  # scikit-learn's C: the larger, the less the weights are held down


def word_counts(
    texts: Sequence[str],
    labels: Sequence[int],
    validation_texts: Sequence[str],
    validation_labels: Sequence[int],
) -> "Pipeline":
    """TF-IDF of words and of letters under logistic regression, its strength chosen on validation; scikit-learn's.

    Of two strengths that do equally well there the smaller is taken. `.predict(texts)` gives the labels of others.

    >>> model = word_counts(["late parcel", "money back"], [0, 1], ["parcel"], [0])
    >>> model.predict(["my money"]).tolist()
    [1]
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    def fitted(C: float) -> "Pipeline":
        counts = make_union(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
            TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5)),
        )
        return make_pipeline(counts, LogisticRegression(C=C, max_iter=2000)).fit(texts, labels)

    return max(map(fitted, STRENGTHS), key=lambda model: model.score(validation_texts, validation_labels))
