"""Vectors as one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError, InputError, VectorError, shorten
from matryo.readers.records import read_records
from matryo.readers.rows import Ids, Rows, chunks

_VECTOR_FIELDS = ("vector", "embedding")
_ID_FIELDS = ("id", "_id")


def read_jsonl(
    path: Path, vector_field: str | None, id_field: str | None
) -> tuple[NDArray[np.float32], Any]:
    """One field of numbers as `(n, dim)`, and the ids, None where no line has one."""
    rows: list[NDArray[np.float32]] = []
    ids: list[Any] = []
    required = [name for name in (vector_field, id_field) if name]
    for where, record in read_records(path, required):
        names = (vector_field,) if vector_field else _VECTOR_FIELDS
        field = next((name for name in names if name in record), None)
        if field is None:
            raise InputError(
                f"{where}: expected a field {' or '.join(_VECTOR_FIELDS)}, "
                f"got {shorten(list(record))}",
                hint="choose the field of vectors by its name",
            )
        row = _row(record[field], f"{where}, field {field!r}")
        if rows and len(row) != len(rows[0]):
            raise VectorError(
                f"{where}: expected {len(rows[0])} numbers as in the first vector, got {len(row)}"
            )
        id_names = (id_field,) if id_field else _ID_FIELDS
        found = next((record[name] for name in id_names if name in record), None)
        if rows and (found is None) != (ids[0] is None):
            expected = "no id, as in the first line" if ids[0] is None else "an id"
            raise InputError(f"{where}: expected {expected}, got {found!r}")
        rows.append(row)
        ids.append(found)
    if not rows:
        raise FormatError(f"{path}: expected at least one vector, got none", path=path)
    return np.stack(rows), None if ids[0] is None else ids


def write_jsonl(path: Path, rows: Rows, ids: Ids) -> None:
    """Write an object with `id` and `vector` a line; numbers keep every bit of float32."""
    start = 0
    with path.open("w", encoding="ascii") as stream:
        for part in chunks(rows, ids):
            for row, numbers in enumerate(part.tolist(), start=start):
                stream.write(json.dumps({"id": ids[row], "vector": numbers}) + "\n")
            start += len(part)


def _row(value: Any, where: str) -> NDArray[np.float32]:
    is_list = isinstance(value, list) and value
    if not is_list or not all(type(number) in (int, float) for number in value):
        raise VectorError(f"{where}: expected a list of numbers, got {shorten([value])}")
    try:
        with np.errstate(over="raise"):
            return np.array(value, dtype=np.float64).astype(np.float32)
    except (FloatingPointError, OverflowError):
        raise VectorError(
            f"{where}: expected numbers between -3.4e38 and 3.4e38 (float32), got larger ones"
        ) from None
