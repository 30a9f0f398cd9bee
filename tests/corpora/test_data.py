"""The tickets and the claims are what data/README.md says; each of its figures is recomputed here."""

import csv
import hashlib
import itertools
import json
import math
import re
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.pipeline import make_union

from lessonlib.corpora import DATA, INTENTS, SENTIMENTS, SPLITS, URGENCIES
from lessonlib.course.claims import VERDICTS, Claim

LABELS = {"intent": INTENTS, "sentiment": SENTIMENTS, "urgency": URGENCIES}
RECORD = ("order_number", "product", "date", "amount")
PRODUCTS = {"Kestrel", "Ember", "Tidepool", "Fernbox", "Nook", "Arc"}
DATASHEET = (DATA / "README.md").read_text("utf8")
PROSE = " ".join(DATASHEET.split())


def read_jsonl(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / "tickets" / name).read_text("utf8").split("\n") if line]


TICKETS = {split: read_jsonl(f"{split}.jsonl") for split in SPLITS}
ALL = [ticket for split in SPLITS for ticket in TICKETS[split]]
BOTH = read_jsonl("labels/both.jsonl")


def table(*header: str) -> list[list[str]]:
    """The rows of the datasheet's table that begins with these columns."""
    begin = re.escape("| " + " | ".join(header))
    (rows,) = re.findall(rf"^{begin} \|.*\n\| ---.*\n((?:\|.*\n)+)", DATASHEET, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows.splitlines()]


def in_each_split(holds) -> list[str]:
    counts = [sum(map(holds, TICKETS[split])) for split in SPLITS]
    return [str(count) for count in (*counts, sum(counts))]


def value(labelling: dict, name: str):
    return labelling["record"][name] if name in RECORD else labelling[name]


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson 1927, written out: centre ± half width, z of 95 %."""
    p, z = right / n, 1.959964
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


# --- the tickets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, expected", json.loads((DATA / "frozen.json").read_text())["sha256"].items())
def test_frozen_files_are_the_ones_that_were_frozen(name, expected):
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == expected


def test_every_file_of_the_tickets_is_frozen():
    frozen = json.loads((DATA / "frozen.json").read_text())
    assert {path.relative_to(DATA).as_posix() for path in DATA.glob("tickets/**/*.jsonl")} == set(frozen["sha256"])
    assert f"The tickets were frozen on {frozen['frozen']}." in PROSE


def test_there_are_at_least_1000_tickets_with_200_to_validate_and_200_to_test():
    assert len(ALL) >= 1000
    assert len(TICKETS["validation"]) == len(TICKETS["test"]) == 200


def test_ids_are_unique_and_run_through_test_validation_and_train():
    ids = [ticket["id"] for split in ("test", "validation", "train") for ticket in TICKETS[split]]
    assert ids == [f"T{number:04}" for number in range(1, len(ALL) + 1)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", LABELS)
def test_every_class_and_no_other_is_in_each_split(name, split):
    assert {ticket[name] for ticket in TICKETS[split]} == set(LABELS[name])


def test_there_are_eight_intents():
    assert len(set(INTENTS)) == 8


def test_a_ticket_has_the_documented_keys_and_no_other():
    documented = [row[0].strip("`") for row in table("key", "value")]
    assert {tuple(ticket) for ticket in ALL} == {tuple(documented)}
    assert {tuple(ticket["record"]) for ticket in ALL} == {RECORD}


def test_order_numbers_dates_and_amounts_stand_in_the_text_letter_by_letter():
    copied = [(ticket, ticket["record"][name]) for ticket in ALL for name in ("order_number", "date", "amount")]
    assert [t["id"] for t, part in copied if part is not None and (not part or part not in t["text"])] == []


def test_products_are_the_six_of_the_guide():
    guide = (DATA / "tickets" / "guide.md").read_text("utf8")
    assert set(re.findall(r"^\| ([A-Z]\w+) \|", guide, re.MULTILINE)) == PRODUCTS
    assert {ticket["record"]["product"] for ticket in ALL} == PRODUCTS | {None}


def test_an_order_number_has_six_digits_and_is_used_once():
    numbers = [re.sub(r"\D", "", t["record"]["order_number"]) for t in ALL if t["record"]["order_number"]]
    assert {len(number) for number in numbers} == {6}
    assert len(set(numbers)) == len(numbers)


def test_no_two_texts_are_equal():
    texts = Counter(" ".join(re.findall(r"\w+", ticket["text"].casefold())) for ticket in ALL)
    assert texts.most_common(1)[0][1] == 1


@pytest.fixture(scope="module")
def overlaps() -> list[tuple[float, bool]]:
    """Of each pair of tickets: shared trigrams over those of the poorer one; and whether the split is one."""

    def trigrams(text):
        words = re.findall(r"\w+", text.lower())
        return set(zip(words, words[1:], words[2:]))

    sets = [(split, trigrams(ticket["text"])) for split in SPLITS for ticket in TICKETS[split]]
    assert all(grams for _, grams in sets)
    pairs = itertools.combinations(sets, 2)
    return [(len(a & b) / min(len(a), len(b)), split == other) for (split, a), (other, b) in pairs]


def test_no_text_has_a_near_duplicate_in_another_split(overlaps):
    worst = max(overlap for overlap, same_split in overlaps if not same_split)
    assert worst < 0.31  # a near duplicate would have 0.35 or more
    assert f"the two most alike share {worst:.3f} of their word trigrams" in PROSE


def test_no_text_has_a_near_duplicate_in_its_own_split(overlaps):
    assert max(overlap for overlap, same_split in overlaps if same_split) <= 0.3
    assert "within a split, no two share more than 0.3" in PROSE


# --- the two labellings -----------------------------------------------------------------------------------


def test_final_labels_are_those_agreed_on_or_one_of_the_two():
    final = {ticket["id"]: ticket for ticket in ALL}
    assert [both["id"] for both in BOTH] == sorted(final)
    for both in BOTH:
        for name in (*LABELS, *RECORD):
            labels = {value(both["first"], name), value(both["second"], name)}
            assert value(final[both["id"]], name) in labels, both["id"]


def test_the_datasheets_agreement_is_that_of_the_two_labellings():
    final, rows = {ticket["id"]: ticket for ticket in ALL}, []
    for name in (*LABELS, *RECORD):
        first, second = ([value(both[who], name) for both in BOTH] for who in ("first", "second"))
        decided = [value(final[both["id"]], name) for both in BOTH]
        differ = [(d == a, d == b) for a, b, d in zip(first, second, decided) if a != b]
        same = len(BOTH) - len(differ)
        kappa = f"{cohen_kappa_score(first, second):.3f}" if name in LABELS else "–"
        writer, other = (str(sum(column)) for column in zip(*differ, strict=True)) if differ else ("0", "0")
        rows.append([name, str(same), f"{same / len(BOTH):.3f}", kappa, writer, other])
    assert table("label", "same") == rows


def test_the_datasheet_counts_what_a_third_session_decided():
    tickets = sum(both["first"] != both["second"] for both in BOTH)
    rows = table("label", "same")
    writer, second = (sum(int(row[column]) for row in rows) for column in (4, 5))
    assert f"That concerned {tickets} tickets and {writer + second} labels or fields;" in PROSE
    assert f"{second} were decided for the second labeller and {writer} for the writer" in PROSE


# --- the datasheet's other figures ------------------------------------------------------------------------


def test_the_datasheet_describes_everything_in_the_directory():
    described = {row[0].strip("`/") for row in table("here", "what it is")}
    found = {path.name for path in DATA.iterdir() if not path.name.startswith(".")}
    assert found - {"README.md"} <= described


@pytest.mark.parametrize("name", LABELS)
def test_the_datasheet_counts_labels_by_split(name):
    counts = [[label, *in_each_split(lambda t, label=label: t[name] == label)] for label in LABELS[name]]
    assert table(name, "train") == counts


def test_the_datasheet_counts_the_fields_of_the_record_by_split():
    counts = [[name, *in_each_split(lambda t, name=name: t["record"][name] is not None)] for name in RECORD]
    assert table("record field", "train") == counts


def test_the_datasheets_lengths_are_those_of_the_texts():
    rows = []
    for split, tickets in {**TICKETS, "all": ALL}.items():
        words, ids = [len(ticket["text"].split()) for ticket in tickets], sorted(t["id"] for t in tickets)
        low, median, high = (f"{p:g}" for p in np.percentile(words, [10, 50, 90]).round(1))
        rows.append([split, f"{ids[0]} to {ids[-1]}", str(len(ids)), low, median, high, str(max(words))])
    assert table("split", "ids") == rows


def test_the_datasheets_sums_add_up():
    written, dropped, left = (
        int(number.replace(",", ""))
        for number in re.search(
            r"([\d,]+) tickets were written\. (\d+) were dropped.* ([\d,]+) remain", PROSE
        ).groups()
    )
    assert written - dropped == left == len(ALL)
    assert f"{left:,} support tickets" in PROSE and f"`T0001` to `T{left}`" in PROSE
    sizes = [len(TICKETS[split]) for split in ("test", "validation", "train")]
    order = "The first {} are the test set, the next {} the validation set, the remaining {} the training set"
    assert order.format(*sizes) in PROSE
    fewest, most = (pick(Counter(t["intent"] for t in TICKETS["test"]).values()) for pick in (min, max))
    assert f"the test set holds from {fewest} to {most} tickets of an intent" in PROSE
    low, high = wilson(160, 200)
    assert f"an interval of about {high - low:.2f} in width at an accuracy of 0.8" in PROSE


def test_the_commonest_intent_scores_what_the_datasheet_says():
    (commonest, _), *_ = Counter(ticket["intent"] for ticket in TICKETS["train"]).most_common()
    right = {split: sum(t["intent"] == commonest for t in TICKETS[split]) for split in SPLITS}
    low, high = wilson(right["test"], 200)
    scores = [f"{right[split] / 200:.3f}" for split in ("validation", "test")]
    expected = [f"always `{commonest}`, the commonest in training", *scores, f"{low:.3f} to {high:.3f}"]
    assert table("intent from the text by")[0] == expected


# --- how hard the tickets are -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear() -> dict[str, float]:
    """Accuracy of a linear classifier on TF-IDF, its C chosen on validation."""
    texts = {split: [ticket["text"] for ticket in TICKETS[split]] for split in SPLITS}
    intents = {split: [ticket["intent"] for ticket in TICKETS[split]] for split in SPLITS}
    words = TfidfVectorizer(ngram_range=(1, 2))
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5))
    counts = make_union(words, letters).fit(texts["train"])
    X = {split: counts.transform(texts[split]) for split in SPLITS}
    fitted = [LogisticRegression(C=C, max_iter=2000).fit(X["train"], intents["train"]) for C in (1, 10, 100)]
    best = max(fitted, key=lambda model: model.score(X["validation"], intents["validation"]))
    return {split: best.score(X[split], intents[split]) for split in ("validation", "test")}


@pytest.mark.slow
def test_words_alone_tell_something_of_the_intent_and_not_all(linear):
    assert 0.6 < linear["test"] < 0.9


@pytest.mark.slow
def test_the_datasheets_score_of_the_linear_classifier_is_the_measured_one(linear):
    name, validation, test, interval = table("intent from the text by")[1]
    low, high = wilson(round(200 * float(test)), 200)
    assert name == "linear TF-IDF" and interval == f"{low:.3f} to {high:.3f}"
    # Two values of C are one validation ticket apart; another processor may choose the other: four of 200.
    assert linear == pytest.approx({"validation": float(validation), "test": float(test)}, abs=0.0201)


# --- the claims -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def claims() -> list[dict]:
    with (DATA / "claims.csv").open(encoding="utf8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def test_there_are_223_claims_each_with_an_id_of_its_own(claims):
    assert [claim["id"] for claim in claims] == [f"C{number:03}" for number in range(1, 224)]
    assert f"{len(claims)} claims of the source lessons" in PROSE


def test_every_claim_has_all_columns_and_those_that_must_be_filled_are(claims):
    assert {tuple(claim) for claim in claims} == {tuple(field.name for field in fields(Claim))}
    assert [c["id"] for c in claims if None in c.values() or not (c["claim"].strip() and c["source"].strip())] == []


def test_verdicts_are_the_librarys_and_notebooks_have_two_digits(claims):
    assert [claim["id"] for claim in claims if claim["verdict"] not in VERDICTS] == []
    assert {claim["notebook"] for claim in claims} == {f"{number:02}" for number in range(1, 11)}


def test_a_number_that_is_correct_has_a_tolerance_and_nothing_else_has(claims):
    wrong = [c["id"] for c in claims if is_number(c["correct"]) != is_number(c["tolerance"])]
    assert wrong == []
    assert all(float(claim["tolerance"]) >= 0 for claim in claims if claim["tolerance"])


def test_what_is_called_wrong_lies_outside_the_tolerance_of_what_is_correct(claims):
    for claim in claims:
        if claim["verdict"] == "wrong" and is_number(claim["stated"]) and is_number(claim["correct"]):
            gap = abs(float(claim["stated"]) - float(claim["correct"]))
            assert gap > float(claim["tolerance"]), claim["id"]
