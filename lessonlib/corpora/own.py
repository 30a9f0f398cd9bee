"""Your own file where the course's tickets stand: read, checked, and split; never changed.

One reader and one splitter, and two ways of being strict. `from_csv` takes a file that was prepared: a text that stands
twice is refused. `read` and `split` take mail as it came in: copies are kept, and never stand on both sides of the split.
"""

import codecs
import csv
import io
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .duplicates import copies

if TYPE_CHECKING:  # imported where a file is read: it takes a second
    from datasets import DatasetDict

SPLITS = ("train", "validation", "test")
SHARE = 0.15  # of each class, for the test and again for validation
FEWEST_ROWS = 10  # a class in a file of your own needs as many, so that each split holds some
DELIMITERS = ",;\t|"


class CorpusError(ValueError):
    """A file of texts cannot be used; the message names the line and the cause. The file is left as it was."""


def from_csv(path: str | Path, text: str = "text", label: str = "label", seed: int = 0) -> "DatasetDict":
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
    rows = _rows(path, text, label, _delimiter_of_name)
    _refuse_bad_rows(path, rows, {"text": text, "label": label})
    sides = [row["split"] for row in rows]
    if not all(sides):
        sides = _draw([row["label"] for row in rows], [(i,) for i in range(len(rows))], seed)
    _refuse_empty_sides(path, rows, sides)
    return _datasets(rows, sides, ("text", "label"))


def read(file: str | Path, text: str = "text", label: str = "label") -> list[dict]:
    """The rows of a file, each a dictionary of text, label and line; the file is only read.

    file: CSV or JSONL, as `from_csv` takes it; commas, semicolons, tabs or bars between the columns are told apart by
    the first line. Texts that stand twice are kept (`split` puts them on one side).

    Raises CorpusError, with the line and the cause, for: a missing file or column, another encoding than UTF-8, an
    unreadable line, an empty text or label, labels that differ in capitals and spaces only, a single class, and a class
    of fewer than 10 rows.
    """
    file = Path(file)
    rows = _rows(file, text, label, _delimiter_of_header)
    for row in rows:
        for key, column in (("text", text), ("label", label)):
            if not (row[key] or "").strip():
                raise CorpusError(
                    f"{file}, line {row['line']}: column {column!r} is empty; fill it in or take the line out"
                )
    _refuse_labels(file, Counter(row["label"] for row in rows))
    return [{key: row[key] for key in ("text", "label", "line")} for row in rows]


# --- the reader ------------------------------------------------------------------------------------------------------


def _rows(path: Path, text: str, label: str, delimiter: Callable) -> list[dict]:
    """text, label, split and line of each row. None stands for what a short line lacks, and for JSON's null.

    delimiter(path, content, columns) says what stands between the columns of a CSV file.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: there is no such file; give the path of a .csv, .tsv or .jsonl file")
    content, columns = _decoded(path), (text, label)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        records = _json_lines(path, content, columns)
    else:
        records = _csv_lines(path, content, delimiter(path, content, columns), columns)
    rows = []
    for line, record in records:
        string, name = (_field(path, line, record, column) for column in columns)
        split = str(record.get("split") or "")
        rows.append({"text": string, "label": name and name.strip(), "split": split, "line": line})
    return rows


def _decoded(path: Path) -> str:
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


def _delimiter_of_name(path: Path, content: str, columns: Sequence[str]) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _delimiter_of_header(path: Path, content: str, columns: Sequence[str]) -> str:
    first = next((line for line in content.split("\n") if line.strip()), "")
    headers = {d: next(csv.reader([first.rstrip("\r")], delimiter=d), []) for d in DELIMITERS}
    for delimiter, header in headers.items():
        if set(columns) <= set(header):
            return delimiter
    likeliest = max(headers.values(), key=len)
    missing = next(column for column in columns if column not in likeliest)
    raise CorpusError(
        f"{path}: no column {missing!r} in the first line; it has {', '.join(map(repr, likeliest)) or 'nothing'}. Say "
        "which columns hold the text and the label"
    )


def _json_lines(path: Path, content: str, columns: Sequence[str]) -> Iterable[tuple[int, dict]]:
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


def _csv_lines(path: Path, content: str, delimiter: str, columns) -> Iterable[tuple[int, dict]]:
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


def _require_columns(path: Path, line: int, header, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in header:
            raise CorpusError(
                f"{path}, line {line}: no column {column!r}; it has {', '.join(map(repr, header))}. "
                "Say which to read: from_csv(path, text='…', label='…')"
            )


def _field(path: Path, line: int, record: dict, column: str) -> str | None:
    # A number may be a label, a list cannot. A lone surrogate is what JSON escapes leave of an emoji cut in two.
    value = record[column]
    if value is None:
        return None
    if not isinstance(value, (str, int, float)) or re.search("[\ud800-\udfff]", str(value)):
        raise CorpusError(_no_text(path, line, column, value))
    return str(value)


def _no_text(path: Path, line: int, column: str, value) -> str:
    return (
        f"{path}, line {line}: column {column!r} holds {json.dumps(value)[:40]}, which is no text; fill it in or take "
        "the line out"
    )


# --- what is refused -------------------------------------------------------------------------------------------------


def _refuse_bad_rows(path: Path, rows: list[dict], columns: dict[str, str]) -> None:
    """What `from_csv` does not take. columns: what the file calls text and label."""
    if not rows:
        raise CorpusError(f"{path}: there are no rows; the first line names the columns, each further line is a text")
    seen = {}
    for row in rows:
        where = f"{path}, line {row['line']}"
        for key, column in columns.items():
            if row[key] is None:
                raise CorpusError(_no_text(path, row["line"], column, None))
            if not row[key].strip():
                raise CorpusError(f"{where}: the {key} is empty; fill it in or take the line out")
        if row["split"] and row["split"] not in SPLITS:
            raise CorpusError(f"{where}: split {row['split']!r}; it may be {', '.join(SPLITS)}")
        same = " ".join(row["text"].split()).casefold()
        if same in seen:
            raise CorpusError(
                f"{where}: the text stands already in line {seen[same]}; between training and test it would leak the "
                "answer, so keep one of the two"
            )
        seen[same] = row["line"]
    if 0 < sum(bool(row["split"]) for row in rows) < len(rows):
        bare = next(row["line"] for row in rows if not row["split"])
        raise CorpusError(f"{path}, line {bare}: no split, while other lines have one; fill in all or none")
    counts = Counter(row["label"] for row in rows)
    if len(counts) < 2:
        raise CorpusError(f"{path}: all {len(rows)} rows have the label {rows[0]['label']!r}; two classes are needed")
    _refuse_rare(path, counts)


def _refuse_labels(path: Path, counts: Counter) -> None:
    """What `read` does not take of the labels, given with the number of their rows."""
    alike = {}
    for name in counts:
        alike.setdefault(" ".join(name.casefold().replace("_", " ").split()), []).append(name)
    if twins := next((names for names in alike.values() if len(names) > 1), None):
        raise CorpusError(
            f"{path}: the labels {' and '.join(map(repr, twins))} differ in capitals, spaces and underscores only: write "
            "one of them everywhere"
        )
    if len(counts) < 2:
        raise CorpusError(
            f"{path}: {sum(counts.values())} rows with the labels {sorted(counts)}; at least two classes are needed"
        )
    _refuse_rare(path, counts)


def _refuse_rare(path: Path, counts: Counter) -> None:
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < FEWEST_ROWS:
        raise CorpusError(
            f"{path}: class {rarest!r} has {count} row{'s' * (count > 1)}, at least {FEWEST_ROWS} are needed; add some, "
            "or merge it with another class"
        )


def _refuse_empty_sides(path: Path, rows: list[dict], sides: Sequence[str]) -> None:
    names = {row["label"] for row in rows}
    for split in SPLITS:
        if missing := names - {row["label"] for row, side in zip(rows, sides) if side == split}:
            raise CorpusError(f"{path}: split {split!r} has no row of class {min(missing)!r}; give it at least one")


# --- the splitter ----------------------------------------------------------------------------------------------------


def split(rows: Sequence[dict], seed: int = 0) -> "DatasetDict":
    """Train, validation and test: 70, 15 and 15 per cent of each class, drawn with `seed`; columns text, label, line.

    Texts that are copies of each other, or nearly (`duplicates.near_duplicates`), stay on one side: a copy in the test
    would ask for what was learned by heart.

    Raises CorpusError for a class of fewer than three different texts.
    """
    groups = copies(tuple(row["text"] for row in rows))
    return _datasets(rows, _draw([row["label"] for row in rows], groups, seed), ("text", "label", "line"))


def _draw(labels: Sequence[str], groups: Sequence[tuple[int, ...]], seed: int) -> list[str]:
    """The side of each row; the rows of a group, which has the label of its first row, stay together."""
    sides, shuffle = [""] * len(labels), random.Random(seed)
    for name in sorted(set(labels)):
        own = [group for group in groups if labels[group[0]] == name]
        total = sum(map(len, own))
        if len(own) < len(SPLITS):
            raise CorpusError(
                f"class {name!r}: its {total} rows are copies of {len(own)} texts; at least {len(SPLITS)} different ones "
                "are needed, one for each of training, validation and test"
            )
        shuffle.shuffle(own)
        own.sort(key=len)  # single texts first: a large group of copies belongs to training
        for group, side in zip(own, _sides(own, max(1, round(SHARE * total)))):
            for row in group:
                sides[row] = side
    return sides


def _sides(groups: Sequence[Sequence[int]], held: int) -> Iterable[str]:
    """The side of each group: the test until it holds so many rows, then validation, then training; none stays empty."""
    sides, filled = ["test", "validation"], 0
    for i, group in enumerate(groups):
        last = len(groups) - i <= len(sides)  # the rest is for the sides that have none yet
        if sides and filled and (filled >= held or last):
            sides.pop(0)
            filled = 0
        filled += len(group)
        yield sides[0] if sides else "train"


def _datasets(rows: Sequence[dict], sides: Sequence[str], columns: Sequence[str]) -> "DatasetDict":
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    names = sorted({row["label"] for row in rows})
    kinds = {"text": Value("string"), "label": ClassLabel(names=names), "line": Value("int64")}
    features = Features({column: kinds[column] for column in columns})
    out = DatasetDict()
    for split in SPLITS:
        part = [row for row, side in zip(rows, sides) if side == split]
        out[split] = Dataset.from_dict(
            {column: [row[column] for row in part] for column in columns}, features=features
        )
    return out


def contradictions(rows: Sequence[dict]) -> list[list[int]]:
    """Lines of texts that are copies of each other and yet have different labels: worth a look, since nobody can learn
    both."""
    groups = copies(tuple(row["text"] for row in rows))
    return [[rows[i]["line"] for i in group] for group in groups if len({rows[i]["label"] for i in group}) > 1]


def write_splits(splits: "DatasetDict", directory: str | Path) -> Path:
    """Write train.csv, validation.csv and test.csv: text, label, and the line of the file that each row came from."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    names = splits["train"].features["label"].names
    for side in SPLITS:
        with (directory / f"{side}.csv").open("w", newline="", encoding="utf8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "line"])
            writer.writerows([row["text"], names[row["label"]], row["line"]] for row in splits[side])
    return directory
