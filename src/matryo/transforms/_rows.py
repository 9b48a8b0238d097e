"""Walking over many rows in parts, so that float64 work never copies everything at once."""

from __future__ import annotations

from collections.abc import Iterator

_CHUNK = 1024  # about 6 MB of float64 at 768 dims


def slices(n_rows: int) -> Iterator[slice]:
    """Slices that cover `n_rows` rows in order."""
    for start in range(0, n_rows, _CHUNK):
        yield slice(start, min(start + _CHUNK, n_rows))
