"""The replies keep their guide, the handbook answers its questions, and nothing leaks between the splits."""

import itertools
import json
import re
import statistics
from collections import Counter

import pytest
from test_data import PRODUCTS, TICKETS

from lessonlib.corpora import DATA


def read_jsonl(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text("utf8").split("\n") if line]


REPLIES = {split: read_jsonl(f"replies/{split}.jsonl") for split in ("train", "test")}
ROWS = [row for rows in REPLIES.values() for row in rows]
FACTS = {fact["id"]: fact for fact in read_jsonl("handbook/facts.jsonl")}
QUESTIONS = read_jsonl("handbook/questions.jsonl")
VOCABULARY = read_jsonl("handbook/vocabulary.jsonl")
TEXTS = {ticket["id"]: ticket["text"] for tickets in TICKETS.values() for ticket in tickets}

MONTHS = ("January February March April May June July August September October November December").split()


def datasheet(name: str) -> str:
    return (DATA / name / "datasheet.md").read_text("utf8")


# --- the six rules of the house style: each function finds what breaks its rule -----------------------------

FRAME = re.compile(
    r"Good day(?: (?P<name>[^,\n]+))?,\n"
    r"(?P<message>[^\n]+\.)\n"
    r"(?P<step>Next step: (?:we|please) [^\n]+\.)\n"
    r"Yours, the Quillhaven desk"
)


def frame(reply: str, ticket: str) -> list[str]:
    parts = FRAME.fullmatch(reply)
    if parts is None:
        return ["no frame"]
    name = parts["name"]
    return [name] if name and not all(word in ticket for word in name.split()) else []


def voice(reply: str, ticket: str) -> list[str]:
    singular = re.findall(r"\b(?:I|me|my|mine|myself)\b", reply, re.IGNORECASE)
    plural = re.search(r"\b(?:we|us|our|ours)\b", reply, re.IGNORECASE)
    return singular if plural else ["no we", *singular]


def full_forms(reply: str, ticket: str) -> list[str]:
    pronouns = "it|that|there|here|what|who|where|how|he|she|let"
    return re.findall(rf"\w+n't\b|\w+'(?:ll|re|ve|m|d)\b|\b(?:{pronouns})'s\b", reply, re.IGNORECASE)


def calm(reply: str, ticket: str) -> list[str]:
    words = r"unfortunately|sorry|afraid|apolog\w+|regret\w*|inconvenience|hopefully"
    return re.findall(rf"[!?]|\b(?:{words})\b", reply, re.IGNORECASE)


def dates(reply: str, ticket: str) -> list[str]:
    in_figures = r"(?<![€£\d.])\d{1,2}(?:/\d{1,2}|\.(?:0?[1-9]|1[0-2])\.(?!\d\b))"
    ordinal = r"\d(?:st|nd|rd|th)\b"
    month_first = rf"\b(?:{'|'.join(MONTHS)}) \d{{1,2}}\b"
    short = r"(?<![\d.])\d{1,2} (?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b"
    lower = rf"(?<![\d.])\d{{1,2}} (?:{'|'.join(month.lower() for month in MONTHS)})\b"
    found = re.findall(f"{in_figures}|{ordinal}|{month_first}", reply)
    return found + re.findall(short, reply, re.IGNORECASE) + re.findall(lower, reply)


def numbers(reply: str, ticket: str) -> list[str]:
    bare = re.findall(r"(?<!QH-)\b\d{6}\b|\bqh\W?\d{6}\b", reply)
    sums = re.findall(r"[€£](?!\d+\.\d\d\b)|\d\s?(?:[€£]|euros?\b|pounds?\b|quid\b)", reply)
    return bare + sums


RULES = (frame, voice, full_forms, calm, dates, numbers)


def broken(reply: str, ticket: str) -> set[str]:
    return {rule.__name__ for rule in RULES if rule(reply, ticket)}


GOOD = (
    "Good day Rowan,\nOn 14 March 2026 we sent the €49.90 for order QH-204417.\n"
    "Next step: please look at Rowan's account.\nYours, the Quillhaven desk"
)
BREACHES = [
    ("Good day Rowan", "Hello Rowan", "frame"),
    ("Rowan,", "Robin,", "frame"),
    ("Next step: please", "Next: please", "frame"),
    ("Next step: please", "Next step: kindly", "frame"),
    ("QH-204417.\n", "QH-204417. ", "frame"),
    ("Yours, the", "Yours truly, the", "frame"),
    ("we sent", "I sent", "voice"),
    ("we sent the", "we sent my", "voice"),
    ("we sent", "somebody sent", "voice"),
    ("we sent", "we've sent", "full_forms"),
    ("we sent", "it's true, we sent", "full_forms"),
    ("please look", "please don't look", "full_forms"),
    ("account.", "account!.", "calm"),
    ("account.", "account?.", "calm"),
    ("we sent", "unfortunately we sent", "calm"),
    ("we sent", "with apologies we sent", "calm"),
    ("14 March 2026", "14/3/2026", "dates"),
    ("14 March 2026", "14.03.2026", "dates"),
    ("14 March 2026", "14.3.", "dates"),
    ("14 March 2026", "March 14", "dates"),
    ("14 March 2026", "14th March", "dates"),
    ("14 March 2026", "14 Mar 2026", "dates"),
    ("14 March 2026", "14 march", "dates"),
    ("QH-204417", "204417", "numbers"),
    ("QH-204417", "qh204417", "numbers"),
    ("€49.90", "€49,90", "numbers"),
    ("€49.90", "€49", "numbers"),
    ("€49.90", "49.90 euros", "numbers"),
]


@pytest.mark.parametrize("right, wrong, rule", BREACHES)
def test_each_rule_catches_its_own_breach_and_no_other_rule_does(right, wrong, rule):
    assert broken(GOOD, ticket="Rowan") == set()
    assert broken(GOOD.replace(right, wrong, 1), ticket="Rowan") == {rule}


def test_versions_decimals_names_and_possessives_break_no_rule():
    text = "In 5.2.1 O'Dwyer's step of 2.1 cm may stay, and £43.00 may too. The day in March was ours."
    assert [rule.__name__ for rule in RULES[1:] if rule(text, "")] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_house_reply_keeps_the_rule(rule):
    breaches = {row["ticket"]: rule(row["house"], TEXTS[row["ticket"]]) for row in ROWS}
    assert {ticket: found for ticket, found in breaches.items() if found} == {}


def test_no_plain_reply_has_the_frame_and_most_break_more_rules_than_that():
    faults = [broken(row["plain"], TEXTS[row["ticket"]]) for row in ROWS]
    assert all("frame" in fault for fault in faults)
    assert sum(len(fault) >= 3 for fault in faults) > len(ROWS) / 2


def test_the_guide_names_six_rules_and_every_word_that_is_forbidden():
    guide = (DATA / "replies" / "guide.md").read_text("utf8")
    assert len(re.findall(r"^\d\. \*\*", guide, re.MULTILINE)) == len(RULES)
    (named,) = re.findall(r"None of these words: (.*?)\. ", guide)
    words = re.findall(r"`(\w+)`", named)
    assert len(words) >= 8 and all(calm(word, "") for word in words)


# --- the two registers say the same -------------------------------------------------------------------------

SHORT = "|".join(month[:3] for month in MONTHS)
DATE = re.compile(
    r"(?<![€£\d.])(?P<day>\d{1,2})"
    r"(?:(?P<sep>[./])(?P<figures>0?[1-9]|1[0-2])(?:(?P=sep)(?P<short>\d{4}|\d\d))"
    rf"|/(?P<alone>\d{{1,2}})| (?P<name>(?:{SHORT})[a-z]*)(?: (?P<long>\d{{4}}))?)\b",
    re.IGNORECASE,
)
FRONT = r"(?P<sign>[€£])(?P<front>\d+(?:[.,]\d\d)?)\b"
BACK = r"\b(?P<back>\d+(?:[.,]\d\d)?) ?(?P<word>€|euros?|pounds)"
SUM = re.compile(f"{FRONT}|{BACK}")


def as_date(match: re.Match) -> tuple:
    name = (match["name"] or "")[:3].title()
    month = int(match["figures"] or match["alone"] or [m[:3] for m in MONTHS].index(name) + 1)
    year = match["short"] or match["long"]
    return int(match["day"]), month, year and 2000 + int(year) % 100


def as_sum(match: re.Match) -> tuple:
    pounds = "£" == match["sign"] or match["word"] == "pounds"
    return "£" if pounds else "€", float((match["front"] or match["back"]).replace(",", "."))


def figures(text: str) -> dict[str, set]:
    """Order numbers, dates, sums and all other figures of a reply, whatever form they have."""
    found = {"orders": set(re.findall(r"\b\d{6}\b", text))}
    text = re.sub(r"\b(?:QH-)?\d{6}\b", " ", text)
    for kind, pattern, read in (("dates", DATE, as_date), ("sums", SUM, as_sum)):
        found[kind] = set(map(read, pattern.finditer(text)))
        text = pattern.sub(" ", text)
    return found | {"others": set(re.findall(r"\d+(?:[.:]\d+)*", text))}


def test_figures_are_read_alike_in_both_registers():
    plain = figures("204417 of 12/05/2026, 3/10, 13.10.25 and 21 feb: €58,40, 45 euros, £9, 2.1 cm by 15:00")
    house = figures(
        "QH-204417 of 12 May 2026, 3 October, 13 October 2025 and 21 February: €58.40, €45.00, £9.00, 2.1 cm by 15:00"
    )
    assert plain == house
    assert house["dates"] == {(12, 5, 2026), (3, 10, None), (13, 10, 2025), (21, 2, None)}
    assert house["sums"] == {("€", 58.4), ("€", 45.0), ("£", 9.0)} and house["others"] == {"2.1", "15:00"}


@pytest.mark.parametrize("kind", ["orders", "dates", "sums", "others"])
def test_both_registers_hold_the_same_figures(kind):
    pairs = {row["ticket"]: (figures(row["plain"])[kind], figures(row["house"])[kind]) for row in ROWS}
    assert {ticket: pair for ticket, pair in pairs.items() if pair[0] != pair[1]} == {}


def test_order_numbers_of_a_reply_are_those_of_its_ticket():
    strange = [
        row["ticket"] for row in ROWS for number in figures(row["house"])["orders"]
        if number not in TEXTS[row["ticket"]]
    ]  # fmt: skip
    assert strange == []


def test_dates_with_a_year_stand_in_the_ticket():
    wrong = [
        (row["ticket"], date)
        for row in ROWS
        for date in figures(row["house"])["dates"]
        if date[2] and date not in figures(TEXTS[row["ticket"]])["dates"]
    ]
    assert wrong == []


@pytest.mark.parametrize("key, fewest, most", [("plain", 15, 45), ("house", 25, 60)])
def test_replies_have_the_length_that_the_guide_says(key, fewest, most):
    guide = " ".join((DATA / "replies" / "guide.md").read_text("utf8").split())
    assert f"{fewest} to {most} words" in guide
    lengths = {row["ticket"]: len(row[key].split()) for row in ROWS}
    assert {ticket: n for ticket, n in lengths.items() if not fewest <= n <= most} == {}


def test_the_datasheet_gives_the_lengths_of_both_registers():
    for key in ("plain", "house"):
        words = [len(row[key].split()) for row in ROWS]
        row = f"| {key} | {min(words)} | {statistics.median(words):g} | {max(words)} |"
        assert row in datasheet("replies")


# --- rows and splits ----------------------------------------------------------------------------------------


def test_there_are_120_replies_to_train_on_and_30_to_test():
    assert {split: len(rows) for split, rows in REPLIES.items()} == {"train": 120, "test": 30}
    assert {tuple(row) for row in ROWS} == {("ticket", "plain", "house")}


@pytest.mark.parametrize("split", REPLIES)
def test_replies_answer_tickets_of_their_own_split_each_once(split):
    ids = [row["ticket"] for row in REPLIES[split]]
    assert set(ids) <= {ticket["id"] for ticket in TICKETS[split]}
    assert len(set(ids)) == len(ids)


def test_every_intent_is_answered_15_times_in_training_and_as_often_as_stated_in_the_test():
    intents = {ticket["id"]: ticket["intent"] for tickets in TICKETS.values() for ticket in tickets}
    counts = {split: Counter(intents[row["ticket"]] for row in rows) for split, rows in REPLIES.items()}
    assert set(counts["train"].values()) == {15} and len(counts["train"]) == 8
    fewest, most = (pick(counts["test"].values()) for pick in (min, max))
    assert f"in the test from {fewest} to {most} times" in datasheet("replies") and len(counts["test"]) == 8


def trigrams(text: str) -> set[tuple]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:]))


def without_frame(reply: str) -> str:
    parts = FRAME.fullmatch(reply)
    return f"{parts['message']} {parts['step'].removeprefix('Next step: ')}"


def likeness(a: str, b: str) -> float:
    """Shared trigrams over those of the poorer text, as for the tickets."""
    a, b = trigrams(a), trigrams(b)
    return len(a & b) / min(len(a), len(b))


CORPORA = {
    "plain": [(split, row["plain"]) for split, rows in REPLIES.items() for row in rows],
    "house": [(split, without_frame(row["house"])) for split, rows in REPLIES.items() for row in rows],
    "questions": [(question["split"], question["question"]) for question in QUESTIONS],
}


@pytest.mark.parametrize("name", CORPORA)
def test_nothing_stands_twice(name):
    texts = Counter(" ".join(re.findall(r"\w+", text.casefold())) for _, text in CORPORA[name])
    assert texts.most_common(1)[0][1] == 1


@pytest.mark.parametrize("name", CORPORA)
def test_nothing_has_a_near_duplicate_in_the_other_split(name):
    pairs = itertools.combinations(CORPORA[name], 2)
    worst = max((likeness(a, b), a, b) for (split, a), (other, b) in pairs if split != other)
    assert worst[0] < 0.31, worst  # the tickets' threshold
    assert f"{worst[0]:.3f}" in re.findall(r"\d\.\d{3}", datasheet("handbook" if name == "questions" else "replies"))


def test_no_two_replies_of_a_split_are_near_duplicates():
    for name in ("plain", "house"):
        pairs = itertools.combinations(CORPORA[name], 2)
        worst = max((likeness(a, b), a, b) for (split, a), (other, b) in pairs if split == other)
        assert worst[0] < 0.31, worst


# --- the handbook -------------------------------------------------------------------------------------------


def test_there_are_40_facts_of_one_sentence_each():
    assert list(FACTS) == [f"H{number:02}" for number in range(1, 41)]
    assert {tuple(fact) for fact in FACTS.values()} == {("id", "fact", "topic")}
    assert all(re.fullmatch(r"[A-Z].*[^.]\.", fact["fact"]) for fact in FACTS.values())
    assert [fact["id"] for fact in FACTS.values() if re.search(r"[.!?] ", fact["fact"])] == []
    assert len({fact["fact"] for fact in FACTS.values()}) == 40


def test_topics_are_the_products_and_a_few_matters():
    matters = {"returns", "delivery", "plans", "accounts", "guarantee"}
    assert {fact["topic"] for fact in FACTS.values()} == PRODUCTS | matters


def test_each_fact_has_one_question_to_train_on_and_two_to_test():
    assert {tuple(row) for row in QUESTIONS} == {("id", "fact", "split", "question", "answer")}
    expected = [
        (f"{fact}-{number}", fact, split)
        for fact in FACTS
        for number, split in enumerate(("train", "test", "test"), 1)
    ]
    assert [(row["id"], row["fact"], row["split"]) for row in QUESTIONS] == expected


def test_an_answer_has_one_to_four_words_and_stands_in_its_fact_and_not_in_the_question():
    for row in QUESTIONS:
        assert 1 <= len(row["answer"].split()) <= 4, row["id"]
        assert re.search(rf"\b{re.escape(row['answer'])}\b", FACTS[row["fact"]]["fact"]), row["id"]
        assert row["answer"].lower() not in row["question"].lower(), row["id"]
        assert row["question"].endswith("?"), row["id"]


def test_the_questions_of_a_fact_have_one_answer_and_no_two_facts_share_it():
    answers = {fact: {row["answer"] for row in QUESTIONS if row["fact"] == fact} for fact in FACTS}
    assert all(len(found) == 1 for found in answers.values())
    assert len(set.union(*answers.values())) == len(FACTS)


# What a reply says when it speaks of a fact, and the figure that it must then give.
SPOKEN_OF = {
    "H02": (r"working days at most|within \w+ working days", "ten working days"),
    "H07": (r"stood still for", "six working days"),
    "H09": (r"keeps? parcels for", "14 days"),
    "H12": (r"(?:may|can) rest", "nine months"),
    "H15": (r"amber clip", "45 days"),
    "H16": (r"at the same address", "three"),
    "H19": (r"blue letter", "35 days"),
    "H21": (r"made for|we make for", "25 °dH"),
    "H23": (r"lid button", "12 seconds"),
    "H24": (r"grey key", "eight"),
    "H31": (r"Kestrel climbs|for a Kestrel is", "2.1 cm"),
    "H34": (r"Nook sees|It sees", "11 metres"),
    "H35": (r"fetch the time", "ten seconds"),
    "H36": (r"full tank", "16"),
    "H39": (r"logs|photographs of your kitchen", "18 days"),
    "H40": (r"from the first sale", "27 months"),
}


@pytest.mark.parametrize("fact", SPOKEN_OF)
def test_replies_that_speak_of_a_fact_give_the_handbooks_figure(fact):
    spoken, figure = SPOKEN_OF[fact]
    assert figure in FACTS[fact]["fact"]
    replies = [row[key] for row in ROWS for key in ("plain", "house") if re.search(spoken, row[key])]
    assert len(replies) >= 2 and [reply for reply in replies if figure not in reply] == []


def test_the_two_test_questions_of_a_fact_differ_as_well():
    for fact in FACTS:
        first, second = (row["question"] for row in QUESTIONS if row["fact"] == fact and row["split"] == "test")
        assert likeness(first, second) < 0.31, fact


def test_there_are_25_words_each_with_a_meaning_and_three_sentences_that_use_it():
    assert {tuple(row) for row in VOCABULARY} == {("word", "meaning", "examples")}
    assert len({row["word"].lower() for row in VOCABULARY}) == len(VOCABULARY) == 25
    for row in VOCABULARY:
        assert len(set(row["examples"])) == 3, row["word"]
        assert all(re.search(rf"\b{row['word']}\b", text, re.IGNORECASE) for text in row["examples"]), row["word"]
        assert row["word"].lower() not in row["meaning"].lower(), row["word"]


def test_the_special_words_are_in_no_ticket_but_one_which_asks_what_it_means():
    everything = " ".join(TEXTS.values()).lower()
    assert [row["word"] for row in VOCABULARY if row["word"].lower() in everything] == ["second reset"]
    assert "'the second reset'. What is it?" in TEXTS["T0150"]


def test_answers_that_are_names_of_the_company_are_explained_in_the_vocabulary():
    named = {"Thornacre", "gate word", "Cinder valve", "owl eye", "Harbour desk"}
    assert named <= {row["answer"] for row in QUESTIONS}
    assert named <= {row["word"] for row in VOCABULARY}
