"""The first cell of the notebooks and the badge: run as Python in made-up folders, written with made-up addresses."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import files, notebooks

COLAB = Path(__file__).parents[1] / "colab" / "pretended"


def a_course(folder: Path) -> Path:
    """A course whose library is two files, one of which says where it stands."""
    (folder / "lessonlib").mkdir(parents=True)
    (folder / "lessonlib" / "__init__.py").touch()
    (folder / "lessonlib" / "bootstrap.py").write_text("def prepare():\n    print('prepared from', __file__)\n")
    return folder


def first_cell(folder: Path, address="", colab=False) -> subprocess.CompletedProcess:
    """Run the cell in a folder, where no lessonlib is installed; `address` stands in it."""
    code = notebooks.BOOTSTRAP.format(address=address)
    start = "import google.colab\n" if colab else ""
    path = f"import sys; sys.path[:] = [p for p in sys.path if p != {str(files.ROOT)!r}] + [{str(COLAB)!r}]\n"
    done = [sys.executable, "-S", "-E", "-c", path + start + code]
    return subprocess.run(done, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("colab", [False, True])
@pytest.mark.parametrize("place", [".", "..", "../..", "any name", "course"])
def test_the_course_is_found_above_and_below_whatever_its_folder_is_called(tmp_path, place, colab):
    here = tmp_path / "one" / "two"
    here.mkdir(parents=True)
    course = a_course((here / place).resolve())
    done = first_cell(here, address="https://nowhere.invalid/course", colab=colab)
    assert done.stdout == f"prepared from {course / 'lessonlib' / 'bootstrap.py'}\n", done.stderr


def test_on_colab_the_address_is_cloned_and_elsewhere_it_is_not(tmp_path):
    origin, here = a_course(tmp_path / "origin"), tmp_path / "content"
    here.mkdir()
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "All"]):
        subprocess.run([*git, *command], check=True)
    assert "The course is not here" in first_cell(here, address=origin.as_uri()).stderr
    done = first_cell(here, address=origin.as_uri(), colab=True)
    assert done.stdout == f"prepared from {here / 'course' / 'lessonlib' / 'bootstrap.py'}\n", done.stderr


@pytest.mark.parametrize("address", ["", "file:///nowhere/at/all"])
def test_where_nothing_is_found_the_two_lines_for_colab_are_said_and_what_to_do_elsewhere(tmp_path, address):
    said = first_cell(tmp_path, address=address, colab=True).stderr
    assert f"\n!git clone {address or 'ADDRESS_OF_THE_COURSE'} course\n%cd course\n" in said
    assert "With conda or make: open this notebook in a clone of the course, after `make setup`." in said


def test_the_first_cell_is_folded_in_both_interfaces():
    for path in notebooks.paths():
        first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        assert first.source.startswith("# @title ")
        assert first.metadata["jupyter"]["source_hidden"] is True and first.metadata["cellView"] == "form"


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The project's notebooks, README and pyproject.toml in a folder of their own, where the tools write."""
    shutil.copytree(files.NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns("adapters"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(files.ROOT / name, tmp_path)
    for module in (files, notebooks):
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf8") for path in sorted(folder.rglob("*")) if path.is_file()}


def test_without_an_address_there_is_no_badge_and_what_is_written_is_what_stands_here(copied):
    before = contents(copied)
    notebooks.write_badges()
    assert contents(copied) == before
    assert not any("colab-badge" in text for text in before.values())


@pytest.mark.parametrize("address", ["https://github.com/some-one/the.course", "https://github.com/a/b.git"])
def test_an_address_is_written_everywhere_and_no_output_grows_stale(copied, address):
    hashes = {path.name: notebooks.source_hash(nbformat.read(path, as_version=4)) for path in notebooks.paths()}
    notebooks.main(["badges", "https://github.com/first/address"])
    notebooks.main(["badges", address])
    owner_and_name = address.removeprefix("https://github.com/").removesuffix(".git")
    for path in notebooks.paths():
        notebook = nbformat.read(path, as_version=4)
        pages = re.findall(r"\]\((https://colab\.research[^)]*)\)", notebook.cells[0].source)
        wanted = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/{path.name}"
        assert [page for page in pages if "assets" not in page] == [wanted]
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert first.source == notebooks.bootstrap() and f'ADDRESS = "{address}"' in first.source
        assert notebooks.source_hash(notebook) == hashes[path.name]
        assert notebooks.header_line(path.name[:2]) in notebook.cells[0].source
    readme = (copied / "README.md").read_text("utf8")
    assert f"github/{owner_and_name}/blob/main/notebooks/01_" in readme and f"!git clone {address} course" in readme
    assert notebooks.address() == address


def test_an_address_that_colab_cannot_open_is_cloned_and_has_no_badge(copied):
    notebooks.main(["badges", "https://git.example.org/team/course"])
    assert not any("colab-badge" in text for text in contents(copied).values())
    assert "!git clone https://git.example.org/team/course course" in (copied / "README.md").read_text("utf8")


@pytest.mark.parametrize("wrong", ["github.com/a/b", "https://github.com", 'https://github.com/a/b"; import os', ""])
def test_what_is_no_address_is_refused(copied, wrong):
    before = contents(copied)
    with pytest.raises(ValueError, match="is no address of a repository"):
        notebooks.write_address(wrong)
    assert contents(copied) == before


def test_the_hash_of_the_code_sees_every_cell_but_the_first():
    def hashed(*cells):
        return notebooks.source_hash({"cells": [{"cell_type": "code", "source": source} for source in cells]})

    assert hashed("a", "b", "c") == hashed("x", "b", "c") != hashed("a", "b", "d")
