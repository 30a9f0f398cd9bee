"""A file that nobody has seen, as texts to train and to judge on: read, split, and what needs no language model.

Stricter than a person is, and milder than `own_data`: texts may stand twice, as they do in real mail, but copies never
stand on both sides of the split.
"""

import csv
import functools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lessonlib.evaluation import Accuracy
from lessonlib.serving.release import near_duplicates

from . import own as own_data
from .own import SPLITS, CorpusError

DELIMITERS = ",;\t|"
SHARE = 0.15  # of each class, for the test and again for validation


# --- read ------------------------------------------------------------------------------------------------------------


def read(file: str | Path, text: str = "text", label: str = "label") -> list[dict]:
    """The rows of a CSV file, each a dictionary of text, label and line; the file is only read.

    Commas, semicolons, tabs or bars between the columns are told apart by the first line. Texts that stand twice are
    kept (`split` puts them on one side).

    Raises CorpusError, with the line and the cause, for: a missing file or column, another encoding than UTF-8, an
    unreadable line, an empty text or label, labels that differ in capitals and spaces only, a single class, and a class
    of fewer than 10 rows.
    """
    file = Path(file)
    if not file.is_file():
        raise CorpusError(f"{file}: there is no such file; give the path of a .csv file")
    content = own_data.decoded(file)
    delimiter = _delimiter(file, content, (text, label))
    rows = []
    for line, record in own_data.csv_lines(file, content, delimiter, (text, label)):
        for column in (text, label):
            if not (record[column] or "").strip():
                raise CorpusError(
                    f"{file}, line {line}: column {column!r} is empty; fill it in or take the line out"
                )
        rows.append({"text": record[text], "label": record[label].strip(), "line": line})
    _refuse_labels(file, Counter(row["label"] for row in rows))
    return rows


def _delimiter(file: Path, content: str, columns: Sequence[str]) -> str:
    first = next((line for line in content.split("\n") if line.strip()), "")
    headers = {d: next(csv.reader([first.rstrip("\r")], delimiter=d), []) for d in DELIMITERS}
    for delimiter, header in headers.items():
        if set(columns) <= set(header):
            return delimiter
    likeliest = max(headers.values(), key=len)
    missing = next(column for column in columns if column not in likeliest)
    raise CorpusError(
        f"{file}: no column {missing!r} in the first line; it has {', '.join(map(repr, likeliest)) or 'nothing'}. Say "
        "which columns hold the text and the label"
    )


def _refuse_labels(file: Path, counts: Counter) -> None:
    alike = {}
    for name in counts:
        alike.setdefault(" ".join(name.casefold().replace("_", " ").split()), []).append(name)
    if twins := next((names for names in alike.values() if len(names) > 1), None):
        raise CorpusError(
            f"{file}: the labels {' and '.join(map(repr, twins))} differ in capitals, spaces and underscores only: write "
            "one of them everywhere"
        )
    if len(counts) < 2:
        raise CorpusError(
            f"{file}: {sum(counts.values())} rows with the labels {sorted(counts)}; at least two classes are needed"
        )
    own_data.refuse_rare(file, counts)


# --- split -----------------------------------------------------------------------------------------------------------


def split(rows: Sequence[dict], seed: int = 0) -> DatasetDict:
    """Train, validation and test: 70, 15 and 15 per cent of each class, drawn with `seed`; columns text, label, line.

    Texts that are copies of each other, or nearly (`release.near_duplicates`), stay on one side: a copy in the test
    would ask for what was learned by heart.

    Raises CorpusError for a class of fewer than three different texts.
    """
    groups, shuffle = _copies(tuple(row["text"] for row in rows)), random.Random(seed)
    where = [""] * len(rows)
    for name in sorted({row["label"] for row in rows}):
        own = [group for group in groups if rows[group[0]]["label"] == name]
        total = sum(map(len, own))
        if len(own) < len(SPLITS):
            raise CorpusError(
                f"class {name!r}: its {total} rows are copies of {len(own)} texts; at least {len(SPLITS)} different ones "
                "are needed, one for each of training, validation and test"
            )
        shuffle.shuffle(own)
        own.sort(key=len)  # single texts first: a large group of copies belongs to training
        for group, side in zip(own, _sides(own, max(1, round(SHARE * total)))):
            for place in group:
                where[place] = side
    names = sorted({row["label"] for row in rows})
    features = Features({"text": Value("string"), "label": ClassLabel(names=names), "line": Value("int64")})
    parts = {side: [row for row, there in zip(rows, where) if there == side] for side in SPLITS}
    return DatasetDict({side: Dataset.from_list(part, features=features) for side, part in parts.items()})


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


@functools.lru_cache(maxsize=1)  # asked for the split, and again for the report
def _copies(texts: tuple[str, ...]) -> list[tuple[int, ...]]:
    """The places of the texts, in groups of copies; a text that nothing resembles is a group of its own."""
    pairs = np.array(near_duplicates(texts, texts), dtype=int).reshape(-1, 2)
    near = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(texts), len(texts)))
    groups = {}
    for place, group in enumerate(connected_components(near, directed=False)[1].tolist()):
        groups.setdefault(group, []).append(place)
    return [tuple(places) for places in groups.values()]


def contradictions(rows: Sequence[dict]) -> list[list[int]]:
    """Lines of texts that are copies of each other and yet have different labels: worth a look, since nobody can learn
    both."""
    groups = _copies(tuple(row["text"] for row in rows))
    return [
        [rows[i]["line"] for i in group] for group in groups if len({rows[i]["label"] for i in group}) > 1
    ]


def write_splits(splits: DatasetDict, directory: str | Path) -> Path:
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


# --- what it has to beat ---------------------------------------------------------------------------------------------


class Scores(NamedTuple):
    """Accuracy on the validation texts, by which everything is chosen, and on the test texts."""

    validation: Accuracy
    test: Accuracy


def baselines(splits: DatasetDict) -> dict[str, Scores]:
    """What needs no language model: "majority", always the most frequent label; "word counts", TF-IDF of words and of
    letters under logistic regression, its strength chosen on validation."""
    most = Counter(splits["train"]["label"]).most_common(1)[0][0]
    majority = [Accuracy([most] * len(splits[side]), list(splits[side]["label"])) for side in SPLITS[1:]]
    tried = [_word_counts(splits, C) for C in (1, 10, 100)]
    return {
        "majority": Scores(*majority),
        "word counts": max(tried, key=lambda scores: scores.validation.value),
    }


def _word_counts(splits: DatasetDict, C: float) -> Scores:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    counts = make_union(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5)),
    )
    model = make_pipeline(counts, LogisticRegression(C=C, max_iter=2000))
    model.fit(splits["train"]["text"], splits["train"]["label"])
    sides = (splits[side] for side in SPLITS[1:])
    return Scores(*(Accuracy(model.predict(rows["text"]).tolist(), list(rows["label"])) for rows in sides))
