"""From values per query to a promise: split, order, test in a fixed sequence.

One part of the queries puts the candidates in order, the next one certifies them from the safest to
the cheapest until the first fails, and the last one reports. Since the order is settled before a
certifying query is looked at, every candidate that passes is certified at the full confidence, and
any of them may be picked afterwards (fixed-sequence testing; Angelopoulos and others 2021, "Learn
then test").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, Promise, TooFewError
from matryo.evaluation import (
    Interval,
    fewest_certifying,
    gains,
    mean_interval,
    mean_p_value,
    queries_to_certify,
    share_interval,
    share_p_value,
)

PARTS = (0.25, 0.5, 0.25)  # ordering, certifying, reporting
_LEAST_PER_GROUP = 8  # queries of a group, so that every part has two of them
_LOSS = 0.1  # of a measure, when a single row of an answer is lost
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Split:
    """Numbers of the queries in each part, ascending."""

    order: NDArray[np.int64]
    certify: NDArray[np.int64]
    report: NDArray[np.int64]


def split_queries(n: int, *, seed: int = 0, groups: Sequence[str] | None = None) -> Split:
    """Deal queries out to the parts at random, each group on its own.

    Args:
        n: Queries.
        seed: Seed of the shuffle.
        groups: Name of the group of each query.

    Raises:
        InputError: not one group name for each query.
        TooFewError: fewer than 8 queries, or a group with fewer.
    """
    names = np.array(["all"] * n if groups is None else list(groups))
    if len(names) != n:
        raise InputError(f"expected one group for each of the {n} queries, got {len(names)}")
    rng = np.random.default_rng(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for name in np.unique(names):
        members = rng.permutation(np.flatnonzero(names == name))
        if len(members) < _LEAST_PER_GROUP:
            what = "queries" if groups is None else f"queries of the group {str(name)!r}"
            raise TooFewError(
                f"at least {_LEAST_PER_GROUP} {what} are needed to order, certify and report on "
                f"different ones, got {len(members)}",
                hint="give more queries" if groups is None else "give more, or merge small groups",
                needed=_LEAST_PER_GROUP,
            )
        first = round(PARTS[0] * len(members))
        second = first + round(PARTS[1] * len(members))
        for part, some in zip(parts, np.split(members, [first, second]), strict=True):
            part.extend(some.tolist())
    return Split(*(np.array(sorted(part), np.int64) for part in parts))


@dataclass(frozen=True)
class Trial:
    """What a test said of one candidate.

    Attributes:
        p_value: Of "the promise is false"; with groups the largest over them.
        passed: Whether the promise may be issued.
        worst_group: The group with the largest p-value, where there are groups.
    """

    p_value: float
    passed: bool
    worst_group: str | None = None


def needed_for(promise: Promise) -> int:
    """Certifying queries below which no outcome at all could carry this promise."""
    if promise.confidence is None:
        # one loss of 1 is added to n of 0 in conformal risk control
        return math.ceil(1 / (1 - promise.floor) - 1 - _ROUNDING)
    return fewest_certifying(promise.floor, confidence=promise.confidence)


def try_promise(
    promise: Promise,
    part: NDArray[np.floating],
    whole: NDArray[np.floating],
    *,
    learned: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    groups: NDArray[np.str_] | None = None,
    learned_groups: NDArray[np.str_] | None = None,
) -> Trial:
    """Test a promise of a mean or a share on queries that had no part in choosing the candidate.

    A promise for every group is false as soon as it is false for one, so it is issued only if every
    group passes, each at the full level (an intersection-union test; Berger 1982). That is sharper
    than dividing the level among the groups, and no less strict.

    Args:
        promise: Of kind mean or share.
        part: `(n,)` values of the candidate.
        whole: `(n,)` values of the full width on the same queries.
        learned: The same two of other queries, from which the stakes of a mean are learned.
        groups: `(n,)` name of the group of each query, for a promise with groups.
        learned_groups: The same for `learned`.

    Raises:
        TooFewError: so few queries, or so few in a group, that no outcome could carry the promise.
    """
    assert promise.confidence is not None  # noqa: S101  # an expected promise is no test
    alpha = 1 - promise.confidence
    tests: list[tuple[float, str | None]] = []
    for name in promise.groups or (None,):
        here = np.full(len(part), True) if name is None else groups == name
        what = "queries" if name is None else f"queries of the group {name!r}"
        check_enough_for(promise, int(np.sum(here)), what=what)
        if promise.kind == "share":
            p_value = share_p_value(
                int(hits(promise, part[here], whole[here]).sum()), int(np.sum(here)), promise.floor
            )
        else:
            past = None
            if learned is not None:
                then = slice(None) if name is None else learned_groups == name
                past = gains(learned[0][then], learned[1][then], promise.floor)
            p_value = mean_p_value(
                gains(part[here], whole[here], promise.floor), lowest=promise.floor, learned=past
            )
        tests.append((p_value, name))
    p_value, worst = max(tests, key=lambda test: test[0])
    return Trial(p_value, p_value <= alpha, worst)


def margin_of(
    promise: Promise, part: NDArray[np.floating], whole: NDArray[np.floating]
) -> tuple[float, float]:
    """How far the promise is kept on these queries, and the standard error of that."""
    if promise.kind == "share":
        kept = hits(promise, part, whole).astype(np.float64) - promise.floor
    else:
        kept = gains(part, whole, promise.floor)
    # a spread of 0 on few queries is luck: one query more that loses what queries lose is added
    lost = 1.0 if promise.kind == "share" else _LOSS
    spread = math.sqrt((float(np.var(kept)) * len(kept) + lost**2) / (len(kept) + 1))
    return float(kept.mean()), spread / math.sqrt(len(kept))


def queries_needed(
    promise: Promise, part: NDArray[np.floating], whole: NDArray[np.floating]
) -> int | None:
    """About how many certifying queries like these would carry the promise; None if none would."""
    assert promise.confidence is not None  # noqa: S101  # an expected promise is no test
    if promise.kind == "share":
        kept, lowest = hits(promise, part, whole) - promise.floor, promise.floor
    else:
        kept, lowest = gains(part, whole, promise.floor), promise.floor
    needed = queries_to_certify(kept, lowest=lowest, confidence=promise.confidence)
    return None if needed is None else max(needed, needed_for(promise))


def check_enough_for(
    promise: Promise, n: int, *, what: str = "queries", hint: str | None = None
) -> None:
    """Refuse so few certifying queries that no outcome could carry the promise.

    Args:
        promise: What would be promised.
        n: How many there are.
        what: What they are, for the message.
        hint: What to do, where more is known about that.

    Raises:
        TooFewError: `needed` is the number that would do.
    """
    needed = needed_for(promise)
    if n < needed:
        sure = "" if promise.confidence is None else f" at {promise.confidence:.0%} confidence"
        raise TooFewError(
            f"at least {needed} {what} are needed in the certifying part for a floor of "
            f"{promise.floor:g}{sure}, got {n}",
            hint=hint or "give more queries, or lower the floor or the confidence",
            needed=needed,
        )


def kept_of(promise: Promise, part: NDArray[np.floating], whole: NDArray[np.floating]) -> float:
    """Share of the full-width value; for a promise of a share, of queries that reach it."""
    if promise.kind == "share":
        return float(hits(promise, part, whole).mean())
    return float(part.mean() / whole.mean())


def interval_of(
    promise: Promise,
    part: NDArray[np.floating],
    whole: NDArray[np.floating],
    *,
    family: int = 1,
) -> Interval:
    """Interval of `kept_of`, one of a family that holds together.

    Its confidence is that of the promise, 95 % where that has none.
    """
    confidence = promise.confidence or 0.95
    if promise.kind == "share":
        reached = hits(promise, part, whole).astype(np.float64)
        return mean_interval(reached, confidence=confidence, family=family)
    if (whole == 1).all():
        return mean_interval(part, confidence=confidence, family=family)
    return share_interval(part, whole, confidence=confidence, family=family)


def hits(
    promise: Promise, part: NDArray[np.floating], whole: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Which queries reach what a promise of a share asks of each of them."""
    assert promise.query_floor is not None  # noqa: S101  # the value has seen to it
    reached: NDArray[np.bool_] = part >= promise.query_floor * whole - _ROUNDING
    return reached
