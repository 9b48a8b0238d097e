"""What the losses of sentence-transformers compute, in the losses of this package.

A translation gets a loss, the whole vectors of each column, labels and sizes. It answers None where
the loss is set to something that no fused loss computes; it is then called for every size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from matryo.core import InputError, Nesting
from matryo.training.contrastive import nested_info_nce
from matryo.training.distillation import nested_vector_mse
from matryo.training.general import nested
from matryo.training.heads import nested_softmax
from matryo.training.pairs import PairMetric, contrastive, cosent, nested_pairs, nested_triplet
from matryo.training.ranks import gather_with_grad, own_targets
from matryo.training.result import NestedLoss
from matryo.training.sizes import Sizes

_NORMALIZED = {"cos_sim": True, "pytorch_cos_sim": True, "dot_score": False}
_PAIR_METRICS: dict[str, PairMetric] = {
    "pairwise_cos_sim": "cosine",
    "pairwise_dot_score": "dot",
    "pairwise_angle_sim": "angle",
}
_LENGTHS_MATTER = ("dot", "eucl", "manhattan")


def translate(
    loss: nn.Module, columns: Sequence[Tensor], labels: Tensor | None, sizes: Sizes
) -> NestedLoss | None:
    """The loss of all sizes by one of ours, or None if there is none.

    Args:
        loss: What was wrapped; a subclass from elsewhere may compute anything, and has none.
        columns: `(rows, full_dim)` vectors of each column.
        labels: What the data say of each row.
        sizes: Dims and weights.

    Raises:
        InputError: columns or labels that do not fit the loss.
    """
    kind = type(loss)
    if not kind.__module__.startswith("sentence_transformers.") or kind.__name__ not in _KNOWN:
        return None
    return _KNOWN[kind.__name__](loss, columns, labels, sizes)


def lengths_matter(loss: nn.Module) -> bool:
    """Whether a loss is one of inner products or distances, for which prefixes stay as they are."""
    return any(part in _score_name(loss).lower() for part in _LENGTHS_MATTER)


def _score_name(loss: nn.Module) -> str:
    """How a loss scores two vectors, as it says on a model card; empty if it says nothing."""
    told: dict[str, Any] = getattr(loss, "get_config_dict", dict)()
    return str(told.get("similarity_fct", told.get("distance_metric", "")))


def _ranking(
    loss: Any, columns: Sequence[Tensor], _labels: Tensor | None, sizes: Sizes
) -> NestedLoss | None:
    directions, score = set(getattr(loss, "directions", ())), _score_name(loss)
    both = directions == {"query_to_doc", "doc_to_query"} and loss.partition_mode == "per_direction"
    hardened = getattr(loss, "hardness_mode", None) and loss.hardness_strength
    if score not in _NORMALIZED or hardened or not (both or directions == {"query_to_doc"}):
        return None
    if len(columns) < 2:
        raise InputError(
            f"{type(loss).__name__} needs at least 2 columns, anchors and positives, "
            f"got {len(columns)}"
        )
    find = partial(_find, loss, sizes=sizes, normalize=_NORMALIZED[score])
    forth = find(columns[0], torch.cat(list(columns[1:])))
    if not both:
        return forth
    back = find(columns[1], columns[0])
    return NestedLoss(
        (forth.loss + back.loss) / 2, (forth.per_size + back.per_size) / 2, sizes.dims
    )


def _find(
    loss: Any, rows: Tensor, candidates: Tensor, *, sizes: Sizes, normalize: bool
) -> NestedLoss:
    """Find for each row the candidate of its own number, among those of all ranks if wanted."""
    n, device = len(candidates), rows.device
    targets = torch.arange(n, device=device)
    if loss.gather_across_devices:
        targets, candidates = own_targets(n, device=device), gather_with_grad(candidates)
    return nested_info_nce(
        rows, candidates, sizes, targets=targets[: len(rows)], scale=loss.scale, normalize=normalize
    )


def _cosent(
    loss: Any, columns: Sequence[Tensor], labels: Tensor | None, sizes: Sizes
) -> NestedLoss | None:
    metric = _PAIR_METRICS.get(_score_name(loss))
    if metric is None:
        return None
    left, right, labels = _pairs(loss, columns, labels)
    return nested_pairs(
        partial(cosent, scale=loss.scale), left, right, labels, sizes, metric=metric
    )


def _angle(
    loss: Any, columns: Sequence[Tensor], labels: Tensor | None, sizes: Sizes
) -> NestedLoss | None:
    """Beyond two columns, the anchor belongs to the second and to none of the others."""
    others = len(columns) - 2
    if others > 0:
        anchors = columns[0]
        labels = anchors.new_ones(len(anchors)) if labels is None else labels.reshape(-1)
        labels = torch.cat([labels, (1 - labels).repeat(others)])
        columns = anchors.repeat(others + 1, 1), torch.cat(list(columns[1:]))
    return _cosent(loss, columns, labels, sizes)


def _cosine_similarity(
    loss: Any, columns: Sequence[Tensor], labels: Tensor | None, sizes: Sizes
) -> NestedLoss:
    left, right, labels = _pairs(loss, columns, labels)
    return nested_pairs(
        lambda scores, wanted: loss.loss_fct(
            loss.cos_score_transformation(scores), wanted.to(scores.dtype)
        ),
        left,
        right,
        labels,
        sizes,
    )


def _contrastive(
    loss: Any, columns: Sequence[Tensor], labels: Tensor | None, sizes: Sizes
) -> NestedLoss | None:
    if _score_name(loss) != "SiameseDistanceMetric.COSINE_DISTANCE" or not loss.size_average:
        return None
    left, right, labels = _pairs(loss, columns, labels)
    return nested_pairs(
        partial(contrastive, margin=loss.margin), left, right, labels.to(left.dtype), sizes
    )


def _triplet(
    loss: Any, columns: Sequence[Tensor], _labels: Tensor | None, sizes: Sizes
) -> NestedLoss | None:
    if _score_name(loss) != "TripletDistanceMetric.COSINE":
        return None
    if len(columns) != 3:
        raise InputError(
            f"TripletLoss needs 3 columns, anchors, positives and negatives, got {len(columns)}"
        )
    anchors, positives, negatives = columns
    return nested_triplet(anchors, positives, negatives, sizes, margin=loss.triplet_margin)


def _distillation(
    loss: Any, columns: Sequence[Tensor], labels: Tensor | None, sizes: Sizes
) -> NestedLoss:
    """Student and teacher are cut and scaled to length 1 alike; a projection is cut alone."""
    if labels is None or labels.ndim not in (2, 3):
        raise InputError(
            f"{type(loss).__name__} needs the teacher's vectors as labels, (rows, numbers) or "
            f"(rows, columns, numbers), got {None if labels is None else tuple(labels.shape)}"
        )
    teachers = [labels] * len(columns) if labels.ndim == 2 else list(labels.unbind(1))
    if len(teachers) != len(columns):
        raise InputError(
            f"labels: expected teacher's vectors for {len(columns)} columns, got {len(teachers)}"
        )
    projection = getattr(loss, "projection", None)
    width = columns[0].shape[1] if projection is None else projection.out_features
    if labels.shape[-1] != width:
        raise InputError(
            f"the teacher's vectors must have {width} numbers, got {labels.shape[-1]}",
            hint="give the loss a projection: projection_dim="
            f"{labels.shape[-1]} lets a model learn from a teacher of another width"
            if projection is None
            else None,
        )
    gap = _GAPS[getattr(loss, "distance_metric", "mse")]
    each = [
        _from_teacher(gap, student, teacher.detach().to(student), projection, sizes)
        for student, teacher in zip(columns, teachers, strict=True)
    ]
    return NestedLoss(
        torch.stack([made.loss for made in each]).mean(),
        torch.stack([made.per_size for made in each]).mean(0),
        sizes.dims,
    )


def _from_teacher(
    gap: Callable[[Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    projection: nn.Linear | None,
    sizes: Sizes,
) -> NestedLoss:
    if projection is not None:
        return nested(
            lambda rows, weight: gap(functional.linear(rows, weight, projection.bias), teacher),
            student,
            projection.weight,
            dims=sizes,
            normalize=False,
        )
    if gap is _squares:
        return nested_vector_mse(student, teacher, sizes)
    return nested(gap, student, teacher, dims=sizes)


def _squares(student: Tensor, teacher: Tensor) -> Tensor:
    gap: Tensor = functional.mse_loss(student, teacher)
    return gap


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    gaps: Tensor = torch.linalg.vector_norm(student - teacher, dim=-1)
    return gaps.mean()


def _angle_apart(student: Tensor, teacher: Tensor) -> Tensor:
    cosines: Tensor = functional.cosine_similarity(student, teacher)
    return (1 - cosines).mean()


_GAPS = {"mse": _squares, "l2": _distance, "cosine": _angle_apart}


def _softmax(
    loss: Any, columns: Sequence[Tensor], labels: Tensor | None, sizes: Sizes
) -> NestedLoss:
    """One classifier for all sizes (MRL-E): a size sees the prefixes in each part of its input."""
    left, right, labels = _pairs(loss, columns, labels)
    parts = []
    if loss.concatenation_sent_rep:
        parts += [left, right]
    if loss.concatenation_sent_difference:
        parts.append((left - right).abs())
    if loss.concatenation_sent_multiplication:
        parts.append(left * right)
    # number i of all parts, then number i + 1 of all parts: so the prefixes of all are one prefix
    features = torch.stack(parts, 2).flatten(1)
    head = loss.classifier
    weight = head.weight.unflatten(1, (len(parts), -1)).transpose(1, 2).flatten(1)
    wide = _times(sizes, len(parts))
    if _is_plain_cross_entropy(loss.loss_fct):
        made = nested_softmax(
            features,
            weight,
            labels,
            wide,
            bias=head.bias,
            label_smoothing=loss.loss_fct.label_smoothing,
        )
    else:
        made = nested(
            lambda rows, matrix: loss.loss_fct(functional.linear(rows, matrix, head.bias), labels),
            features,
            weight,
            dims=wide,
            normalize=False,
        )
    return NestedLoss(made.loss, made.per_size, sizes.dims)


def _times(sizes: Sizes, n: int) -> Sizes:
    """The same sizes where every number stands `n` times."""
    return replace(sizes, nesting=Nesting(tuple(n * dim for dim in sizes.dims)))


def _is_plain_cross_entropy(loss: object) -> bool:
    return (
        type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and loss.reduction == "mean"
        and loss.ignore_index == nn.CrossEntropyLoss().ignore_index
    )


def _pairs(
    loss: nn.Module, columns: Sequence[Tensor], labels: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both columns, and one number for each pair."""
    name = type(loss).__name__
    if len(columns) != 2:
        raise InputError(f"{name} needs 2 columns, got {len(columns)}")
    if labels is None:
        raise InputError(
            f"{name} needs a label for each pair, got none",
            hint='name a column of the data "label" or "score"',
        )
    if labels.numel() == len(columns[0]):
        labels = labels.reshape(-1)
    return columns[0], columns[1], labels.int() if labels.dtype is torch.bool else labels


_Translation = Callable[[Any, Sequence[Tensor], Tensor | None, Sizes], NestedLoss | None]
_KNOWN: dict[str, _Translation] = {
    "AnglELoss": _angle,
    "CachedMultipleNegativesRankingLoss": _ranking,
    "CachedMultipleNegativesSymmetricRankingLoss": _ranking,
    "CoSENTLoss": _cosent,
    "ContrastiveLoss": _contrastive,
    "CosineSimilarityLoss": _cosine_similarity,
    "EmbedDistillLoss": _distillation,
    "MSELoss": _distillation,
    "MultipleNegativesRankingLoss": _ranking,
    "MultipleNegativesSymmetricRankingLoss": _ranking,
    "SoftmaxLoss": _softmax,
    "TripletLoss": _triplet,
}
