"""The catalog: what the index is and what its last commit holds, in one SQLite file.

    record    two rows of SHA-256 and JSON: what was settled when the index was made, and the commit
    chunk     by segment, column and place: CRC-32 and a chunk of rows; column 0 says which rows are
              alive, the others are the fields

SQLite makes a commit visible all at once and lasting, but it has no checksums of its own: every
value here carries one that covers its key too. The journal is a rollback journal, since a damaged
write-ahead log would silently end before its last commits; `synchronous=EXTRA` waits for the disk
also when the journal is removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from matryo.core import FormatError, InputError

FILE = "catalog.sqlite"
KIND = "index"
FORMAT = 1
_HEAD, _COMMIT = 0, 1
_WAIT_SECONDS = 60.0  # for another process that reads or commits
_SCHEMA = """
    CREATE TABLE record (name INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE chunk (segment INTEGER, field INTEGER, place INTEGER, data BLOB NOT NULL,
                        PRIMARY KEY (segment, field, place));
"""

Key = tuple[int, int, int]  # segment, column, place


class Contents(NamedTuple):
    """All that changes, as of one commit."""

    commit: dict[str, Any]
    chunks: dict[Key, bytes]


class Catalog:
    """An open catalog.

    Args:
        folder: Of the index.
        read_only: Refuse to commit.

    Raises:
        FormatError: no index, one of a newer format, or a damaged one.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self.path = folder / FILE
        if not self.path.is_file():
            raise FormatError(
                f"{folder}: expected the folder of an index, got one without {FILE}", path=folder
            )
        # A killed writer may have left a commit to be undone, which a reader does where it can:
        # only on a folder that cannot be written is the file opened for reading alone.
        mode = "rw" if os.access(self.path, os.W_OK) and os.access(folder, os.W_OK) else "ro"
        with _named(self.path):
            self._open = _connect(self.path, mode)
            if read_only:
                self._open.execute("PRAGMA query_only=ON")
        try:
            self.head = self._read_head()
        except BaseException:
            self._open.close()
            raise

    @staticmethod
    def create(path: Path, head: Mapping[str, Any], contents: Contents) -> None:
        """Write a catalog where there is none.

        Raises:
            OSError: it could not be written.
        """
        with _named(path), closing(_connect(path, "rwc")) as connection:
            connection.executescript(f"BEGIN; {_SCHEMA}")
            rows = [(_HEAD, _sealed(_json(head))), (_COMMIT, _sealed(_json(contents.commit)))]
            connection.executemany("INSERT INTO record VALUES (?, ?)", rows)
            _insert(connection, contents.chunks)
            connection.execute("COMMIT")

    def read(self) -> Contents:
        """The last commit.

        Raises:
            FormatError: the file is damaged.
        """
        with _named(self.path):
            self._open.execute("BEGIN")
            try:
                commit = self._record(_COMMIT)
                rows = self._open.execute("SELECT segment, field, place, data FROM chunk")
                chunks = {row[:3]: self._unpacked(row[:3], row[3]) for row in rows}
            finally:
                self._open.execute("COMMIT")
        return Contents(commit, chunks)

    def commit(
        self,
        before: int,
        commit: Mapping[str, Any],
        chunks: Mapping[Key, bytes],
        dropped: Sequence[int],
    ) -> None:
        """Make a commit visible, and wait until it has reached the disk.

        Args:
            before: Number of the commit that this one follows.
            commit: The record of the new commit.
            chunks: Those that are new or changed.
            dropped: Numbers of segments that are gone.

        Raises:
            OSError: it could not be written; the commit before it is unchanged.
            FormatError: the file is damaged.
        """
        with _named(self.path):
            self._open.execute("BEGIN IMMEDIATE")
            try:
                found = self._record(_COMMIT)["commit"]
                if found != before:
                    raise InputError(
                        f"{self.path}: expected commit {before} to be the last, got {found}",
                        hint="refresh sees it; then repeat the change if it is still needed",
                    )
                self._open.executemany(
                    "DELETE FROM chunk WHERE segment = ?", [(number,) for number in dropped]
                )
                _insert(self._open, chunks)
                data = _sealed(_json(commit))
                self._open.execute("UPDATE record SET data = ? WHERE name = ?", (data, _COMMIT))
                self._open.execute("COMMIT")
            except BaseException:
                if self._open.in_transaction:
                    self._open.execute("ROLLBACK")
                raise

    def last_commit(self) -> int:
        """Number of the last commit."""
        with _named(self.path):
            return int(self._record(_COMMIT)["commit"])

    def check_all(self) -> None:
        """Read everything, and let SQLite look at its own structure.

        Raises:
            FormatError: something is damaged.
        """
        self.read()
        with _named(self.path):
            (found,) = self._open.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise _damaged(self.path, found)

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def _read_head(self) -> dict[str, Any]:
        with _named(self.path):
            data = self._data(_HEAD)
        try:
            head = json.loads(data[32:])
            kind, number = head["kind"], head["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(self.path, repr(error)) from error
        if kind == KIND and number != FORMAT:
            raise FormatError(
                f"{self.path}: expected an index of format {FORMAT}, got {number!r}",
                hint="a newer matryo wrote it: pip install -U matryo",
                path=self.path,
            )
        return self._record(_HEAD)

    def _record(self, name: int) -> dict[str, Any]:
        data = self._data(name)
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise _damaged(self.path, "a record does not match its SHA-256")
        values: dict[str, Any] = json.loads(data[32:])
        return values

    def _data(self, name: int) -> bytes:
        row = self._open.execute("SELECT data FROM record WHERE name = ?", (name,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise _damaged(self.path, "a record is missing")
        return row[0]

    def _unpacked(self, key: Any, data: object) -> bytes:
        whole = isinstance(data, bytes) and all(isinstance(part, int) for part in key)
        if not whole or data[:4] != _crc(key, data[4:]):  # type: ignore[index]
            raise _damaged(self.path, f"the rows of chunk {key} do not match their checksum")
        payload: bytes = data[4:]  # type: ignore[index]
        return payload


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What SQLite reports, as the errors of matryo and of the system."""
    try:
        yield
    except UnicodeError as error:  # SQLite quotes a damaged schema in its message
        raise _damaged(path, error) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        numbers = {
            sqlite3.SQLITE_FULL: errno.ENOSPC,
            sqlite3.SQLITE_IOERR: errno.EIO,
            sqlite3.SQLITE_READONLY: errno.EROFS,
            sqlite3.SQLITE_CANTOPEN: errno.EACCES,
            sqlite3.SQLITE_BUSY: errno.EBUSY,
        }
        if code in numbers:
            raise OSError(
                numbers[code],
                f"the last commit is unchanged, but SQLite says: {error}",
                str(path),
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, how: object) -> FormatError:
    return FormatError(
        f"{path}: the file is damaged ({how})",
        hint="restore the index from a snapshot, or build it again",
        path=path,
    )


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_WAIT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    for setting in ("synchronous=EXTRA", "trusted_schema=OFF", "cell_size_check=ON"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def _insert(connection: sqlite3.Connection, chunks: Mapping[Key, bytes]) -> None:
    rows = ((*key, _crc(key, data) + data) for key, data in chunks.items())
    connection.executemany("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?)", rows)


def _crc(key: Key, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(struct.pack("<qqq", *key))).to_bytes(4, "little")


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")


def _sealed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest() + data
