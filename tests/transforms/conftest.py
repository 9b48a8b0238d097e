"""What the tests of transforms share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

# a busy machine is no failure
settings.register_profile("matryo", deadline=None)
settings.load_profile("matryo")


@pytest.fixture
def rng():
    return np.random.default_rng(7)
