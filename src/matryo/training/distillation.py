"""Learning from a teacher: its scores within a batch, or its vectors, at every size.

Student and teacher are treated alike, cut and scaled to length 1 on both sides, so that a student
that equals its teacher has a loss of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from matryo.core import InputError, Nesting, TooFewError, check_dim
from matryo.training.checks import inverse_lengths, prefixes, scale_of, vectors_of
from matryo.training.criteria import Criterion
from matryo.training.fused import fused_loss
from matryo.training.opaque import opaque
from matryo.training.result import NestedLoss, weigh
from matryo.training.sizes import Dims, sizes_of


@opaque
def nested_distillation(
    student: Tensor,
    teacher: Tensor,
    dims: Dims,
    *,
    candidates: tuple[Tensor, Tensor] | None = None,
    target: Literal["prefix", "full"] = "full",
    kind: Literal["mse", "kl"] = "mse",
    scale: float = 20.0,
    weights: Sequence[float] | None = None,
    chunk_rows: int | None = None,
) -> NestedLoss:
    """Make the cosines of the rows of a batch those that a teacher gives them.

    Args:
        student: `(n, full_dim)`.
        teacher: `(n, teacher_dim)` vectors of the same texts; gets no gradient.
        dims: Sizes of the student, in ascending order.
        candidates: What each row is compared with, as the student's `(m, full_dim)` and the
            teacher's `(m, teacher_dim)` vectors of the same texts: documents, where the rows are
            queries. By default the rows of the batch with one another.
        target: What a size learns: `"full"`, the cosines of the teacher's whole vectors, of any
            width; or `"prefix"`, those of the teacher's prefix of the same size.
        kind: `"mse"`, the mean squared difference of cosines; or `"kl"`, the divergence of the
            student's softmax over the candidates, or the other rows, from the teacher's.
        scale: What cosines are multiplied by in that softmax.
        weights: What each size weighs; 1 by default.
        chunk_rows: Rows whose scores are held at the same time; by default as many as pay off.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond a width.
        VectorError: NaN, infinity or a prefix of zeros; `ids` names the rows.
        TooFewError: a batch of fewer than three rows, or fewer than two candidates.
        InputError: another number of rows, a scale that is none, or no such target or kind.
    """
    if target not in ("prefix", "full") or kind not in ("mse", "kl"):
        raise InputError(
            f'target must be "prefix" or "full" and kind "mse" or "kl", got {target!r} and {kind!r}'
        )
    (student,), (teacher,) = vectors_of(student=student), vectors_of(teacher=teacher.detach())
    sizes = sizes_of(dims, weights, full_dim=student.shape[1])
    _check_rows(student, teacher)
    if candidates is None:
        others, known = student, teacher
        _check_enough(student, 3, "scores within a batch need at least 3 rows to differ")
    else:
        student, others = vectors_of(student=student, candidates=candidates[0])
        teacher, known = vectors_of(teacher=teacher, candidates=candidates[1].detach())
        _check_rows(others, known)
        _check_enough(others, 2, "scores need at least 2 candidates to differ")
    given = _Given(
        teacher.to(student.dtype),
        known.to(student.dtype),
        sizes.nesting,
        whole=target == "full",
        scale=scale_of(scale if kind == "kl" else 1.0, student),
    )
    if kind == "mse":
        criterion: Criterion = _SquaredGap(given)
    else:
        criterion = _Divergence(given, without_own=candidates is None)
    rows, columns = prefixes(sizes.dims[-1], student, others)
    return fused_loss(
        rows,
        columns,
        sizes,
        criterion,
        lengths=inverse_lengths(sizes.nesting, student=rows, candidates=columns),
        scale=given.scale,
        chunk_rows=chunk_rows,
    )


@opaque
def nested_vector_mse(
    student: Tensor, teacher: Tensor, dims: Dims, *, weights: Sequence[float] | None = None
) -> NestedLoss:
    """Mean squared difference of prefixes, both scaled to length 1, summed over sizes.

    That of a size is (2 - 2 · cosine) / dim.

    Args:
        student: `(n, full_dim)`.
        teacher: `(n, full_dim)` vectors of the same texts; gets no gradient.
        dims: Sizes in ascending order.
        weights: What each size weighs; 1 by default.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        VectorError: NaN, infinity or a prefix of zeros; `ids` names the rows.
        InputError: another number of rows or another width.
    """
    student, teacher = vectors_of(student=student, teacher=teacher.detach())
    sizes = sizes_of(dims, weights, full_dim=student.shape[1])
    _check_rows(student, teacher)
    inverse_lengths(sizes.nesting, student=student, teacher=teacher)  # for its checks
    each = []
    for dim in sizes.dims:
        gaps = functional.normalize(student[:, :dim]) - functional.normalize(teacher[:, :dim])
        each.append(gaps.square().mean())
    return weigh(each, sizes)


class _Given:
    """Scaled cosines of the teacher, made for the rows at hand by the student's own steps.

    Sums run over the student's blocks, so that equal vectors get equal scores to the last bit.

    Args:
        rows: `(n, teacher_dim)`.
        columns: `(m, teacher_dim)`.
        nesting: Sizes of the student.
        whole: The cosines are those of whole vectors at every size.
        scale: 0-dimensional, what they are multiplied by.
    """

    def __init__(
        self, rows: Tensor, columns: Tensor, nesting: Nesting, *, whole: bool, scale: Tensor
    ) -> None:
        width = rows.shape[1]
        if whole:
            nesting = Nesting((*(dim for dim in nesting if dim < width), width))
        check_dim(nesting.dims[-1], width)
        self.rows, self.columns, self.blocks = rows, columns, nesting.blocks
        self.whole, self.scale = whole, scale
        lengths = inverse_lengths(nesting, teacher=rows, candidates=columns)
        self._row_factors, self._column_factors = lengths.split([len(rows), len(columns)], 1)
        self._row_factors = self._row_factors * scale
        self._sums = rows.new_empty(0)

    def scores_like(self, scores: Tensor, first: int, size: int) -> Tensor:
        """`(sizes, rows, columns)` of the rows and sizes of the student's; sizes in their order."""
        n_sizes, n, _ = scores.shape
        if self.whole:
            if size == 0:
                for at in range(len(self.blocks)):
                    self._add(first, n, at)
            last = len(self.blocks) - 1
            return self._scaled(first, n, last).expand_as(scores)
        made = []
        for at in range(size, size + n_sizes):
            self._add(first, n, at)
            made.append(self._scaled(first, n, at))
        return torch.stack(made)

    def _scaled(self, first: int, n: int, at: int) -> Tensor:
        factors = self._row_factors[at, first : first + n, None]
        scaled: Tensor = self._sums * factors * self._column_factors[at]
        return scaled

    def _add(self, first: int, n: int, at: int) -> None:
        start, stop = self.blocks[at]
        rows, columns = self.rows[first : first + n, start:stop], self.columns[:, start:stop]
        if at:
            self._sums.addmm_(rows, columns.T)
        else:
            self._sums = rows @ columns.T


class _SquaredGap:
    """Mean over the columns of the squared difference from the teacher's scores."""

    def __init__(self, given: _Given) -> None:
        self.given = given

    def __call__(self, scores: Tensor, slopes: Tensor, first: int, size: int, /) -> Tensor:
        torch.sub(scores, self.given.scores_like(scores, first, size), out=slopes)
        losses = slopes.square().mean(2)
        slopes *= 2 / scores.shape[2]
        return losses


class _Divergence:
    """Kullback-Leibler divergence from the teacher's softmax over the columns.

    Args:
        given: The teacher's scores.
        without_own: Rows and columns are the same, and a row is no candidate for itself.
    """

    def __init__(self, given: _Given, *, without_own: bool) -> None:
        self.given, self.without_own = given, without_own

    def __call__(self, scores: Tensor, slopes: Tensor, first: int, size: int, /) -> Tensor:
        wanted = self.given.scores_like(scores, first, size)
        if self.without_own:
            n_sizes, n, _ = scores.shape
            own = torch.arange(first, first + n, device=scores.device)[:, None]
            own, never = own.expand(n_sizes, n, 1), torch.finfo(scores.dtype).min / 4
            kept = scores.gather(2, own)
            logs = scores.scatter_(2, own, never).log_softmax(2)
            scores.scatter_(2, own, kept)
            wanted = wanted.scatter(2, own, never)
        else:
            logs = scores.log_softmax(2)
        wanted = wanted.log_softmax(2)
        shares = wanted.exp()
        torch.sub(logs.exp(), shares, out=slopes)
        return (shares * (wanted - logs)).sum(2)


def _check_rows(student: Tensor, teacher: Tensor) -> None:
    if len(student) != len(teacher):
        raise InputError(
            f"student and teacher must have a row for the same texts, got {len(student)} and "
            f"{len(teacher)} rows"
        )


def _check_enough(vectors: Tensor, needed: int, why: str) -> None:
    if len(vectors) < needed:
        raise TooFewError(f"{why}, got {len(vectors)}", needed=needed)
