"""Revisions of models that lie on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest(files: Iterable[Path], *settings: str) -> str:
    """16 hexadecimal digits of SHA-256 over the bytes of `files`, in their order, and `settings`.

    The bytes themselves are read: a name, a version or a size can stay while a model changes.
    About 1 GB per second.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(file_sha256(file).encode())
    for setting in settings:
        total.update(setting.encode())
    return total.hexdigest()[:16]


def file_sha256(file: Path) -> str:
    """SHA-256 of one file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
