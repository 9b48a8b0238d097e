"""Stored rows against one query: all of them roughly, then those that matter to the last digit.

Rough scores are float32 products of the codes as they are stored. How far they may be off is known:
a sum of n products, in whatever order, is off by at most n·u / (1 - n·u) times the sum of their
absolute values, u being half the step of float32 at 1 (Higham 2002, "Accuracy and stability of
numerical algorithms", section 3.1), and that sum is at most the product of the two lengths
(Cauchy-Schwarz). Every row that may belong to the best within that error is scored again in
float64, so that equal rows are ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, Metric, Precision
from matryo.search.scores import Level, packed_scores, rounded
from matryo.transforms import decode, encode, inverse_lengths, odd_integers, truncate

_NUMBERS = 1 << 18  # converted at once: one MiB of float32 stays in the cache of a processor
_PACKED_ROWS = 1 << 14  # looked up at once
_SETTLED_ROWS = 1024  # scored in float64 at once
_LONGEST = 1e37  # of anything that is multiplied or squared; float32 ends at 3.4e38
_TINY = float(np.finfo(np.float32).tiny)  # what a product may lose below the range of float32

_Lengths = TypeVar("_Lengths", float, NDArray[np.float64])


class Stored:
    """The codes of all rows at one level, contiguous, and their scores against a query.

    Args:
        vectors: `(n, full_dim)` whole vectors.
        level: Size and number format; at most as wide as the vectors.
        metric: What scores two vectors.
        scales: int8 steps of this level.
    """

    def __init__(
        self,
        vectors: NDArray[np.floating],
        level: Level,
        *,
        metric: Metric,
        scales: NDArray[np.float32] | None = None,
    ) -> None:
        self._level, self._metric, self._scales = level, metric, scales
        prefix = truncate(vectors, level.dim, normalize=metric == "cosine")
        self._codes = np.ascontiguousarray(encode(prefix, level.precision, scales=scales))
        self._inverse_lengths = np.empty(0, np.float32)
        if level.precision.is_packed:
            self._inverse_lengths = inverse_lengths_of(self._codes, level)
        squares = [row_squares(self._form(part)) for part in parts(len(vectors), _SETTLED_ROWS)]
        self._squares = np.concatenate(squares)
        self._longest = float(np.sqrt(self._squares.max()))

    def best(
        self, query: NDArray[np.floating], keep: int, rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best `keep` of some rows, or of all, with their scores; of equal ones the earlier.

        Args:
            query: `(full_dim,)` whole query vector.
            keep: Rows to find; with fewer rows, all of them are found.
            rows: Numbers of the rows to score; None scores all.
        """
        dim = self._level.dim
        if self._level.precision.is_packed:
            scores = self._packed_scores(query, rows)
            numbers = np.arange(len(scores)) if rows is None else rows
            best = best_first(scores, numbers, keep)
            return numbers[best], scores[best]
        asked = truncate(query[None], dim, normalize=self._metric == "cosine")[0]
        length = math.hypot(*asked.tolist())
        check_reach(length, self._longest, self._metric)
        rough = self._rough(asked.astype(np.float32), rows)
        keep = min(keep, len(rough))
        kth = float(np.partition(rough, len(rough) - keep)[len(rough) - keep])
        # both the k-th and the row that is compared with it may be off
        slack = 2 * rounding(dim, length, self._longest, self._metric)
        near = np.flatnonzero(rough >= np.float64(kth - slack))
        rows = near if rows is None else rows[near]
        return settled_best(rows, self._form, asked, keep=keep, metric=self._metric)

    def scores(self, query: NDArray[np.floating]) -> NDArray[np.float32]:
        """Scores of all rows of packed codes."""
        return self._packed_scores(query, None)

    def _packed_scores(
        self, query: NDArray[np.floating], rows: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """Scores of packed codes, which are exact."""
        weights, steps = rounded(query[None], self._level)
        sums = packed_sums(self._codes, weights[0], self._level, rows)
        lengths = self._inverse_lengths if rows is None else self._inverse_lengths[rows]
        return packed_scores(sums, lengths, steps[0])

    def _form(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """What these rows stand for."""
        precision = self._level.precision
        return decode(self._codes[rows], precision, dim=self._level.dim, scales=self._scales)

    def _rough(
        self, asked: NDArray[np.float32], rows: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """Numbers that order the rows as their scores do, but for rounding."""
        if self._scales is not None and self._level.precision is Precision.INT8:
            # a step on either side of a product is the same: the codes need not be decoded
            products = row_products(self._codes, asked * self._scales, rows)
        else:
            products = row_products(self._codes, asked, rows)
        if self._metric != "l2":
            return products
        squares = self._squares if rows is None else self._squares[rows]
        return 2 * products - squares.astype(np.float32)


def settled_best(
    rows: NDArray[np.int64],
    form: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    asked: NDArray[np.floating],
    *,
    keep: int,
    metric: Metric,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best `keep` of these rows by scores computed in float64; of equal ones the earlier.

    Equal rows get equal scores wherever they stand.

    Args:
        rows: `(m,)` row numbers.
        form: Gives what rows stand for, `(rows, dim)`; for a cosine of length 1.
        asked: `(dim,)` prefix of the query; for a cosine of length 1.
        keep: Rows to find.
        metric: What scores two vectors.
    """
    wide = asked.astype(np.float64)
    scores = np.empty(len(rows), np.float32)
    for part in parts(len(rows), _SETTLED_ROWS):
        right = form(rows[part]).astype(np.float64)
        scores[part] = (
            -row_squares(right - wide) if metric == "l2" else np.einsum("ij,j->i", right, wide)
        )
    order = np.lexsort((rows, -scores))[:keep]
    return rows[order], scores[order]


def row_products(
    codes: NDArray[Any], weights: NDArray[np.float32], rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Inner product of rows of `(n, dim)` numbers of any kind, or of all, with `(dim,)` weights."""
    if rows is None and codes.dtype == np.float32:
        whole: NDArray[np.float32] = codes @ weights
        return whole
    products = np.empty(len(codes) if rows is None else len(rows), np.float32)
    for part in parts(len(products), max(1, _NUMBERS // len(weights))):
        chunk = codes[part] if rows is None else codes[rows[part]]
        products[part] = chunk.astype(np.float32, copy=False) @ weights
    return products


def packed_sums(
    codes: NDArray[np.uint8],
    weights: NDArray[np.int8],
    level: Level,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Sums of integers of packed codes, of some rows or of all, times those of a query.

    What the numbers of a byte add up to is looked up among the 256 sums that it can be.

    Returns:
        `(rows,)` whole numbers; float32 holds them all up to 8,000 dims, and rounds beyond.
    """
    several = 8 // level.precision.bits
    padded = np.zeros(codes.shape[1] * several, np.float32)
    padded[: level.dim] = weights
    every = np.arange(256, dtype=np.uint8)[:, None]
    numbers = odd_integers(every, level.precision, dim=several).astype(np.float32)
    tables = padded.reshape(-1, several) @ numbers.T
    sums = np.zeros(len(codes) if rows is None else len(rows), np.float32)
    for part in parts(len(sums), _PACKED_ROWS):
        chunk, total = codes[part] if rows is None else codes[rows[part]], sums[part]
        for place, table in enumerate(tables):
            total += table.take(chunk[:, place], mode="clip")  # a byte is never out of bounds
    return sums


def inverse_lengths_of(codes: NDArray[np.uint8], level: Level) -> NDArray[np.float32]:
    """One over the length of the integers of each row of packed codes."""
    lengths = [
        inverse_lengths(odd_integers(codes[part], level.precision, dim=level.dim))
        for part in parts(len(codes), _SETTLED_ROWS)
    ]
    return np.concatenate(lengths)


def best_first(
    scores: NDArray[np.float32], order: NDArray[np.int64], keep: int
) -> NDArray[np.int64]:
    """Places of the best `keep` scores, best first; of equal ones the smaller of `order`."""
    keep = min(keep, len(scores))
    near = np.flatnonzero(scores >= np.partition(scores, len(scores) - keep)[len(scores) - keep])
    places: NDArray[np.int64] = near[np.lexsort((order[near], -scores[near]))][:keep]
    return places


def rounding(dim: int, length: float, longest: _Lengths, metric: Metric) -> _Lengths:
    """How far rough and settled scores of one row may lie apart, once both are float32.

    Beside the `dim` products, a few more roundings are allowed for: of the query, of steps and of
    lengths before the sum, and of the sum and of the settled score after it.

    Args:
        dim: Products that are summed up.
        length: Length of the query's prefix.
        longest: Length of the longest row, or of each row.
        metric: What scores two vectors.
    """
    half_step = 1.01 * 2.0**-24  # u / (1 - n·u) up to 160,000 numbers
    reach = (dim + 8) * (half_step * length * longest + _TINY)
    if metric != "l2":
        return reach
    return 2 * reach + 16 * half_step * (length + longest) ** 2


def check_reach(length: float, longest: float, metric: Metric) -> None:
    """Refuse vectors whose scores are beyond float32.

    Raises:
        InputError: they are.
    """
    reach = length + longest
    largest = reach * reach if metric == "l2" else max(length * longest, length)
    if not largest < _LONGEST:
        raise InputError(
            f"expected scores below {_LONGEST:g}, got a query of length {length:g} and rows of "
            f"lengths up to {longest:g} for the metric {metric}",
            hint="divide queries and documents by one number: the order of the answers stays",
        )


def row_squares(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Squared length of each row."""
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return squares


def parts(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `n` rows in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
