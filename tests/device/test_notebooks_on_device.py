"""Every notebook on the pretended device, cell by cell; and that the walk notices what it is for."""

import itertools
import json

import pytest

from tools.files import paths

EVERY_PUSH = [(number, "float16") for number in ("07", "09", "10")]  # as a T4 has it; the others are of `make robust`
WALKS = [
    pytest.param(*walk, marks=pytest.mark.slow if walk in EVERY_PUSH else pytest.mark.robust)
    for walk in itertools.product((path.name[:2] for path in paths()), ("float16", "bfloat16"))
]


@pytest.mark.parametrize("number, dtype", WALKS)
def test_a_notebook_runs_on_the_device(reported, number, dtype):
    found = reported("walk", number, dtype)
    assert not found["errors"], "\n".join(found["errors"])
    cells = json.loads(paths([number])[0].read_text("utf8"))["cells"]
    assert found["cells"] == sum(cell["cell_type"] == "code" for cell in cells)
