"""Claims of lessonlib.corpora.own. References: counts by hand, the file's own lines.

What `from_csv` refuses, and how it counts lines, is in test_texts.py.
"""

import csv
import json

import pytest
from own_files import ROWS, write

from lessonlib import corpora, start
from lessonlib.corpora import own
from lessonlib.corpora.own import CorpusError, from_csv
from lessonlib.experiments.tickets import tickets_task
from lessonlib.serving import release


@pytest.fixture
def mine(tmp_path):
    return write(tmp_path / "mine.csv", ROWS)


def read(path, **columns):
    return own.read(path, **({"text": "body", "label": "topic"} | columns))


# --- read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf8", "utf-8-sig"])
def test_any_usual_delimiter_is_understood(tmp_path, delimiter, encoding):
    rows = [(f"{text}, {text[::-1]}; ü|", label) for text, label in ROWS]
    path = write(tmp_path / "mine.csv", rows, delimiter=delimiter, encoding=encoding)
    assert [(row["text"], row["label"]) for row in read(path)] == rows
    assert [row["line"] for row in read(path)][:2] == [2, 3]


BROKEN = {
    "no such file": (None, "there is no such file"),
    "nothing in it": ("", "no column 'body' in the first line; it has nothing"),
    "another column": ("text,topic\na,b\n", "no column 'body' in the first line; it has 'text', 'topic'"),
    "a label that is missing": (
        "body,topic\nparcel late,delivery\nwhere,\n",
        "line 3: column 'topic' is empty",
    ),
    "a short line": ("body,topic\nparcel late\n", "line 2: column 'topic' is empty"),
    "a blank text": ("body,topic\n  ,delivery\n", "line 2: column 'body' is empty"),
    "more fields than columns": ("body,topic\na,b,c\n", "line 2: 1 more fields than columns"),
    "an open quote": ('body,topic\n"a,b\n', "line 2"),
    "one class": (
        "body,topic\n" + "parcel,delivery\n" * 30,
        "30 rows with the labels ['delivery']; at least two",
    ),
    "no rows": ("body,topic\n", "0 rows with the labels []"),
    "a class of one": (
        "body,topic\n" + "parcel,delivery\n" * 30 + "x,refund\n",
        "'refund' has 1 row, at least 10",
    ),
    "labels that collide": (
        "body,topic\n" + "parcel,Late delivery\n" * 30 + "x,late_delivery\n" * 30,
        "'Late delivery' and 'late_delivery' differ in capitals, spaces and underscores only",
    ),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_used_is_refused_by_line_and_cause(tmp_path, content, said):
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_text(content, "utf8")
    with pytest.raises(CorpusError) as error:
        read(path)
    assert said in str(error.value) and "mine.csv" in str(error.value)


def test_another_encoding_is_named_by_its_first_odd_byte(tmp_path):
    path = write(tmp_path / "mine.csv", [("parcel", "delivery"), ("für mich", "praise")], encoding="latin-1")
    with pytest.raises(CorpusError, match="line 3: byte 0xfc is not UTF-8; save the file as UTF-8"):
        read(path)


# --- split --------------------------------------------------------------------------------------------------


def sides(splits):
    return {side: set(splits[side]["text"]) for side in splits}


def test_every_class_is_dealt_out_by_the_same_shares(mine):
    splits = own.split(read(mine))
    assert {side: sorted(splits[side]["label"]) for side in splits} == {
        "train": [0] * 14 + [1] * 14 + [2] * 14,
        "validation": [0] * 3 + [1] * 3 + [2] * 3,
        "test": [0] * 3 + [1] * 3 + [2] * 3,
    }
    assert set().union(*sides(splits).values()) == {text for text, _ in ROWS}


def test_the_split_is_the_seeds(mine):
    rows = read(mine)
    one, again, other = (sides(own.split(rows, seed)) for seed in (0, 0, 1))
    assert one == again != other


def test_copies_stay_on_one_side(tmp_path):
    copies = [(text.upper() + "!", label) for text, label in ROWS]
    splits = own.split(read(write(tmp_path / "mine.csv", ROWS + copies)))
    train, held = splits["train"]["text"], [*splits["validation"]["text"], *splits["test"]["text"]]
    assert len(train) + len(held) == 120 and len(held) >= 30
    assert release.no_leak(train, held).passed
    assert not release.no_leak(train, [train[0].lower()]).passed


def test_a_class_of_copies_alone_is_refused(tmp_path):
    rows = ROWS + [("Where is order 12?", "status")] * 6 + [("where is ORDER 99", "status")] * 6
    with pytest.raises(CorpusError, match="'status': its 12 rows are copies of 1 texts; at least 3"):
        own.split(read(write(tmp_path / "mine.csv", rows)))


@pytest.mark.parametrize("groups", [[[0], [1], [2]], [[0], [1, 2, 3], [4, 5, 6, 7]], [[0], [1], [2], [3]]])
def test_no_side_stays_empty_however_few_the_texts(groups):
    assert set(own._sides(groups, held=2)) == {"train", "validation", "test"}


def test_copies_with_two_labels_are_told_by_their_lines(tmp_path):
    rows = [*ROWS, (ROWS[0][0], "praise")]
    assert own.contradictions(read(write(tmp_path / "mine.csv", rows))) == [[2, 62]]
    assert own.contradictions(read(write(tmp_path / "mine.csv", ROWS))) == []


def test_the_written_splits_name_the_lines_of_the_file(mine, tmp_path):
    directory = own.write_splits(own.split(read(mine)), tmp_path / "splits")
    lines = mine.read_text("utf8").splitlines()
    for side, count in (("train", 42), ("validation", 9), ("test", 9)):
        with (directory / f"{side}.csv").open(encoding="utf8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        assert all(lines[int(row["line"]) - 1] == f"{row['text']},{row['label']}" for row in rows)


LINES = {  # of ROWS, drawn with seed 3
    "validation": [8, 10, 18, 27, 37, 38, 49, 51, 60],
    "test": [6, 12, 13, 25, 28, 30, 47, 53, 56],
}
LINES_OF_COPIES = {  # of ROWS with no, one or two copies each, drawn with seed 5
    "validation": [3, 6, 9, 11, 27, 36, 39, 41, 45, 51, 57, 62, 65, 68, 86, 95, 98, 104, 110, 116],
    "test": [2, 5, 8, 14, 17, 20, 23, 26, 29, 32, 35, 38, 44, 47, 50, 53, 56, 59],
}


def held_lines(splits, rows):
    """The lines of validation and test in the file of these rows, whose first line names the columns."""
    line = {text: line for line, (text, _) in enumerate(rows, 2)}
    return {side: [line[text] for text in splits[side]["text"]] for side in ("validation", "test")}


def test_without_copies_both_ways_of_reading_draw_the_same_split(mine):
    # Drawn by the two splitters that there were before there was one.
    assert held_lines(own.split(read(mine), seed=3), ROWS) == LINES
    assert held_lines(from_csv(mine, text="body", label="topic", seed=3), ROWS) == LINES


def test_the_split_of_copies_is_the_one_that_was_always_drawn(tmp_path):
    copies = [(text.upper() + "!" * n, label) for i, (text, label) in enumerate(ROWS) for n in range(i % 3)]
    splits = own.split(read(write(tmp_path / "mine.csv", ROWS + copies)), seed=5)
    assert held_lines(splits, ROWS + copies) == LINES_OF_COPIES


# --- JSONL --------------------------------------------------------------------------------------------------


def test_json_lines_are_read_as_the_table_is(mine, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"body": text, "topic": label}) + "\n" for text, label in ROWS), "utf8")
    assert [row | {"line": row["line"] + 1} for row in read(path)] == read(mine)
    path.write_text(json.dumps({"body": "parcel", "topic": None}) + "\n", "utf8")
    with pytest.raises(CorpusError, match=r"mine\.jsonl, line 1: column 'topic' is empty"):
        read(path)


# --- in a session -------------------------------------------------------------------------------------------


@pytest.fixture
def own_file(tmp_path):
    """A file that the course has never seen: 60 texts in two classes whose names begin alike."""
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([f"Text number {i}, about something", f"class {'one' if i % 2 else 'two'}"] for i in range(60))
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
def test_labels_that_begin_alike_are_asked_for_whole(own_file):
    session = start("07", data=own_file)
    _, tokenizer = session.load_base()
    assert tickets_task(tokenizer, session.labels).endings == [" class one", " class two"]


def test_a_fact_is_asserted_for_the_course_and_only_told_for_your_own(own_file, capsys):
    with pytest.raises(AssertionError, match="expected: pigs fly"):
        start("07").expect(False, "pigs fly")
    start("07", data=own_file).expect(False, "pigs fly")
    assert "Not so with your model or data: pigs fly." in capsys.readouterr().out
