"""Every piece of the library on the pretended device, in the two types that GPUs compute in."""

import pytest
from pieces import PIECES


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", PIECES)
def test_a_piece_works_on_the_device(reported, name, dtype):
    error = reported("pieces", dtype)[name]
    assert error is None, error


def test_there_are_enough_pieces():
    assert len(PIECES) >= 40
