"""The README's pictures: they are those that the notebooks show, small, described, and one a notebook."""

import html
import re

import nbformat
import pytest

from tools import notebooks, readme_pictures

each = pytest.mark.parametrize("path", readme_pictures.finished(), ids=lambda path: path.stem)


@each
def test_the_picture_is_the_one_that_the_notebook_shows(path):
    picture = readme_pictures.shown(path)
    assert picture.file.exists() and picture.file.read_bytes() == picture.png, "run `make pictures`"
    assert len(picture.png) <= readme_pictures.MOST_BYTES


def test_the_readme_shows_each_notebooks_picture_with_its_description():
    readme = (notebooks.ROOT / "README.md").read_text("utf8")
    assert readme_pictures.readme_part() in readme, "run `make pictures`"
    images = re.findall(r'<img src="(.*?)".*?alt="(.*?)"', readme)
    assert len(images) == len(readme_pictures.finished())
    for path, (source, alt) in zip(readme_pictures.finished(), images):
        assert (notebooks.ROOT / source).exists()
        assert readme_pictures.shown(path).alt in html.unescape(alt)


def test_no_picture_is_left_of_a_notebook_that_is_gone():
    files = {file.name for file in readme_pictures.DIRECTORY.iterdir()}
    assert files == {f"{path.name[:2]}.png" for path in readme_pictures.finished()}


def with_output(tmp_path, source: str, png: str = "iVBORw0KGgo="):
    output = nbformat.v4.new_output(
        "execute_result",
        {"image/png": png},
        execution_count=1,
        metadata={"image/png": {"alt": "A bar of 3 GB."}},
    )
    cell = nbformat.v4.new_code_cell(source, outputs=[output], execution_count=1)
    path = tmp_path / "01_new.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_the_first_picture_of_the_chosen_figure_is_taken(tmp_path):
    found = readme_pictures.shown(with_output(tmp_path, "figures.cost_bars(plans)"))
    assert found.png == b"\x89PNG\r\n\x1a\n" and found.alt == "A bar of 3 GB."


def test_a_notebook_without_its_figure_and_a_picture_too_large_are_refused(tmp_path):
    with pytest.raises(LookupError, match=r"01_new.ipynb shows no figures.cost_bars"):
        readme_pictures.shown(with_output(tmp_path, "figures.scaling(sizes)"))
    with pytest.raises(ValueError, match="90,000 bytes, at most 80,000"):
        readme_pictures.shown(with_output(tmp_path, "figures.cost_bars(plans)", png="AAAA" * 30_000))
