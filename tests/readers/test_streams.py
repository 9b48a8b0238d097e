"""Vectors read once, in order, are those that are read at once."""

from __future__ import annotations

import numpy as np
import pytest

from matryo.core import FormatError, InputError, UnknownNameError, VectorError
from matryo.readers import read_vectors, stream_vectors, write_vectors

ROWS = np.random.default_rng(0).standard_normal((5003, 6)).astype(np.float32)
IDS = [f"r{i}" for i in range(len(ROWS))]


@pytest.fixture
def table(tmp_path):
    """Parquet in row groups of an odd size, with two columns of vectors."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 6)
    columns = {"key": IDS, "vector": lists, "other": pa.array(list(ROWS[:, :3]))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=777)
    return tmp_path / "t.parquet"


@pytest.mark.parametrize(
    ("first", "size"), [(0, 1000), (0, 9000), (1, 777), (4096, 512), (5003, 8)]
)
def test_parts_have_one_size_from_any_row_on(first, size, table):
    parts = list(stream_vectors(table).parts(first, size))

    assert [len(part) for part in parts[:-1]] == [size] * max(len(parts) - 1, 0)
    whole = np.concatenate([np.empty((0, 6), np.float32), *parts])
    np.testing.assert_array_equal(whole, ROWS[first:])


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".jsonl", ".fbin"])
def test_a_stream_has_what_reading_at_once_has(suffix, tmp_path):
    write_vectors(tmp_path / f"v{suffix}", ROWS[:300], IDS[:300])

    stream, whole = (read(tmp_path / f"v{suffix}") for read in (stream_vectors, read_vectors))

    assert (stream.ids, stream.shape, stream.has_ids) == (whole.ids, (300, 6), True)
    np.testing.assert_array_equal(next(stream.parts(0, 500)), whole.array[:])


def test_columns_are_chosen_by_name(table):
    stream = stream_vectors(table, vector_column="other", id_column="key")

    assert stream.ids == IDS
    np.testing.assert_array_equal(np.concatenate(list(stream.parts(0, 999))), ROWS[:, :3])
    assert not stream_vectors(table).has_ids
    with pytest.raises(UnknownNameError, match="'vectr'; did you mean 'vector'"):
        stream_vectors(table, vector_column="vectr")


def test_rows_of_another_width_are_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    lists = [[1.0, 2.0]] * 4000 + [[1.0]]
    pq.write_table(pa.table({"vector": lists}), tmp_path / "t.parquet")

    with pytest.raises(VectorError, match="got 1 in row 4000"):
        list(stream_vectors(tmp_path / "t.parquet").parts(0, 100))


def test_a_file_without_rows_or_cut_short_is_refused(table, tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(table).slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(FormatError, match="at least 1 row, got 0"):
        stream_vectors(tmp_path / "none.parquet")
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(FormatError, match="expected a whole Parquet file"):
        stream_vectors(table)
    with pytest.raises(InputError, match="does not exist"):
        stream_vectors(tmp_path / "nowhere.parquet")
