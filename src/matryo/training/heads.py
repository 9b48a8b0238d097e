"""Classification at every size: one matrix for all of them (MRL-E), or a head for each (MRL).

The tied head of a size is the first `dim` columns of one matrix, and the loss of all sizes takes
the three matrix products of the full width. Separate heads are separate matrices, and take the sum
of the sizes. Both are from Kusupati and others 2022, "Matryoshka representation learning", section
3. A bias of its own for every size, and a scale, cost next to nothing, and let each size of a tied
head set its own confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from matryo.core import InputError, Nesting, UnsupportedError, shorten
from matryo.training.checks import (
    check_finite,
    inverse_lengths,
    labels_of,
    prefixes,
    scale_of,
    vectors_of,
)
from matryo.training.criteria import Binary, Criterion, Margin, Softmax
from matryo.training.fused import fused_loss
from matryo.training.opaque import opaque
from matryo.training.result import NestedLoss, weigh
from matryo.training.sizes import Dims, Sizes, sizes_of

Weight = Tensor | Sequence[Tensor]


@opaque
def nested_softmax(
    features: Tensor,
    weight: Weight,
    labels: Tensor,
    dims: Dims,
    *,
    weights: Sequence[float] | None = None,
    bias: Tensor | None = None,
    scales: Tensor | None = None,
    label_smoothing: float = 0.0,
    chunk_rows: int | None = None,
) -> NestedLoss:
    """Cross-entropy of a linear classifier, summed over sizes.

    Args:
        features: `(n, full_dim)`.
        weight: `(classes, full_dim)`, tied; or one `(classes, dim)` matrix for each size.
        labels: `(n,)` class numbers from 0 up.
        dims: Sizes in ascending order.
        weights: What each size weighs; 1 by default.
        bias: `(classes,)` shared, or `(sizes, classes)`.
        scales: `(sizes,)` what the products of each size are multiplied by.
        label_smoothing: Share of each target spread evenly over the classes, from 0 to 1.
        chunk_rows: Rows whose logits are held at the same time; by default as many as pay off.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        VectorError: NaN or infinity; `ids` names the rows.
        InputError: labels out of range, `rows` names them; or shapes that do not fit.
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing must be from 0 to below 1, got {label_smoothing}")
    sizes = sizes_of(dims, weights, full_dim=features.shape[-1])
    classes = _n_classes(features, weight, sizes, bias=bias, scales=scales)
    criterion = Softmax(labels_of(labels, len(features), classes), label_smoothing)
    return _head_loss(
        features, weight, sizes, criterion, bias=bias, scales=scales, chunk_rows=chunk_rows
    )


@opaque
def nested_multilabel(
    features: Tensor,
    weight: Weight,
    labels: Tensor,
    dims: Dims,
    *,
    weights: Sequence[float] | None = None,
    bias: Tensor | None = None,
    scales: Tensor | None = None,
    chunk_rows: int | None = None,
) -> NestedLoss:
    """Mean binary cross-entropy over rows and classes, summed over sizes.

    Args:
        features: `(n, full_dim)`.
        weight: `(classes, full_dim)`, tied; or one `(classes, dim)` matrix for each size.
        labels: `(n, classes)` of 0 and 1, or shares between them.
        dims: Sizes in ascending order.
        weights: What each size weighs; 1 by default.
        bias: `(classes,)` shared, or `(sizes, classes)`.
        scales: `(sizes,)` what the products of each size are multiplied by.
        chunk_rows: Rows whose logits are held at the same time; by default as many as pay off.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        VectorError: NaN or infinity; `ids` names the rows.
        InputError: labels outside 0 and 1, or shapes that do not fit.
    """
    sizes = sizes_of(dims, weights, full_dim=features.shape[-1])
    classes = _n_classes(features, weight, sizes, bias=bias, scales=scales)
    _check_shares(labels, (len(features), classes))
    return _head_loss(
        features, weight, sizes, Binary(labels), bias=bias, scales=scales, chunk_rows=chunk_rows
    )


@opaque
def nested_cosine_softmax(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    dims: Dims,
    *,
    scale: float | Tensor = 20.0,
    margin: float = 0.0,
    weights: Sequence[float] | None = None,
    chunk_rows: int | None = None,
) -> NestedLoss:
    """Cross-entropy over cosines with one vector per class, a proxy, summed over sizes.

    Without a margin it is the normalized softmax; with one, ArcFace (Deng and others 2019).

    Args:
        features: `(n, full_dim)`.
        weight: `(classes, full_dim)` proxies, tied: the prefix of each is its proxy at that size.
        labels: `(n,)` class numbers from 0 up.
        dims: Sizes in ascending order.
        scale: What cosines are multiplied by. A tensor can be learned where there is no margin.
        margin: Radians added to the angle with the own proxy, from 0 up and below pi / 2.
        weights: What each size weighs; 1 by default.
        chunk_rows: Rows whose cosines are held at the same time; by default as many as pay off.

    Raises:
        DimError: as for `nested_softmax`.
        VectorError: NaN, infinity or a prefix of zeros; `ids` names the rows.
        InputError: labels out of range, a margin that is none, or shapes that do not fit.
        UnsupportedError: a margin and a scale that is to be learned.
    """
    if not 0 <= margin < math.pi / 2:
        raise InputError(f"margin must be from 0 to below pi / 2 radians, got {margin:g}")
    features, proxies = vectors_of(features=features, weight=weight)
    sizes = sizes_of(dims, weights, full_dim=features.shape[1])
    labels = labels_of(labels, len(features), len(proxies))
    scale = scale_of(scale, features)
    if margin and scale.requires_grad:
        raise UnsupportedError("a margin needs a scale that is a fixed number, got one to learn")
    if margin:
        criterion: Criterion = Margin(labels, scale, margin)
    else:
        criterion = Softmax(labels, spread=2 * float(scale.detach()))
    rows, columns = prefixes(sizes.dims[-1], features, proxies)
    lengths = inverse_lengths(sizes.nesting, features=rows, weight=columns)
    return fused_loss(
        rows, columns, sizes, criterion, lengths=lengths, scale=scale, chunk_rows=chunk_rows
    )


class NestedLinear(nn.Module):
    """A linear classifier for every size.

    Its parameters are what `nested_softmax` and `nested_multilabel` take; `loss` is the former.

    Args:
        dims: Sizes in ascending order; the last one is the width of what comes in.
        classes: How many there are.
        tied: One matrix whose first columns serve the small sizes (MRL-E); False gives every size
            a matrix of its own (MRL).
        bias: `"per_size"`, `"shared"`, or None for none.
        scales: Learn what the products of each size are multiplied by; starts at 1.
        weights: What each size weighs in the loss; 1 by default.

    Attributes:
        sizes: Dims and what they weigh.
        weight: `(classes, dims[-1])`, or a list of `(classes, dim)` where heads are separate.
        bias: `(sizes, classes)`, `(classes,)`, or None.
        scales: `(sizes,)`, or None.

    Raises:
        InputError: fewer than two classes, or no such kind of bias.
    """

    def __init__(
        self,
        dims: Dims,
        classes: int,
        *,
        tied: bool = True,
        bias: Literal["per_size", "shared"] | None = "per_size",
        scales: bool = False,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise InputError(f"a classifier needs at least 2 classes, got {classes}")
        if bias not in ("per_size", "shared", None):
            raise InputError(f'bias must be "per_size", "shared" or None, got {bias!r}')
        self.sizes = sizes_of(dims, weights)
        self.weight: nn.Parameter | nn.ParameterList
        if tied:
            self.weight = _started(classes, self.sizes.dims[-1])
        else:
            self.weight = nn.ParameterList(_started(classes, dim) for dim in self.sizes.dims)
        shape = (len(self.sizes), classes) if bias == "per_size" else (classes,)
        self.bias = None if bias is None else nn.Parameter(torch.zeros(shape))
        self.scales = nn.Parameter(torch.ones(len(self.sizes))) if scales else None

    def forward(self, features: Tensor) -> Tensor:
        """`(sizes, n, classes)` logits of `(n, dims[-1])` features.

        Raises:
            InputError: features of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.sizes.dims[-1]:
            raise InputError(
                f"features: expected (rows, {self.sizes.dims[-1]}), "
                f"got shape {tuple(features.shape)}"
            )
        if isinstance(self.weight, nn.Parameter):
            blocks = self.sizes.nesting.blocks
            parts = [features[:, a:b] @ self.weight[:, a:b].T for a, b in blocks]
            logits = torch.stack(parts).cumsum(0)
        else:
            heads = zip(self.sizes.dims, self.weight, strict=True)
            logits = torch.stack([features[:, :dim] @ head.T for dim, head in heads])
        if self.scales is not None:
            logits = logits * self.scales[:, None, None]
        if self.bias is not None:
            logits = logits + (self.bias[:, None] if self.bias.ndim == 2 else self.bias)
        return logits

    def loss(self, features: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> NestedLoss:
        """Cross-entropy of `(n, dims[-1])` features, summed over sizes, without their logits.

        Raises:
            VectorError: as for `nested_softmax`.
            InputError: likewise.
        """
        return nested_softmax(
            features,
            self.weight if isinstance(self.weight, nn.Parameter) else list(self.weight),
            labels,
            self.sizes,
            bias=self.bias,
            scales=self.scales,
            label_smoothing=label_smoothing,
        )


def _started(classes: int, dim: int) -> nn.Parameter:
    """Start values as those of `torch.nn.Linear`."""
    reach = 1 / math.sqrt(dim)
    return nn.Parameter(torch.empty(classes, dim).uniform_(-reach, reach))


def _n_classes(
    features: Tensor,
    weight: Weight,
    sizes: Sizes,
    *,
    bias: Tensor | None,
    scales: Tensor | None,
) -> int:
    """How many classes there are, if all shapes fit."""
    if features.ndim != 2:
        raise InputError(f"features: expected (rows, numbers), got shape {tuple(features.shape)}")
    if isinstance(weight, Tensor):
        classes = len(weight)
    else:
        classes = len(weight[0]) if len(weight) else 0
        expected = [(classes, dim) for dim in sizes.dims]
        if [tuple(head.shape) for head in weight] != expected:
            got = ", ".join(str(tuple(head.shape)) for head in weight)
            raise InputError(
                f"weight: expected one (classes, dim) matrix for each of the dims "
                f"{sizes.nesting}, got shapes {got}"
            )
    for what, given, shapes in (
        ("bias", bias, ((classes,), (len(sizes), classes))),
        ("scales", scales, ((len(sizes),),)),
    ):
        if given is not None and tuple(given.shape) not in shapes:
            raise InputError(
                f"{what}: expected shape {' or '.join(map(str, shapes))}, got {tuple(given.shape)}"
            )
    return classes


def _head_loss(
    features: Tensor,
    weight: Weight,
    sizes: Sizes,
    criterion: Criterion,
    *,
    bias: Tensor | None,
    scales: Tensor | None,
    chunk_rows: int | None,
) -> NestedLoss:
    if isinstance(weight, Tensor):
        features, matrix = vectors_of(features=features, weight=weight)
        rows, columns = prefixes(sizes.dims[-1], features, matrix)
        check_finite(features=rows, weight=columns)
        return fused_loss(
            rows, columns, sizes, criterion, scale=scales, bias=bias, chunk_rows=chunk_rows
        )
    each = [
        _head_loss(
            features[:, :dim],
            head,
            Sizes(Nesting((dim,)), (1.0,)),
            criterion,
            bias=bias if bias is None or bias.ndim == 1 else bias[size],
            scales=None if scales is None else scales[size],
            chunk_rows=chunk_rows,
        )
        for size, (dim, head) in enumerate(zip(sizes.dims, weight, strict=True))
    ]
    return weigh([part.loss for part in each], sizes)


def _check_shares(labels: Tensor, shape: tuple[int, int]) -> None:
    if tuple(labels.shape) != shape:
        raise InputError(f"labels: expected shape {shape}, got {tuple(labels.shape)}")
    outside = ~((labels >= 0) & (labels <= 1)).all(1)
    if outside.any():
        rows = outside.nonzero()[:, 0].tolist()
        raise InputError(
            f"labels: expected numbers from 0 to 1, got others in {shorten(rows)}", rows=rows
        )
