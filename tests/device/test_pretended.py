"""The pretended device against the rules that CUDA is known to have, and that it leaves this process alone."""

import pytest
import torch
from rules import ALLOWED, REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(reported, name):
    assert REFUSED[name][1] in reported("rules")[name]


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_takes_is_taken(reported, name):
    assert reported("rules")[name] == ALLOWED[name][1]


def test_the_process_of_the_tests_has_no_such_device(reported):
    reported("rules")
    with pytest.raises(RuntimeError):
        torch.empty(1, device="pretended")
