"""Vectors with ids, from and to files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, NestedVectors, Nesting, Side, Space, check_ids, replacing
from matryo.readers.arrays import (
    read_npy,
    read_npz,
    read_safetensors,
    write_npy,
    write_npz,
    write_safetensors,
)
from matryo.readers.flat import read_bin, read_vecs, write_fbin, write_fvecs
from matryo.readers.hdf5 import read_hdf5
from matryo.readers.jsonlines import read_jsonl, write_jsonl
from matryo.readers.paths import checked_ids, dump_ids, ids_beside, read_ids_beside
from matryo.readers.rows import Ids, Rows, require_matrix
from matryo.readers.tables import read_table, write_parquet

# by which options pick the vectors within a file: none, `name`, or columns
_SINGLE: dict[str, Callable[[Path], Rows]] = {
    ".npy": read_npy,
    ".fvecs": read_vecs,
    ".bvecs": read_vecs,
    ".fbin": read_bin,
    ".u8bin": read_bin,
}
_NAMED: dict[str, Callable[[Path, str | None], tuple[Rows, Any, Side | None]]] = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".hdf5": read_hdf5,
    ".h5": read_hdf5,
}
_COLUMNS: dict[str, Callable[[Path, str | None, str | None], tuple[Rows, Any]]] = {
    ".parquet": read_table,
    ".arrow": read_table,
    ".feather": read_table,
    ".jsonl": read_jsonl,
}
VECTOR_READERS = (*_SINGLE, *_NAMED, *_COLUMNS)

_WRITERS: dict[str, Callable[[Path, Rows, Ids], None]] = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".parquet": write_parquet,
    ".jsonl": write_jsonl,
    ".fvecs": write_fvecs,
    ".fbin": write_fbin,
}
VECTOR_WRITERS = tuple(_WRITERS)
_FOLDER_SUFFIXES = ("", ".matryo")


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Vectors as a file holds them.

    Attributes:
        ids: One per row; row numbers from 0 where the file has none.
        array: `(n, dim)`; a slice or an array of row numbers reads rows as float32. Rows may still
            be on disk, and their numbers are not looked at before they are read.
        space: Where they come from; only matryo's own folder knows.
        side: Which side of the space; None where the file does not say.
        name: Name of the file without its suffix.
    """

    ids: list[str] | list[int]
    array: Rows
    space: Space | None
    side: Side | None
    name: str


def read_vectors(
    path: str | Path,
    *,
    name: str | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
) -> Vectors:
    """Open a file of vectors; `matryo.readers.FORMATS` lists the formats.

    .npy, .fvecs, .bvecs, .fbin, .u8bin, HDF5 and matryo's folder stay on disk until rows are read;
    the others are loaded. Formats without a place for ids have them beside the file, in
    `<stem>.ids.json`, one JSON array. Numbers must be floats (uint8 in .bvecs and .u8bin), and
    become float32.

    Args:
        path: The file, or matryo's folder.
        name: Which array of .npz, .safetensors or HDF5; by default the only 2-D array, or one
            called `vectors`, `embeddings` or `arr_0`; in HDF5 `train`.
        id_column: Field of the ids in .jsonl, .parquet or Arrow; by default `id` or `_id`.
        vector_column: Field of the vectors there; by default `vector` or `embedding`, or the only
            column that would do.

    Raises:
        InputError: no such file, an unknown format, an option that the format does not have,
            or ids that repeat.
        FormatError: an empty, damaged or pickled file, or one of another format.
        VectorError: numbers or shapes that are no vectors.
        UnknownNameError: no array or column of that name.
        MissingExtraError: reading this format needs a package that is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(f"{path}: expected a file or folder, got nothing: it does not exist")
    columns = {"id_column": id_column, "vector_column": vector_column}
    if path.is_dir():
        _refuse_options(path, name=name, **columns)
        return _read_folder(path)
    side = None
    if suffix in _SINGLE:
        _refuse_options(path, name=name, **columns)
        array, ids = _SINGLE[suffix](path), read_ids_beside(path)
    elif suffix in _NAMED:
        _refuse_options(path, **columns)
        array, ids, side = _NAMED[suffix](path, name)
    elif suffix in _COLUMNS:
        _refuse_options(path, name=name)
        array, ids = _COLUMNS[suffix](path, vector_column, id_column)
    else:
        raise InputError(
            f"{path}: expected a folder of nested vectors, or one of {', '.join(VECTOR_READERS)}, "
            f"got {suffix or 'a file without suffix'}",
            path=path,
        )
    return Vectors(checked_ids(path, ids, array.shape[0]), array, None, side, path.stem)


def write_vectors(
    path: str | Path,
    vectors: NDArray[np.floating] | Rows | NestedVectors,
    ids: Ids | None = None,
    *,
    space: Space | None = None,
    side: Side | None = None,
    nesting: Nesting | None = None,
    overwrite: bool = False,
) -> None:
    """Write vectors and their ids; the suffix of `path` chooses the format.

    .npy, .npz, .safetensors, .parquet, .jsonl, .fvecs and .fbin hold float32; where the format has
    no place for ids, `<stem>.ids.json` beside the file has them. A path without suffix, or with
    .matryo, is matryo's folder. A crash or a full disk leaves an older file as it was.

    Args:
        path: Where to write.
        vectors: `(n, dim)` floats, or nested vectors, which bring their ids, space and side.
        ids: One per row, strings or integers; without them rows are numbered from 0.
        space: Where the vectors come from; for the folder only, which needs it.
        side: Which side of the space; for the folder only, which needs it.
        nesting: Block borders in the folder; by default one block.
        overwrite: Replace an existing file or folder of vectors.

    Raises:
        InputError: `path` exists, its format cannot be written, ids repeat or their number is not
            `n`, or an option does not fit the format.
        VectorError: no floats, NaN, infinity, or a row of zeros.
        MissingExtraError: writing this format needs a package that is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*_FOLDER_SUFFIXES, *_WRITERS):
        raise InputError(
            f"{path}: expected {', '.join(_WRITERS)}, or no suffix or .matryo for a folder, to "
            f"write, got {suffix}",
            path=path,
        )
    require_matrix("vectors to write", vectors.shape)
    if isinstance(vectors, NestedVectors):
        if ids is not None or space or side or nesting:
            raise InputError(f"{path}: nested vectors bring their own ids, space, side and nesting")
        ids = vectors.ids
    names = range(vectors.shape[0]) if ids is None else check_ids(ids)
    if len(names) != vectors.shape[0]:
        raise InputError(f"{path}: expected {vectors.shape[0]} ids, one per row, got {len(names)}")
    if suffix in _WRITERS:
        if space or side or nesting:
            raise InputError(
                f"{path}: only a folder of nested vectors keeps space, side and nesting",
                hint=f"write to {path.with_suffix('.matryo')}, or leave them out",
            )
        has_ids = ids is not None
        _write_file(path, vectors, names, has_ids=has_ids, overwrite=overwrite)
        return
    if not isinstance(vectors, NestedVectors):
        if space is None or side is None:
            raise InputError(
                f"{path}: a folder of nested vectors needs their space and side, got none",
                hint=f"give both, or choose one of {', '.join(_WRITERS)}",
            )
        vectors = NestedVectors.from_array(
            vectors[:], names, space=space, side=side, nesting=nesting
        )
    _write_folder(path, vectors, overwrite=overwrite)


def _read_folder(path: Path) -> Vectors:
    nested = NestedVectors.open(path)
    if nested.is_codes:
        raise InputError(
            f"{path}: expected float vectors, got {nested.precision} codes",
            hint="read the float vectors that they were made from",
        )
    name = path.resolve().name.removesuffix(".matryo")
    return Vectors(nested.ids, nested, nested.space, nested.side, name)


def _write_folder(path: Path, vectors: NestedVectors, *, overwrite: bool) -> None:
    # overwriting removes what was there, so it must be ours
    if path.is_dir() and any(path.iterdir()) and not (path / "manifest.json").is_file():
        raise InputError(
            f"{path}: expected a folder of nested vectors to replace, got a folder of other files",
            hint="choose another name",
        )
    vectors.save(path, overwrite=overwrite)


def _write_file(path: Path, rows: Rows, ids: Ids, *, has_ids: bool, overwrite: bool) -> None:
    ids_file = ids_beside(path) if path.suffix.lower() in _SINGLE else None
    for file in filter(None, (path, ids_file)):
        if file.is_dir() or (file.exists() and not overwrite):
            raise InputError(
                f"{file} exists already", hint="choose another name, or allow overwriting"
            )
    with ExitStack() as files:
        # both are whole before the first is moved into place, so that a full disk spoils neither
        temporary = files.enter_context(replacing(path))
        if ids_file is not None and has_ids:
            files.enter_context(replacing(ids_file)).write_bytes(dump_ids(ids))
        _WRITERS[path.suffix.lower()](temporary, rows, ids)
    if ids_file is not None and not has_ids:
        ids_file.unlink(missing_ok=True)


def _refuse_options(path: Path, **options: str | None) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise InputError(
            f"{path}: expected no {' or '.join(given)}, which this format does not have, "
            f"got {options[given[0]]!r}"
        )
