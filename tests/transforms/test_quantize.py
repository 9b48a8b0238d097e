"""Number formats, against their laws and against a plain loop."""

from __future__ import annotations

import math

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
from matryo.transforms import (
    Quantize,
    decode,
    encode,
    fit_scales,
    inverse_lengths,
    odd_integers,
    truncate,
)

PACKED = [precision for precision in Precision if precision.is_packed]
# widths of a level, as a share of a row's root mean square
STEPS = {"int4": 0.335, "int2": 0.9957}

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


@pytest.mark.parametrize("precision", PACKED)
def test_a_row_of_zeros_has_no_packed_codes(precision):
    with pytest.raises(VectorError, match="1 row has only zeros: 1"):
        encode(np.array([[0.0, 1.0], [0.0, 0.0]]), precision)


def odd_by_loop(row, precision):
    """The odd integer nearest to each number, counted in halves of a level; the upper of two."""
    if precision == "binary":
        return [1 if value > 0 else -1 for value in row]
    most = 2**precision.bits - 1
    half = STEPS[precision] * math.sqrt(sum(value * value for value in row) / len(row)) / 2
    return [max(-most, min(most, 2 * math.floor(value / half / 2) + 1)) for value in row]


@pytest.mark.parametrize("precision", PACKED)
@given(rows=unit_vectors(st.integers(1, 19)))
def test_packed_codes_stand_for_the_nearest_odd_integers_of_a_plain_loop(precision, rows):
    codes = encode(rows, precision)

    numbers = odd_integers(codes, precision, dim=rows.shape[1])
    assert numbers.tolist() == [odd_by_loop(row, precision) for row in rows.tolist()]


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("dim", range(1, 20))
def test_packed_codes_of_every_width_decode_to_length_1(precision, dim, rng):
    rows = truncate(rng.standard_normal((50, 20)), dim)
    codes = encode(rows, precision)

    back = decode(codes, precision, dim=dim)

    assert codes.shape == (50, precision.columns(dim))
    assert back.shape == (50, dim)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, rtol=1e-6)
    numbers = odd_integers(codes, precision, dim=dim)
    assert (numbers % 2 == 1).all()
    np.testing.assert_array_equal(back, numbers * inverse_lengths(numbers)[:, None])
    assert (np.sign(back) == np.where(rows > 0, 1, -1)).all()


@pytest.mark.parametrize(
    ("precision", "codes"),
    [
        ("int4", [[0x86, 0xA4, 0xD0], [0xC3, 0x96, 0x80], [0x88, 0x88, 0x10]]),
        ("int2", [[0x98, 0xC0], [0xC9, 0x80], [0xAA, 0x00]]),
        ("binary", [[0xA8], [0xA0], [0x00]]),
    ],
)
def test_packed_codes_are_these_bytes_the_first_dimension_highest(precision, codes):
    rows = np.array([[0.1, -0.2, 0.35, -0.5, 0.8], [3, -3, 1, -1, 0], [0, 0, 0, 0, -2]])

    assert encode(rows, precision).tolist() == codes


@pytest.mark.parametrize(
    ("precision", "numbers"),
    [
        ("int4", [[1, -3, 5, -7, 11], [9, -9, 3, -3, 1], [1, 1, 1, 1, -13]]),
        ("int2", [[1, -1, 1, -3, 3], [3, -3, 1, -1, 1], [1, 1, 1, 1, -3]]),
        ("binary", [[1, -1, 1, -1, 1], [1, -1, 1, -1, -1], [-1, -1, -1, -1, -1]]),
    ],
)
def test_packed_codes_stand_for_these_odd_integers(precision, numbers):
    rows = np.array([[0.1, -0.2, 0.35, -0.5, 0.8], [3, -3, 1, -1, 0], [0, 0, 0, 0, -2]])

    made = odd_integers(encode(rows, precision), Precision(precision), dim=5)

    assert made.tolist() == numbers


@pytest.mark.parametrize("precision", PACKED)
@given(rows=unit_vectors(9), power=st.integers(-60, 60))
def test_the_length_of_a_row_does_not_change_its_packed_codes(precision, rows, power):
    np.testing.assert_array_equal(
        encode(rows * np.float32(2.0) ** power, precision), encode(rows, precision)
    )


@pytest.mark.parametrize("precision", PACKED)
def test_numbers_as_small_as_float64_allows_have_packed_codes(precision, rng):
    rows = rng.standard_normal((20, 9))

    np.testing.assert_array_equal(encode(rows * 1e-200, precision), encode(rows, precision))


@pytest.mark.parametrize("precision", PACKED)
def test_many_rows_are_packed_like_few(precision, rng):
    rows = rng.standard_normal((3000, 6), dtype=np.float32)

    np.testing.assert_array_equal(encode(rows, precision)[2990:], encode(rows[2990:], precision))


@pytest.mark.parametrize(
    ("precision", "least"), [("int4", 0.994), ("int2", 0.938), ("binary", 0.797)]
)
@pytest.mark.parametrize("dim", [16, 128, 768])
def test_packed_codes_point_where_normal_rows_do(precision, least, dim, rng):
    # Max 1960, table II: a 16-level (4-level) quantizer loses 1.15 % (11.75 %) of the variance,
    # so cosines tend to sqrt(1 - 0.0115) = 0.994 (0.939); for signs to sqrt(2 / pi) = 0.798
    rows = truncate(rng.standard_normal((2000, dim)), dim)

    cosines = np.einsum("ij,ij->i", rows, decode(encode(rows, precision), precision, dim=dim))

    assert cosines.mean() > least


@pytest.mark.parametrize("dim", [16, 128, 768])
def test_twice_the_bits_are_never_further_from_the_row_on_average(dim, rng):
    rows = truncate(rng.standard_normal((500, dim)) * 0.99 ** np.arange(dim), dim)

    cosines = [
        np.einsum("ij,ij->i", rows, decode(encode(rows, p), p, dim=dim)).mean() for p in PACKED
    ]

    assert cosines == sorted(cosines, reverse=True)


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
        (np.ones((2, 4), np.uint8), "int4", DimError, r"9 numbers in shape \(rows, 5\)"),
        (np.ones((2, 4), np.uint8), "int2", DimError, r"9 numbers in shape \(rows, 3\)"),
        (np.ones((2, 5), np.int8), "int4", InputError, "int4 codes as uint8 numbers, got int8"),
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


@pytest.mark.parametrize("precision", PACKED)
def test_packed_codes_cannot_be_decoded_before_the_width_is_known(precision):
    with pytest.raises(NotFittedError, match="needs the width seen by fit"):
        Quantize(precision).inverse_transform(np.ones((2, 1), np.uint8))


def test_a_transform_that_turned_from_int8_to_bits_keeps_no_scales(rng):
    quantize = Quantize("int8").fit(rng.standard_normal((40, 8)))

    quantize.set_params(precision="binary").fit(rng.standard_normal((40, 8)))

    assert quantize.to_tensors() == {}
    assert not hasattr(quantize, "scales_")
