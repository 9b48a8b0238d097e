"""Thresholds carried from the full width to a prefix."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import InputError, Precision, TooFewError
from matryo.evaluation import fit_score_map
from matryo.evaluation.shift import flipped
from matryo.search import Level

LEVEL = Level(8, Precision.INT8)


def scores(seed, noise=0.05, queries=60):
    rng = np.random.default_rng(seed)
    full = rng.uniform(-0.3, 1, (queries, 15))
    return full, 0.4 + 0.6 * full**3 + rng.normal(0, noise, full.shape)


@given(seed=st.integers(0, 2**16), noise=st.floats(0, 0.5))
def test_a_map_never_falls(seed, noise):
    fitted = fit_score_map(*scores(seed, noise), LEVEL)

    carried = [fitted.carry(t) for t in np.linspace(fitted.full[0], fitted.full[-1], 200)]

    assert (np.diff(carried) >= -1e-12).all()
    assert (np.diff(fitted.full) > 0).all()


@given(seed=st.integers(0, 2**16), slope=st.floats(0.1, 3), shift=st.floats(-1, 1))
def test_scores_on_a_line_are_carried_exactly(seed, slope, shift):
    full, _ = scores(seed)
    fitted = fit_score_map(full, shift + slope * full, LEVEL)
    inside = np.linspace(fitted.full[0], fitted.full[-1], 20)

    carried = [fitted.carry(threshold) for threshold in inside]

    np.testing.assert_allclose(carried, shift + slope * inside, atol=1e-9)


def test_any_rising_curve_is_followed_closely():
    fitted = fit_score_map(*scores(1, noise=0, queries=400), LEVEL)

    assert fitted.error_p95 < 0.005
    assert fitted.carry(0.5) == pytest.approx(0.4 + 0.6 * 0.5**3, abs=0.005)


def test_both_ends_are_carried_and_nothing_beyond_them():
    fitted = fit_score_map(*scores(2), LEVEL)

    assert fitted.carry(fitted.full[0]) == pytest.approx(fitted.prefix[0])
    assert fitted.carry(fitted.full[-1]) == pytest.approx(fitted.prefix[-1])
    for beyond in (fitted.full[0] - 1e-6, fitted.full[-1] + 1e-6, float("nan")):
        with pytest.raises(InputError, match=r"threshold must be between .* seen in these data"):
            fitted.carry(beyond)


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_fresh_queries_stay_within_the_stated_error(noise):
    fitted = fit_score_map(*scores(4, noise, queries=300), LEVEL)
    full, prefix = scores(5, noise, queries=300)

    errors = np.abs(np.interp(full, fitted.full, fitted.prefix) - prefix)

    assert np.mean(errors <= fitted.error_p95) == pytest.approx(0.95, abs=0.02)
    assert errors.mean() == pytest.approx(fitted.error_mean, rel=0.1)


def test_the_error_is_stated_on_queries_that_the_map_has_not_seen():
    full, prefix = scores(6)
    changed = prefix.copy()
    changed[1::2] += 1

    before, after = fit_score_map(full, prefix, LEVEL), fit_score_map(full, changed, LEVEL)

    assert after.prefix == before.prefix
    assert after.error_mean == pytest.approx(1, abs=0.1)


def test_equal_scores_and_a_single_pair_per_query_are_no_fault():
    fitted = fit_score_map(np.full((4, 1), 0.5), np.full((4, 1), 0.7), LEVEL)

    assert fitted.carry(0.5) == pytest.approx(0.7)
    assert fitted.error_mean == 0


def test_flipped_is_the_share_of_held_out_pairs_that_change_sides():
    full = np.array([[0.0, 1.0], [0.2, 0.8]])
    prefix = np.array([[9.0, 9.0], [0.7, 0.9]])

    assert flipped(full, prefix, 0.5, 0.6) == 0.5


def test_a_map_names_its_level_and_is_plain_json():
    values = json.loads(json.dumps(fit_score_map(*scores(7), LEVEL).to_dict()))

    assert (values["dim"], values["precision"]) == (8, "int8")


def test_one_query_is_too_few():
    with pytest.raises(TooFewError, match="at least 2 queries, got 1"):
        fit_score_map(np.ones((1, 5)), np.ones((1, 5)), LEVEL)
