"""InfoNCE at every size: in-batch negatives, hard negatives, one or both directions.

Examples:
    >>> import torch
    >>> rows = torch.eye(4, 8)
    >>> made = nested_info_nce(rows, rows, "4,8", scale=1.0)
    >>> {dim: round(loss, 4) for dim, loss in made.by_dim().items()}
    {4: 0.7437, 8: 0.7437}
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from matryo.core import InputError, TooFewError
from matryo.training.checks import (
    check_finite,
    inverse_lengths,
    labels_of,
    prefixes,
    scale_of,
    vectors_of,
)
from matryo.training.criteria import Softmax
from matryo.training.fused import fused_loss
from matryo.training.opaque import opaque
from matryo.training.result import NestedLoss
from matryo.training.sizes import Dims, sizes_of


@opaque
def nested_info_nce(
    queries: Tensor,
    candidates: Tensor,
    dims: Dims,
    *,
    weights: Sequence[float] | None = None,
    targets: Tensor | None = None,
    scale: float | Tensor = 20.0,
    symmetric: bool = False,
    normalize: bool = True,
    chunk_rows: int | None = None,
) -> NestedLoss:
    """Softmax loss of every query over all candidates, summed over sizes (InfoNCE).

    The same as sentence-transformers' `MultipleNegativesRankingLoss` in its `MatryoshkaLoss`, at
    about the cost of the full width alone, and in memory that no number of sizes makes larger than
    `(sizes + 2) · chunk_rows · candidates` numbers beside the gradients. The loss can be
    differentiated once. Half precision is summed in float32, under autocast too.

    Args:
        queries: `(n, full_dim)`.
        candidates: `(m, full_dim)`, as many as the queries or more: other rows of the batch, hard
            negatives, rows of other ranks.
        dims: Sizes in ascending order.
        weights: What each size weighs; 1 by default.
        targets: `(n,)` which candidate belongs to each query; by default its own row number.
        scale: What scores are multiplied by, one over the temperature. A tensor can be learned.
        symmetric: Mean of this loss and that of finding the query of each target among all
            queries, as in CLIP. It takes twice the time.
        normalize: Score by the cosine of prefixes; False takes plain inner products.
        chunk_rows: Queries whose scores are held at the same time; by default as many as pay off.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        VectorError: NaN, infinity, or, for a cosine, a prefix of zeros; `ids` names the rows.
        TooFewError: a single candidate.
        InputError: candidates that are all equal or too few for the queries, or no such targets.

    Warns:
        UserWarning: the full width is not among the dims.
    """
    queries, candidates = vectors_of(queries=queries, candidates=candidates)
    sizes = sizes_of(dims, weights, full_dim=queries.shape[1])
    n, width = len(queries), sizes.dims[-1]
    own = torch.arange(n, device=queries.device)
    _check_enough(candidates, "candidates")
    if targets is None:
        if len(candidates) < n:
            raise InputError(
                f"expected a candidate for each of the {n} queries, got {len(candidates)}",
                hint="say which candidate belongs to each query: targets=",
            )
        targets = own
    else:
        targets = labels_of(targets, n, len(candidates), what="targets")
    scale = scale_of(scale, queries)
    rows, columns = prefixes(width, queries, candidates)
    _check_differ(columns)
    lengths, spread = None, math.inf
    if normalize:
        lengths = inverse_lengths(sizes.nesting, queries=rows, candidates=columns)
        spread = 2 * float(scale.detach())
    else:
        check_finite(queries=rows, candidates=columns)
    forth = fused_loss(
        rows,
        columns,
        sizes,
        Softmax(targets, spread=spread),
        lengths=lengths,
        scale=scale,
        chunk_rows=chunk_rows,
    )
    if not symmetric:
        return forth
    _check_enough(queries, "queries")
    back = fused_loss(
        columns[targets],
        rows,
        sizes,
        Softmax(own, spread=spread),
        lengths=None if lengths is None else lengths[:, torch.cat([n + targets, own])],
        scale=scale,
        chunk_rows=chunk_rows,
    )
    return NestedLoss(
        (forth.loss + back.loss) / 2, (forth.per_size + back.per_size) / 2, sizes.dims
    )


def _check_enough(vectors: Tensor, what: str) -> None:
    if len(vectors) < 2:
        raise TooFewError(
            f"{what}: an in-batch loss needs at least 2 rows to choose from, got {len(vectors)}: "
            "it is 0 and teaches nothing",
            hint="raise the batch size, or leave a last short batch out (drop_last=True)",
            needed=2,
        )


def _check_differ(vectors: Tensor) -> None:
    """Refuse candidates that are all the same; the first two tell nearly always."""
    if (vectors[0] == vectors[1]).all() and (vectors == vectors[:1]).all():
        raise InputError(
            f"candidates: all {len(vectors)} rows are equal, so that no query can tell its own "
            "from the others",
            hint="the batch repeats one text, or the model has collapsed: lower its learning rate",
        )
