"""Maps of every kind over one synthetic space."""

from __future__ import annotations

import numpy as np
import pytest

from matryo.adaptation import NestedMap
from matryo.core import Space
from matryo.transforms import Adaptor, Chain, Reorder, Rotation

WIDTH = 16


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def rows(rng):
    return rng.standard_normal((300, WIDTH), dtype=np.float32)


@pytest.fixture
def space():
    return Space("words", WIDTH, revision="1")


@pytest.fixture
def network(rng):
    return Adaptor.residual(
        rng.standard_normal((WIDTH, 24)) / 4,
        rng.standard_normal(24),
        rng.standard_normal((24, WIDTH)) / 5,
        rng.standard_normal(WIDTH) / 5,
    )


@pytest.fixture
def transforms(rows, rng, network):
    """Everything that can be written for others, by name."""
    matrix = rng.standard_normal((WIDTH, 12)) / 4
    rotation = Rotation().fit(rows)
    return {
        "rotation": rotation,
        "reorder": Reorder().fit(rows),
        "linear": Adaptor.linear(matrix),
        "linear_with_bias": Adaptor.linear(matrix, rng.standard_normal(12)),
        "network": network,
        "chain": Chain.of_fitted([rotation, network, Adaptor.linear(matrix)]),
    }


@pytest.fixture
def one(transforms, space):
    """A map that serves both sides."""
    rotation = transforms["rotation"]
    return NestedMap(rotation, rotation, space, (4, 8, 16), {"method": "rotation", "loss": 0.25})


@pytest.fixture
def two(transforms, space):
    """A map for each side."""
    return NestedMap(transforms["network"], transforms["rotation"], space, (4, 16))
