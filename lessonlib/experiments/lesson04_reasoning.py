"""The recorded runs of 04: prompts with and without chains, and what LoRA makes of chains, answers and programs.

A prediction is what was read from the model's text: a number or the index of an option; null where nothing could be
read, which counts as wrong. Every target is trained with the same rates: of those in RATES the
one with the smallest validation loss is used. It holds a single rate so far, so nothing has been chosen yet.
"""

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Sequence

from lessonlib import corpora
from lessonlib.evaluation import Accuracy
from lessonlib.lora import add_lora, load_lora, merge_lora, save_lora
from lessonlib.models import load_base
from lessonlib.prompting import complete
from lessonlib.reasoning import (
    Demonstration,
    ProgramRejected,
    chain_prompt,
    direct_prompt,
    final_choice,
    final_number,
    run_programs,
    step_by_step_answer_prompt,
    step_by_step_prompt,
    write_chains,
)
from lessonlib.reasoning.chains import STOP
from lessonlib.runs import Run, load_runs
from lessonlib.training import fit, seed_everything, work_directory
from lessonlib.training.completions import completion_batches, completion_loss, mean_completion_loss

from .registry import experiment, record
from .tickets import ALL_LINEAR
from .trials import best_rate

# --- prompts: five kinds of questions, four ways to ask --------------------------------------------------------------

KINDS = ("arithmetic", "logic", "commonsense", "classification", "recall")
WAYS = ("direct, no examples", "step by step", "direct", "chain")
CORPORA = {"arithmetic": "word_problems", "classification": "tickets"}  # of the others: reasoning
# Training tickets as examples, with chains written for this module; the tickets have none of their own.
TICKET_CHAINS = {
    "T0401": "The customer repeats a request in capitals and mocks the newsletter, so they are annoyed.",
    "T0407": "The customer says what is forgotten and asks for help, without praise and without blame.",
    "T0469": "The lamp has lasted long, nothing is wrong, and the customer writes only to say so. They are pleased.",
    "T0410": "The customer says that the money has not come, without praise and without blame.",
}
SHOTS = len(TICKET_CHAINS)


def _answers_of_kind(run: Run) -> list[int]:
    _, asked, choices = questions(run.settings["kind"])
    return [_right(item, these) for item, these in zip(asked, choices)]


def answers_of_problems(run: Run) -> list[int]:
    """The right answers of a run that was judged by the test's word problems, read anew from the data."""
    return [row["answer"] for row in problems("test", run.settings["most_steps"])]


def questions(kind: str) -> tuple[list[Demonstration], list[Demonstration], list[list[str] | None]]:
    """Examples to show, questions to ask, and the choices of each question (None: the answer is a number)."""
    if kind == "arithmetic":
        shown = [corpora.word_problems("train")[row] for row in range(SHOTS)]
        asked = list(corpora.word_problems("test"))
        return _worked(shown), _worked(asked), [None] * len(asked)
    if kind == "classification":
        train = {row["id"]: row for row in corpora.tickets("train")}
        shown = [_ticket(train[id], chain) for id, chain in TICKET_CHAINS.items()]
        asked = [_ticket(row) for row in corpora.tickets("test")]
        return shown, asked, [corpora.SENTIMENTS] * len(asked)
    name = "factual" if kind == "recall" else kind
    rows = corpora.reasoning(name)
    shown = [_with_options(row) for row in corpora.reasoning(name, "shots").select(range(SHOTS))]
    return shown, [_with_options(row) for row in rows], [_options(row) for row in rows]


def _worked(rows: Sequence[dict]) -> list[Demonstration]:
    return [Demonstration(row["question"], row["chain"], row["answer"]) for row in rows]


def _options(row: dict) -> list[str]:
    return [option.rstrip(".") for option in row["options"]]


def _with_options(row: dict) -> Demonstration:
    options = _options(row)
    return Demonstration(f"{row['question']} Options: {'; '.join(options)}.", row["chain"], options[row["answer"]])


def _ticket(row: dict, chain: str = "") -> Demonstration:
    named = "; ".join(corpora.SENTIMENTS)
    question = f"Is this ticket negative, neutral or positive? {row['text']} Options: {named}."
    return Demonstration(question, chain, corpora.SENTIMENTS[row["sentiment"]])


def read_answer(text: str, choices: Sequence[str] | None) -> int | float | None:
    """The number that a text ends in; or, of choices, the index of the one that it ends in; None without either."""
    if choices is None:
        return final_number(text)
    choice = final_choice(text, choices)
    return None if choice is None else list(choices).index(choice)


def _ask(model, tokenizer, way: str, shown, texts: Sequence[str], most_tokens: int) -> list[str]:
    """What the model wrote, with the words that its prompt ended in where the answer's place depends on them."""
    write = functools.partial(write_behind, model, tokenizer)
    if way == "chain":
        return write(chain_prompt("", shown).removesuffix("Q: \nA:"), [chain_prompt(q) for q in texts], most_tokens)
    if way == "step by step":
        chains = write("", [step_by_step_prompt(q) for q in texts], most_tokens)
        asked = [step_by_step_answer_prompt(q, chain) for q, chain in zip(texts, chains)]
        return [f"{c}\nTherefore, the answer is{end}" for c, end in zip(chains, write("", asked, ANSWER_TOKENS))]
    shown = shown if way == "direct" else ()
    prefix = direct_prompt("", shown).removesuffix("Q: \nA: The answer is")
    ends = write(prefix, [direct_prompt(q) for q in texts], ANSWER_TOKENS)
    return [f"The answer is{end}" for end in ends]


ANSWER_TOKENS = 12


def write_behind(model, tokenizer, prefix: str, prompts: Sequence[str], most_tokens: int) -> list[str]:
    """What `write_chains` writes behind prefix + prompt, in less time: the prefix, which all share, is read once."""
    return complete(model, tokenizer, prompts, most_tokens, STOP, prefix=prefix, batch_size=50)


@experiment(right_answers=_answers_of_kind)
def prompted(kind: str, way: str, count: int, most_tokens: int) -> dict:
    """The model as it comes, asked the first `count` test questions of a kind in one of the ways; greedy decoding.

    "direct" and "chain" show the same four examples; the other two ways show none.
    """
    model, tokenizer = load_base()
    model.set_attn_implementation("sdpa")  # the same numbers in less time
    shown, asked, choices = questions(kind)
    texts = _ask(model, tokenizer, way, shown, [item.question for item in asked[:count]], most_tokens)
    answers = [read_answer(text, these) for text, these in zip(texts, choices)]
    right = [_right(item, these) for item, these in zip(asked, choices)][:count]
    return {
        "score": Accuracy(answers, right),
        "corpus": CORPORA.get(kind, "reasoning"),
        "read": sum(answer is not None for answer in answers),
        "written": texts,
    }


def _right(item: Demonstration, choices: Sequence[str] | None) -> int:
    return item.answer if choices is None else list(choices).index(item.answer)


# --- LoRA on chains, answers and programs ----------------------------------------------------------------------------


def prompt_and_completion(problem: dict, target: str) -> tuple[str, str]:
    """(prompt, what the model is to write) of a word problem; target: "chain", "answer" or "program".

    >>> prompt_and_completion({"question": "What is 2 + 3?", "answer": 5}, "answer")
    ('Q: What is 2 + 3?\\nA: The answer is', ' 5.')
    """
    question = problem["question"]
    if target == "chain":
        return chain_prompt(question), f" {problem['chain']} The answer is {problem['answer']}."
    if target == "answer":
        return direct_prompt(question), f" {problem['answer']}."
    return f"Q: {question}\nProgram:\n", problem["program"]


def problems(split: str, most_steps: int) -> list[dict]:
    """The word problems of a split that take at most so many steps."""
    return [row for row in corpora.word_problems(split) if row["steps"] <= most_steps]


def _tune(pairs, *, r: int, learning_rate: float, steps: int, batch_size: int, seed: int):
    """A fresh base model with LoRA on all linear layers, trained on (prompt, completion) pairs; and its history."""
    seed_everything(seed)
    model, tokenizer = load_base()
    add_lora(model, ALL_LINEAR, r=r, alpha=2 * r)
    batches = completion_batches(tokenizer, pairs, steps, batch_size, seed)
    return (
        model,
        tokenizer,
        fit(model, batches, learning_rate=learning_rate, loss=completion_loss, resume="reasoning"),
    )


def _adapter_path(name: str, settings: dict):
    """Where the adapter of these settings is kept, so that a second experiment need not train it again."""
    key = json.dumps([settings, corpora.fingerprint("word_problems")], sort_keys=True)
    return work_directory() / "adapters" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def tuned_model(name: str, pairs, training: dict):
    """The model tuned on the pairs, from the cache where it is there, ready to write: merged."""
    directory = _adapter_path(name, training)
    if directory.exists():
        model, tokenizer = load_base()
        load_lora(model, directory)
    else:
        model, tokenizer, _ = _tune(pairs, **training)
        save_lora(model, directory)
    return _ready(model), tokenizer


def _ready(model):
    merge_lora(model).set_attn_implementation("sdpa")  # for generation; both make it faster
    return model


MOST_TOKENS = {"chain": 90, "answer": 8, "program": 90}


@experiment(right_answers=answers_of_problems)
def tuned(target: str, seed: int, most_steps: int, r: int, learning_rate: float, steps: int, batch_size: int) -> dict:
    """LoRA on the word problems of at most so many steps, to write their chain, their answer alone or their program."""
    training = {
        "r": r,
        "learning_rate": learning_rate,
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
    }
    pairs = [prompt_and_completion(problem, target) for problem in problems("train", most_steps)]
    model, tokenizer, history = _tune(pairs, **training)
    save_lora(model, _adapter_path(f"{target}-{most_steps}", training))
    validation = mean_completion_loss(
        model, tokenizer, [prompt_and_completion(row, target) for row in problems("validation", most_steps)]
    )
    results = solve(_ready(model), tokenizer, target, problems("test", most_steps))
    return results | {
        "validation_loss": validation,
        "training_seconds": history.seconds,
        "losses": [round(loss, 4) for loss in history.losses],
        "trainable": history.trainable,
    }


def solve(model, tokenizer, target: str, rows: list[dict]) -> dict:
    """What a run keeps of these word problems, solved by a model that writes the target, with greedy decoding."""
    prompts = [prompt_and_completion(row, target)[0] for row in rows]
    wrote = write_chains(model, tokenizer, prompts, max_new_tokens=MOST_TOKENS[target], batch_size=100)
    texts = [w.text for w in wrote]
    if target == "program":
        return _judge_programs(texts, rows)
    lead = "The answer is" if target == "answer" else ""
    answers = [final_number(lead + text) for text in texts]
    sums = [count_sums(text) for text in texts]
    return _judged(answers, texts, rows) | {
        "sums": sum(n for n, _ in sums),
        "false_sums": sum(false for _, false in sums),
        "texts_with_a_false_sum": sum(false > 0 for _, false in sums),
        "tokens": sum(w.tokens for w in wrote) / len(wrote),
    }


def _judge_programs(texts: list[str], rows: list[dict]) -> dict:
    ran = run_programs(texts)
    rejected = [run.kind if isinstance(run, ProgramRejected) else None for run in ran]
    values = [None if kind else run.value for kind, run in zip(rejected, ran)]
    answers = [value if type(value) in (int, float) else None for value in values]
    kinds = {kind: rejected.count(kind) for kind in ("refused", "stopped", "failed")}
    return _judged(answers, texts, rows) | {"rejected": sum(kinds.values()), "rejected_by_kind": kinds}


def _judged(answers: list, texts: list[str], rows: list[dict]) -> dict:
    score = Accuracy(answers, [row["answer"] for row in rows])
    counts = sorted({row["steps"] for row in rows})
    of = {n: [bool(right) for right, row in zip(score.right, rows) if row["steps"] == n] for n in counts}
    return {
        "score": score,
        "corpus": "word_problems",
        "by_steps": {str(n): [sum(rights), len(rights)] for n, rights in of.items()},
        "read": sum(answer is not None for answer in answers),
        "written": texts,
        "ids": [row["id"] for row in rows],
    }


SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (-?\d+)")


def count_sums(text: str) -> tuple[int, int]:
    """How many sums of two numbers a text holds, and how many of them are false.

    >>> count_sums("That makes 3 * 4 = 12. So 12 - 5 = 8 are left.")
    (2, 1)
    """
    sums = SUM.findall(text)
    return len(sums), sum(not _holds(*parts) for parts in sums)


def _holds(a: str, sign: str, b: str, c: str) -> bool:
    a, b, c = int(a), int(b), int(c)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[sign]


# --- which runs are recorded -----------------------------------------------------------------------------------------

TARGETS = ("chain", "answer", "program")
RATES = (2e-3, 1e-3)
SEEDS = (0,)
COUNTS = {"arithmetic": 96, "classification": 100}  # of the others: 60
TUNED = {"most_steps": 2, "r": 16, "steps": 150, "batch_size": 4}


def prompt_runs() -> dict[str, dict[str, Run]]:
    """The prompted runs by kind of question and way to ask."""
    return {kind: {way: load_runs("prompted", kind=kind, way=way)[0] for way in WAYS} for kind in KINDS}


def record_all() -> None:
    """Record every run of prompts and of tuned models that is not there yet."""
    for target in TARGETS:
        for rate in RATES:
            record("tuned", target=target, seed=0, learning_rate=rate, **TUNED)
    for kind, way in itertools.product(KINDS, WAYS):
        most_tokens = 100 if kind == "arithmetic" else 60
        record("prompted", kind=kind, way=way, count=COUNTS.get(kind, 60), most_tokens=most_tokens)
    for target in TARGETS:
        for seed in SEEDS[1:]:
            record(
                "tuned",
                target=target,
                seed=seed,
                learning_rate=best_rate("tuned", target=target, **TUNED),
                **TUNED,
            )
