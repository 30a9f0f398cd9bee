"""What a page, a command, a message or a comment calls by its address stands there: modules, what is in them, files."""

import importlib
import importlib.util
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "Makefile", "pyproject.toml", ".ci/run")),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "data").glob("*.*"),
        *(path for form in ("md", "toml", "yml", "yaml", "py") for path in (ROOT / "data").glob(f"*/*.{form}")),
        *(ROOT / "notebooks").glob("*.ipynb"),
    ]
)
CODE = sorted(path for folder in ("lessonlib", "tools") for path in (ROOT / folder).rglob("*.py"))

NAME = re.compile(r"(?<![\w./-])(?:lessonlib|tools)(?:\.[A-Za-z_]\w*)+")
FILES = (".json", ".toml", ".md")  # as in lessonlib.json, which is the name of a file
FILE = re.compile(r"(?<![\w./-])(?:lessonlib|tests|tools)/[\w./*-]*")


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or what a module has; of a class, what an object of it has as well."""
    module, rest = name, []
    while not _is_module(module):
        module, _, last = module.rpartition(".")
        rest.insert(0, last)
    there = importlib.import_module(module) if rest else None
    for part in rest:
        if part in getattr(there, "__annotations__", {}):
            return True
        if not hasattr(there, part):
            return False
        there = getattr(there, part)
    return True


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a file and no package, or is not there
        return False


def is_a_file(path: str) -> bool:
    """Whether a path, or one of its form (lessonNN_topic.py, test_*.py), stands in the project."""
    form = path.rstrip("./").replace("NN", "[0-9][0-9]").replace("topic", "*")
    return next(ROOT.glob(form), None) is not None


def lost(text: str) -> list[str]:
    """The addresses in a text under which nothing stands."""
    names = [name for name in NAME.findall(text) if not name.endswith(FILES) and not is_there(name)]
    return names + [path for path in FILE.findall(text) if not is_a_file(path)]


def text_of(path: Path) -> str:
    """A page's text; of a notebook what its cells say, without what they gave."""
    text = path.read_text("utf8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def said(code: str) -> str:
    """The comments and strings of a Python file; strings hold messages, docstrings and the code of exercises."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return "\n".join(token.string for token in tokens if token.type in kinds)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_page_calls_by_its_address_is_there(path):
    assert lost(text_of(path)) == []


@pytest.mark.parametrize("folder", ["lessonlib", "tools"])
def test_what_comments_and_strings_call_by_its_address_is_there(folder):
    found = {
        path.relative_to(ROOT).as_posix(): lost(said(path.read_text("utf8")))
        for path in CODE
        if path.is_relative_to(ROOT / folder)
    }
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "text",
    [
        "`python -m lessonlib.doctor` prints it again",
        "call lessonlib.lora.load_lola(model, path).",
        "from lessonlib.costs.compute import hours; lessonlib.costs.compute.hours.of",
        "`tools.pages.write_page`",
        "see lessonlib/lora.py, and tests/test_lora.py",
        "a generator of data: tools/word_problem.py.",
        "lessonlib/exercises/lessonNN_topic.py",
    ],
)
def test_an_address_under_which_nothing_stands_is_named(text):
    assert lost(text)


@pytest.mark.parametrize(
    "text",
    [
        "`lessonlib.lora.load_lora`. In `tools.pages`, and lessonlib.runs.Run.settings.",
        "`lessonlib/exercises/lessonNN.py`, tests/test_*.py; lessonlib/.",
        "reasoning.tools.none, peft/tests/none.py, /x/lessonlib/none.py, tools. And so on",
    ],
)
def test_an_address_that_stands_is_left_alone(text):
    assert lost(text) == []


def test_comments_and_strings_are_read_and_code_is_not():
    code = "import lessonlib.one  # lessonlib.two\nx = 'lessonlib.three', f'{x} lessonlib.four'\n"
    assert re.findall(NAME, said(code)) == ["lessonlib.two", "lessonlib.three", "lessonlib.four"]
