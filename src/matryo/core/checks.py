"""Checks of vectors at the public border."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matryo.core.errors import VectorError

Ids = Sequence[str] | Sequence[int]
_SHOWN = 5


def check_vectors(
    vectors: NDArray[np.floating],
    *,
    what: str = "vectors",
    ids: Sequence[str | int] | None = None,
    first_row: int = 0,
    allow_zero: bool = False,
) -> None:
    """Refuse vectors that cannot be scored.

    Args:
        vectors: `(n, dim)` numbers.
        what: What they are, for the message.
        ids: Id of each row; without them rows are named by number.
        first_row: Number of the first row, where `vectors` is a part of more.
        allow_zero: Let rows of zeros pass; a cosine needs them refused.

    Raises:
        VectorError: wrong shape or type, NaN, infinity, or a row of zeros; `ids` names the rows.
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise VectorError(
            f"{what}: expected one vector per row, (rows, numbers), got shape {vectors.shape}"
        )
    if not np.issubdtype(vectors.dtype, np.floating):
        raise VectorError(f"{what}: expected floating point numbers, got {vectors.dtype}")
    # The sum of squares of a row is finite and above zero for nearly all rows: only where it is
    # not are the numbers looked at one by one.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    doubtful = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
    if not doubtful.size:
        return
    rows = vectors[doubtful]
    finite = np.isfinite(rows).all(axis=1)
    zero = ~rows.any(axis=1)
    for bad, fault in ((~finite, "NaN or infinity"), (zero, "only zeros")):
        if bad.any() and not (fault == "only zeros" and allow_zero):
            names = name_rows(doubtful[bad] + first_row, ids, first_row)
            raise VectorError(
                f"{what}: {int(bad.sum())} {'row has' if bad.sum() == 1 else 'rows have'} {fault}: "
                f"{shorten(names)}",
                hint="leave these rows out or encode them again; they have no direction to compare",
                ids=names,
            )


def name_rows(
    rows: NDArray[np.integer], ids: Sequence[str | int] | None, first_row: int = 0
) -> list[str | int]:
    """The ids of `rows`, or the row numbers themselves where there are no ids."""
    if ids is None:
        return [int(row) for row in rows]
    return [ids[int(row) - first_row] for row in rows]


def shorten(names: Sequence[object], shown: int = _SHOWN) -> str:
    """The first few names, and how many more there are."""
    text = ", ".join(
        repr(name) if len(repr(name)) <= 60 else repr(name)[:57] + "…" for name in names[:shown]
    )
    return text if len(names) <= shown else f"{text} and {len(names) - shown} more"
