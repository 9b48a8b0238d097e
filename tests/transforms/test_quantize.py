"""Number formats, against their laws and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matryo.core import (
    DimError,
    InputError,
    NotFittedError,
    Precision,
    TooFewError,
    UnknownNameError,
    VectorError,
)
from matryo.testing.strategies import unit_vectors, vectors
from matryo.transforms import Quantize, decode, encode, fit_scales, truncate

any_floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-(2.0**127), 2.0**127, width=32),
)


def round_half_to_even(value):
    return round(value)  # Python's own rounding of floats


def encode_by_loop(rows, scales):
    codes = np.empty(rows.shape, np.int8)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            codes[i, j] = max(-127, min(127, round_half_to_even(float(value / scales[j]))))
    return codes


@given(rows=any_floats)
def test_int8_decodes_within_half_a_step(rows):
    scales = fit_scales(rows, min_rows=1)

    back = decode(
        encode(rows, Precision.INT8, scales=scales), "int8", dim=rows.shape[1], scales=scales
    )

    error = np.abs(back.astype(np.float64) - rows)
    assert (error <= 0.5 * scales.astype(np.float64) * (1 + 1e-4)).all()


@given(rows=vectors(5, largest=1.0))
def test_int8_codes_equal_those_of_a_plain_loop(rows):
    scales = fit_scales(rows[:1], min_rows=1)

    np.testing.assert_array_equal(encode(rows, "int8", scales=scales), encode_by_loop(rows, scales))


@given(rows=any_floats, factor=st.floats(1, 1e30))
def test_int8_saturates_and_never_wraps(rows, factor):
    scales = (fit_scales(rows, min_rows=1) / np.float32(factor)).clip(1e-38)

    codes = encode(rows, "int8", scales=scales)

    assert codes.min() >= -127
    assert ((codes == 0) | (np.sign(codes) == np.sign(rows))).all()


def test_int8_rounds_half_to_even_and_clips_to_127():
    rows = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 1e30, -128.0]], np.float32)

    codes = encode(rows, "int8", scales=np.ones(9, np.float32))

    assert codes.tolist() == [[0, 2, 2, 0, -2, 126, 127, 127, -127]]


def test_a_step_is_the_largest_absolute_value_over_127():
    rows = np.zeros((40, 3), np.float32)
    rows[7] = [-254, 0, 12.7]

    np.testing.assert_allclose(fit_scales(rows), [2, 1, 0.1], rtol=1e-6)


def test_many_rows_are_encoded_like_few(rng):
    rows = rng.standard_normal((3000, 6), dtype=np.float32)
    scales = fit_scales(rows)

    codes = encode(rows, "int8", scales=scales)

    np.testing.assert_array_equal(codes[2990:], encode(rows[2990:], "int8", scales=scales))


def test_too_few_rows_for_scales_are_refused_with_the_number_needed():
    with pytest.raises(TooFewError, match=r"at least 32 samples, got 31 samples") as caught:
        fit_scales(np.ones((31, 2)))

    assert caught.value.needed == 32


def test_numbers_beyond_float32_have_no_float32_step():
    with pytest.raises(VectorError, match="within float32, got 1e"):
        fit_scales(np.full((2, 2), 1e300), min_rows=1)


@given(rows=unit_vectors(11))
def test_bits_keep_the_sign_and_decode_to_length_1(rows):
    back = decode(encode(rows, "binary"), "binary", dim=11)

    np.testing.assert_array_equal(back > 0, rows > 0)
    np.testing.assert_allclose(np.abs(back), 1 / np.sqrt(11), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, rtol=1e-5)


def test_the_first_dimension_is_the_highest_bit():
    rows = np.array([[1.0, -1, -1, -1, -1, -1, -1, 1, 1, -1]])

    assert encode(rows, "binary").tolist() == [[0b10000001, 0b10000000]]


def test_zeros_count_as_negative_bits():
    np.testing.assert_allclose(
        decode(encode(np.array([[0.0, 1.0]]), "binary"), "binary", dim=2), [[-(0.5**0.5), 0.5**0.5]]
    )


def test_a_row_of_zeros_has_no_bits():
    with pytest.raises(VectorError, match="1 row has only zeros: 0"):
        encode(np.zeros((1, 8)), "binary")


@given(rows=vectors(6))
def test_float16_is_numpys_own_rounding(rows):
    codes = encode(rows, "float16")

    assert codes.dtype == np.float16
    np.testing.assert_array_equal(codes, rows.astype(np.float16))
    np.testing.assert_array_equal(decode(codes, "float16", dim=6), codes.astype(np.float32))


def test_float32_stays_as_it_is(rng):
    rows = rng.standard_normal((4, 3), dtype=np.float32)

    assert encode(rows, "float32") is rows
    assert decode(rows, "float32", dim=3) is rows


@pytest.mark.parametrize(
    ("precision", "size", "limit"), [("float16", 7e4, "65504"), ("float32", 1e39, r"3.40282e\+38")]
)
def test_numbers_too_large_for_the_format_are_refused_and_named(precision, size, limit):
    rows = np.ones((5, 3))
    rows[2, 1] = -size

    with pytest.raises(VectorError, match=rf"{precision} holds numbers up to {limit}, .* 1 row: 2"):
        encode(rows, precision)


@pytest.mark.parametrize("precision", list(Precision))
def test_rows_that_are_not_finite_are_refused(precision):
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = np.nan

    with pytest.raises(VectorError, match="1 row has NaN or infinity: 1"):
        encode(rows, precision, scales=np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("scales", "error", "message"),
    [
        (None, InputError, "got no scales"),
        (np.ones(3, np.float32), DimError, r"shape \(4,\), got \(3,\)"),
        (np.array([1, 0, 1, -1], np.float32), InputError, "got 0.0 for dimension 1 and 1 more"),
        (np.array([1, 1, np.nan, 1], np.float32), InputError, "got nan for dimension 2"),
    ],
)
def test_scales_that_do_not_fit_are_refused_both_ways(scales, error, message):
    with pytest.raises(error, match=message):
        encode(np.ones((2, 4)), "int8", scales=scales)
    with pytest.raises(error, match=message):
        decode(np.ones((2, 4), np.int8), "int8", dim=4, scales=scales)


@pytest.mark.parametrize(
    ("codes", "precision", "error", "message"),
    [
        (np.ones((2, 4), np.int8), "float16", InputError, "float16 codes as float16 .* got int8"),
        (np.ones((2, 4), np.uint8), "binary", DimError, r"9 numbers in shape \(rows, 2\)"),
        (np.ones((2, 8), np.int8), "int8", DimError, r"got \(2, 8\)"),
        (np.ones(9, np.float32), "float32", DimError, r"got \(9,\)"),
    ],
)
def test_codes_that_are_not_of_the_format_are_refused(codes, precision, error, message):
    with pytest.raises(error, match=message):
        decode(codes, precision, dim=9, scales=np.ones(9, np.float32))


def test_an_unknown_precision_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'int9'; did you mean 'int8'\?"):
        encode(np.ones((1, 2)), "int9")


@pytest.mark.parametrize("precision", list(Precision))
def test_the_transform_gives_the_codes_of_the_function_and_decodes_them(precision, rng):
    rows = truncate(rng.standard_normal((40, 20)), 10)
    scales = fit_scales(rows)

    quantize = Quantize(precision).fit(rows)
    codes = quantize.transform(rows)

    np.testing.assert_array_equal(codes, encode(rows, precision, scales=scales))
    np.testing.assert_array_equal(
        quantize.inverse_transform(codes), decode(codes, precision, dim=10, scales=scales)
    )


def test_bits_cannot_be_decoded_before_the_width_is_known():
    with pytest.raises(NotFittedError, match="needs the width seen by fit"):
        Quantize("binary").inverse_transform(np.ones((2, 1), np.uint8))


def test_a_transform_that_turned_from_int8_to_bits_keeps_no_scales(rng):
    quantize = Quantize("int8").fit(rng.standard_normal((40, 8)))

    quantize.set_params(precision="binary").fit(rng.standard_normal((40, 8)))

    assert quantize.to_tensors() == {}
    assert not hasattr(quantize, "scales_")
