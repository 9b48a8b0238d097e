"""The manifest of a folder: what is in it, by checksums, and a digest that covers the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matryo.core.errors import FormatError

MANIFEST = "manifest.json"


def write_manifest(folder: Path, body: Mapping[str, Any]) -> None:
    """Write the manifest of a folder that holds all of its other files already.

    Args:
        folder: Where the files are.
        body: Values for JSON, `kind` and `format` among them.
    """
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.iterdir())
    }
    whole = {**body, "files": files}
    text = json.dumps({**whole, "digest": _digest(whole)}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def read_manifest(folder: Path, *, kind: str, number: int, what: str, again: str) -> dict[str, Any]:
    """What `write_manifest` wrote, `files` with it; the files themselves are not looked at.

    Args:
        folder: Where it is.
        kind: What its `kind` must be.
        number: What its `format` must be.
        what: What the folder should be, for the message.
        again: What makes such a folder again, for the hint.

    Raises:
        FormatError: no such folder, a newer format, or a changed byte; `path` names the file.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
        found_kind, found_number = manifest["kind"], manifest["format"]
        digest = manifest.pop("digest")
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(
            f"{folder}: expected {what}, got one without {MANIFEST}", path=folder
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{file}: expected a manifest as JSON, got {error!r}", path=file
        ) from error
    if found_kind != kind:
        raise FormatError(f"{file}: expected kind {kind!r}, got {found_kind!r}", path=file)
    if found_number != number:
        raise FormatError(
            f"{file}: expected format {number}, got {found_number!r}",
            hint="a newer matryo wrote this folder: pip install -U matryo",
            path=file,
        )
    if digest != _digest(manifest):
        raise FormatError(
            f"{file}: the manifest was changed after it was written (its digest does not match)",
            hint=f"restore the folder, or {again}",
            path=file,
        )
    return dict(manifest)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
