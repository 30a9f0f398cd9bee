"""The texts of the course, each as a `datasets.Dataset`; and your own file in their place."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .own import SPLITS, CorpusError, from_csv

if TYPE_CHECKING:  # imported where a text is read: it takes a second
    from datasets import Dataset

DATA = Path(__file__).parents[2] / "data"

INTENTS = [
    "billing",
    "delivery",
    "refund",
    "technical",
    "account",
    "cancellation",
    "product_question",
    "praise_or_complaint",
]
SENTIMENTS = ["negative", "neutral", "positive"]
URGENCIES = ["low", "normal", "high"]
# One word a label, each a single token behind a space; the last two labels have no such word of their own.
WORDS = {"product_question": "question", "praise_or_complaint": "feedback"}

REASONING = ("logic", "commonsense", "factual")

__all__ = [
    "CorpusError",
    "fingerprint",
    "from_csv",
    "handbook",
    "handbook_questions",
    "reasoning",
    "replies",
    "tickets",
    "vocabulary",
    "word_problems",
]


def tickets(split: str) -> "Dataset":
    """Support tickets of an invented company: text, intent, sentiment, urgency, and the record to extract.

    split: "train", "validation" or "test"; another raises CorpusError. Labels are class numbers with names in
    `.features`; `record` is a JSON object. What they are and how they were made stands in data/README.md.

    >>> tickets("test").features["intent"].names[:3]
    ['billing', 'delivery', 'refund']
    """
    from datasets import ClassLabel, Dataset, Features, Value

    _refuse_split("tickets", split, SPLITS)
    rows = _rows(f"tickets/{split}.jsonl")
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "intent": ClassLabel(names=INTENTS),
            "sentiment": ClassLabel(names=SENTIMENTS),
            "urgency": ClassLabel(names=URGENCIES),
            "record": Value("string"),
        }
    )
    columns = {name: [row[name] for row in rows] for name in ("id", "text", "intent", "sentiment", "urgency")}
    columns["record"] = [json.dumps(row["record"], ensure_ascii=False) for row in rows]
    return Dataset.from_dict(columns, features=features)


def replies(split: str) -> "Dataset":
    """Replies to tickets in two registers: ticket (its id), text (the ticket's), plain, and house (the house style).

    split: "train" (120) or "test" (30). data/replies/guide.md says what the house style is.

    >>> replies("test")["house"][0].splitlines()[-1]
    'Yours, the Quillhaven desk'
    """
    _refuse_split("replies", split, ("train", "test"))
    texts = {row["id"]: row["text"] for row in _rows(f"tickets/{split}.jsonl")}
    rows = _rows(f"replies/{split}.jsonl")
    return _dataset([row | {"text": texts[row["ticket"]]} for row in rows])


def handbook() -> "Dataset":
    """Forty facts of the company's that no model has seen: id, fact, topic.

    >>> len(handbook())
    40
    """
    return _dataset(_rows("handbook/facts.jsonl"))


def handbook_questions(split: str) -> "Dataset":
    """Questions about the handbook with short answers: id, fact (its id), question, answer.

    split: "train" (one a fact) or "test" (two a fact, in other words).
    """
    _refuse_split("handbook's questions", split, ("train", "test"))
    rows = [row for row in _rows("handbook/questions.jsonl") if row.pop("split") == split]
    return _dataset(rows)


def vocabulary() -> "Dataset":
    """The company's own words: word, meaning, examples (three sentences each)."""
    return _dataset(_rows("handbook/vocabulary.jsonl"))


def word_problems(split: str) -> "Dataset":
    """Arithmetic in one to six steps: question, steps, chain, program, answer, distractor.

    split: "train" (1800), "validation" (200) or "test" (300); made by `tools.word_problems`.

    >>> exec(word_problems("test")[0]["program"], names := {}); names["answer"] == word_problems("test")[0]["answer"]
    True
    """
    _refuse_split("word problems", split, SPLITS)
    return _dataset(_rows(f"word_problems/{split}.jsonl"))


def reasoning(kind: str, split: str = "test") -> "Dataset":
    """Questions with four options: question, options, answer (the right one's place), chain.

    kind: "logic", "commonsense" or "factual". split: "test" (60), or "shots" (8, for prompts).

    Raises CorpusError for another kind or split.
    """
    if kind not in REASONING:
        raise CorpusError(f"no reasoning set {kind!r}; there are {', '.join(REASONING)}")
    _refuse_split(f"{kind} questions", split, ("test", "shots"))
    wanted = ("id", "question", "options", "answer", "chain")
    rows = [row for row in _rows(f"reasoning/{kind}.jsonl") if row["split"] == split]
    return _dataset([{key: row[key] for key in wanted} for row in rows])


def _dataset(rows: list[dict]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_list(rows)


def _rows(file: str) -> list[dict]:
    # Not splitlines, which would break a text at U+2028 and its like.
    return [json.loads(line) for line in (DATA / file).read_text("utf8").split("\n") if line]


def _refuse_split(corpus: str, split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise CorpusError(f"no split {split!r} of the {corpus}; there are {', '.join(known)}")


def fingerprint(name: str) -> str:
    """A short hash of all files of a corpus, kept with every recorded run that used it.

    name: a directory of data, or one of the sets of digits, "digits" and "mnist1d", which have no files.
    """
    from . import digits

    if name in digits.SETS:
        return digits.fingerprint(name)
    digest = hashlib.sha256()
    for path in sorted((DATA / name).glob("*.jsonl")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
