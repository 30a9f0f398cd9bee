"""Five questions at a lesson's end; each wrong answer says why. Widgets with a front end, readable text without."""

import html
import json
from dataclasses import dataclass

from IPython.display import display

from lessonlib.corpora import DATA
from lessonlib.display import widget_view


@dataclass(frozen=True)
class Question:
    """A question, its options, the right one's number, and what to say to each option."""

    text: str
    options: list[str]
    right: int
    replies: list[str]


def questions(lesson: str) -> list[Question]:
    """The questions of a lesson, from data/quizzes. Raises KeyError for a lesson without a quiz."""
    path = DATA / "quizzes" / f"{lesson}.json"
    if not path.exists():
        raise KeyError(f"no quiz for lesson {lesson!r}")
    return [Question(**entry) for entry in json.loads(path.read_text("utf8"))]


def quiz(lesson: str) -> None:
    """Show the quiz: choose an answer and read why it is right or wrong."""
    asked = questions(lesson)
    box = build(asked)
    # Where widgets are not shown (GitHub, nbviewer, print) the same questions stand as text.
    display(widget_view(box) | {"text/html": as_html(asked), "text/plain": as_text(asked)}, raw=True)


def build(asked: list[Question]):
    """The quiz as widgets."""
    import ipywidgets as widgets

    rows, replies, score = [], [], widgets.HTML()

    def tell(_=None):
        chosen = [(row.children[1].index, q.right) for row, q in zip(rows, asked)]
        right = sum(given == correct for given, correct in chosen)
        given = sum(given is not None for given, _ in chosen)
        score.value = (
            f"<p><b>{right} of {len(asked)} right</b>{'' if given == len(asked) else f', {given} answered'}</p>"
        )

    for number, question in enumerate(asked, 1):
        choice = widgets.RadioButtons(
            options=question.options,
            index=None,
            description=f"answer {number}",
            layout=widgets.Layout(width="auto"),
        )
        reply = widgets.HTML()

        def answer(change, question=question, reply=reply):
            if change["new"] is None:  # taken back
                reply.value = ""
            else:
                mark = "✓ Right." if change["new"] == question.right else "✗ Not so."
                reply.value = f"<p><b>{mark}</b> {html.escape(question.replies[change['new']])}</p>"
            tell()

        choice.observe(answer, names="index")
        title = widgets.HTML(f"<p><b>{number}. {html.escape(question.text)}</b></p>")
        rows.append(widgets.VBox([title, choice, reply]))
        replies.append(reply)
    tell()
    return widgets.VBox([*rows, score])


def as_text(asked: list[Question]) -> str:
    """The quiz as plain text: the questions, and at its end what to say to each answer."""
    lines, answers = [], ["Answers"]
    for number, question in enumerate(asked, 1):
        lines.append(f"{number}. {question.text}")
        lines += [f"   {'abcd'[i]}) {option}" for i, option in enumerate(question.options)]
        for i, reply in enumerate(question.replies):
            answers.append(f"{number}{'abcd'[i]}  {'Right.' if i == question.right else 'Not so.'} {reply}")
    return "\n".join([*lines, "", *answers])


def as_html(asked: list[Question]) -> str:
    """The quiz for readers without a kernel: each answer unfolds, scripts are not needed."""
    parts = []
    for number, question in enumerate(asked, 1):
        options = "".join(
            f"<details><summary>{html.escape(option)}</summary><p><b>{'Right.' if i == question.right else 'Not so.'}</b> "
            f"{html.escape(question.replies[i])}</p></details>"
            for i, option in enumerate(question.options)
        )
        parts.append(f"<p><b>{number}. {html.escape(question.text)}</b></p>{options}")
    return "".join(parts)
