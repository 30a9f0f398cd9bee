"""The texts of the course, and a learner's own file in their place."""

import json
import subprocess
import sys
from collections import Counter

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lessonlib import corpora
from lessonlib.corpora import CorpusError, fingerprint, from_csv, texts, tickets
from lessonlib.experiments.tickets import tickets_task
from lessonlib.models import find_base
from lessonlib.training.labels import LabelTask
from lessonlib.training.questions import label_question

# Forty sound rows, twenty a class, in lines 2 to 41 of a CSV and 1 to 40 of a JSONL; bad lines follow them.
ROWS = [(f"message number {i}", ("late", "lost")[i % 2]) for i in range(40)]
CSV = "".join(f"{text},{label}\n" for text, label in [("text", "label"), *ROWS])
TSV = CSV.replace(",", "\t")
JSONL = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)
SPLIT = "text,label,split\n" + "".join(
    f"{text},{label},{('test', 'validation', 'train', 'train')[i // 2 % 4]}\n" for i, (text, label) in enumerate(ROWS)
)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path, **columns) -> str:
    with pytest.raises(CorpusError) as error:
        from_csv(path, **columns)
    return str(error.value)


def labels_of(part) -> list[str]:
    return part.features["label"].int2str(part["label"][:])


def all_rows(splits) -> list[tuple[str, str]]:
    return [row for part in splits.values() for row in zip(part["text"], labels_of(part))]


def kept(write, name, content, text) -> bool:
    return text in [row[0] for row in all_rows(from_csv(write(name, content)))]


# --- the tickets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", corpora.SPLITS)
def test_tickets_hold_the_file_row_by_row(split):
    lines = (corpora.DATA / "tickets" / f"{split}.jsonl").read_text("utf8").splitlines()
    rows = tickets(split)
    for row, written in zip(rows, map(json.loads, lines), strict=True):
        names = {key: rows.features[key].names[row[key]] for key in ("intent", "sentiment", "urgency")}
        assert row | names | {"record": json.loads(row["record"])} == written


def test_ticket_classes_are_numbered_in_the_order_of_the_guide():
    features = tickets("test").features
    assert features["intent"].names == corpora.INTENTS
    assert features["sentiment"].names == corpora.SENTIMENTS
    assert features["urgency"].names == corpora.URGENCIES


def test_an_unknown_split_of_the_tickets_is_refused_with_the_known_ones():
    with pytest.raises(CorpusError, match=r"no split 'dev'.*train, validation, test"):
        tickets("dev")


def test_the_fingerprint_is_that_of_names_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "DATA", tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"{}\n")
    (folder / "b.jsonl").write_bytes(b"[]\n")
    first = fingerprint("own")
    assert first == "f9234f7baba516a3"  # coreutils: printf 'a.jsonl{}\nb.jsonl[]\n' | sha256sum | cut -c1-16
    (folder / "notes.md").write_text("no part of the corpus")
    assert fingerprint("own") == first
    (folder / "b.jsonl").write_bytes(b"[] \n")
    assert fingerprint("own") != first
    (folder / "b.jsonl").write_bytes(b"[]\n")
    (folder / "b.jsonl").rename(folder / "c.jsonl")
    assert fingerprint("own") != first


def test_where_the_data_are_is_known_without_the_library_of_datasets():
    code = "import sys; from lessonlib.corpora import DATA; assert 'datasets' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- your own file: what is refused -------------------------------------------------------------------------

BAD_LINES = {
    "missing column": (
        "a.csv",
        CSV.replace("label", "topic", 1),
        1,
        "no column 'label'; it has 'text', 'topic'",
    ),
    "tabs in a .csv": ("a.csv", TSV, 1, r"no column 'text'; it has 'text\tlabel'"),
    "missing key": (
        "a.jsonl",
        JSONL + '{"text": "x", "lable": "late"}\n',
        41,
        "no column 'label'; it has 'text', 'l",
    ),
    "latin-1": ("a.csv", CSV.encode() + "café,late\n".encode("latin-1"), 42, "byte 0xe9 is not UTF-8"),
    "latin-1 jsonl": ("a.jsonl", JSONL.encode() + b'{"text": "caf\xe9"}', 41, "byte 0xe9 is not UTF-8"),
    "latin-1 after a BOM": (
        "a.csv",
        b"\xef\xbb\xbf" + b"text,label\ncaf\xe9,late",
        2,
        "byte 0xe9 is not UTF-8",
    ),
    "UTF-16": ("a.csv", CSV.encode("utf-16"), 1, "byte 0xff is not UTF-8"),
    "cut JSON": ("a.jsonl", JSONL + '{"text": "x", "lab', 41, "not JSON (Unterminated string"),
    "JSON list": ("a.jsonl", JSONL + '["x", "late"]\n', 41, """'["x", "late"]' is not an object"""),
    "too many fields": ("a.csv", CSV + "late, and wet,late\n", 42, "1 more fields than columns"),
    "too few fields": ("a.csv", CSV + "no comma\n", 42, "column 'label' holds null"),
    "quote never closed": (
        "a.csv",
        CSV.replace("message number 7,", '"message number 7,'),
        9,
        "unexpected end of data",
    ),
    "quote in quotes": ("a.csv", CSV + '"He" said,late\n', 42, "',' expected after '\"'"),
    "null": ("a.jsonl", JSONL + '{"text": "x", "label": null}', 41, "column 'label' holds null"),
    "text is a list": (
        "a.jsonl",
        JSONL + '{"text": ["x"], "label": "late"}',
        41,
        "column 'text' holds [\"x\"]",
    ),
    "half an emoji": (
        "a.jsonl",
        JSONL + r'{"text": "\ud83d", "label": "late"}',
        41,
        r"""column 'text' holds "\ud83d" """,
    ),
    "empty text": ("a.csv", CSV + ",late\n", 42, "the text is empty"),
    "blank text": ("a.csv", CSV + '" \t ",late\n', 42, "the text is empty"),
    "empty label": ("a.csv", CSV + "new,\n", 42, "the label is empty"),
    "blank label": ("a.csv", CSV + "new,  \n", 42, "the label is empty"),
    "same text": ("a.csv", CSV + "message number 3,late\n", 42, "the text stands already in line 5"),
    "same text, other case": (
        "a.csv",
        CSV + "Message  NUMBER 3,lost\n",
        42,
        "the text stands already in line 5",
    ),
    "bad split": ("a.csv", SPLIT + "new,late,dev\n", 42, "split 'dev'; it may be train, validation, test"),
    "split not given": ("a.csv", SPLIT + "new,late,\n", 42, "no split, while other lines have one"),
    "split given once": (
        "a.csv",
        "text,label,split\nnew,late,train\n" + CSV[11:],
        3,
        "no split, while other lines",
    ),
}


@pytest.mark.parametrize("name, content, line, cause", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_with_its_number_and_cause_and_the_file_is_left_alone(write, name, content, line, cause):
    path = write(name, content)
    before = path.read_bytes()
    assert f"{path}, line {line}: {cause.strip()}" in refusal(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


BAD_FILES = {
    "one class": (CSV.replace("lost", "late"), "all 40 rows have the label 'late'; two classes are needed"),
    "nine of a class": (
        CSV + "".join(f"new {i},wet\n" for i in range(9)),
        "class 'wet' has 9 rows, at least 10",
    ),
    "header only": ("text,label\n", "there are no rows"),
    "nothing at all": ("", "there are no rows"),
    "class not in a split": (
        SPLIT.replace("lost,test", "lost,train"),
        "split 'test' has no row of class 'lost'",
    ),
    "split not used": (SPLIT.replace("validation", "train"), "split 'validation' has no row of class 'late'"),
}


@pytest.mark.parametrize("content, cause", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_split_is_refused_with_the_cause(write, content, cause):
    path = write("a.csv", content)
    assert f"{path}: {cause}" in refusal(path)


def test_a_missing_file_is_named(tmp_path):
    assert f"{tmp_path / 'no.csv'}: there is no such file" in refusal(tmp_path / "no.csv")
    assert f"{tmp_path}: there is no such file" in refusal(tmp_path)  # a directory is none either


def test_the_columns_asked_for_are_the_ones_missed(write):
    message = refusal(write("a.csv", CSV), text="body", label="label")
    assert "line 1: no column 'body'; it has 'text', 'label'" in message and "text='…'" in message


def test_ten_rows_a_class_are_enough(write):
    splits = from_csv(write("a.csv", CSV + "".join(f"new {i},wet\n" for i in range(10))))
    assert [labels_of(part).count("wet") for part in splits.values()] == [6, 2, 2]


# --- your own file: lines are counted as an editor counts them ----------------------------------------------

LONG = 'text,label\n"Dear all,\n\nit ""drips"".",late\n' + CSV[11:] + '"one\ntwo",lost\n'  # 46 lines: 1 + 3 + 40 + 2


@pytest.mark.parametrize(
    "content, line",
    [
        (LONG + ",late\n", 47),
        (LONG + '"\n\n",late\nanother,lost\n', 47),  # the line where the text begins
        (LONG.replace("\n", "\r\n") + ",late\r\n", 47),
        (CSV + "\n\n,late\n", 44),  # empty lines are passed over, and counted
        ("\n" + CSV + ",late\n", 43),
        ('text,label,"a\nnote"\n' + CSV[11:] + ",late\n", 43),
    ],
    ids=[
        "after long texts",
        "a long blank text",
        "CRLF",
        "after empty lines",
        "empty first line",
        "long header",
    ],
)
def test_lines_are_counted_through_long_texts_and_empty_lines(write, content, line):
    path = write("a.csv", content)
    assert f"{path}, line {line}: the text is empty" in refusal(path)


def test_a_duplicate_of_a_long_text_names_the_line_where_the_first_one_begins(write):
    path = write("a.csv", LONG + 'new,late\n"one\n two",late\n')
    assert "line 48: the text stands already in line 45" in refusal(path)


def test_json_lines_are_counted_with_the_empty_ones(write):
    path = write("a.jsonl", JSONL.replace("\n", "\r\n") + "\r\n\r\n" + '{"text": "", "label": "late"}')
    assert f"{path}, line 43: the text is empty" in refusal(path)


# --- your own file: what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", CSV),
        ("a.tsv", TSV),
        ("A.TSV", TSV),
        ("a.jsonl", JSONL),
        ("a.ndjson", JSONL),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + JSONL.encode()),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("crlf.tsv", TSV.replace("\n", "\r\n")),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n")),
        ("no-end.csv", CSV.rstrip("\n")),
        ("carriage-returns.csv", CSV.replace("\n", "\r")),
        ("wide.csv", CSV.replace("\n", ",more\n")),
        ("split-column-left-empty.csv", CSV.replace("\n", ",\n").replace("label,", "label,split")),
    ],
)
def test_every_layout_gives_the_same_forty_rows(write, name, content):
    path = write(name, content)
    before = path.read_bytes()
    assert sorted(all_rows(from_csv(path))) == sorted(ROWS)
    assert path.read_bytes() == before


UNUSUAL = {
    "outer spaces": "  kept, both sides ",
    "quotes": 'She said "no", twice',
    "lines": "Dear all,\n\n\tit drips.\n",
    "CRLF within": "one\r\ntwo",
    "line separator": "one\u2028two\u2029three",
    "next line and form feed": "one\x85two\x0cthree\x1cfour",
    "no-break and zero-width": "29\u00a0°C, zero\u200bwidth",
    "emoji": "👩‍👩‍👧 ok 🇩🇪",
    "decomposed": "cafe\u0301 is not café",
    "right to left": "الطلب QH-204417 لم يصل",
    "formula": "=SUM(A1:A9)",
    "braces": "{text} {0} %s \\n",
    "number": "007",
    "NULL": "NULL",
    "very long": "drip " * 20_000,
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_texts_are_kept_to_the_letter(write, text):
    quoted = '"' + text.replace('"', '""') + '"'
    assert kept(write, "a.csv", CSV + f"{quoted},late\n", text)
    assert kept(write, "a.tsv", TSV + f"{quoted}\tlate\n", text)
    assert kept(write, "a.jsonl", JSONL + json.dumps({"text": text, "label": "late"}) + "\n", text)
    plain = json.dumps({"text": text, "label": "late"}, ensure_ascii=False)
    assert kept(write, "b.jsonl", JSONL + plain + "\n", text)


def test_rare_line_separators_do_not_break_unquoted_texts(write):
    for separator in "\u2028\u2029\x85\x0b\x0c\x1c":
        assert kept(write, "a.csv", CSV + f"one{separator}two,late\n", f"one{separator}two")


def test_quotes_within_an_unquoted_text_stay(write):
    assert kept(write, "a.csv", CSV + 'a 3" pipe drips,late\n', 'a 3" pipe drips')


def test_columns_of_other_names_are_read(write):
    path = write("a.csv", CSV.replace("text,label", "body,topic", 1))
    assert sorted(all_rows(from_csv(path, text="body", label="topic"))) == sorted(ROWS)


def test_labels_are_stripped_sorted_and_numbered_alike_in_every_split(write):
    splits = from_csv(write("a.csv", CSV + "new, late \n" + "".join(f"n{i},3\n" for i in range(10))))
    assert {tuple(part.features["label"].names) for part in splits.values()} == {("3", "late", "lost")}


def test_json_numbers_may_be_labels(write):
    ones = "".join(json.dumps({"text": text, "label": int(label == "late")}) + "\n" for text, label in ROWS)
    assert from_csv(write("a.jsonl", ones))["train"].features["label"].names == ["0", "1"]


# --- your own file: splits ----------------------------------------------------------------------------------


def test_splits_hold_70_15_and_15_per_cent_of_each_class(write):
    splits = from_csv(write("a.csv", CSV + "".join(f"new {i},wet\n" for i in range(100))))
    counts = {split: Counter(labels_of(part)) for split, part in splits.items()}
    assert counts == {
        "train": {"late": 14, "lost": 14, "wet": 70},
        "validation": {"late": 3, "lost": 3, "wet": 15},
        "test": {"late": 3, "lost": 3, "wet": 15},
    }


def test_splits_are_disjoint_and_together_the_file(write):
    splits = from_csv(write("a.csv", CSV), seed=5)
    parts = [set(part["text"]) for part in splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40


def test_a_seed_draws_the_same_splits_again_and_another_seed_others(write):
    path = write("a.csv", CSV)
    assert all_rows(from_csv(path, seed=3)) == all_rows(from_csv(path, seed=3))
    assert from_csv(path, seed=3)["test"]["text"][:] != from_csv(path, seed=4)["test"]["text"][:]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_split_column_is_followed_whatever_the_seed(write, name):
    rows = [line.split(",") for line in SPLIT.splitlines()[1:]]
    objects = [dict(zip(("text", "label", "split"), row)) for row in rows]
    content = SPLIT if name == "a.csv" else "\n".join(map(json.dumps, objects))
    splits = from_csv(write(name, content), seed=9)
    assert {s: part["text"][:] for s, part in splits.items()} == {
        split: [text for text, _, given in rows if given == split] for split in corpora.SPLITS
    }


# --- a task on labels of one's own --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    """Byte pairs trained on a few words: `late`, `lost`, `fee` and each letter are tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    letters = [f" {chr(code)}" for code in range(ord("A"), ord("Z") + 1)]
    tokenizer.train_from_iterator([" late lost fee Topic: Ticket:", *letters] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<end>")


def label_tokens(task) -> list[str]:
    return task.tokenizer.convert_ids_to_tokens(task.label_ids.tolist())


def test_labels_of_ones_own_file_become_a_task(write, tokenizer):
    part = from_csv(write("a.csv", CSV))["train"]
    task = LabelTask(tokenizer, part.features["label"].names)
    batch = task.batch([task.encode(text) for text in part["text"]], part["label"])
    assert task.verbalizer == ["late", "lost"] and label_tokens(task) == ["Ġlate", "Ġlost"]
    assert batch.targets.tolist() == part["label"][:]
    ends = batch.input_ids[range(len(part)), batch.last]
    assert set(tokenizer.convert_ids_to_tokens(ends.tolist())) == {":"}  # the template's end, not padding


@pytest.mark.parametrize("names", [["late fee", "late lost"], ["lost", "late", "late fee"]])
def test_labels_that_begin_with_the_same_token_are_scored_whole(tokenizer, names):
    task = LabelTask(tokenizer, names)
    assert task.verbalizer == task.labels == names and task.label_ids.dim() == 2
    assert [ending.strip() for ending in task.endings] == names


def test_any_number_of_labels_may_begin_alike(tokenizer):
    names = [f"late {i}" for i in range(77)]
    assert LabelTask(tokenizer, names).verbalizer == names


def test_letters_are_asked_for_and_then_named(tokenizer):
    names = [f"late {i}" for i in range(27)]
    task = label_question(tokenizer, names[:26], letters=True)
    assert task.verbalizer[-1] == "Z" and "A for late 0, B for late 1" in task.template
    with pytest.raises(ValueError, match=r"27 labels.*26 letters are too few"):
        label_question(tokenizer, names, letters=True)


def test_long_labels_leave_room_for_the_text(tokenizer):
    names = [f"{letter} reporting, repair services, or other personal statements" for letter in "abcdefghijklmnopqrs"]
    for task in (
        tickets_task(tokenizer, names),
        label_question(tokenizer, names),
        label_question(tokenizer, names[:3]),
    ):
        assert task.room >= 160 and task.encode("one text") != task.encode("another text")
        assert task.verbalizer == names[: len(task.labels)]


def test_words_of_ones_own_choice_spare_the_letters(tokenizer):
    task = LabelTask(tokenizer, ["late fee", "late parcel"], verbalizer=["fee", "lost"])
    assert task.verbalizer == ["fee", "lost"] and label_tokens(task) == ["Ġfee", "Ġlost"]


@pytest.mark.model
def test_the_base_models_tokenizer_has_one_token_for_each_intent_and_whole_labels_for_clashes():
    tokenizer = AutoTokenizer.from_pretrained(find_base())
    words = [corpora.WORDS.get(name, name) for name in corpora.INTENTS]
    assert label_tokens(LabelTask(tokenizer, corpora.INTENTS, words)) == [f"Ġ{word}" for word in words]
    assert LabelTask(tokenizer, ["late delivery", "late refund"]).label_ids.dim() == 2


# --- the other corpora ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load, splits",
    [
        (corpora.replies, {"train": 120, "test": 30}),
        (corpora.handbook_questions, {"train": 40, "test": 80}),
        (corpora.word_problems, {"train": 1800, "validation": 200, "test": 300}),
    ],
)
def test_each_corpus_has_the_rows_of_its_datasheet_and_refuses_another_split(load, splits):
    assert {split: len(load(split)) for split in splits} == splits
    with pytest.raises(CorpusError, match=r"no split 'dev'.*train"):
        load("dev")


def test_replies_stand_beside_the_text_that_they_answer():
    texts = {row["id"]: row["text"] for row in tickets("test")}
    assert all(row["text"] == texts[row["ticket"]] for row in corpora.replies("test"))


def test_answers_of_the_handbook_stand_in_the_fact_that_their_question_names():
    facts = {row["id"]: row["fact"] for row in corpora.handbook()}
    assert all(row["answer"] in facts[row["fact"]] for row in corpora.handbook_questions("test"))
    assert len(corpora.vocabulary()) == 25


@pytest.mark.parametrize("kind", corpora.REASONING)
def test_reasoning_sets_have_four_options_and_shots_apart(kind):
    test, shots = corpora.reasoning(kind), corpora.reasoning(kind, "shots")
    assert (len(test), len(shots)) == (60, 8)
    assert all(len(row["options"]) == 4 and 0 <= row["answer"] < 4 for row in test)
    assert not set(test["question"]) & set(shots["question"])
    with pytest.raises(CorpusError, match="no split 'train'"):
        corpora.reasoning(kind, "train")


def test_an_unknown_reasoning_set_is_named_with_the_known_ones():
    with pytest.raises(CorpusError, match=r"'maths'.*logic, commonsense, factual"):
        corpora.reasoning("maths")
