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


def all_cells_ran(found, number):
    assert not found["errors"], "\n".join(found["errors"])
    cells = json.loads(paths([number])[0].read_text("utf8"))["cells"]
    assert found["cells"] == sum(cell["cell_type"] == "code" for cell in cells)


@pytest.mark.parametrize("number, dtype", WALKS)
def test_a_notebook_runs_on_the_device(reported, number, dtype):
    all_cells_ran(reported("walk", number, dtype), number)


@pytest.mark.robust
@pytest.mark.parametrize("number", [path.name[:2] for path in paths()])
def test_a_notebook_runs_with_a_model_of_another_kind_and_shape(reported, number):
    all_cells_ran(reported("walk", number, "bfloat16", "another base"), number)


@pytest.mark.robust
def test_what_fits_only_in_four_bits_is_never_loaded_in_sixteen(reported):
    all_cells_ran(reported("walk", "09", "bfloat16", "four bits only"), "09")
