"""Tests of a promise on queries that had no part in choosing what is promised.

Each answers one question: how likely would queries like these be if the promise were false? A
promise is issued where that probability, the p-value, is at most 1 - confidence. All of them are
valid at every number of queries and assume only that the queries are drawn independently from one
source (or are exchangeable).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp

from matryo.core import InputError
from matryo.evaluation.intervals import check_confidence

# Stakes that fall by the root of 2 come within 4 % of the best exponent; the boldest decides when
# nothing was lost at all, and begins with a quarter of the weight.
_STAKES = np.array([0.9995, *[0.9995 * 2 ** (-i / 2) for i in range(1, 25)]])
_LOG_WEIGHTS = np.log(np.array([0.25, *[0.75 / 24] * 24]))
_AIM = math.log(20)  # the wealth that carries a promise at 95 % confidence
_TRUST = 0.8  # weight of a stake that was learned
_HOPELESS = 4096.0  # times as many queries as there are


def gains(
    part: NDArray[np.floating], whole: NDArray[np.floating], floor: float
) -> NDArray[np.float64]:
    """What each query has above the floor: `part - floor * whole`, between -floor and 1.

    The floor is kept on average exactly where the mean of these is at least 0. The share per query,
    undefined where `whole` is 0, is never formed.

    Args:
        part: `(n,)` values from 0 to 1 of what is promised.
        whole: `(n,)` values from 0 to 1 of the full width, of the same queries.
        floor: Share of the full width to keep, above 0 and at most 1.

    Raises:
        InputError: a value or a floor outside its range.
    """
    if not (math.isfinite(floor) and 0 < floor <= 1):
        raise InputError(f"floor must be above 0 and at most 1, got {floor}", floor=floor)
    for values in (part, whole):
        if not ((values >= 0) & (values <= 1)).all():
            raise InputError(
                f"expected values from 0 to 1, got {np.min(values):g} to {np.max(values):g}"
            )
    # in float32 a query that lost everything could end below -floor
    return np.asarray(part, np.float64) - floor * np.asarray(whole, np.float64)


def mean_p_value(
    gains: NDArray[np.floating], *, lowest: float, learned: NDArray[np.floating] | None = None
) -> float:
    """p-value of "the mean of these gains is at most 0", by betting.

    A gambler who bets a share θ of their money that a gain is above 0 multiplies it by
    1 + θ·gain/lowest. If the mean is at most 0, no mixture of stakes fixed beforehand is expected
    to win anything, so by Markov's inequality it ends above 1/p with probability at most p
    (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting").
    Other queries (`learned`) may say which stake is the likeliest to end above 20 after as many
    queries, and it gets most of the weight. That leaves the test valid, since those queries are not
    used again.

    Args:
        gains: `(n,)` numbers of at least `-lowest`, one per query.
        lowest: How far below 0 a gain can be; above 0.
        learned: `(m,)` gains of other queries, from which a stake is learned.

    Returns:
        A number from 0 to 1.

    Raises:
        InputError: no gains, one below `-lowest`, or a `lowest` that is not above 0.
    """
    if not (math.isfinite(lowest) and lowest > 0):
        raise InputError(f"lowest must be above 0, got {lowest:g}", lowest=lowest)
    for values in (gains, *([] if learned is None else [learned])):
        if not (np.asarray(values) >= -lowest * (1 + 1e-12)).all():
            raise InputError(f"expected gains of at least {-lowest:g}, got {np.min(values):g}")
    if not len(gains):
        raise InputError("expected at least one query, got none")
    weights = _LOG_WEIGHTS
    if learned is not None and len(learned):
        weights = _learned_weights(learned, lowest, len(gains))
    won = float(logsumexp(weights + log_wealth(gains, lowest)))
    return math.exp(-max(won, 0.0))


def _learned_weights(learned: NDArray[np.floating], lowest: float, n: int) -> NDArray[np.float64]:
    """Logarithms of the weights of all stakes, most of it on the best for n queries like these."""
    # a few queries without a loss would put everything on the boldest stake: one loss is added
    logs = np.log1p(_STAKES[:, None] * np.append(learned, -lowest)[None] / lowest)
    # by the normal approximation of what a stake has made of one coin in the end
    certainty = (n * logs.mean(axis=1) - _AIM) / (math.sqrt(n) * logs.std(axis=1) + 1e-12)
    best = np.arange(len(_STAKES)) == certainty.argmax()
    weights: NDArray[np.float64] = np.log((1 - _TRUST) * np.exp(_LOG_WEIGHTS) + _TRUST * best)
    return weights


def log_wealth(gains: NDArray[np.floating], lowest: float) -> NDArray[np.float64]:
    """`(25,)` logarithms of what each stake of the mixture has made of one coin."""
    distinct, counts = np.unique(gains, return_counts=True)
    logs: NDArray[np.float64] = np.log1p(_STAKES[:, None] * (distinct / lowest)[None]) @ counts
    return logs


def hoeffding_bentkus_p_value(losses: NDArray[np.floating], allowed: float) -> float:
    """p-value of "the mean loss is above `allowed`", by Hoeffding's and Bentkus's inequalities.

    The bound that learn-then-test names first (Angelopoulos and others 2021, "Learn then test",
    equation 3); `mean_p_value` is sharper where losses are mostly 0.

    Args:
        losses: `(n,)` numbers from 0 to 1.
        allowed: Mean loss that is still allowed, between 0 and 1.

    Raises:
        InputError: no losses, or one outside its range; or such an allowed mean.
    """
    n = len(losses)
    if not n or not ((losses >= 0) & (losses <= 1)).all() or not 0 < allowed < 1:
        raise InputError(
            f"expected losses from 0 to 1 and an allowed mean between them, got {n} losses and "
            f"{allowed:g}"
        )
    mean = float(np.mean(losses, dtype=np.float64))
    a = min(mean, allowed)
    exponent = (0 if a == 0 else a * math.log(a / allowed)) + (1 - a) * math.log(
        (1 - a) / (1 - allowed)
    )
    bentkus = math.e * float(stats.binom.cdf(math.ceil(n * mean - 1e-9), n, allowed))
    return min(1.0, math.exp(-n * exponent), bentkus)


def share_p_value(hits: int, n: int, floor: float) -> float:
    """p-value of "at most a share `floor` of queries succeed": the exact binomial test.

    Args:
        hits: Queries that succeeded.
        n: Queries.
        floor: Share from 0 to 1 that is promised.

    Raises:
        InputError: no queries, or a number outside its range.
    """
    if not 0 <= hits <= n or not n:
        raise InputError(f"expected between 0 and {n} successes of at least one query, got {hits}")
    if not 0 <= floor <= 1:
        raise InputError(f"floor must be between 0 and 1, got {floor}", floor=floor)
    return float(stats.binom.sf(hits - 1, n, floor))


def conformal_knob(losses: NDArray[np.floating], allowed: float) -> int | None:
    """The first setting of a monotone knob whose expected loss on a new query is at most `allowed`.

    Conformal risk control (Angelopoulos and others 2022, theorem 1): the first λ with
    (n·R̂(λ) + 1) / (n + 1) <= allowed, for losses that never rise along the knob. The expectation
    is over the calibration queries too: it carries no confidence.

    Args:
        losses: `(settings, n)` losses from 0 to 1, one row per setting in the order of the knob.
        allowed: Expected loss that is still allowed.

    Returns:
        Number of the setting, or None if none will do.

    Raises:
        InputError: a loss outside its range, or one of some query that rises along the knob.
    """
    if not ((losses >= 0) & (losses <= 1)).all():
        raise InputError(
            f"expected losses from 0 to 1, got {np.min(losses):g} to {np.max(losses):g}"
        )
    rising = np.argwhere(np.diff(losses, axis=0) > 1e-12)
    if len(rising):
        setting, query = rising[0].tolist()
        raise InputError(
            "an expected promise needs losses that never rise along the knob, but the loss of "
            f"query number {query} rises from setting {setting} to {setting + 1}",
            hint="promise a mean or a share, which any set of candidates can have",
        )
    n = losses.shape[1]
    good = np.flatnonzero((losses.sum(axis=1) + 1) / (n + 1) <= allowed + 1e-12)
    return int(good[0]) if good.size else None


def fewest_certifying(floor: float, *, confidence: float = 0.95, family: int = 1) -> int:
    """Queries below which no promise of a share or a mean could be issued, even without a failure.

    The smallest n with floor^n <= (1 - confidence) / family: 59 for 0.95 at 95 % confidence, 299
    for 0.99, and 162 for 0.95 where 200 candidates share the error (Bonferroni).

    Args:
        floor: Share of queries, or of the full-width value where that is 1, above 0 and below 1.
        confidence: Of the promise.
        family: Candidates that share 1 - confidence between them; 1 for a fixed sequence.

    Raises:
        InputError: a floor or a confidence outside its range.
    """
    if not 0 < floor < 1:
        raise InputError(f"floor must be between 0 and 1, got {floor}", floor=floor)
    alpha = (1 - check_confidence(confidence)) / family
    n = max(1, math.floor(math.log(alpha) / math.log(floor)))
    while share_p_value(n, n, floor) > alpha:  # the test itself has the last word on rounding
        n += 1
    return n


def queries_to_certify(
    gains: NDArray[np.floating], *, lowest: float, confidence: float = 0.95
) -> int | None:
    """About how many queries like these would carry the promise, by the same test.

    Args:
        gains: `(n,)` gains of the queries at hand.
        lowest: How far below 0 a gain can be.
        confidence: Of the promise.

    Returns:
        Certifying queries; None if the mean gain is not above 0, or so close to it that no number
        of queries that anyone could gather would do.

    Raises:
        InputError: a confidence outside its range.
    """
    wealth, enough = log_wealth(gains, lowest), -math.log(1 - check_confidence(confidence))
    low, high = 0.0, 1.0
    while logsumexp(high * wealth + _LOG_WEIGHTS) < enough:
        low, high = high, 2 * high
        if high > _HOPELESS:
            return None
    for _ in range(30):
        middle = (low + high) / 2
        reached = logsumexp(middle * wealth + _LOG_WEIGHTS) >= enough
        low, high = (low, middle) if reached else (middle, high)
    return math.ceil(high * len(gains))
