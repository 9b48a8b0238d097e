"""A funnel over vectors in memory: the reference for every index and store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import DimError, Funnel, InputError, Metric, Scan, UnsupportedError
from matryo.search.scores import Level, check_level
from matryo.transforms import decode, encode, truncate

_ROUNDING = 8e-6  # of a float32 score, for prefixes of length 1


@dataclass(frozen=True)
class Answer:
    """What one query found.

    Attributes:
        rows: Row numbers, best first, as many as the last stage keeps.
        scores: Their scores at the last stage.
        bytes_read: Bytes of stored vectors that were read.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    bytes_read: int


class FunnelSearch:
    """Vectors stored once per stage, each level contiguous, searched by a funnel.

    Args:
        vectors: `(n, full_dim)` whole vectors.
        funnel: Stages to run; every one reads its own codes.
        metric: What scores two vectors.
        scales: int8 steps for each dim with an int8 stage.

    Raises:
        DimError: a stage is wider than the vectors.
        UnsupportedError: inverted lists or a stop rule, which this search does not have.
    """

    def __init__(
        self,
        vectors: NDArray[np.floating],
        funnel: Funnel,
        *,
        metric: Metric = "cosine",
        scales: Mapping[int, NDArray[np.float32]] | None = None,
    ) -> None:
        if funnel.stop is not None or not all(isinstance(s.access, Scan) for s in funnel.stages):
            raise UnsupportedError(f"this search runs plain stages only, got {funnel}")
        self.funnel, self.metric = funnel, metric
        self._scales = dict(scales or {})
        self._n, self._full_dim = vectors.shape
        self._codes: list[NDArray[Any]] = []
        self._longest: list[float] = []  # length of the longest prefix of each stage
        for stage in funnel.stages:
            if stage.dim > vectors.shape[1]:
                raise DimError(f"stage {stage} is wider than the vectors, {vectors.shape[1]}")
            check_level(Level(stage.dim, stage.precision), metric)
            prefix = truncate(vectors, stage.dim, normalize=metric == "cosine")
            codes = encode(prefix, stage.precision, scales=self._scales.get(stage.dim))
            self._codes.append(np.ascontiguousarray(codes))
            squares = np.einsum("ij,ij->i", prefix, prefix, dtype=np.float64)
            self._longest.append(float(np.sqrt(squares.max())))

    def search(self, query: NDArray[np.floating]) -> Answer:
        """Run the funnel for one whole query vector of `(full_dim,)` numbers.

        Raises:
            InputError: not one vector, or of another width.
        """
        if query.shape != (self._full_dim,):
            raise InputError(
                f"expected one query vector of {self._full_dim} numbers, got shape {query.shape}"
            )
        rows = np.arange(self._n)
        scores = np.empty(0, np.float32)
        bytes_read = 0
        for i, (stage, codes) in enumerate(zip(self.funnel.stages, self._codes, strict=True)):
            prefix = truncate(query[None], stage.dim, normalize=self.metric == "cosine")[0]
            stored = codes[rows] if i else codes
            form = decode(
                stored, stage.precision, dim=stage.dim, scales=self._scales.get(stage.dim)
            )
            bytes_read += len(rows) * stage.precision.bytes_per_vector(stage.dim)
            scores = form @ prefix.astype(np.float32)
            if self.metric == "l2":
                scores = 2 * scores - np.einsum("ij,ij->i", form, form) - prefix @ prefix
            # Every row that may belong to the best, by the rounding of float32, is scored again in
            # float64: equal rows are ties, and of ties the earlier row goes first.
            longest = self._longest[i]
            slack = _ROUNDING * longest * max(longest, 2 * float(np.linalg.norm(prefix)))
            keep = min(stage.keep, len(rows))
            bar = np.partition(scores, len(rows) - keep)[len(rows) - keep] - slack
            best = np.flatnonzero(scores >= bar)
            rows, form = rows[best], form[best]
            left, right = prefix.astype(np.float64), form.astype(np.float64)
            exact = -np.square(right - left).sum(axis=1) if self.metric == "l2" else right @ left
            scores = exact.astype(np.float32)
            order = np.lexsort((rows, -scores))[:keep]
            rows, scores = rows[order], scores[order]
        return Answer(rows, scores, bytes_read)
