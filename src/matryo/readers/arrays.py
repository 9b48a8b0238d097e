"""Files of named or single arrays: .npy, .npz and .safetensors."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    FormatError,
    InputError,
    MatryoError,
    Side,
    UnknownNameError,
    VectorError,
)
from matryo.readers.paths import dump_ids, parse_ids, require_file, require_size
from matryo.readers.rows import Ids, LazyRows, Rows, as_float32, chunks, require_floats

_USUAL = ("vectors", "embeddings", "arr_0")
# what numpy's parser raises on a header of random bytes
_HEADER_FAULTS = (ValueError, KeyError, TypeError, EOFError, SyntaxError, tokenize.TokenError)
_ARCHIVE_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
_SAFETENSORS_FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def size_bytes(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def about(self) -> str:
        return f"a header of {self.offset} and {self.shape} numbers of {self.dtype}"


def read_npy(path: Path) -> Rows:
    """Memory-map one array; numbers that are not float32 become it row by row."""
    require_file(path, magic=b"\x93NUMPY")
    with path.open("rb") as stream:
        header = _read_header(stream, path)
    require_floats(path, header.shape, header.dtype)
    require_size(path, header.size_bytes, what=header.about)
    array: NDArray[Any] = np.memmap(
        path,
        header.dtype,
        mode="r",
        offset=header.offset,
        shape=header.shape,
        order="F" if header.is_fortran else "C",
    )
    if header.dtype == np.float32:
        return array
    return LazyRows(path, array.shape, array.__getitem__)


def write_npy(path: Path, rows: Rows, ids: Ids) -> None:
    """Write float32 rows, a part at a time; the format has no place for `ids`."""
    with path.open("wb") as stream:
        facts = {"descr": "<f4", "fortran_order": False, "shape": rows.shape}
        np.lib.format.write_array_header_1_0(stream, facts)
        for part in chunks(rows, ids):
            stream.write(part.astype("<f4", copy=False).tobytes())


def read_npz(path: Path, name: str | None) -> tuple[Rows, Any, Side | None]:
    """The array that `name` or its shape singles out, and the ids, None where there are none."""
    with open_npz(path) as archive:
        chosen = pick(path, archive.shapes, name)
        require_floats(
            f"{path}, array {chosen!r}", archive.shapes[chosen], archive.headers[chosen].dtype
        )
        return as_float32(archive.read(chosen), path), archive.ids(), None


def write_npz(path: Path, rows: Rows, ids: Ids) -> None:
    """Write the arrays `vectors` and `ids_json`, the ids as the bytes of one JSON array.

    numpy's own strings would cut zeros off the end of an id and store all of them at the length of
    the longest.
    """
    vectors = np.concatenate(list(chunks(rows, ids)))
    with path.open("wb") as stream:
        np.savez(stream, vectors=vectors, ids_json=np.frombuffer(dump_ids(ids), np.uint8))


@contextmanager
def open_npz(path: Path) -> Iterator[_Archive]:
    """Open a .npz to look at its headers and read arrays one by one.

    Raises:
        FormatError: the file is damaged or holds pickled objects; also within the `with` block.
    """
    require_file(path, magic=b"PK")
    try:
        with zipfile.ZipFile(path) as file:
            yield _Archive(path, file)
    except MatryoError:
        raise
    except _ARCHIVE_FAULTS as error:
        raise FormatError(f"{path}: the archive is damaged: {error}", path=path) from error


class _Archive:
    """The arrays of a .npz: headers at once, numbers when asked for."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path, self._file = path, file
        self.headers: dict[str, _Header] = {}
        for member in file.namelist():
            if not member.endswith(".npy"):
                continue
            with file.open(member) as stream:
                self.headers[member.removesuffix(".npy")] = _read_header(stream, path)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: header.shape for name, header in self.headers.items()}

    def read(self, name: str) -> NDArray[Any]:
        header = self.headers[name]
        size = self._file.getinfo(f"{name}.npy").file_size
        # a header that lies about its shape must not make numpy reserve memory for it
        require_size(self._path, header.size_bytes, what=f"{name}: {header.about}", got=size)
        with self._file.open(f"{name}.npy") as stream:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array

    def ids(self) -> Any:
        if "ids_json" in self.headers:
            return parse_ids(self._path, self.read("ids_json").tobytes())
        return self.read("ids").tolist() if "ids" in self.headers else None


def read_safetensors(path: Path, name: str | None) -> tuple[Rows, Any, Side | None]:
    """The tensor that `name` or its shape singles out, and the ids, None where there are none."""
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
            chosen = pick(path, shapes, name)
            dtype = slices[chosen].get_dtype()
            if dtype not in _SAFETENSORS_FLOATS:
                raise VectorError(
                    f"{path}, tensor {chosen!r}: expected F16, F32 or F64 numbers, got {dtype}",
                    hint="convert it to float32 first",
                )
            require_floats(
                f"{path}, tensor {chosen!r}", shapes[chosen], np.dtype(_SAFETENSORS_FLOATS[dtype])
            )
            vectors = as_float32(file.get_tensor(chosen), path)
            ids = None
            if "ids_json" in shapes:
                ids = parse_ids(path, file.get_tensor("ids_json").tobytes())
            elif "ids" in shapes:
                ids = file.get_tensor("ids").tolist()
            return vectors, ids, None
    except SafetensorError as error:
        raise FormatError(f"{path}: expected safetensors, got: {error}", path=path) from error


def write_safetensors(path: Path, rows: Rows, ids: Ids) -> None:
    """Write the tensors `vectors` and `ids_json`, the ids as the bytes of one JSON array."""
    from safetensors.numpy import save

    vectors = np.concatenate(list(chunks(rows, ids)))
    path.write_bytes(save({"vectors": vectors, "ids_json": np.frombuffer(dump_ids(ids), np.uint8)}))


def pick(path: Path, shapes: Mapping[str, tuple[int, ...]], name: str | None) -> str:
    """The array that is meant: `name`, else the only 2-D one, else one with a usual name.

    Raises:
        UnknownNameError: no array is called `name`.
        InputError: several could be meant, or none.
    """
    if name is not None:
        if name not in shapes:
            raise UnknownNameError.among(f"array in {path}", name, shapes)
        return name
    matrices = [key for key, shape in shapes.items() if len(shape) == 2]
    usual = [key for key in _USUAL if key in matrices]
    if len(matrices) == 1 or usual:
        return (usual or matrices)[0]
    listing = ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "nothing"
    raise InputError(
        f"{path}: expected one 2-D array, or one called {', '.join(_USUAL)}, got {listing}",
        hint="choose an array by its name" if matrices else None,
        names=list(shapes),
    )


def _read_header(stream: IO[bytes], path: Path) -> _Header:
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read(stream)
    except _HEADER_FAULTS as error:
        raise FormatError(f"{path}: expected the header of a .npy array, got: {error}") from error
    if dtype.hasobject:
        raise FormatError(
            f"{path}: expected plain numbers, got pickled Python objects, which are never read",
            hint="write the array again with a plain dtype, as array.astype('float32')",
            path=path,
        )
    return _Header(shape, is_fortran, dtype, stream.tell())
