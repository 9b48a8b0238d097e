"""Funnels over the living rows of an index, by the scores of `matryo.search`.

The stages, stop rules and settled scores are those of `FunnelSearch` and `ExactSearch`; what
differs is where the codes lie, which rows count, and that of equal scores the smaller id goes
first. The answer is that of `FunnelSearch` over the matching rows in the order of their ids.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import Exact, Funnel, Lists, Margin, Scan, Stage
from matryo.search import (
    Answer,
    CertifiedSearch,
    ExactSearch,
    FunnelSearch,
    Level,
    Stored,
    best_first,
    check_reach,
    packed_scores,
    packed_sums,
    rounded,
    rounding,
    row_squares,
    settled_best,
)
from matryo.stores.embedded.layout import LONGEST_UNIT, Layout, squares_of
from matryo.stores.embedded.packed import PackedCodes, codes_of, cosines_name
from matryo.stores.embedded.segments import Key, Section, Segment
from matryo.stores.embedded.state import State
from matryo.transforms import truncate

_WORTH_A_SCAN = 4  # reading one row in four by its number costs about as much as reading them all


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a search did.

    Attributes:
        name: The stage as text, or `where` for the filter.
        rows_read: Rows of which it read something.
        bytes_read: Bytes of stored vectors that it read.
        rows_kept: Rows that went on, or are the answer.
        microseconds: What it took; None for the stages of an exact stop, which overlap.
    """

    name: str
    rows_read: int
    bytes_read: int
    rows_kept: int
    microseconds: float | None


@dataclass(frozen=True, slots=True)
class Found:
    """What one query finds.

    Attributes:
        rows: `(k,)` numbers of rows, best first.
        scores: Their scores at the last stage.
        steps: What every stage did.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    steps: list[Step]


class LiveSearch(FunnelSearch):
    """A funnel over some rows of a state.

    Args:
        state: What the index holds.
        layout: What its segments hold.
        funnel: Checked by `layout`.
        rows: `(n,)` numbers of the rows that may be found, ascending; at least one.
    """

    def __init__(
        self, state: State, layout: Layout, funnel: Funnel, rows: NDArray[np.int64]
    ) -> None:
        self.funnel, self.metric = funnel, layout.metric
        self._state, self._layout, self._rows = state, layout, rows
        self._n, self._full_dim = len(rows), layout.full_dim
        self._exact, self._live = None, list[_LiveLevel]()
        if isinstance(funnel.stop, Exact):
            exact = _LiveCertified if layout.certified is not None else _LiveExact
            self._exact = exact(state, layout, funnel.stages, rows)
        else:
            levels = [Level(stage.dim, stage.precision) for stage in funnel.stages]
            self._live = [_LiveLevel(state, layout, level, rows) for level in levels]
        self._levels = list[Stored](self._live)

    def found(self, queries: NDArray[np.floating], *, explain: bool = True) -> list[Found]:  # noqa: ARG002  # costs nothing here
        """What `(q, full_dim)` queries find, and what every stage did."""
        lists = self.funnel.stages[0].access
        if isinstance(lists, Lists):
            return [self._found_in(lists, query) for query in queries]
        return [self._found(query) for query in queries]

    def _found_in(self, lists: Lists, query: NDArray[np.floating]) -> Found:
        """The same among the rows of the lists that are nearest to a query."""
        first, *others = self.funnel.stages
        level = Level(first.dim, first.precision)
        segments = [part.segment for part in self._state.parts]
        probed = [PackedCodes(segment, level).probed(query, lists) for segment in segments]
        rows = self._rows[np.concatenate(probed)[self._rows]]
        if not len(rows):
            steps = [Step(str(stage), 0, 0, 0, 0.0) for stage in self.funnel.stages]
            return Found(rows, np.empty(0, np.float32), steps)
        whole = replace(self.funnel, stages=(replace(first, access=Scan()), *others))
        found = LiveSearch(self._state, self._layout, whole, rows)._found(query)
        steps = [replace(found.steps[0], name=str(first)), *found.steps[1:]]
        return replace(found, steps=steps)

    def _found(self, query: NDArray[np.floating]) -> Found:
        before = [level.nanoseconds for level in self._live]
        answer = self.search(query)
        times: list[float | None] = [
            (level.nanoseconds - start) / 1000
            for level, start in zip(self._live, before, strict=True)
        ]
        steps = [
            Step(str(stage), work.rows_read, work.bytes_read, work.rows_kept, microseconds)
            for stage, work, microseconds in zip(
                self.funnel.stages,
                answer.stages,
                times or [None] * len(answer.stages),
                strict=True,
            )
        ]
        return Found(answer.rows, answer.scores, steps)


def widened(funnel: Funnel, k: int) -> Funnel:
    """A funnel in which every stage keeps at least `k` rows, and a margin probes as many."""
    stages = tuple(replace(stage, keep=max(stage.keep, k)) for stage in funnel.stages)
    stop = funnel.stop
    if isinstance(stop, Margin):
        stop = replace(stop, probe=max(stop.probe, stages[-1].keep))
    return Funnel(stages, stop)


class _LiveLevel(Stored):
    """One level of all segments; without `rows`, the best among those that may be found."""

    def __init__(self, state: State, layout: Layout, level: Level, rows: NDArray[np.int64]) -> None:
        self._level, self._metric = level, layout.metric
        self._state, self._rows = state, rows
        self._segments = [_SegmentLevel(part.segment, layout, level) for part in state.parts]
        self._longest = max(segment.longest for segment in self._segments)
        self.nanoseconds = 0  # spent in `best`

    def best(
        self, query: NDArray[np.floating], keep: int, rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Stored.best`; of equal scores the smaller id goes first."""
        started = time.perf_counter_ns()
        rows = self._rows if rows is None else rows
        dim = self._level.dim
        if self._level.precision.is_packed:
            scores = self._packed_scores(query, rows)
            # more than `keep` of them, where equal scores reach beyond it
            near = scores >= scores[best_first(scores, rows, keep)[-1]]
            best = rows[near], scores[near]
            order = best_first(best[1], best[0], len(best[0]))
            found, scores = self._state.ranking(best[0][order], best[1][order])
            self.nanoseconds += time.perf_counter_ns() - started
            return found[:keep], scores[:keep]
        asked = truncate(query[None], dim, normalize=self._metric == "cosine")[0]
        length = math.hypot(*asked.tolist())
        check_reach(length, self._longest, self._metric)
        rough = self._rough(asked.astype(np.float32), rows)
        keep = min(keep, len(rough))
        kth = float(np.partition(rough, len(rough) - keep)[len(rough) - keep])
        slack = 2 * rounding(dim, length, self._longest, self._metric)
        near = rows[np.flatnonzero(rough >= np.float64(kth - slack))]
        best = settled_best(near, self._form, asked, keep=len(near), metric=self._metric)
        found, scores = self._state.ranking(*best)
        self.nanoseconds += time.perf_counter_ns() - started
        return found[:keep], scores[:keep]

    def _packed_scores(  # type: ignore[override]  # `best` always names the rows
        self, query: NDArray[np.floating], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        weights, steps = rounded(query[None], self._level)
        scores = np.empty(len(rows), np.float32)
        for number, places, local in self._state.split(rows):
            scores[places] = self._segments[number].packed(weights[0], steps[0], local)
        return scores

    def _rough(  # type: ignore[override]  # as above
        self, asked: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        rough = np.empty(len(rows), np.float32)
        for number, places, local in self._state.split(rows):
            rough[places] = self._segments[number].rough(asked, local)
        return rough

    def _form(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:  # type: ignore[override]
        form = np.empty((len(rows), self._level.dim), np.float32)
        for number, places, local in self._state.split(rows):
            form[places] = self._segments[number].form(local)
        return form


class _SegmentLevel(Stored):
    """One level of one segment: its codes, or the prefixes of its whole rows."""

    def __init__(self, segment: Segment, layout: Layout, level: Level) -> None:
        self._level, self._metric = level, layout.metric
        self._scales = layout.steps(level)
        self._coded = codes_of(level) in segment
        longest = segment.facts["longest"]
        if level.precision.is_packed:
            self._codes = PackedCodes(segment, level)  # type: ignore[assignment]  # reads like an array
            self.longest = LONGEST_UNIT
        elif self._coded:
            self._codes = segment[codes_of(level)]  # type: ignore[assignment]
            self.longest = float(longest[str(level)])
            if layout.metric == "l2":
                self._squares = segment[squares_of(level)][:]
        else:
            prefixes = _Prefixes(segment["rows"], level.dim, normalize=layout.normalize)
            self._codes = prefixes  # type: ignore[assignment]
            self._squares = _Squares(prefixes)  # type: ignore[assignment]
            self.longest = LONGEST_UNIT if layout.normalize else float(longest["rows"])

    def packed(
        self, weights: NDArray[np.int8], step: np.float32, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Scores of rows of packed codes."""
        codes: Any = self._codes
        if len(rows) * _WORTH_A_SCAN > len(codes):
            sums = packed_sums(codes, weights, self._level)[rows]
        else:
            sums = packed_sums(codes, weights, self._level, rows)
        return packed_scores(sums, codes.inverse_lengths(rows), step)

    def rough(self, asked: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Numbers that order these rows as their scores do, but for rounding."""
        if self._coded and len(rows) * _WORTH_A_SCAN > len(self._codes):
            return self._rough(asked, None)[rows]
        return self._rough(asked, rows)

    def form(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What these rows stand for."""
        return self._form(rows)


class _Prefixes:
    """The first numbers of whole rows, scaled for a cosine as they are read."""

    def __init__(self, rows: Section, dim: int, *, normalize: bool) -> None:
        self._rows, self._dim, self._normalize = rows, dim, normalize
        self.shape, self.dtype = (len(rows), dim), rows.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> NDArray[np.float32]:
        prefixes = truncate(self._rows[key], self._dim, normalize=self._normalize)
        return prefixes.astype(np.float32, copy=False)


class _Squares:
    """Squared lengths of prefixes, computed as they are read."""

    def __init__(self, prefixes: _Prefixes) -> None:
        self._prefixes = prefixes

    def __getitem__(self, key: Key) -> NDArray[np.float64]:
        return row_squares(self._prefixes[key])


class _LiveExact(ExactSearch):
    """An exact stop over some rows; they are put in the order of their ids first."""

    def __init__(
        self, state: State, layout: Layout, stages: Sequence[Stage], rows: NDArray[np.int64]
    ) -> None:
        self.stages, self.metric = stages, layout.metric
        dims = [stage.dim for stage in stages]
        self.spans = [slice(a, b) for a, b in zip([0, *dims], dims, strict=False)]
        self._found = state.by_id(rows)
        blocks: list[Any] = [  # they read like arrays
            _LiveBlock(state, f"block {number}", span.stop - span.start, self._found)
            for number, span in enumerate(self.spans)
        ]
        self.blocks = blocks
        self.rests = np.ascontiguousarray(state.gathered("rests", self._found).T)

    def search(self, query: NDArray[np.floating]) -> Answer:
        """See `ExactSearch.search`."""
        answer = super().search(query)
        return replace(answer, rows=self._found[answer.rows])


class _LiveCertified(CertifiedSearch):
    """An exact stop by the angles of packed codes over some rows, in the order of their ids."""

    def __init__(
        self, state: State, layout: Layout, stages: Sequence[Stage], rows: NDArray[np.int64]
    ) -> None:
        self.stages, self._state = stages, state
        self._level = Level(stages[0].dim, stages[0].precision)
        self._found = state.by_id(rows)
        self._codes = _LiveLevel(state, layout, self._level, self._found)
        self._cosines = state.gathered(cosines_name(self._level), self._found)

    def search(self, query: NDArray[np.floating]) -> Answer:
        """See `CertifiedSearch.search`."""
        answer = super().search(query)
        return replace(answer, rows=self._found[answer.rows])

    def _scores(self, query: NDArray[np.floating]) -> NDArray[np.float32]:
        return self._codes._packed_scores(query, self._found)

    def _form(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        whole = self._state.gathered("rows", self._found[rows])
        return truncate(whole, whole.shape[1]).astype(np.float32, copy=False)


class _LiveBlock:
    """Some dimensions of some rows, wherever they lie."""

    dtype: Any = None  # so that it is read in parts, never multiplied whole

    def __init__(self, state: State, name: str, width: int, rows: NDArray[np.int64]) -> None:
        self._state, self._name, self._rows = state, name, rows
        self.shape = (len(rows), width)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> NDArray[Any]:
        return self._state.gathered(self._name, self._rows[key])
