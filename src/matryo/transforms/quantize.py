"""Number formats: vectors to codes, and codes back to what they stand for.

`int4`, `int2` and `binary` codes stand for odd integers (±1, ±3, … ±15; ±1, ±3; ±1), scaled to
length 1: they keep the direction of a row and need nothing learned. The steps of `int4` and `int2`
are those that suit numbers spread like a normal distribution around 0 (Max 1960, "Quantizing for
minimum distortion", IEEE Transactions on Information Theory 6, table II: 0.335 standard deviations
for 16 levels, 0.996 for 4), with the root mean square of a row as its standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    DimError,
    Estimator,
    InputError,
    NotFittedError,
    Precision,
    TooFewError,
    VectorError,
    check_vectors,
    shorten,
)
from matryo.transforms._rows import slices

_LARGEST_CODE = 127
# of int4 and int2, as a share of a row's root mean square
PACKED_STEPS = {Precision.INT4: 0.335, Precision.INT2: 0.9957}


def fit_scales(vectors: NDArray[np.floating], *, min_rows: int = 32) -> NDArray[np.float32]:
    """Learn the int8 step of every dimension: its largest absolute value divided by 127.

    The steps are symmetric, so that 0 stays 0 and inner products need no offsets. Fit them on
    vectors prepared exactly as those that will be encoded: cut to the same dim, scaled the same.

    Args:
        vectors: `(n, dim)` floating point numbers.
        min_rows: Fewest rows to learn from; the largest of a handful says little about the rest.

    Returns:
        `(dim,)` float32 steps. A dimension that is always 0, or below 1e-36, has step 1: its codes
        are 0.

    Raises:
        TooFewError: fewer rows than `min_rows`.
        VectorError: not floating point, NaN, infinity, or beyond float32.
    """
    check_vectors(vectors, allow_zero=True)
    if len(vectors) < max(min_rows, 1):
        raise TooFewError(
            f"int8 steps need at least {min_rows} samples, got {len(vectors)} "
            f"{'sample' if len(vectors) == 1 else 'samples'}",
            hint="give more vectors of the same kind, or lower min_rows",
            needed=min_rows,
        )
    largest = np.maximum(vectors.max(axis=0), -vectors.min(axis=0)).astype(np.float64)
    if largest.max() > np.finfo(np.float32).max:
        raise VectorError(f"vectors: expected numbers within float32, got {largest.max():g}")
    steps = (largest / _LARGEST_CODE).astype(np.float32)
    # a subnormal step has too few digits to keep its promise of half a step
    return np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1))


def encode(
    vectors: NDArray[np.floating],
    precision: Precision | str,
    *,
    scales: NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """Turn vectors into the codes that are stored.

    Args:
        vectors: `(n, dim)` prefixes, already cut and scaled.
        precision: Number format, or its name.
        scales: `(dim,)` steps from `fit_scales`; read for `int8` only, and needed there.

    Returns:
        `(n, dim)` float32 (`vectors` itself where it is float32 already), float16, or int8 rounded
        half to even, where values beyond 127 steps saturate; for the packed formats
        `(n, ceil(dim * bits / 8))` uint8, the first dimension in the highest bits: for `binary` a 1
        for every number above 0, for `int4` and `int2` the number of its level from below.

    Raises:
        VectorError: not floating point, NaN, infinity, a row of zeros for a packed format, or
            numbers too large for the format.
        InputError: int8 without scales, or scales that are not finite and above 0.
        DimError: scales of another width.
    """
    precision = Precision.parse(precision)
    check_vectors(vectors, allow_zero=not precision.is_packed)
    if precision is Precision.BINARY:
        return np.packbits(vectors > 0, axis=1)
    if precision.is_packed:
        return _packed(vectors, precision)
    if precision is not Precision.INT8:
        return _cast(vectors, precision)
    steps = _check_scales(scales, vectors.shape[1])
    codes = np.empty(vectors.shape, np.int8)
    for rows in slices(len(vectors)):
        with np.errstate(over="ignore"):  # infinitely many steps saturate like 128 of them
            part = vectors[rows] / steps
        codes[rows] = np.clip(np.rint(part, out=part), -_LARGEST_CODE, _LARGEST_CODE, out=part)
    return codes


def decode(
    codes: NDArray[Any],
    precision: Precision | str,
    *,
    dim: int,
    scales: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Turn codes back into the vectors they stand for, which are what is scored.

    Args:
        codes: As returned by `encode`.
        precision: Number format of the codes, or its name.
        dim: Numbers per vector.
        scales: `(dim,)` steps the codes were made with; read for `int8` only, and needed there.

    Returns:
        `(n, dim)` float32: int8 codes times their step; packed codes as their `odd_integers`,
        scaled to length 1.

    Raises:
        InputError: codes of another dtype, or scales missing or not finite and above 0.
        DimError: codes or scales do not have the width of `dim`.
    """
    precision = Precision.parse(precision)
    _check_codes(codes, precision, dim)
    if precision.is_packed:
        numbers = odd_integers(codes, precision, dim=dim)
        return numbers * inverse_lengths(numbers)[:, None]
    if precision is Precision.INT8:
        return codes * _check_scales(scales, dim)
    return codes.astype(np.float32, copy=False)


def odd_integers(codes: NDArray[np.uint8], precision: Precision, *, dim: int) -> NDArray[np.int8]:
    """What packed codes stand for, up to the length of each row.

    Args:
        codes: As returned by `encode`.
        precision: Their number format, a packed one.
        dim: Numbers per vector.

    Returns:
        `(n, dim)` odd integers: for `int4` from -15 to 15, for `int2` from -3 to 3, for `binary` -1
        and 1.
    """
    bits = precision.bits
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    levels = (codes[:, :, None] >> shifts) & np.uint8(2**bits - 1)
    numbers = levels.reshape(len(codes), -1)[:, :dim].astype(np.int8)
    numbers *= 2
    numbers -= np.int8(2**bits - 1)
    return numbers


def inverse_lengths(numbers: NDArray[np.int8]) -> NDArray[np.float32]:
    """One over the length of each row of odd integers, by a float32 root and a float32 division."""
    squares = np.einsum("ij,ij->i", numbers, numbers, dtype=np.int64)
    lengths: NDArray[np.float32] = np.float32(1) / np.sqrt(squares.astype(np.float32))
    return lengths


def _packed(vectors: NDArray[np.floating], precision: Precision) -> NDArray[np.uint8]:
    """Codes of rows that are not zeros, several to a byte."""
    n, dim = vectors.shape
    columns, bits = precision.columns(dim), precision.bits
    codes = np.empty((n, columns), np.uint8)
    for rows in slices(n):
        part = vectors[rows].astype(np.float64)
        part /= np.abs(part).max(axis=1, keepdims=True)  # squares of 1e-200 would vanish
        part /= PACKED_STEPS[precision] * np.sqrt(np.square(part).mean(axis=1, keepdims=True))
        levels = np.zeros((len(part), columns * 8 // bits), np.uint8)
        levels[:, :dim] = np.clip(np.floor(part) + 2 ** (bits - 1), 0, 2**bits - 1)
        packed = levels[:, :: 8 // bits] << np.uint8(8 - bits)
        for place in range(1, 8 // bits):
            packed |= levels[:, place :: 8 // bits] << np.uint8(8 - bits * (place + 1))
        codes[rows] = packed
    return codes


def _check_codes(codes: NDArray[Any], precision: Precision, dim: int) -> None:
    expected = precision.dtype
    if codes.dtype != expected:
        raise InputError(f"expected {precision} codes as {expected} numbers, got {codes.dtype}")
    columns = precision.columns(dim)
    if codes.ndim != 2 or codes.shape[1] != columns:
        raise DimError(
            f"expected {precision} codes of {dim} numbers in shape (rows, {columns}), "
            f"got {codes.shape}",
            dim=dim,
        )


def _check_scales(scales: NDArray[np.float32] | None, dim: int) -> NDArray[np.float32]:
    if scales is None:
        raise InputError(
            "int8 codes need the step of every dimension, got no scales",
            hint="learn them with fit_scales, and keep them beside the codes",
        )
    if scales.shape != (dim,):
        raise DimError(f"expected scales of shape ({dim},), got {scales.shape}", dim=dim)
    bad = np.flatnonzero(~(np.isfinite(scales) & (scales > 0)))
    if bad.size:
        raise InputError(
            f"scales must be finite and above 0, got {scales[bad[0]]} for dimension {bad[0]}"
            + (f" and {bad.size - 1} more" if bad.size > 1 else "")
        )
    return scales.astype(np.float32, copy=False)


def _cast(vectors: NDArray[np.floating], precision: Precision) -> NDArray[np.floating]:
    dtype = precision.dtype
    with np.errstate(over="ignore"):
        codes = vectors.astype(dtype, copy=False)
    beyond = np.flatnonzero(~np.isfinite(codes).all(axis=1))
    if beyond.size:
        raise VectorError(
            f"vectors: {precision} holds numbers up to {np.finfo(codes.dtype).max:g}, "
            f"got larger ones in {beyond.size} {'row' if beyond.size == 1 else 'rows'}: "
            f"{shorten(beyond.tolist())}",
            hint="normalise the vectors first, or store them as float32",
            ids=beyond.tolist(),
        )
    return codes


class Quantize(Estimator):
    """`encode` as a transform; `fit` learns the scales of int8.

    Args:
        precision: A number format by name, such as `"int8"`.
        min_rows: Fewest rows that `fit` learns int8 scales from.

    Attributes:
        scales_: `(dim,)` int8 steps; there for `int8` only.
        n_features_in_: Width seen by `fit`.
    """

    def __init__(self, precision: str = "int8", *, min_rows: int = 32) -> None:
        self.precision = precision
        self.min_rows = min_rows

    @property
    def requires_fit(self) -> bool:
        """Whether there is anything to learn."""
        return self.precision == Precision.INT8

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Learn from `(n, dim)` prefixes prepared as those to be encoded; see `fit_scales`."""
        rows = self._rows_to_fit(vectors)
        if Precision.parse(self.precision) is Precision.INT8:
            self.scales_ = fit_scales(rows, min_rows=self.min_rows)
        else:
            check_vectors(rows, allow_zero=True)
            self.__dict__.pop("scales_", None)  # of an earlier fit, when precision was int8
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[Any]:
        """Codes of `(n, dim)` prefixes; see `encode`."""
        rows = self._rows(vectors)
        return encode(rows, self.precision, scales=getattr(self, "scales_", None))

    def inverse_transform(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The `(n, dim)` float32 vectors that codes stand for; see `decode`.

        Raises:
            NotFittedError: before `fit`; the number of dims cannot be told from packed bits.
        """
        if not self.is_fitted:
            raise NotFittedError("inverse_transform needs the width seen by fit: call fit first")
        return decode(
            codes,
            self.precision,
            dim=self.n_features_in_,
            scales=getattr(self, "scales_", None),
        )

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The scales of int8, or nothing."""
        return {"scales": self.scales_} if hasattr(self, "scales_") else {}

    def set_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `to_tensors` gave."""
        if tensors:
            self.scales_ = tensors["scales"]
            self.n_features_in_ = len(self.scales_)
