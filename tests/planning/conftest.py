"""Small synthetic data that a funnel pays on, and a machine that is the same everywhere."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from matryo.core import Precision, Space
from matryo.planning import Calibration, Machine
from matryo.planning.machine import Rates

DIM = 64


def vectors(n, seed, dim=DIM):
    """Clusters whose weight lies in the first numbers."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(300, dim))
    rows = centres[rng.integers(0, 300, n)] + 0.7 * rng.normal(size=(n, dim))
    return (rows * 0.95 ** np.arange(dim)).astype(np.float32)


def plain_machine():
    """A profile without measurements: every unit costs one or two."""
    rates = Rates(**{field.name: 1.0 for field in fields(Rates)})
    names = {"name": "a machine", "engine": "an engine", "version": "1", "measured": "2026-01-01"}
    numbers = {field.name: 2.0 for field in fields(Machine) if field.name not in names}
    known = {"rates": dict.fromkeys(Precision, rates), "processors": 2, "p95_ratio": 1.5}
    return Machine(**{**names, **numbers, **known})


@pytest.fixture(scope="session")
def machine():
    return plain_machine()


@pytest.fixture(scope="session")
def data():
    return Calibration(
        vectors(600, 1), vectors(3000, 0), Space("synthetic", DIM), origin="synthetic"
    )
