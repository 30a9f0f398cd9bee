"""Your own file where the course's tickets stand: read, checked, and split; never changed.

One reader and one splitter, and two ways of being strict. `from_csv` takes a file that was prepared: a text that stands
twice is refused. `read` and `split` take mail as it came in: copies are kept, and never stand on both sides of the split.
"""

import csv
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .class_names import alike, differences, is_blank
from .duplicates import common_passage, copies
from .table import SHOWN, CorpusError, delimiter_of_header, delimiter_of_name, no_text, shown, table

if TYPE_CHECKING:  # imported where a file is read: it takes a second
    from datasets import DatasetDict

SPLITS = ("train", "validation", "test")
SHARE = 0.15  # of each class, for the test and again for validation
FEWEST_ROWS = 10  # a class in a file of your own needs as many, so that each split holds some
NAMED = 5  # pairs of lines that a message names; of the others it gives the number


def from_csv(path: str | Path, text: str = "text", label: str = "label", seed: int = 0) -> "DatasetDict":
    """Your own file, CSV or JSONL, wherever tickets can stand: train, validation and test with `text` and `label`.

    path: a UTF-8 file; its first line names the columns (CSV), or each line is an object (JSONL). `.tsv` is split at
        tabs.
    text, label: the columns to read. A column `split` (train, validation, test) is followed if there is one;
        otherwise 70, 15 and 15 per cent of each class are drawn with `seed`.

    Raises CorpusError, with the line and the cause, for: a missing file or column, two columns of one name, another
    encoding, an unreadable line, a text or label that is empty or no text (NaN), labels that look alike, a single class,
    a class of fewer than 10 rows, texts that stand twice (they would leak from training into the test; all are named at
    once). The file itself is only read.

    >>> from_csv("nowhere.csv")
    Traceback (most recent call last):
    lessonlib.corpora.table.CorpusError: nowhere.csv: there is no such file; give the path of a .csv, .tsv or .jsonl file
    """
    path = Path(path)
    rows = table(path, text, label, delimiter_of_name)
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

    Raises CorpusError, with the line and the cause, for: a missing file or column, two columns of one name, another
    encoding than UTF-8, an unreadable line, a text or label that is empty or no text (NaN), labels that look alike, a
    single class, and a class of fewer than 10 rows.
    """
    file = Path(file)
    rows = table(file, text, label, delimiter_of_header)
    for row in rows:
        for key, column in (("text", text), ("label", label)):
            if is_blank(row[key] or ""):
                raise CorpusError(
                    f"{file}, line {row['line']}: column {column!r} is empty; fill it in or take the line out"
                )
    _refuse_twins(file, rows)
    counts = Counter(row["label"] for row in rows)
    if len(counts) < 2:
        raise CorpusError(
            f"{file}: {len(rows)} rows with the labels [{', '.join(map(shown, counts))}]; at least two classes are needed"
        )
    _refuse_rare(file, counts)
    return [{key: row[key] for key in ("text", "label", "line")} for row in rows]


# --- what is refused -------------------------------------------------------------------------------------------------


def _refuse_bad_rows(path: Path, rows: list[dict], columns: dict[str, str]) -> None:
    """What `from_csv` does not take. columns: what the file calls text and label."""
    if not rows:
        raise CorpusError(f"{path}: there are no rows; the first line names the columns, each further line is a text")
    for row in rows:
        where = f"{path}, line {row['line']}"
        for key, column in columns.items():
            if row[key] is None:
                raise CorpusError(no_text(path, row["line"], column, None))
            if is_blank(row[key]):
                raise CorpusError(f"{where}: the {key} is empty; fill it in or take the line out")
        if row["split"] and row["split"] not in SPLITS:
            raise CorpusError(f"{where}: split {shown(row['split'])}; it may be {', '.join(SPLITS)}")
    if 0 < sum(bool(row["split"]) for row in rows) < len(rows):
        bare = next(row["line"] for row in rows if not row["split"])
        raise CorpusError(f"{path}, line {bare}: no split, while other lines have one; fill in all or none")
    _refuse_twins(path, rows)
    _refuse_repeats(path, rows)
    counts = Counter(row["label"] for row in rows)
    if len(counts) < 2:
        raise CorpusError(
            f"{path}: all {len(rows)} rows have the label {shown(rows[0]['label'])}; two classes are needed"
        )
    _refuse_rare(path, counts)


def _refuse_repeats(path: Path, rows: list[dict]) -> None:
    """Texts that stand twice, all of them at once; those under two labels are named as such."""
    first, repeats = {}, []
    for row in rows:
        same = " ".join(row["text"].split()).casefold()
        if same in first:
            repeats.append((first[same], row))
        else:
            first[same] = row
    if not repeats:
        return
    quarrels = [pair for pair in repeats if pair[0]["label"] != pair[1]["label"]]
    one, other = (quarrels or repeats)[0]
    labels = f", there as {shown(one['label'])} and here as {shown(other['label'])}" if quarrels else ""
    more = ""
    if len(repeats) > 1:
        lines = ", ".join(f"line {b['line']} as line {a['line']}" for a, b in repeats[:NAMED])
        rest = f" and {len(repeats) - NAMED} more" * (len(repeats) > NAMED)
        two = f"; {len(quarrels)} of them under another label" * bool(quarrels)
        more = f" In all {len(repeats)} rows repeat an earlier text: {lines}{rest}{two}."
    raise CorpusError(
        f"{path}, line {other['line']}: the text stands already in line {one['line']}{labels}; between training and test "
        f"it would leak the answer, so keep one of the two.{more}"
    )


def _refuse_twins(path: Path, rows: list[dict]) -> None:
    """Labels that are one class to whoever wrote them, and several to a program."""
    line = {}
    for row in rows:
        line.setdefault(row["label"], row["line"])
    for twins in (found[:NAMED] for found in alike(list(line))):
        how, spelled = differences(twins), ""
        parting = next((i for i, letters in enumerate(zip(*twins)) if len(set(letters)) > 1), min(map(len, twins)))
        begin = max(0, parting - SHOWN // 2)  # where they part is shown, however long they are
        parts = [name[begin:] for name in twins]
        if "Unicode" in how or "invisible" in how:
            spelled = f"; letter by letter they are {' and '.join(ascii(part)[: 2 * SHOWN] for part in parts)}"
        raise CorpusError(
            f"{path}: the labels {' and '.join(map(shown, parts))} differ in {how} only{spelled} (first in lines "
            f"{' and '.join(str(line[name]) for name in twins)}): write one of them everywhere"
        )


def _refuse_rare(path: Path, counts: Counter) -> None:
    rarest, count = min(counts.items(), key=lambda item: item[1])
    others = sum(n < FEWEST_ROWS for n in counts.values()) - 1
    if count < FEWEST_ROWS:
        more = f" ({others} more of the {len(counts)} classes have too few: is it the right column?)" * bool(others)
        raise CorpusError(
            f"{path}: class {shown(rarest)} has {count} row{'s' * (count > 1)}, at least {FEWEST_ROWS} are needed; add "
            f"some, or merge it with another class{more}"
        )


def _refuse_empty_sides(path: Path, rows: list[dict], sides: Sequence[str]) -> None:
    names = {row["label"] for row in rows}
    for split in SPLITS:
        if missing := names - {row["label"] for row, side in zip(rows, sides) if side == split}:
            raise CorpusError(
                f"{path}: split {split!r} has no row of class {shown(min(missing))}; give it at least one"
            )


# --- the splitter ----------------------------------------------------------------------------------------------------


def split(rows: Sequence[dict], seed: int = 0) -> "DatasetDict":
    """Train, validation and test: 70, 15 and 15 per cent of each class, drawn with `seed`; columns text, label, line.

    Texts that are copies of each other, or nearly (`duplicates.near_duplicates`), stay on one side: a copy in the test
    would ask for what was learned by heart.

    Raises CorpusError for a class of fewer than three different texts.
    """
    texts = tuple(row["text"] for row in rows)
    groups = copies(texts)
    for name, few in _scarce([row["label"] for row in rows], groups).items():
        raise CorpusError(_only_copies(rows, name, few))
    return _datasets(rows, _draw([row["label"] for row in rows], groups, seed), ("text", "label", "line"))


def _scarce(labels: Sequence[str], groups: Sequence[tuple[int, ...]]) -> dict[str, list[tuple[int, ...]]]:
    """The classes with fewer groups of copies than there are sides, each with the groups that hold a row of it."""
    own = Counter(labels[group[0]] for group in groups)
    scarce = {name: [] for name in sorted(set(labels)) if own[name] < len(SPLITS)}
    for group in groups if scarce else ():
        for name in {labels[row] for row in group} & scarce.keys():
            scarce[name].append(group)
    return scarce


def _only_copies(rows: Sequence[dict], name: str, groups: Sequence[tuple[int, ...]]) -> str:
    """What is said of a class that has no three different texts."""
    total = sum(row["label"] == name for row in rows)
    largest = max(groups, key=len)
    example = (
        f"such as {shown(rows[largest[0]]['text'])} in lines {', '.join(str(rows[i]['line']) for i in largest[:3])}"
    )
    elsewhere = sum(rows[group[0]]["label"] != name for group in groups)
    also = f"; {elsewhere} of these stand first under another label" * bool(elsewhere)
    found = common_passage([rows[row]["text"] for group in groups for row in group])
    passage = (
        f". They share the passage {shown(found[0])}: take it out where it says nothing of the class" if found else ""
    )
    return (
        f"class {shown(name)}: its {total} rows are copies of {len(groups)} texts; at least {len(SPLITS)} different ones "
        f"are needed, one for each of training, validation and test ({example}{also}){passage}"
    )


def _draw(labels: Sequence[str], groups: Sequence[tuple[int, ...]], seed: int) -> list[str]:
    """The side of each row; the rows of a group, which has the label of its first row, stay together."""
    sides, shuffle = [""] * len(labels), random.Random(seed)
    owned: dict[str, list] = {}
    for group in groups:
        owned.setdefault(labels[group[0]], []).append(group)
    for _, own in sorted(owned.items()):
        shuffle.shuffle(own)
        own.sort(key=len)  # single texts first: a large group of copies belongs to training
        for group, side in zip(own, _sides(own, max(1, round(SHARE * sum(map(len, own)))))):
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
