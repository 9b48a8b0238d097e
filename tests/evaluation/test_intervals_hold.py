"""Intervals cover as often as they say, verdicts follow from them, and nothing is invented."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from matryo.core import InputError, TooFewError
from matryo.evaluation import (
    Rules,
    compare,
    difference_interval,
    fewest_queries,
    fit_score_map,
    judge,
    mean_interval,
    queries_needed,
    share_interval,
    spearman_shares,
)
from matryo.search import Level

RUNS = 400


def most_misses(level, runs=RUNS):
    """Misses that a method of this level stays within in 999 of 1,000 repetitions."""
    return stats.binom.ppf(0.999, runs, level)


def recalls(rng, n, mean):
    """Synthetic recall@10: most queries miss nothing, a few miss much."""
    hard = rng.random(n) < 4 * (1 - mean)
    return np.where(hard, rng.binomial(10, 0.75, n), 10) / 10


DRAWS = {
    "coin near 1": (lambda rng, n: (rng.random(n) < 0.98).astype(float), 0.98),
    "recall near 1": (lambda rng, n: recalls(rng, n, 0.98), 0.98),
    "beta": (lambda rng, n: rng.beta(2, 5, n), 2 / 7),
    "three points": (lambda rng, n: rng.choice([1, 0.9, 0.5], n, p=[0.9, 0.08, 0.02]), 0.982),
    "rare hits": (lambda rng, n: rng.binomial(1, 0.03, n) * 0.5, 0.015),
}


@pytest.mark.slow
@pytest.mark.parametrize("n", [30, 225, 1000])
@pytest.mark.parametrize("name", DRAWS)
def test_mean_intervals_cover_as_often_as_they_say(name, n):
    draw, mean = DRAWS[name]
    rng = np.random.default_rng(11)

    intervals = [mean_interval(draw(rng, n), confidence=0.9) for _ in range(RUNS)]

    assert sum(not low <= mean <= high for low, high in intervals) <= most_misses(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("n", [40, 300])
def test_share_intervals_cover_the_share_of_the_means(n):
    rng = np.random.default_rng(5)
    misses = 0
    for _ in range(RUNS):
        full = rng.beta(1, 2, n) * (rng.random(n) < 0.7)
        part = full * rng.choice([1, 1, 1, 0.5, 0], n)
        low, high = share_interval(part, full, confidence=0.9)
        misses += not low <= 0.7 <= high

    assert misses <= most_misses(0.1)


@pytest.mark.slow
def test_a_family_of_intervals_holds_together():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(RUNS):
        rows = [recalls(rng, 150, mean) for mean in (0.8, 0.9, 0.95, 0.98)]
        bounds = [mean_interval(row, confidence=0.9, family=4) for row in rows]
        wrong += any(
            not low <= mean <= high
            for (low, high), mean in zip(bounds, (0.8, 0.9, 0.95, 0.98), strict=True)
        )

    assert wrong <= most_misses(0.1)


@pytest.mark.slow
def test_the_same_model_twice_is_called_different_no_more_often_than_the_level():
    rng = np.random.default_rng(8)
    a, b = recalls(rng, 500, 0.9), recalls(rng, 500, 0.85)
    called = 0
    for _ in range(RUNS):
        swap = rng.random(500) < 0.5
        left, right = np.where(swap, b, a), np.where(swap, a, b)
        called += compare(left, right, confidence=0.9, family=1)["shown"] is not None

    assert called <= most_misses(0.1)


@pytest.mark.parametrize("name", DRAWS)
def test_so_do_a_hundred_intervals(name):
    draw, mean = DRAWS[name]
    rng = np.random.default_rng(12)

    intervals = [mean_interval(draw(rng, 100), confidence=0.8) for _ in range(100)]

    assert sum(not low <= mean <= high for low, high in intervals) <= most_misses(0.2, 100)


def test_a_real_difference_is_seen():
    rng = np.random.default_rng(8)
    a = recalls(rng, 1000, 0.95)
    b = np.clip(a - (rng.random(1000) < 0.3) * 0.2, 0, 1)

    low, high = difference_interval(a, b)

    assert 0 < low <= (a - b).mean() <= high


def test_hits_and_misses_get_the_exact_binomial_interval():
    values = np.array([1.0] * 47 + [0.0] * 3)

    interval = mean_interval(values, confidence=0.95)

    exact = stats.binomtest(47, 50).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(interval, (exact.low, exact.high), rtol=1e-9)


def test_near_one_the_interval_is_tighter_than_hoeffding_and_never_certain():
    values = recalls(np.random.default_rng(1), 1000, 0.98)
    hoeffding = np.sqrt(np.log(2 / 0.05) / (2 * 1000))

    low, high = mean_interval(values)

    assert values.mean() - low < 0.5 * hoeffding
    assert mean_interval(np.ones(50)).low < 0.98 < mean_interval(np.ones(1000)).low
    assert high < 1


@given(st.lists(st.sampled_from([0.0, 0.3, 0.9, 1.0]), min_size=3, max_size=40))
def test_the_order_of_the_queries_changes_nothing(values):
    array = np.array(values)

    shuffled = np.random.default_rng(0).permutation(array)

    np.testing.assert_allclose(mean_interval(shuffled), mean_interval(array), atol=1e-12)


@given(
    part=st.lists(st.sampled_from([0.0, 0.5, 0.8, 1.0]), min_size=5, max_size=60),
    floor=st.floats(0.05, 1.0),
)
def test_the_verdict_is_what_the_shown_interval_says(part, floor):
    values, full = np.array(part), np.ones(len(part))
    rules = Rules(floor, 0.95, "real")

    record = judge(values, full, Level(8), measure="m", method="cut", family=3, rules=rules)

    expected = (
        "keeps"
        if record.kept_low >= floor
        else "below"
        if record.kept_high < floor
        else "cannot tell"
    )
    assert record.verdict == expected
    assert record.kept_low <= record.kept <= record.kept_high
    assert (record.needed is None) or record.needed > len(values)


def test_so_many_queries_as_are_said_to_be_needed_decide():
    values = recalls(np.random.default_rng(4), 200, 0.97)
    full, floor = np.ones(200), values.mean() - 0.01

    needed = queries_needed(values, full, floor)

    times = int(np.ceil(needed / 200)) + 1
    assert mean_interval(values).low < floor
    assert mean_interval(np.tile(values, times)).low >= floor


def test_a_figure_on_the_floor_is_never_decided():
    values = np.array([0.5, 1.0] * 100)

    assert queries_needed(values, np.ones(200), 0.75) is None


def test_fewer_queries_than_any_verdict_needs_are_refused_with_the_number():
    needed = fewest_queries(0.5, confidence=0.95, family=10)

    with pytest.raises(TooFewError, match=rf"at least {needed} queries .* got {needed - 1}"):
        Rules(0.5, 0.95, "real").check_enough(needed - 1, 10)
    Rules(0.5, 0.95, "real").check_enough(needed, 10)
    perfect, missed = np.ones(needed), np.zeros(needed)
    decided = (
        mean_interval(perfect, family=10).low >= 0.5 or mean_interval(missed, family=10).high < 0.5
    )
    assert decided


@pytest.mark.parametrize("floor", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(InputError, match="floor must be above 0 and at most 1"):
        Rules(floor, 0.95, "real")


def test_spearman_equals_scipy_and_its_shares_cover():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=800)
    scores = np.array([truth + rng.normal(size=800) * s for s in (0.5, 1.0, 2.0)])

    values, intervals, shares = spearman_shares(scores, truth, reference=0)

    for row, value, (low, high) in zip(scores, values, intervals, strict=True):
        assert value == pytest.approx(stats.spearmanr(row, truth).statistic)
        assert low < value < high
    assert shares[0] == pytest.approx((1, 1))
    assert shares[2].high < 1


def test_a_threshold_is_carried_by_a_monotone_map_with_an_honest_error():
    rng = np.random.default_rng(0)
    full = rng.uniform(-0.2, 1.0, (200, 20))
    clean = fit_score_map(full, 0.3 + 0.7 * full, Level(8))
    noisy = fit_score_map(full, 0.3 + 0.7 * full + rng.normal(0, 0.05, full.shape), Level(8))

    assert clean.carry(0.8) == pytest.approx(0.86, abs=0.01)
    assert clean.error_p95 < 0.005 < noisy.error_mean == pytest.approx(0.04, abs=0.01)
    assert np.all(np.diff(noisy.prefix) >= 0)
    with pytest.raises(InputError, match=r"threshold must be between .* got 1.5"):
        clean.carry(1.5)
