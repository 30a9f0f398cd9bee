"""A learner's own file and model stand where the course's own stand."""

import csv

import pytest

from lessonlib import corpora, start
from lessonlib.experiments.tickets import tickets_task


@pytest.fixture
def own_file(tmp_path):
    """A file that the course has never seen: 60 texts in two classes whose names begin alike."""
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows(
            [f"Text number {i}, about something", f"class {'one' if i % 2 else 'two'}"] for i in range(60)
        )
    return path


def test_start_takes_a_file_of_your_own(own_file, capsys):
    session = start("07", data=own_file)
    assert session.labels == ["class one", "class two"]
    assert {len(session.tickets(split)) for split in ("validation", "test")} == {8}
    assert set(session.tickets("train").column_names) == {"text", "label"}


def test_the_tickets_come_with_the_same_columns():
    session = start("07")
    assert session.labels == corpora.INTENTS
    assert {"text", "label"} <= set(session.tickets("train").column_names)


@pytest.mark.model
def test_labels_that_begin_alike_become_letters(own_file):
    session = start("07", data=own_file)
    _, tokenizer = session.load_base()
    assert tickets_task(tokenizer, session.labels).verbalizer == ["A", "B"]


def test_a_fact_is_asserted_for_the_course_and_only_told_for_your_own(own_file, capsys):
    with pytest.raises(AssertionError, match="expected: pigs fly"):
        start("07").expect(False, "pigs fly")
    start("07", data=own_file).expect(False, "pigs fly")
    assert "Not so with your model or data: pigs fly." in capsys.readouterr().out
