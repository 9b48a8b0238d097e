"""What the tests of core share."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def run_on_a_full_disk():
    """Run Python code in a process of its own in which no file may grow beyond so many bytes."""
    pytest.importorskip("resource")

    def run(code, *, limit, args=()):
        limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        return subprocess.run(
            [sys.executable, "-B", "-c", f"{code}\n{limited}\nwrite()", *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
        )

    return run
