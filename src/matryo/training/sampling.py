"""A few sizes per step, drawn so that the expected loss is that of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from matryo.core import InputError, Nesting
from matryo.training.sizes import Dims, Sizes, sizes_of


class SizeSampler:
    """Draws some of the sizes, each weighted by one over its chance of being drawn.

    What is drawn goes where a loss takes `dims`. Over many draws its gradient is on average that
    of all sizes, at more noise; where losses are fused, all sizes cost little more.

    Args:
        dims: All sizes in ascending order.
        n: How many to draw, the full size included.
        weights: What each size weighs; 1 by default.
        keep_full: Draw the largest size every time, and the others besides.

    Raises:
        DimError: dims that do not ascend or that repeat.
        InputError: `n` is below 1 or beyond the number of sizes, or leaves only the full one.

    Examples:
        >>> sampler = SizeSampler("64,128,256", 2)
        >>> sampler.draw(torch.Generator().manual_seed(0))
        Sizes(nesting=Nesting(dims=(64, 256)), weights=(2.0, 1.0), drawn=True)
    """

    def __init__(
        self,
        dims: Dims,
        n: int,
        *,
        weights: Sequence[float] | None = None,
        keep_full: bool = True,
    ) -> None:
        self.sizes, self.n, self.keep_full = sizes_of(dims, weights), n, keep_full
        fewest = 2 if keep_full and len(self.sizes) > 1 else 1
        if not fewest <= n <= len(self.sizes):
            raise InputError(
                f"expected to draw from {fewest} to {len(self.sizes)} of the dims "
                f"{self.sizes.nesting}, got {n}",
                hint="with keep_full the largest is always one of them, so draw at least 2"
                if fewest == 2
                else None,
            )

    def draw(self, generator: torch.Generator) -> Sizes:
        """Draw sizes; ranks whose generators have one seed and one history draw alike.

        Args:
            generator: On the CPU; nothing else is drawn from.
        """
        n_sizes = len(self.sizes)
        n_drawn, among = self.n, n_sizes
        if self.keep_full:
            n_drawn, among = self.n - 1, n_sizes - 1
        chosen = torch.randperm(among, generator=generator)[:n_drawn].sort().values.tolist()
        shares = [self.sizes.weights[size] * among / n_drawn for size in chosen]
        if self.keep_full:
            chosen, shares = [*chosen, n_sizes - 1], [*shares, self.sizes.weights[-1]]
        dims = tuple(self.sizes.dims[size] for size in chosen)
        return Sizes(Nesting(dims), tuple(shares), drawn=True)
