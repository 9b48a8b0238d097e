"""What every reader and writer asks of a path before it looks inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matryo.core import FormatError, InputError, check_ids

_MAGIC = {
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\x89HDF\r\n\x1a\n": ".h5",
}
_LFS = b"version https://git-lfs"


def require_file(path: Path, *, magic: bytes = b"") -> None:
    """Refuse what is no file, is empty, or does not start with `magic`.

    Raises:
        InputError: no such file, or a folder.
        FormatError: an empty file, one of another format, or a Git LFS pointer.
    """
    if not path.exists():
        raise InputError(f"{path}: expected a file, got nothing: it does not exist", path=path)
    if not path.is_file():
        raise InputError(f"{path}: expected a {path.suffix} file, got a folder", path=path)
    with path.open("rb") as stream:
        start = stream.read(len(_LFS))
    if not start:
        raise FormatError(f"{path}: expected a {path.suffix} file, got an empty one", path=path)
    if start == _LFS:
        raise FormatError(
            f"{path}: expected a {path.suffix} file, got a Git LFS pointer to one",
            hint="fetch the file itself with: git lfs pull",
            path=path,
        )
    if not start.startswith(magic):
        other = next((suffix for known, suffix in _MAGIC.items() if start.startswith(known)), None)
        raise FormatError(
            f"{path}: expected a {path.suffix} file, which starts with {magic!r}, "
            f"got one that starts with {start[:8]!r}",
            hint=other and f"it looks like {other}: give it that suffix",
            path=path,
        )


def require_size(path: Path, expected: int, *, what: str, got: int | None = None) -> None:
    """Refuse a file that holds fewer or more bytes than its header announces.

    Raises:
        FormatError: it does.
    """
    size = path.stat().st_size if got is None else got
    if size != expected:
        raise FormatError(
            f"{path}: expected {expected} bytes ({what}), got {size}",
            hint="the file was cut short or changed: copy or write it again",
            path=path,
        )


def checked_ids(path: Path, ids: Any, count: int) -> list[str] | list[int]:
    """The ids of a file as a list; `range(count)` where it has none.

    Raises:
        InputError: one is neither a string nor an integer, or some repeat.
        FormatError: their number is not `count`.
    """
    if ids is None:
        return list(range(count))
    try:
        values = check_ids(ids)
    except InputError as error:
        raise InputError(f"{path}: {error}", ids=getattr(error, "ids", None)) from None
    if len(values) != count:
        raise FormatError(f"{path}: expected {count} ids, one per row, got {len(values)}")
    return values


def ids_beside(path: Path) -> Path:
    """Where the ids of a file are that has no place for them: `<stem>.ids.json`."""
    return path.with_name(f"{path.stem}.ids.json")


def read_ids_beside(path: Path) -> Any:
    """The ids beside `path`, one JSON array, or None where there is no such file."""
    file = ids_beside(path)
    if not file.exists():
        return None
    require_file(file)
    return parse_ids(file, file.read_bytes())


def dump_ids(ids: Sequence[str] | Sequence[int]) -> bytes:
    """Ids as one JSON array, in ASCII."""
    return json.dumps(list(ids)).encode("ascii")


def parse_ids(path: Path, data: bytes) -> list[Any]:
    """Ids from one JSON array.

    Raises:
        FormatError: it is something else.
    """
    try:
        ids = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: expected ids as a JSON array, got: {error}") from error
    if not isinstance(ids, list):
        raise FormatError(f"{path}: expected ids as a JSON array, got {type(ids).__name__}")
    return ids
