"""What bounds refuse, when they decide, and how many queries that takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from matryo.core import InputError
from matryo.evaluation import (
    difference_interval,
    fewest_queries,
    mean_interval,
    queries_needed,
    share_interval,
    spearman_shares,
)

shares = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), min_size=3, max_size=50)
pairs_of = st.lists(st.tuples(*[st.sampled_from([0.0, 0.3, 1.0])] * 2), min_size=3, max_size=40)


@given(hits=st.integers(0, 60), misses=st.integers(0, 60), confidence=st.floats(0.5, 0.999))
def test_every_count_of_hits_gets_the_exact_binomial_interval(hits, misses, confidence):
    assume(hits + misses > 0)
    values = np.array([1.0] * hits + [0.0] * misses)

    interval = mean_interval(values, confidence=confidence)

    exact = stats.binomtest(hits, hits + misses).proportion_ci(confidence, method="exact")
    np.testing.assert_allclose(interval, (exact.low, exact.high), rtol=1e-7, atol=1e-12)


@given(values=shares, confidence=st.floats(0.5, 0.99))
def test_an_interval_holds_its_mean_and_stays_within_zero_and_one(values, confidence):
    low, high = mean_interval(np.array(values), confidence=confidence)

    assert 0 <= low <= np.mean(values) + 1e-12
    assert np.mean(values) - 1e-12 <= high <= 1


@given(values=shares)
def test_more_confidence_and_larger_families_widen(values):
    array = np.array(values)

    narrow = mean_interval(array, confidence=0.8)
    sure = mean_interval(array, confidence=0.99)
    many = mean_interval(array, confidence=0.8, family=20)

    assert sure.low <= narrow.low + 1e-12
    assert sure.high >= narrow.high - 1e-12
    np.testing.assert_allclose(many, sure, atol=1e-9)


@given(values=shares)
def test_misses_are_bounded_like_hits_turned_around(values):
    low, high = mean_interval(np.array(values))

    np.testing.assert_allclose(mean_interval(1 - np.array(values)), (1 - high, 1 - low), atol=1e-9)


@pytest.mark.parametrize("interval", [share_interval, difference_interval])
@given(pairs=pairs_of)
def test_the_order_of_the_pairs_changes_nothing(interval, pairs):
    part, whole = np.array(pairs).T
    assume(whole.any())
    order = np.random.default_rng(0).permutation(len(part))

    shuffled = interval(part[order], whole[order])

    np.testing.assert_allclose(shuffled, interval(part, whole), rtol=1e-9, atol=1e-9)


@given(pairs=pairs_of)
def test_a_difference_turned_around_is_bounded_by_the_same_numbers(pairs):
    a, b = np.array(pairs).T

    low, high = difference_interval(a, b)

    np.testing.assert_allclose(difference_interval(b, a), (-high, -low), atol=1e-9)


@given(pairs=pairs_of)
def test_a_share_interval_holds_the_share_of_the_means(pairs):
    part, whole = np.array(pairs).T
    assume(whole.any())

    low, high = share_interval(part, whole)

    assert 0 <= low <= part.mean() / whole.mean() + 1e-9
    assert high >= part.mean() / whole.mean() - 1e-9


def test_a_share_of_which_nothing_was_found_is_bounded_from_above_only():
    low, high = share_interval(np.zeros(200), np.full(200, 0.5))

    assert low == 0
    assert 0 < high < 0.1


class TestQueriesNeeded:
    @given(
        pairs=st.lists(
            st.tuples(st.sampled_from([0.0, 0.4, 0.9, 1.0]), st.sampled_from([0.5, 0.8, 1.0])),
            min_size=4,
            max_size=40,
        ),
        floor=st.floats(0.2, 0.99),
        family=st.integers(1, 10),
    )
    def test_data_repeated_that_often_decide(self, pairs, floor, family):
        part, whole = np.array(pairs).T
        assume((whole < 1).any())

        needed = queries_needed(part, whole, floor, family=family)

        assume(needed is not None)
        times = int(np.ceil(needed / len(part))) + 1
        low, high = share_interval(np.tile(part, times), np.tile(whole, times), family=family)
        assert low >= floor or high < floor

    @pytest.mark.parametrize("whole", [1.0, 0.5])
    def test_a_share_on_the_floor_needs_more_than_anyone_has(self, whole):
        full = np.full(100, whole)

        assert queries_needed(full * np.array([0.6, 1.0] * 50), full, 0.8) is None


@pytest.mark.parametrize("family", [1, 5, 40])
@pytest.mark.parametrize("floor", [0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0])
def test_the_fewest_queries_are_those_at_which_hits_or_misses_alone_decide(floor, family):
    fewest = fewest_queries(floor, family=family)

    deciding = [
        n
        for n in range(1, fewest + 1)
        if mean_interval(np.ones(n), family=family).low >= floor
        or mean_interval(np.zeros(n), family=family).high < floor
    ]
    assert deciding == [fewest]


class TestRefusals:
    @pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
    @pytest.mark.parametrize("interval", [share_interval, difference_interval])
    def test_values_outside_zero_and_one(self, interval, value):
        good, bad = np.array([0.5, 0.5]), np.array([0.5, value])
        for values in ((bad, good), (good, bad)):
            with pytest.raises(InputError, match="expected values from 0 to 1"):
                interval(*values)
        with pytest.raises(InputError, match="expected values from 0 to 1"):
            mean_interval(bad)

    def test_no_values(self):
        with pytest.raises(InputError, match="at least one value, got none"):
            mean_interval(np.empty(0))

    def test_a_share_of_nothing(self):
        with pytest.raises(InputError, match="scores 0 on every query"):
            share_interval(np.ones(5), np.zeros(5))

    @pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
    def test_a_confidence_that_is_no_probability(self, confidence):
        with pytest.raises(InputError, match="confidence must be between 0 and 1"):
            mean_interval(np.ones(5) / 2, confidence=confidence)


class TestSpearman:
    def test_ties_in_the_judgments_are_ranked_as_scipy_ranks_them(self):
        rng = np.random.default_rng(0)
        truth = rng.integers(0, 6, 300).astype(float)
        scores = np.round(truth + rng.normal(size=(3, 300)), 1)

        values, _, _ = spearman_shares(scores, truth, reference=0, resamples=20)

        expected = [stats.spearmanr(row, truth).statistic for row in scores]
        np.testing.assert_allclose(values, expected, rtol=1e-12)

    @pytest.mark.slow
    def test_its_intervals_cover_about_as_often_as_they_say(self):
        # for a normal pair with correlation r, Spearman's is 6/π · asin(r/2)
        strengths, runs = np.array([0.9, 0.7]), 200
        true = 6 / np.pi * np.arcsin(strengths / 2)
        wrong = np.zeros(2)
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            truth = rng.normal(size=250)
            noise = rng.normal(size=(2, 250)) * np.sqrt(1 - strengths**2)[:, None]
            scores = strengths[:, None] * truth + noise
            _, around, parts = spearman_shares(
                scores, truth, reference=0, confidence=0.9, resamples=150, seed=seed
            )
            wrong += [
                not around[1].low <= true[1] <= around[1].high,
                not parts[1].low <= true[1] / true[0] <= parts[1].high,
            ]

        # no bound for every sample size stands behind these: three points are allowed for that
        assert wrong.max() <= stats.binom.ppf(0.999, runs, 0.13)
