"""Vectors of one side of one space, stored block by block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core.checks import check_vectors
from matryo.core.errors import DimError, InputError
from matryo.core.nesting import Nesting, check_dim
from matryo.core.precision import Precision
from matryo.core.space import Side, Space

_CHUNK = 16_384


class NestedVectors:
    """Ids and vectors of one side of a space, held as one array per block of dimensions.

    A block is the dimensions between two successive dims of `nesting`, so that reading the first
    64 of 768 numbers touches a twelfth of the bytes. Codes (`int8`, `binary`) were made from
    re-normalised prefixes of one dim and cannot be joined: they have exactly one block.

    Attributes:
        ids: One string or integer per row, unchanged and without repeats.
        blocks: One `(n, width)` array per block; binary ones are `(n, ceil(width / 8))` of uint8.
        nesting: Dims at the block borders; its last is the width stored here.
        space: Where the vectors come from.
        side: `query` or `document`.
        precision: Number format of the blocks.
        scales: `(dim,)` float32 step of each dimension for `int8`, else None.
        norms: `(n, len(nesting))` float32 length of each prefix; None for codes.
    """

    def __init__(
        self,
        ids: Sequence[str] | Sequence[int],
        blocks: Sequence[NDArray[Any]],
        *,
        nesting: Nesting,
        space: Space,
        side: Side,
        precision: Precision = Precision.FLOAT32,
        scales: NDArray[np.float32] | None = None,
        norms: NDArray[np.float32] | None = None,
    ) -> None:
        self.ids = check_ids(ids)
        self.blocks = list(blocks)
        self.nesting = nesting
        self.space = space
        self.side = side
        self.precision = precision
        self.scales = scales
        self.norms = norms
        if nesting.full_dim > space.full_dim:
            raise DimError(
                f"these vectors have {nesting.full_dim} numbers, their space {space.full_dim}"
            )
        if self.is_codes and len(nesting) != 1:
            raise InputError(
                f"{precision} codes belong to one dim, got dims {nesting}",
                hint="store each dim's codes on their own, or store float32 and quantize later",
            )
        if (precision is Precision.INT8) != (scales is not None):
            raise InputError(f"int8 codes, and no others, have scales; got {precision}")
        shapes = [block.shape for block in self.blocks]
        expected = [(len(self.ids), precision.columns(b - a)) for a, b in nesting.blocks]
        if shapes != expected:
            raise InputError(f"expected blocks of shapes {expected}, got {shapes}")
        for block in self.blocks:
            if block.dtype != precision.dtype:
                raise InputError(f"expected blocks of {precision.dtype} numbers, got {block.dtype}")

    @classmethod
    def from_array(
        cls,
        vectors: NDArray[np.floating],
        ids: Sequence[str] | Sequence[int],
        *,
        space: Space,
        side: Side,
        nesting: Nesting | None = None,
        precision: Precision = Precision.FLOAT32,
    ) -> NestedVectors:
        """Split `(n, dim)` float vectors into blocks, and measure the length of every prefix.

        Args:
            vectors: Finite, non-zero rows; they are stored as given, not normalised.
            ids: One per row.
            space: Where the vectors come from; it may be wider than they are.
            side: Which side of the space.
            nesting: Block borders, the last being `dim`; by default one block.
            precision: `float32` or `float16`.

        Raises:
            VectorError: rows with NaN, infinity, or only zeros.
            DimError: `nesting` does not end at `dim`.
            InputError: ids repeat, or their number is not `n`.
        """
        check_vectors(vectors, what=f"{side} vectors", ids=ids)
        dim = vectors.shape[1]
        nesting = nesting or Nesting((dim,))
        if nesting.full_dim != dim:
            raise DimError(f"dims must end at the width of these vectors, {dim}, got {nesting}")
        if precision not in (Precision.FLOAT32, Precision.FLOAT16):
            raise InputError(f"expected float32 or float16 here, got {precision}")
        with np.errstate(over="ignore"):  # what overflows, or vanishes, is refused below
            stored = vectors.astype(precision.dtype, copy=False)
        check_vectors(stored, what=f"{side} vectors as {precision}", ids=ids)
        blocks = [np.ascontiguousarray(stored[:, a:b]) for a, b in nesting.blocks]
        return cls(
            ids,
            blocks,
            nesting=nesting,
            space=space,
            side=side,
            precision=precision,
            norms=prefix_norms(stored, nesting),
        )

    @property
    def is_codes(self) -> bool:
        """Whether the blocks hold codes (`int8` and fewer bits) instead of floats."""
        return self.precision.bits <= 8

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and numbers per row."""
        return len(self.ids), self.nesting.full_dim

    def __len__(self) -> int:
        return len(self.ids)

    def prefix(self, dim: int) -> NDArray[Any]:
        """The first `dim` numbers of every row as `(n, dim)`, a view where one block has them all.

        Raises:
            DimError: `dim` is not between 1 and the stored width.
            InputError: the vectors are codes.
        """
        dim = check_dim(dim, self.nesting.full_dim)
        self._require_floats()
        parts = [
            block[:, : dim - start]
            for (start, _), block in zip(self.nesting.blocks, self.blocks, strict=True)
            if start < dim
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """Whole rows as float32 `(m, full_dim)`: what a pass over the vectors reads."""
        self._require_floats()
        parts = [np.asarray(block[rows], dtype=np.float32) for block in self.blocks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _require_floats(self) -> None:
        if self.is_codes:
            raise InputError(
                f"these vectors are {self.precision} codes of {self.nesting} numbers; they have no "
                "prefixes",
                hint="read the float vectors they were made from",
            )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the folder described in `matryo.core.fileformat`.

        Raises:
            InputError: `path` exists and `overwrite` is not set.
        """
        from matryo.core import fileformat

        fileformat.save(self, path, overwrite=overwrite)

    @classmethod
    def open(cls, path: str | Path) -> NestedVectors:
        """Open a folder written by `save`; blocks are memory-mapped, and checked when first read.

        Raises:
            FormatError: not such a folder, a newer format, or a damaged file.
        """
        from matryo.core import fileformat

        return fileformat.open_folder(path)


def check_ids(ids: Sequence[str] | Sequence[int]) -> list[str] | list[int]:
    """Return the ids as a list; they are opaque and stay as they are.

    Raises:
        InputError: one is neither a string nor an integer, or some repeat.
    """
    if isinstance(ids, str):
        raise InputError(f"expected one id per row, got one text, {ids[:60]!r}")
    # numpy's integers and texts, as a list made of an array holds them, become plain ones
    values: list[Any] = [v.item() if isinstance(v, np.generic) else v for v in ids]
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise InputError(f"ids must be strings or integers, got {value!r} in row {row}")
    if len(set(values)) != len(values):
        seen: set[str | int] = set()
        twice = [v for v in values if v in seen or seen.add(v)]  # type: ignore[func-returns-value]
        from matryo.core.checks import shorten

        raise InputError(
            f"ids must not repeat, got {len(twice)} a second time: {shorten(twice)}", ids=twice
        )
    return values


def prefix_norms(vectors: NDArray[np.floating], nesting: Nesting) -> NDArray[np.float32]:
    """Length of every prefix of every row, `(n, len(nesting))`, summed in float64.

    Float64 keeps rows with numbers near 1e-30 or 1e30 from vanishing or overflowing.
    """
    norms = np.empty((len(vectors), len(nesting)), dtype=np.float32)
    for start in range(0, len(vectors), _CHUNK):
        rows = vectors[start : start + _CHUNK].astype(np.float64)
        squares = [np.einsum("ij,ij->i", rows[:, a:b], rows[:, a:b]) for a, b in nesting.blocks]
        norms[start : start + _CHUNK] = np.sqrt(np.cumsum(squares, axis=0)).T
    return norms
