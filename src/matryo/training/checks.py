"""Checks of batches before any gradient is made, and the lengths that fall out of them."""

from __future__ import annotations

import torch
from torch import Tensor

from matryo.core import InputError, Nesting, VectorError, shorten

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_LOOK = "nothing was learned from this batch; look at what made these rows"


def vectors_of(**batch: Tensor) -> list[Tensor]:
    """Vectors of one width and one type, float32 or wider; half precision is widened.

    Args:
        batch: `(rows, numbers)` tensors by what they are called in errors.

    Raises:
        VectorError: not one vector per row, or not floating point.
        InputError: widths differ.
    """
    first = next(iter(batch))
    widest = torch.float32
    for what, vectors in batch.items():
        if vectors.ndim != 2 or not vectors.numel():
            raise VectorError(
                f"{what}: expected one vector per row, (rows, numbers), "
                f"got shape {tuple(vectors.shape)}"
            )
        if not vectors.is_floating_point():
            raise VectorError(f"{what}: expected floating point numbers, got {vectors.dtype}")
        if vectors.shape[1] != batch[first].shape[1]:
            raise InputError(
                f"{first} and {what} must be of one width, got {batch[first].shape[1]} and "
                f"{vectors.shape[1]} numbers"
            )
        widest = torch.promote_types(widest, vectors.dtype)
    return [vectors.to(widest) for vectors in batch.values()]


def prefixes(dim: int, *vectors: Tensor) -> list[Tensor]:
    """The first `dim` numbers of each; whole vectors as they are, without a step in the graph."""
    return [part if part.shape[1] == dim else part[:, :dim] for part in vectors]


def block_sums(products: Tensor, nesting: Nesting) -> Tensor:
    """`(sizes, rows)` sums of the first `dim` of `(rows, numbers)` products, for every dim."""
    sums = [products[:, start:stop].sum(1) for start, stop in nesting.blocks]
    return torch.stack(sums).cumsum(0)


def check_finite(**batch: Tensor) -> None:
    """Refuse NaN and infinity.

    Args:
        batch: `(rows, numbers)` tensors by what they are called in errors.

    Raises:
        VectorError: `ids` names the rows.
    """
    for what, vectors in batch.items():
        # a sum that is finite has finite parts; one that is not may just be large
        if not vectors.detach().sum().isfinite():
            _refuse(~vectors.isfinite().all(1), f"{what}: {{}} NaN or infinity", _LOOK)


def inverse_lengths(nesting: Nesting, **batch: Tensor) -> Tensor:
    """One over the length of every prefix of every vector, without a gradient.

    Args:
        nesting: Prefixes to measure.
        batch: `(rows, numbers)` tensors of one type, by what they are called in errors.

    Returns:
        `(sizes, rows)`, the rows of all tensors in their order.

    Raises:
        VectorError: NaN, infinity, a prefix of zeros, or numbers whose squares cannot be summed in
            this type; `ids` names the rows.
    """
    parts = [vectors.detach()[:, : nesting.dims[-1]] for vectors in batch.values()]
    lengths = [len(part) for part in parts]
    squares = parts[0].new_empty(sum(lengths), nesting.dims[-1])
    for part, square in zip(parts, squares.split(lengths), strict=True):
        torch.mul(part, part, out=square)
    sums = block_sums(squares, nesting)
    # NaN is not below infinity
    if not (sums[-1].max() < torch.inf and sums[0].min() > 0):
        for what, part in zip(batch, parts, strict=True):
            _refuse_unmeasurable(what, part, nesting.dims[0])
    return sums.rsqrt()


def _refuse_unmeasurable(what: str, vectors: Tensor, smallest: int) -> None:
    """Say which rows have no length, or none that this type can hold, and why."""
    _refuse(~vectors.isfinite().all(1), f"{what}: {{}} NaN or infinity", _LOOK)
    _refuse(
        ~vectors[:, :smallest].any(1),
        f"{what}: {{}} only zeros in the first {smallest} numbers",
        "a prefix without a direction has no cosine: leave these rows out, or start with a "
        "larger dim",
    )
    squares = vectors.square()
    dtype = str(vectors.dtype).removeprefix("torch.")
    _refuse(
        ~squares.sum(1).isfinite() | (squares[:, :smallest].sum(1) == 0),
        f"{what}: {{}} numbers whose squares are beyond {dtype}",
        "scale the vectors, or give float64",
    )


def _refuse(bad: Tensor, message: str, hint: str) -> None:
    rows = bad.nonzero()[:, 0].tolist()
    if rows:
        which = f"{len(rows)} {'row has' if len(rows) == 1 else 'rows have'}"
        raise VectorError(f"{message.format(which)}: {shorten(rows)}", hint=hint, ids=rows)


def labels_of(labels: Tensor, n_rows: int, n_classes: int, *, what: str = "labels") -> Tensor:
    """Class numbers as int64, if they are some.

    Args:
        labels: `(rows,)` whole numbers.
        n_rows: How many there must be.
        n_classes: They must be below this.
        what: What they are, for the message.

    Raises:
        InputError: another shape, not whole numbers, or out of range; `rows` names the rows.
    """
    if labels.shape != (n_rows,) or labels.dtype not in _WHOLE:
        raise InputError(
            f"{what}: expected {n_rows} whole numbers, one for each row, got {labels.dtype} of "
            f"shape {tuple(labels.shape)}"
        )
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        rows = outside.nonzero()[:, 0].tolist()
        raise InputError(
            f"{what}: expected whole numbers from 0 to {n_classes - 1}, got {int(labels[rows[0]])} "
            f"in row {rows[0]} ({len(rows)} of {n_rows} rows are out of range)",
            rows=rows,
        )
    return labels.long()


def scale_of(scale: float | Tensor, like: Tensor) -> Tensor:
    """What cosines are multiplied by, as a 0-dimensional tensor of the type of `like`.

    Raises:
        InputError: not one finite number above 0.
    """
    made = torch.as_tensor(scale, dtype=like.dtype, device=like.device)
    if made.numel() != 1 or not 0 < float(made.detach()) < torch.inf:
        raise InputError(f"scale must be one finite number above 0, got {scale}")
    return made.reshape(())
