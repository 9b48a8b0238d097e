"""Losses of single rows of a score matrix, with their slopes.

A criterion gets the scores of some rows at some sizes, and answers with the loss of each row and,
written into `slopes`, the derivative of that loss by every score of the row.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_FAINT = 1e-30  # a probability below this may have lost bits, or be 0, where float32 ends
_FAR = 50.0  # scores closer than this, in any number of columns, have none so faint


class Criterion(Protocol):
    """A loss of the rows of a score matrix."""

    def __call__(self, scores: Tensor, slopes: Tensor, first: int, size: int, /) -> Tensor:
        """Losses of rows, and their slopes.

        Args:
            scores: `(sizes, rows, columns)`, which must be left as they were.
            slopes: `(sizes, rows, columns)` to be overwritten with d loss / d score.
            first: Number of the first row in the whole matrix.
            size: Number of the first size, from 0 up.

        Returns:
            `(sizes, rows)` losses.
        """
        ...


class Softmax:
    """Cross-entropy of a softmax over the columns: `logsumexp(row) - row[target]`.

    Args:
        targets: `(rows,)` the right column of every row.
        smoothing: Share of the target that is spread evenly over all columns, as in
            `torch.nn.functional.cross_entropy`.
        spread: No two scores of a row are further apart than this.
    """

    def __init__(
        self, targets: Tensor, smoothing: float = 0.0, *, spread: float = math.inf
    ) -> None:
        self.targets, self.smoothing, self.spread = targets[:, None], smoothing, spread

    def __call__(self, scores: Tensor, slopes: Tensor, first: int, _size: int, /) -> Tensor:
        """Losses of rows, and their slopes."""
        n_sizes, n, n_columns = scores.shape
        own = self.targets[first : first + n].expand(n_sizes, n, 1)
        torch.softmax(scores, 2, out=slopes)
        share = slopes.gather(2, own)
        # of the target's own logarithm no second pass over the row is made
        losses = -share.log()
        if self.spread > _FAR and (share < _FAINT).any():
            faint = share[..., 0] < _FAINT
            there = scores[faint]
            losses[faint] = there.logsumexp(1, keepdim=True) - there.gather(1, own[faint])
        if self.smoothing:
            gap = scores.gather(2, own) - scores.mean(2, keepdim=True)
            losses += self.smoothing * gap
            slopes -= self.smoothing / n_columns
            share -= self.smoothing / n_columns
        slopes.scatter_(2, own, share - (1 - self.smoothing))
        return losses[..., 0]


class Margin(Softmax):
    """Softmax over cosines whose own angle was widened: ArcFace.

    The own score becomes scale · cos(angle + margin), and beyond angle = pi - margin, where that
    would rise again, scale · (cos(angle) - margin · sin(margin)) (Deng and others 2019, "ArcFace",
    equation 3, and the authors' code).

    Args:
        targets: `(rows,)` the right column of every row.
        scale: 0-dimensional; the scores are this times a cosine.
        margin: Radians, from 0 up and below pi / 2.
    """

    def __init__(self, targets: Tensor, scale: Tensor, margin: float) -> None:
        super().__init__(targets)
        self.scale, self.margin = scale.detach(), margin

    def __call__(self, scores: Tensor, slopes: Tensor, first: int, size: int, /) -> Tensor:
        """Losses of rows, and their slopes by the scores before the margin."""
        n_sizes, n, _ = scores.shape
        own = self.targets[first : first + n].expand(n_sizes, n, 1)
        kept = scores.gather(2, own)
        cosines = kept / self.scale
        # the sine has no slope at 0, where a cosine is 1 to the last bit
        sines = (1 - cosines.square()).clamp_min(torch.finfo(scores.dtype).eps).sqrt()
        cos, sin = math.cos(self.margin), math.sin(self.margin)
        near = cosines > -cos
        widened = torch.where(near, cosines * cos - sines * sin, cosines - self.margin * sin)
        slope = torch.where(near, cos + sin * cosines / sines, torch.ones_like(cosines))
        scores.scatter_(2, own, widened * self.scale)
        losses = super().__call__(scores, slopes, first, size)
        scores.scatter_(2, own, kept)
        slopes.scatter_(2, own, slopes.gather(2, own) * slope)
        return losses


class Binary:
    """Mean over the columns of the cross-entropy of a sigmoid, for several labels per row.

    Args:
        labels: `(rows, columns)` of 0 and 1, or any shares between.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __call__(self, scores: Tensor, slopes: Tensor, first: int, _size: int, /) -> Tensor:
        """Losses of rows, and their slopes."""
        labels = self.labels[first : first + scores.shape[1]].to(scores.dtype).expand_as(scores)
        losses = functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        torch.sigmoid(scores, out=slopes)
        slopes -= labels
        slopes /= scores.shape[2]
        return losses.mean(2)
