"""The rotation: what it keeps, what it learns, and what others say it should learn."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import (
    DimError,
    FormatError,
    InputError,
    NotFittedError,
    TooFewError,
    VectorError,
)
from matryo.testing.strategies import vectors
from matryo.transforms import Rotation, load_transform, save_transform


@pytest.fixture
def rows(rng):
    """Vectors with a mean, and less weight in every direction after the other, mixed up."""
    mixed = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    return (rng.standard_normal((500, 16)) * 0.7 ** np.arange(16) + 0.3) @ mixed


@given(rows=vectors(6, min_rows=2, dtype=np.float64))
def test_a_rotation_changes_no_inner_product_beyond_rounding(rows):
    rotated = Rotation().fit_transform(rows)

    lengths = np.linalg.norm(rows, axis=1)
    error = np.abs(rotated @ rotated.T - rows @ rows.T) / np.outer(lengths, lengths)
    assert error.max() < 1e-13


def test_a_rotation_changes_no_float32_score_beyond_rounding(rows):
    rotation = Rotation().fit(rows)
    narrow = rows.astype(np.float32)

    rotated = rotation.transform(narrow)

    assert rotated.dtype == np.float32
    np.testing.assert_allclose(rotated @ rotated.T, narrow @ narrow.T, atol=2e-5)


def test_float16_vectors_are_rotated_in_float32(rows):
    assert Rotation().fit(rows).transform(rows.astype(np.float16)).dtype == np.float32


def test_the_matrix_is_orthogonal(rows):
    matrix = Rotation().fit(rows).rotation_

    np.testing.assert_allclose(matrix.T @ matrix, np.eye(16), atol=1e-13)


def test_the_spectrum_is_that_of_numpys_svd(rows):
    rotation = Rotation().fit(rows)

    _, singular, right = np.linalg.svd(rows, full_matrices=False)

    np.testing.assert_allclose(rotation.spectrum_, singular**2 / len(rows), rtol=1e-9)
    np.testing.assert_allclose(np.abs(right @ rotation.rotation_), np.eye(16), atol=1e-6)


def test_prefixes_are_those_of_a_truncated_svd(rows):
    decomposition = pytest.importorskip("sklearn.decomposition")

    expected = decomposition.TruncatedSVD(4, algorithm="arpack").fit_transform(rows)

    ours = Rotation().fit_transform(rows)[:, :4]
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), atol=1e-8)


def test_no_other_basis_keeps_more_in_a_prefix(rows, rng):
    rotated = Rotation().fit_transform(rows)

    for _ in range(20):
        other = rows @ np.linalg.qr(rng.standard_normal((16, 16)))[0]
        kept, theirs = (np.square(x).cumsum(axis=1).sum(axis=0) for x in (rotated, other))
        assert (kept >= theirs * (1 - 1e-12)).all()


def test_streamed_is_the_same_as_whole(rows):
    streamed = Rotation()
    for part in np.array_split(rows, 7):
        streamed.partial_fit(part)

    whole = Rotation().fit(rows)
    np.testing.assert_allclose(streamed.rotation_, whole.rotation_, atol=1e-9)
    np.testing.assert_allclose(streamed.spectrum_, whole.spectrum_, rtol=1e-9)
    assert streamed.n_samples_seen_ == 500


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_numbers_give_the_rotation_of_wide_ones_within_float32(rows, dtype):
    narrow = rows.astype(dtype)
    streamed = Rotation()
    for part in np.array_split(narrow, 7):
        streamed.partial_fit(part)

    wide = Rotation().fit(narrow.astype(np.float64))
    for rotation in (streamed, Rotation().fit(narrow)):
        matrix = rotation.rotation_
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(16), atol=1e-13)
        np.testing.assert_allclose(
            rotation.spectrum_, wide.spectrum_, atol=5e-7 * wide.spectrum_[0]
        )
        kept, best = (np.square(narrow @ m).cumsum(axis=1).sum(axis=0)
                      for m in (matrix, wide.rotation_))  # fmt: skip
        np.testing.assert_allclose(kept, best, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1.0, 1e17, 1e30])
def test_float32_rows_of_any_size_have_squares(rows, size):
    scaled = (rows * size).astype(np.float32)

    rotation = Rotation().fit(scaled)

    np.testing.assert_allclose(
        rotation.spectrum_[:8] / size**2, Rotation().fit(rows).spectrum_[:8], rtol=1e-4
    )


def test_learning_goes_on_after_transforming(rows):
    rotation = Rotation().partial_fit(rows[:100])
    rotation.transform(rows)

    rotation.partial_fit(rows[100:])

    np.testing.assert_allclose(rotation.rotation_, Rotation().fit(rows).rotation_, atol=1e-9)


def test_learning_goes_on_after_loading(rows, tmp_path):
    save_transform(Rotation().fit(rows[:100]), tmp_path / "r.safetensors")

    rotation = load_transform(tmp_path / "r.safetensors").partial_fit(rows[100:])

    np.testing.assert_allclose(rotation.rotation_, Rotation().fit(rows).rotation_, atol=1e-9)


def test_fitting_again_forgets_what_was_seen_before(rows):
    rotation = Rotation().fit(np.eye(3)).fit(rows)

    np.testing.assert_array_equal(rotation.rotation_, Rotation().fit(rows).rotation_)
    assert rotation.digest == Rotation().fit(rows).digest


@given(rows=vectors(7, min_rows=2, max_rows=5, dtype=np.float64))
def test_fewer_rows_than_dims_still_give_a_whole_basis(rows):
    rotation = Rotation().fit(rows)

    np.testing.assert_allclose(rotation.rotation_.T @ rotation.rotation_, np.eye(7), atol=1e-12)
    assert (rotation.spectrum_ >= 0).all()
    np.testing.assert_allclose(rotation.spectrum_[len(rows) :], 0, atol=1e-9)


@given(rows=vectors(5, min_rows=2, dtype=np.float64), flips=st.lists(st.sampled_from([-1, 1])))
def test_the_largest_component_of_every_column_is_positive(rows, flips):
    flips = np.resize([*flips, 1], len(rows))[:, None]

    matrix = Rotation().fit(rows * flips).rotation_

    assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(5)] > 0).all()


def test_a_memory_mapped_file_is_read_in_chunks(tmp_path, rng):
    rows = rng.standard_normal((100_000, 32), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")

    tracemalloc.start()
    rotation = Rotation().fit(mapped)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < rows.nbytes / 4
    np.testing.assert_allclose(
        rotation.spectrum_.sum(), np.square(rows).sum(axis=1).mean(), rtol=1e-5
    )


class StoppedError(Exception):
    """What stops a fit in these tests."""


def _stop_after(n_rows):
    """A progress that stops the fit once so many rows are done."""
    done = [0]

    def progress(more):
        done[0] += more
        if done[0] >= n_rows:
            raise StoppedError

    return progress


@pytest.fixture
def many(rng):
    return rng.standard_normal((30_000, 8), dtype=np.float32) * 0.8 ** np.arange(
        8, dtype=np.float32
    )


def test_a_fit_that_was_interrupted_goes_on_and_learns_the_same_to_the_last_bit(many, tmp_path):
    file = tmp_path / "state.safetensors"
    with pytest.raises(StoppedError):
        Rotation().fit_stream(many, checkpoint=file, every=5000, progress=_stop_after(20_000))
    assert file.exists()
    done = []

    rotation = Rotation().fit_stream(many, checkpoint=file, every=5000, progress=done.append)

    assert done[0] == 16_384
    assert sum(done) == 30_000
    assert rotation.digest == Rotation().fit(many).digest
    assert not file.exists()


def test_a_checkpoint_of_other_rows_is_refused(many, tmp_path):
    file = tmp_path / "state.safetensors"
    with pytest.raises(StoppedError):
        Rotation().fit_stream(many, checkpoint=file, every=5000, progress=_stop_after(20_000))

    for other in (many[:-1], many + 1, many.astype(np.float64)):
        with pytest.raises(InputError, match=r"got that of a fit on others\n  remove it"):
            Rotation().fit_stream(other, checkpoint=file)
    assert file.exists()


def test_every_changed_byte_of_a_checkpoint_is_refused(many, tmp_path):
    file = tmp_path / "state.safetensors"
    with pytest.raises(StoppedError):
        Rotation().fit_stream(many, checkpoint=file, every=5000, progress=_stop_after(20_000))
    whole = file.read_bytes()

    for place in range(8, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((FormatError, InputError)):
            Rotation().fit_stream(many, checkpoint=file)


def test_rows_that_are_not_finite_are_named_in_a_stream(many):
    many[29_000, 2] = np.inf

    with pytest.raises(VectorError, match="1 row has NaN or infinity: 29000"):
        Rotation().fit_stream(many)


def test_a_rotation_learned_elsewhere_is_a_rotation(rows, rng, tmp_path):
    fitted = Rotation().fit(rows)

    made = Rotation.of(
        fitted.rotation_.tolist(), spectrum=fitted.spectrum_, n_samples_seen=len(rows)
    )

    assert made.digest == fitted.digest
    save_transform(made, tmp_path / "r.safetensors")
    np.testing.assert_array_equal(
        load_transform(tmp_path / "r.safetensors").transform(rows), fitted.transform(rows)
    )
    more = made.partial_fit(rows * 2)
    assert more.n_samples_seen_ == 1000


@pytest.mark.parametrize(
    ("matrix", "spectrum", "n", "message"),
    [
        (np.eye(3) * (1 + 1e-5), np.ones(3), 5, "is 2e-05 away from the identity\n  make it"),
        (np.full((3, 3), np.nan), np.ones(3), 5, "is nan away"),
        (np.eye(3)[:2], np.ones(3), 5, r"a matrix \(dim, dim\), got shape \(2, 3\)"),
        (np.eye(3), np.ones(2), 5, r"a spectrum of 3 .* got shape \(2,\)"),
        (np.eye(3), [1, -1, 0], 5, "from 0 up, got shape .*, smallest -1"),
        (np.eye(3), np.ones(3), 0, "n_samples_seen must be at least 1, got 0"),
    ],
)
def test_what_is_no_rotation_is_refused(matrix, spectrum, n, message):
    with pytest.raises(InputError, match=message):
        Rotation.of(matrix, spectrum=spectrum, n_samples_seen=n)


def test_one_row_is_too_few_at_once_or_streamed():
    row = np.ones((1, 3))

    with pytest.raises(TooFewError, match="at least 2 samples, got 1 sample"):
        Rotation().fit(row)
    with pytest.raises(TooFewError, match="at least 2 samples, got 1 sample"):
        Rotation().partial_fit(row).transform(row)


def test_rows_that_are_not_finite_are_named_and_nothing_is_learned_from_their_chunk(rows):
    rotation = Rotation().fit(rows)
    before = rotation.digest
    bad = np.ones((3000, 16))
    bad[2500, 3] = np.nan

    with pytest.raises(VectorError, match="1 row has NaN or infinity: 2500"):
        rotation.partial_fit(bad)
    with pytest.raises(VectorError, match="1 row has NaN or infinity: 2500"):
        rotation.fit(bad)

    assert rotation.digest == before


def test_a_chunk_of_another_width_is_refused(rows):
    with pytest.raises(DimError, match="X has 15 features, but Rotation is expecting 16"):
        Rotation().partial_fit(rows).partial_fit(rows[:, 1:])


@pytest.mark.parametrize("use", [lambda r: r.transform(np.eye(3)), lambda r: r.rotation_])
def test_nothing_can_be_rotated_before_fit(use):
    with pytest.raises(NotFittedError, match="call fit first"):
        use(Rotation())
