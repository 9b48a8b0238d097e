"""Cutting, scaling to length 1, and the step before the cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import DimError, UnknownNameError, VectorError
from matryo.testing.strategies import unit_vectors, vectors
from matryo.transforms import PreStep, Truncate, layer_norm, normalize, pre_step, truncate

dims = st.integers(1, 8)


@given(rows=vectors(8), one=dims, other=dims)
def test_truncating_twice_is_truncating_once(rows, one, other):
    small, large = sorted((one, other))

    twice = truncate(truncate(rows, large), small)

    np.testing.assert_allclose(twice, truncate(rows, small), rtol=1e-6)


@given(rows=vectors(8), one=dims, other=dims)
def test_raw_prefixes_of_prefixes_are_the_same_numbers(rows, one, other):
    small, large = sorted((one, other))

    twice = truncate(truncate(rows, large, normalize=False), small, normalize=False)

    np.testing.assert_array_equal(twice, rows[:, :small])


@given(rows=vectors(8), dim=dims)
def test_a_truncated_row_has_length_1_and_the_direction_of_the_prefix(rows, dim):
    cut = truncate(rows, dim).astype(np.float64)

    prefix = rows[:, :dim].astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        (cut * prefix).sum(axis=1), np.linalg.norm(prefix, axis=1), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1.0, 1e30, 1e37])
def test_rows_of_any_size_come_out_with_length_1(size, dtype):
    rows = np.array([[3.0, -4.0, 12.0], [1.0, 0.0, 0.0]]) * size

    cut = truncate(rows.astype(dtype), 2)

    # subnormal float32 numbers carry few digits of the ratio 3 : 4
    np.testing.assert_allclose(np.linalg.norm(cut.astype(np.float64), axis=1), 1, rtol=1e-6)


def test_float64_numbers_whose_squares_leave_float64_come_out_with_length_1():
    rows = np.array([[3e-200, 4e-200], [3e200, 4e200]])

    np.testing.assert_allclose(normalize(rows), [[0.6, 0.8], [0.6, 0.8]])


def test_many_rows_are_cut_like_one(rng):
    rows = rng.standard_normal((5000, 12), dtype=np.float32)

    cut = truncate(rows, 7)

    np.testing.assert_array_equal(
        cut[[0, 1023, 1024, 4999]], truncate(rows[[0, 1023, 1024, 4999]], 7)
    )


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_result_is_a_new_array_of_the_same_type(dtype, normalized):
    rows = np.asfortranarray(np.arange(1, 13).reshape(3, 4).astype(dtype))

    cut = truncate(rows, 4, normalize=normalized)

    assert cut.dtype == dtype
    assert cut.flags.c_contiguous
    assert not np.shares_memory(cut, rows)


def test_a_memory_mapped_file_is_cut_into_a_plain_array(tmp_path, rng):
    rows = rng.standard_normal((50, 8), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")

    cut = truncate(mapped, 3, normalize=False)

    assert type(cut) is np.ndarray
    np.testing.assert_array_equal(cut, rows[:, :3])


def test_no_rows_are_no_rows():
    assert truncate(np.empty((0, 8), np.float32), 3).shape == (0, 3)


@pytest.mark.parametrize("dim", [0, -1, 9, 2.5, True, "4", None])
def test_a_dim_outside_the_width_is_refused(dim):
    with pytest.raises(DimError, match=r"between 1 and 8 .* got"):
        truncate(np.ones((2, 8)), dim)


def test_a_dim_may_be_a_numpy_integer():
    assert truncate(np.ones((2, 8)), np.int64(3)).shape == (2, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(bad):
    rows = np.ones((6, 4), np.float32)
    rows[[1, 4], 3] = bad

    with pytest.raises(VectorError, match=r"2 rows have NaN or infinity: 1, 4") as caught:
        truncate(rows, 2, normalize=False)

    assert caught.value.ids == [1, 4]


def test_rows_of_zeros_are_named():
    rows = np.ones((6, 4))
    rows[3] = 0

    with pytest.raises(VectorError, match=r"1 row has only zeros: 3"):
        truncate(rows, 2)


def test_rows_of_which_only_zeros_would_remain_are_named():
    rows = np.ones((6, 4))
    rows[[0, 5], :2] = 0

    with pytest.raises(
        VectorError, match=r"cut to 2 numbers: only zeros remain of 2 rows: 0, 5"
    ) as e:
        truncate(rows, 2)

    assert e.value.ids == [0, 5]


def test_raw_prefixes_may_be_zero():
    np.testing.assert_array_equal(truncate(np.zeros((2, 4)), 2, normalize=False), np.zeros((2, 2)))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, bool, complex])
def test_codes_and_integers_are_refused(dtype):
    with pytest.raises(VectorError, match="expected floating point numbers, got"):
        truncate(np.ones((2, 4), dtype), 2)


def test_a_single_vector_is_refused():
    with pytest.raises(VectorError, match=r"one vector per row, .* got shape \(4,\)"):
        truncate(np.ones(4), 2)


@given(rows=unit_vectors(8))
def test_normalizing_unit_vectors_changes_nothing(rows):
    np.testing.assert_allclose(normalize(rows), rows, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_layer_norm_agrees_with_torch(size, rng):
    torch = pytest.importorskip("torch")
    rows = rng.standard_normal((200, 48)) * size + size

    expected = torch.nn.functional.layer_norm(torch.from_numpy(rows), (48,)).numpy()

    np.testing.assert_allclose(layer_norm(rows), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layer_norm_gives_mean_0_and_variance_1(dtype, rng):
    rows = (rng.standard_normal((3000, 64)) * 5 + 3).astype(dtype)

    normed = layer_norm(rows)

    assert normed.dtype == dtype
    np.testing.assert_allclose(normed.mean(axis=1, dtype=float), 0, atol=1e-3)
    np.testing.assert_allclose(normed.var(axis=1, dtype=float), 1, atol=2e-3)


def test_a_row_that_layer_norm_would_leave_nothing_of_is_named():
    rows = np.array([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1]])

    with pytest.raises(VectorError, match=r"all numbers are equal in 1 row: 1"):
        layer_norm(rows)


def test_a_pre_step_is_found_by_name(rng):
    rows = rng.standard_normal((3, 8))

    np.testing.assert_array_equal(pre_step(rows, "layer_norm"), layer_norm(rows))
    assert pre_step(rows, None) is rows


@pytest.mark.parametrize(
    "use",
    [lambda rows: pre_step(rows, "layernorm"), lambda rows: PreStep("layernorm").fit(rows)],
    ids=["function", "transform"],
)
def test_an_unknown_pre_step_is_answered_with_the_nearest(use):
    with pytest.raises(UnknownNameError, match=r"'layernorm'; did you mean 'layer_norm'\?"):
        use(np.ones((2, 4)))


def test_a_transform_that_cuts_more_than_it_is_fitted_on_is_refused_by_fit():
    with pytest.raises(DimError, match="between 1 and 4"):
        Truncate(5).fit(np.ones((2, 4)))


def test_truncate_and_pre_step_work_without_fit(rng):
    rows = rng.standard_normal((3, 8))

    np.testing.assert_array_equal(Truncate(2).transform(rows), truncate(rows, 2))
    np.testing.assert_array_equal(PreStep("layer_norm").transform(rows), layer_norm(rows))
