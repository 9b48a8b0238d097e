"""How scores move when dimensions go, and how a threshold is carried along."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, TooFewError
from matryo.search import Level

_KNOTS = 33


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """Monotone map from a full-width score to the score of a level.

    Attributes:
        dim: Prefix length.
        precision: Number format.
        mean: Mean of score at this level minus score at full width, over all pairs.
        error_mean: Mean absolute error of the map on queries it was not fitted on.
        error_p95: The error that 95 % of those pairs stay within.
        full: Ascending full-width scores.
        prefix: The score of this level at each of them, never falling; linear in between.
    """

    dim: int
    precision: str
    mean: float
    error_mean: float
    error_p95: float
    full: list[float]
    prefix: list[float]

    def carry(self, threshold: float) -> float:
        """The threshold at this level that stands for `threshold` at full width.

        Raises:
            InputError: the threshold lies outside the scores that the map was fitted on.
        """
        if not self.full[0] <= threshold <= self.full[-1]:
            raise InputError(
                f"threshold must be between {self.full[0]:.4f} and {self.full[-1]:.4f}, the "
                f"full-width scores seen in these data, got {threshold}",
                threshold=threshold,
            )
        return float(np.interp(threshold, self.full, self.prefix))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fit_score_map(
    full: NDArray[np.floating], scores: NDArray[np.floating], level: Level
) -> ScoreMap:
    """Fit the map on every second query and state its error on the others.

    Args:
        full: `(queries, pairs)` full-width scores.
        scores: `(queries, pairs)` scores of the same pairs at `level`.
        level: Size and number format of `scores`.

    Raises:
        TooFewError: fewer than two queries.
    """
    from scipy.optimize import isotonic_regression

    if len(full) < 2:
        raise TooFewError(f"a score map needs at least 2 queries, got {len(full)}", needed=2)
    x, y = full[::2].ravel().astype(np.float64), scores[::2].ravel().astype(np.float64)
    order = np.lexsort((y, x))
    x, y = x[order], isotonic_regression(y[order]).x
    knots = np.unique(np.linspace(0, len(x) - 1, _KNOTS).round().astype(int))
    at, unique = np.unique(x[knots], return_index=True)
    values = np.maximum.accumulate(y[knots][unique])
    errors = np.abs(np.interp(full[1::2], at, values) - scores[1::2])
    return ScoreMap(
        dim=level.dim,
        precision=level.precision.value,
        mean=float((scores - full).mean(dtype=np.float64)),
        error_mean=float(errors.mean()),
        error_p95=float(np.quantile(errors, 0.95)),
        full=[float(v) for v in at],
        prefix=[float(v) for v in values],
    )


def flipped(
    full: NDArray[np.floating],
    scores: NDArray[np.floating],
    threshold: float,
    carried: float,
) -> float:
    """Share of pairs, of the queries the map was not fitted on, that change sides."""
    return float(((full[1::2] >= threshold) != (scores[1::2] >= carried)).mean())
