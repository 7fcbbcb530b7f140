"""These tests run the Triton kernels in Triton's interpreter, on the CPU.

Triton decides at its first import whether it interprets, for the whole process; so they are collected only
where TRITON_INTERPRET=1 is set, which `../test_triton_interpreter.py` does in processes of its own.
"""

import os

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def poisoned():
    """Every `torch.empty` holds NaN, or the largest integer: what is read before it is written shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    assert (torch.empty(4, dtype=torch.int8) == 127).all()
    yield
    torch.use_deterministic_algorithms(False)
