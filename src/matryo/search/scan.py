"""Exact search at every size and precision from one pass over the corpus.

The pass keeps, for every query and level, the rows that may belong to the top k; those few are then
scored again in float64 by `pair_scores`, which settles rounding and ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, Metric
from matryo.readers import Rows
from matryo.search.onepass import Exclude, Off, OnePass, View, on_every_processor
from matryo.search.scores import Level

MOST_TIES = 1024  # candidates kept per query beyond k, however many rows are tied

_Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]  # query, row, score
# query, row, score, and how far the score may be off by rounding
_Guessed = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class TopK:
    """The best rows for every query.

    Attributes:
        rows: `(queries, k)` row numbers, best first.
        scores: `(queries, k)` float32 scores, descending.
        tied: For each query the rows beyond k whose score equals the k-th; at most 1,024.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    tied: list[NDArray[np.int64]]


def scan(
    queries: NDArray[np.floating],
    corpus: Rows,
    views: Mapping[str, View],
    *,
    k: int,
    metric: Metric = "cosine",
    exclude: Exclude | None = None,
    tie_order: NDArray[np.integer] | None = None,
    ids: Sequence[str | int] | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[tuple[str, Level], TopK]:
    """Find the top `k` of every query at every level of every view, reading the corpus once.

    Args:
        queries: `(q, full_dim)` whole query vectors.
        corpus: `(n, full_dim)` whole document vectors, an array or a memory-mapped file.
        views: Named ways to look at the vectors, with their levels.
        k: Rows per query.
        metric: What scores two vectors.
        exclude: For each query the rows it must not find (itself, when drawn from the corpus).
        tie_order: `(n,)` numbers; of rows with one score the smaller number goes first. By default
            the row number.
        ids: Names of the rows, for messages.
        threads: Workers; by default one per processor that this process may use.
        progress: Called with the number of rows done since the last call.

    Returns:
        The top k by view name and level.

    Raises:
        DimError: queries and corpus differ in width, or a level is wider than they are.
        VectorError: NaN, infinity, a row of zeros, or a prefix of zeros under cosine.
        InputError: fewer rows than `k`.
    """
    most_excluded = max((len(rows) for rows in exclude), default=0) if exclude else 0
    if not 1 <= k <= corpus.shape[0] - most_excluded:
        raise InputError(
            "k must be at least 1 and at most the number of documents to find, "
            f"{corpus.shape[0] - most_excluded}, got {k}",
            k=k,
        )
    pools: dict[tuple[str, Level], _Pool] = {}

    def make_pool(name: str, level: Level) -> _Pool:
        pools[name, level] = _Pool(len(queries), k, tie_order)
        return pools[name, level]

    whole = OnePass(
        queries, corpus, views, metric=metric, make_pool=make_pool, exclude=exclude, ids=ids
    )
    whole.run(threads=threads, progress=progress)

    def finish(job: tuple[str, Level]) -> TopK:
        query, row = pools[job].candidates()
        scores = whole.views[job[0]].settled(query, row, job[1], corpus)
        return _best((query, row, scores), k=k, n_queries=len(queries), tie_order=tie_order)

    tops = on_every_processor(finish, pools, threads=threads)
    return dict(zip(pools, tops, strict=True))


class _Pool:
    """For one level, the rows of each query that may still belong to its top k.

    A score is known but for rounding, so a row has a score that it reaches at least and one that it
    reaches at most. The bar of a query is the k-th best of the former.
    """

    def __init__(self, n_queries: int, k: int, tie_order: NDArray[np.integer] | None) -> None:
        self.k = k
        self._tie_order = tie_order
        self._lock = Lock()
        self._bar = np.full(n_queries, -np.inf, np.float32)
        none = np.empty(0, np.float32)
        self._kept: _Guessed = (np.empty(0, np.int64), np.empty(0, np.int64), none, none)
        self._pending: list[_Guessed] = []
        self._n_pending = 0

    def offer(
        self,
        scores: NDArray[np.float32],
        *,
        flags: NDArray[np.bool_],
        excluded: tuple[NDArray[np.int64], NDArray[np.int64]],
        first_query: int,
        first_row: int,
        slack: NDArray[np.float32],
        off: Off,
    ) -> None:
        """Take from a tile of scores `(queries, rows)` what may reach the bar of its query."""
        if len(excluded[0]):
            scores[excluded] = -np.inf
        bar = self._bar[first_query : first_query + len(scores)] - slack
        if scores.shape[1] > self.k and np.isneginf(bar).any():
            # without a bar everything would pass: let the k-th best of this tile be the bar
            kth = np.partition(scores, -self.k, axis=1)[:, -self.k]
            bar = np.maximum(bar, kth - 2 * slack)
        # once the bars are high, most queries find nothing in a tile: their best score says so
        live = np.flatnonzero(scores.max(axis=1) >= bar)
        if not live.size:
            return
        if len(live) < len(scores) // 2:
            scores, bar = scores[live], bar[live]
        else:
            live = np.arange(len(scores))
        passed = true_positions(np.greater_equal(scores, bar[:, None], out=flags[: len(scores)]))
        query, row = np.divmod(passed, scores.shape[1])
        query = live[query]
        found = (query + first_query, row + first_row, scores.reshape(-1)[passed], off(query, row))
        with self._lock:
            self._pending.append(found)
            self._n_pending += len(passed)
            if self._n_pending > 2 * self.k * len(self._bar):
                self._settle()

    def candidates(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Query and row of every candidate, sorted by query."""
        self._settle()
        return self._kept[0], self._kept[1]

    def _settle(self) -> None:
        """Raise the bars to what has been found, and drop what is below them."""
        query, row, score, off = (
            np.concatenate(c) for c in zip(self._kept, *self._pending, strict=True)
        )
        self._pending, self._n_pending = [], 0
        order = np.argsort(descending_keys(query, score - off))
        query, row, score, off = query[order], row[order], score[order], off[order]
        starts = np.searchsorted(query, np.arange(len(self._bar) + 1))
        enough = np.flatnonzero(np.diff(starts) >= self.k)
        kth = starts[enough] + self.k - 1
        self._bar[enough] = score[kth] - off[kth]
        keep = (score + off >= self._bar[query]) & (score > -np.inf)
        query, row, score, off = query[keep], row[keep], score[keep], off[keep]
        if np.bincount(query, minlength=1).max() > self.k + MOST_TIES:
            # Too many rows within rounding of the k-th to keep them all: those that are better for
            # certain stay, and then the first by the order of ties.
            near = score - off <= self._highest(query, score + off)[query]
            place = row if self._tie_order is None else self._tie_order[row]
            order = np.lexsort((place, near, query))
            query, row, score, off = query[order], row[order], score[order], off[order]
            first = np.searchsorted(query, np.arange(len(self._bar)))
            keep = np.arange(len(query)) - first[query] < self.k + MOST_TIES
            query, row, score, off = query[keep], row[keep], score[keep], off[keep]
        self._kept = query, row, score, off

    def _highest(self, query: NDArray[np.int64], most: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the k-th best row of each query reaches at most; infinite where there are fewer."""
        most = most[np.argsort(descending_keys(query, most))]
        starts = np.searchsorted(query, np.arange(len(self._bar) + 1))
        enough = np.flatnonzero(np.diff(starts) >= self.k)
        highest = np.full(len(self._bar), np.inf, np.float32)
        highest[enough] = most[starts[enough] + self.k - 1]
        return highest


def descending_keys(query: NDArray[np.int64], score: NDArray[np.float32]) -> NDArray[np.uint64]:
    """One number per candidate that sorts by query, then by falling score: far faster to sort."""
    bits = score.view(np.uint32)
    # the bits of floats rise with the number once negative ones are turned around
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys: NDArray[np.uint64] = (query.astype(np.uint64) << np.uint64(32)) | ~rising
    return keys


def true_positions(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Like `np.flatnonzero`, four times as fast where nearly all flags are false."""
    flat = flags.reshape(-1)
    if flat.size % 8:
        return np.flatnonzero(flat)
    words = np.flatnonzero(flat.view(np.uint64))
    positions = (words[:, None] * 8 + np.arange(8)).reshape(-1)
    found: NDArray[np.int64] = positions[flat[positions]]
    return found


def _best(found: _Found, *, k: int, n_queries: int, tie_order: NDArray[np.integer] | None) -> TopK:
    query, row, scores = found
    order = np.lexsort((row if tie_order is None else tie_order[row], -scores, query))
    query, row, scores = query[order], row[order], scores[order]
    starts = np.searchsorted(query, np.arange(n_queries + 1))
    picked = starts[:-1, None] + np.arange(k)
    kth = scores[picked[:, -1]]
    tied = []
    for i, (start, stop) in enumerate(zip(starts[:-1] + k, starts[1:], strict=True)):
        rest = slice(start, stop)
        tied.append(row[rest][scores[rest] == kth[i]])
    return TopK(row[picked], scores[picked], tied)
