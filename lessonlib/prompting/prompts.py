"""Few-shot prompts: an instruction, worked examples, and a place for the text."""

from collections.abc import Sequence
from dataclasses import dataclass

from lessonlib.models.writing import PromptError

TEMPLATE = "Ticket: {text}\nTopic:"


@dataclass(frozen=True)
class FewShotPrompt:
    """An instruction, worked examples, and a place for the text; `print(prompt)` shows it as the model reads it.

    labels: the label words. examples: (text, label word) pairs, in the order in which they are shown.
    template: one text up to where its label follows; holds "{text}" once. separator: stands behind the instruction
    and behind each example. A label follows its text after one space.

    Only strings, no model: to change one thing, `dataclasses.replace(prompt, examples=...)`.
    Raises PromptError for no labels, empty or repeated ones, an example with another label, a template without {text}.

    >>> prompt = FewShotPrompt(["good", "bad"], [("I like it.", "good")], template="{text} It is", separator=" | ")
    >>> print(prompt)
    I like it. It is good | {text} It is
    >>> prompt.prefix, prompt.query("Broken."), prompt.endings
    ('I like it. It is good | ', 'Broken. It is', (' good', ' bad'))
    """

    labels: Sequence[str]
    examples: Sequence[tuple[str, str]] = ()
    instruction: str = ""
    template: str = TEMPLATE
    separator: str = "\n\n"

    def __post_init__(self):
        refuse_labels(self.labels)
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "examples", tuple((text, label) for text, label in self.examples))
        if self.template.count("{text}") != 1:
            raise PromptError(f"the template {self.template!r} must hold {{text}} once")
        for text, label in self.examples:
            if label not in self.labels:
                raise PromptError(
                    f"the example {text[:40]!r} has the label {label!r}; the labels are {', '.join(self.labels)}"
                )

    @property
    def prefix(self) -> str:
        """All that stands in front of every query: the instruction and the examples."""
        shown = [f"{self.query(text)} {label}" for text, label in self.examples]
        return "".join(part + self.separator for part in [self.instruction, *shown] if part)

    def query(self, text: str) -> str:
        """One text in the template, up to where its label follows."""
        return self.template.replace("{text}", text)  # not str.format: braces in a text are only braces

    @property
    def endings(self) -> tuple[str, ...]:
        """The label words as they follow a query, each behind its space: the `labels` of `score_labels`."""
        return tuple(f" {label}" for label in self.labels)

    def whole(self, text: str) -> str:
        """The prompt with a text in it: prefix and query."""
        return self.prefix + self.query(text)

    def tokens(self, tokenizer, text: str = "") -> int:
        """Tokens of the prompt with this text and its longest label."""
        return max(len(ids) for ids in token_ids(tokenizer, [self.whole(text) + end for end in self.endings]))

    def check_length(self, tokenizer, context: int, texts: Sequence[str] = ("",)) -> int:
        """The most tokens that the prompt has with any of the texts; PromptError where they are more than `context`."""
        longest = max(self.tokens(tokenizer, text) for text in texts)
        if longest > context:
            raise PromptError(
                f"the prompt has {longest} tokens, {longest - context} more than the context of {context} holds: take "
                f"fewer or shorter examples than these {len(self.examples)}"
            )
        return longest

    def __str__(self):
        return self.prefix + self.template


def refuse_labels(labels: Sequence[str]) -> None:
    """Raise PromptError unless there are labels, each of them with a word of its own."""
    if isinstance(labels, str) or not labels:
        raise PromptError(f"labels is {labels!r}: give at least one label, in a list")
    for label in labels:
        if not label.strip():
            raise PromptError(f"the label {label!r} is empty: give each class a word")
        if list(labels).count(label) > 1:
            raise PromptError(f"the label {label!r} stands twice: give each class a word of its own")


def token_ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without special ones."""
    return tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
