"""Claims of lessonlib.corpora.baselines. References: a fit by hand, the words of the texts."""

import pytest
from own_files import CLASSES, texts
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from lessonlib.corpora import baselines
from lessonlib.corpora.baselines import word_counts


def labelled(count, seed):
    pairs = [(text, number) for number, label in enumerate(CLASSES) for text in texts(label, count, seed)]
    return [text for text, _ in pairs], [number for _, number in pairs]


def test_texts_whose_classes_share_no_word_are_told_apart():
    unseen, numbers = labelled(10, seed=2)
    assert word_counts(*labelled(20, seed=0), *labelled(5, seed=1)).predict(unseen).tolist() == numbers


def test_the_features_are_words_in_pairs_and_letters_up_to_five():
    train, validation = labelled(20, seed=0), labelled(5, seed=1)
    by_hand = make_union(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5)),
    )
    expected = make_pipeline(by_hand, LogisticRegression(C=1, max_iter=2000)).fit(*train)
    ours = word_counts(*train, *validation)  # all strengths are right on validation: the smallest is taken
    assert ours.predict_proba(validation[0]) == pytest.approx(expected.predict_proba(validation[0]))


def test_the_strength_is_the_one_that_validation_prefers(monkeypatch):
    train, validation = labelled(20, seed=0), labelled(20, seed=1)
    noisy = [(label + (i % 3 == 0)) % 3 for i, label in enumerate(train[1])]  # a third is mislabelled

    def right(strengths):
        monkeypatch.setattr(baselines, "STRENGTHS", strengths)
        return word_counts(train[0], noisy, *validation).score(*validation)

    alone = {C: right((C,)) for C in (1e-4, 1, 100)}
    assert len(set(alone.values())) > 1, "they all do equally well: nothing is chosen"
    assert right(tuple(alone)) == max(alone.values())
