"""What a nested loss returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matryo.core import InputError
from matryo.training.sizes import Sizes


@dataclass(frozen=True, slots=True)
class NestedLoss:
    """A loss summed over sizes, and its parts.

    Attributes:
        loss: Scalar, the weighted sum; call `backward` on it.
        per_size: `(sizes,)` loss of each size before weighting, detached from the graph.
        dims: The sizes.
    """

    loss: Tensor
    per_size: Tensor
    dims: tuple[int, ...]

    def by_dim(self) -> dict[int, float]:
        """Loss of each size before weighting, as numbers for a log."""
        return dict(zip(self.dims, self.per_size.tolist(), strict=True))


def weigh(each: Sequence[Tensor], sizes: Sizes) -> NestedLoss:
    """Sum scalar losses of the sizes by their weights."""
    per_size = torch.stack(list(each))
    if per_size.ndim != 1:
        raise InputError(
            f"the loss must return one number, got a tensor of shape {tuple(per_size.shape[1:])}"
        )
    loss = (per_size * per_size.new_tensor(sizes.weights)).sum()
    return NestedLoss(loss, per_size.detach(), sizes.dims)
