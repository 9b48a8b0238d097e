"""Vectors read once, in order, from files that may be more than memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError, Side, Space
from matryo.readers.paths import checked_ids
from matryo.readers.rows import Rows, as_float32
from matryo.readers.tables import (
    ID_NAMES,
    Table,
    column_of_vectors,
    matrix_of,
    open_table,
    require_column,
)
from matryo.readers.vectors import read_vectors

_TABLES = (".parquet", ".arrow", ".feather")
_BATCH = 2_048  # Arrow holds some five times as much while it takes lists apart


@dataclass(frozen=True, slots=True, eq=False)
class VectorStream:
    """Vectors of a file, in parts.

    Attributes:
        ids: One per row; row numbers from 0 where the file has none.
        has_ids: Whether the file has ids.
        shape: Rows and numbers per row.
        parts: Called with `(first_row, size)`, reads the rows from there on as float32, `size` at a
            time and fewer at the end.
        space: Where they come from; only matryo's own folder knows.
        side: Which side of the space; None where the file does not say.
    """

    ids: list[str] | list[int]
    has_ids: bool
    shape: tuple[int, int]
    parts: Callable[[int, int], Iterator[NDArray[np.float32]]]
    space: Space | None
    side: Side | None


def stream_vectors(
    path: str | Path,
    *,
    name: str | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
) -> VectorStream:
    """Open a file of vectors to be read once, in order; as `read_vectors`, but for Parquet.

    Parquet and Arrow are read a batch at a time and never loaded whole; .npz, .safetensors and
    .jsonl are loaded, and the other formats stay on disk, as with `read_vectors`.

    Raises:
        MatryoError: as `read_vectors`; what is wrong with a row of Parquet when it is read.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in _TABLES and name is None:
        return _open_table(path, vector_column, id_column)
    vectors = read_vectors(path, name=name, id_column=id_column, vector_column=vector_column)
    rows = vectors.array
    count, dim = rows.shape
    has_ids = vectors.ids != list(range(count))
    return VectorStream(
        vectors.ids,
        has_ids,
        (count, dim),
        lambda first, size: _slices(rows, first, size, path),
        vectors.space,
        vectors.side,
    )


def _open_table(path: Path, vector_column: str | None, id_column: str | None) -> VectorStream:
    with _mapped(path) as table:
        column = column_of_vectors(path, table.schema, vector_column)
        if id_column is not None:
            require_column(path, table.schema, id_column)
        else:
            id_column = next((name for name in ID_NAMES if name in table.schema.names), None)
        ids: list[Any] | None = None
        if id_column is not None:
            ids = [name for (names,) in table.read([id_column]) for name in names.to_pylist()]
        count = table.row_count

    def batches() -> Iterator[NDArray[np.floating]]:
        dim, row = None, 0
        with _mapped(path) as again:
            for (lists,) in again.read([column]):
                if len(lists):
                    part = matrix_of(lists, dim, row, f"{path}, column {column!r}")
                    dim, row = part.shape[1], row + len(part)
                    yield part
        if row != count:
            raise FormatError(f"{path}: expected {count} rows, got {row}", path=path)

    first = next(batches(), None)
    if first is None:
        raise FormatError(f"{path}: expected at least 1 row, got 0", path=path)
    return VectorStream(
        checked_ids(path, ids, count),
        ids is not None,
        (count, first.shape[1]),
        lambda start, size: _cut(batches(), start, size, path),
        None,
        None,
    )


@contextmanager
def _mapped(path: Path) -> Iterator[Table]:
    """The file opened so that no row group of Parquet, often a million rows, is read whole."""
    with open_table(path) as table:
        if path.suffix.lower() != ".parquet":
            yield table
            return
        import pyarrow.parquet as pq

        with pq.ParquetFile(path, memory_map=True) as file:
            yield table._replace(
                batches=lambda columns: file.iter_batches(batch_size=_BATCH, columns=columns)
            )


def _slices(rows: Rows, first: int, size: int, path: Path) -> Iterator[NDArray[np.float32]]:
    for start in range(first, rows.shape[0], size):
        yield as_float32(rows[start : start + size], path)


def _cut(
    batches: Iterator[NDArray[np.floating]], first: int, size: int, path: Path
) -> Iterator[NDArray[np.float32]]:
    """The rows from `first` on in parts of one size, whatever the size of the batches."""
    held: list[NDArray[np.floating]] = []
    count = row = 0
    for batch in batches:
        part = batch[max(first - row, 0) :]
        row += len(batch)
        while count + len(part) >= size:
            yield as_float32(np.concatenate([*held, part[: size - count]]), path)
            held, part, count = [], part[size - count :], 0
        if len(part):
            held.append(part)
            count += len(part)
    if count:
        yield as_float32(np.concatenate(held), path)
