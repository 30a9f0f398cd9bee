"""Claims of lessonlib.corpora.raw_texts. References: counts by hand, the file's own lines."""

import csv

import pytest
from own_files import ROWS, write

from lessonlib.corpora import raw_texts
from lessonlib.corpora.own import CorpusError
from lessonlib.serving import release


@pytest.fixture
def mine(tmp_path):
    return write(tmp_path / "mine.csv", ROWS)


def read(path, **columns):
    return raw_texts.read(path, **({"text": "body", "label": "topic"} | columns))


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
    splits = raw_texts.split(read(mine))
    assert {side: sorted(splits[side]["label"]) for side in splits} == {
        "train": [0] * 14 + [1] * 14 + [2] * 14,
        "validation": [0] * 3 + [1] * 3 + [2] * 3,
        "test": [0] * 3 + [1] * 3 + [2] * 3,
    }
    assert set().union(*sides(splits).values()) == {text for text, _ in ROWS}


def test_the_split_is_the_seeds(mine):
    rows = read(mine)
    one, again, other = (sides(raw_texts.split(rows, seed)) for seed in (0, 0, 1))
    assert one == again != other


def test_copies_stay_on_one_side(tmp_path):
    copies = [(text.upper() + "!", label) for text, label in ROWS]
    splits = raw_texts.split(read(write(tmp_path / "mine.csv", ROWS + copies)))
    train, held = splits["train"]["text"], [*splits["validation"]["text"], *splits["test"]["text"]]
    assert len(train) + len(held) == 120 and len(held) >= 30
    assert release.no_leak(train, held).passed
    assert not release.no_leak(train, [train[0].lower()]).passed


def test_a_class_of_copies_alone_is_refused(tmp_path):
    rows = ROWS + [("Where is order 12?", "status")] * 6 + [("where is ORDER 99", "status")] * 6
    with pytest.raises(CorpusError, match="'status': its 12 rows are copies of 1 texts; at least 3"):
        raw_texts.split(read(write(tmp_path / "mine.csv", rows)))


@pytest.mark.parametrize("groups", [[[0], [1], [2]], [[0], [1, 2, 3], [4, 5, 6, 7]], [[0], [1], [2], [3]]])
def test_no_side_stays_empty_however_few_the_texts(groups):
    assert set(raw_texts._sides(groups, held=2)) == {"train", "validation", "test"}


def test_copies_with_two_labels_are_told_by_their_lines(tmp_path):
    rows = [*ROWS, (ROWS[0][0], "praise")]
    assert raw_texts.contradictions(read(write(tmp_path / "mine.csv", rows))) == [[2, 62]]
    assert raw_texts.contradictions(read(write(tmp_path / "mine.csv", ROWS))) == []


def test_the_written_splits_name_the_lines_of_the_file(mine, tmp_path):
    directory = raw_texts.write_splits(raw_texts.split(read(mine)), tmp_path / "splits")
    lines = mine.read_text("utf8").splitlines()
    for side, count in (("train", 42), ("validation", 9), ("test", 9)):
        with (directory / f"{side}.csv").open(encoding="utf8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        assert all(lines[int(row["line"]) - 1] == f"{row['text']},{row['label']}" for row in rows)


# --- what needs no language model ----------------------------------------------------------------------------


def test_baselines_by_hand(mine):
    found = raw_texts.baselines(raw_texts.split(read(mine)))
    assert found["majority"].test.value == pytest.approx(1 / 3)
    assert found["word counts"].test.value == 1.0  # no word stands in two classes
