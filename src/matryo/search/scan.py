"""Exact search at every size and precision from one pass over the corpus.

Inner products add up over blocks of dimensions, S_m = S_{m-1} + Q_b X_bᵀ, so the float32 scores of
all sizes together cost the multiplications of the largest one. The pass keeps, for every query and
level, the rows that may belong to the top k; those few are then scored again in float64 by
`pair_scores`, which settles rounding and ties.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from matryo.core import (
    DimError,
    InputError,
    Metric,
    Precision,
    VectorError,
    check_vectors,
    name_rows,
    shorten,
)
from matryo.readers import Rows
from matryo.search.scores import Level, check_level, pair_scores, stored_form

_TILE = 1 << 20  # scores held at once by one worker: 4 MiB stay in its cache
_CHUNK = 1024  # rows scored at once
_READ = 8192  # rows read at once: long reads for memory-mapped files
_SHORT = 32  # up to this dim a product is made anew instead of being summed up
_SLACK = 4e-6  # how far a float32 score may be from the true one, for vectors of length 1
MOST_TIES = 1024  # candidates kept per query beyond k, however many rows are tied
_LEAST = 1e-37  # length below which float32 numbers have lost their digits

_Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]  # query, row, score


@dataclass(frozen=True)
class View:
    """One way to look at the vectors before they are cut.

    Attributes:
        levels: Sizes and precisions to score.
        map: Applied to whole vectors, queries and documents alike; None leaves them alone.
        scales: int8 steps for each dim that has an int8 level.
    """

    levels: Sequence[Level]
    map: Callable[[NDArray[np.floating]], NDArray[np.floating]] | None = None
    scales: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)


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
    exclude: Sequence[Sequence[int] | NDArray[np.integer]] | None = None,
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
    n, full_dim = corpus.shape
    if queries.ndim != 2 or queries.shape[1] != full_dim:
        raise DimError(
            f"queries and corpus must have one width, got {queries.shape[1:]} and ({full_dim},)",
            hint="encode both with the same model, without cutting either",
        )
    check_vectors(queries, what="queries")
    most_excluded = max((len(rows) for rows in exclude), default=0) if exclude else 0
    if not 1 <= k <= n - most_excluded:
        raise InputError(
            "k must be at least 1 and at most the number of documents to find, "
            f"{n - most_excluded}, got {k}",
            k=k,
        )
    for view in views.values():
        for level in view.levels:
            check_level(level, metric)
            if level.dim > full_dim:
                raise DimError(f"dim must be at most {full_dim}, got {level.dim}", dim=level.dim)
    passes = {
        name: _ViewPass(view, queries, k=k, metric=metric, tie_order=tie_order)
        for name, view in views.items()
    }
    excluded = _Excluded(exclude)
    scratch = _Scratch(len(queries))

    def work(start: int) -> None:
        rows = np.ascontiguousarray(corpus[start : start + _READ], dtype=np.float32)
        names = None if ids is None else ids[start : start + len(rows)]
        check_vectors(rows, what="documents", ids=names, first_row=start)
        for at in range(0, len(rows), _CHUNK):
            for view_pass in passes.values():
                view_pass.add(rows[at : at + _CHUNK], start + at, excluded, ids, scratch)
        if progress is not None:
            progress(len(rows))

    # Each worker multiplies on one thread: the steps between the products are then parallel too.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(threads or _processors()) as pool,
    ):
        for _ in pool.map(work, range(0, n, _READ)):
            pass
        jobs = [(name, level) for name, view in views.items() for level in view.levels]
        tops = pool.map(lambda job: passes[job[0]].finish(job[1], corpus), jobs)
        return dict(zip(jobs, tops, strict=True))


class _Excluded:
    """Pairs of query and row that must not be found, sorted by row."""

    def __init__(self, exclude: Sequence[Sequence[int] | NDArray[np.integer]] | None) -> None:
        lists = exclude or []
        query = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
        row = np.concatenate([np.asarray(r, np.int64) for r in lists]) if lists else query
        order = np.argsort(row, kind="stable")
        self._query, self._row = query[order], row[order]

    def between(
        self, start: int, stop: int, queries: slice
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those of these rows and queries, counted from the first row and the first query."""
        part = slice(*np.searchsorted(self._row, [start, stop]))
        query, row = self._query[part], self._row[part]
        inside = (query >= queries.start) & (query < queries.stop)
        return query[inside] - queries.start, row[inside] - start


class _Scratch(threading.local):
    """Buffers of one worker for a tile of scores; fresh ones would cost page faults every time."""

    def __init__(self, n_queries: int) -> None:
        self.queries_at_once = max(1, min(n_queries, _TILE // _CHUNK))
        size = self.queries_at_once * _CHUNK
        self._floats = np.empty((3, size), np.float32)
        self._flags = np.empty(size, np.bool_)

    def tile(self, n_queries: int, n_rows: int) -> tuple[NDArray[np.float32], ...]:
        """Three float tiles of this shape: the running total, a product, and scores."""
        return tuple(part[: n_queries * n_rows].reshape(n_queries, n_rows) for part in self._floats)

    def flags(self, n_queries: int, n_rows: int) -> NDArray[np.bool_]:
        """A tile of booleans of this shape."""
        return self._flags[: n_queries * n_rows].reshape(n_queries, n_rows)


class _ViewPass:
    """The running state of one view: its queries, and the candidates of each level."""

    def __init__(
        self,
        view: View,
        queries: NDArray[np.floating],
        *,
        k: int,
        metric: Metric,
        tie_order: NDArray[np.integer] | None,
    ) -> None:
        self._view, self._metric, self._tie_order = view, metric, tie_order
        self._queries = _mapped(view, queries)
        plain = sorted(lev for lev in view.levels if lev.precision is Precision.FLOAT32)
        self._coded = [lev for lev in view.levels if lev.precision is not Precision.FLOAT32]
        # Scaling a short prefix before its product is cheaper than scaling the scores after it.
        short = _SHORT if metric == "cosine" else 0
        self._short = [level for level in plain if level.dim <= short]
        self._summed = plain[len(self._short) :]
        squares = _prefix_squares(self._queries, [level.dim for level in view.levels])
        if metric == "cosine":
            _refuse_zero_prefixes(squares, view.levels, "queries", 0, None)
        # The order of the rows does not depend on the length of a query, save for l2: queries of
        # length 1 let one running sum serve every size.
        lengths = np.sqrt(_full(squares))
        scaled: NDArray[np.floating] = self._queries / lengths[:, None]
        self._centre = np.zeros(queries.shape[1], np.float32)
        if metric == "l2":
            # Distances stay when everything is moved; far from the origin float32 would lose them.
            self._centre = self._queries.mean(axis=0, dtype=np.float64).astype(np.float32)
            scaled = self._queries - self._centre
            lengths = np.linalg.norm(scaled.astype(np.float64), axis=1)
        self._running = np.ascontiguousarray(scaled, dtype=np.float32)
        self._lengths = lengths if metric == "l2" else np.ones(len(lengths))
        self._pools = {level: _Pool(len(queries), k, tie_order) for level in view.levels}

    def add(
        self,
        chunk: NDArray[np.float32],
        start: int,
        excluded: _Excluded,
        ids: Sequence[str | int] | None,
        scratch: _Scratch,
    ) -> None:
        """Score one chunk at every level and keep what may belong to the top k."""
        whole = _mapped(self._view, chunk)
        rows = whole - self._centre if self._metric == "l2" else whole
        squares = _prefix_squares(rows, [level.dim for level in self._view.levels])
        if self._metric == "cosine":
            _refuse_zero_prefixes(squares, self._view.levels, "documents", start, ids)
        forms = {level: self._stored(whole, level, start, ids) for level in self._coded}
        scaled = {
            level: rows[:, : level.dim]
            * (1 / np.sqrt(squares[level.dim]))[:, None].astype(np.float32)
            for level in self._short
        }
        for first in range(0, len(self._running), scratch.queries_at_once):
            block = slice(first, min(first + scratch.queries_at_once, len(self._running)))
            queries = self._running[block]
            total, product, scores = scratch.tile(len(queries), len(rows))
            tile: dict[str, Any] = {
                "flags": scratch.flags(len(queries), len(rows)),
                "excluded": excluded.between(start, start + len(rows), block),
                "first_query": block.start,
                "first_row": start,
                "slack": self._slack(block, _full(squares)),
            }
            for level in self._short:
                np.matmul(queries[:, : level.dim], scaled[level].T, out=scores)
                self._pools[level].offer(scores, **tile)
            before = 0
            for level in self._summed:
                part = slice(before, level.dim)
                np.matmul(queries[:, part], rows[:, part].T, out=product if before else total)
                if before:
                    total += product
                before = level.dim
                self._rank(total, squares[level.dim], out=scores)
                self._pools[level].offer(scores, **tile)
            for level, form in forms.items():
                np.matmul(queries[:, : level.dim], form.T, out=scores)
                if self._metric == "l2":
                    self._rank(scores, np.einsum("ij,ij->i", form, form), out=scores)
                self._pools[level].offer(scores, **tile)

    def finish(self, level: Level, corpus: Rows) -> TopK:
        """Score the candidates of a level again in float64 and put them in order."""
        pool = self._pools[level]
        query, row = pool.candidates()
        scores = np.empty(len(row), np.float32)
        narrow = self._view.map is None and isinstance(corpus, np.ndarray)
        source: Any = corpus[:, : level.dim] if narrow else corpus
        for at in range(0, len(row), _CHUNK):
            part = slice(at, at + _CHUNK)
            unique, inverse = np.unique(row[part], return_inverse=True)
            documents = _mapped(self._view, np.asarray(source[unique], np.float32))
            scores[part] = pair_scores(
                self._queries[query[part], : level.dim],
                documents[inverse, : level.dim],
                level,
                metric=self._metric,
                scales=self._view.scales.get(level.dim),
            )
        found = (query, row, scores)
        return _best(found, k=pool.k, n_queries=len(self._queries), tie_order=self._tie_order)

    def _stored(
        self,
        rows: NDArray[np.floating],
        level: Level,
        start: int,
        ids: Sequence[str | int] | None,
    ) -> NDArray[np.float32]:
        scales = self._view.scales.get(level.dim)
        try:
            form = stored_form(rows, level, metric=self._metric, scales=scales)
            return form - self._centre[: level.dim] if self._metric == "l2" else form
        except VectorError as error:  # numbers beyond float16, named by their place in the chunk
            names = name_rows(np.array(vars(error)["ids"]) + start, ids)
            raise VectorError(
                f"documents: numbers too large for {level.precision} in {len(names)} of them: "
                f"{shorten(names)}",
                hint=error.hint,
                ids=names,
            ) from error

    def _rank(
        self, products: NDArray[np.float32], squares: NDArray[np.floating], out: NDArray[np.float32]
    ) -> None:
        """Turn inner products into numbers that order the rows as their scores do."""
        if self._metric == "cosine":
            np.multiply(products, (1 / np.sqrt(squares)).astype(np.float32), out=out)
        elif self._metric == "dot":
            out[...] = products
        else:
            np.multiply(products, 2, out=out)
            out -= squares.astype(np.float32)

    def _slack(self, block: slice, squares: NDArray[np.float64]) -> NDArray[np.float32]:
        """How far the numbers of `_rank` may be off, for each query of a block."""
        longest = 1.0 if self._metric == "cosine" else float(np.sqrt(squares.max()))
        reach = np.maximum(longest, 2 * self._lengths[block]) if self._metric == "l2" else 1.0
        return np.full(block.stop - block.start, _SLACK * longest * reach, np.float32)


class _Pool:
    """For one level, the rows of each query that may still belong to its top k."""

    def __init__(self, n_queries: int, k: int, tie_order: NDArray[np.integer] | None) -> None:
        self.k = k
        self._tie_order = tie_order
        self._lock = Lock()
        self._bar = np.full(n_queries, -np.inf, np.float32)
        self._slack = np.zeros(n_queries, np.float32)
        self._kept: _Found = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        self._pending: list[_Found] = []
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
    ) -> None:
        """Take from a tile of scores `(queries, rows)` what reaches the bar of its query."""
        if len(excluded[0]):
            scores[excluded] = -np.inf
        block = slice(first_query, first_query + len(scores))
        bar = self._bar[block]
        if scores.shape[1] > self.k and np.isneginf(bar).any():
            # without a bar everything would pass: let the k-th best of this tile be the bar
            kth = np.partition(scores, -self.k, axis=1)[:, -self.k]
            bar = np.maximum(bar, kth - slack)
        # once the bars are high, most queries find nothing in a tile: their best score says so
        live = np.flatnonzero(scores.max(axis=1) >= bar)
        if not live.size:
            return
        if len(live) < len(scores) // 2:
            scores, bar = scores[live], bar[live]
        else:
            live = np.arange(len(scores))
        passed = _true_positions(np.greater_equal(scores, bar[:, None], out=flags[: len(scores)]))
        query, row = np.divmod(passed, scores.shape[1])
        found = (live[query] + first_query, row + first_row, scores.reshape(-1)[passed])
        with self._lock:
            np.maximum(self._slack[block], slack, out=self._slack[block])
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
        query, row, score = (
            np.concatenate(c) for c in zip(self._kept, *self._pending, strict=True)
        )
        self._pending, self._n_pending = [], 0
        order = np.argsort(_descending_keys(query, score))
        query, row, score = query[order], row[order], score[order]
        starts = np.searchsorted(query, np.arange(len(self._bar) + 1))
        enough = np.flatnonzero(np.diff(starts) >= self.k)
        kth = np.full(len(self._bar), -np.inf, np.float32)
        kth[enough] = score[starts[enough] + self.k - 1]
        self._bar[enough] = kth[enough] - self._slack[enough]
        keep = (score >= self._bar[query]) & (score > -np.inf)
        query, row, score = query[keep], row[keep], score[keep]
        if np.bincount(query, minlength=1).max() > self.k + MOST_TIES:
            # Too many rows within rounding of the k-th to keep them all: those that are better for
            # certain stay, and then the first by the order of ties.
            near = score <= (kth + self._slack)[query]
            place = row if self._tie_order is None else self._tie_order[row]
            order = np.lexsort((place, near, query))
            query, row, score = query[order], row[order], score[order]
            first = np.searchsorted(query, np.arange(len(self._bar)))
            keep = np.arange(len(query)) - first[query] < self.k + MOST_TIES
            query, row, score = query[keep], row[keep], score[keep]
        self._kept = query, row, score


def _descending_keys(query: NDArray[np.int64], score: NDArray[np.float32]) -> NDArray[np.uint64]:
    """One number per candidate that sorts by query, then by falling score: far faster to sort."""
    bits = score.view(np.uint32)
    # the bits of floats rise with the number once negative ones are turned around
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys: NDArray[np.uint64] = (query.astype(np.uint64) << np.uint64(32)) | ~rising
    return keys


def _true_positions(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
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


def _mapped(view: View, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    return vectors if view.map is None else view.map(vectors)


def _prefix_squares(
    rows: NDArray[np.floating], dims: Iterable[int]
) -> dict[int, NDArray[np.float64]]:
    """Squared length of every prefix by dim, and of the whole rows."""
    borders = sorted({*dims, rows.shape[1]})
    blocks = [slice(a, b) for a, b in zip([0, *borders], borders, strict=False)]
    with np.errstate(over="ignore", under="ignore"):
        parts = [np.einsum("ij,ij->i", rows[:, part], rows[:, part]) for part in blocks]
    total = np.cumsum(np.array(parts, dtype=np.float64), axis=0)
    # float32 squares of very small and very large numbers are lost: those rows are done in float64
    doubtful = np.flatnonzero(~((total[0] > 1e-24) & (total[-1] < 1e32)))
    if doubtful.size:
        exact = np.square(rows[doubtful].astype(np.float64))
        total[:, doubtful] = np.cumsum([exact[:, part].sum(axis=1) for part in blocks], axis=0)
    return dict(zip(borders, total, strict=True))


def _full(squares: Mapping[int, NDArray[np.float64]]) -> NDArray[np.float64]:
    return squares[max(squares)]


def _refuse_zero_prefixes(
    squares: Mapping[int, NDArray[np.float64]],
    levels: Sequence[Level],
    what: str,
    start: int,
    ids: Sequence[str | int] | None,
) -> None:
    smallest = min(level.dim for level in levels)
    zero = np.flatnonzero(squares[smallest] < _LEAST**2)
    if zero.size:
        names = name_rows(zero + start, ids)
        raise VectorError(
            f"{what} cut to {smallest} numbers: only zeros (or less than {_LEAST:g}) remain of "
            f"{len(names)} of them, so they have no cosine: {shorten(names)}",
            hint=f"use dims above {smallest}, or leave these rows out",
            ids=names,
        )


def _processors() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
