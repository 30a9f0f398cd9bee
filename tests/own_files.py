"""A small file of a learner's own, for the tests of what is made of it."""

import csv
import random

WORDS = {
    "refund": "money back paid twice sum bank card returned cash invoice wrong total charge".split(),
    "delivery": "parcel late van road lost box doorstep courier wet tracking street neighbour".split(),
    "praise": "thanks lovely great kind quick perfect happy again friend smile warm best".split(),
}
CLASSES = list(WORDS)


def texts(label, count, seed=0):
    """Texts of six words of a class, in random orders, so that hardly two share a trigram."""
    draw = random.Random(f"{label}{seed}")
    return [" ".join(draw.choices(WORDS[label], k=6)) for _ in range(count)]


def write(path, rows, columns=("body", "topic"), delimiter=",", encoding="utf8"):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([columns, *rows])
    return path


ROWS = [(text, label) for label in CLASSES for text in texts(label, 20)]
