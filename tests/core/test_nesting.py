"""Dims, one or many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import DimError, Nesting, check_dim
from matryo.testing.strategies import nestings


@given(nesting=st.integers(1, 300).flatmap(nestings))
def test_the_text_of_a_nesting_reads_back_as_itself(nesting):
    assert Nesting.parse(str(nesting)) == nesting


@given(nesting=st.integers(1, 300).flatmap(nestings))
def test_blocks_cover_every_number_once_in_order(nesting):
    covered = [number for start, stop in nesting.blocks for number in range(start, stop)]

    assert covered == list(range(nesting.full_dim))
    assert len(nesting.blocks) == len(nesting) == len(list(nesting))


@pytest.mark.parametrize(
    ("full_dim", "dims"),
    [(768, (16, 32, 64, 128, 256, 512, 768)), (64, (16, 32, 64)), (16, (16,)), (9, (9,))],
)
def test_halving_gives_powers_of_two_and_the_whole(full_dim, dims):
    assert Nesting.halving(full_dim).dims == dims


def test_halving_starts_at_the_smallest_that_is_asked_for():
    assert Nesting.halving(100, smallest=30).dims == (30, 60, 100)


@pytest.mark.parametrize("smallest", [0, -2])
def test_halving_from_below_1_is_refused(smallest):
    with pytest.raises(DimError, match=f"at least 1, got {smallest}"):
        Nesting.halving(64, smallest=smallest)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((), "at least one dim, got none"),
        ((0, 4), "at least 1, got 0 in 0,4"),
        ((4, -8), "at least 1, got -8"),
        ((4, 8.0), r"whole number of at least 1, got 8\.0"),
        ((True, 8), "whole number of at least 1, got True"),
        ((64, 64), "must not repeat, got 64 twice"),
        ((64, 256, 128), r"must ascend, got 128 after 256\n  write them as 64,128,256"),
    ],
)
def test_dims_that_do_not_fit_are_refused(dims, message):
    with pytest.raises(DimError, match=message) as caught:
        Nesting(dims)

    assert caught.value.dims == dims


def test_text_that_holds_no_numbers_is_refused():
    with pytest.raises(DimError, match=r"as in 64,256, got '64;256'"):
        Nesting.parse("64;256")


def test_numpy_integers_are_dims():
    nesting = Nesting.parse(np.array([4, 8]))

    assert nesting == Nesting((4, 8))
    assert all(type(dim) is int for dim in nesting)


@pytest.mark.parametrize("dims", [[4.0, 8], ["4", 8], [True, 8]])
def test_floats_texts_and_booleans_are_no_dims(dims):
    with pytest.raises(DimError, match="must be a whole number of at least 1"):
        Nesting.parse(dims)


def test_dims_beyond_the_width_are_refused():
    with pytest.raises(DimError, match=r"between 1 and 100 .* got 128"):
        Nesting.parse("64,128", full_dim=100)


@pytest.mark.parametrize("dim", [1, 8, np.int32(5), 4.0])
def test_a_whole_number_within_the_width_is_a_dim(dim):
    checked = check_dim(dim, 8)

    assert checked == dim
    assert type(checked) is int


@pytest.mark.parametrize(
    "dim", [0, 9, -1, 2.5, True, "4", None, float("nan"), float("inf"), [1, 2]]
)
def test_anything_else_is_no_dim(dim):
    with pytest.raises(DimError, match=r"between 1 and 8 \(the width of these vectors\), got") as e:
        check_dim(dim, 8)

    assert e.value.dim is dim
    assert e.value.full_dim == 8
