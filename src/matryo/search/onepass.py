"""One pass over a corpus that scores it at every size and precision.

Inner products add up over blocks of dimensions, S_m = S_{m-1} + Q_b X_bᵀ, so the float32 scores of
all sizes together cost the multiplications of the largest one. What becomes of the scores is for a
pool to say, of which every level has one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from matryo.core import (
    DimError,
    Metric,
    Precision,
    VectorError,
    check_vectors,
    name_rows,
    shorten,
)
from matryo.readers import Rows
from matryo.search.scores import (
    Level,
    check_level,
    encoded,
    packed_scores,
    pair_scores,
    rounded,
    stored_form,
)
from matryo.transforms import inverse_lengths, odd_integers

_TILE = 1 << 20  # scores held at once by one worker: 4 MiB stay in its cache
_CHUNK = 1024  # rows scored at once
_READ = 8192  # rows read at once: long reads for memory-mapped files
_SHORT = 32  # up to this dim a product is made anew instead of being summed up
_SLACK = 4e-6  # how far a float32 score may be from the true one, for vectors of length 1
_LEAST = 1e-37  # length below which float32 numbers have lost their digits

Exclude = Sequence[Sequence[int] | NDArray[np.integer]]
Off = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


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


class Pool(Protocol):
    """What takes the scores of one level."""

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
        """Take a tile of `(queries, rows)` numbers that order rows as their scores do.

        Args:
            scores: The numbers; the pool may write into them.
            flags: Room for one flag per number.
            excluded: Pairs of query and row, counted within the tile, that must not be found.
            first_query: Number of the tile's first query.
            first_row: Number of the tile's first row.
            slack: For each query, how far any of its numbers may be off by rounding.
            off: The same for single pairs of query and row, counted within the tile.
        """


class OnePass:
    """Queries that are ready to meet a corpus once.

    Args:
        queries: `(q, full_dim)` whole query vectors.
        corpus: `(n, full_dim)` whole document vectors, an array or a memory-mapped file.
        views: Named ways to look at the vectors, with their levels.
        metric: What scores two vectors.
        make_pool: Called once for each level of each view.
        exclude: For each query the rows it must not find.
        ids: Names of the rows, for messages.

    Raises:
        DimError: queries and corpus differ in width, or a level is wider than they are.
        VectorError: queries with NaN, infinity, or a prefix of zeros under cosine.
    """

    def __init__(
        self,
        queries: NDArray[np.floating],
        corpus: Rows,
        views: Mapping[str, View],
        *,
        metric: Metric,
        make_pool: Callable[[str, Level], Pool],
        exclude: Exclude | None = None,
        ids: Sequence[str | int] | None = None,
    ) -> None:
        full_dim = corpus.shape[1]
        if queries.ndim != 2 or queries.shape[1] != full_dim:
            raise DimError(
                f"queries and corpus must have one width, got {queries.shape[1:]} and "
                f"({full_dim},)",
                hint="encode both with the same model, without cutting either",
            )
        check_vectors(queries, what="queries")
        for view in views.values():
            for level in view.levels:
                check_level(level, metric)
                if level.dim > full_dim:
                    raise DimError(
                        f"dim must be at most {full_dim}, got {level.dim}", dim=level.dim
                    )
        self._corpus, self._ids, self._n_queries = corpus, ids, len(queries)
        self._excluded = _Excluded(exclude)
        self.views = {
            name: ViewPass(
                view,
                queries,
                metric=metric,
                pools={level: make_pool(name, level) for level in view.levels},
            )
            for name, view in views.items()
        }

    def run(
        self, *, threads: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """Read the corpus once and offer its scores to the pools.

        Args:
            threads: Workers; by default one per processor that this process may use.
            progress: Called with the number of rows done since the last call.

        Raises:
            VectorError: documents with NaN, infinity, or a prefix of zeros under cosine.
        """
        scratch = _Scratch(self._n_queries)

        def work(start: int) -> None:
            rows = np.ascontiguousarray(self._corpus[start : start + _READ], dtype=np.float32)
            names = None if self._ids is None else self._ids[start : start + len(rows)]
            check_vectors(rows, what="documents", ids=names, first_row=start)
            for at in range(0, len(rows), _CHUNK):
                for view in self.views.values():
                    chunk = rows[at : at + _CHUNK]
                    view.add(chunk, start + at, self._excluded, self._ids, scratch)
            if progress is not None:
                progress(len(rows))

        on_every_processor(work, range(0, self._corpus.shape[0], _READ), threads=threads)


def on_every_processor(
    work: Callable[[Any], Any], items: Iterable[Any], *, threads: int | None = None
) -> list[Any]:
    """Results of `work` on each item, by as many workers as this process may use processors.

    Each worker multiplies on one thread: the steps between the products are then parallel too.
    """
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(threads or _processors()) as pool,
    ):
        return list(pool.map(work, items))


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


class ViewPass:
    """One view of a pass: its queries, and the pool of each level."""

    def __init__(
        self,
        view: View,
        queries: NDArray[np.floating],
        *,
        metric: Metric,
        pools: Mapping[Level, Pool],
    ) -> None:
        self._view, self._metric, self._pools = view, metric, pools
        self._queries = _mapped(view, queries)
        plain = sorted(lev for lev in view.levels if lev.precision is Precision.FLOAT32)
        self._coded = [lev for lev in view.levels if lev not in plain]
        # Scaling a short prefix before its product is cheaper than scaling the scores after it.
        short = _SHORT if metric == "cosine" else 0
        self._short = [level for level in plain if level.dim <= short]
        self._summed = plain[len(self._short) :]
        squares = _prefix_squares(self._queries, [level.dim for level in view.levels])
        self._squares = squares
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
        # queries as packed codes see them: whole numbers, whose sums float32 holds exactly
        self._rounded: dict[Level, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for level in (level for level in self._coded if level.precision.is_packed):
            weights, steps = rounded(self._queries, level)
            self._rounded[level] = weights.astype(np.float32), steps[:, None]

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
        forms = {
            level: self._stored(whole, level, start, ids)
            for level in self._coded
            if level not in self._rounded
        }
        packed = {}
        for level in self._rounded:
            numbers = odd_integers(encoded(whole, level), level.precision, dim=level.dim)
            packed[level] = numbers.astype(np.float32), inverse_lengths(numbers)
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
                **self._rounding(block, np.sqrt(_full(squares))),
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
            for level, (odd, lengths) in packed.items():
                weights, steps = self._rounded[level]
                np.matmul(weights[block], odd.T, out=scores)
                self._pools[level].offer(packed_scores(scores, lengths, steps[block]), **tile)

    def settled(
        self,
        query: NDArray[np.integer],
        row: NDArray[np.integer],
        level: Level,
        corpus: Rows,
    ) -> NDArray[np.float32]:
        """Scores of pairs of query and row at a level, computed in float64 by `pair_scores`."""
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
        return scores

    def scored(
        self, numbers: NDArray[np.float32], query: NDArray[np.integer], level: Level
    ) -> NDArray[np.float32]:
        """What the numbers offered to a pool are as scores, but for rounding.

        Queries of length 1 make the numbers; here their true length, or that of their prefix under
        the cosine, comes back.
        """
        if level in self._rounded:
            return numbers  # they are the scores
        if self._metric == "l2":
            moved = self._running[query, : level.dim].astype(np.float64)
            scores: NDArray[np.float64] = numbers - np.square(moved).sum(axis=1)
        else:
            length = np.sqrt(_full(self._squares)[query])
            if self._metric == "cosine":
                length /= np.sqrt(self._squares[level.dim][query])
            scores = numbers * length
        return scores.astype(np.float32)

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

    def _rounding(self, block: slice, rows: NDArray[np.float64]) -> dict[str, Any]:
        """`slack` and `off` of a tile of these queries and of rows of these lengths."""
        metric, queries = self._metric, self._lengths[block]

        def bound(query: NDArray[np.float64], row: Any) -> NDArray[np.float32]:
            reach = np.maximum(row, 2 * query) if metric == "l2" else np.ones(len(query))
            most: NDArray[np.float32] = (_SLACK * row * reach).astype(np.float32)
            return most

        if metric == "cosine":
            rows = np.ones(len(rows))
        return {
            "slack": bound(queries, rows.max()),
            "off": lambda query, row: bound(queries[query], rows[row]),
        }


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
