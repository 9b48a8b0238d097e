"""What a user points at, recognized and read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, check_vectors
from matryo.readers import (
    LabelledData,
    LabelledVectors,
    PairsData,
    RetrievalData,
    Texts,
    Vectors,
    open_dataset,
    read_texts,
    read_vectors,
)

Source = RetrievalData | PairsData | LabelledData | LabelledVectors | Texts | Vectors

_VECTOR_SUFFIXES = {
    ".npy", ".npz", ".safetensors", ".arrow", ".feather", ".fvecs", ".bvecs", ".fbin", ".u8bin",
    ".hdf5", ".h5",
}  # fmt: skip
_LABELLED_ARRAYS = {"train", "train_labels", "test", "test_labels"}


def open_source(
    data: str | Path | NDArray[np.floating] | Source,
    *,
    split: str | None = None,
    column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
) -> Source:
    """Read what `data` names: a benchmark folder, a file of vectors, or a file of texts.

    Args:
        data: A path, vectors in memory, or anything already read.
        split: Split of a benchmark folder, by default `test`.
        column: Column of the texts (or of the vectors, in a Parquet or Arrow file); naming one of a
            CSV, TSV, JSONL or Parquet file makes it a file of texts.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.

    Raises:
        InputError: there is nothing at this path, or nothing that has splits.
        FormatError: the file is damaged or of no known format.
        VectorError: vectors in memory that are no matrix of floats.
    """
    if split is not None and not (
        isinstance(data, (str, Path)) and _is_benchmark_folder(Path(data))
    ):
        raise InputError(f"expected a benchmark folder to choose the split {split!r} in")
    if isinstance(data, Source):
        return data
    if isinstance(data, np.ndarray):
        if data.ndim != 2 or data.dtype.kind != "f":
            check_vectors(data)  # says what is wrong; the numbers are looked at where they are read
        return Vectors(list(range(len(data))), data, None, None, "vectors")
    path = Path(data)
    if not path.exists():
        raise InputError(f"there is nothing at {path}", path=path)
    suffix = path.suffix.lower()
    if (path / "manifest.json").is_file():
        return read_vectors(path)
    whole = (suffix == ".npz" and array is None and _has_labels(path)) or (
        suffix in {".tsv", ".csv"} and column is None and _has_pairs(path)
    )
    if path.is_dir() or whole:
        return open_dataset(path, split=split)
    if suffix in _VECTOR_SUFFIXES or (
        suffix in {".parquet", ".jsonl"} and _is_vectors(path, column)
    ):
        return read_vectors(path, name=array, id_column=id_column, vector_column=column)
    return read_texts(path, column=column, id_column=id_column)


def open_queries(
    queries: str | Path | NDArray[np.floating] | Vectors,
    *,
    column: str | None = None,
    array: str | None = None,
) -> Texts | Vectors:
    """Read queries, which are texts or vectors."""
    source = open_source(queries, column=column, array=array)
    if not isinstance(source, (Texts, Vectors)):
        raise InputError(
            f"queries must be a file of texts or of vectors, got {type(source).__name__}"
        )
    return source


def _is_benchmark_folder(path: Path) -> bool:
    return path.is_dir() and not (path / "manifest.json").is_file()


def _has_pairs(path: Path) -> bool:
    """Whether a table holds scored pairs, by its header."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            names = lines.readline().strip().split("\t" if path.suffix.lower() == ".tsv" else ",")
    except ValueError:
        return False  # the reader of texts says what is wrong
    return {"sentence1", "sentence2", "score"} <= set(names)


def _has_labels(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, struct.error, OSError, RuntimeError, ValueError):
        return False  # the reader of vectors says what is wrong
    return names >= _LABELLED_ARRAYS


def _is_vectors(path: Path, column: str | None) -> bool:
    """Whether a file that may hold either holds vectors."""
    if path.suffix.lower() == ".parquet":
        return column is None or _column_is_list(path, column)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            record = json.loads(next((line for line in lines if line.strip()), "{}"))
    except ValueError:
        return False  # the reader of texts names the line
    return (
        isinstance(record, dict) and column is None and bool({"vector", "embedding"} & set(record))
    )


def _column_is_list(path: Path, column: str) -> bool:
    from matryo.core import MissingExtraError

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError.of("reading Parquet", "pyarrow", "parquet") from None
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return True  # the reader of vectors says what is wrong
    return column in schema.names and "list" in str(schema.field(column).type)
