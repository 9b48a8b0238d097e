"""Packed codes of a level in a segment, in the order of their rows or in inverted lists.

    codes LEVEL      in the blocks of `matryo.search.blocks`
    excess LEVEL     lengths of the integers that they stand for, but for single bits,
    bounds LEVEL     with the least and the greatest in each block
    cosines LEVEL    for an exact stop: of the angle between a row and what its codes stand for, and
    angles LEVEL     the cosine and the sine of the largest angle in each block

In lists the codes of rows that lie near one another follow one another, each list from a new block
on. The rows themselves stay in the order of their ids.

    slots LEVEL      row of each place, -1 where a list was filled up to a whole block
    starts LEVEL     first block of each list, and the number of blocks
    sizes LEVEL      rows of each list
    centroids LEVEL  of the lists, as int4 codes in blocks, with
    centroid excess LEVEL, centroid bounds LEVEL

Lists are clustered on the directions of the first numbers that the codes stand for: k-means on a
sample, and every row goes to the centroid, as its codes stand for it, with the greatest cosine.
Segments with few rows have no lists, and are read whole.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from matryo.core import Lists, Precision
from matryo.search import (
    ROWS,
    Level,
    best_first,
    bounds_of,
    excess_of,
    from_blocks,
    inverse_lengths_from,
    packed_scores,
    packed_sums,
    parts,
    rounded,
    to_blocks,
)
from matryo.stores.embedded.segments import Key, NewArray, Segment, one
from matryo.transforms import decode, encode, normalize, odd_integers

FEWEST_LISTED = 1 << 17  # rows of a segment; fewer are soon read, and sooner merged
_SAMPLED = 32  # rows per list that k-means learns from
_ROUNDS = 10  # of k-means
_PART = 4096  # rows decoded at once


def codes_of(level: Level) -> str:
    """Name of the array with the codes of a level."""
    return f"codes {level}"


def packed_arrays(
    codes: NDArray[np.uint8], level: Level, lists: Lists | None
) -> dict[str, NewArray]:
    """What a segment holds of the packed codes of a level.

    Args:
        codes: `(n, columns)`, in the order of the rows.
        level: Their size and number format.
        lists: The lists to keep them in, if the segment is large enough; None for none.
    """
    if lists is None or len(codes) < FEWEST_LISTED:
        return _coded(codes, level)
    centroids, nearest = _clusters(codes, level, lists.dim)
    sizes = np.bincount(nearest, minlength=len(centroids))
    n_blocks = -(-sizes // ROWS)
    starts = np.concatenate([[0], np.cumsum(n_blocks)])
    order = np.argsort(nearest, kind="stable")
    # where each row goes: behind the rows of its list that come before it
    behind = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[nearest[order]]
    places = starts[nearest[order]] * ROWS + behind
    slots = np.full(starts[-1] * ROWS, -1, np.int32)
    slots[places] = order
    # filled up with the first row of the list, so that the lengths of a block stay those of rows
    filled = slots.copy()
    firsts = np.repeat(slots[starts[:-1][sizes > 0] * ROWS], n_blocks[sizes > 0] * ROWS)
    filled[slots < 0] = firsts[slots < 0]
    centre = Level(lists.dim, Precision.INT4)
    return {
        **_coded(codes[filled], level),
        f"slots {level}": one(slots.astype("<i4")),
        f"starts {level}": one(starts.astype("<i8")),
        f"sizes {level}": one(sizes.astype("<i4")),
        f"centroids {level}": one(to_blocks(centroids)),
        f"centroid excess {level}": one(excess_of(centroids, centre)),
        f"centroid bounds {level}": one(bounds_of(excess_of(centroids, centre), centre)),
    }


def angle_arrays(cosines: NDArray[np.float32], level: Level) -> dict[str, NewArray]:
    """What a segment holds of the angles between rows and their codes, for an exact stop."""
    filled = np.pad(cosines, (0, -len(cosines) % ROWS), mode="edge").reshape(-1, ROWS)
    least = np.clip(filled.min(axis=1).astype(np.float64), -1, 1)
    angles = np.stack([least, np.sqrt(1 - least**2)], axis=1).astype("<f4")
    return {
        cosines_name(level): one(cosines),
        f"angles {level}": one(angles),
    }


def cosines_name(level: Level) -> str:
    """Name of the array with the cosines of the angles between rows and their codes."""
    return f"cosines {level}"


def _coded(codes: NDArray[np.uint8], level: Level) -> dict[str, NewArray]:
    arrays = {codes_of(level): one(to_blocks(codes))}
    if level.precision is not Precision.BINARY:
        excess = excess_of(codes, level)
        arrays[f"excess {level}"] = one(excess)
        arrays[f"bounds {level}"] = one(bounds_of(excess, level))
    return arrays


def _clusters(
    codes: NDArray[np.uint8], level: Level, dim: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Codes of centroids, and for each row the nearest of them."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    def directions(some: NDArray[np.uint8]) -> NDArray[np.float32]:
        numbers = odd_integers(some, level.precision, dim=level.dim)[:, :dim]
        return normalize(numbers.astype(np.float32)).astype(np.float32, copy=False)

    n = len(codes)
    count = 1 << round(np.log2(4 * np.sqrt(n)))
    sample = np.sort(np.random.default_rng(0).permutation(n)[: _SAMPLED * count])
    means = KMeans(count, init="random", n_init=1, max_iter=_ROUNDS, random_state=0)
    with warnings.catch_warnings():
        # rows may repeat so often that some lists stay empty, which is no harm
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = means.fit(directions(codes[sample])).cluster_centers_
    longest = np.abs(centres).max(axis=1)
    kept = encode(normalize(centres[longest > 0]).astype(np.float32), Precision.INT4)
    unit = decode(kept, Precision.INT4, dim=dim)
    nearest = np.empty(n, np.int64)
    for part in parts(n, _PART):
        nearest[part] = (directions(codes[part]) @ unit.T).argmax(axis=1)
    return kept, nearest


class PackedCodes:
    """Packed codes of a segment, read like an array `(n, columns)` in the order of the rows."""

    def __init__(self, segment: Segment, level: Level) -> None:
        self._segment, self._level = segment, level
        self._columns = level.precision.columns(level.dim)
        self.shape, self.dtype = (len(segment), self._columns), level.precision.dtype
        self._places: NDArray[np.int64] | None = None
        if f"slots {level}" in segment:
            slots = segment[f"slots {level}"][:]
            self._places = np.empty(len(segment), np.int64)
            self._places[slots[slots >= 0]] = np.flatnonzero(slots >= 0)

    def __len__(self) -> int:
        return len(self._segment)

    def __getitem__(self, key: Key) -> NDArray[np.uint8]:
        rows = np.arange(*key.indices(len(self))) if isinstance(key, slice) else key
        blocks = self._segment[codes_of(self._level)][:]
        return from_blocks(blocks, self._placed(rows), self._columns)

    def inverse_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """One over the length of the integers of some rows."""
        if self._level.precision is Precision.BINARY:
            excess = np.zeros(len(rows), np.uint16)
        else:
            excess = self._segment[f"excess {self._level}"][self._placed(rows)]
        return inverse_lengths_from(excess, self._level)

    def probed(self, query: NDArray[np.floating], lists: Lists) -> NDArray[np.bool_]:
        """`(n,)` which rows lie in the lists that are nearest to a whole query."""
        if self._places is None:
            return np.ones(len(self), np.bool_)
        own, centre = self._segment, Level(lists.dim, Precision.INT4)
        lengths = own[f"centroid excess {self._level}"][:]
        count = np.arange(len(lengths))
        columns = centre.precision.columns(centre.dim)
        codes = from_blocks(own[f"centroids {self._level}"][:], count, columns)
        weights, steps = rounded(query[None], centre)
        sums = packed_sums(codes, weights[0], centre)
        scores = packed_scores(sums, inverse_lengths_from(lengths, centre), steps[0])
        starts = own[f"starts {self._level}"][:]
        chosen = np.zeros(starts[-1] * ROWS, np.bool_)
        for number in best_first(scores, count, lists.probes).tolist():
            chosen[starts[number] * ROWS : starts[number + 1] * ROWS] = True
        return chosen[self._places]

    def _placed(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        return rows if self._places is None else self._places[rows]
