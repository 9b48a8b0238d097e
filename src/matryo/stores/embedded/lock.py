"""One writer at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from matryo.core import InputError, UnsupportedError

FILE = "lock"


class WriterLock:
    """The right to write into the folder of an index.

    Raises:
        InputError: another process, or this one, has it; `pid` names the process.
        UnsupportedError: this system has no such locks.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import fcntl
        except ImportError:
            raise UnsupportedError(
                f"{folder}: writing an index needs the file locks of a POSIX system",
                hint="open it with read_only=True",
            ) from None
        handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(handle, 32).decode("ascii", "replace").strip()
            os.close(handle)
            pid = int(text) if text.isdecimal() else None
            where = " (this one)" if pid == os.getpid() else ""
            raise InputError(
                f"{folder}: an index has one writer, and process {text or 'unknown'}{where} has it "
                "open for writing",
                hint="close it there, or open this one with read_only=True",
                pid=pid,
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        # an index that is forgotten, not closed, must not lock itself out
        self.release = weakref.finalize(self, os.close, handle)
