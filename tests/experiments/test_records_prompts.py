"""The recorded experiments that ask and do not train, on a tiny model: 02, 03 and the prompted ways of 08.

References: the log-probability of each whole word behind each whole prompt, and numpy; what stood in a
prompt is read back from what the model read.
"""

import re

import numpy as np
import pytest
from tiny_records import CHOICES, TOPICS, get, labels, marks, marks_in, put, texts

from lessonlib.experiments import find

NAMED = "Topics: billing, delivery, refund, technical, account, cancellation, question, feedback.\n\n"
EMPTY = ("N/A", "[MASK]", "")  # Zhao et al., 2021, section 5
TWO = ["negative", "positive"]


def best(table: np.ndarray) -> list[int]:
    return table.argmax(1).tolist()


def calibrated(table: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """p / p_cf, by the definition: each normalized over the labels, the second averaged over its inputs."""
    share = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    chance = (np.exp(empty) / np.exp(empty).sum(1, keepdims=True)).mean(0)
    return share / chance


def whole(base, name: str, begin: str, query: str, split: str, words, first=None) -> tuple[np.ndarray, np.ndarray]:
    """The words' log-probabilities behind each ticket of a split, and behind inputs without content."""
    model = base.fresh()
    tickets = [begin + query.format(text) for text in texts(split, first)]
    return (
        base.log_probs(model, tickets, words),
        base.log_probs(model, [begin + query.format(text) for text in EMPTY], words),
    )


def shown(base, heading: str, separator: str = "\n\n") -> list[tuple[int, str]]:
    """(number of the training ticket, word) of each example that the model read, from the prefix that all share."""
    behind = [text for text in base.read() if re.search(rf"train-.*\n{heading}: \w", text)]
    prefix = max(behind, key=lambda text: (text.count(f"{heading}: "), -len(text)))
    found = [
        (marks_in(part)[0][1], part.rpartition(f"{heading}: ")[2].strip())
        for part in prefix.split(separator)
        if "train-" in part and re.search(rf"{heading}: \w", part)
    ]
    return found


# --- 02 ----------------------------------------------------------------------------------------------------------------

SIX = {"shots": 8, "draw": 0, "form": "ticket", "count": 6}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_prompt_is_scored_on_the_first_tickets_of_its_split(split, base):
    found = find("few_shot").function(split=split, **SIX | {"shots": 0})
    table, empty = whole(base, "few_shot", "", "Ticket: {}\nTopic:", split, TOPICS, 6)
    assert found["score"].targets == labels(split, first=6) and found["score"].predictions == best(table)
    assert base.scored_on == marks(split, 6) and not base.trained_on
    again = calibrated(table, empty).argmax(1) == labels(split, first=6)
    assert found["calibrated"] == pytest.approx(again.mean())
    said = best(table)
    assert found["most_said"][1] == max(said.count(label) for label in said)


def test_examples_of_a_prompt_bear_their_right_labels(base):
    found = find("few_shot").function(split="test", **SIX)
    examples = shown(base, "Topic")
    assert len(examples) == 8 and {word for _, word in examples} == set(TOPICS)  # each topic once
    assert [word for _, word in examples] == [TOPICS[labels("train")[n]] for n, _ in examples] == found["shown"]


def test_random_labels_are_not_the_right_ones(base):
    find("random_labels").function(split="test", **SIX)
    examples = shown(base, "Topic")
    right = [TOPICS[labels("train")[n]] for n, _ in examples]
    drawn = [np.random.default_rng(1000).integers(8)]  # the draws of Min et al.'s control: one a text, from a seed
    assert len(examples) == 8 and examples[0][1] == TOPICS[drawn[0]]
    assert sum(word == own for (_, word), own in zip(examples, right)) <= 3  # by chance one in eight


def test_random_labels_stand_on_the_same_tickets_and_are_scored_alike(base):
    right = find("few_shot").function(split="test", **SIX)
    tickets = [number for number, _ in shown(base, "Topic")]
    base.reads.clear()
    random = find("random_labels").function(split="test", **SIX)
    assert [number for number, _ in shown(base, "Topic")] == tickets
    assert random["score"].targets == right["score"].targets == labels("test", first=6)
    begin = "".join(f"Ticket: {texts('train')[n]}\nTopic: {word}\n\n" for n, word in shown(base, "Topic"))
    table, _ = whole(base, "random_labels", begin, "Ticket: {}\nTopic:", "test", TOPICS, 6)
    assert random["score"].predictions == best(table)


# --- 03: the prompt ----------------------------------------------------------------------------------------------------


def two_classes(split: str) -> tuple[list[int], list[int]]:
    """Row numbers and classes of negative and positive tickets, as many of each as the rarer one has."""
    columns = labels(split, "sentiment")
    rows = [[i for i, label in enumerate(columns) if label == c] for c in (0, 2)]
    few = min(map(len, rows))
    kept = sorted(rows[0][:few] + rows[1][:few])
    return kept, [0 if columns[i] == 0 else 1 for i in kept]


def scored(base, begin: str, words, split: str = "validation"):
    rows, _ = two_classes(split)
    prompts = [f"{begin}Ticket: {texts(split)[i]}\nSentiment:" for i in rows]
    return base.log_probs(base.fresh(), prompts, words)


def behind(examples, words, separator: str = "\n\n", instruction: str = "") -> str:
    parts = [f"Ticket: {texts('train')[n]}\nSentiment: {words[label]}" for n, label in examples]
    return "".join(part + separator for part in [instruction] * bool(instruction) + parts)


def examples_read(base, words, separator: str = "\n\n") -> list[tuple[int, int]]:
    return [(n, list(words).index(word)) for n, word in shown(base, "Sentiment", separator)]


def true_class(number: int) -> int:
    return {0: 0, 2: 1}[labels("train", "sentiment")[number]]


@pytest.mark.parametrize(
    "name, settings, words, separator, instruction",
    [
        ("prompt_grid", {"separator": "blank line", "instruction": "none", "order": "PNPN"}, TWO, "\n\n", ""),
        ("prompt_grid", {"separator": "###", "instruction": "task and words", "order": "NNPP"}, ["bad", "good"], "\n###\n",
         "Decide how the customer feels: bad or good."),
        ("example_orders", {"order": [3, 0, 2, 1], "seed": 1}, TWO, "\n\n", ""),
        ("label_balance", {"labels": "PPPN", "seed": 1}, TWO, "\n\n", ""),
    ],
)  # fmt: skip
def test_a_cell_is_the_likelier_word_behind_its_whole_prompt(name, settings, words, separator, instruction, base):
    found = find(name).function(words=" / ".join(words), split="validation", **settings)
    rows, classes = two_classes("validation")
    examples = examples_read(base, words, separator)
    assert len(examples) == 4 and all(label == true_class(n) for n, label in examples)
    order = "".join("NP"[label] for _, label in examples)
    assert order == settings.get("labels", settings["order"] if name == "prompt_grid" else "PNPN")
    table = scored(base, behind(examples, words, separator, instruction), words)
    assert found["score"].targets == classes and found["score"].predictions == best(table)
    np.testing.assert_allclose(found["log_probs"], table, atol=2e-3)
    assert base.scored_on - marks("train") == {("validation", i) for i in rows}


def test_an_order_puts_the_same_four_examples_elsewhere(base):
    read = {}
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        base.reads.clear()
        find("example_orders").function(words="negative / positive", order=order, seed=0, split="validation")
        read[tuple(order)] = examples_read(base, TWO)
    first, second = read.values()
    assert second == [first[i] for i in (2, 0, 3, 1)] and [label for _, label in first] == [0, 0, 1, 1]


def test_a_prompt_without_examples_has_none_and_its_scores_without_content_are_kept(base):
    cell = {"words": "0 / 1", "separator": "blank line", "instruction": "none", "order": ""}
    found = find("prompt_grid").function(split="test", **cell)
    assert found["score"].targets == two_classes("test")[1]
    assert found["score"].predictions == best(scored(base, "", "01", "test"))
    empty = base.log_probs(base.fresh(), [f"Ticket: {text}\nSentiment:" for text in EMPTY], ["0", "1"])
    np.testing.assert_allclose(found["content_free"], empty, atol=2e-3)
    assert len(found["in_domain"]) == 8


# --- 03: which examples ------------------------------------------------------------------------------------------------


def pool() -> tuple[list[int], list[int]]:
    """Row numbers of the short negative and of the short positive training tickets."""
    columns, short = labels("train", "sentiment"), [len(text) <= 140 for text in texts("train")]
    return tuple([i for i, label in enumerate(columns) if label == c and short[i]] for c in (0, 2))


def test_edge_cases_are_those_that_the_model_is_most_surely_wrong_about(base):
    find("examples_chosen").function(way="edge cases", seed=0, split="validation")
    negative, positive = pool()
    negative = negative[: len(positive)]
    asked = [f"Ticket: {texts('train')[i]}\nSentiment:" for i in negative + positive]
    empty = base.log_probs(base.fresh(), [f"Ticket: {text}\nSentiment:" for text in EMPTY], TWO)
    odds = calibrated(base.log_probs(base.fresh(), asked, TWO), empty)
    surely = dict(zip(negative + positive, odds[:, 1] / odds.sum(1)))
    wrong = [
        sorted(negative, key=lambda i: -surely[i])[:2],  # negative, and yet the likeliest to be called positive
        sorted(positive, key=lambda i: surely[i])[:2],
    ]
    (prefix, *_) = [text for text in base.read() if len(marks_in(text)) == 4]  # the four, in one prompt
    assert [n for _, n in marks_in(prefix)] == [wrong[0][0], wrong[1][0], wrong[0][1], wrong[1][1]]
    assert [re.findall(r"Sentiment: (\w+)", prefix)] == [["negative", "positive"] * 2]


def test_similar_examples_are_the_nearest_by_weighted_words_the_nearest_last(base):
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = find("examples_chosen").function(way="similar", seed=0, split="test")
    rows, classes = two_classes("test")
    numbers = [i for group in pool() for i in group]
    counts = TfidfVectorizer(sublinear_tf=True).fit([texts("train")[i] for i in numbers])
    shares, likelier = [], []
    for k, (row, target) in enumerate(zip(rows, classes)):
        query, every = (
            counts.transform([texts("test")[row]]),
            counts.transform([texts("train")[i] for i in numbers]),
        )
        near = np.argsort(-(every @ query.T).toarray()[:, 0], kind="stable")[:4][::-1]
        expected = [true_class(numbers[i]) for i in near]
        assert found["labels"][k] == expected
        shares += [label == target for label in expected]
        begin = behind([(numbers[i], true_class(numbers[i])) for i in near], TWO)
        table = base.log_probs(base.fresh(), [f"{begin}Ticket: {texts('test')[row]}\nSentiment:"], TWO)
        np.testing.assert_allclose(found["log_probs"][k], table[0], atol=2e-3)
        likelier += best(table)
    assert found["score"].predictions == likelier
    assert found["score"].targets == classes and found["same_label"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("way", ["random", "random, two of each", "diverse", "half edge cases"])
def test_each_way_shows_four_training_tickets_with_their_own_labels(way, base):
    found = find("examples_chosen").function(way=way, seed=2, split="test")
    (prefix, *_) = [text for text in base.read() if len(marks_in(text)) == 4]
    numbers = [n for _, n in marks_in(prefix)]
    assert len(set(numbers)) == 4 and found["labels"] == [[true_class(n) for n in numbers]]
    assert re.findall(r"Sentiment: (\w+)", prefix) == [TWO[true_class(n)] for n in numbers]
    assert found["score"].targets == two_classes("test")[1]


# --- 03: the form of the answer ----------------------------------------------------------------------------------------


def test_only_an_answer_that_is_a_word_by_itself_is_read(base, monkeypatch):
    asked = []
    rows, classes = two_classes("validation")
    wrote = [" happy.", "unhappy", " I am happy", "", ' happy"}\nunhappy', " Happy"][: len(rows)]
    read = [1, 0, -1, -1, 1, 1][: len(rows)]

    def complete(model, tokenizer, prompts, **settings):
        asked.extend(prompts)
        return [*wrote, *["nothing"] * (len(prompts) - len(wrote))]

    put(monkeypatch, "complete", complete)
    for form, examples in (("words named", 0), ("four examples", 4)):
        asked.clear()
        found = find("answer_form").function(form=form, split="validation")
        predictions = read + [-1] * (len(rows) - len(read))
        assert found["score"].predictions == predictions and found["score"].targets == classes
        assert found["parsed"] == pytest.approx(np.mean([p != -1 for p in predictions]))
        for row, prompt in zip(rows, asked, strict=True):
            numbers = [n for split, n in marks_in(prompt) if split == "train"]
            assert marks_in(prompt)[-1] == ("validation", row) and len(numbers) == examples
            words = re.findall(r"Sentiment: (\w+)", prompt)
            assert words == [["unhappy", "happy"][true_class(n)] for n in numbers]


# --- 08: the prompted ways ---------------------------------------------------------------------------------------------


@pytest.fixture
def all_tickets(base, monkeypatch):
    put(monkeypatch, "VALIDATION", 7, int)
    put(monkeypatch, "ALL", 24, int)
    put(monkeypatch, "ANSWERED", 1, int)
    put(monkeypatch, "off_task", lambda model, tokenizer: {})
    return base


@pytest.mark.parametrize("method, shots", [("zero-shot", 0), ("few-shot", 2), ("calibrated", 2)])
def test_a_prompted_way_is_read_from_the_words_behind_the_shared_prompt(method, shots, all_tickets):
    base = all_tickets
    found = find("head_to_head_prompts").function(method=method, shots=shots, seed=0)
    examples = shown(base, "Category") if shots else []
    assert len(examples) == shots and all(word == TOPICS[labels("train")[n]] for n, word in examples)
    begin = NAMED + "".join(f"Message: {texts('train')[n]}\nCategory: {word}\n\n" for n, word in examples)
    answers = {}
    for split, first in (("test", None), ("validation", 7)):
        table, empty = whole(base, method, begin, "Message: {}\nCategory:", split, TOPICS, first)
        answers[split] = best(calibrated(table, empty) if method == "calibrated" else table)
    assert found["score"].targets == labels("test") and found["score"].predictions == answers["test"]
    by_hand = np.mean(np.array(answers["validation"]) == labels("validation", first=7))
    assert found["validation"] == pytest.approx(by_hand)


def test_what_a_prompt_costs_is_scored_behind_its_examples(all_tickets):
    base = all_tickets
    found = find("what_a_prompt_costs").function(shots=2, rounds=1)
    examples = shown(base, "Category")
    assert len(examples) == 2 and all(word == TOPICS[labels("train")[n]] for n, word in examples)
    begin = NAMED + "".join(f"Message: {texts('train')[n]}\nCategory: {word}\n\n" for n, word in examples)
    table, _ = whole(base, "cost", begin, "Message: {}\nCategory:", "test", TOPICS, 8)
    assert found["score"].predictions == best(table) and found["score"].targets == labels("test", first=8)
    assert found["prompt_tokens"] > 2 * 10 + len(base.tokenizer(NAMED).input_ids)


def test_elsewhere_asks_how_customers_feel_on_validation_and_test(base):
    model, tokenizer = base.load()
    found = get("off_task")(model, tokenizer)
    answers, targets = [], []
    for split in ("validation", "test"):
        rows, classes = two_classes(split)
        prompts = [f"Ticket: {texts(split)[i]}\nSentiment:" for i in rows]
        answers += base.answers(base.fresh(), prompts, TWO)
        targets += classes
    assert found["sentiment_n"] == len(targets) and CHOICES["sentiment"][0] == TWO[0]
    assert found["sentiment"] == pytest.approx(np.mean(np.array(answers) == targets))
