"""Your own file where the course's tickets stand: read, checked, and split; never changed."""

import codecs
import csv
import io
import itertools
import json
import re
from collections import Counter
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

SPLITS = ("train", "validation", "test")
FEWEST_ROWS = 10  # a class in a file of your own needs as many, so that each split holds some


class CorpusError(ValueError):
    """A file of texts cannot be used; the message names the line and the cause. The file is left as it was."""


def from_csv(path: str | Path, text: str = "text", label: str = "label", seed: int = 0) -> DatasetDict:
    """Your own file, CSV or JSONL, wherever tickets can stand: train, validation and test with `text` and `label`.

    path: a UTF-8 file; its first line names the columns (CSV), or each line is an object (JSONL). `.tsv` is split at
        tabs.
    text, label: the columns to read. A column `split` (train, validation, test) is followed if there is one;
        otherwise 70, 15 and 15 per cent of each class are drawn with `seed`.

    Raises CorpusError, with the line and the cause, for: a missing file or column, another encoding, an unreadable
    line, an empty text or label, a single class, a class of fewer than 10 rows, a text that stands twice (it would
    leak from training into the test). The file itself is only read.

    >>> from_csv("nowhere.csv")
    Traceback (most recent call last):
    lessonlib.corpora.own.CorpusError: nowhere.csv: there is no such file; give the path of a .csv, .tsv or .jsonl file
    """
    path = Path(path)
    rows = _read_rows(path, text, label)
    _refuse_bad_rows(path, rows)
    names = sorted({row["label"] for row in rows})
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    given = [row["split"] for row in rows]
    drawn = given if all(given) else _draw_splits([row["label"] for row in rows], seed)
    out = DatasetDict()
    for split in SPLITS:
        part = [row for row, where in zip(rows, drawn) if where == split]
        missing = set(names) - {row["label"] for row in part}
        if missing:
            raise CorpusError(
                f"{path}: split {split!r} has no row of class {sorted(missing)[0]!r}; give it at least one"
            )
        columns = {"text": [row["text"] for row in part], "label": [row["label"] for row in part]}
        out[split] = Dataset.from_dict(columns, features=features)
    return out


def _read_rows(path: Path, text: str, label: str) -> list[dict]:
    if not path.is_file():
        raise CorpusError(f"{path}: there is no such file; give the path of a .csv, .tsv or .jsonl file")
    content = decoded(path)
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        records = _json_lines(path, content, (text, label))
    else:
        records = csv_lines(path, content, "\t" if kind == ".tsv" else ",", (text, label))
    rows = []
    for line, record in records:
        for column in (text, label):
            if not _is_text(record[column]):
                raise CorpusError(
                    f"{path}, line {line}: column {column!r} holds {json.dumps(record[column])[:40]}, which is no "
                    "text; fill it in or take the line out"
                )
        split = str(record.get("split") or "")
        rows.append(
            {"line": line, "text": str(record[text]), "label": str(record[label]).strip(), "split": split}
        )
    if not rows:
        raise CorpusError(
            f"{path}: there are no rows; the first line names the columns, each further line is a text"
        )
    return rows


def decoded(path: Path) -> str:
    """The text of a file in UTF-8, without its byte order mark; CorpusError names the line of a byte that is none."""
    raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf8")
    except UnicodeDecodeError as cause:
        line = raw[: cause.start].count(b"\n") + 1
        raise CorpusError(
            f"{path}, line {line}: byte {raw[cause.start]:#04x} is not UTF-8; save the file as UTF-8 "
            "(in a spreadsheet: 'CSV UTF-8') and call again"
        ) from cause


def _require_columns(path: Path, line: int, found, columns) -> None:
    for column in columns:
        if column not in found:
            raise CorpusError(
                f"{path}, line {line}: no column {column!r}; it has {', '.join(map(repr, found))}. "
                "Say which to read: from_csv(path, text='…', label='…')"
            )


def _is_text(value) -> bool:
    # None is a field that a short line lacks, or JSON's null. A number may be a label, a list cannot.
    # A lone surrogate is what JSON escapes leave of an emoji that was cut in two.
    return isinstance(value, (str, int, float)) and not re.search("[\ud800-\udfff]", str(value))


def _json_lines(path: Path, content: str, columns):
    # Not splitlines, which would break a text at U+2028 and its like.
    for line, string in enumerate(content.split("\n"), 1):
        if string.strip():
            try:
                record = json.loads(string)
            except json.JSONDecodeError as cause:
                raise CorpusError(
                    f"{path}, line {line}: not JSON ({cause.msg}); each line must be one object"
                ) from cause
            if not isinstance(record, dict):
                raise CorpusError(f"{path}, line {line}: {string[:40]!r} is not an object with named columns")
            _require_columns(path, line, record, columns)
            yield line, record


def csv_lines(path: Path, content: str, delimiter: str, columns):
    # strict: a quote that is never closed would otherwise swallow all rows behind it.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    header, begin = None, 1
    try:
        for fields in reader:
            if fields and header is None:
                _require_columns(path, begin, fields, columns)
                header = fields
            elif fields:
                if len(fields) > len(header):
                    raise CorpusError(
                        f"{path}, line {begin}: {len(fields) - len(header)} more fields than columns; put texts "
                        "that hold a comma between double quotes"
                    )
                yield begin, dict(itertools.zip_longest(header, fields))
            begin = reader.line_num + 1
    except csv.Error as cause:
        raise CorpusError(
            f"{path}, line {begin}: {cause}; a text that begins with a double quote must end with one, and "
            "those within it are doubled"
        ) from cause


def _refuse_bad_rows(path: Path, rows: list[dict]) -> None:
    seen = {}
    for row in rows:
        where = f"{path}, line {row['line']}"
        if not row["text"].strip():
            raise CorpusError(f"{where}: the text is empty; fill it in or take the line out")
        if not row["label"]:
            raise CorpusError(f"{where}: the label is empty; fill it in or take the line out")
        if row["split"] and row["split"] not in SPLITS:
            raise CorpusError(f"{where}: split {row['split']!r}; it may be {', '.join(SPLITS)}")
        key = " ".join(row["text"].split()).casefold()
        if key in seen:
            raise CorpusError(
                f"{where}: the text stands already in line {seen[key]}; between training and test it would leak the "
                "answer, so keep one of the two"
            )
        seen[key] = row["line"]
    if 0 < sum(bool(row["split"]) for row in rows) < len(rows):
        bare = next(row["line"] for row in rows if not row["split"])
        raise CorpusError(f"{path}, line {bare}: no split, while other lines have one; fill in all or none")
    counts = Counter(row["label"] for row in rows)
    if len(counts) < 2:
        raise CorpusError(
            f"{path}: all {len(rows)} rows have the label {rows[0]['label']!r}; two classes are needed"
        )
    refuse_rare(path, counts)


def refuse_rare(path: Path, counts: Counter) -> None:
    """CorpusError for a class of fewer than 10 rows."""
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < FEWEST_ROWS:
        raise CorpusError(
            f"{path}: class {rarest!r} has {count} row{'s' * (count > 1)}, at least {FEWEST_ROWS} are needed; add some, "
            "or merge it with another class"
        )


def _draw_splits(labels: list[str], seed: int) -> list[str]:
    """70, 15, 15 per cent of each class."""
    import random

    drawn = [""] * len(labels)
    shuffle = random.Random(seed)
    for name in sorted(set(labels)):
        rows = [i for i, label in enumerate(labels) if label == name]
        shuffle.shuffle(rows)
        held = max(1, round(0.15 * len(rows)))
        for i, row in enumerate(rows):
            drawn[row] = "test" if i < held else "validation" if i < 2 * held else "train"
    return drawn
