"""The maintainers' tools for the notebook files: what they generate is fresh, and what they compare differs when it should."""

import pytest

from tools import files, notebooks, shared


def test_the_comparison_of_definitions_sees_a_change():
    assert notebooks.same_code('def f(x):\n    """Doc."""\n    return x', "def f(x):\n    return x  # why")
    assert not notebooks.same_code("def f(x):\n    return x", "def f(x):\n    return 2 * x")


def test_readme_table_is_fresh():
    assert notebooks.readme_table() in (notebooks.ROOT / "README.md").read_text("utf8"), "run `make tables`"


def test_environment_file_is_fresh():
    assert (notebooks.ROOT / "environment.yml").read_text("utf8") == notebooks.environment(), "run `make environment`"


# --- what several notebooks import --------------------------------------------------------------------------


def test_the_list_of_what_notebooks_share_is_fresh():
    page = shared.PAGE.read_text("utf8")
    assert f"<!-- shared -->\n{shared.listed()}\n<!-- end of shared -->" in page, "run `make tables`"


def test_a_module_is_shared_from_the_third_notebook_on(monkeypatch):
    used = {
        "lessonlib.a": ["01", "02"],
        "lessonlib.b": ["01", "02", "03"],
        "lessonlib.bootstrap": ["01"] * 10,
    }
    monkeypatch.setattr(shared, "users", lambda: used)
    assert shared.listed() == "- `lessonlib.b`: 01 02 03"
    assert shared.listed(2) == "- `lessonlib.b`: 01 02 03\n- `lessonlib.a`: 01 02"


@pytest.mark.parametrize(
    "code, modules",
    [
        ("import torch, lessonlib.runs", ["lessonlib.runs"]),
        ("from lessonlib import choosing, start", ["lessonlib.choosing", "lessonlib"]),
        ("def f():\n    from lessonlib.lora.dora import DoRALinear", ["lessonlib.lora.dora"]),
        ("from lessonliberty import runs\nfrom .lora import add_lora", []),
    ],
)
def test_imports_are_found_with_the_module_that_they_name(code, modules):
    assert list(shared.imported(code)) == modules


# --- parts of a page ----------------------------------------------------------------------------------------


def test_a_part_of_a_page_is_written_between_its_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n", "utf8")
    files.write_between("a", r"new \1", page)
    assert page.read_text("utf8") == "before\n<!-- a -->\nnew \\1\n<!-- end of a -->\nafter\n"
    with pytest.raises(ValueError, match=r"page\.md has 0 places marked <!-- b -->"):
        files.write_between("b", "", page)


def test_a_lesson_without_a_notebook_is_refused():
    assert [path.name[:2] for path in files.paths(["07"])] == ["07"]
    with pytest.raises(FileNotFoundError, match="no notebook for 07, 99; there are 01_"):
        files.paths(["07", "99"])


@pytest.mark.parametrize(
    ("arguments", "words"), [(["exekute"], "no command 'exekute'"), (["execute", "77"], "no notebook for 77")]
)
def test_a_command_or_a_lesson_that_there_is_not_is_one_line_and_exit_code_2(capsys, arguments, words):
    assert notebooks.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
