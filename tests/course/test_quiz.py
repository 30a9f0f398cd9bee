"""The quizzes: each answer is explained, in widgets and without a front end."""

import html
import json
import random
import re
from pathlib import Path

import ipywidgets as widgets
import pytest

from lessonlib.corpora import DATA
from lessonlib.course import quiz as room
from lessonlib.course.quiz import Question, as_html, as_text, build, questions

LESSONS = sorted(path.stem for path in (DATA / "quizzes").glob("*.json"))
TRICKY = Question('Is <b> & "x" < 1?', ["<i>yes</i>", "a & b", 'say "no"', "'"], 1, ["<script>0", "1 < 2", "&", '"'])


@pytest.fixture(params=LESSONS)
def asked(request):
    return questions(request.param)


def parts(box):
    """(choice, reply) of each question, and the line with the score."""
    *rows, score = box.children
    return [row.children[1:] for row in rows], score


def seen(element) -> str:
    """An HTML text as a reader sees it."""
    return html.unescape(re.sub("<[^>]*>", "", element))


def test_lesson_07_has_a_quiz():
    assert "07" in LESSONS


def test_a_quiz_is_five_questions_of_four_explained_options(asked):
    assert len(asked) == 5
    for question in asked:
        assert len(question.options) == len(question.replies) == 4
        assert len(set(question.options)) == len(set(question.replies)) == 4
        assert question.right in range(4)
        assert all(len(reply) >= 40 for reply in question.replies)


def test_neither_place_nor_length_gives_the_answer_away(asked):
    assert len({question.right for question in asked}) >= 3
    longest = [max(range(4), key=lambda i, q=q: len(q.options[i])) for q in asked]
    assert sum(place == question.right for place, question in zip(longest, asked)) <= 2


def test_every_answer_shows_its_own_reply(asked):
    rows, _ = parts(build(asked))
    for question, (choice, reply) in zip(asked, rows):
        assert choice.index is None and reply.value == ""
        for i in (3, 1, 0, 2):
            choice.index = i
            assert seen(reply.value) == ("✓ Right. " if i == question.right else "✗ Not so. ") + question.replies[i]


def test_score_counts_right_and_given_answers(asked):
    rows, score = parts(build(asked))
    assert seen(score.value) == "0 of 5 right, 0 answered"
    for given, (question, (choice, _)) in enumerate(zip(asked, rows), 1):
        choice.index = question.right
        assert f"{given} of 5 right" in score.value
    rows[0][0].index = (asked[0].right + 1) % 4
    assert seen(score.value) == "4 of 5 right"


def test_score_holds_after_any_sequence_of_answers(asked):
    rows, score = parts(build(asked))
    draw, given = random.Random(7), [None] * 5
    for _ in range(60):
        number = draw.randrange(5)
        given[number] = draw.choice([None, 0, 1, 2, 3])
        rows[number][0].set_state({"index": given[number]})  # as a front end sends it
        right = sum(answer == question.right for answer, question in zip(given, asked))
        assert f"{right} of 5 right" in score.value
        assert bool(rows[number][1].value) == (given[number] is not None)


def test_two_quizzes_do_not_share_answers(asked):
    (first, *_), _ = parts(build(asked))
    (second, *_), _ = parts(build(asked))
    first[0].index = 0
    assert second[0].index is None and second[1].value == ""


def test_without_a_front_end_text_and_html_hold_all_of_it(asked, monkeypatch):
    shown = []
    monkeypatch.setattr(room, "questions", lambda lesson: asked)
    monkeypatch.setattr(room, "display", lambda data, raw: shown.append((data, raw)))
    room.quiz("07")
    [(data, raw)] = shown
    assert raw and "application/vnd.jupyter.widget-view+json" in data
    for question in asked:
        for line in (question.text, *question.options, *question.replies):
            assert line in data["text/plain"]
            assert line in seen(data["text/html"])


def test_the_text_marks_the_right_answers_and_names_them_after_the_questions(asked):
    before, _, answers = as_text(asked).partition("\nAnswers\n")
    marked = [line for line in answers.splitlines() if "Right." in line]
    assert [line[:2] for line in marked] == [f"{i}{'abcd'[q.right]}" for i, q in enumerate(asked, 1)]
    assert not any(reply in before for question in asked for reply in question.replies)


def test_the_html_marks_the_right_answers_and_needs_no_script(asked):
    page = as_html(asked)
    marks = re.findall(r"<b>(Right|Not so)\.</b>", page)
    assert [i for i, mark in enumerate(marks) if mark == "Right"] == [4 * i + q.right for i, q in enumerate(asked)]
    assert "<script" not in page and page.count("<details>") == page.count("</details>") == 20


def test_html_is_escaped_on_the_page_and_in_the_widgets():
    page = as_html([TRICKY])
    assert set(re.findall(r"<(\w+)", page)) == {"p", "b", "details", "summary"}
    for line in (TRICKY.text, *TRICKY.options, *TRICKY.replies):
        assert line in html.unescape(page)
    [(choice, reply)], _ = parts(build([TRICKY]))
    choice.index = 0
    assert "<script>" not in reply.value and "&lt;script&gt;0" in reply.value


def test_the_titles_in_the_widgets_are_escaped():
    title = build([TRICKY]).children[0].children[0]
    assert isinstance(title, widgets.HTML)
    assert TRICKY.text in html.unescape(title.value) and "<b> &" not in title.value


def test_an_unknown_lesson_is_named():
    with pytest.raises(KeyError, match="no quiz for lesson '99'"):
        questions("99")


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_file_is_plain_json_of_questions(lesson):
    entries = json.loads(Path(DATA / "quizzes" / f"{lesson}.json").read_text("utf8"))
    assert all(set(entry) == {"text", "options", "right", "replies"} for entry in entries)
    assert not re.search(r"[<>`]", json.dumps(entries)), "the texts are shown as they are, without markup"
