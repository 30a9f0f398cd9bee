"""A learner works through the notebooks: run all, choose, slide, do the exercises wrongly and rightly, answer the quiz,
stop the playground and go on, lose the kernel in the middle of training and go on. Sliders, buttons and answers
of the tree are moved by keys."""

import json
import re
import time
import urllib.request

import nbformat
import pytest

from lessonlib.course.quiz import questions
from lessonlib.exercises import exercises
from tools import notebooks

pytestmark = pytest.mark.browser

MINUTES = 60_000  # playwright counts milliseconds


class Notebook:
    """JupyterLab's page with one notebook open."""

    def __init__(self, page, lab, path):
        self.page = page
        page.goto(f"{lab}/lab/tree/{path.name}?reset")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=2 * MINUTES)
        cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
        # JupyterLab puts a long notebook in bit by bit.
        self.wait(2, done=lambda prompts: len(prompts) == cells)
        self.menu("Edit", "Clear Outputs of All Cells")  # else the stored numbers look like a run of ours
        self.wait(1, done=lambda prompts: not any(prompts))

    def menu(self, menu, item):
        self.page.click(f'.lm-MenuBar-itemLabel:text-is("{menu}")')
        self.page.click(f'.lm-Menu-itemLabel:text-is("{item}")')

    def cell(self, text):
        return self.page.locator(".jp-CodeCell", has=self.page.locator(f".jp-InputArea:has-text('{text}')")).first

    def prompts(self):
        """The number in front of each code cell; None where it has not run, or is running."""
        texts = self.page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        return [int(found[1]) if (found := re.search(r"\[(\d+)\]", text)) else None for text in texts]

    def wait(self, minutes, done):
        """Until done(prompts), or a cell has failed."""
        end = time.monotonic() + 60 * minutes
        while not done(self.prompts()):
            assert self.errors() == []
            assert time.monotonic() < end, f"still running after {minutes} minutes: {self.prompts()}"
            self.page.wait_for_timeout(300)

    def place(self, cell):
        return cell.evaluate("cell => [...document.querySelectorAll('.jp-CodeCell')].indexOf(cell)")

    def run_all(self, minutes):
        self.menu("Run", "Run All Cells")
        self.wait(minutes, done=all)

    def run_all_above(self, cell, minutes):
        cell.locator(".jp-InputPrompt").click()
        self.menu("Run", "Run All Above Selected Cell")
        self.wait(minutes, done=lambda prompts: all(prompts[: self.place(cell)]))

    def start(self, cell):
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, cell, minutes):
        place = self.place(cell)
        before = self.prompts()[place]
        self.start(cell)
        self.wait(minutes, done=lambda prompts: prompts[place] not in (None, before))

    def write(self, cell, source):
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)
        self.run(cell, minutes=1)

    def output(self, cell):
        return cell.locator(".jp-OutputArea").inner_text()

    def errors(self):
        """Whatever a cell wrote in red: errors and stderr."""
        kinds = [
            f'.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("error", "stderr")
        ]
        return self.page.locator(", ".join(kinds)).all_inner_texts()


def seen(cell) -> tuple[str, ...]:
    """What a figure shows now, in words: the descriptions of its pictures."""
    pictures = cell.locator("img, [role=img]").all()
    return tuple(one.get_attribute("alt") or one.get_attribute("aria-label") for one in pictures)


def after(notebook, cell, act) -> tuple[str, ...]:
    """Do something to a figure, and give back what it shows then: once that is new, or after three seconds."""
    before, end = seen(cell), time.monotonic() + 3
    act()
    while seen(cell) == before and time.monotonic() < end:
        notebook.page.wait_for_timeout(20)
    return seen(cell)


def slide(notebook, cell, handle) -> set:
    """What a slider shows at its beginning, in its middle and at its end."""
    last = round(float(handle.get_attribute("aria-valuemax")))

    def to_the_middle():
        for _ in range(last // 2):
            handle.press("ArrowRight")

    handle.focus()
    return {
        after(notebook, cell, act)
        for act in (lambda: handle.press("Home"), to_the_middle, lambda: handle.press("End"))
    }


def choose(notebook, cell, choice) -> set:
    """What a list's first, middle and last option show."""
    count = choice.locator("option").count()
    found = {seen(cell)}
    for index in (0, count // 2, count - 1):
        if index != choice.evaluate("list => list.selectedIndex"):
            found.add(after(notebook, cell, lambda index=index: choice.select_option(index=index)))
    return found


def take_each(notebook, cell, depth: int) -> set:
    """What each answer to a question of the tree shows; choosing it by its key leaves the keyboard where it was."""
    answers = cell.locator(".widget-radio-box").nth(depth).locator("input")
    found = {seen(cell)}
    for index in range(answers.count()):
        one = answers.nth(index)
        one.focus()
        found.add(after(notebook, cell, lambda one=one: one.press("Space")))
        assert one.is_checked() and one.evaluate("input => input === document.activeElement")
    return found


def nameless(cell) -> list[str]:
    """What a screen reader finds in an output and has no name to say. A slider's handle has none: a list is beside it."""
    lines = cell.locator(".jp-OutputArea").aria_snapshot().splitlines()
    found = [line.strip() for line in lines if re.match(r"\s*- (combobox|button|radio|slider)\b(?!.*\")", line)]
    found += ["picture" for words in seen(cell) if not words]
    lists = cell.locator(".widget-hbox:has(.noUi-handle) select").count()
    return [line for line in found if not (line.startswith("- slider") and lists)]


def move_every_control(notebook) -> list[str]:
    """Move each slider, list and answer through its ends and middle; returns the cells' sources."""
    page, moved = notebook.page, []
    control = page.locator(".noUi-handle, select, .widget-radio-box")
    for cell in page.locator(".jp-CodeCell", has=control).filter(has=page.locator("img, [role=img]")).all():
        moved.append(cell.locator(".jp-InputArea").inner_text())
        assert nameless(cell) == []
        if cell.get_by_role("button", name="start").count():
            play(notebook, cell)
            continue
        for handle in cell.locator(".noUi-handle").all():
            found = slide(notebook, cell, handle)
            assert len(found) >= min(3, 1 + int(float(handle.get_attribute("aria-valuemax")))), moved[-1]
        for choice in cell.locator("select").all():
            assert len(choose(notebook, cell, choice)) >= 2, f"a list changes nothing: {moved[-1]}"
        depth = 0
        while depth < cell.locator(".widget-radio-box").count():
            assert len(take_each(notebook, cell, depth)) >= 2, f"an answer changes nothing: {moved[-1]}"
            depth += 1
    return moved


def step(cell) -> int:
    """How many steps the playground has done."""
    found = re.search(r"step (\d+) of", cell.locator("[role=img]").get_attribute("aria-label"))
    return int(found[1])


def play(notebook, cell) -> None:
    """Train in the playground: another way, start, stop, go on where it stood, begin anew."""
    page, panel = notebook.page, cell.locator("[role=img]")
    button = {name: cell.get_by_role("button", name=name) for name in ("start", "stop", "anew")}

    def reaches(steps: int, minutes: float = 3):
        end = time.monotonic() + 60 * minutes
        while step(cell) < steps:
            assert time.monotonic() < end, panel.inner_text()
            page.wait_for_timeout(100)

    for index in (1, 0):
        after(notebook, cell, lambda index=index: cell.locator("select").select_option(index=index))
        assert step(cell) == 0
    button["start"].press("Enter")
    reaches(2)
    assert "training" in panel.inner_text()
    button["stop"].press("Enter")
    panel.filter(has_text="at rest").wait_for(timeout=MINUTES)  # when the step under way is done
    stopped = step(cell)
    page.wait_for_timeout(3000)
    assert step(cell) == stopped
    button["start"].press("Enter")
    reaches(stopped + 2)
    after(notebook, cell, lambda: button["anew"].press("Enter"))
    page.wait_for_timeout(3000)  # the step under way when it was pressed
    assert step(cell) == 0


def answer(notebook, quiz, lesson: str) -> None:
    """Try the answers to each question from the first one on until it is said to be right."""
    asked, groups = questions(lesson), quiz.locator(".widget-radio-box")
    assert groups.count() == len(asked) == 5
    for number, question in enumerate(asked):
        for option, reply in zip(groups.nth(number).locator("input").all(), question.replies, strict=True):
            option.check()
            quiz.get_by_text(reply).first.wait_for(timeout=MINUTES)  # a busy kernel answers late
            if notebook.output(quiz).count("Right.") > number:
                break
        else:
            raise AssertionError(f"question {number + 1} of the quiz has no right answer")
    quiz.get_by_text("5 of 5 right").first.wait_for(timeout=MINUTES)


def fill_in(notebook, exercise, code):
    """Write code into an exercise's cell, in front of its check, and give back what the check says."""
    cell = notebook.cell(f'check("{exercise.id}"')
    notebook.write(cell, f'{code.strip()}\n\n{exercise.name} = check("{exercise.id}", {exercise.name})')
    return notebook.output(cell)


def test_a_learner_works_through_the_notebook(page, lab, path):
    notebook = Notebook(page, lab, path)
    notebook.run_all(minutes=20)
    assert notebook.errors() == []
    assert move_every_control(notebook), "a notebook without a figure to play with"
    answer(notebook, notebook.cell(f'quiz("{path.name[:2]}")'), path.name[:2])
    for exercise in exercises(path.name[:2]).values():
        wrong, words = next(iter(exercise.wrong.items()))
        assert words in fill_in(notebook, exercise, wrong)
        assert f"✓ {exercise.id} right" in fill_in(notebook, exercise, exercise.solution)
    assert notebook.errors() == [] and page.errors == []


@pytest.mark.robust
def test_training_goes_on_after_the_kernel_has_died(page, lab):
    notebook = Notebook(page, lab, *notebooks.paths(["07"]))
    train = notebook.cell('resume="07-lora"')
    notebook.run_all_above(train, minutes=10)
    notebook.start(train)
    end = time.monotonic() + 600
    while True:  # until it is past a checkpoint, and long before its end
        found = re.search(r"(\d+)/(\d+)", notebook.output(train))
        if found and int(found[1]) >= int(found[2]) // 3:
            break
        assert time.monotonic() < end and "done" not in notebook.output(train), notebook.output(train)
        page.wait_for_timeout(500)
    notebook.menu("Kernel", "Restart Kernel and Clear Outputs of All Cells…")
    page.click('.jp-Dialog-button:has-text("Restart")')
    page.wait_for_selector(".jp-Dialog", state="detached")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=2 * MINUTES)
    notebook.run_all_above(train, minutes=10)
    notebook.run(train, minutes=15)
    assert "resumed at step" in notebook.output(train)
    assert notebook.errors() == []


def test_an_error_on_the_console_is_seen(page, lab):
    page.goto(f"{lab}/lab")
    page.evaluate("console.error('from the page')")
    page.wait_for_timeout(200)
    assert [error for error in page.errors if error.startswith("from the page")]


def test_nothing_is_left_of_the_kernels_of_the_tests_before(lab):
    assert json.load(urllib.request.urlopen(f"{lab}/api/kernels")) == []
