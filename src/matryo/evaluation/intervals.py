"""Intervals for means of bounded values, valid at every sample size.

A betting test of "the mean is at most m" multiplies 1 + θ(x/m - 1) over the values x in [0, 1]. If
the statement is true, the expected product is at most 1, so by Markov's inequality a product above
1/α is seen with probability at most α (Waudby-Smith and Ramdas 2024, "Estimating means of bounded
random variables by betting"). The stakes θ here are a fixed mixture: the product does not depend on
the order of the values, and an interval never rests on a single lucky bet. All m that are not
refuted form the interval. Near 1, where a bootstrap sees no spread and claims certainty, these
bounds still widen as they must.

`family` is the number of intervals shown together: each is computed at 1 - (1 - confidence)/family,
so that all of them hold at once with the stated confidence (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp

from matryo.core import InputError

# Halving stakes come within 17 % of the best exponent; the boldest, which decides when nothing was
# missed, has a quarter of the weight.
_STAKES = np.array([0.9995 / 2**i for i in range(13)])
_LOG_WEIGHTS = np.log(np.array([0.25, *[0.75 / 12] * 12]))
_STEPS = 60
_HOPELESS = 256  # times as many queries as there are


class Interval(NamedTuple):
    """Both ends, of the same unit as the figure they stand beside."""

    low: float
    high: float


def check_confidence(confidence: float) -> float:
    """Return the confidence if it lies between 0 and 1.

    Raises:
        InputError: it does not.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {confidence}")
    return confidence


def mean_interval(
    values: NDArray[np.floating], *, confidence: float = 0.95, family: int = 1
) -> Interval:
    """Interval for the mean that independent values in [0, 1] were drawn from.

    Values that are all 0 or 1 get the exact binomial interval (Clopper and Pearson 1934), all
    others the betting interval.

    Args:
        values: `(n,)` numbers from 0 to 1, one per query.
        confidence: Probability, from 0 to 1, that the interval covers the mean.
        family: Number of intervals that should hold together.

    Raises:
        InputError: no values, or one outside [0, 1].
    """
    _check_unit(values)
    alpha = (1 - check_confidence(confidence)) / family / 2
    distinct, counts = np.unique(values, return_counts=True)
    if np.isin(distinct, (0.0, 1.0)).all():
        n, hits = len(values), int(values.sum())
        low = float(stats.beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0
        high = float(stats.beta.isf(alpha, hits + 1, n - hits)) if hits < n else 1.0
        return Interval(low, high)
    mean, enough = float(np.average(distinct, weights=counts)), -math.log(alpha)
    low = _border(lambda m: _log_product(distinct / m - 1, counts) >= enough, 0.0, mean)
    high = _border(lambda m: _log_product((1 - distinct) / (1 - m) - 1, counts) < enough, mean, 1.0)
    return Interval(low, high)


def share_interval(
    part: NDArray[np.floating],
    whole: NDArray[np.floating],
    *,
    confidence: float = 0.95,
    family: int = 1,
) -> Interval:
    """Interval for E[part] / E[whole], from pairs of values in [0, 1] of the same queries.

    A share r is refuted from below by betting on part/r - whole and from above by betting on
    r·whole - part, which are at least -1; the share per query, undefined where `whole` is 0, is
    never formed. A floor f is kept exactly when the interval lies above f.

    Args:
        part: `(n,)` values of the smaller size.
        whole: `(n,)` values of the full width.
        confidence: Probability that the interval covers the share.
        family: Number of intervals that should hold together.

    Raises:
        InputError: no values, one outside [0, 1], or `whole` is 0 for every query.
    """
    _check_unit(part)
    _check_unit(whole)
    if not whole.any():
        raise InputError("the full width scores 0 on every query, so no share of it can be stated")
    enough = -math.log((1 - check_confidence(confidence)) / family / 2)
    share = float(part.mean() / whole.mean())
    low = _border(lambda r: _log_product(part / r - whole) >= enough, 0.0, share) if share else 0.0
    top = max(2.0, 2 * share)
    while _log_product(top * whole - part) < enough and top < 1e6:
        top *= 2
    high = _border(lambda r: _log_product(r * whole - part) < enough, share, top)
    return Interval(low, high)


def difference_interval(
    a: NDArray[np.floating], b: NDArray[np.floating], *, confidence: float = 0.95, family: int = 1
) -> Interval:
    """Interval for E[a] - E[b], from pairs of values in [0, 1] of the same queries.

    The differences lie in [-1, 1]; they are moved to [0, 1] and bounded as any mean.
    """
    _check_unit(a)
    _check_unit(b)
    low, high = mean_interval((a - b + 1) / 2, confidence=confidence, family=family)
    return Interval(2 * low - 1, 2 * high - 1)


def queries_needed(
    part: NDArray[np.floating],
    whole: NDArray[np.floating],
    floor: float,
    *,
    confidence: float = 0.95,
    family: int = 1,
) -> int | None:
    """About how many queries like these would decide whether `part` keeps a share `floor`.

    The same test as in the intervals, on the data repeated as often as it takes.

    Returns:
        A number above `len(part)`; None if the figure lies so close to the floor that no number of
        queries anyone could gather would tell.
    """
    enough = -math.log((1 - check_confidence(confidence)) / family / 2)
    if (whole == 1).all():
        above, below = part / floor - 1, (1 - part) / max(1 - floor, 1e-12) - 1
    else:
        above, below = part / floor - whole, floor * whole - part
    exponents = [_log_products(gains) for gains in (above, below)]
    best = max(exponents, key=lambda sums: float(sums.max()))

    def decided(times: float) -> bool:
        return bool(logsumexp(times * best + _LOG_WEIGHTS) >= enough)

    times = 2.0
    while not decided(times):
        times *= 2
        if times > _HOPELESS:
            return None
    times = _border(lambda t: not decided(t), 1.0, times)
    return max(len(part) + 1, math.ceil(times * len(part)))


def fewest_queries(floor: float, *, confidence: float = 0.95, family: int = 1) -> int:
    """The number of queries below which no result at all, good or bad, could lead to a verdict."""
    # the exact interval of hits, or of misses, alone ends at α^(1/n)
    alpha, n = (1 - confidence) / family / 2, 1
    while alpha ** (1 / n) < floor <= 1 - alpha ** (1 / n):
        n += 1
    return n


def spearman_shares(
    scores: NDArray[np.floating],
    truth: NDArray[np.floating],
    *,
    reference: int,
    confidence: float = 0.95,
    family: int = 1,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[NDArray[np.float64], list[Interval], list[Interval]]:
    """Spearman correlations with `truth`, and each as a share of the reference's, with intervals.

    A correlation is no mean, so the bounds above do not apply: these are value ± z · (standard
    error over paired bootstrap resamples), with z for the whole family.

    Args:
        scores: `(m, n)` scores of n pairs by m methods.
        truth: `(n,)` judgments.
        reference: Row of `scores` that shares are taken of.
        confidence: Probability that an interval covers.
        family: Number of intervals that should hold together.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        `(m,)` correlations, their intervals, and the intervals of their shares.
    """
    n = len(truth)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, n, (resamples, n))
    right = _unit_ranks(truth[picks])
    values = np.array([float(_unit_ranks(row) @ _unit_ranks(truth)) for row in scores])
    samples = np.array([np.einsum("ij,ij->i", _unit_ranks(row[picks]), right) for row in scores])
    z = float(stats.norm.isf((1 - check_confidence(confidence)) / family / 2))

    def around(centre: NDArray[np.floating], spread: NDArray[np.floating]) -> list[Interval]:
        return [
            Interval(float(c - z * s), float(c + z * s))
            for c, s in zip(centre, spread, strict=True)
        ]

    shares = samples / samples[reference]
    return (
        values,
        around(values, samples.std(axis=1, ddof=1)),
        around(values / values[reference], shares.std(axis=1, ddof=1)),
    )


def _unit_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks along the last axis, centred and of length 1: their products are correlations."""
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    unit: NDArray[np.float64] = ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)
    return unit


def _log_products(
    gains: NDArray[np.floating], counts: NDArray[np.integer] | None = None
) -> NDArray[np.float64]:
    """Logarithm of the product of 1 + θ·gain, for each stake θ."""
    logs = np.log1p(_STAKES[:, None] * gains[None, :])
    sums: NDArray[np.float64] = logs.sum(axis=1) if counts is None else logs @ counts
    return sums


def _log_product(gains: NDArray[np.floating], counts: NDArray[np.integer] | None = None) -> float:
    """Logarithm of the mixture of the products over all stakes."""
    return float(logsumexp(_log_products(gains, counts) + _LOG_WEIGHTS))


def _border(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a statement that holds towards `low` stops to hold, by bisection."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2


def _check_unit(values: NDArray[np.floating]) -> None:
    if not len(values):
        raise InputError("expected at least one value, got none")
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(
            f"expected values from 0 to 1, got {np.min(values):g} to {np.max(values):g}"
        )
