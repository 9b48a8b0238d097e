"""Losses of documents as they will be stored: as few levels or signs, with a gradient through them.

Documents are coded here and queries never: a search that meets packed codes rounds its query too,
but so finely that it hardly matters. Inner products of codes add up over blocks too, so every
number format takes one fused loss, whatever the sizes:

    made = nested_precisions(nested_info_nce, queries, documents, dims="64,128,256")

A code has no slope of its own. The gradient goes straight through it to the number that was coded
(Bengio and others 2013), except where the number is so large that it stands for a clipped one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from matryo.core import DimError, InputError, Nesting, Precision
from matryo.training.checks import inverse_lengths, vectors_of
from matryo.training.opaque import opaque
from matryo.training.result import NestedLoss
from matryo.training.sizes import Dims
from matryo.transforms import PACKED_STEPS

_LARGEST_CODE = 127

Scales = Tensor | NDArray[Any]


@dataclass(frozen=True, slots=True)
class PrecisionsLoss(NestedLoss):
    """A loss summed over precisions and sizes, and its parts.

    `per_size` is summed over the precisions by their weights.

    Attributes:
        by_precision: The loss of each precision before weighting, detached.
    """

    by_precision: dict[Precision, NestedLoss]


@opaque
def nested_precisions(
    loss: Callable[..., NestedLoss],
    *vectors: Tensor,
    dims: Dims,
    precisions: str | Iterable[str] = ("float32", "int8", "binary"),
    weights: Sequence[float] | None = None,
    n_queries: int = 1,
    scales: Scales | None = None,
    limit: float = 1.5,
) -> PrecisionsLoss:
    """Sum a nested loss over number formats, calling it once for each.

    The cosines of binary sizes are those that a search scores, up to how it rounds a query. Those
    of int8 and float16 sizes differ from them by no more than two roundings do: a search codes the
    prefix of a size once it has length 1, with steps of that size; here whole vectors are coded, so
    that sizes add up. For int4 and int2 this is closest at the full width: a prefix whose numbers
    are larger than those behind it is stored with wider steps than here.

    Args:
        loss: Called as `loss(*vectors, dims=dims)`: `nested_info_nce`, or another loss of cosines
            with its options bound by `functools.partial`.
        vectors: `(rows, full_dim)` tensors, those of queries first.
        dims: Sizes in ascending order.
        precisions: Number formats of the documents, as names or one text.
        weights: What each precision weighs, in the same order; 1 by default.
        n_queries: How many of the tensors are those of queries and stay as they are; 0 where
            both sides are stored.
        scales: `(full_dim,)` int8 steps, as for `straight_through`.
        limit: Where binary gradients end, as for `straight_through`.

    Raises:
        UnknownNameError: no such precision.
        InputError: no precisions, weights that do not fit, nothing to code, or what
            `straight_through` refuses.
        MatryoError: what the loss raises; for int8 also of a prefix so small beside its row
            that all its codes are 0.
    """
    formats = Precision.parse_list(precisions)
    shares = _shares(formats, weights)
    if not 0 <= n_queries < len(vectors):
        raise InputError(
            "n_queries must be at least 0 and leave at least one tensor of documents, got "
            f"{len(vectors)} tensors and n_queries={n_queries}",
            n_queries=n_queries,
        )
    queries, documents = vectors[:n_queries], vectors[n_queries:]
    made = {}
    for precision in formats:
        coded = [
            straight_through(part, precision, scales=scales, limit=limit) for part in documents
        ]
        made[precision] = loss(*queries, *coded, dims=dims)
    weighed = list(zip(made.values(), shares, strict=True))
    return PrecisionsLoss(
        torch.stack([part.loss * share for part, share in weighed]).sum(),
        torch.stack([part.per_size * share for part, share in weighed]).sum(0),
        weighed[0][0].dims,
        {
            precision: NestedLoss(part.loss.detach(), part.per_size, part.dims)
            for precision, part in made.items()
        },
    )


@opaque
def straight_through(
    vectors: Tensor,
    precision: Precision | str,
    *,
    scales: Scales | None = None,
    limit: float = 1.5,
) -> Tensor:
    """What codes of these vectors stand for, with a gradient as if they were the vectors.

    Rows are coded at length 1, as `matryo.transforms.encode` does it, decoded, and given their
    length back, so that slopes are those of the vectors at hand. The length itself is taken as
    given. For binary a number becomes plus or minus the root mean square of its row; for int4 and
    int2 an odd multiple of what gives the row its length.

    Args:
        vectors: `(rows, full_dim)`.
        precision: Number format, or its name.
        scales: `(full_dim,)` int8 steps for rows of length 1, as `matryo.transforms.fit_scales`
            learns them; by default the largest number of each dimension in these rows, divided by
            127. Read for int8 only.
        limit: How many times the root mean square of its row a number may be before the gradient
            of its sign ends, as that of a clipped line does; infinity for never. Read for binary
            only.

    Returns:
        `(rows, full_dim)`, float32 or wider; for float32 the vectors as they are.

    Raises:
        UnknownNameError: no such precision.
        VectorError: not one vector per row, NaN, infinity, or a row of zeros; `ids` names the rows.
        DimError: scales of another width.
        InputError: scales that are not finite and above 0, or a limit that is not above 0.
    """
    precision = Precision.parse(precision)
    (vectors,) = vectors_of(vectors=vectors)
    if precision is Precision.FLOAT32:
        return vectors
    width = vectors.shape[1]
    inverse = inverse_lengths(Nesting((width,)), vectors=vectors)[0, :, None]
    rows = vectors.detach() * inverse
    passing: Tensor | None = None
    if precision is Precision.FLOAT16:
        coded = rows.half().to(rows.dtype)
    elif precision is Precision.INT8:
        steps = _steps(scales, rows)
        codes = rows / steps
        passing = codes.abs() <= _LARGEST_CODE + 0.5  # up to there rounding alone reaches the last
        coded = codes.round().clamp(-_LARGEST_CODE, _LARGEST_CODE) * steps
    elif precision in PACKED_STEPS:
        most = 2 ** (precision.bits - 1)  # levels on either side
        levels = rows * (math.sqrt(width) / PACKED_STEPS[precision])
        passing = levels.abs() <= most
        numbers = levels.floor().clamp(-most, most - 1) * 2 + 1
        coded = numbers / numbers.norm(dim=1, keepdim=True)
    else:
        if not limit > 0:
            raise InputError(f"limit must be above 0, got {limit}")
        size = 1 / math.sqrt(width)
        passing = rows.abs() <= limit * size
        coded = torch.full_like(rows, -size).masked_fill_(rows > 0, size)
    made: Tensor = _Through.apply(vectors, coded / inverse, passing)  # type: ignore[no-untyped-call]
    return made


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _vectors: Tensor, coded: Tensor, passing: Tensor | None) -> Tensor:
        ctx.save_for_backward(passing)
        return coded

    @staticmethod
    def backward(ctx: Any, *flows: Tensor) -> tuple[Tensor | None, ...]:
        (passing,) = ctx.saved_tensors
        return flows[0] if passing is None else flows[0] * passing, None, None


def _steps(scales: Scales | None, rows: Tensor) -> Tensor:
    """`(full_dim,)` int8 steps: those given, or those of these rows."""
    if scales is None:
        steps = rows.abs().amax(0) / _LARGEST_CODE
        # as fit_scales: the codes of a dimension that is always 0 are 0
        return torch.where(steps >= torch.finfo(torch.float32).tiny, steps, 1)
    steps = torch.as_tensor(scales, device=rows.device).to(rows.dtype)
    if steps.shape != rows.shape[1:]:
        raise DimError(
            f"expected scales of shape ({rows.shape[1]},), got {tuple(steps.shape)}",
            dim=rows.shape[1],
        )
    bad = (~(steps.isfinite() & (steps > 0))).nonzero()[:, 0].tolist()
    if bad:
        raise InputError(
            f"scales must be finite and above 0, got {float(steps[bad[0]]):g} for dimension "
            f"{bad[0]}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
        )
    return steps


def _shares(formats: list[Precision], weights: Sequence[float] | None) -> tuple[float, ...]:
    """What each precision weighs."""
    shares = (1.0,) * len(formats) if weights is None else tuple(map(float, weights))
    if not formats or len(shares) != len(formats):
        raise InputError(
            "expected at least one precision, and one weight for each, got "
            f"{', '.join(formats) or 'none'} and {len(shares)} weights",
            weights=shares,
        )
    if not all(math.isfinite(w) and w >= 0 for w in shares) or not any(shares):
        raise InputError(
            "weights must be finite numbers of at least 0, not all of them 0, "
            f"got {', '.join(f'{w:g}' for w in shares)}",
            weights=shares,
        )
    return shares
