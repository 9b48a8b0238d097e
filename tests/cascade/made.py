"""Synthetic classes whose first numbers say most."""

from __future__ import annotations

import numpy as np

WIDTH = 16
DIMS = (2, 4, 8, 16)


def labelled(seed, n, *, classes=4, noise=0.6):
    """`(n, 16)` vectors and their labels; every class has one centre, whatever the seed."""
    weights = 0.85 ** np.arange(WIDTH)
    centres = np.random.default_rng(99).standard_normal((classes, WIDTH)) * weights
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, classes, n)
    vectors = centres[codes] + noise * rng.standard_normal((n, WIDTH)) * weights**0.5
    return vectors.astype(np.float32), np.array([f"class {code}" for code in codes])
