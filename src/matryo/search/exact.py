"""The full-width top-k for certain, from as few numbers as bounds on the unread ones allow.

What was not read of q and x changes their product by at most the lengths of it, multiplied:
|<q, x> - <q[:m], x[:m]>| <= |q[m:]|·|x[m:]| (Cauchy-Schwarz). A row is ruled out once its score can
no longer reach the k-th highest of the scores that rows have at least. After a rotation that puts
the directions with the most weight first (`matryo.transforms.Rotation`) little is left open, and
most rows are ruled out early; where all directions weigh the same, nearly everything is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matryo.core import Metric, Precision, Stage, UnsupportedError
from matryo.search.answer import Answer, Work
from matryo.search.stored import check_reach, rounding, row_products, row_squares, settled_best
from matryo.transforms import encode, truncate

_BYTES = 4  # of a stored number


class ExactSearch:
    """Vectors stored in blocks, one between the dims of two stages, and searched with certainty.

    For a cosine, whole vectors are scaled to length 1 and their prefixes are not scaled again: it
    is the full-width score that is bounded. Beside its numbers a row has the length of what follows
    each stage and, for `dot` and `l2`, its own length; each is a stored number, counted when read.

    Args:
        vectors: `(n, full_dim)` whole vectors.
        stages: Where the bounds are looked at. The best `keep` rows of a stage are read to the end
            there, so that the others have something to be compared with.
        metric: What scores two vectors.

    Raises:
        UnsupportedError: a stage that is not float32, dims that do not rise, or a last dim below
            the full width.
    """

    def __init__(
        self, vectors: NDArray[np.floating], stages: Sequence[Stage], *, metric: Metric
    ) -> None:
        dims, full_dim = [stage.dim for stage in stages], vectors.shape[1]
        plain = all(stage.precision is Precision.FLOAT32 for stage in stages)
        if not plain or dims != sorted({*dims}) or dims[-1] != full_dim:
            raise UnsupportedError(
                "an exact stop needs float32 stages whose dims rise to the full width, "
                f"{full_dim}, got {','.join(map(str, stages))}",
                hint=f"give stages such as {-(-full_dim // 8)}:100,{full_dim}:10,exact",
            )
        self.stages, self.metric = stages, metric
        unit = truncate(vectors, full_dim, normalize=metric == "cosine")
        whole = encode(unit, Precision.FLOAT32)
        self.spans = [slice(a, b) for a, b in zip([0, *dims], dims, strict=False)]
        self.blocks = [np.ascontiguousarray(whole[:, span]) for span in self.spans]
        squares = np.array([row_squares(block) for block in self.blocks])
        rests = np.sqrt(np.cumsum(squares[::-1], axis=0)[::-1])
        with np.errstate(over="ignore"):  # rows of such a length are refused by `check_reach`
            # lengths from each block to the end, rounded up so that they still bound
            self.rests = np.nextafter(rests.astype(np.float32), np.float32(np.inf))

    def search(self, query: NDArray[np.floating]) -> Answer:
        """Find the full-width top-k of one `(full_dim,)` query, as exact search does."""
        asked = truncate(query[None], len(query), normalize=self.metric == "cosine")[0]
        left = _Left(self, asked)
        keep, works, counted = self.stages[-1].keep, list[Work](), 0
        for i, stage in enumerate(self.stages):
            todo = np.flatnonzero(left.unread)
            left.read(todo, i, i + 1)
            best = left.best(stage.keep)
            left.read(best[left.unread[best]], i + 1, len(self.blocks))
            left.rule_out(keep, i + 1, spared=best)
            works.append(Work(len(todo), (left.numbers - counted) * _BYTES, len(left.rows)))
            counted = left.numbers
        rows, scores = settled_best(left.rows, self._whole, asked, keep=keep, metric=self.metric)
        works[-1] = Work(works[-1].rows_read, works[-1].bytes_read, len(rows))
        return Answer(
            rows,
            scores,
            self.stages[-1].dim,
            Precision.FLOAT32,
            bytes_read=left.numbers * _BYTES,
            dims_read=left.numbers / len(self.blocks[0]),
            stages=tuple(works),
        )

    def _whole(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.concatenate([block[rows] for block in self.blocks], axis=1)


class _Left:
    """The rows that one query has not ruled out, and what it has read of them.

    Attributes:
        rows: Their numbers, ascending.
        unread: Which of them have blocks that were not read.
        numbers: How many stored numbers were read so far, of these and other rows.
    """

    def __init__(self, stored: ExactSearch, asked: NDArray[np.floating]) -> None:
        longest = float(stored.rests[0].max())
        self._rests = [math.hypot(*asked[span.start :].tolist()) for span in stored.spans]
        check_reach(self._rests[0], longest, stored.metric)
        self._stored, self._asked = stored, asked.astype(np.float32)
        n = len(stored.blocks[0])
        self.rows = np.arange(n)
        self.unread = np.ones(n, np.bool_)
        self._products = np.zeros(n)
        if stored.metric == "cosine":
            self._lengths, self.numbers = np.full(n, longest), 0
        else:
            self._lengths, self.numbers = stored.rests[0].astype(np.float64), n

    def read(self, places: NDArray[np.int64], first: int, stop: int) -> None:
        """Read the blocks from `first` to before `stop` of the rows at these ascending places."""
        rows = None if len(places) == len(self._stored.blocks[0]) else self.rows[places]
        for block, span in zip(
            self._stored.blocks[first:stop], self._stored.spans[first:stop], strict=True
        ):
            self._products[places] += row_products(block, self._asked[span], rows)
            self.numbers += len(places) * block.shape[1]
        if stop == len(self._stored.blocks):
            self.unread[places] = False

    def best(self, keep: int) -> NDArray[np.int64]:
        """Places of the best `keep` rows, as far as they were read, ascending."""
        keep = min(keep, len(self.rows))
        return np.sort(np.argpartition(self._estimates(), -keep)[-keep:])

    def rule_out(self, keep: int, after: int, *, spared: NDArray[np.int64]) -> None:
        """Drop the rows that cannot be among the best `keep`; blocks before `after` were read."""
        metric, estimates = self._stored.metric, self._estimates()
        widest = max(block.shape[1] for block in self._stored.blocks)
        off = rounding(widest, self._rests[0], self._lengths, metric)
        unread = np.flatnonzero(self.unread)
        if unread.size:
            rests = self._rests[after] * self._stored.rests[after][self.rows[unread]]
            off[unread] += 2 * rests if metric == "l2" else rests
            self.numbers += len(unread)
        keep = min(keep, len(self.rows))
        least = np.partition(estimates - off, -keep)[-keep]
        passed = estimates + off >= least
        passed[spared] = True
        self.rows, self.unread = self.rows[passed], self.unread[passed]
        self._products, self._lengths = self._products[passed], self._lengths[passed]

    def _estimates(self) -> NDArray[np.float64]:
        """Scores, if what was not read added nothing to the products."""
        if self._stored.metric != "l2":
            return self._products
        squares: NDArray[np.float64] = np.square(self._lengths) + self._rests[0] ** 2
        return 2 * self._products - squares
