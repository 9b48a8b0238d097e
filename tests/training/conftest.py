"""Tensors here are tiny: one thread is fastest, and leaves the rest of the machine alone."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("torch") is None:
    collect_ignore_glob = ["*"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
