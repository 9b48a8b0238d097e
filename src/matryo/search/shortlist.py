"""The best rows of every query far beyond k, at every level, from one pass over the corpus.

Where a row stands in the shortlist of a stage says whether a funnel keeps it, for every `keep` at
once: from the shortlists of a few levels follows what hundreds of funnels would answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, Metric
from matryo.readers import Rows
from matryo.search.onepass import Exclude, OnePass, View, ViewPass, on_every_processor
from matryo.search.scan import descending_keys, true_positions
from matryo.search.scores import Level

NOWHERE = -1  # the row number that fills a shortlist with fewer rows than others
_SAMPLE = 2048  # rows from which the bar of a query is read off
_SPARE = 1.35  # so many times the rows asked for should pass the bar
_SPARE_SETTLED = 8  # rows settled in float64 beyond those that must be


@dataclass(frozen=True)
class Shortlist:
    """The best rows of every query at one level.

    Attributes:
        rows: `(queries, cap)` row numbers, best first, `NOWHERE` where a list has ended.
        scores: `(queries, cap)` float32 scores, descending, -inf where a list has ended. The first
            `settled` of them are exact, with ties by row number; those behind them are right but
            for the rounding of float32.
        settled: How many.
        whole: Whether the lists hold every row that can be found.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    settled: int
    whole: bool


def shortlists(
    queries: NDArray[np.floating],
    corpus: Rows,
    view: View,
    *,
    cap: int,
    settle: int,
    metric: Metric = "cosine",
    exclude: Exclude | None = None,
    ids: Sequence[str | int] | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Level, Shortlist]:
    """List the best rows of every query at every level of a view, reading the corpus once.

    The bar that a row must reach to be listed is read off a sample of rows, so a list may, rarely,
    end before `cap`: then less is known than was asked for, and nothing is wrong.

    Args:
        queries: `(q, full_dim)` whole query vectors.
        corpus: `(n, full_dim)` whole document vectors, an array or a memory-mapped file.
        view: How to look at the vectors, with its levels.
        cap: Rows per list.
        settle: First rows of every list whose order is to be exact.
        metric: What scores two vectors.
        exclude: For each query the rows it must not find.
        ids: Names of the rows, for messages.
        seed: Seed of the sample.
        threads: Workers; by default one per processor that this process may use.
        progress: Called with the number of rows done since the last call.

    Raises:
        InputError: a `cap` or `settle` below 1.
        DimError: queries and corpus differ in width, or a level is wider than they are.
        VectorError: NaN, infinity, a row of zeros, or a prefix of zeros under cosine.
    """
    if cap < 1 or settle < 1:
        raise InputError(f"cap and settle must be at least 1, got {cap} and {settle}")
    n, n_queries = corpus.shape[0], len(queries)
    cap = min(cap, n)
    bars: dict[Level, NDArray[np.float32]] = {}
    if _SPARE * cap < n and n > 2 * _SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(n, _SAMPLE, replace=False))
        sample = np.asarray(corpus[rows], np.float32)
        # the settled rows must be there: so far above their expected number chance does not reach
        sure = settle / n * _SAMPLE
        place = math.ceil(max(_SPARE * cap / n * _SAMPLE, sure + 7 * math.sqrt(sure) + 12))
        bars = _bars(queries, sample, view, place, metric=metric)
    pools: dict[Level, _Listed] = {}

    def make_pool(_: str, level: Level) -> _Listed:
        pools[level] = _Listed(bars.get(level, np.full(n_queries, -np.inf, np.float32)))
        return pools[level]

    whole = OnePass(
        queries, corpus, {"": view}, metric=metric, make_pool=make_pool, exclude=exclude, ids=ids
    )
    whole.run(threads=threads, progress=progress)
    names = list(pools)
    lists = on_every_processor(
        lambda level: pools[level].finish(
            whole.views[""], level, corpus, cap=cap, settle=settle, whole=not bars and cap == n
        ),
        names,
        threads=threads,
    )
    return dict(zip(names, lists, strict=True))


def _bars(
    queries: NDArray[np.floating],
    sample: NDArray[np.float32],
    view: View,
    place: int,
    *,
    metric: Metric,
) -> dict[Level, NDArray[np.float32]]:
    """For each level the number at this place among the best that each query finds in a sample."""
    pools: dict[Level, _Best] = {}

    def make_pool(_: str, level: Level) -> _Best:
        pools[level] = _Best(len(queries), place)
        return pools[level]

    OnePass(queries, sample, {"": view}, metric=metric, make_pool=make_pool).run()
    return {level: pool.kth() for level, pool in pools.items()}


class _Best:
    """Keeps the `k` best numbers of every query and nothing else."""

    def __init__(self, n_queries: int, k: int) -> None:
        self._lock = Lock()
        self._best = np.full((n_queries, k), -np.inf, np.float32)

    def offer(self, scores: NDArray[np.float32], *, first_query: int, **_: object) -> None:
        """See `Pool`."""
        block = slice(first_query, first_query + len(scores))
        k = self._best.shape[1]
        if scores.shape[1] > k:
            scores = np.partition(scores, -k, axis=1)[:, -k:]
        with self._lock:
            both = np.concatenate([self._best[block], scores], axis=1)
            self._best[block] = np.partition(both, -k, axis=1)[:, -k:]

    def kth(self) -> NDArray[np.float32]:
        """The k-th best number of every query."""
        lowest: NDArray[np.float32] = self._best.min(axis=1)
        return lowest


class _Listed:
    """Keeps every row that reaches the bar of its query."""

    def __init__(self, bar: NDArray[np.float32]) -> None:
        self._bar = bar
        self._lock = Lock()
        # by first row and query of a tile: workers come in no order, ties must
        self._found: dict[tuple[int, int], tuple[NDArray[np.generic], ...]] = {}

    def offer(
        self,
        scores: NDArray[np.float32],
        *,
        flags: NDArray[np.bool_],
        excluded: tuple[NDArray[np.int64], NDArray[np.int64]],
        first_query: int,
        first_row: int,
        **_: object,  # the bar is no exact one, so rounding does not matter
    ) -> None:
        """See `Pool`."""
        if len(excluded[0]):
            scores[excluded] = -np.inf
        bar = np.maximum(self._bar[first_query : first_query + len(scores)], np.float32(-3e38))
        passed = true_positions(np.greater_equal(scores, bar[:, None], out=flags))
        query, row = np.divmod(passed, scores.shape[1])
        found = (
            (query + first_query).astype(np.int32),
            (row + first_row).astype(np.int32),
            scores.reshape(-1)[passed],
        )
        with self._lock:
            self._found[first_row, first_query] = found

    def finish(
        self,
        view: ViewPass,
        level: Level,
        corpus: Rows,
        *,
        cap: int,
        settle: int,
        whole: bool,
    ) -> Shortlist:
        """Put the rows in order, the first of them exactly."""
        found = [self._found[tile] for tile in sorted(self._found)]
        self._found = {}
        query, row, number = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(descending_keys(query, number), kind="stable")
        query, row, number = query[order], row[order], number[order]
        starts = np.searchsorted(query, np.arange(len(self._bar) + 1))
        place = np.arange(len(query)) - starts[query]
        keep = place < cap
        query, row, number, place = query[keep], row[keep], number[keep], place[keep]
        rows = np.full((len(self._bar), cap), NOWHERE, np.int32)
        scores = np.full((len(self._bar), cap), -np.inf, np.float32)
        rows[query, place] = row
        scores[query, place] = view.scored(number, query, level)
        settled = min(settle + _SPARE_SETTLED, cap)
        asked, at = np.nonzero(rows[:, :settled] != NOWHERE)
        scores[asked, at] = view.settled(asked, rows[asked, at], level, corpus)
        head = np.lexsort((rows[:, :settled], -scores[:, :settled]))
        for part in (rows, scores):
            part[:, :settled] = np.take_along_axis(part[:, :settled], head, axis=1)
        # packed codes are scored exactly from the start, and equal rows come in their order
        settled = cap if level.precision.is_packed else min(settle, cap)
        return Shortlist(rows, scores, settled, whole)
