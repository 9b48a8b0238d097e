"""The one place where scores are computed: what a document is scored as, and its score.

score(query, document) at a level is the inner product of the query's prefix with what the stored
codes of the document's prefix decode to. For cosine both prefixes are first scaled to length 1; for
`dot` they are taken as they are; for `l2` the score is minus the squared distance. Queries are
never quantized. Higher is always better.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryo.core import METRICS, InputError, Metric, Precision, UnsupportedError
from matryo.transforms import decode, encode, truncate


class Level(NamedTuple):
    """A size and a number format: what one stage of a funnel, or one row of a table, scores."""

    dim: int
    precision: Precision = Precision.FLOAT32

    def __str__(self) -> str:
        return f"{self.dim}@{self.precision}"


def check_level(level: Level, metric: Metric) -> None:
    """Refuse a metric that is none, and a precision that has no meaning for it.

    Raises:
        InputError: no such metric.
        UnsupportedError: binary codes keep directions only, so they need the cosine.
    """
    if metric not in METRICS:
        raise InputError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if level.precision is Precision.BINARY and metric != "cosine":
        raise UnsupportedError(
            f"binary codes keep only directions, so they need the metric cosine, got {metric}",
            hint="use int8, or declare the space as cosine if lengths do not matter",
        )


def stored_form(
    vectors: NDArray[np.floating],
    level: Level,
    *,
    metric: Metric,
    scales: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """What the documents look like to a query at this level: cut, scaled, coded and decoded again.

    Args:
        vectors: `(n, full_dim)` whole vectors, or any prefix of at least `level.dim` numbers.
        level: Size and number format.
        metric: Prefixes are scaled to length 1 for `"cosine"` only.
        scales: `(level.dim,)` int8 steps, fitted on prefixes prepared in this same way.

    Returns:
        `(n, level.dim)` float32.
    """
    prefix = truncate(vectors, level.dim, normalize=metric == "cosine")
    prefix = prefix.astype(np.float32, copy=False)
    if level.precision is Precision.FLOAT32:
        return prefix
    codes = encode(prefix, level.precision, scales=scales)
    return decode(codes, level.precision, dim=level.dim, scales=scales)


def pair_scores(
    queries: NDArray[np.floating],
    documents: NDArray[np.floating],
    level: Level,
    *,
    metric: Metric,
    scales: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Score row i of `queries` against row i of `documents`, computed in float64.

    Equal rows get equal scores wherever they stand, so that ties are ties.

    Args:
        queries: `(m, full_dim)` whole query vectors.
        documents: `(m, full_dim)` whole document vectors.
        level: Size and number format of the documents.
        metric: `"cosine"`, `"dot"` or `"l2"`.
        scales: int8 steps, as for `stored_form`.

    Returns:
        `(m,)` float32 scores.
    """
    left = queries[:, : level.dim].astype(np.float64)
    if level.precision is Precision.FLOAT32:
        right = documents[:, : level.dim].astype(np.float64)
    else:
        right = stored_form(documents, level, metric=metric, scales=scales).astype(np.float64)
    if metric == "l2":
        gap = left - right
        return -_row_products(gap, gap).astype(np.float32)
    scores = _row_products(left, right)
    if metric == "cosine":
        scores /= np.sqrt(_row_products(left, left))
        if level.precision is Precision.FLOAT32:
            scores /= np.sqrt(_row_products(right, right))
    return scores.astype(np.float32)


def _row_products(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = np.einsum("ij,ij->i", left, right)
    return products
