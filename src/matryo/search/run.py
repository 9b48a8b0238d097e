"""A plan, run on vectors in memory: what every index and store must answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    DimError,
    Funnel,
    InputError,
    NestedVectors,
    Plan,
    Precision,
    SideSpec,
    Space,
    Transform,
    UnsupportedError,
    check_vectors,
)
from matryo.readers import Vectors
from matryo.search.answer import Answer
from matryo.search.funnel import FunnelSearch

_Given = NDArray[np.floating] | NestedVectors | Vectors


def run(
    plan: Plan, vectors: _Given, queries: _Given, *, transform: Transform | None = None
) -> list[Answer]:
    """Run the funnel of a plan for every query.

    Args:
        plan: What to run, with the int8 steps that its stages need.
        vectors: `(n, full_dim)` whole vectors of documents. Where they say which space they come
            from, it must be that of the plan, before its transform.
        queries: `(q, full_dim)` whole vectors of queries, of the same space.
        transform: The transform that the plan names, if it names one; applied to both sides.

    Returns:
        One answer per query. If the plan has a threshold, answers have `full_scores`, and rows
        below the threshold are left out.

    Raises:
        UnsupportedError: the plan is for a cascade, or its funnel cannot be run by `FunnelSearch`.
        SpaceMismatchError: vectors of another space.
        InputError: not the transform that the plan names, or int8 steps are missing.
        DimError: vectors that are not as wide as the space of the plan.
        VectorError: NaN, infinity, or, for a cosine, a vector or a prefix of zeros.
    """
    if not isinstance(plan.run, Funnel):
        raise UnsupportedError(
            "expected a plan with a funnel, got one with an exit policy, which is for a cascade",
            hint="classify with matryo.cascade.run",
        )
    _check_transform(plan, transform)
    for stage in plan.run.stages:
        if stage.precision is Precision.INT8 and stage.dim not in plan.scales:
            raise InputError(
                f"this plan has a stage {stage}, but no int8 steps for {stage.dim} numbers",
                hint=f"fit_scales learns them: Plan(..., scales={{{stage.dim}: steps}})",
                dim=stage.dim,
            )
    documents = _whole(vectors, "vectors", plan, transform)
    asked = _whole(queries, "queries", plan, transform)
    search = FunnelSearch(documents, plan.run, metric=plan.space.metric, scales=plan.scales)
    return [_above_threshold(search.search(query), plan) for query in asked]


def _check_transform(plan: Plan, transform: Transform | None) -> None:
    if plan.transform is None and transform is not None:
        raise InputError(
            f"this plan names no transform, got one with digest {transform.digest}",
            hint="leave it out, or make the plan on transformed vectors",
        )
    if plan.transform is not None and (transform is None or transform.digest != plan.transform):
        got = "none" if transform is None else f"one with digest {transform.digest}"
        raise InputError(
            f"this plan needs the transform with digest {plan.transform}, got {got}",
            hint="load_transform reads it from where it was saved",
        )


def _whole(
    given: _Given, what: str, plan: Plan, transform: Transform | None
) -> NDArray[np.floating]:
    """Vectors as an array, after the transform, fit to meet those of the plan."""
    space: Space | None = getattr(given, "space", None)
    if space is not None:
        expected = _before_transform(plan, space.full_dim)
        expected.require_same(space, here="this plan is for", there=f"the {what} come from")
    array = np.asarray((given.array if isinstance(given, Vectors) else given)[:])
    ids, allow_zero = getattr(given, "ids", None), plan.space.metric != "cosine"
    check_vectors(array, what=what, ids=ids, allow_zero=allow_zero)
    if transform is not None:
        array = transform.transform(array)
    if array.shape[1] != plan.space.full_dim:
        raise DimError(
            f"{what}: this plan is for vectors of {plan.space.full_dim} numbers, "
            f"got {array.shape[1]}",
            hint="give whole vectors: the stages of the plan cut them",
            dim=array.shape[1],
        )
    return array


def _before_transform(plan: Plan, width: int) -> Space:
    """The space that vectors come from before the plan's transform, which may change their width.

    A plan's space is that of its vectors after the transform, and names it as their map.
    """
    if plan.transform is None:
        return plan.space

    def without(side: SideSpec) -> SideSpec:
        return replace(side, map=None) if side.map == plan.transform else side

    space = plan.space
    return replace(
        space, full_dim=width, query=without(space.query), document=without(space.document)
    )


def _above_threshold(answer: Answer, plan: Plan) -> Answer:
    """The answer without rows whose full-width score would be below the plan's threshold."""
    limit = plan.threshold
    if limit is None:
        return answer
    full_scores = np.interp(answer.scores, limit.scores, limit.full_scores)
    kept = full_scores >= limit.full
    return replace(
        answer,
        rows=answer.rows[kept],
        scores=answer.scores[kept],
        full_scores=full_scores[kept],
    )
