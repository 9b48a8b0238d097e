"""Another order of the numbers: what it keeps, and what an order is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given

from matryo.core import InputError, NotFittedError, VectorError
from matryo.testing.strategies import vectors
from matryo.transforms import Reorder, load_transform, save_transform


@given(rows=vectors(4, min_rows=1, dtype=np.float64))
def test_no_other_order_keeps_more_in_a_prefix(rows):
    kept = np.square(Reorder().fit_transform(rows)).sum(axis=0).cumsum()

    for order in itertools.permutations(range(4)):
        other = np.square(rows[:, order]).sum(axis=0).cumsum()
        assert (kept >= other * (1 - 1e-12)).all()


@given(rows=vectors(6))
def test_no_number_is_changed(rows):
    ordered = Reorder().fit_transform(rows)

    assert ordered.dtype == rows.dtype
    np.testing.assert_array_equal(np.sort(ordered, axis=1), np.sort(rows, axis=1))


def test_the_mean_counts_and_not_the_spread(rng):
    rows = rng.standard_normal((50, 3)) * [1.0, 0.1, 2.0] + [0.0, 9.0, 0.0]

    assert Reorder().fit(rows).order_.tolist() == [1, 2, 0]


def test_equal_numbers_keep_their_order():
    assert Reorder().fit(np.ones((3, 5))).order_.tolist() == [0, 1, 2, 3, 4]


def test_an_order_measured_elsewhere_is_taken_as_it_is(tmp_path):
    order = Reorder.of(np.array([2, 0, 1], np.int32))

    np.testing.assert_array_equal(order.transform(np.array([[5.0, 6.0, 7.0]])), [[7.0, 5.0, 6.0]])
    save_transform(order, tmp_path / "o.safetensors")
    assert load_transform(tmp_path / "o.safetensors").digest == order.digest
    assert order.digest != Reorder.of([0, 1, 2]).digest
    assert list(order.get_feature_names_out(["a", "b", "c"])) == ["c", "a", "b"]


@pytest.mark.parametrize("order", [[], [0, 0, 1], [1, 2, 3], [0.0, 1.0], [[0, 1]], [True, False]])
def test_what_is_no_order_is_refused(order):
    with pytest.raises(InputError, match="every whole number from 0 to dim - 1 once, got"):
        Reorder.of(order)


def test_squares_beyond_float64_are_refused():
    with pytest.raises(VectorError, match="whose squares float64 can hold"):
        Reorder().fit(np.full((2, 3), 1e200))


def test_nothing_can_be_ordered_before_fit():
    with pytest.raises(NotFittedError, match="call fit first"):
        Reorder().transform(np.eye(3))
