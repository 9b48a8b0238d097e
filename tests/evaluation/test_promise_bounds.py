"""Promises break no more often than they say, and needed queries are as many as it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from matryo.core import InputError
from matryo.evaluation import (
    conformal_knob,
    fewest_certifying,
    gains,
    hoeffding_bentkus_p_value,
    mean_p_value,
    queries_to_certify,
    share_p_value,
)

RUNS = 1000
LEVELS = np.array([0.01, 0.05, 0.1, 0.3])


def most_passes(level, runs=RUNS):
    """Passes that a test of this level stays within in 9,999 of 10,000 repetitions."""
    return stats.binom.ppf(0.9999, runs, level)


def recalls(rng, n, mean):
    """Synthetic recall@10 in tenths: most queries lose nothing, a few lose much."""
    return np.where(rng.random(n) < 4 * (1 - mean), rng.binomial(10, 0.75, n), 10) / 10


def relevances(rng, n):
    """Synthetic nDCG at full width, 0 for three queries in ten."""
    return rng.beta(1, 2, n) * (rng.random(n) < 0.7)


def unchanged_or_lost(rng, n):
    whole = relevances(rng, n)
    return whole * rng.choice([1, 1, 1, 0.5, 0], n), whole


# (part, whole) of queries whose mean share is exactly the floor: promises that just fail to hold
DRAWS = {
    "recall in tenths": (lambda rng, n: (recalls(rng, n, 0.98), np.ones(n)), 0.98),
    "rarely less than all": (lambda rng, n: (recalls(rng, n, 0.998), np.ones(n)), 0.998),
    "all or nothing": (lambda rng, n: ((rng.random(n) < 0.95).astype(float), np.ones(n)), 0.95),
    "rarely anything": (lambda rng, n: ((rng.random(n) < 0.02).astype(float), np.ones(n)), 0.02),
    "uniform": (lambda rng, n: (rng.random(n), np.ones(n)), 0.5),
    "beta": (lambda rng, n: (rng.beta(9, 1, n), np.ones(n)), 0.9),
    "relevance kept or lost": (unchanged_or_lost, 0.7),
    "relevance of other rows": (
        lambda rng, n: (0.95 * relevances(rng, n), relevances(rng, n)),
        0.95,
    ),
}


def gains_of(name, rng, n):
    draw, floor = DRAWS[name]
    return gains(*draw(rng, n), floor), floor


numbers = st.lists(st.sampled_from([-0.9, -0.4, 0.0, 0.05, 0.1, 1.0]), min_size=1, max_size=60)


class TestMeanPValue:
    @pytest.mark.parametrize("n", [20, pytest.param(300, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("learned", ["nothing", "from queries like them"])
    @pytest.mark.parametrize("name", DRAWS)
    def test_a_mean_that_just_fails_passes_no_more_often_than_the_level(self, name, learned, n):
        rng = np.random.default_rng(3)
        p_values = []
        for _ in range(RUNS):
            drawn, lowest = gains_of(name, rng, n)
            past = gains_of(name, rng, 100)[0] if learned != "nothing" else None
            p_values.append(mean_p_value(drawn, lowest=lowest, learned=past))

        passes = (np.array(p_values)[:, None] <= LEVELS).sum(axis=0)

        assert (passes <= most_passes(LEVELS)).all()

    @pytest.mark.parametrize("past", [[1.0] * 50, [-0.95] * 50, [0.05] * 500, [1.0, -0.95] * 20])
    @pytest.mark.parametrize("floor", [0.5, 0.95])
    def test_whatever_was_learned_the_exact_probability_to_pass_is_at_most_the_level(
        self, floor, past
    ):
        n = 120
        hits = np.arange(n + 1)
        learned = np.clip(past, -floor, 1)
        p_values = np.array(
            [
                mean_p_value(np.repeat([1 - floor, -floor], [h, n - h]), lowest=floor, learned=x)
                for x in (None, learned)
                for h in hits
            ]
        ).reshape(2, -1)

        chance = stats.binom.pmf(hits, n, floor)

        for level in LEVELS:
            assert ((p_values <= level) @ chance <= level).all()

    def test_stakes_learned_from_queries_like_these_certify_more_and_from_others_only_less(self):
        rng = np.random.default_rng(0)
        lost_all = np.full(50, -0.98)
        certified = []
        for _ in range(200):
            drawn, past = (gains(recalls(rng, n, 0.99), np.ones(n), 0.98) for n in (500, 200))
            p_values = [mean_p_value(drawn, lowest=0.98, learned=x) for x in (None, past, lost_all)]
            certified.append(np.array(p_values) <= 0.05)

        without, sharp, blunt = np.mean(certified, axis=0)

        assert blunt + 0.1 < without < sharp - 0.1
        many = gains(recalls(rng, 5000, 0.99), np.ones(5000), 0.98)
        assert mean_p_value(many, lowest=0.98, learned=lost_all) < 1e-6

    @given(values=numbers, past=numbers, seed=st.integers(0, 2**16))
    def test_the_order_of_the_queries_changes_nothing(self, values, past, seed):
        rng = np.random.default_rng(seed)

        p_value = mean_p_value(np.array(values), lowest=0.9, learned=np.array(past))

        shuffled = mean_p_value(
            rng.permutation(values), lowest=0.9, learned=rng.permutation(np.array(past))
        )
        assert shuffled == p_value

    @given(values=numbers, factor=st.floats(1e-3, 1e3))
    def test_gains_in_another_unit_say_the_same(self, values, factor):
        array = np.array(values)

        scaled = mean_p_value(factor * array, lowest=factor * 0.9)

        assert scaled == pytest.approx(mean_p_value(array, lowest=0.9), rel=1e-9)

    @given(values=numbers, times=st.integers(2, 5))
    def test_more_of_the_same_evidence_never_weakens_it(self, values, times):
        array = np.array(values)

        more = mean_p_value(np.tile(array, times), lowest=0.9)

        assert 0 < more <= mean_p_value(array, lowest=0.9) <= 1

    @given(values=numbers, place=st.integers(0, 59), gained=st.floats(0, 0.5))
    def test_a_query_that_does_better_never_weakens_it(self, values, place, gained):
        array = np.array(values)
        better = array.copy()
        better[place % len(array)] += gained

        assert mean_p_value(better, lowest=0.9) <= mean_p_value(array, lowest=0.9) * (1 + 1e-9)

    @given(values=numbers)
    def test_a_mean_that_is_not_above_zero_is_no_evidence(self, values):
        array = np.array(values)
        assume(array.mean() <= 0)

        assert mean_p_value(array, lowest=0.9) == 1

    def test_hundreds_of_queries_without_a_loss_are_worth_almost_what_they_can_be(self):
        perfect = gains(np.ones(300), np.ones(300), 0.95)

        p_value = mean_p_value(perfect, lowest=0.95)

        assert 0.95**300 < p_value < 5 * 0.95**300

    def test_learned_from_no_queries_is_not_learned(self):
        drawn = gains(np.ones(80), np.ones(80), 0.95)

        p_value = mean_p_value(drawn, lowest=0.95, learned=np.empty(0))

        assert p_value == mean_p_value(drawn, lowest=0.95)


class TestGains:
    @given(
        pairs=st.lists(st.tuples(*[st.sampled_from([0.0, 0.2, 0.7, 1.0])] * 2), min_size=1),
        floor=st.floats(0.01, 1),
    )
    def test_their_mean_is_above_zero_where_the_share_is_above_the_floor(self, pairs, floor):
        part, whole = np.array(pairs).T
        assume(abs(part.mean() - floor * whole.mean()) > 1e-9)

        mean = gains(part, whole, floor).mean()

        assert (mean > 0) == (part.mean() > floor * whole.mean())

    @given(floor=st.floats(0.01, 1))
    def test_values_in_single_precision_are_tested_like_others(self, floor):
        part, whole = np.array([[0, 1, 0.5], [1, 1, 0.5]], np.float32)

        drawn = gains(part, whole, floor)

        assert drawn.dtype == np.float64
        np.testing.assert_array_equal(drawn, gains(part.astype(float), whole.astype(float), floor))
        mean_p_value(drawn, lowest=floor)

    @pytest.mark.parametrize("floor", [0, -0.1, 1.01, math.nan, math.inf])
    def test_a_floor_that_is_no_share_is_refused(self, floor):
        with pytest.raises(InputError, match="floor must be above 0 and at most 1, got"):
            gains(np.ones(3), np.ones(3), floor)

    @pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
    def test_values_outside_zero_and_one_are_refused(self, value):
        for pair in ((np.array([0.5, value]), np.ones(2)), (np.ones(2), np.array([0.5, value]))):
            with pytest.raises(InputError, match="expected values from 0 to 1, got"):
                gains(*pair, 0.9)


class TestHoeffdingBentkus:
    @given(
        tenths=st.lists(st.integers(0, 10), min_size=1, max_size=40),
        allowed=st.floats(0.001, 0.999),
    )
    def test_it_is_what_a_plain_computation_gives(self, tenths, allowed):
        n, total = len(tenths), sum(tenths)
        mean = min(total / 10 / n, allowed)
        exponent = (1 - mean) * math.log((1 - mean) / (1 - allowed))
        exponent += mean * math.log(mean / allowed) if mean else 0
        most = -(-total // 10)
        tail = math.fsum(
            math.comb(n, i) * allowed**i * (1 - allowed) ** (n - i) for i in range(most + 1)
        )

        p_value = hoeffding_bentkus_p_value(np.array(tenths) / 10, allowed)

        expected = min(1, math.exp(-n * exponent), math.e * tail)
        assert p_value == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("n", [20, pytest.param(300, marks=pytest.mark.slow)])
    @pytest.mark.parametrize(
        "name", ["recall in tenths", "rarely less than all", "all or nothing", "uniform", "beta"]
    )
    def test_a_mean_that_just_fails_passes_no_more_often_than_the_level(self, name, n):
        draw, floor = DRAWS[name]
        rng = np.random.default_rng(5)

        p_values = np.array(
            [hoeffding_bentkus_p_value(1 - draw(rng, n)[0], 1 - floor) for _ in range(RUNS)]
        )

        passes = (p_values[:, None] <= LEVELS).sum(axis=0)
        assert (passes <= most_passes(LEVELS)).all()

    def test_betting_is_sharper_where_most_queries_lose_nothing(self):
        # 490 of 500 queries lose nothing, ten lose two of ten neighbors; 2 % may be lost
        losses = np.repeat([0.0, 0.2], [490, 10])

        betting = mean_p_value(gains(1 - losses, np.ones(500), 0.98), lowest=0.98)

        assert betting < 0.0025 < 0.005 < hoeffding_bentkus_p_value(losses, 0.02)

    def test_betting_certifies_more_often(self):
        rng = np.random.default_rng(1)
        draws = [recalls(rng, 500, 0.99) for _ in range(200)]

        betting = [mean_p_value(gains(x, np.ones(500), 0.98), lowest=0.98) for x in draws]
        bounded = [hoeffding_bentkus_p_value(1 - x, 0.02) for x in draws]

        assert np.mean(np.array(betting) <= 0.05) > np.mean(np.array(bounded) <= 0.05) + 0.1

    @pytest.mark.parametrize(
        ("losses", "allowed"),
        [([], 0.1), ([0.1, 1.1], 0.1), ([-0.1], 0.1), ([np.nan], 0.1), ([0.1], 0), ([0.1], 1)],
    )
    def test_what_is_no_loss_is_refused(self, losses, allowed):
        with pytest.raises(InputError, match=r"expected losses from 0 to 1 .* allowed mean"):
            hoeffding_bentkus_p_value(np.array(losses), allowed)


class TestSharePValue:
    @given(hits=st.integers(0, 80), misses=st.integers(0, 80), floor=st.floats(0, 1))
    def test_it_is_the_binomial_test_of_scipy(self, hits, misses, floor):
        assume(hits + misses > 0)

        p_value = share_p_value(hits, hits + misses, floor)

        test = stats.binomtest(hits, hits + misses, floor, alternative="greater")
        assert p_value == pytest.approx(test.pvalue, rel=1e-9, abs=1e-300)

    @pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
    def test_more_successes_than_queries_are_refused(self, hits, n):
        with pytest.raises(InputError, match=rf"between 0 and {n} successes .* got {hits}"):
            share_p_value(hits, n, 0.9)

    @pytest.mark.parametrize("floor", [-0.1, 95, math.nan])
    def test_a_floor_that_is_no_share_is_refused(self, floor):
        with pytest.raises(InputError, match="floor must be between 0 and 1, got"):
            share_p_value(4, 5, floor)


def falling_losses(settings, n):
    drawn = hnp.arrays(float, (settings, n), elements=st.integers(0, 10).map(lambda x: x / 10))
    return drawn.map(lambda losses: -np.sort(-losses, axis=0))


class TestConformalKnob:
    @given(losses=falling_losses(6, 12), tenths=st.integers(0, 10))
    def test_it_stops_where_a_plain_loop_does(self, losses, tenths):
        expected = None
        for setting, row in reversed(list(enumerate(losses))):
            # in whole tenths: (sum + 1) / (n + 1) <= allowed
            if 10 * round(10 * row.sum()) + 100 <= 10 * tenths * (12 + 1):
                expected = setting

        assert conformal_knob(losses, tenths / 10) == expected

    @pytest.mark.parametrize("n", [19, 100])
    def test_the_mean_loss_of_new_queries_is_what_was_allowed_and_hardly_less(self, n):
        # a query loses a random share until the knob reaches its own place, then nothing
        runs, allowed, knob = 4000, 0.1, np.linspace(0, 1, 51)[:, None]
        rng = np.random.default_rng(2)
        lost = np.empty(runs)
        for i in range(runs):
            places, shares = rng.random(n + 1), rng.integers(5, 11, n + 1) / 10
            losses = np.where(places > knob, shares, 0.0)
            lost[i] = losses[conformal_knob(losses[:, :n], allowed), n]

        spread = lost.std() / math.sqrt(runs)
        assert lost.mean() <= allowed + 3 * spread
        assert lost.mean() >= allowed - 2 / (n + 1) - 0.02 - 3 * spread

    @given(losses=falling_losses(5, 8), setting=st.integers(0, 3), query=st.integers(0, 7))
    def test_losses_that_rise_are_refused_with_the_query(self, losses, setting, query):
        losses[: setting + 1, query], losses[setting + 1 :, query] = 0.3, 0.4

        with pytest.raises(InputError, match=rf"number {query} rises from setting {setting} to"):
            conformal_knob(losses, 0.1)

    def test_no_setting_may_do(self):
        assert conformal_knob(np.full((3, 50), 0.2), 0.2) is None
        # one loss of 1 is added to those seen, so that few queries allow little
        assert conformal_knob(np.zeros((3, 9)), 0.09) is None
        assert conformal_knob(np.zeros((3, 9)), 0.1) == 0

    @pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
    def test_losses_outside_zero_and_one_are_refused(self, value):
        with pytest.raises(InputError, match="expected losses from 0 to 1, got"):
            conformal_knob(np.array([[0.5, value], [0.2, value]]), 0.1)


class TestFewestCertifying:
    def test_its_examples(self):
        assert fewest_certifying(0.95) == 59
        assert fewest_certifying(0.99) == 299
        assert fewest_certifying(0.95, family=200) == 162

    @given(
        floor=st.integers(1, 99).map(lambda x: x / 100),
        confidence=st.integers(1, 99).map(lambda x: x / 100),
        family=st.sampled_from([1, 3, 200]),
    )
    def test_it_is_the_smallest_number_that_passes_without_a_failure(
        self, floor, confidence, family
    ):
        n, level = fewest_certifying(floor, confidence=confidence, family=family), 1 - confidence

        assert share_p_value(n, n, floor) <= level / family
        assert n == 1 or share_p_value(n - 1, n - 1, floor) > level / family

    @pytest.mark.parametrize("floor", [0, 1, 1.5, math.nan])
    def test_a_floor_that_nothing_certifies_is_refused(self, floor):
        with pytest.raises(InputError, match="floor must be between 0 and 1, got"):
            fewest_certifying(floor)

    @pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
    def test_a_confidence_that_is_no_probability_is_refused(self, confidence):
        with pytest.raises(InputError, match="confidence must be between 0 and 1, got"):
            fewest_certifying(0.9, confidence=confidence)
        with pytest.raises(InputError, match="confidence must be between 0 and 1, got"):
            queries_to_certify(np.ones(5), lowest=0.9, confidence=confidence)


class TestQueriesToCertify:
    @given(values=numbers, confidence=st.sampled_from([0.8, 0.95, 0.999]))
    def test_data_repeated_that_often_certify(self, values, confidence):
        array = np.array(values)

        needed = queries_to_certify(array, lowest=0.9, confidence=confidence)

        assume(needed is not None)
        times = math.ceil(needed / len(array))
        assert mean_p_value(np.tile(array, times), lowest=0.9) <= (1 - confidence) * (1 + 1e-6)
        fewer = math.ceil(needed / len(array) - 1) - 1
        if fewer > 0:
            assert mean_p_value(np.tile(array, fewer), lowest=0.9) > 1 - confidence

    @given(values=numbers)
    def test_a_mean_that_is_not_above_zero_is_never_certified(self, values):
        array = np.array(values)
        assume(array.mean() <= 0)

        assert queries_to_certify(array, lowest=0.9) is None

    def test_a_mean_next_to_zero_needs_more_than_anyone_has(self):
        assert queries_to_certify(np.array([1e-5, 0.5, -0.5] * 20), lowest=0.9) is None

    def test_draws_of_that_size_certify_about_every_other_time(self):
        rng = np.random.default_rng(7)
        seen = gains(recalls(rng, 2000, 0.99), np.ones(2000), 0.98)

        needed = queries_to_certify(seen, lowest=0.98)

        p_values = [
            mean_p_value(gains(recalls(rng, needed, 0.99), np.ones(needed), 0.98), lowest=0.98)
            for _ in range(300)
        ]
        assert 100 < needed < 1500
        assert 0.35 < np.mean(np.array(p_values) <= 0.05) < 0.75


class TestRefusals:
    def test_a_gain_below_what_can_be_lost(self):
        for drawn, past in (([0.1, -0.6], [0.1]), ([0.1], [0.1, -0.6]), ([np.nan], [0.1])):
            with pytest.raises(InputError, match=r"expected gains of at least -0\.5, got"):
                mean_p_value(np.array(drawn), lowest=0.5, learned=np.array(past))

    def test_no_queries(self):
        with pytest.raises(InputError, match="at least one query, got none"):
            mean_p_value(np.empty(0), lowest=0.5)

    @pytest.mark.parametrize("lowest", [0, -0.5, math.nan, math.inf])
    def test_nothing_to_lose(self, lowest):
        with pytest.raises(InputError, match="lowest must be above 0, got"):
            mean_p_value(np.ones(5), lowest=lowest)
