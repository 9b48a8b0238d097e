"""Vectors and ids that cannot be used, named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from matryo.core import InputError, VectorError, check_ids, check_vectors, shorten
from matryo.testing.strategies import vectors


@given(rows=vectors(5))
def test_sound_vectors_pass(rows):
    check_vectors(rows)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("power", [-7, -4, 0, 4])
def test_sound_vectors_of_any_size_pass(dtype, power):
    check_vectors(np.full((3, 900), 10.0**power, dtype))


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e30, 3e38])
def test_squares_that_leave_float32_are_no_fault(size):
    check_vectors(np.full((3, 7), size, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_with_nan_or_infinity_are_named_by_id(bad):
    rows = np.ones((4, 3))
    rows[[1, 3], 2] = bad

    with pytest.raises(VectorError, match=r"docs: 2 rows have NaN or infinity: 'b', 'd'") as caught:
        check_vectors(rows, what="docs", ids=["a", "b", "c", "d"])

    assert caught.value.ids == ["b", "d"]


def test_rows_of_zeros_are_named_by_number_from_the_first():
    rows = np.ones((4, 3))
    rows[2] = 0

    with pytest.raises(VectorError, match="vectors: 1 row has only zeros: 102") as caught:
        check_vectors(rows, first_row=100)

    assert caught.value.ids == [102]


def test_a_part_of_many_rows_is_named_by_its_own_ids():
    with pytest.raises(VectorError, match="only zeros: 'x'"):
        check_vectors(np.array([[1.0], [0.0]]), ids=["w", "x"], first_row=500)


def test_zeros_pass_where_they_may_but_nan_does_not():
    check_vectors(np.zeros((2, 3)), allow_zero=True)
    with pytest.raises(VectorError, match="1 row has NaN"):
        check_vectors(np.array([[0.0, 0.0], [0.0, np.nan]]), allow_zero=True)


def test_only_a_few_of_many_rows_are_written_out():
    with pytest.raises(
        VectorError, match="100 rows have only zeros: 0, 1, 2, 3, 4 and 95 more"
    ) as e:
        check_vectors(np.zeros((100, 3)))

    assert len(e.value.ids) == 100


def test_no_rows_pass():
    check_vectors(np.empty((0, 5)))


@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 4), (3, 0)])
def test_another_shape_is_refused(shape):
    with pytest.raises(VectorError, match=r"one vector per row, \(rows, numbers\), got shape"):
        check_vectors(np.ones(shape))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, bool, complex])
def test_another_type_is_refused(dtype):
    with pytest.raises(VectorError, match=f"floating point numbers, got {np.dtype(dtype)}"):
        check_vectors(np.ones((2, 3), dtype))


def test_long_names_are_cut():
    assert shorten(["x" * 500]) == "'" + "x" * 56 + "…"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["a", "b"], ["a", "b"]),
        ((3, 1, 2**70), [3, 1, 2**70]),
        (np.array([5, 6]), [5, 6]),
        (np.array(["x", "yy"]), ["x", "yy"]),
        ([np.int64(5), np.uint8(6)], [5, 6]),
        (["1", 1], ["1", 1]),
        (["", " ", "\x00"], ["", " ", "\x00"]),
        ([], []),
    ],
)
def test_ids_stay_as_they_are(given, kept):
    ids = check_ids(given)

    assert ids == kept
    assert {type(value) for value in ids} <= {str, int}


def test_ids_that_repeat_are_named():
    with pytest.raises(InputError, match=r"got 3 a second time: 'b', 'b', 'a'") as caught:
        check_ids(["a", "b", "b", "b", "c", "a"])

    assert caught.value.ids == ["b", "b", "a"]


@pytest.mark.parametrize("value", [1.0, True, None, b"x", ("a",)])
def test_an_id_that_is_neither_text_nor_integer_is_named_with_its_row(value):
    with pytest.raises(InputError, match=r"strings or integers, got .* in row 1"):
        check_ids(["a", value])


def test_one_text_is_no_list_of_ids():
    with pytest.raises(InputError, match="one text"):
        check_ids("abc")
