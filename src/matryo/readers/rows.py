"""Rows of float32 that may still be on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from matryo.core import VectorError, check_vectors

Key = slice | NDArray[np.integer]
Ids = Sequence[str] | Sequence[int]
_CHUNK = 16_384


class Rows(Protocol):
    """Vectors `(n, dim)`, read by a slice or an array of row numbers as float32."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and numbers per row."""

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Some rows."""


class LazyRows:
    """Rows that `read` brings from a file, narrowed or widened to float32 on the way."""

    def __init__(self, path: Path, shape: tuple[int, int], read: Callable[[Key], Any]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float32)
        self.ndim = 2
        self._path, self._read = path, read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key) -> NDArray[np.float32]:
        return as_float32(self._read(key), self._path)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001
        if copy is False:
            raise ValueError("these rows are read from a file: a copy cannot be avoided")
        return np.asarray(self[:], dtype=dtype)


def as_float32(array: NDArray[Any], where: object) -> NDArray[np.float32]:
    """`array` as float32.

    Raises:
        VectorError: a number is beyond the range of float32.
    """
    try:
        # a NaN may signal when it is cast; it stays a NaN and is found where vectors are checked
        with np.errstate(over="raise", invalid="ignore"):
            return np.asarray(array, dtype=np.float32)
    except FloatingPointError:
        raise VectorError(
            f"{where}: expected numbers between -3.4e38 and 3.4e38 (float32), got larger ones"
        ) from None


def require_floats(where: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse anything but at least one row of at least one float.

    Raises:
        VectorError: another shape or type.
    """
    require_matrix(where, shape)
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise VectorError(
            f"{where}: expected float16, float32 or float64 numbers, got {dtype}",
            hint="if these are embeddings stored as integers, scale them back to floats first",
        )


def require_matrix(where: object, shape: tuple[int, ...]) -> None:
    """Refuse anything but at least one row of at least one number.

    Raises:
        VectorError: another shape.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise VectorError(
            f"{where}: expected at least one vector, as (rows, numbers), got shape {shape}"
        )


def chunks(rows: Rows, ids: Ids) -> Iterator[NDArray[np.float32]]:
    """All rows in order, a part at a time, as float32 fit to be written.

    Raises:
        VectorError: numbers that are no floats, NaN, infinity, or a row of zeros.
    """
    what = "vectors to write"
    for start in range(0, rows.shape[0], _CHUNK):
        part = rows[start : start + _CHUNK]
        require_floats(what, part.shape, part.dtype)
        part = np.ascontiguousarray(as_float32(part, what))
        check_vectors(part, what=what, ids=ids[start : start + _CHUNK], first_row=start)
        yield part
