"""A learner works through two notebooks: run all, choose, slide, do an exercise wrongly and rightly, answer the quiz,
lose the kernel in the middle of training and go on."""

import re
import time

import pytest

from lessonlib import notebooks
from lessonlib.exercises import exercises

pytestmark = pytest.mark.browser

MINUTES = 60_000  # playwright counts milliseconds


class Notebook:
    """JupyterLab's page with one notebook open."""

    def __init__(self, page, lab, name):
        self.page = page
        page.goto(f"{lab}/lab/tree/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=2 * MINUTES)
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=2 * MINUTES)
        self.menu("Edit", "Clear Outputs of All Cells")  # else the stored numbers look like a run of ours

    def menu(self, menu, item):
        self.page.click(f'.lm-MenuBar-itemLabel:text-is("{menu}")')
        self.page.click(f'.lm-Menu-itemLabel:text-is("{item}")')

    def cell(self, text):
        return self.page.locator(
            ".jp-CodeCell", has=self.page.locator(f".jp-InputArea:has-text('{text}')")
        ).first

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
            f'.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{kind}"]'
            for kind in ("error", "stderr")
        ]
        return self.page.locator(", ".join(kinds)).all_inner_texts()


@pytest.fixture
def notebook(page, lab):
    return Notebook(page, lab, "07_lora_from_scratch.ipynb")


def test_a_learner_plans_memory_in_notebook_01(page, lab):
    notebook = Notebook(page, lab, "01_cost_arithmetic.ipynb")
    notebook.run_all(minutes=10)
    assert notebook.errors() == []
    for figure, lists in (("figures.cost_bars", 1), ("figures.memory_planner", 5)):
        cell = notebook.cell(figure)
        image, choices = cell.locator("img"), cell.locator("select")
        assert choices.count() == lists
        for i in range(lists):
            seen = {image.get_attribute("alt")}
            for option in choices.nth(i).locator("option").all_inner_texts()[-2:]:
                choices.nth(i).select_option(label=option)
                page.wait_for_timeout(700)
                seen.add(image.get_attribute("alt"))
            assert len(seen) >= 2, (figure, i, seen)
    assert page.errors == []


def test_a_learner_works_through_notebook_07(notebook, page):
    notebook.run_all(minutes=20)
    assert notebook.errors() == []

    slider = notebook.cell("figures.rank_slider")
    image = slider.locator("img")
    handle = slider.locator(".noUi-handle")
    handle.focus()
    seen = {image.get_attribute("alt")}
    for key in ("Home", "ArrowRight", "End"):
        handle.press(key)
        page.wait_for_timeout(400)
        seen.add(image.get_attribute("alt"))
    assert len(seen) >= 3, seen

    exercise = notebook.cell('check("07.2"')
    assert "not yet" in notebook.output(exercise)
    check = 'lora_parameters = check("07.2", lora_parameters)'
    notebook.write(exercise, f"def lora_parameters(d_out, d_in, r):\n    return r * d_in * d_out\n\n{check}")
    assert "two thin ones" in notebook.output(exercise)
    notebook.write(
        exercise, f"def lora_parameters(d_out, d_in, r):\n    return r * (d_in + d_out)\n\n{check}"
    )
    assert "✓ 07.2 right" in notebook.output(exercise)

    quiz = notebook.cell('quiz("07")')
    for question in range(5):
        quiz.locator(".widget-radio-box").nth(question).locator("input").first.check()
    page.wait_for_timeout(500)
    text = notebook.output(quiz)
    assert text.count("Right.") + text.count("Not so.") >= 5 and "of 5 right" in text
    assert page.errors == []


def fill_in(notebook, exercise, code):
    """Write code into an exercise's cell, in front of its check, and give back what the check says."""
    cell = notebook.cell(f'check("{exercise.id}"')
    notebook.write(cell, f'{code.strip()}\n\n{exercise.name} = check("{exercise.id}", {exercise.name})')
    return notebook.output(cell)


@pytest.mark.robust
@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda path: path.stem)
def test_every_control_moves_its_picture_and_every_exercise_answers(page, lab, path):
    notebook = Notebook(page, lab, path.name)
    notebook.run_all(minutes=20)
    assert notebook.errors() == []
    for cell in page.locator(".jp-CodeCell", has=page.locator(".noUi-handle, select")).all():
        pictures = lambda cell=cell: {image.get_attribute("alt") for image in cell.locator("img").all()}  # noqa: E731
        for handle in cell.locator(".noUi-handle").all():
            before = pictures()
            handle.focus()
            for key in ("Home", "End"):
                handle.press(key)
                page.wait_for_timeout(500)
                before |= pictures()
            assert len(before) >= 2, f"a slider moves nothing: {before}"
        for choice in cell.locator("select").all():
            seen = pictures()
            for option in choice.locator("option").all_inner_texts():
                choice.select_option(label=option)
                page.wait_for_timeout(700)
                seen |= pictures()
            assert len(seen) >= 2, f"a list changes nothing: {seen}"
    for exercise in exercises(path.stem[:2]).values():
        wrong, words = next(iter(exercise.wrong.items()))
        assert words in fill_in(notebook, exercise, wrong)
        assert f"✓ {exercise.id} right" in fill_in(notebook, exercise, exercise.solution)
    assert notebook.errors() == [] and page.errors == []


def test_training_goes_on_after_the_kernel_has_died(notebook, page):
    train = notebook.cell('resume="07-lora"')
    notebook.run_all_above(train, minutes=10)
    notebook.start(train)
    end = time.monotonic() + 600
    while (
        not (seen := re.search(r"(\d+)/120", notebook.output(train))) or int(seen[1]) < 20
    ):  # past a checkpoint
        assert time.monotonic() < end, notebook.output(train)
        page.wait_for_timeout(500)
    notebook.menu("Kernel", "Restart Kernel and Clear Outputs of All Cells…")
    page.click('.jp-Dialog-button:has-text("Restart")')
    page.wait_for_selector(".jp-Dialog", state="detached")
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=2 * MINUTES)
    notebook.run_all_above(train, minutes=10)
    notebook.run(train, minutes=15)
    assert "resumed at step" in notebook.output(train)
    assert notebook.errors() == []
