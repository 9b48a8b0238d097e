"""HDF5 files, as the ann-benchmarks publish them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError, MatryoError, MissingExtraError, Side
from matryo.readers.arrays import pick
from matryo.readers.paths import require_file
from matryo.readers.rows import Key, LazyRows, Rows, require_floats

_SIDES = {"train": Side.DOCUMENT, "test": Side.QUERY}


def read_hdf5(path: Path, name: str | None) -> tuple[Rows, None, Side | None]:
    """Rows of the data set that is meant, by default `train`, no ids, and the side it stands for.

    The file stays open for as long as the rows are held.
    """
    require_file(path, magic=b"\x89HDF\r\n\x1a\n")
    try:
        import h5py
    except ImportError:
        raise MissingExtraError.of("reading HDF5", "h5py", "hdf5") from None

    with _naming_damage(path):
        file = h5py.File(path, "r")
        shapes = {key: item.shape for key, item in file.items() if isinstance(item, h5py.Dataset)}
        chosen = pick(path, shapes, "train" if name is None and "train" in shapes else name)
        data = file[chosen]
        require_floats(f"{path}, data set {chosen!r}", data.shape, data.dtype)

    def read(key: Key) -> NDArray[Any]:
        with _naming_damage(path):
            if isinstance(key, slice):
                start, stop, step = key.indices(data.shape[0])
                if step == 1:
                    part: NDArray[Any] = data[start : max(start, stop)]
                    return part
                key = np.arange(start, stop, step)
            # HDF5 reads rows in ascending order, each once
            rows = np.where(key < 0, key + data.shape[0], key)
            ascending, places = np.unique(rows, return_inverse=True)
            picked: NDArray[Any] = data[ascending][places]
            return picked

    return LazyRows(path, data.shape, read), None, _SIDES.get(chosen)


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except MatryoError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{path}: expected whole HDF5, got: {error}", path=path) from error
