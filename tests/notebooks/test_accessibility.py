"""Everyone can read the notebooks: pictures are described, headings are in order, controls have names and keys."""

import ast
import html
import itertools
import random
import re
import subprocess
from pathlib import Path

import ipywidgets as widgets
import nbformat
import pytest
from interactive_figures import INTERACTIVE
from widget_events import inside

import lessonlib
from lessonlib import figures
from lessonlib.course import quiz
from tools import notebooks

PATHS = notebooks.paths()
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
LIBRARY = sorted(Path(lessonlib.__file__).parent.rglob("*.py"))


def cells(path, kind: str):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


# --- descriptions ----------------------------------------------------------------------------------------------------


def output_images(path) -> list[tuple[str, str]]:
    """(the cell's source, the description) of each picture among the outputs."""
    return [
        (cell.source, output.metadata.get(mime, {}).get("alt", ""))
        for cell in cells(path, "code")
        for output in cell.outputs
        for mime in output.get("data", {})
        if mime.startswith("image/")
    ]


def undescribed(markup: str) -> list[str]:
    """The images in Markdown or HTML that say nothing, or too little to stand for them; a badge may be short."""
    found = [
        (f"![{alt}]({address})", alt, 40 - 30 * ("badge" in address))
        for alt, address in re.findall(r"!\[(.*?)\]\((.*?)\)", markup, flags=re.S)
    ]
    for tag in re.findall(r"<(?:img|svg)\b.*?>", markup, flags=re.S):
        alt = re.search(r"""(?:alt|aria-label)=("|')(.*?)\1""", tag, flags=re.S)
        found.append((tag, html.unescape(alt[2]) if alt else "", 40))
    return [shown[:120] for shown, alt, least in found if len(alt) < least]


@each
def test_every_output_picture_says_in_words_and_numbers_what_is_seen(path):
    for source, alt in output_images(path):
        assert len(alt) >= 40 and alt.endswith("."), (source[-100:], alt)
        assert re.search(r"\d", alt) and "nan" not in alt and "<Figure" not in alt, alt


@each
def test_no_two_pictures_of_a_notebook_have_one_description(path):
    alts = [alt for _, alt in output_images(path)]
    assert len(set(alts)) == len(alts)


@each
def test_inline_images_and_images_in_html_outputs_are_described(path):
    for cell in cells(path, "markdown"):
        assert undescribed(cell.source) == []
    for cell in cells(path, "code"):
        for output in cell.outputs:
            assert undescribed(str(output.get("data", {}).get("text/html", ""))) == []


def test_an_image_without_words_is_seen():
    assert undescribed("![](a.png)") and undescribed("![A plot](a.png)") and undescribed("<img src='a.png'>")
    assert undescribed('<svg width="3">') and undescribed("![](https://x.y/badge.svg)")
    words = "Three bars, 10, 20 and 30 GB, of which the last fits no card."
    assert not undescribed(f"![{words}](a.png) <img alt='{words}'> ![Open in Colab](https://x.y/badge.svg)")


# --- headings and tables ---------------------------------------------------------------------------------------------


def levels(markdown: str) -> list[int]:
    """The levels of the headings, those of HTML too; what stands between code fences is no heading."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.M | re.S)
    found = re.findall(r"^(#{1,6}) |<h([1-6])\b", prose, flags=re.M)
    return [len(marks) or int(number) for marks, number in found]


def in_order(levels: list[int]) -> bool:
    """One heading of the first level, at the beginning, and no level is left out on the way down."""
    return levels[:1] == [1] and levels.count(1) == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels))


@each
def test_headings_are_in_order(path):
    assert in_order(levels("\n\n".join(cell.source for cell in cells(path, "markdown"))))


def test_headings_out_of_order_are_seen():
    assert in_order(levels("# A\n```\n# no heading\n```\n## B\n### C\n## D"))
    for wrong in ("## A", "# A\n# B", "# A\n### C", "# A\n<h4>D</h4>", ""):
        assert not in_order(levels(wrong)), wrong


@each
def test_tables_among_the_outputs_name_their_columns(path):
    for cell in cells(path, "code"):
        for output in cell.outputs:
            markup = str(output.get("data", {}).get("text/html", ""))
            for table in re.findall(r"<table.*?</table>", markup, flags=re.S):
                assert "<th" in table and "scope='col'" in table, table[:200]


@each
def test_links_say_where_they_lead(path):
    for cell in cells(path, "markdown"):
        for words in re.findall(r"(?<!!)\[([^\]]*)\]\(", cell.source):
            assert len(words) >= 3 and words.lower() not in ("here", "link", "click here"), words


# --- controls --------------------------------------------------------------------------------------------------------

CONTROLS = (
    widgets.Button | widgets.Dropdown | widgets.RadioButtons | widgets.SelectionSlider | widgets.Checkbox | widgets.Text
)  # fmt: skip
STILL = widgets.HTML | widgets.Box  # what is only shown, and what holds others


def nameless(widget) -> list[str]:
    """The controls in a widget that a screen reader could not name, or that the tab key does not reach."""
    found = []
    for control in inside(widget):
        if isinstance(control, STILL):
            continue
        assert isinstance(control, CONTROLS), f"is {type(control).__name__} one that the keyboard can use?"
        named = control.description.strip()
        if isinstance(control, widgets.SelectionSlider):
            # No front end names its handle: a list has to do the same.
            named = control.tooltip and any(
                isinstance(other, widgets.Dropdown) and other.description == control.tooltip
                for other in inside(widget)
            )
        if not named or control.tabbable is False or control.disabled:
            found.append(f"{type(control).__name__} {control.description!r}")
    return found


BUILDERS = {name: lambda build=build: build().box for name, build in INTERACTIVE.items()}
BUILDERS |= {f"quiz {lesson}": lambda lesson=lesson: quiz.build(quiz.questions(lesson)) for lesson in ("01", "07")}


@pytest.mark.parametrize("name", list(BUILDERS))
@pytest.mark.slow
def test_every_control_has_a_name_and_can_be_reached_by_keys(name):
    built = BUILDERS[name]()
    assert nameless(built) == []
    assert any(isinstance(widget, CONTROLS) for widget in inside(built))


def test_a_control_without_a_name_is_seen():
    assert nameless(widgets.VBox([widgets.Dropdown(options=["a"])])) == ["Dropdown ''"]


@pytest.mark.skipif(widgets.__version__ < "8", reason="ipywidgets 7 has neither tooltips on sliders nor tabbable")
def test_a_control_that_keys_do_not_reach_is_seen():
    assert nameless(widgets.SelectionSlider(options=[1, 2], description="a", tooltip="a"))
    assert nameless(widgets.Button(description="start", tabbable=False))


def made_in(source: str):
    """(class, keywords) of each widget that a source makes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "widgets":
                yield node.func.attr, {keyword.arg: keyword.value for keyword in node.keywords}


def unnamed(source: str) -> list[str]:
    """The controls that a source makes without a description (or a tooltip, for a slider beside a list)."""
    found = []
    for kind, keywords in made_in(source):
        made = getattr(widgets, kind)
        if isinstance(made, type) and issubclass(made, CONTROLS):
            name = keywords.get("tooltip" if kind == "SelectionSlider" else "description")
            if name is None or (isinstance(name, ast.Constant) and not name.value):
                found.append(kind)
    return found


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_no_file_of_the_library_makes_a_control_without_a_name(path):
    assert unnamed(path.read_text("utf8")) == []


def test_a_control_made_without_a_name_is_seen():
    assert unnamed("widgets.Dropdown(options=[1])\nwidgets.Button(description='')") == ["Dropdown", "Button"]
    assert unnamed("widgets.HTML('a')\nwidgets.Button(description='go')") == []


def test_the_library_uses_the_core_widgets_only():
    """Colab, JupyterLab and VS Code all show these, and their keys are known."""
    foreign = r"^\s*(?:import|from) (bqplot|plotly|ipympl|ipyevents|anywidget|ipyvuetify|panel|bokeh)\b"
    for path in LIBRARY:
        assert not re.search(foreign, path.read_text("utf8"), flags=re.M), path.name


@pytest.mark.slow
def test_every_picture_of_a_control_is_described_whatever_is_chosen():
    planner = figures.memory_planner()
    *_, image = planner.box.children
    draw = random.Random(0)
    for _ in range(5):
        for control in planner.box.children[0].children:
            control.value = draw.choice(control.options)
        assert "<img" in image.value and undescribed(image.value) == []


# --- size ------------------------------------------------------------------------------------------------------------


@each
def test_no_notebook_keeps_the_state_of_widgets(path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    assert "application/vnd.jupyter.widget" not in path.read_text("utf8")


def test_the_tree_is_small_enough_to_clone():
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=notebooks.ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    files = [notebooks.ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100 and sum(file.stat().st_size for file in files if file.exists()) < 25_000_000
