"""The notebook files: complete, fresh, tidy, readable by everyone."""

import importlib
import inspect
import itertools
import re

import nbformat
import pytest

from lessonlib.course.session import lessons
from lessonlib.exercises import exercises, lessons_with_exercises
from tools import notebooks

PATHS = notebooks.paths()
# An absolute path: of a personal folder wherever it stands, of any other where no word and no host goes before it.
MACHINES_PATH = re.compile(r"/home/|/root/|/tmp/|file:///|(?<![\w/])/[A-Za-z][\w.-]*/|[A-Z]:\\")
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_as_many_notebooks_exist_as_the_table_says():
    assert [path.name[:2] for path in PATHS] == [n for n, entry in lessons().items() if entry["built"]]


@each
def test_notebook_is_valid(path):
    nbformat.validate(read(path))


@each
def test_cell_ids_are_there_and_unique(path):
    ids = [cell["id"] for cell in read(path).cells]
    assert len(set(ids)) == len(ids)


@each
def test_outputs_belong_to_the_code(path):
    notebook = read(path)
    assert notebook.metadata["lessonlib"]["source_hash"] == notebooks.source_hash(notebook), (
        f"{path.name} was changed after it was executed: run `make notebooks NB={path.name[:2]}`"
    )


@each
def test_every_code_cell_was_executed_in_order(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_outputs_hold_no_errors_no_stderr_no_widgets(path):
    assert "widgets" not in read(path).metadata
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", cell.source
            assert not any("widget" in mime for mime in output.get("data", {})), cell.source


@pytest.mark.parametrize(
    "shown",
    ["in /srv/a/b", "(/root/.cache/x)", "'/content/a/b'", "file:///srv/a", "at:/opt/a/", "../data1/a", r"C:\a"],
)
def test_a_path_of_a_machine_is_noticed(shown):
    assert MACHINES_PATH.search(shown)


@pytest.mark.parametrize("shown", ["input and/or output", "https://example.org/a/b", "docs/claims.md", "3 / 4 / 5"])
def test_what_is_no_path_of_a_machine_may_be_shown(shown):
    assert not MACHINES_PATH.search(shown)


@each
def test_outputs_hold_no_paths_of_a_machine(path):
    text = path.read_text("utf8")
    for cell in code_cells(path):
        for output in cell.outputs:
            shown = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert not MACHINES_PATH.search(shown), shown[:300]
    assert "<ipython-input" not in text


@each
def test_every_image_has_alt_text(path):
    for cell in read(path).cells:
        for image in re.findall(r"!\[(.*?)\]\(|<img(?![^>]*alt=)", cell.source):
            assert image, f"an image without alt text: {cell.source[:100]}"
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                assert len(alt) > 40, f"an output image without a description: {cell.source[:100]}"


@each
def test_a_cell_that_ends_in_a_figure_shows_it_without_a_kernel(path):
    """A still picture, or a table in HTML: never only a widget's name."""
    for cell in code_cells(path):
        last = (cell.source.rstrip().splitlines() or [""])[-1]
        if re.match(r"(figures\.\w+\(|play$)", last):
            shown = [output.get("data", {}) for output in cell.outputs]
            assert any("image/png" in data or "<table" in data.get("text/html", "") for data in shown), cell.source


@each
def test_first_code_cell_is_the_shared_one(path):
    assert code_cells(path)[0].source == notebooks.bootstrap()


@each
def test_header_states_the_measured_minutes_and_memory(path):
    assert notebooks.header_line(path.name[:2]) in read(path).cells[0].source


@each
def test_header_names_the_longest_sections_as_measured(path):
    notebook = read(path)
    measured = notebook.metadata["lessonlib"]["minutes"]
    headings = re.findall(
        r"^##? (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M
    )
    assert set(measured) <= set(headings)
    assert 0 < sum(measured.values()) < 3 * lessons()[path.name[:2]]["minutes"]
    assert notebooks.longest_sections(measured) in notebook.cells[0].source


@each
def test_notebook_is_small_enough_to_render(path):
    assert path.stat().st_size < 1_500_000


@each
def test_cells_are_short(path):
    lines = sorted(len(cell.source.splitlines()) for cell in code_cells(path)[1:])
    assert lines[len(lines) // 2] <= 5 and lines[-1] <= 27


@each
def test_lines_fit_the_page(path):
    """JupyterLab cuts longer lines of code off at its right edge."""
    for cell in code_cells(path):
        assert [line for line in cell.source.splitlines() if len(line) > 118] == []


@each
def test_headings_do_not_skip_a_level(path):
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    levels = [len(mark) for source in cells for mark in re.findall(r"^(#+) ", source, flags=re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def defined():
    for path in PATHS:
        for cell in code_cells(path):
            for tag in notebooks.tags(cell):
                if tag.startswith("definition:"):
                    yield pytest.param(cell.source, *tag.split(":")[1:], id=f"{path.stem}-{tag}")


@pytest.mark.parametrize("source, module, name", list(defined()))
def test_notebook_and_library_define_the_same(source, module, name):
    library = inspect.getsource(getattr(importlib.import_module(module), name))
    assert notebooks.same_code(source, library)


@each
def test_a_definition_has_at_most_25_lines(path):
    for cell in code_cells(path):
        if any(tag.startswith("definition:") for tag in notebooks.tags(cell)):
            assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 25


@each
def test_exercises_stand_in_their_notebook_with_their_stub_and_level(path):
    number = path.name[:2]
    known = exercises(number) if number in lessons_with_exercises() else {}
    cells = read(path).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = [cell.source for cell in cells if "exercise" in notebooks.tags(cell)]
    assert len(found) == len(known) >= 3
    for (id, exercise), source in zip(known.items(), found, strict=True):
        assert source == f'{exercise.stub.rstrip()}\n\n{exercise.name} = check("{id}", {exercise.name})'
        assert f"### {exercise.level}" in prose


@each
def test_a_learner_who_did_nothing_sees_no_error_and_one_who_solved_all_sees_only_right(path, capsys):
    """Fill the references into the exercise cells and run those cells with their checks."""
    number = path.name[:2]
    if number not in lessons_with_exercises():
        pytest.skip("no exercises")
    setup = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
    setup += "from lessonlib.exercises import check\n"
    for exercise in exercises(number).values():
        last = f'{exercise.name} = check("{exercise.id}", {exercise.name})'
        exec(setup + exercise.solution + last, {})
        assert f"✓ {exercise.id} right" in capsys.readouterr().out
        exec(setup + exercise.stub + last, {})
        assert f"○ {exercise.id} not yet" in capsys.readouterr().out


@each
def test_some_outputs_are_compared_at_every_execution(path):
    assert sum("nbval-check-output" in notebooks.tags(cell) for cell in code_cells(path)) >= 5
