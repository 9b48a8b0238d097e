"""Losses on pairs: row i of one tensor against row i of another, at every size.

The scores of all sizes are running sums over blocks of dims, made in one pass over the vectors.

Examples:
    >>> import torch
    >>> nested_pair_scores(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), "1,2")
    tensor([[1.0000],
            [0.6000]])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from matryo.core import DimError, InputError, Nesting, TooFewError, check_dim
from matryo.training.checks import block_sums, check_finite, inverse_lengths, prefixes, vectors_of
from matryo.training.opaque import opaque
from matryo.training.result import NestedLoss, weigh
from matryo.training.sizes import Dims, sizes_of

PairMetric = Literal["cosine", "dot", "l2", "angle"]
PAIR_METRICS: tuple[PairMetric, ...] = get_args(PairMetric)

ScoreLoss = Callable[..., Tensor]


@opaque
def nested_pair_scores(
    left: Tensor,
    right: Tensor,
    dims: str | Iterable[int] | Nesting,
    *,
    metric: PairMetric = "cosine",
) -> Tensor:
    """Score of every pair at every size; higher is better.

    Args:
        left: `(n, full_dim)`.
        right: `(n, full_dim)`.
        dims: Sizes in ascending order.
        metric: `"cosine"` or `"dot"` of prefixes; `"l2"`, minus the squared distance; or `"angle"`,
            that of AnglE (Li and Li 2023): numbers (0, 1), (2, 3), … are complex, and
            the score is |Re z + Im z| / (|left| · |right|) with z the product of left and the
            conjugate of right. Pairs of neighbors nest; halves of the vector, as others pair them,
            do not.

    Returns:
        `(sizes, n)`, with a gradient.

    Raises:
        DimError: dims that do not ascend, that repeat, beyond the width, or, for `"angle"`, odd.
        VectorError: NaN, infinity, or, where lengths are divided by, a prefix of zeros.
        InputError: different numbers of rows, or no such metric.
    """
    if metric not in PAIR_METRICS:
        raise InputError(f"metric must be one of {', '.join(PAIR_METRICS)}, got {metric!r}")
    left, right = vectors_of(left=left, right=right)
    if len(left) != len(right):
        raise InputError(
            f"left and right must have a row for each pair, got {len(left)} and {len(right)} rows"
        )
    nesting = dims if isinstance(dims, Nesting) else Nesting.parse(dims)
    check_dim(nesting.dims[-1], left.shape[1])
    left, right = prefixes(nesting.dims[-1], left, right)
    divided = metric in ("cosine", "angle")
    if divided:
        inverse_lengths(nesting, left=left, right=right)  # for its checks
    else:
        check_finite(left=left, right=right)
    with torch.autocast(left.device.type, enabled=False):
        if metric == "l2":
            return -block_sums((left - right).square(), nesting)
        scores = block_sums(left * right, nesting)
        if metric == "angle":
            scores = (scores + _imaginary(left, right, nesting)).abs()
        if divided:
            scores = scores * block_sums(left.square(), nesting).rsqrt()
            scores = scores * block_sums(right.square(), nesting).rsqrt()
    return scores


def _imaginary(left: Tensor, right: Tensor, nesting: Nesting) -> Tensor:
    """`(sizes, n)` imaginary parts of the products of left and the conjugate of right."""
    odd = [dim for dim in nesting if dim % 2]
    if odd:
        raise DimError(
            f'the metric "angle" takes numbers in pairs, so every dim must be even, got {odd[0]} '
            f"in {nesting}",
            dim=odd[0],
        )
    parts = left[:, 1::2] * right[:, 0::2] - left[:, 0::2] * right[:, 1::2]
    return block_sums(parts, Nesting(tuple(dim // 2 for dim in nesting)))


@opaque
def nested_pairs(
    loss: ScoreLoss,
    left: Tensor,
    right: Tensor,
    labels: Tensor,
    dims: Dims,
    *,
    weights: Sequence[float] | None = None,
    metric: PairMetric = "cosine",
) -> NestedLoss:
    """Any loss of the scores of pairs, summed over sizes.

    Args:
        loss: Called as `loss(scores, labels)` once for every size, with `(n,)` scores; returns a
            scalar. `cosent`, `contrastive`, `correlation` and `torch.nn.functional.mse_loss` are
            such losses, and with the metric `"angle"` `cosent` is the loss of AnglE.
        left: `(n, full_dim)`.
        right: `(n, full_dim)`.
        labels: `(n,)` what is known of each pair.
        dims: Sizes in ascending order.
        weights: What each size weighs; 1 by default.
        metric: As for `nested_pair_scores`.

    Raises:
        DimError: as for `nested_pair_scores`.
        VectorError: likewise.
        InputError: likewise, or not one finite label for each pair.
    """
    sizes = sizes_of(dims, weights, full_dim=left.shape[-1])
    scores = nested_pair_scores(left, right, sizes.nesting, metric=metric)
    _check_finite(labels, len(left))
    return weigh([loss(row, labels) for row in scores], sizes)


@opaque
def nested_triplet(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    dims: Dims,
    *,
    margin: float = 0.2,
    weights: Sequence[float] | None = None,
    metric: PairMetric = "cosine",
) -> NestedLoss:
    """Mean of `max(0, margin - score(anchor, positive) + score(anchor, negative))`, all sizes.

    Args:
        anchors: `(n, full_dim)`.
        positives: `(n, full_dim)`.
        negatives: `(n, full_dim)`.
        dims: Sizes in ascending order.
        margin: How far ahead the positive should be, in units of the score, above 0.
        weights: What each size weighs; 1 by default.
        metric: As for `nested_pair_scores`.

    Raises:
        DimError: as for `nested_pair_scores`.
        VectorError: likewise.
        InputError: likewise, or a margin that is not above 0.
    """
    if not margin > 0:
        raise InputError(f"margin must be above 0, got {margin:g}")
    sizes = sizes_of(dims, weights, full_dim=anchors.shape[-1])
    near = nested_pair_scores(anchors, positives, sizes.nesting, metric=metric)
    far = nested_pair_scores(anchors, negatives, sizes.nesting, metric=metric)
    return weigh(list((margin - near + far).relu().mean(1)), sizes)


def cosent(scores: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """`log(1 + Σ exp(scale · (score of i - score of j)))`, i with a lower label than j (CoSENT).

    Pairs of equal labels are not compared; where all are equal, the loss is 0. Su 2022, "CoSENT";
    here by sorting, in n log n steps.

    Args:
        scores: `(n,)` or `(sizes, n)`.
        labels: `(n,)` numbers; only their order counts.
        scale: What differences are multiplied by.

    Returns:
        `()` or `(sizes,)`.
    """
    labels, order = labels.sort()
    scaled = scores[..., order] * scale
    # at j: logsumexp of -scaled over all from j up; one more, for "none"
    above = (-scaled).flip(-1).logcumsumexp(-1).flip(-1)
    none = torch.full_like(above[..., :1], -torch.inf)
    first_above = torch.searchsorted(labels, labels, right=True)
    compared = scaled + torch.cat([above, none], -1)[..., first_above]
    return torch.cat([torch.zeros_like(none), compared], -1).logsumexp(-1)


def contrastive(scores: Tensor, labels: Tensor, margin: float = 0.5) -> Tensor:
    """Half the mean of d² for pairs that belong together, and of `max(0, margin - d)²` for others.

    The distance d is 1 - score (Hadsell and others 2006, equation 4).

    Args:
        scores: `(n,)` or `(sizes, n)` cosines.
        labels: `(n,)` of 1, together, and 0.
        margin: Distance from which on pairs that do not belong together are left alone.

    Returns:
        `()` or `(sizes,)`.
    """
    distances = 1 - scores
    apart = (margin - distances).relu().square()
    return (labels * distances.square() + (1 - labels) * apart).mean(-1) / 2


def correlation(scores: Tensor, labels: Tensor) -> Tensor:
    """One minus Pearson's correlation of scores and labels.

    Args:
        scores: `(n,)` or `(sizes, n)`.
        labels: `(n,)` graded similarities.

    Returns:
        `()` or `(sizes,)`, from 0 to 2.

    Raises:
        TooFewError: labels that are all equal, or scores that are: no correlation is defined.
    """
    from_mean = scores - scores.mean(-1, keepdim=True)
    wanted = labels.to(scores.dtype) - labels.to(scores.dtype).mean()
    if not (from_mean.any(-1).all() and wanted.any()):
        raise TooFewError(
            "a correlation needs at least 2 different labels and 2 different scores, got "
            f"{len(labels)} pairs with all of them equal",
            needed=2,
        )
    return 1 - functional.cosine_similarity(from_mean, wanted, dim=-1, eps=0.0)


def _check_finite(labels: Tensor, n: int) -> None:
    if tuple(labels.shape) != (n,) or not labels.isfinite().all():
        raise InputError(
            f"labels: expected {n} finite numbers, one for each pair, got shape "
            f"{tuple(labels.shape)}" + ("" if len(labels) != n else ", not all of them finite")
        )
