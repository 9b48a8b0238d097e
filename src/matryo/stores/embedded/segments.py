"""Segments: files that never change, with arrays side by side and a checksum for every page.

    arrays       each contiguous, at a multiple of 64 bytes
    directory    JSON: name, type, shape and place of every array, and a few facts about them
    checksums    CRC-32 of every 64 KiB of the two above
    trailer      where the last two begin, and eight letters that say what this is

The catalog keeps the size of a file and the SHA-256 of its checksums and trailer. A page is
compared with its checksum when a process first reads from it, so that opening is instant and no
damaged number is ever used.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matryo.core import FormatError, replacing

PAGE = 1 << 16
_ALIGNED = 64
_AT_ONCE = 1 << 20  # bytes that are summed and written while they are in a cache
_TRAILER = struct.Struct("<QQ8s")
_LETTERS = b"matryseg"

Key = slice | NDArray[np.integer]


class NewArray(NamedTuple):
    """An array on its way into a segment, in parts that follow one another."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Iterable[NDArray[Any]]


def one(array: NDArray[Any]) -> NewArray:
    """An array that is there already."""
    return NewArray(array.dtype, array.shape, [array])


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """What the catalog knows of a segment.

    Attributes:
        number: Its number, never used twice in an index.
        file: Name of its file in the folder of the index.
        rows: Rows it was written with, dead or alive.
        size_bytes: Size of the file.
        digest: SHA-256 of its checksums and trailer.
    """

    number: int
    file: str
    rows: int
    size_bytes: int
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def write_segment(
    path: Path, number: int, rows: int, arrays: Mapping[str, NewArray], facts: Mapping[str, Any]
) -> SegmentEntry:
    """Write a segment and wait until it has reached the disk, under its final name.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        pages = _Pages()
        places: dict[str, Any] = {}
        for name, array in arrays.items():
            _put(stream, pages, bytes(-pages.size % _ALIGNED))
            start = pages.size
            for part in array.parts:
                plain = np.ascontiguousarray(part, array.dtype).reshape(-1)
                _put(stream, pages, plain.view(np.uint8).data)
            places[name] = [array.dtype.str, list(array.shape), start]
        directory = pages.size
        _put(stream, pages, json.dumps({"arrays": places, "facts": facts}).encode())
        tail = pages.checksums() + _TRAILER.pack(directory, pages.size, _LETTERS)
        stream.write(tail)
        size = pages.size + len(tail)
    return SegmentEntry(number, path.name, rows, size, hashlib.sha256(tail).hexdigest())


class Segment:
    """A segment, mapped into memory and checked page by page.

    A process that has mapped it keeps it, whatever becomes of its name in the folder.

    Attributes:
        entry: What the catalog knows of it.
        path: The file.
        checked: For each page whether it was compared with its checksum.

    Raises:
        FormatError: the file is missing, cut short or damaged.
    """

    def __init__(self, folder: Path, entry: SegmentEntry) -> None:
        self.entry = entry
        self.path = folder / entry.file
        self._map = self._mapped()
        tail = self._trailer()
        self.checked = np.zeros(len(self._checksums), np.bool_)
        self.check(slice(tail[0], tail[1]))
        directory = json.loads(self._map[tail[0] : tail[1]])
        self.facts: dict[str, Any] = directory["facts"]
        self._arrays = {
            name: (np.ndarray(shape, dtype, self._map, offset), offset)
            for name, (dtype, shape, offset) in directory["arrays"].items()
        }
        self.whole: set[str] = set()  # names of arrays of which every page was checked

    def __len__(self) -> int:
        return self.entry.rows

    @property
    def names(self) -> list[str]:
        """Names of its arrays."""
        return list(self._arrays)

    def __getitem__(self, name: str) -> Section:
        # made anew each time: if the segment had it, the map would outlast its last user
        return Section(self, name, *self._arrays[name])

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def check(self, span: slice) -> None:
        """Compare every page that has bytes of this span with its checksum.

        Raises:
            FormatError: one is damaged.
        """
        if span.stop > span.start:
            self.check_pages(np.arange(span.start // PAGE, (span.stop - 1) // PAGE + 1))

    def check_pages(self, pages: NDArray[np.integer]) -> None:
        """Compare these pages with their checksums, but for those that were compared before.

        Raises:
            FormatError: one is damaged.
        """
        for page in pages[~self.checked[pages]].tolist():
            stop = min((page + 1) * PAGE, self._end)
            if zlib.crc32(memoryview(self._map)[page * PAGE : stop]) != self._checksums[page]:
                raise self._damaged(f"its bytes {page * PAGE} to {stop} do not match")
            self.checked[page] = True

    def check_all(self) -> None:
        """Compare every page.

        Raises:
            FormatError: one is damaged.
        """
        self.check(slice(0, self._end))

    def copy_to(self, folder: Path) -> None:
        """Write the same file into another folder, every page checked on the way.

        Raises:
            FormatError: a page is damaged.
        """
        self.check_all()
        with (folder / self.entry.file).open("wb") as stream:
            stream.write(self._map)

    def _mapped(self) -> mmap.mmap:
        size: object = "no file"
        try:
            with self.path.open("rb") as stream:
                size = self.path.stat().st_size
                if size == self.entry.size_bytes:
                    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            pass
        raise FormatError(
            f"{self.path}: expected {self.entry.size_bytes} bytes, got {size}",
            hint="the file was cut short or removed: restore the index from a snapshot",
            path=self.path,
        )

    def _trailer(self) -> tuple[int, int]:
        """Where the directory begins and where it ends, once they are known to be true."""
        directory, end, _ = _TRAILER.unpack(self._map[-_TRAILER.size :])
        if hashlib.sha256(self._map[min(end, len(self._map)) :]).hexdigest() != self.entry.digest:
            raise self._damaged("its checksums are not those that the catalog knows")
        self._end = end
        self._checksums = np.frombuffer(
            self._map, "<u4", (len(self._map) - _TRAILER.size - end) // 4, end
        )
        return directory, end

    def _damaged(self, how: str) -> FormatError:
        return FormatError(
            f"{self.path}: the file is damaged ({how})",
            hint="restore the index from a snapshot, or build it again",
            path=self.path,
        )


class Section:
    """One array of a segment; what is read of it is checked first.

    Attributes:
        shape: Of the array.
        dtype: Of its numbers.
    """

    def __init__(self, segment: Segment, name: str, array: NDArray[Any], offset: int) -> None:
        self._segment, self._name = segment, name
        self._array, self._offset = array, offset
        self._row_bytes = array.nbytes // len(array) if len(array) else 0
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: Key) -> NDArray[Any]:
        if self._name not in self._segment.whole:
            self._check(key)
        rows: NDArray[Any] = self._array[key]
        return rows

    def unchecked(self) -> tuple[NDArray[Any], tuple[NDArray[np.bool_], int] | None]:
        """The whole array, for a reader that looks itself which pages were checked.

        Returns:
            The array; and for each page of the file whether it was checked, with the place of the
            array in the file. None instead of these two if all of the array was checked.
        """
        if self._name in self._segment.whole:
            return self._array, None
        return self._array, (self._segment.checked, self._offset)

    def __matmul__(self, right: NDArray[Any]) -> NDArray[Any]:
        product: NDArray[Any] = self[:] @ right
        return product

    def _check(self, key: Key) -> None:
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self._array))
            span = [self._offset + row * self._row_bytes for row in (start, stop)]
            self._segment.check(slice(*span))
            if (start, stop) == (0, len(self._array)):
                self._segment.whole.add(self._name)
        elif len(key) and self._row_bytes:
            starts = self._offset + key.astype(np.int64) * self._row_bytes
            pages, ends = starts // PAGE, (starts + self._row_bytes - 1) // PAGE
            while (pages <= ends).any():  # a row may lie across pages
                self._segment.check_pages(np.unique(pages[pages <= ends]))
                pages = pages + 1


class _Pages:
    """CRC-32 of every page of a stream of bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._done: list[int] = []
        self._open = 0  # checksum of the page that is not full

    def add(self, data: memoryview) -> None:
        for part in self._split(data):
            self._open = zlib.crc32(part, self._open)
            self.size += len(part)
            if self.size % PAGE == 0:
                self._done.append(self._open)
                self._open = 0

    def checksums(self) -> bytes:
        last = [self._open] if self.size % PAGE else []
        return np.array([*self._done, *last], "<u4").tobytes()

    def _split(self, data: memoryview) -> Iterator[memoryview]:
        """The bytes, cut where a page ends."""
        start = 0
        while start < len(data):
            stop = start + PAGE - self.size % PAGE
            yield data[start:stop]
            start = stop


def _put(stream: BinaryIO, pages: _Pages, data: bytes | memoryview) -> None:
    whole = memoryview(data)
    for start in range(0, len(whole), _AT_ONCE):
        part = whole[start : start + _AT_ONCE]
        pages.add(part)
        stream.write(part)
        if len(part) == _AT_ONCE and hasattr(os, "posix_fadvise"):
            # Linux then begins to write it out, and the wait for the disk at the end is short
            first = stream.tell() - _AT_ONCE
            os.posix_fadvise(stream.fileno(), first, _AT_ONCE, os.POSIX_FADV_DONTNEED)
