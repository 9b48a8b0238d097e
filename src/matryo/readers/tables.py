"""Columns of Parquet and Arrow IPC files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    FormatError,
    InputError,
    MatryoError,
    MissingExtraError,
    UnknownNameError,
    VectorError,
)
from matryo.readers.paths import require_file
from matryo.readers.rows import Ids, Rows, as_float32, chunks

_VECTOR_NAMES = ("vector", "embedding", "vectors", "embeddings")
ID_NAMES = ("id", "_id", "ids")


class Table(NamedTuple):
    """A file opened for reading some of its columns, a batch at a time."""

    schema: Any
    row_count: int
    batches: Any

    def read(self, columns: Sequence[str]) -> Iterator[list[Any]]:
        """The arrays of `columns`, batch by batch."""
        for batch in self.batches(columns):
            arrays = [batch.column(name) for name in columns]
            for array in arrays:
                # a damaged offset would make Arrow read beyond its memory
                array.validate(full=True)
            yield arrays


def read_table(
    path: Path, vector_column: str | None, id_column: str | None
) -> tuple[NDArray[np.float32], Any]:
    """One column of lists as `(n, dim)`, loaded whole, and the ids, None where there are none."""
    with open_table(path) as table:
        column = column_of_vectors(path, table.schema, vector_column)
        if id_column is not None:
            require_column(path, table.schema, id_column)
        else:
            id_column = next((name for name in ID_NAMES if name in table.schema.names), None)
        wanted = [column] if id_column is None else [column, id_column]
        vectors: NDArray[np.float32] | None = None
        ids: list[Any] = []
        row = 0
        for lists, *id_values in table.read(wanted):
            if not len(lists):
                continue
            dim = None if vectors is None else vectors.shape[1]
            part = matrix_of(lists, dim, row, f"{path}, column {column!r}")
            if vectors is None:
                vectors = np.empty((table.row_count, part.shape[1]), dtype=np.float32)
            vectors[row : row + len(part)] = as_float32(part, path)
            row += len(part)
            for values in id_values:
                ids += values.to_pylist()
    if vectors is None or row != table.row_count:
        raise FormatError(
            f"{path}: expected {table.row_count or 'at least 1'} rows, got {row}", path=path
        )
    return vectors, ids if id_column is not None else None


def read_table_records(
    path: Path, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row is, and its values of the columns asked for."""
    with open_table(path) as table:
        for name in required:
            require_column(path, table.schema, name)
        names = [*required, *(name for name in optional if name in table.schema.names)]
        row = 0
        for columns in table.read(names):
            for values in zip(*(column.to_pylist() for column in columns), strict=True):
                yield f"{path}, row {row}", dict(zip(names, values, strict=True))
                row += 1


def write_parquet(path: Path, rows: Rows, ids: Ids) -> None:
    """Write the columns `id` (text or 64-bit integers) and `vector` (fixed-size lists of float32).

    Raises:
        InputError: the ids are not all text, or not all integers of 64 bits.
    """
    _require_pyarrow("writing Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        id_values = pa.array(ids, type=pa.string() if isinstance(ids[0], str) else pa.int64())
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        raise InputError(
            f"Parquet holds ids that are all text or all integers of 64 bits, got others: {error}",
            hint="write .npz, .safetensors or .jsonl, which hold any ids",
        ) from error
    list_type = pa.list_(pa.float32(), rows.shape[1])
    schema = pa.schema([("id", id_values.type), ("vector", list_type)])
    with pq.ParquetWriter(path, schema) as writer:
        start = 0
        for part in chunks(rows, ids):
            lists = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
            names = id_values.slice(start, len(part))
            writer.write_batch(pa.RecordBatch.from_arrays([names, lists], schema=schema))
            start += len(part)


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """A Parquet, Arrow or Feather file: its schema, its length and its batches."""
    is_parquet = path.suffix.lower() == ".parquet"
    require_file(path, magic=b"PAR1" if is_parquet else b"")
    _require_pyarrow("reading Parquet" if is_parquet else "reading Arrow files")
    import pyarrow as pa

    try:
        with _open_parquet(path) if is_parquet else _open_ipc(path) as table:
            yield table
    except MatryoError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        what = "Parquet" if is_parquet else "Arrow IPC"
        raise FormatError(
            f"{path}: expected a whole {what} file, got: {error}",
            hint="the file was cut short or changed: copy or write it again",
            path=path,
        ) from error


@contextmanager
def _open_parquet(path: Path) -> Iterator[Table]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield Table(
            file.schema_arrow,
            file.metadata.num_rows,
            lambda columns: file.iter_batches(batch_size=16_384, columns=columns),
        )


@contextmanager
def _open_ipc(path: Path) -> Iterator[Table]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
        yield Table(
            table.schema, table.num_rows, lambda columns: table.select(columns).to_batches()
        )


def column_of_vectors(path: Path, schema: Any, name: str | None) -> str:
    """The column that was named, or the only one that holds lists of floats."""
    fits = [field.name for field in schema if _is_float_list(field.type)]
    if name is not None:
        require_column(path, schema, name)
        if name not in fits:
            raise VectorError(
                f"{path}: expected lists of float16, float32 or float64 in column {name!r}, "
                f"got {schema.field(name).type}",
                hint=f"columns that would do: {', '.join(fits) or 'none'}",
                columns=fits,
            )
        return name
    usual = [known for known in _VECTOR_NAMES if known in fits]
    if len(fits) == 1 or usual:
        return (usual or fits)[0]
    listing = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise InputError(
        f"{path}: expected one column with lists of floats, got {len(fits)} among: {listing}",
        hint="choose the column of vectors by its name" if fits else None,
        columns=fits,
    )


def require_column(path: Path, schema: Any, name: str) -> None:
    """Refuse a column that is not there; the error lists those that are."""
    if name not in schema.names:
        raise UnknownNameError.among(f"column of {path}", name, schema.names)


def _is_float_list(kind: Any) -> bool:
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_floating(kind.value_type))


def matrix_of(lists: Any, dim: int | None, first_row: int, where: str) -> NDArray[Any]:
    """Lists of floats as `(rows, dim)`; a null, or a list of another length, is refused by row."""
    import pyarrow.compute as pc

    if lists.null_count:
        row = first_row + int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
        raise VectorError(f"{where}: expected a vector in every row, got null in row {row}")
    lengths = pc.list_value_length(lists).to_numpy()
    expected = int(lengths[0]) if dim is None else dim
    if expected == 0:
        raise VectorError(f"{where}: expected vectors of at least 1 number, got none in row 0")
    wrong = np.flatnonzero(lengths != expected)
    if wrong.size:
        row = first_row + int(wrong[0])
        raise VectorError(
            f"{where}: expected {expected} numbers in every row as in row 0, "
            f"got {int(lengths[wrong[0]])} in row {row}",
            row=row,
        )
    values = lists.flatten()
    if values.null_count:
        place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise VectorError(
            f"{where}: expected numbers, got null in row {first_row + place // expected}"
        )
    matrix: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, expected)
    return matrix


def _require_pyarrow(what: str) -> None:
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError:
        raise MissingExtraError.of(what, "pyarrow", "parquet") from None
