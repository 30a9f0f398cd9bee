"""Claims of lessonlib.corpora.duplicates. Reference: trigrams counted by hand."""

import pytest

from lessonlib.corpora.duplicates import copies, near_duplicates

LONG = "my parcel of last week has not come and nobody answers my calls"


@pytest.mark.parametrize(
    "copy",
    [LONG, LONG.upper() + "!!", LONG.replace("week", "month"), "Hello, " + LONG],
    ids=["the same", "louder", "one word other", "one word more"],
)
def test_a_copy_is_found(copy):
    assert near_duplicates([copy], ["another text of some length", LONG]) == [(0, 1)]


def test_other_texts_are_no_copies():
    texts = ["where is my parcel", "the parcel of last week was broken", "thank you"]
    assert near_duplicates(texts, [LONG, "order 12", "thanks"]) == []


def test_numbers_do_not_make_a_text_another_one():
    assert near_duplicates(["Order 4711 is late"], ["order 99 is LATE"]) == [(0, 0)]


def test_texts_without_a_word_are_compared_as_they_are():
    assert near_duplicates(["!!!", "😀"], ["😀", "???"]) == [(1, 0)]
    assert near_duplicates([], ["a"]) == []


def test_the_overlap_is_jaccards_of_word_trigrams():
    # Trigrams abc bcd cde and bcd cde def: two of four are shared.
    assert near_duplicates(["a b c d e"], ["b c d e f"], overlap=0.5) == [(0, 0)]
    assert near_duplicates(["a b c d e"], ["b c d e f"], overlap=0.51) == []


def test_copies_of_copies_are_one_group():
    # The first and the last share one trigram of five, and each shares two of four with the text between them.
    chain = ("a b c d e", "x y z", "b c d e f", "c d e f g")
    assert near_duplicates(chain[:1], chain[3:]) == []
    assert copies(chain) == [(0, 2, 3), (1,)]
