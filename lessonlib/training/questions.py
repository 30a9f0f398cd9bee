"""The one question that is asked of texts with labels of one's own: which label, named in the prompt where there is room."""

from collections.abc import Sequence

from .labels import LabelTask

NAMED = 20  # labels are named in the prompt up to this number
NAMED_TOKENS = 320  # and as long as their names take no more tokens
TEXT_TOKENS = 160  # of a text that are read; the rest of the prompt comes on top
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def label_question(
    tokenizer,
    labels: Sequence[str],
    *,
    text: str = "Text",
    label: str = "Label",
    letters: bool = False,
    named: bool = True,
    text_tokens: int = TEXT_TOKENS,
) -> LabelTask:
    """A task whose prompt names the labels, holds a text, and ends where the label follows.

    text, label: what the prompt calls them. letters: whether the model is to say a letter for each label; the prompt
    then says which for which. named: whether labels are named at all. text_tokens: room for the text, whatever the
    labels take.

    Raises ValueError for what `LabelTask` refuses, and for letters where there are more than 26 labels.

    >>> label_question(tokenizer, ["late fee", "late parcel"]).template  # doctest: +SKIP
    'Labels: late fee, late parcel.\\nText: {text}\\nLabel:'
    """
    if letters and len(labels) > len(LETTERS):
        raise ValueError(f"{len(labels)} labels, and 26 letters are too few: have the labels themselves said")
    words = [" ".join(name.replace("_", " ").split()) for name in labels]
    said = list(LETTERS[: len(words)]) if letters else words
    names = [f"{letter} for {word}" for word, letter in zip(words, said)] if letters else words
    plain = ", ".join(names).translate(str.maketrans("{}", "()"))  # braces would be places to fill in
    head, query = f"{label}s: {plain}.\n", f"{text}: {{text}}\n{label}:"

    def length(template: str) -> int:
        return len(tokenizer(template).input_ids)

    fits = len(labels) <= NAMED and length(head) <= NAMED_TOKENS
    template = head + query if letters or (named and fits) else query
    return LabelTask(tokenizer, labels, said, template=template, max_tokens=length(template) + text_tokens)
