"""Files as people have them: each is read or refused with its line and its cause, and none is changed.

References: counts by hand; Unicode's own names of its characters.
"""

import csv
import io
import json
import random
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_files import CLASSES, texts

from lessonlib.corpora import CorpusError, from_csv, own
from lessonlib.corpora.class_names import alike, differences
from lessonlib.corpora.duplicates import common_passage, near_duplicates
from lessonlib.serving import release

BOTH = [from_csv, own.read]
FOOTER = " ".join(
    f"{a}{b}" for a in "kalo mire ntas ulvo".split() for b in "denfra gishol jimpek stowan zerka limo tu".split()
)


def strange(label, count=12):
    """Different texts that share neither words nor trigrams with those of another label."""
    draw = random.Random(label)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [" ".join("".join(draw.choices(letters, k=7)) for _ in range(6)) for _ in range(count)]


def table(path, rows, header=("text", "label"), **layout):
    with path.open("w", newline="", encoding="utf8") as file:
        csv.writer(file, **layout).writerows([header, *rows])
    return path


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf8")
    return path


def rows_of(labels, count=12):
    return [(text, label) for i, label in enumerate(labels) for text in strange(f"{i}{label!r}", count)]


def refused(call, path):
    before = path.read_bytes()
    with pytest.raises(CorpusError) as error:
        call(path)
    assert path.read_bytes() == before and "\n" not in str(error.value)
    return str(error.value)


# --- values that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", BOTH)
@pytest.mark.parametrize("column", ["text", "label"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("nan")], {"a": None}, ["x"]])
def test_what_is_no_text_is_named_with_its_line(tmp_path, call, column, value):
    records = [{"text": text, "label": label} for text, label in rows_of(["late", "refund"])]
    records[7][column] = value
    said = refused(call, lines(tmp_path / "a.jsonl", records))
    assert f"line 8: column '{column}' holds {json.dumps(value)}, which is no text" in said


@pytest.mark.parametrize("call", BOTH)
def test_json_that_python_cannot_hold_is_refused_by_its_line(tmp_path, call):
    path = tmp_path / "a.jsonl"
    for bad, cause in (("[" * 100_000, "too deep"), ('{"text": "a", "label": %s}' % ("9" * 5000), "too long")):
        path.write_text(bad + "\n", "utf8")
        assert "line 1: JSON that cannot be read" in (said := refused(call, path)) and cause in said


@pytest.mark.parametrize("call", BOTH)
def test_a_text_or_label_that_nobody_sees_is_empty(tmp_path, call):
    for nothing in ("\u200b", "\ufeff", "\u00ad", "\u2800", "\u3164 \ufe0f"):
        for row in ((nothing, "late"), ("a text", nothing)):
            said = refused(call, table(tmp_path / "a.csv", [row, *rows_of(["late", "refund"])]))
            assert "line 2" in said and "empty" in said


def test_utf16_without_a_mark_is_told_by_its_zeros(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\na,b\n".encode("utf-16-le"))
    assert "line 1: a byte is zero, as in UTF-16" in refused(from_csv, path)


# --- labels ----------------------------------------------------------------------------------------------------------

ONE_CLASS = {  # two ways to write one label, and in what they differ
    "capitals": ("Billing", "billing", "capitals"),
    "two spaces": ("late fee", "late  fee", "spaces"),
    "no-break space": ("late fee", "late\u00a0fee", "spaces"),
    "underscore": ("late fee", "late_fee", "spaces and underscores"),
    "composed": (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"), "Unicode forms"),
    "full width": ("late", "ｌａｔｅ", "Unicode forms"),
    "ligature": ("refund office", "refund o\ufb03ce", "Unicode forms"),
    "zero width": ("late", "la\u200bte", "invisible characters"),
    "order mark": ("late", "\ufefflate", "invisible characters"),
    "soft hyphen": ("late", "la\u00adte", "invisible characters"),
    "direction": ("late", "late\u200e", "invisible characters"),
    "emoji's variant": ("\u2764", "\u2764\ufe0f", "invisible characters"),
    "as a fraction": ("1", "1.0", "number format"),
    "zeros in front": ("7", "007", "number format"),
    "at their ends": ("x" * 200 + "a b", "x" * 200 + "a  b", "spaces"),
    "several at once": ("Late fee", "late\u200b_fee", "invisible characters, capitals, spaces and underscores"),
}


@pytest.mark.parametrize("call", BOTH)
@pytest.mark.parametrize(("one", "other", "how"), ONE_CLASS.values(), ids=ONE_CLASS)
def test_labels_that_look_alike_are_never_two_classes(tmp_path, call, one, other, how):
    said = refused(call, table(tmp_path / "a.csv", rows_of([one, other, "refund"])))
    assert f"differ in {how} only" in said and "(first in lines 2 and 14)" in said
    if "Unicode" in how or "invisible" in how:
        assert ascii(other)[-8:-1] in said  # what cannot be seen is spelled out


def test_labels_that_differ_to_the_eye_stay_apart():
    assert alike(["late", "later", "late!", "lost", "1", "1.5", "10", "a-b", "a b", "🙂", "🙃", "è", "e"]) == []
    assert differences(["a", "A"]) == "capitals"


@pytest.mark.parametrize("call", BOTH)
@pytest.mark.parametrize("values", [(1, 1.0), (1, "1"), (1.0, "1"), (True, "true"), (False, "FALSE")])
def test_json_values_of_one_label_are_one_class_or_refused(tmp_path, call, values):
    pairs = [(text, value) for i, value in enumerate((*values, "other")) for text in strange(f"{i}{value!r}")]
    path = lines(tmp_path / "a.jsonl", [{"text": text, "label": value} for text, value in pairs])
    try:
        found = call(path)
    except CorpusError as error:
        assert "differ in" in str(error)
    else:
        names = {row["label"] for row in found} if call is own.read else set(found["train"].features["label"].names)
        assert len(names) == 2


@pytest.mark.parametrize("call", BOTH)
def test_many_long_and_odd_labels_are_read(tmp_path, call):
    names = [
        "late",
        "late fee",
        "late fee again",
        "{0} {text}",
        "a, b",
        "🙂 ok",
        "NA",
        "null",
        "жалоба",
        "退款",
        "word " * 60,
    ]
    names += [f"intent {a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    found = call(table(tmp_path / "a.csv", rows_of(names)))
    seen = {row["label"] for row in found} if call is own.read else set(found["test"].features["label"].names)
    assert seen == {name.strip() for name in names}


def test_a_column_that_holds_no_labels_is_suspected(tmp_path):
    path = table(tmp_path / "a.csv", [(label, text) for text, label in rows_of(["late", "refund"])])
    assert "23 more of the 24 classes have too few: is it the right column?" in refused(own.read, path)


# --- headers and layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", BOTH)
@pytest.mark.parametrize("name", ["text", "label", "split"])
def test_a_column_that_stands_twice_is_refused_by_name(tmp_path, call, name):
    header = ["text", "label", "split"]
    rows = [(text, label, "", "x") for text, label in rows_of(["late", "refund"])]
    said = refused(call, table(tmp_path / "a.csv", rows, [*header, name]))
    assert f"line 1: 2 columns have the name '{name}'" in said
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a", "label": "b", "split": "", "{name}": "c"}}\n', "utf8")
    assert f"line 1: 2 columns have the name '{name}'" in refused(call, path)


@pytest.mark.parametrize("call", BOTH)
def test_a_nameless_column_is_read_over_where_it_holds_row_numbers_or_nothing(tmp_path, call):
    rows = rows_of(["late", "refund"])
    numbered = call(
        table(tmp_path / "a.csv", [(i, *row, "") for i, row in enumerate(rows)], ("", "text", "label", ""))
    )
    plain = call(table(tmp_path / "b.csv", rows))
    assert [*numbered] == [*plain] if call is own.read else numbered["test"]["text"][:] == plain["test"]["text"][:]
    path = table(
        tmp_path / "c.csv", [("Dear all", " it drips", "late"), *[(*row, "") for row in rows]], ("text", "label", "")
    )
    assert "line 2: column 3 has no name in the first line and holds 'late' here" in refused(call, path)


@pytest.mark.parametrize("call", BOTH)
@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_every_line_end_is_one_and_lines_are_counted_by_it(tmp_path, call, end, name):
    rows = rows_of(["late", "refund"])
    if name == "a.jsonl":
        written = [json.dumps({"text": text, "label": label}) for text, label in rows]
        bad = '{"text": "", "label": "late"}'
    else:
        delimiter = "\t" if name == "a.tsv" else ","
        written = [delimiter.join(row) for row in [("text", "label"), *rows]]
        bad = f" {delimiter}late"
    path = tmp_path / name
    path.write_bytes(end.join(written).encode())
    assert len(call(path)) == (24 if call is own.read else 3)
    path.write_bytes(end.join([*written, bad]).encode())
    assert f"line {len(written) + 1}" in refused(call, path)
    path.write_bytes(end.join([*written, "caf"]).encode() + b"\xe9")
    assert f"line {len(written) + 1}: byte 0xe9" in refused(call, path)


@pytest.mark.parametrize("call", BOTH)
@pytest.mark.parametrize("letters", [100_000, 140_000])
def test_a_field_of_any_length_is_read_and_the_process_keeps_its_limit(tmp_path, call, letters):
    long = ("drip " * letters)[:letters].strip()
    limit = csv.field_size_limit()
    found = call(table(tmp_path / "a.csv", [(long, "late"), *rows_of(["late", "refund"])]))
    kept = (
        [row["text"] for row in found] if call is own.read else [t for part in found.values() for t in part["text"]]
    )
    assert long in kept and csv.field_size_limit() == limit


# --- copies ----------------------------------------------------------------------------------------------------------


def test_all_texts_that_stand_twice_are_named_at_once(tmp_path):
    rows = rows_of(["late", "refund"])
    said = refused(from_csv, table(tmp_path / "a.csv", rows + rows[:9]))
    assert "line 26: the text stands already in line 2;" in said
    assert (
        "In all 9 rows repeat an earlier text: line 26 as line 2, line 27 as line 3, line 28 as line 4, line 29 as line 5, line 30 as line 6 and 4 more"
        in said
    )


def test_one_text_under_two_labels_is_named_as_such(tmp_path):
    rows = rows_of(["late", "refund"])
    said = refused(from_csv, table(tmp_path / "a.csv", [*rows, rows[5], (rows[0][0].upper(), "refund")]))
    assert "line 27: the text stands already in line 2, there as 'late' and here as 'refund'" in said
    assert "In all 2 rows repeat an earlier text" in said and "1 of them under another label" in said


def test_a_class_whose_texts_all_stand_under_another_label_is_told_truly(tmp_path):
    rows = rows_of(["late", "refund"])
    doubled = [*rows, *((text, "other") for text, _ in rows[:12])]
    with pytest.raises(
        CorpusError, match=r"'other': its 12 rows are copies of 12 texts.*12 of these stand first under"
    ):
        own.split(own.read(table(tmp_path / "a.csv", doubled)))


# --- passages that many share ----------------------------------------------------------------------------------------


def test_texts_that_share_a_footer_are_no_copies():
    mails = [f"{text} {FOOTER}" for label in ("late", "refund") for text in strange(label, 30)]
    assert near_duplicates(mails, mails) == [(i, i) for i in range(60)]
    rows = [{"text": text, "label": "ab"[i // 30], "line": i} for i, text in enumerate(mails)]
    splits = own.split(rows)
    assert {side: len(part) for side, part in splits.items()} == {"train": 44, "validation": 8, "test": 8}
    assert release.no_leak(splits["train"]["text"], splits["test"]["text"]).passed
    assert common_passage(mails) == (FOOTER, 60) and common_passage(strange("late", 30)) is None


def test_copies_below_a_footer_are_still_copies():
    mails = [f"{text} {FOOTER}" for text in strange("late", 30)]
    changed = mails[4].replace(" ", " dear ", 1)
    assert [pair for pair in near_duplicates([changed], mails) if pair[1] == 4] == [(0, 4)]
    assert near_duplicates([changed], mails[:4] + mails[5:]) == []


def test_forms_filled_in_differently_are_no_copies():
    forms = [
        f"Order number: {i} Product ordered from our shop: {a} {b} Reason of your complaint in a few words: {c} {d} {e} "
        "Wanted refund or new delivery of the product:"
        for i, (a, b, c, d, e, _) in enumerate(text.split() for text in strange("forms", 40))
    ]
    assert near_duplicates(forms, forms) == [(i, i) for i in range(40)]


def test_many_variants_of_one_text_are_one_group():
    letter = [f"{name} {FOOTER}" for name in "abcdefghijklmnopqrstuvwxyz"]
    assert own.copies((*letter, "thanks")) == [tuple(range(26)), (26,)]


def test_a_class_of_one_passage_is_refused_with_the_passage(tmp_path):
    rows = [(f"{name} {FOOTER}", "form") for name in "abcdefghijklmnopqrstuvwxyz"] + rows_of(["late"])
    with pytest.raises(
        CorpusError, match=r"'form': its 26 rows are copies of 1 texts.*They share the passage 'kalodenfra"
    ):
        own.split(own.read(table(tmp_path / "a.csv", rows)))


# --- any file at all -------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    'late parcel refund 退款 🙂 عربي naïve \u200b \u00a0 {text} <eos> 12 "q" a,b ; \t é NaN null'.split(" ")
)
TEXTS = st.one_of(st.lists(WORDS, max_size=12).map(" ".join), st.text(max_size=30), st.none())
LABELS = st.sampled_from(
    ["late", "Late", "refund", "refund ", "re\u200bfund", "1", "1.0", "{}", "", "a,b", "long " * 60, None]
)
CELLS = st.one_of(TEXTS, st.floats(), st.booleans(), st.integers(), st.lists(st.integers(), max_size=2))
HEADERS = st.sampled_from(
    [["text", "label"], ["label", "text"], ["text", "label", "label"], ["text", ""], ["", "text", "label"], []]
)
ENCODINGS = st.sampled_from(["utf8", "utf8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def files(draw):
    """(suffix, bytes) of a file that is mostly sound: forty rows of two classes, and some that may be odd."""
    suffix = draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".txt"]))
    kinds = (CELLS, st.one_of(LABELS, CELLS)) if suffix == ".jsonl" else (TEXTS, LABELS)
    odd = draw(st.lists(st.tuples(*kinds), max_size=4))
    sound = [(text, label) for label in CLASSES[:2] for text in texts(label, 20, seed=9)]
    rows, end = draw(st.permutations([*sound[:3], *odd])) + sound[3:], draw(ENDS)
    if suffix == ".jsonl":
        written = end.join(json.dumps({"text": a, "label": b}, ensure_ascii=draw(st.booleans())) for a, b in rows)
    else:
        out, header = io.StringIO(), draw(st.one_of(st.just(["text", "label"]), HEADERS))
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer = csv.writer(out, delimiter=draw(st.sampled_from(",;\t|")), lineterminator=end, quoting=quoting)
        writer.writerows([header, *rows])
        written = out.getvalue()
    content = written.encode(draw(ENCODINGS), "replace" if draw(st.booleans()) else "ignore")
    return suffix, content[: draw(st.one_of(st.none(), st.integers(0, len(content))))]


def read_or_refused(directory, suffix, content):
    path = directory / f"mine{suffix}"
    path.write_bytes(content)
    for call in (from_csv, lambda file: own.split(own.read(file))):
        try:
            splits = call(path)
        except CorpusError as error:
            said = str(error)
            assert len(said.splitlines()) == 1 and len(said) > len(str(path)) + 10, said
        else:
            names = splits["train"].features["label"].names
            assert len(names) >= 2 and not alike(names) and all(splits[side].num_rows for side in own.SPLITS)
        assert path.read_bytes() == content and list(directory.iterdir()) == [path]


def any_file(examples):
    def check(tmp_path_factory):
        directory = tmp_path_factory.mktemp("mine")

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(files())
        def every(file):
            read_or_refused(directory, *file)
            for path in directory.iterdir():
                path.unlink()

        every()

    return check


test_any_file_is_read_or_refused = any_file(50)
test_any_of_five_hundred_files_is_read_or_refused = pytest.mark.robust(any_file(500))
