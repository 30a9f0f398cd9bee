"""The lines of a person's file, CSV or JSONL, each with its number; what is no text, no label or no line is refused.

The file is only read. Lines are counted as an editor counts them: they end with LF, CR LF or CR.
"""

import codecs
import csv
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

DELIMITERS = ",;\t|"
LINE_END = re.compile("\r\n|\n|\r")  # not splitlines, which would break a text at U+2028 and its like
SHOWN = 60  # letters of a value that a message repeats


class CorpusError(ValueError):
    """A file of texts cannot be used; the message names the line and the cause. The file is left as it was."""


def shown(value) -> str:
    """A value as a message repeats it: in quotes, on one line, its end left out where it is long.

    >>> shown("a" * 100)[-9:]
    "aaaaaaa…'"
    """
    return repr(value if not isinstance(value, str) or len(value) <= SHOWN else value[:SHOWN] + "…")


def table(path: Path, text: str, label: str, delimiter: Callable) -> list[dict]:
    """text, label, split and line of each row. None stands for what a short line lacks, and for JSON's null.

    delimiter(path, content, columns) says what stands between the columns of a CSV file.
    Raises CorpusError, with the line and the cause, for what cannot be read.
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


def no_text(path: Path, line: int, column: str, value) -> str:
    """The message for a value that is neither text nor label."""
    return (
        f"{path}, line {line}: column {column!r} holds {json.dumps(value)[:40]}, which is no text; fill it in or take "
        "the line out"
    )


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, without its byte order mark; CorpusError names the line of a byte that is none."""
    try:
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as cause:
        raise CorpusError(
            f"{path}: the file cannot be read ({cause.strerror}); ask who owns it, or copy it"
        ) from cause
    try:
        content = raw.decode("utf8")
    except UnicodeDecodeError as cause:
        line = len(re.findall(rb"\r\n|\n|\r", raw[: cause.start])) + 1
        raise CorpusError(
            f"{path}, line {line}: byte {raw[cause.start]:#04x} is not UTF-8; save the file as UTF-8 "
            "(in a spreadsheet: 'CSV UTF-8') and call again"
        ) from cause
    if "\0" in content:
        line = len(LINE_END.findall(content[: content.index("\0")])) + 1
        raise CorpusError(
            f"{path}, line {line}: a byte is zero, as in UTF-16 and in files that hold no text; save the file as UTF-8"
        )
    return content


def delimiter_of_name(path: Path, content: str, columns: Sequence[str]) -> str:
    """A tab for .tsv, else a comma."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def delimiter_of_header(path: Path, content: str, columns: Sequence[str]) -> str:
    """What stands between the names in the first line. Raises CorpusError where no delimiter gives both columns."""
    first = next((line for line in LINE_END.split(content) if line.strip()), "")
    headers = {d: _cells(first, d) for d in DELIMITERS}
    for delimiter, header in headers.items():
        if set(columns) <= set(header):
            return delimiter
    likeliest = max(headers.values(), key=len)
    missing = next(column for column in columns if column not in likeliest)
    raise CorpusError(
        f"{path}: no column {missing!r} in the first line; it has {_names(likeliest)}. Say which columns hold the text "
        "and the label"
    )


def _cells(line: str, delimiter: str) -> list[str]:
    return next(_reader([line], len(line), delimiter), [])


def _reader(lines: Iterable[str], longest: int, delimiter: str, **settings) -> Iterable[list[str]]:
    # The limit of 131,072 letters a field belongs to the whole process, so it is put back after each line.
    reader = csv.reader(lines, delimiter=delimiter, **settings)
    while True:
        before = csv.field_size_limit(longest + 1)
        try:
            fields = next(reader)
        except StopIteration:
            return
        finally:
            csv.field_size_limit(before)
        yield fields if not settings else (reader.line_num, fields)


def _json_lines(path: Path, content: str, columns: Sequence[str]) -> Iterable[tuple[int, dict]]:
    for line, string in enumerate(LINE_END.split(content), 1):
        if string.strip():
            try:
                record = json.loads(string, object_pairs_hook=_Object)
            except json.JSONDecodeError as cause:
                raise CorpusError(
                    f"{path}, line {line}: not JSON ({cause.msg}); each line must be one object"
                ) from cause
            except (ValueError, RecursionError) as cause:  # a number of 5,000 digits, 100,000 brackets
                why = (
                    "brackets within brackets too deep" if isinstance(cause, RecursionError) else "a number too long"
                )
                raise CorpusError(
                    f"{path}, line {line}: JSON that cannot be read ({why}); take the line out"
                ) from cause
            if not isinstance(record, dict):
                raise CorpusError(f"{path}, line {line}: {string[:40]!r} is not an object with named columns")
            _require_columns(path, line, record.names, columns)
            yield line, record


class _Object(dict):
    """A JSON object that remembers all names that were given, also those given twice."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _csv_lines(path: Path, content: str, delimiter: str, columns) -> Iterable[tuple[int, dict]]:
    # strict: a quote that is never closed would otherwise swallow all rows behind it.
    lines, header, begin = io.StringIO(content, newline=""), None, 1
    try:
        for last, fields in _reader(lines, len(content), delimiter, strict=True):
            if fields and header is None:
                _require_columns(path, begin, fields, columns)
                header = fields
            elif fields:
                if len(fields) > len(header):
                    raise CorpusError(
                        f"{path}, line {begin}: {len(fields) - len(header)} more fields than columns; put texts "
                        "that hold a comma between double quotes"
                    )
                _refuse_nameless(path, begin, header, fields)
                yield begin, dict(itertools.zip_longest(header, fields))
            begin = last + 1
    except csv.Error as cause:
        raise CorpusError(
            f"{path}, line {begin}: {cause}; a text that begins with a double quote must end with one, and "
            "those within it are doubled"
        ) from cause


def _refuse_nameless(path: Path, line: int, header: list[str], fields: list[str]) -> None:
    """A column without a name may be a table's row numbers, the first, or empty; else it is likely part of a text."""
    for place, (name, value) in enumerate(zip(header, fields)):
        if place and not name.strip() and value.strip():
            raise CorpusError(
                f"{path}, line {line}: column {place + 1} has no name in the first line and holds {shown(value)} here; "
                "give it a name, or put a text that holds the delimiter between double quotes"
            )


def _require_columns(path: Path, line: int, header: Sequence[str], columns: Sequence[str]) -> None:
    counts = Counter(header)
    for column in columns:
        if column not in counts:
            raise CorpusError(
                f"{path}, line {line}: no column {column!r}; it has {_names(header)}. "
                "Say which to read: from_csv(path, text='…', label='…')"
            )
    for column in (*columns, "split"):
        if counts[column] > 1:
            raise CorpusError(
                f"{path}, line {line}: {counts[column]} columns have the name {column!r}; give each a name of its own, "
                "so that it is clear which one to read"
            )


def _names(header: Sequence[str]) -> str:
    names = [shown(name) for name in header[:20]]
    return ", ".join([*names, *(["…"] if len(header) > 20 else [])]) or "nothing"


def _field(path: Path, line: int, record: dict, column: str) -> str | None:
    # A number may be a label, a list and NaN cannot. A lone surrogate is what JSON escapes leave of an emoji cut in two.
    value = record[column]
    if value is None:
        return None
    number = isinstance(value, (int, float)) and math.isfinite(value)
    if not (isinstance(value, str) or number) or re.search("[\ud800-\udfff]", str(value)):
        raise CorpusError(no_text(path, line, column, value))
    return str(value)
