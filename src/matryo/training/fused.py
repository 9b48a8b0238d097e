"""Losses on nested score matrices for the price of the full width alone.

The score matrix has vectors A for its rows and B for its columns. With blocks of dims between
successive sizes, A_k and B_k, raw products of all sizes are running sums, and so is what flows back
to a block (D_j being what size j sends back):

    S_k = S_{k-1} + A_k B_kᵀ          dA_k = (Σ_{j>=k} D_j) B_k          dB_k = (Σ_{j>=k} D_j)ᵀ A_k

so any number of sizes takes the three matrix products of the full width. The scores of a cosine are
L_k = scale · S_k / (a_k b_kᵀ), with a_k and b_k the lengths of prefixes, which adds to dA_k

    - α_k ∘ A_k,   α_k = Σ_{j>=k} rowsum(G_j ∘ L_j) / a_j²      (G_j = d loss / d L_j)

and likewise for B with sums of columns. Loss and gradient of some rows are made together, in the
forward pass, and their scores are thrown away: no more than `chunk_rows` rows are held. The idea is
that of fused linear cross-entropy (Hsu and others 2024, "Liger kernel").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matryo.core import InputError, UnsupportedError
from matryo.training.criteria import Criterion
from matryo.training.result import NestedLoss
from matryo.training.sizes import Sizes

_CHUNK_SCORES = 2**19  # scores of one size in one chunk: 2 MB in float32
_FEW_SCORES = 2**18  # up to this many, the scores of several sizes are made before they are used
_FEWEST_ROWS = 256  # below this, adding to the gradient of the columns costs more than it saves


@dataclass(frozen=True, slots=True)
class _Task:
    """What a fused loss needs beside the tensors that have a gradient.

    Attributes:
        sizes: Dims and weights.
        criterion: The loss of a row of scores.
        chunk_rows: Rows whose scores are held at the same time.
        lengths: `(sizes, rows + columns)` one over the length of every prefix; None for products.
    """

    sizes: Sizes
    criterion: Criterion
    chunk_rows: int
    lengths: Tensor | None


class _Side:
    """The rows or the columns of a score matrix, in blocks, and their gradient if it is wanted."""

    def __init__(self, vectors: Tensor, widths: list[int], place: slice, *, wanted: bool) -> None:
        self.vectors, self.blocks, self.place = vectors, vectors.split(widths, 1), place
        self.slopes = torch.empty_like(vectors) if wanted else None
        self.slope_blocks = () if self.slopes is None else self.slopes.split(widths, 1)


class _Pass:
    """One pass over the rows of a score matrix: losses, and the gradients that are wanted.

    Several sizes are taken at once where their scores are few, for one call on all of them.

    `along` has the sums of G ∘ L for every size, over columns for each row, then over rows for each
    column: what flows back along the direction of a prefix, which its length does not let through.
    The last size needs no sums over scores for it, since Σ_k rowsum(G_k ∘ L_k) is the product of a
    row with its gradient before lengths are settled. Sums are those of unweighted rows until then.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        task: _Task,
        *,
        wanted: tuple[bool, bool, bool, bool],
    ) -> None:
        for_rows, for_columns, for_scale, for_bias = wanted
        self.scale, self.bias, self.task, self.learning = scale, bias, task, any(wanted)
        self.is_cosine = task.lengths is not None
        self.n, n_columns, self.n_sizes = len(rows), len(columns), len(task.sizes)
        widths = [stop - start for start, stop in task.sizes.nesting.blocks]
        # the slope of the scale of cosines is read off what flows back along the rows
        for_rows |= for_scale and self.is_cosine
        self.rows = _Side(rows, widths, slice(0, self.n), wanted=for_rows)
        self.columns = _Side(columns, widths, slice(self.n, None), wanted=for_columns)
        self.scale_slopes = rows.new_zeros(self.n_sizes) if for_scale else None
        self.bias_slopes = rows.new_zeros(self.n_sizes, n_columns) if for_bias else None
        self.losses = rows.new_zeros(self.n_sizes)
        self.shares = rows.new_tensor(task.sizes.weights)[:, None] / self.n
        self.along = rows.new_zeros(self.n_sizes, self.n + n_columns)
        factors = rows.new_ones(self.n_sizes, self.n)
        if task.lengths is not None:
            factors, self.column_factors = task.lengths.split([self.n, n_columns], 1)
        self.row_factors = factors if scale is None else factors * scale[:, None]
        self.back_factors = self.row_factors * self.shares
        self.step = min(self.n, task.chunk_rows)
        at_once = min(self.n_sizes, max(1, _FEW_SCORES // (self.step * n_columns)))
        self.groups = [
            slice(size, min(size + at_once, self.n_sizes))
            for size in range(0, self.n_sizes, at_once)
        ]
        self._sums, self._scratch = rows.new_empty(2, at_once, self.step, n_columns)
        held = self.n_sizes if self.learning else at_once
        self._slopes = rows.new_empty(held, self.step, n_columns)

    def run(self) -> None:
        """Go through all rows."""
        for first in range(0, self.n, self.step):
            chunk = slice(first, min(first + self.step, self.n))
            for group in self.groups:
                self._score(chunk, group)
            if self.learning:
                self._send_back(chunk)
        del self._sums, self._scratch, self._slopes
        if self.bias_slopes is not None:
            self.bias_slopes *= self.shares
        if self.task.lengths is not None and self.learning:
            self._settle_lengths(self.task.lengths)
        elif self.scale_slopes is not None:
            self.scale_slopes *= self.shares[:, 0]

    def _score(self, chunk: slice, group: slice) -> None:
        """Losses of some rows at some sizes, and the slopes of their scores."""
        n, at_once = chunk.stop - chunk.start, group.stop - group.start
        sums, scratch = self._sums[:at_once, :n], self._scratch[:at_once, :n]
        self._add_up(chunk, group)
        scores = sums
        if self.is_cosine or self.scale is not None:
            scores = torch.mul(sums, self.row_factors[group, chunk, None], out=scratch)
        if self.is_cosine:
            scores *= self.column_factors[group, None]
        if self.bias is not None:
            scores = torch.add(scores, self.bias[group, None], out=scratch)
        slopes = self._slopes[group if self.learning else slice(at_once), :n]
        self.losses[group] += self.task.criterion(scores, slopes, chunk.start, group.start).sum(1)
        if self.bias_slopes is not None:
            self.bias_slopes[group] += slopes.sum(1)
        if self.is_cosine and self.learning:
            self._sum_along(chunk, group, scores, slopes)
            slopes *= self.column_factors[group, None]
        elif self.scale_slopes is not None:
            self.scale_slopes[group] += torch.mul(sums, slopes, out=scratch).sum((1, 2))

    def _add_up(self, chunk: slice, group: slice) -> None:
        """Raw products of some rows with all columns, each size from the one before."""
        n = chunk.stop - chunk.start
        before = self._sums[-1, :n]
        for size, here in zip(range(group.start, group.stop), self._sums[:, :n], strict=False):
            part, across = self.rows.blocks[size][chunk], self.columns.blocks[size].T
            if size:
                torch.addmm(before, part, across, out=here)
            else:
                torch.mm(part, across, out=here)
            before = here

    def _sum_along(self, chunk: slice, group: slice, scores: Tensor, slopes: Tensor) -> None:
        """What must be summed over cosines before they are thrown away."""
        before_last = slice(group.start, min(group.stop, self.n_sizes - 1))
        some = before_last.stop - before_last.start
        if some:
            along = scores[:some].mul_(slopes[:some])
            torch.sum(along, 2, out=self.along[before_last, chunk])
            self.along[before_last, self.n :] += along.sum(1)

    def _send_back(self, chunk: slice) -> None:
        """Gradients from the slopes of some rows, the largest size first."""
        factors = self.back_factors[:, chunk, None]
        slopes = self._slopes[:, : chunk.stop - chunk.start]
        last = self.n_sizes - 1
        flow = slopes[last].mul_(factors[last])
        for size in range(last, -1, -1):
            if size < last:
                flow.addcmul_(slopes[size], factors[size])
            if self.rows.slope_blocks:
                out = self.rows.slope_blocks[size][chunk]
                torch.mm(flow, self.columns.blocks[size], out=out)
            if self.columns.slope_blocks:
                out, part = self.columns.slope_blocks[size], self.rows.blocks[size][chunk]
                if chunk.start:
                    out.addmm_(flow.T, part)
                else:
                    torch.mm(flow.T, part, out=out)

    def _settle_lengths(self, lengths: Tensor) -> None:
        """Take out of the gradients what points along a prefix."""
        self.along *= self.shares
        for side in (self.rows, self.columns):
            if side.slopes is not None:
                torch.linalg.vecdot(side.vectors, side.slopes, out=self.along[-1, side.place])
        self.along[-1] -= self.along[:-1].sum(0)
        falls = (self.along * lengths.square()).flip(0).cumsum(0).flip(0)[..., None]
        for side in (self.rows, self.columns):
            parts = zip(side.slope_blocks, side.blocks, falls[:, side.place], strict=False)
            for slopes, block, fall in parts:
                slopes.addcmul_(block, fall, value=-1)
        if self.scale_slopes is not None and self.scale is not None:
            self.scale_slopes = self.along[:, : self.n].sum(1) / self.scale


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  # torch hands over everything by position
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        task: _Task,
    ) -> tuple[Tensor, Tensor]:
        made = _Pass(rows, columns, scale, bias, task, wanted=ctx.needs_input_grad[:4])
        made.run()
        ctx.save_for_backward(
            made.rows.slopes, made.columns.slopes, made.scale_slopes, made.bias_slopes
        )
        per_size = made.losses / len(rows)
        ctx.mark_non_differentiable(per_size)
        return per_size @ rows.new_tensor(task.sizes.weights), per_size

    @staticmethod
    def backward(ctx: Any, *flows: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "this loss has no second derivative: its gradient is made together with it",
                hint="leave create_graph out, or call matryo.training.nested with a plain loss",
            )
        slopes = [s if s is None else s * flows[0] for s in ctx.saved_tensors]
        return *slopes, None


_apply: Callable[..., tuple[Tensor, Tensor]] = _Fused.apply


def fused_loss(
    rows: Tensor,
    columns: Tensor,
    sizes: Sizes,
    criterion: Criterion,
    *,
    lengths: Tensor | None = None,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    chunk_rows: int | None = None,
) -> NestedLoss:
    """Sum a loss of rows of scores over all sizes.

    Args:
        rows: `(rows, dims[-1])` vectors, float32 or wider.
        columns: `(columns, dims[-1])` vectors of the same type.
        sizes: Dims and weights.
        criterion: The loss of one row of scores at one size; the loss of a size is the mean.
        lengths: `(sizes, rows + columns)` one over the lengths of all prefixes, if the scores are
            cosines.
        scale: `()` or `(sizes,)` what products or cosines are multiplied by.
        bias: `(columns,)` or `(sizes, columns)` what is added then.
        chunk_rows: Rows whose scores are held at the same time; by default as many as pay off.
    """
    n_columns, n_sizes = len(columns), len(sizes)
    if chunk_rows is None:
        chunk_rows = max(_FEWEST_ROWS, _CHUNK_SCORES // n_columns)
    elif chunk_rows < 1:
        raise InputError(f"chunk_rows must be at least 1, got {chunk_rows}")
    task = _Task(sizes, criterion, chunk_rows, lengths)
    inputs = [
        rows,
        columns,
        None if scale is None else scale.to(rows.dtype).expand(n_sizes),
        None if bias is None else bias.to(rows.dtype).expand(n_sizes, n_columns),
    ]
    if not torch.is_grad_enabled():
        inputs = [tensor if tensor is None else tensor.detach() for tensor in inputs]
    with torch.autocast(rows.device.type, enabled=False):
        loss, per_size = _apply(*inputs, task)
    return NestedLoss(loss, per_size, sizes.dims)
