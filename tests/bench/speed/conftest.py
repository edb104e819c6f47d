"""Fixtures of the tests of the speed benchmarks."""

import numba
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Let numba and torch use one thread: the threads of both pools would compete."""
    numba_threads = numba.get_num_threads()
    torch_threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(numba_threads)
    torch.set_num_threads(torch_threads)
