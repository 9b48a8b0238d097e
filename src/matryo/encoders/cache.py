"""Encodings kept on disk by content and space, so that no text is encoded twice.

One SQLite file. A key is the fingerprint of the space, the side, and the SHA-256 of the text; the
texts themselves are not stored. Any number of processes may use one file at once.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Encoder,
    FormatError,
    InputError,
    Side,
    Space,
    VectorError,
    check_vectors,
)
from matryo.encoders.texts import check_texts

_FORMAT = 1
_OWNER = 0x4D545259  # "MTRY", which marks the file as ours
_BUSY_SECONDS = 60.0
# SQLite takes at least 999 parameters per statement in every version in use.
_LOOKUPS = 900
_TABLE = """
CREATE TABLE IF NOT EXISTS encodings (
    space TEXT NOT NULL, side TEXT NOT NULL, text BLOB NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (space, side, text)
)
"""


class EncodingCache:
    """Encodings on disk; an interrupted run leaves everything that was written before.

    Args:
        path: The file; made if it is missing. By default `encodings.sqlite` in the folder
            `MATRYO_CACHE` of the environment, else in the user's cache folder.

    Raises:
        FormatError: the file is no such cache, damaged, or of a newer format.
        InputError: the file cannot be opened or written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = _default_path() if path is None else Path(path)
        self._lock = threading.Lock()
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        with self._transaction():
            owner = self._number("PRAGMA application_id")
            number = self._number("PRAGMA user_version")
            if owner != _OWNER and self._number("SELECT count(*) FROM sqlite_master"):
                raise FormatError(
                    f"{self.path}: expected an encoding cache, got an SQLite file of another kind",
                    hint="choose another file, or another folder with MATRYO_CACHE",
                    path=self.path,
                )
            if number > _FORMAT:
                raise FormatError(
                    f"{self.path}: expected an encoding cache of format {_FORMAT}, got {number}",
                    hint="it was made by a newer matryo: update, or use another with MATRYO_CACHE",
                    path=self.path,
                )
            self._connection.execute(_TABLE)
            self._connection.execute(f"PRAGMA application_id={_OWNER}")
            self._connection.execute(f"PRAGMA user_version={_FORMAT}")
        self._write_ahead()
        # A crash of the machine may lose the last batches, never the file.
        self._connection.execute("PRAGMA synchronous=NORMAL")

    def _write_ahead(self) -> None:
        """Let readers and a writer work at once; SQLite itself does not wait to change to that."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _number(self, statement: str) -> int:
        number: int = self._connection.execute(statement).fetchone()[0]
        return number

    def read(
        self, space: Space, side: Side, texts: Sequence[str], out: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Fill the rows of `out` that are known, and return the positions of those that are not.

        Args:
            space: The space of the encoder.
            side: Which side of it.
            texts: Distinct texts.
            out: `(len(texts), space.full_dim)`, written in place.

        Raises:
            FormatError: a vector of another length than the space says.
        """
        keys = [_key(text) for text in texts]
        row_of = {key: row for row, key in enumerate(keys)}
        known = np.zeros(len(keys), dtype=bool)
        for start in range(0, len(keys), _LOOKUPS):
            part = keys[start : start + _LOOKUPS]
            # only question marks are put into the statement
            query = (
                "SELECT text, vector FROM encodings WHERE space = ? AND side = ? AND text IN "  # noqa: S608
                f"({','.join('?' * len(part))})"
            )
            with self._lock, self._explained():
                found = self._connection.execute(query, [space.fingerprint, side.value, *part])
                rows = found.fetchall()
            for key, blob in rows:
                if len(blob) != 4 * space.full_dim:
                    raise FormatError(
                        f"{self.path}: expected vectors of {4 * space.full_dim} bytes for "
                        f"{space.model}, got one of {len(blob)}",
                        hint=_remedy(self.path),
                        path=self.path,
                    )
                out[row_of[key]] = np.frombuffer(blob, dtype="<f4")
                known[row_of[key]] = True
        return np.flatnonzero(~known)

    def write(
        self, space: Space, side: Side, texts: Sequence[str], vectors: NDArray[np.float32]
    ) -> None:
        """Keep the vectors `(len(texts), space.full_dim)` of these texts, all or none."""
        rows = [
            (space.fingerprint, side.value, _key(text), vector.astype("<f4").tobytes())
            for text, vector in zip(texts, vectors, strict=True)
        ]
        with self._lock, self._explained(), self._transaction():
            self._connection.executemany("INSERT OR IGNORE INTO encodings VALUES (?,?,?,?)", rows)

    def __len__(self) -> int:
        with self._lock, self._explained():
            return self._number("SELECT count(*) FROM encodings")

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or none; the write lock is taken at once, so that a second process waits for it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise InputError(
                f"the encoding cache {self.path} cannot be used: {error}",
                hint="choose another place with MATRYO_CACHE, or work without a cache",
            ) from error
        except sqlite3.DatabaseError as error:
            raise FormatError(
                f"{self.path}: expected an encoding cache, got a file that is none or is damaged "
                f"({error})",
                hint=_remedy(self.path),
                path=self.path,
            ) from error


def encode_texts(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    side: Side,
    cache: EncodingCache | None = None,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
    ids: Sequence[str | int] | None = None,
) -> NDArray[np.float32]:
    """Encode texts once each, keep what was done, and check every vector.

    Args:
        encoder: Any encoder.
        texts: Any number; repeated ones are encoded once.
        side: Which side they are.
        cache: Where encodings are looked up and kept, batch by batch.
        batch_size: Texts given to the encoder, and kept, at once.
        progress: Called with the number of texts that have just been finished; the calls add up to
            `len(texts)`.
        ids: Names of the texts for messages.

    Returns:
        `(len(texts), encoder.space.full_dim)` float32, in the order of the texts.

    Raises:
        InputError: an empty text, or another number of ids than of texts.
        VectorError: the encoder answers with another shape, or with rows that are not finite or
            only zeros; `ids` names them.
    """
    if ids is not None and len(ids) != len(texts):
        raise InputError(f"expected one id per text, got {len(ids)} ids for {len(texts)} texts")
    checked = check_texts(texts, ids)
    space = encoder.space
    row_of: dict[str, int] = {}
    names: list[str | int] = []
    for position, text in enumerate(checked):
        if text not in row_of:
            row_of[text] = len(row_of)
            names.append(position if ids is None else ids[position])
    distinct = list(row_of)
    places = np.fromiter((row_of[text] for text in checked), np.int64, count=len(checked))
    repeats = np.bincount(places, minlength=len(distinct))
    report = progress or (lambda _: None)

    vectors = np.empty((len(distinct), space.full_dim), dtype=np.float32)
    missing = (
        np.arange(len(distinct)) if cache is None else cache.read(space, side, distinct, vectors)
    )
    cached = len(checked) - int(repeats[missing].sum())
    if cached:
        report(cached)
    for start in range(0, len(missing), batch_size):
        rows = missing[start : start + batch_size]
        batch = [distinct[row] for row in rows]
        answer = np.asarray(encoder.encode(batch, side=side), dtype=np.float32)
        if answer.shape != (len(batch), space.full_dim):
            raise VectorError(
                f"{space.model} must answer {len(batch)} texts with shape "
                f"{(len(batch), space.full_dim)}, got {answer.shape}"
            )
        check_vectors(
            answer, what=f"{side} encodings by {space.model}", ids=[names[row] for row in rows]
        )
        vectors[rows] = answer
        if cache is not None:
            cache.write(space, side, batch, answer)
        report(int(repeats[rows].sum()))
    return vectors if len(distinct) == len(checked) else vectors[places]


def _default_path() -> Path:
    folder = os.environ.get("MATRYO_CACHE")
    if not folder:
        from platformdirs import user_cache_dir

        folder = user_cache_dir("matryo")
    return Path(folder) / "encodings.sqlite"


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _remedy(path: Path) -> str:
    return f"delete {path.name}: it holds nothing that cannot be encoded again"
