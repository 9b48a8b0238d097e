"""Writing files so that a crash or a full disk leaves the old one in place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matryo.core.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it there, synced, once the block has ended well.

    On any error the temporary file is removed and `path` stays as it was.

    Raises:
        InputError: the folder of `path` does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        # mkstemp makes files private; the result should be as readable as any other new file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8) so that readers see the old file or the new one, never half."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def replacing_folder(path: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside `path`; move it there, synced, once the block has ended well.

    Raises:
        InputError: `path` exists and `overwrite` is not set, or its parent does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist")
    if target.exists() and not overwrite:
        raise InputError(
            f"{target} exists already", hint="choose another name, or allow overwriting"
        )
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)  # the names of the files, too, before the folder takes its place
        temporary.chmod(0o777 & ~_umask())
        old = temporary.with_suffix(".old")
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        sync(target.parent)
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritten(target: Path, error: OSError) -> OSError:
    """The same error, naming what could not be written; numpy leaves that out."""
    reason = error.strerror or str(error)
    return OSError(
        error.errno, f"cannot write it, what was there before is unchanged: {reason}", str(target)
    )


def sync(path: Path) -> None:
    """Wait until the file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
