"""Nested vectors in memory: blocks, prefixes and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import (
    DimError,
    InputError,
    NestedVectors,
    Nesting,
    Precision,
    Side,
    Space,
    VectorError,
    prefix_norms,
)
from matryo.testing.strategies import nestings, vectors

SPACE = Space("m", 12)


def nested(rows, ids=None, **options):
    ids = list(range(len(rows))) if ids is None else ids
    return NestedVectors.from_array(rows, ids, space=SPACE, side=Side.DOCUMENT, **options)


@given(rows=vectors(12), nesting=nestings(12), dim=st.integers(1, 12))
def test_every_prefix_is_that_of_the_array(rows, nesting, dim):
    stored = nested(rows, nesting=nesting)

    np.testing.assert_array_equal(stored.prefix(dim), rows[:, :dim])
    np.testing.assert_array_equal(stored[:], rows)
    assert stored.shape == rows.shape
    assert len(stored) == len(rows)


@given(rows=vectors(12), nesting=nestings(12))
def test_norms_are_the_lengths_of_the_prefixes(rows, nesting):
    norms = nested(rows, nesting=nesting).norms

    expected = [np.linalg.norm(rows[:, :dim].astype(np.float64), axis=1) for dim in nesting]
    np.testing.assert_allclose(norms.T, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_of_very_small_and_large_rows_neither_vanish_nor_overflow(size):
    norms = prefix_norms(np.array([[3, 4, 12]], np.float32) * np.float32(size), Nesting((2, 3)))

    np.testing.assert_allclose(norms, [[5 * size, 13 * size]], rtol=1e-6)


def test_norms_of_many_rows_are_those_of_few(rng):
    rows = rng.standard_normal((40_000, 3), dtype=np.float32)

    norms = prefix_norms(rows, Nesting((1, 3)))

    np.testing.assert_allclose(
        norms[[0, 16_383, 16_384, 39_999], 0], np.abs(rows[[0, 16_383, 16_384, 39_999], 0])
    )


def test_a_prefix_within_the_first_block_is_no_copy(rng):
    stored = nested(rng.standard_normal((5, 12)), nesting=Nesting((4, 12)))

    assert np.shares_memory(stored.prefix(3), stored.blocks[0])


def test_rows_are_read_by_number_or_slice_as_float32(rng):
    rows = rng.standard_normal((9, 12)).astype(np.float16)
    stored = nested(rows, nesting=Nesting((4, 12)), precision=Precision.FLOAT16)

    some = stored[np.array([7, 0])]

    assert stored.blocks[0].dtype == np.float16
    assert some.dtype == np.float32
    np.testing.assert_array_equal(some, rows[[7, 0]])
    np.testing.assert_array_equal(stored[2:4], rows[2:4])


@pytest.mark.parametrize("dim", [4.0, np.int64(4), 4])
def test_a_dim_may_be_any_whole_number(dim, rng):
    assert nested(rng.standard_normal((5, 12))).prefix(dim).shape == (5, 4)


@pytest.mark.parametrize("dim", [0, 13, -1, 2.5])
def test_a_prefix_beyond_the_width_is_refused(dim):
    with pytest.raises(DimError, match="between 1 and 12"):
        nested(np.ones((2, 12))).prefix(dim)


def test_vectors_may_be_narrower_than_their_space_but_not_wider():
    assert nested(np.ones((2, 5))).nesting == Nesting((5,))
    with pytest.raises(DimError, match="these vectors have 13 numbers, their space 12"):
        nested(np.ones((2, 13)))


@pytest.mark.parametrize(
    ("bad", "message"), [(np.nan, "NaN or infinity: 'b'"), (0.0, "only zeros: 'b'")]
)
def test_rows_that_cannot_be_scored_are_named_by_id(bad, message):
    rows = np.ones((3, 12))
    rows[1] = bad

    with pytest.raises(VectorError, match=f"document vectors: 1 row has {message}"):
        nested(rows, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("precision", "size"), [("float16", 1e5), ("float32", 1e39), ("float16", 1e-9)]
)
def test_rows_that_a_narrower_format_would_lose_are_named_by_id(precision, size):
    rows = np.ones((3, 12))
    rows[1] = size

    with pytest.raises(VectorError, match=r"1 row has .*: 'b'"):
        nested(rows, ["a", "b", "c"], precision=Precision(precision))


def test_one_id_per_row_is_needed():
    with pytest.raises(InputError, match="expected"):
        nested(np.ones((3, 12)), ["a", "b"])


def test_ids_that_repeat_are_refused():
    with pytest.raises(InputError, match="got 1 a second time: 'a'"):
        nested(np.ones((3, 12)), ["a", "b", "a"])


def test_a_nesting_must_end_at_the_width():
    with pytest.raises(DimError, match="must end at the width of these vectors, 12, got 4,8"):
        nested(np.ones((3, 12)), nesting=Nesting((4, 8)))


def test_an_array_is_not_stored_as_codes():
    with pytest.raises(InputError, match="expected float32 or float16 here, got int8"):
        nested(np.ones((3, 12)), precision=Precision.INT8)


def test_codes_have_one_block_and_no_prefixes():
    codes = NestedVectors(
        ["a"],
        [np.zeros((1, 2), np.uint8)],
        nesting=Nesting((12,)),
        space=SPACE,
        side=Side.DOCUMENT,
        precision=Precision.BINARY,
    )

    assert codes.is_codes
    assert codes.shape == (1, 12)
    with pytest.raises(InputError, match="binary codes of 12 numbers; they have no prefixes"):
        codes.prefix(4)
    with pytest.raises(InputError, match="they have no prefixes"):
        codes[:]


@pytest.mark.parametrize(
    ("nesting", "width", "message"),
    [
        (Nesting((4, 12)), 12, "int8 codes belong to one dim, got dims 4,12"),
        (Nesting((12,)), 11, r"expected blocks of shapes \[\(1, 12\)\], got \[\(1, 11\)\]"),
    ],
)
def test_codes_that_do_not_fit_are_refused(nesting, width, message):
    with pytest.raises(InputError, match=message):
        NestedVectors(
            ["a"],
            [np.zeros((1, width), np.int8)],
            nesting=nesting,
            space=SPACE,
            side=Side.DOCUMENT,
            precision=Precision.INT8,
            scales=np.ones(12, np.float32),
        )


def test_blocks_of_another_type_than_the_precision_says_are_refused():
    with pytest.raises(InputError, match="expected blocks of float32 numbers, got float64"):
        NestedVectors(
            ["a"],
            [np.ones((1, 12))],
            nesting=Nesting((12,)),
            space=SPACE,
            side=Side.DOCUMENT,
        )
