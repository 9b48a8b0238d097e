"""The full-width top-k for certain, from packed codes of every row and whole numbers of a few.

Vectors are scaled to length 1, so scores are cosines of angles, and angles obey the triangle
inequality: with φ between a query and what the codes of a row stand for, and θ between that and the
row itself, the score lies between cos(φ + θ) and cos(φ - θ). θ is known when a row is stored. A row
whose highest possible score is below the k-th of the lowest possible ones cannot be in the answer;
the others are scored by their whole numbers. Codes of 4 bits at full width are 0.1 from their row,
which leaves few; those of a short prefix leave nearly all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matryo.core import Metric, Precision, Stage, UnsupportedError
from matryo.search.answer import Answer, Work
from matryo.search.scores import Level, rounded
from matryo.search.stored import Stored, settled_best
from matryo.transforms import decode, encode, truncate

_ROUNDING = 1e-6  # more than float32 can be off in a score of vectors of length 1
_BYTES = 4  # of the cosine of θ


def is_certified(stages: Sequence[Stage]) -> bool:
    """Whether an exact stop over these stages goes by the angles of packed codes."""
    return stages[0].precision.is_packed


def check_certified(stages: Sequence[Stage], metric: Metric, full_dim: int) -> None:
    """Refuse stages for which angles give no certainty.

    Raises:
        UnsupportedError: not two stages, of which the second is the full width as float32, or
            another metric than the cosine.
    """
    last = stages[-1]
    whole = last.dim == full_dim and last.precision is Precision.FLOAT32
    if metric != "cosine" or len(stages) != 2 or not whole:
        raise UnsupportedError(
            "an exact stop over packed codes needs the metric cosine and two stages, the second "
            f"with all {full_dim} numbers as float32, got {metric} and "
            f"{','.join(map(str, stages))}",
            hint=f"give stages such as {full_dim}@int4:100,{full_dim}:10,exact",
        )


def cosines_of(unit: NDArray[np.floating], forms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of θ of rows of length 1, rounded down so that they still bound.

    Args:
        unit: `(n, full_dim)` rows of length 1.
        forms: `(n, dim)` what their codes stand for, of length 1.
    """
    near = unit[:, : forms.shape[1]].astype(np.float64)
    products = np.einsum("ij,ij->i", near, forms.astype(np.float64)) - _ROUNDING
    cosines: NDArray[np.float32] = np.nextafter(products.astype(np.float32), np.float32(-2))
    return cosines


class CertifiedSearch:
    """Vectors with packed codes and the angles between the two, searched with certainty.

    Args:
        vectors: `(n, full_dim)` whole vectors.
        stages: Codes of every row, and the full width; the first `keep` is not read, since as many
            rows go on as need to.
        metric: The cosine.

    Raises:
        UnsupportedError: stages or a metric for which angles give no certainty.
    """

    def __init__(
        self, vectors: NDArray[np.floating], stages: Sequence[Stage], *, metric: Metric
    ) -> None:
        full_dim = vectors.shape[1]
        check_certified(stages, metric, full_dim)
        self.stages = stages
        self._level = Level(stages[0].dim, stages[0].precision)
        self._whole = encode(truncate(vectors, full_dim), Precision.FLOAT32)
        self._stored = Stored(vectors, self._level, metric=metric)
        codes = encode(truncate(vectors, self._level.dim), self._level.precision)
        forms = decode(codes, self._level.precision, dim=self._level.dim)
        self._cosines = cosines_of(self._whole, forms)

    def search(self, query: NDArray[np.floating]) -> Answer:
        """Find the full-width top-k of one `(full_dim,)` query, as exact search does."""
        first, last = self.stages
        asked = truncate(query[None], len(query))[0]
        low, high = between(self._scores(query), query, self._level, self._cosines)
        keep = min(last.keep, len(low))
        possible = np.flatnonzero(high >= np.partition(low, -keep)[-keep])
        rows, scores = settled_best(possible, self._form, asked, keep=keep, metric="cosine")
        n = len(low)
        read = n * (first.precision.bytes_per_vector(first.dim) + _BYTES)
        whole = len(possible) * Precision.FLOAT32.bytes_per_vector(last.dim)
        works = Work(n, read, len(possible)), Work(len(possible), whole, len(rows))
        return Answer(
            rows,
            scores,
            last.dim,
            last.precision,
            bytes_read=read + whole,
            dims_read=(n * first.dim + len(possible) * last.dim) / n,
            stages=works,
        )

    def _scores(self, query: NDArray[np.floating]) -> NDArray[np.float32]:
        """Score of every row at the first stage."""
        return self._stored.scores(query)

    def _form(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Whole rows of length 1."""
        return self._whole[rows]


def between(
    scores: NDArray[np.float32],
    query: NDArray[np.floating],
    level: Level,
    cosines: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and the highest full-width score that rows can have.

    Args:
        scores: `(n,)` of packed codes, for the query as they see it.
        query: `(full_dim,)` whole query.
        level: Of the codes.
        cosines: `(n,)` of θ.
    """
    weights, steps = rounded(query[None], level)
    prefix = truncate(query[None], level.dim)[0].astype(np.float64)
    seen = weights[0].astype(np.float64) * float(steps[0])
    share = _share(query, level.dim)
    # what rounding took from the query is at most as long as this
    off = share * math.hypot(*(prefix - seen).tolist()) + _ROUNDING
    near = scores.astype(np.float64) * share
    angle = np.arccos(np.clip(cosines.astype(np.float64), -1, 1))
    least = np.arccos(np.clip(near + off, -1, 1))
    most = np.arccos(np.clip(near - off, -1, 1))
    low = np.cos(np.minimum(most + angle, np.pi)) - _ROUNDING
    high = np.cos(np.maximum(least - angle, 0)) + _ROUNDING
    return low, high


def _share(query: NDArray[np.floating], dim: int) -> float:
    """Length of the prefix of a query that was scaled to length 1."""
    unit = truncate(query[None], len(query))[0].astype(np.float64)
    return math.hypot(*unit[:dim].tolist())
