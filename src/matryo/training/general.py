"""Any loss at every size: always right, and as slow as calling it for each.

Examples:
    >>> import torch
    >>> rows = torch.eye(3, 4)
    >>> labels = torch.ones(3)
    >>> made = nested(torch.nn.functional.cosine_embedding_loss, rows, rows.roll(1, 0),
    ...               dims="3,4", target=labels)
    >>> made.by_dim()
    {3: 1.0, 4: 1.0}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from matryo.core import InputError
from matryo.training.checks import check_finite, inverse_lengths, vectors_of
from matryo.training.opaque import opaque
from matryo.training.result import NestedLoss, weigh
from matryo.training.sizes import Dims, sizes_of


@opaque
def nested(
    loss: Callable[..., Tensor],
    *vectors: Tensor,
    dims: Dims,
    weights: Sequence[float] | None = None,
    normalize: bool = True,
    **arguments: Any,
) -> NestedLoss:
    """Call a loss once for every size, on prefixes of the vectors, and sum up.

    Args:
        loss: Called as `loss(*prefixes, **arguments)`; returns a scalar.
        vectors: `(rows, full_dim)` each, of one width.
        dims: Sizes in ascending order.
        weights: What each size weighs; 1 by default.
        normalize: Scale prefixes to length 1; False leaves them as they are, as losses of inner
            products and distances need it.
        arguments: Handed on as they are: labels, margins.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        VectorError: NaN, infinity, or, where they are scaled, a prefix of zeros.
        InputError: no vectors, widths that differ, or a loss that returns more than one number.

    Warns:
        UserWarning: the full width is not among the dims.
    """
    if not vectors:
        raise InputError("expected at least one tensor of vectors, got none")
    ready = vectors_of(**{f"tensor {i}": tensor for i, tensor in enumerate(vectors)})
    sizes = sizes_of(dims, weights, full_dim=ready[0].shape[1])
    named = {f"tensor {i}": tensor[:, : sizes.dims[-1]] for i, tensor in enumerate(ready)}
    if normalize:
        inverse_lengths(sizes.nesting, **named)  # for its checks
    else:
        check_finite(**named)
    each = []
    for dim in sizes.dims:
        prefixes = [tensor[:, :dim] for tensor in ready]
        if normalize:
            prefixes = [functional.normalize(prefix) for prefix in prefixes]
        each.append(loss(*prefixes, **arguments))
    return weigh(each, sizes)
