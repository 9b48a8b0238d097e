"""The one place where scores are computed: what a document is scored as, and its score.

score(query, document) at a level is the inner product of the query's prefix with what the stored
codes of the document's prefix decode to. For cosine both prefixes are first scaled to length 1; for
`dot` they are taken as they are; for `l2` the score is minus the squared distance. Higher is always
better.

Packed codes stand for small integers, and a query that meets them is rounded to 255 levels, or 127
for single bits: its part in the error is far below that of the codes. What is summed up are then
integers, so a score is the same to the last bit whatever computes it. For other codes queries stay
as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryo.core import METRICS, InputError, Metric, Precision, UnsupportedError
from matryo.transforms import decode, encode, inverse_lengths, odd_integers, truncate

# of a query that meets packed codes; four numbers of 63 add up to no more than a byte holds
_LARGEST_WEIGHTS = {Precision.INT4: 127, Precision.INT2: 127, Precision.BINARY: 63}


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
        UnsupportedError: packed codes keep directions only, so they need the cosine.
    """
    if metric not in METRICS:
        raise InputError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if level.precision.is_packed and metric != "cosine":
        raise UnsupportedError(
            f"{level.precision} codes keep only directions, so they need the metric cosine, "
            f"got {metric}",
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


def encoded(vectors: NDArray[np.floating], level: Level) -> NDArray[np.uint8]:
    """Packed codes of documents: `(n, columns)` of `(n, level.dim or more)` vectors."""
    codes: NDArray[np.uint8] = encode(truncate(vectors, level.dim), level.precision)
    return codes


def rounded(
    queries: NDArray[np.floating], level: Level
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """What queries look like to packed codes.

    Args:
        queries: `(q, full_dim)` whole query vectors, or any prefix of at least `level.dim` numbers.
        level: Size and number format of the codes.

    Returns:
        `(q, level.dim)` integers, and `(q,)` what one of them is worth.
    """
    largest = _LARGEST_WEIGHTS[level.precision]
    asked = truncate(queries, level.dim).astype(np.float64)
    steps = (np.abs(asked).max(axis=1) / largest).astype(np.float32)
    return np.rint(asked / steps[:, None]).astype(np.int8), steps


def packed_scores(
    sums: NDArray[Any], inverse_lengths: NDArray[np.float32], steps: Any
) -> NDArray[np.float32]:
    """Scores of packed codes: two float32 products of sums of integers, in this order.

    Args:
        sums: Products of the integers of queries and of codes, summed up.
        inverse_lengths: Of the integers that the codes stand for.
        steps: What the integers of the queries are worth.
    """
    scores: NDArray[np.float32] = sums.astype(np.float32) * inverse_lengths * steps
    return scores


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
    if level.precision.is_packed:
        weights, steps = rounded(queries, level)
        numbers = odd_integers(encoded(documents, level), level.precision, dim=level.dim)
        sums = _row_products(weights.astype(np.float64), numbers.astype(np.float64))
        return packed_scores(sums, inverse_lengths(numbers), steps)
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
