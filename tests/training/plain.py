"""The losses once more, size by size, as one writes them down: what the fused ones must equal."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def cosines(left, right, dim, *, normalize=True):
    left, right = left[:, :dim], right[:, :dim]
    if normalize:
        left, right = functional.normalize(left), functional.normalize(right)
    return left @ right.T


def info_nce(
    queries,
    candidates,
    dims,
    *,
    weights=None,
    targets=None,
    scale=20.0,
    symmetric=False,
    normalize=True,
):
    targets = torch.arange(len(queries)) if targets is None else targets
    total = 0
    for dim, weight in zip(dims, weights or [1.0] * len(dims), strict=True):
        scores = cosines(queries, candidates, dim, normalize=normalize) * scale
        loss = functional.cross_entropy(scores, targets)
        if symmetric:
            back = scores[:, targets].T
            loss = (loss + functional.cross_entropy(back, torch.arange(len(back)))) / 2
        total = total + weight * loss
    return total


def logits(features, weight, dims, bias=None, scales=None):
    """One `(n, classes)` tensor for each size."""
    made = []
    for size, dim in enumerate(dims):
        head = weight[:, :dim] if isinstance(weight, torch.Tensor) else weight[size]
        scores = features[:, :dim] @ head.T
        scores = scores if scales is None else scores * scales[size]
        if bias is not None:
            scores = scores + (bias if bias.ndim == 1 else bias[size])
        made.append(scores)
    return made


def arcface(features, weight, labels, dims, *, scale, margin):
    total = 0
    for dim in dims:
        cos = cosines(features, weight, dim)
        own = torch.arange(len(cos)), labels
        angles = cos[own].acos()
        widened = torch.where(
            angles + margin < math.pi, (angles + margin).cos(), cos[own] - margin * math.sin(margin)
        )
        total = total + functional.cross_entropy(cos.index_put(own, widened) * scale, labels)
    return total


def pair_scores(left, right, dim, metric):
    left, right = left[:, :dim], right[:, :dim]
    if metric == "cosine":
        return functional.cosine_similarity(left, right)
    if metric == "dot":
        return (left * right).sum(1)
    if metric == "l2":
        return -(left - right).square().sum(1)
    z = torch.view_as_complex(left.reshape(len(left), -1, 2))
    w = torch.view_as_complex(right.reshape(len(right), -1, 2))
    product = (z * w.conj()).sum(1)
    return (product.real + product.imag).abs() / (left.norm(dim=1) * right.norm(dim=1))


def cosent(scores, labels, scale=20.0):
    gaps = scale * (scores[:, None] - scores[None, :])
    compared = gaps[labels[:, None] < labels[None, :]]
    return torch.cat([compared.new_zeros(1), compared]).logsumexp(0)


def distillation(student, teacher, dims, *, target, kind, candidates=None, scale=20.0):
    total = 0
    student_columns, teacher_columns = candidates or (student, teacher)
    for dim in dims:
        known = dim if target == "prefix" else teacher.shape[1]
        ours = cosines(student, student_columns, dim)
        theirs = cosines(teacher, teacher_columns, known)
        if kind == "mse":
            total = total + functional.mse_loss(ours, theirs)
            continue
        others = torch.ones_like(ours, dtype=torch.bool)
        if candidates is None:
            others.fill_diagonal_(fill_value=False)
        ours = (ours * scale)[others].reshape(len(ours), -1).log_softmax(1)
        theirs = (theirs * scale)[others].reshape(len(ours), -1).log_softmax(1)
        total = total + functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    return total


def slopes_of(loss, *leaves):
    """Value of a loss and its gradient by each leaf, the loss having passed on 1.7 of it."""
    for leaf in leaves:
        leaf.grad = None
    value = loss()
    value = getattr(value, "loss", value)
    (value * 1.7).backward()
    return value.detach(), [leaf.grad for leaf in leaves]


def assert_same(made, expected, *leaves, tolerance=1e-12):
    """Two losses and their gradients by the leaves are equal, relative to their size."""
    value, slopes = slopes_of(made, *leaves)
    wanted, wanted_slopes = slopes_of(expected, *leaves)
    for ours, theirs in zip([value, *slopes], [wanted, *wanted_slopes], strict=True):
        room = tolerance * max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=room)


def leaf(*shape, seed=0, dtype=torch.float64, falling=True):
    """Random numbers with falling variance that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(*shape, generator=generator, dtype=dtype)
    if falling:
        numbers *= torch.linspace(2, 0.3, shape[-1], dtype=dtype)
    return numbers.requires_grad_()
