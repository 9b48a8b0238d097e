"""Packed codes as a scan reads them: 32 rows interleaved, four bytes of each side by side.

A block holds the first four bytes of each of its rows, then the next four of each, and so on: one
load of a processor then meets many rows. The last block is filled up with zeros, and so are the
last four bytes of a row. Beside the codes of `int4` and `int2` a row has the length of the integers
that they stand for, kept as (square - dim) / 8, which is whole, since the square of an odd number
is one more than a multiple of 8; a block has the least and the greatest length in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from matryo.core import Precision, UnsupportedError
from matryo.search.scores import Level
from matryo.transforms import odd_integers

ROWS = 32  # of a block
WORD = 4  # bytes of a row that stay together

_MOST_EXCESS = np.iinfo(np.uint16).max


def check_packed(level: Level) -> None:
    """Refuse a level so wide that the lengths of its rows cannot be kept.

    Raises:
        UnsupportedError: it is; so far only int4 beyond 2,340 dims.
    """
    widest = int(_MOST_EXCESS // ((2**level.precision.bits - 1) ** 2 // 8 or 1))
    if level.precision is not Precision.BINARY and level.dim > widest:
        raise UnsupportedError(
            f"{level.precision} codes may have up to {widest} dims, got {level.dim}",
            hint="use int8, or fewer dims",
        )


def to_blocks(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`(blocks, words, 32, 4)` of `(n, columns)` packed codes."""
    n, columns = codes.shape
    n_blocks, words = -(-n // ROWS), -(-columns // WORD)
    filled = np.zeros((n_blocks * ROWS, words * WORD), np.uint8)
    filled[:n, :columns] = codes
    apart = filled.reshape(n_blocks, ROWS, words, WORD)
    return np.ascontiguousarray(apart.transpose(0, 2, 1, 3))


def from_blocks(
    blocks: NDArray[np.uint8], rows: NDArray[np.integer], columns: int
) -> NDArray[np.uint8]:
    """`(rows, columns)` packed codes of some rows."""
    taken = blocks[rows // ROWS, :, rows % ROWS]
    return taken.reshape(len(rows), blocks.shape[1] * WORD)[:, :columns]


def excess_of(codes: NDArray[np.uint8], level: Level) -> NDArray[np.uint16]:
    """`(n,)` squared lengths of the integers of packed codes, less the dim, over 8."""
    numbers = odd_integers(codes, level.precision, dim=level.dim)
    squares = np.einsum("ij,ij->i", numbers, numbers, dtype=np.int64)
    excess: NDArray[np.uint16] = ((squares - level.dim) // 8).astype(np.uint16)
    return excess


def inverse_lengths_from(excess: NDArray[np.uint16], level: Level) -> NDArray[np.float32]:
    """One over the lengths, as `matryo.transforms.inverse_lengths` computes them."""
    squares = 8 * excess.astype(np.int64) + level.dim
    return np.reciprocal(np.sqrt(squares.astype(np.float32)))


def bounds_of(excess: NDArray[np.uint16], level: Level) -> NDArray[np.float32]:
    """`(blocks, 2)` least and greatest length in each block."""
    filled = np.pad(excess, (0, -len(excess) % ROWS), mode="edge").reshape(-1, ROWS)
    ends = np.stack([filled.min(axis=1), filled.max(axis=1)], axis=1)
    return np.sqrt((8 * ends.astype(np.int64) + level.dim).astype(np.float32))
