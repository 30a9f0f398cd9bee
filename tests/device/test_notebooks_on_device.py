"""Every notebook on the pretended device, cell by cell; and that the walk notices what it is for."""

import json

import pytest

from tools.files import paths

SHORT = ("07", "09", "10")  # of the small tests; the others are of `make robust`
NUMBERS = [path.name[:2] for path in paths()]
WALKS = [pytest.param(n, marks=pytest.mark.slow if n in SHORT else pytest.mark.robust) for n in NUMBERS]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("number", WALKS)
def test_a_notebook_runs_on_the_device(reported, number, dtype):
    found = reported("walk", number, dtype)
    assert not found["errors"], "\n".join(found["errors"])
    cells = json.loads(paths([number])[0].read_text("utf8"))["cells"]
    assert found["cells"] == sum(cell["cell_type"] == "code" for cell in cells)
