"""Flat binary files of the nearest-neighbor benchmarks.

.fvecs and .bvecs: every row is its length as a little-endian int32, then that many float32 or uint8
numbers (http://corpus-texmex.irisa.fr). .fbin and .u8bin: rows and numbers per row as two uint32,
then all numbers row by row (https://big-ann-benchmarks.com). None of them holds ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError
from matryo.readers.paths import require_file, require_size
from matryo.readers.rows import Ids, Key, LazyRows, Rows, chunks, require_matrix

_ELEMENTS = {".fvecs": "<f4", ".bvecs": "u1", ".fbin": "<f4", ".u8bin": "u1"}


def read_vecs(path: Path) -> Rows:
    """Memory-map .fvecs or .bvecs; the length before each row is compared when the row is read."""
    require_file(path)
    element = np.dtype(_ELEMENTS[path.suffix.lower()])
    with path.open("rb") as stream:
        dim = int.from_bytes(stream.read(4), "little", signed=True)
    size = path.stat().st_size
    row_bytes = 4 + dim * element.itemsize
    if dim < 1 or size % row_bytes:
        whole = f"{size // row_bytes} rows and {size % row_bytes} bytes" if dim > 0 else "no row"
        raise FormatError(
            f"{path}: expected whole rows of {row_bytes} bytes (a length, {dim} by the first row, "
            f"and {dim} numbers of {element}), got {size} bytes: {whole}",
            hint="the file was cut short, or is of another format",
            path=path,
        )
    layout = np.dtype([("dim", "<i4"), ("numbers", element, (dim,))])
    records = np.memmap(path, layout, mode="r")

    def read(key: Key) -> NDArray[Any]:
        part = records[key]
        wrong = np.flatnonzero(part["dim"] != dim)
        if wrong.size:
            row = int(np.arange(len(records))[key][wrong[0]])
            raise FormatError(
                f"{path}: expected rows of {dim} numbers as the first, "
                f"got {int(records['dim'][row])} in row {row}",
                path=path,
                row=row,
            )
        numbers: NDArray[Any] = part["numbers"]
        return numbers

    return LazyRows(path, (len(records), dim), read)


def write_fvecs(path: Path, rows: Rows, ids: Ids) -> None:
    """Write float32 rows, each after its length; the format has no place for `ids`."""
    layout = np.dtype([("dim", "<i4"), ("numbers", "<f4", (rows.shape[1],))])
    with path.open("wb") as stream:
        for part in chunks(rows, ids):
            records = np.empty(len(part), layout)
            records["dim"], records["numbers"] = rows.shape[1], part
            stream.write(records.tobytes())


def read_bin(path: Path) -> Rows:
    """Memory-map .fbin or .u8bin."""
    require_file(path)
    element = np.dtype(_ELEMENTS[path.suffix.lower()])
    with path.open("rb") as stream:
        start = stream.read(8)
    count, dim = (int.from_bytes(start[at : at + 4], "little") for at in (0, 4))
    expected = 8 + count * dim * element.itemsize
    require_size(path, expected, what=f"a header of 8 and ({count}, {dim}) numbers of {element}")
    require_matrix(path, (count, dim))
    array: NDArray[Any] = np.memmap(path, element, mode="r", offset=8, shape=(count, dim))
    return array if element == np.float32 else LazyRows(path, (count, dim), array.__getitem__)


def write_fbin(path: Path, rows: Rows, ids: Ids) -> None:
    """Write the two counts, then float32 rows; the format has no place for `ids`."""
    with path.open("wb") as stream:
        stream.write(np.array(rows.shape, dtype="<u4").tobytes())
        for part in chunks(rows, ids):
            stream.write(part.astype("<f4", copy=False).tobytes())
