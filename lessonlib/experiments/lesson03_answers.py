"""The experiments of notebook 03 on the form of the answer: what the model writes, and what a strict reader can use."""

from collections.abc import Sequence

from lessonlib.evaluation import Accuracy
from lessonlib.models import load_base
from lessonlib.prompting import complete

from .lesson03_prompts import WORDS, draw_examples, sentiment_tickets, sentiments_of_split
from .registry import experiment, record

# The query; how many examples stand in front of it; what stands around an example's word.
FORMS = {
    "open question": ("{text}\n\nHow does this customer feel?", 0, ("", "")),
    "words named": ("{text}\n\nIs this customer unhappy or happy? Answer with one word:", 0, ("", "")),
    "four examples": ("Ticket: {text}\nSentiment:", 4, (" ", "")),
    "four examples as JSON": ('Ticket: {text}\nJSON: {"sentiment":', 4, (' "', '"}')),
}


def parse_word(answer: str, words: Sequence[str]) -> int | None:
    """The class of an answer that is one of the words and nothing else on its first line; None for any other.

    >>> parse_word(" happy.", ["unhappy", "happy"]), parse_word(" I am not happy", ["unhappy", "happy"])
    (1, None)
    """
    word = answer.strip().partition("\n")[0].strip(' .!"}').lower()
    return list(words).index(word) if word in words else None


def form_prompt(form: str, text: str) -> str:
    """A whole prompt of one of the `FORMS` for a text."""
    template, shots, (before, after) = FORMS[form]
    words = WORDS["unhappy / happy"]
    shown = [
        template.replace("{text}", example) + before + words[label] + after + "\n\n"
        for example, label in draw_examples("PNPN"[:shots])
    ]
    return "".join(shown) + template.replace("{text}", text)


@experiment(right_answers=sentiments_of_split)
def answer_form(form: str, split: str) -> dict:
    """What the model writes by itself, and the share of it that a strict reader can use."""
    texts, targets = sentiment_tickets(split)
    model, tokenizer = load_base()
    prompts = [form_prompt(form, text) for text in texts]
    written = complete(model, tokenizer, prompts, max_new_tokens=8, stop=["\n\n", "Ticket:"])
    read = [parse_word(answer, WORDS["unhappy / happy"]) for answer in written]
    return {
        "score": Accuracy([-1 if label is None else label for label in read], targets),
        "parsed": sum(label is not None for label in read) / len(read),
        "written": written,
    }


# --- which runs are recorded -----------------------------------------------------------------------------------------


def record_all() -> None:
    """Record every form that is not there yet, on the validation tickets."""
    for form in FORMS:
        record("answer_form", form=form, split="validation")
