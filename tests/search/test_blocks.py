"""Laws of the blocks in which packed codes lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import Precision, UnsupportedError
from matryo.search import (
    ROWS,
    Level,
    bounds_of,
    check_packed,
    excess_of,
    from_blocks,
    inverse_lengths_from,
    to_blocks,
)
from matryo.transforms import inverse_lengths, odd_integers

WIDEST = {Precision.INT4: 2340, Precision.INT2: 65_535}


@st.composite
def coded(draw, precisions=tuple(WIDEST)):
    """A level and codes of some rows, with nothing in the bits that belong to no dimension."""
    level = Level(draw(st.integers(1, 300)), draw(st.sampled_from(precisions)))
    n, bits = draw(st.integers(1, 200)), level.precision.bits
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    unpacked = rng.integers(0, 2, (n, level.dim * bits), np.uint8)
    return level, np.packbits(unpacked, axis=1)


@given(n=st.integers(1, 200), columns=st.integers(1, 150), seed=st.integers(0, 2**32 - 1))
def test_codes_come_back_out_of_their_blocks_and_the_rest_is_zeros(n, columns, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, 256, (n, columns), np.uint8)

    blocks = to_blocks(codes)

    assert blocks.shape == (-(-n // ROWS), -(-columns // 4), ROWS, 4)
    assert blocks.flags.c_contiguous
    assert np.array_equal(from_blocks(blocks, np.arange(n), columns), codes)
    some = rng.integers(0, n, 50)
    assert np.array_equal(from_blocks(blocks, some, columns), codes[some])
    assert np.count_nonzero(blocks) == codes.size


def test_four_bytes_of_each_row_lie_side_by_side():
    codes = np.arange(33 * 6, dtype=np.uint8).reshape(33, 6)

    flat = to_blocks(codes).reshape(-1)

    assert flat[:8].tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert flat[128:136].tolist() == [4, 5, 0, 0, 10, 11, 0, 0]
    assert flat[256:264].tolist() == [192, 193, 194, 195, 0, 0, 0, 0]


@given(coded(tuple(p for p in Precision if p.is_packed)))
def test_kept_lengths_are_those_of_the_integers_to_the_last_bit(both):
    level, codes = both

    kept = inverse_lengths_from(excess_of(codes, level), level)

    expected = inverse_lengths(odd_integers(codes, level.precision, dim=level.dim))
    assert kept.tobytes() == expected.tobytes()


@given(coded())
def test_bounds_are_the_ends_of_the_lengths_in_each_block(both):
    level, codes = both
    numbers = odd_integers(codes, level.precision, dim=level.dim).astype(np.int64)
    lengths = np.sqrt(np.square(numbers).sum(axis=1).astype(np.float32))

    bounds = bounds_of(excess_of(codes, level), level)

    starts = range(0, len(codes), ROWS)
    ends = [[own.min(), own.max()] for own in (lengths[i : i + ROWS] for i in starts)]
    assert bounds.tobytes() == np.array(ends, np.float32).tobytes()


@pytest.mark.parametrize("precision", WIDEST)
@pytest.mark.parametrize("fill", [0, 255])
def test_the_widest_level_keeps_the_longest_rows(precision, fill):
    level = Level(WIDEST[precision], precision)
    check_packed(level)
    codes = np.full((1, precision.columns(level.dim)), fill, np.uint8)

    kept = inverse_lengths_from(excess_of(codes, level), level)

    largest = 2**precision.bits - 1
    assert kept[0] == np.float32(1) / np.sqrt(np.float32(largest * largest * level.dim))


@pytest.mark.parametrize("precision", WIDEST)
def test_a_wider_level_is_refused(precision):
    with pytest.raises(UnsupportedError, match=rf"up to {WIDEST[precision]} dims, got"):
        check_packed(Level(WIDEST[precision] + 1, precision))


def test_single_bits_have_one_length_and_may_be_as_wide_as_they_like():
    check_packed(Level(100_000, Precision.BINARY))
