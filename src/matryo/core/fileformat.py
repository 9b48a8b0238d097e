"""Nested vectors on disk: a folder that plain numpy can read.

    manifest.json          format number, space and fingerprint, side, dims, precision, counts, and
                           the size and SHA-256 of every other file; `digest` covers the manifest
    ids.json               one JSON array of strings or integers
    block-00000-00064.npy  the numbers 0 to 63 of every row; one such file per block
    norms.npy              length of every prefix, for float blocks
    scales.npy             step of every dimension, for int8 codes

The manifest is written last and the folder is moved into place as a whole. A block's checksum is
compared when the block is first read, so that opening is instant and reading a short prefix does
not touch the rest. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from matryo.core.errors import FormatError, InputError
from matryo.core.files import replacing_folder
from matryo.core.manifest import MANIFEST, read_manifest, sha256_of, write_manifest
from matryo.core.nesting import Nesting
from matryo.core.precision import Precision
from matryo.core.space import Side, Space

if TYPE_CHECKING:
    from matryo.core.vectors import NestedVectors

FORMAT = 1
KIND = "nested-vectors"


def save(vectors: NestedVectors, path: str | Path, *, overwrite: bool) -> None:
    """Write `vectors` as a folder; see the module for its files."""
    target = Path(path)
    if target.is_dir() and any(target.iterdir()) and not is_folder(target):
        raise InputError(
            f"{path}: expected a folder of nested vectors to replace, got a folder of other files",
            hint="choose another name",
        )
    with replacing_folder(path, overwrite=overwrite) as folder:
        (folder / "ids.json").write_text(json.dumps(list(vectors.ids)), "ascii")
        for name, block in zip(_block_names(vectors.nesting), vectors.blocks, strict=True):
            np.save(folder / name, block, allow_pickle=False)
        if vectors.norms is not None:
            np.save(folder / "norms.npy", vectors.norms, allow_pickle=False)
        if vectors.scales is not None:
            np.save(folder / "scales.npy", vectors.scales, allow_pickle=False)
        body = {
            "kind": KIND,
            "format": FORMAT,
            "space": vectors.space.to_dict(),
            "fingerprint": vectors.space.fingerprint,
            "side": vectors.side.value,
            "dims": list(vectors.nesting.dims),
            "precision": vectors.precision.value,
            "count": len(vectors.ids),
        }
        write_manifest(folder, body)


def is_folder(path: str | Path) -> bool:
    """Whether `path` looks like such a folder."""
    return (Path(path) / MANIFEST).is_file()


def open_folder(path: str | Path) -> NestedVectors:
    """Open a folder written by `save`.

    Raises:
        FormatError: not such a folder, a newer format, or a damaged file.
    """
    from matryo.core.vectors import NestedVectors

    folder = Path(path)
    manifest = read_manifest(
        folder,
        kind=KIND,
        number=FORMAT,
        what="a folder of nested vectors",
        again="write it again",
    )
    files = manifest["files"]
    for name, facts in files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else "no file"
        if size != facts["bytes"]:
            raise FormatError(
                f"{file}: expected {facts['bytes']} bytes, got {size}",
                hint="the folder was cut short or changed: restore it or write it again",
                path=file,
            )
    ids = json.loads(_checked(folder, "ids.json", files).read_text("ascii"))
    nesting = Nesting(tuple(manifest["dims"]))
    precision = Precision.parse(manifest["precision"])
    blocks = [
        _LazyBlock(
            folder, name, files, (manifest["count"], precision.columns(b - a)), precision.dtype
        )
        for name, (a, b) in zip(_block_names(nesting), nesting.blocks, strict=True)
    ]
    small = {
        name: np.load(_checked(folder, f"{name}.npy", files), allow_pickle=False)
        for name in ("norms", "scales")
        if f"{name}.npy" in files
    }
    return NestedVectors(
        ids,
        blocks,  # type: ignore[arg-type]  # a lazy block reads like an array
        nesting=nesting,
        space=Space.from_dict(manifest["space"]),
        side=Side(manifest["side"]),
        precision=precision,
        norms=small.get("norms"),
        scales=small.get("scales"),
    )


class _LazyBlock:
    """A memory-mapped array whose checksum is compared before the first number is handed out."""

    def __init__(
        self,
        folder: Path,
        name: str,
        files: Mapping[str, Any],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        # the manifest gives shape and type: not even the header is parsed before it is checked
        self._folder, self._name, self._files = folder, name, files
        self.shape, self.dtype, self.ndim = shape, dtype, 2
        self._array: NDArray[Any] | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001
        if self._array is None:
            file = _checked(self._folder, self._name, self._files)
            self._array = _map(file, self.shape, self.dtype)
        # np.asarray has learned to copy in numpy 2 only
        make = np.array if copy else np.asarray
        array: NDArray[Any] = make(self._array, dtype=dtype)
        return array

    def __len__(self) -> int:
        return int(self.shape[0])

    @overload
    def __getitem__(self, key: slice) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: NDArray[np.integer]) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[Any]: ...
    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows: NDArray[Any] = np.asarray(self)[key]
        return rows


def _checked(folder: Path, name: str, files: Mapping[str, Any]) -> Path:
    file = folder / name
    if name not in files:
        raise FormatError(
            f"{folder / 'manifest.json'}: expected a file {name}, got none", path=file
        )
    if sha256_of(file) != files[name]["sha256"]:
        raise FormatError(
            f"{file}: the file is damaged (its SHA-256 does not match the manifest)",
            hint="restore the folder or write it again",
            path=file,
        )
    return file


def _map(file: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{file}: expected a .npy array, got: {error}", path=file) from error
    if (array.shape, array.dtype) != (shape, dtype):
        raise FormatError(
            f"{file}: expected {dtype} numbers of shape {shape}, as the manifest says, "
            f"got {array.dtype} of {array.shape}",
            path=file,
        )
    return array


def _block_names(nesting: Nesting) -> list[str]:
    return [f"block-{start:05d}-{stop:05d}.npy" for start, stop in nesting.blocks]
