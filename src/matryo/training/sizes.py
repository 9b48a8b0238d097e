"""The sizes a loss is summed over, and what each weighs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matryo.core import InputError, Nesting, check_dim


@dataclass(frozen=True, slots=True)
class Sizes:
    """Dims in ascending order and the weight of each in the summed loss.

    Attributes:
        nesting: The dims.
        weights: One number of at least 0 for each.
        drawn: The dims are a random draw, so that the full width may be missing from them.
    """

    nesting: Nesting
    weights: tuple[float, ...]
    drawn: bool = False

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.nesting):
            raise InputError(
                f"expected one weight for each of the {len(self.nesting)} dims {self.nesting}, "
                f"got {len(self.weights)}",
                weights=self.weights,
            )
        # a draw may hit only sizes that weigh nothing
        idle = not any(self.weights) and not self.drawn
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or idle:
            raise InputError(
                "weights must be finite numbers of at least 0, not all of them 0, "
                f"got {', '.join(f'{w:g}' for w in self.weights)}",
                weights=self.weights,
            )

    @property
    def dims(self) -> tuple[int, ...]:
        """The prefix lengths."""
        return self.nesting.dims

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(zip(self.dims, self.weights, strict=True))

    def __len__(self) -> int:
        return len(self.nesting)


Dims = str | Iterable[int] | Nesting | Sizes


def dense_dims(full_dim: int) -> Nesting:
    """16, 32, every 64th size, and the full width: no list of sizes has to be chosen.

    Examples:
        >>> dense_dims(256).dims
        (16, 32, 64, 128, 192, 256)
    """
    below = (16, 32, *range(64, full_dim, 64))
    return Nesting((*(dim for dim in below if dim < full_dim), full_dim))


def sizes_of(
    dims: Dims, weights: Sequence[float] | None = None, *, full_dim: int | None = None
) -> Sizes:
    """Read the sizes of a loss; without `weights` every size weighs 1.

    Args:
        dims: Prefix lengths as numbers or text, a nesting, or what a `SizeSampler` drew.
        weights: One for each dim, in the same order.
        full_dim: Width of the vectors at hand.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        InputError: weights that do not fit.

    Warns:
        UserWarning: the full width is not among the dims.
    """
    if isinstance(dims, Sizes):
        if weights is not None:
            raise InputError(
                "these dims have weights already, got weights beside them",
                hint="give the weights to the SizeSampler that draws",
            )
        sizes = dims
    else:
        nesting = dims if isinstance(dims, Nesting) else Nesting.parse(dims)
        chosen = (1.0,) * len(nesting) if weights is None else tuple(map(float, weights))
        sizes = Sizes(nesting, chosen)
    if full_dim is None:
        return sizes
    largest = check_dim(sizes.dims[-1], full_dim)
    if largest < full_dim and not sizes.drawn:
        warnings.warn(
            f"the full width, {full_dim}, is not among the dims {sizes.nesting}: this loss does "
            f"not train the numbers after the first {largest}, and the whole vector may get worse",
            stacklevel=4,
        )
    return sizes
