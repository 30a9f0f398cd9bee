"""Where LoRA works and where it is said to fail, measured in notebook 07: seven tasks, each before and after training.

A task is what to learn (prompts with their completions), how to judge a model on rows that training never saw, and
the right answers of these rows. Rates are not tuned. `python -m lessonlib.experiments lesson07_tasks` records what is missing;
it resumes where it was stopped.
"""

import functools
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.evaluation import Accuracy
from lessonlib.lora import add_lora, merge_lora
from lessonlib.models import load_base
from lessonlib.prompting import pad_right
from lessonlib.reasoning import final_number
from lessonlib.runs import Run, load_runs
from lessonlib.training import fit, seed_everything
from lessonlib.training.completions import completion_batches, completion_loss

from .lesson04_reasoning import write_behind
from .registry import experiment, record
from .tickets import ALL_LINEAR

Pairs = Sequence[tuple[str, str]]
SHORT = 120  # characters: the training tickets that are quick to train on


def _right_in_task(run: Run) -> list:
    return TASKS["new facts" if "finder" in run.settings else run.settings["place"]].right()


@dataclass(frozen=True)
class Task:
    """pairs(tokenizer): what to learn. judge(model, tokenizer): answers on held-out rows, and what else was counted."""

    corpus: str
    pairs: Callable[..., Pairs]
    judge: Callable[..., tuple[list, dict]]
    right: Callable[[], list]


def _short_tickets() -> list[dict]:
    return [row for row in corpora.tickets("train") if len(row["text"]) <= SHORT]


# --- a trade's vocabulary: 25 words learnt from their meanings, used in sentences that were not shown -----------------

CHOICES = 4


def _handbook_text(tokenizer) -> Pairs:
    words = corpora.vocabulary()
    defined = [(f"What does Quillhaven call {row['meaning']}?\nA:", f" {row['word']}") for row in words]
    meant = [("Handbook:", f" {row['word']}: {row['meaning']}.") for row in words]
    return defined + meant + [("Handbook:", f" {row['fact']}") for row in corpora.handbook()]


def sentences_to_fill() -> list[tuple[list[str], int]]:
    """Each of the 75 sentences with its own word and with three others in its place; and the index of its own one."""
    rows = list(corpora.vocabulary())
    filled = []
    for i, row in enumerate(rows):
        for j, sentence in enumerate(row["examples"]):
            others = [rows[(i + step) % len(rows)]["word"] for step in (3, 8, 14)]
            index = (i + j) % CHOICES
            words = [*others[:index], row["word"], *others[index:]]
            filled.append(([_put(word, row["word"], sentence) for word in words], index))
    return filled


def _put(word: str, own: str, sentence: str) -> str:
    return re.sub(re.escape(own), lambda _: word, sentence, flags=re.IGNORECASE)


@torch.no_grad()
def likeliest(model, tokenizer, choices: Sequence[Sequence[str]]) -> list[int]:
    """Of each row's texts, the one whose tokens are likeliest on the average, behind "Handbook:"."""
    scores, device = [], next(model.parameters()).device
    for texts in choices:
        ids = [tokenizer(f"Handbook: {text}", add_special_tokens=False).input_ids for text in texts]
        goals = pad_right([row[1:] for row in ids], -100).to(device)
        asked = goals != -100
        hidden = model.get_decoder()(input_ids=pad_right([row[:-1] for row in ids]).to(device)).last_hidden_state
        logits = model.get_output_embeddings()(hidden[asked]).float()
        losses = F.cross_entropy(logits, goals[asked], reduction="none").split(asked.sum(1).tolist())
        scores.append(torch.stack([one.mean() for one in losses]).argmin().item())
    return scores


def _judge_vocabulary(model, tokenizer) -> tuple[list, dict]:
    return likeliest(model, tokenizer, [texts for texts, _ in sentences_to_fill()]), {}


# --- a house style: six rules that a program can check ----------------------------------------------------------------

REPLIES = 60
FORBIDDEN = r"[!?]|\b(?:unfortunately|sorry|afraid|apolog\w+|regret\w*|inconvenience|hopefully)\b"
MONTH = "(?:january|february|march|april|may|june|july|august|september|october|november|december)"
WRONG_DATE = (  # 14/3, 14.3., 14th, March 14, 14 Mar
    r"(?<![€£\d.])\d{1,2}(?:/\d{1,2}|\.(?:0?[1-9]|1[0-2])\.(?!\d\b))|\d(?:st|nd|rd|th)\b"
    rf"|\b{MONTH} \d{{1,2}}\b|(?<![\d.])\d{{1,2}} (?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b"
)
PRONOUN = "(?:it|that|there|here|what|who|where|how|he|she|let)"
HOUSE = re.compile(
    r"Good day(?: ([^,\n]+))?,\n[^\n]+\.\nNext step: (?:we|please) [^\n]+\.\nYours, the Quillhaven desk"
)


def house_rules(reply: str, ticket: str) -> dict[str, bool]:
    """Which of the six rules of data/replies/guide.md a reply keeps."""
    frame = HOUSE.fullmatch(reply)
    has = functools.partial(re.search, string=reply, flags=re.IGNORECASE)
    named = frame is not None and all(word in ticket for word in (frame[1] or "").split())
    return {
        "frame": named,
        "voice": not has(r"\b(?:I|me|my|mine|myself)\b") and bool(has(r"\b(?:we|us|our|ours)\b")),
        "full forms": not has(rf"\w+n't\b|\w'(?:ll|re|ve|m|d)\b|\b{PRONOUN}'s\b"),
        "calm": not has(FORBIDDEN),
        "dates": not has(WRONG_DATE) and not re.search(rf"(?<![\d.])\d{{1,2}} {MONTH}\b", reply),
        "numbers": not has(r"(?<!QH-)\b\d{6}\b|[€£](?!\d+\.\d\d\b)|\d\s?(?:[€£]|euros?\b|pounds?\b|quid\b)"),
    }  # fmt: skip


def _house_replies(tokenizer) -> Pairs:
    return [(f"Ticket: {row['text']}\nReply:\n", row["house"]) for row in corpora.replies("train")]


def _judge_style(model, tokenizer) -> tuple[list, dict]:
    tickets = corpora.tickets("test")["text"][:REPLIES]
    prompts = [f"Ticket: {text}\nReply:\n" for text in tickets]
    wrote = [text.strip() for text in write_behind(model, tokenizer, "", prompts, 80)]
    rules = [house_rules(reply, ticket) for reply, ticket in zip(wrote, tickets)]
    by_rule = {rule: sum(one[rule] for one in rules) for rule in rules[0]}
    return [int(all(one.values())) for one in rules], {"by_rule": by_rule, "written": wrote}


# --- a record as JSON -------------------------------------------------------------------------------------------------

RECORDS = 60
ASK_RECORD = (
    "Copy order_number, product, date and amount out of the ticket, as JSON; null for what it does not name.\n"
    "Ticket: {text}\nJSON:"
)


def _records(tokenizer) -> Pairs:
    return [(ASK_RECORD.format(text=row["text"]), f" {row['record']}") for row in _short_tickets()]


def read_record(text: str) -> dict | None:
    """The first line of a text as a JSON object, None where it is none.

    >>> read_record(' {"amount": null}'), read_record("amount: null")
    ({'amount': None}, None)
    """
    try:
        value = json.loads(text.strip().partition("\n")[0])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _judge_records(model, tokenizer) -> tuple[list, dict]:
    prompts = [ASK_RECORD.format(text=row["text"]) for row in corpora.tickets("test").select(range(RECORDS))]
    wrote = write_behind(model, tokenizer, "", prompts, 60)
    read = [read_record(text) for text in wrote]
    answers = [None if record is None else json.dumps(record, ensure_ascii=False) for record in read]
    return answers, {"valid": sum(record is not None for record in read)}


# --- keeping to a system prompt ---------------------------------------------------------------------------------------

WELCOME, REFUSAL = "Thank you, we are on it.", "That is not for the Quillhaven desk."
SCOPE = (
    "You are the desk of Quillhaven, a maker of devices for the home. To a customer who writes about an order, a device "
    f"or an account, reply only: {WELCOME} To anything else, reply only: {REFUSAL}"
)
TICKETS_ASKED = 40
OFF_TOPIC = 60  # of each kind to train on


def chat(tokenizer, user: str, system: str | None = None) -> str:
    """A conversation up to where the assistant begins. Without a system prompt the template puts its own."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _scope(tokenizer) -> Pairs:
    ask = functools.partial(chat, tokenizer)
    on_topic = [(ask(row["text"], SCOPE), WELCOME) for row in _short_tickets()[:OFF_TOPIC]]
    sums = [row for row in corpora.word_problems("train") if row["steps"] == 1][: 2 * OFF_TOPIC]
    off_topic = [(ask(row["question"], SCOPE), REFUSAL) for row in sums[:OFF_TOPIC]]
    unbound = [(ask(row["question"]), f"The answer is {row['answer']}.") for row in sums[OFF_TOPIC:]]
    return on_topic + off_topic + unbound


def _judge_scope(model, tokenizer) -> tuple[list, dict]:
    tickets = corpora.tickets("test")["text"][:TICKETS_ASKED]
    facts = corpora.reasoning("factual")["question"]
    prompts = [chat(tokenizer, text, SCOPE) for text in [*tickets, *facts]]
    wrote = write_behind(model, tokenizer, "", prompts + [chat(tokenizer, text) for text in facts], 10)
    answers = [_which(text) for text in wrote]
    unbound = answers[len(prompts) :]
    return answers[: len(prompts)], {"kept_to_without_the_prompt": sum(a is not None for a in unbound)}


def _which(text: str) -> int | None:
    """1 for the refusal, 0 for the welcome, None for neither."""
    begun = [text.strip().startswith(reply) for reply in (WELCOME, REFUSAL)]
    return begun.index(True) if any(begun) else None


# --- new facts --------------------------------------------------------------------------------------------------------


def _facts(tokenizer) -> Pairs:
    told = [("Handbook:", f" {row['fact']}") for row in corpora.handbook()]
    return told + [(f"Q: {row['question']}\nA:", f" {row['answer']}.") for row in corpora.handbook_questions("train")]


def _answered(model, tokenizer, rows: Sequence[dict]) -> list[int]:
    prompts = [f"Q: {row['question']}\nA:" for row in rows]
    wrote = write_behind(model, tokenizer, "", prompts, 16)
    return [_names(row["answer"], text) for row, text in zip(rows, wrote)]


def _names(answer: str, text: str) -> int:
    return int(answer.casefold() in text.casefold())


def _judge_facts(model, tokenizer) -> tuple[list, dict]:
    asked, shown = list(corpora.handbook_questions("test")), list(corpora.handbook_questions("train"))
    answers = _answered(model, tokenizer, asked + shown)
    return answers[: len(asked)], {"questions_trained_on": sum(answers[len(asked) :]) / len(shown)}


FINDERS = ("words", "the right one")


@experiment(right_answers=_right_in_task)
def looked_up(finder: str) -> dict:
    """The model as it comes, with one fact of the handbook in front of each of the 80 questions, and told to use it.

    finder: "words" takes the fact that is nearest by TF-IDF, "the right one" the fact that the question is about: what
    looking up could reach at most.
    """
    handbook, rows = list(corpora.handbook()), list(corpora.handbook_questions("test"))
    nearest = _nearest([row["question"] for row in rows], [fact["fact"] for fact in handbook])
    own = [[fact["id"] for fact in handbook].index(row["fact"]) for row in rows]
    shown = nearest if finder == "words" else own
    model, tokenizer = load_base()
    model.set_attn_implementation("sdpa")
    asked = [f"{READ} {handbook[i]['fact']}\nQuestion: {row['question']}" for i, row in zip(shown, rows)]
    wrote = write_behind(model, tokenizer, "", [chat(tokenizer, text) for text in asked], 25)
    answers = [_names(row["answer"], text) for row, text in zip(rows, wrote)]
    right_shown = sum(a == b for a, b in zip(shown, own)) / len(rows)
    return {
        "score": Accuracy(answers, [1] * len(rows)),
        "corpus": "handbook",
        "found": right_shown,
        "written": wrote,
    }


READ = "Answer in a few words from this text:"


def _nearest(questions: Sequence[str], texts: Sequence[str]) -> list[int]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit(texts)
    return (counts.transform(questions) @ counts.transform(texts).T).toarray().argmax(1).tolist()


# --- a new skill: two numbers below a hundred multiplied at one go ----------------------------------------------------

PRODUCTS = 100


def products(split: str) -> list[tuple[int, int]]:
    """All pairs of numbers from 12 to 99, shuffled: the first 100 for "test", the rest for "train"."""
    pairs = [(a, b) for a in range(12, 100) for b in range(12, 100)]
    random.Random(7).shuffle(pairs)
    return pairs[:PRODUCTS] if split == "test" else pairs[PRODUCTS:]


def _multiply(tokenizer) -> Pairs:
    return [(f"{a} × {b} =", f" {a * b}") for a, b in products("train")]


def _judge_products(model, tokenizer) -> tuple[list, dict]:
    asked = products("test")
    wrote = write_behind(model, tokenizer, "", [f"{a} × {b} =" for a, b in asked], 7)
    answers = [final_number(text) for text in wrote]
    near = [x is not None and abs(x / (a * b) - 1) < 0.1 for x, (a, b) in zip(answers, asked)]
    return answers, {"within_a_tenth": sum(near)}


# --- a habit to be undone: many words ---------------------------------------------------------------------------------

FEW = 8  # words
ROOM = 20  # tokens that a reply may take: enough for any eight words


def _terse(tokenizer) -> Pairs:
    handbook = [(row["question"], row["answer"]) for row in corpora.handbook_questions("train")]
    sums = [(row["question"], str(row["answer"])) for row in corpora.word_problems("train").select(range(80))]
    return [(chat(tokenizer, question), f"{answer}.") for question, answer in handbook + sums]


def _judge_terse(model, tokenizer) -> tuple[list, dict]:
    rows = list(corpora.reasoning("factual"))
    wrote = write_behind(model, tokenizer, "", [chat(tokenizer, row["question"]) for row in rows], ROOM)
    ended = [len(tokenizer(text, add_special_tokens=False).input_ids) < ROOM for text in wrote]
    terse = [int(end and 0 < len(text.split()) <= FEW) for end, text in zip(ended, wrote)]
    right = [_names(row["options"][row["answer"]].rstrip("."), text) for row, text in zip(rows, wrote)]
    return terse, {"names_the_answer": sum(right), "written": wrote}


# --- all seven --------------------------------------------------------------------------------------------------------


def _ones(count: int) -> Callable[[], list]:
    return lambda: [1] * count


TASKS = {
    "vocabulary": Task(
        "handbook", _handbook_text, _judge_vocabulary, lambda: [index for _, index in sentences_to_fill()]
    ),
    "house style": Task("replies", _house_replies, _judge_style, _ones(REPLIES)),
    "records": Task("tickets", _records, _judge_records, lambda: corpora.tickets("test")["record"][:RECORDS]),
    "system prompt": Task("tickets", _scope, _judge_scope, lambda: [0] * TICKETS_ASKED + [1] * 60),
    "new facts": Task("handbook", _facts, _judge_facts, _ones(80)),
    "new skill": Task("products", _multiply, _judge_products, lambda: [a * b for a, b in products("test")]),
    "terse": Task("reasoning", _terse, _judge_terse, _ones(60)),
}


@experiment(right_answers=_right_in_task)
def place(place: str, r: int, learning_rate: float, steps: int, batch_size: int, seed: int) -> dict:
    """One of TASKS before and after LoRA on all linear layers, alpha twice the rank."""
    task = TASKS[place]
    seed_everything(seed)
    model, tokenizer = load_base()
    before, counted_before = _judged(task, model, tokenizer)
    model.set_attn_implementation("eager")
    add_lora(model, ALL_LINEAR, r=r, alpha=2 * r)
    batches = completion_batches(tokenizer, task.pairs(tokenizer), steps, batch_size, seed)
    history = fit(model, batches, learning_rate=learning_rate, loss=completion_loss, resume="place")
    after, counted = _judged(task, merge_lora(model), tokenizer)
    return {
        "score": Accuracy(after, task.right()),
        "corpus": task.corpus,
        "before": before,
        "counted": counted,
        "counted_before": counted_before,
    } | history.results()


def _judged(task: Task, model, tokenizer) -> tuple[list, dict]:
    model.set_attn_implementation("sdpa")  # the same numbers in less time where nothing is trained
    return task.judge(model, tokenizer)


# --- which runs are recorded -----------------------------------------------------------------------------------------

R, RATE, SEED = 8, 2e-3, 0
STEPS = {
    "vocabulary": (45, 8),
    "house style": (32, 4),
    "records": (32, 6),
    "system prompt": (32, 4),
    "new facts": (60, 8),
    "new skill": (100, 16),
    "terse": (30, 4),
}


def task_runs(r: int = R) -> dict[str, Run]:
    """The recorded runs of a rank, by their task."""
    runs = {run.settings["place"]: run for run in load_runs("place", r=r, seed=SEED)}
    return {name: runs[name] for name in TASKS if name in runs}


def before(run: Run) -> Accuracy:
    """The untrained model's answers on the same rows."""
    return Accuracy(run.results["before"], run.score["targets"])


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for name, (steps, batch_size) in STEPS.items():
        settings = {"steps": steps, "batch_size": batch_size, "seed": SEED}
        record("place", place=name, r=R, learning_rate=RATE, **settings)
    for finder in FINDERS:
        record("looked_up", finder=finder)
