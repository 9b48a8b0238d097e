"""A funnel over vectors in memory: the reference for every index and store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    DimError,
    Exact,
    Funnel,
    InputError,
    Margin,
    Metric,
    Scan,
    UnsupportedError,
    VectorError,
)
from matryo.search.answer import Answer, Work
from matryo.search.certified import CertifiedSearch, is_certified
from matryo.search.exact import ExactSearch
from matryo.search.scores import Level, check_level
from matryo.search.stored import Stored


class FunnelSearch:
    """Vectors stored once per stage, each level contiguous, searched by a funnel.

    Args:
        vectors: `(n, full_dim)` whole vectors.
        funnel: Stages to run, with a stop rule or without; every stage reads its own codes.
        metric: What scores two vectors.
        scales: int8 steps for each dim with an int8 stage.

    Raises:
        DimError: a stage is wider than the vectors.
        VectorError: no rows, not finite, or, for a cosine, a prefix of zeros.
        UnsupportedError: inverted lists; or an exact stop, unless all stages are float32 and their
            dims rise to the full width, or packed codes are followed by the full width.
    """

    def __init__(
        self,
        vectors: NDArray[np.floating],
        funnel: Funnel,
        *,
        metric: Metric = "cosine",
        scales: Mapping[int, NDArray[np.float32]] | None = None,
    ) -> None:
        if not all(isinstance(stage.access, Scan) for stage in funnel.stages):
            raise UnsupportedError(
                f"this search reads every row in its first stage, got inverted lists in {funnel}",
                hint="leave the lists out, as in 64:500,768:10",
            )
        if vectors.ndim != 2 or not vectors.size:
            raise VectorError(
                f"expected at least one vector, as (rows, numbers), got shape {vectors.shape}"
            )
        self.funnel, self.metric = funnel, metric
        self._n, self._full_dim = vectors.shape
        for stage in funnel.stages:
            if stage.dim > self._full_dim:
                raise DimError(f"stage {stage} is wider than the vectors, {self._full_dim}")
            check_level(Level(stage.dim, stage.precision), metric)
        self._exact: ExactSearch | CertifiedSearch | None = None
        self._levels: list[Stored] = []
        if isinstance(funnel.stop, Exact):
            exact = CertifiedSearch if is_certified(funnel.stages) else ExactSearch
            self._exact = exact(vectors, funnel.stages, metric=metric)
            return
        for stage in funnel.stages:
            level, steps = Level(stage.dim, stage.precision), (scales or {}).get(stage.dim)
            self._levels.append(Stored(vectors, level, metric=metric, scales=steps))

    def search(self, query: NDArray[np.floating]) -> Answer:
        """Run the funnel for one whole query vector of `(full_dim,)` numbers.

        Raises:
            InputError: not one vector, of another width, or so long that scores are beyond float32.
            VectorError: not finite or, for a cosine, a prefix of zeros.
        """
        if query.shape != (self._full_dim,):
            raise InputError(
                f"expected one query vector of {self._full_dim} numbers, got shape {query.shape}"
            )
        if query.dtype == np.float16:  # scaled in its own digits it would not find itself
            query = query.astype(np.float32)
        if self._exact is not None:
            return self._exact.search(query)
        rows, scores = np.arange(self._n), np.empty(0, np.float32)
        works, numbers = list[Work](), 0
        for i, stage in enumerate(self.funnel.stages):
            received = len(rows)
            rows, scores = self._levels[i].best(query, self._shortlist(i), rows if i else None)
            rows = self._past_the_margin(i, query, rows, scores)
            size = stage.precision.bytes_per_vector(stage.dim)
            works.append(Work(received, received * size, len(rows)))
            numbers += received * stage.dim
        last = self.funnel.stages[-1]
        return Answer(
            rows,
            scores,
            last.dim,
            last.precision,
            bytes_read=sum(work.bytes_read for work in works),
            dims_read=numbers / self._n,
            stages=tuple(works),
        )

    def _shortlist(self, i: int) -> int:
        """Most rows that may go on from a stage."""
        keep, stop = self.funnel.stages[i].keep, self.funnel.stop
        last = i == len(self.funnel.stages) - 1
        return max(keep, stop.probe) if isinstance(stop, Margin) and not last else keep

    def _past_the_margin(
        self,
        i: int,
        query: NDArray[np.floating],
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Those of the best rows of a stage that go on, by the stop rule `Margin`."""
        stages, stop = self.funnel.stages, self.funnel.stop
        if not isinstance(stop, Margin) or i == len(stages) - 1 or len(rows) <= stop.probe:
            return rows
        # the probe goes on in any case, so that the codes looked at here are read only once
        _, ahead = self._levels[i + 1].best(query, stages[-1].keep, rows[: stop.probe])
        line, bar = stop.lines[i], float(ahead[-1])
        least = line.slope * bar + line.level - stop.width * line.spread
        passed = scores >= np.float64(least)
        passed[: stop.probe] = True
        return rows[passed]
