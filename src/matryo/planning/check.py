"""A finished plan on new data: does its promise still hold?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from matryo.core import Funnel, InputError, Plan, Promise, Transform
from matryo.evaluation import Interval, Judged, cutoff, neighbor_recall, relevance
from matryo.planning.certify import (
    check_enough_for,
    interval_of,
    kept_of,
    queries_needed,
    try_promise,
)
from matryo.planning.parts import Calibration, digest_of
from matryo.search import Answer, Level, TopK, View, run, scan


@dataclass(frozen=True)
class Check:
    """What new queries say of a promise.

    Attributes:
        verdict: `holds`: these queries alone would carry the promise; `broken`: they exclude it;
            `cannot tell`.
        kept: Share of the full-width value, or of the queries that reach their floor.
        interval: Of `kept`, at the confidence of the promise (95 % for an expected one).
        p_value: Of "the promise is false"; None for an expected promise, which is no test.
        n: Queries.
        needed: About how many queries like these would carry the promise, if they cannot tell.
        same_data: Whether these are the very data that the plan was chosen on.
        bytes_read: Mean bytes read for a query, measured.
    """

    verdict: Literal["holds", "broken", "cannot tell"]
    kept: float
    interval: Interval
    p_value: float | None
    n: int
    needed: int | None
    same_data: bool
    bytes_read: float


def check(
    plan: Plan,
    vectors: NDArray[np.floating],
    queries: NDArray[np.floating],
    *,
    judged: Judged | None = None,
    groups: Sequence[str] | None = None,
    transform: Transform | None = None,
) -> Check:
    """Run a plan on new data and certify its promise again, all queries being new.

    Args:
        plan: A search plan with a promise.
        vectors: `(n, full_dim)` whole document vectors, before the plan's transform.
        queries: `(q, full_dim)` whole query vectors, before the plan's transform.
        judged: Judgments, for a promise of relevance.
        groups: Group of each query, for a promise with groups.
        transform: The fitted transform that the plan names.

    Raises:
        InputError: a plan without a promise or of another kind, or judgments that it needs.
        TooFewError: so few queries that no outcome could carry the promise.
    """
    promise = plan.promise
    if promise is None or not isinstance(plan.run, Funnel):
        raise InputError("only a search plan with a promise can be checked, got another one")
    missing = sorted(set(promise.groups) - set(groups or ()))
    if missing:
        raise InputError(
            f"this promise holds in each of {len(promise.groups)} groups: expected the group of "
            f"every query, found none of the group {missing[0]!r}",
            hint="give the groups of the new queries",
        )
    check_enough_for(promise, len(queries))
    k = plan.run.stages[-1].keep
    answers = run(replace(plan, threshold=None), vectors, queries, transform=transform)
    if transform is not None:
        vectors, queries = transform.transform(vectors), transform.transform(queries)
    full = Level(plan.space.full_dim)
    truth = scan(queries, vectors, {"": View([full])}, k=k, metric=plan.space.metric)["", full]
    part, whole = _values(promise, answers, truth, k, judged)
    names = None if groups is None else np.array(list(groups))
    trial = None
    if promise.confidence is not None:
        trial = try_promise(promise, part, whole, groups=names)
    interval = interval_of(promise, part, whole)
    verdict: Literal["holds", "broken", "cannot tell"] = "cannot tell"
    if interval.high < promise.floor:
        verdict = "broken"
    elif trial.passed if trial is not None else interval.low >= promise.floor:
        verdict = "holds"
    data = Calibration(queries, vectors, plan.space)
    return Check(
        verdict=verdict,
        kept=kept_of(promise, part, whole),
        interval=interval,
        p_value=None if trial is None else trial.p_value,
        n=len(queries),
        needed=None
        if trial is None or verdict != "cannot tell"
        else queries_needed(promise, part, whole),
        same_data=(plan.evidence or {}).get("calibration") == digest_of(data),
        bytes_read=float(np.mean([answer.bytes_read for answer in answers])),
    )


def _values(
    promise: Promise, answers: Sequence[Answer], truth: TopK, k: int, judged: Judged | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Value of the measure for each query, by the plan and at full width."""
    found = TopK(
        np.array([answer.rows for answer in answers]),
        np.array([answer.scores for answer in answers]),
        [],
    )
    if promise.measure == f"neighbor_recall@{k}":
        return neighbor_recall(found, truth, k), np.ones(len(answers))
    if judged is None:
        raise InputError(
            f"this plan promises {promise.measure}, which needs judgments: got none",
            hint="give the qrels of these queries",
        )
    if cutoff(promise.measure) > k:
        raise InputError(f"answers of {k} rows cannot be measured by {promise.measure}")
    both = [
        relevance(
            some,
            query_ids=judged.queries,
            document_ids=judged.documents,
            qrels=judged.qrels,
            names=[promise.measure],
        )[promise.measure]
        for some in (found, truth)
    ]
    return both[0], both[1]
