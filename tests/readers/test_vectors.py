import json
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matryo.core import InputError, NestedVectors, Nesting, Side, Space, VectorError
from matryo.readers import read_vectors, write_vectors

WRITABLE = [".npy", ".npz", ".safetensors", ".parquet", ".jsonl", ".fvecs", ".fbin", ".matryo"]
LAZY = [".npy", ".fvecs", ".fbin", ".matryo"]
SPACE = Space("test-model", full_dim=4)


def needs(suffix):
    if suffix in (".parquet", ".arrow", ".feather"):
        pytest.importorskip("pyarrow")
    if suffix in (".hdf5", ".h5"):
        pytest.importorskip("h5py")


def some(rows=6, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def write(path, vectors, ids=None, **options):
    needs(path.suffix)
    where = {"space": SPACE, "side": Side.DOCUMENT} if path.suffix == ".matryo" else {}
    write_vectors(path, vectors, ids, **where, **options)


def plain_fvecs(path):
    data, rows, at = path.read_bytes(), [], 0
    while at < len(data):
        (dim,) = struct.unpack_from("<i", data, at)
        rows.append(struct.unpack_from(f"<{dim}f", data, at + 4))
        at += 4 + 4 * dim
    return np.array(rows, dtype=np.float32)


def plain_fbin(path):
    data = path.read_bytes()
    rows, dim = struct.unpack_from("<II", data)
    numbers = struct.unpack_from(f"<{rows * dim}f", data, 8)
    return np.array(numbers, dtype=np.float32).reshape(rows, dim)


texts_as_ids = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["1", "a\nb", "a\r\nb", "end\0", "", "é", "𝔘", '"', "\u2028", "x" * 5000]),
    ),
    min_size=1,
    max_size=6,
    unique=True,
)
numbers_as_ids = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize("suffix", WRITABLE)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ids=st.one_of(texts_as_ids, numbers_as_ids), seed=st.integers(0, 99))
def test_write_then_read_gives_the_same_vectors_and_ids(suffix, ids, seed, tmp_path):
    vectors = some(len(ids), seed=seed)
    path = tmp_path / f"vectors{suffix}"

    write(path, vectors, ids, overwrite=True)
    found = read_vectors(path)

    np.testing.assert_array_equal(found.array[:], vectors)
    assert found.ids == ids
    assert [type(name) for name in found.ids] == [type(name) for name in ids]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".jsonl", ".fvecs", ".matryo"])
def test_the_integer_1_and_the_text_1_are_two_ids(suffix, tmp_path):
    path = tmp_path / f"vectors{suffix}"

    write(path, some(3), [1, "1", 2**70])

    assert read_vectors(path).ids == [1, "1", 2**70]


def test_ids_that_parquet_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    pytest.importorskip("pyarrow")

    for ids in ([1, "1"], ["1", 1], [2**70, 1], ["\ud800", "a"]):
        with pytest.raises(InputError, match="all text or all integers of 64 bits"):
            write_vectors(tmp_path / "v.parquet", some(2), ids)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", WRITABLE)
def test_rows_without_ids_are_numbered_from_0(suffix, tmp_path):
    path = tmp_path / f"vectors{suffix}"

    write(path, some(3))

    assert read_vectors(path).ids == [0, 1, 2]


@pytest.mark.parametrize("suffix", [*WRITABLE, ".hdf5"])
def test_slices_and_arrays_of_row_numbers_read_rows_as_float32(suffix, tmp_path):
    needs(suffix)
    vectors = some(40)
    path = tmp_path / f"vectors{suffix}"
    if suffix == ".hdf5":
        import h5py

        with h5py.File(path, "w") as file:
            file["train"] = vectors.astype(np.float64)
    else:
        write(path, vectors)

    array = read_vectors(path).array

    assert array.shape == (40, 4)
    rows = np.array([7, 3, 3, 39, -1])
    for key in (slice(5, 9), slice(None), slice(None, None, 3), slice(30, 99), slice(9, 5), rows):
        assert array[key].dtype == np.float32
        np.testing.assert_array_equal(array[key], vectors[key])


@pytest.mark.parametrize("suffix", LAZY)
def test_opening_a_large_file_does_not_load_it(suffix, tmp_path):
    vectors = np.ones((40_000, 256), dtype=np.float32)
    path = tmp_path / f"vectors{suffix}"
    write_vectors(
        path,
        vectors,
        **({"space": Space("m", 256), "side": Side.DOCUMENT} if suffix == ".matryo" else {}),
    )
    code = """
        import sys, resource
        from matryo.readers import read_vectors
        import numpy as np
        resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        array = read_vectors(sys.argv[1]).array
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """

    grown_kb = int(run(code, path).stdout)

    assert grown_kb < vectors.nbytes / 1024 / 3


def test_fvecs_and_fbin_agree_with_a_plain_reader(tmp_path):
    vectors = some(9, 5)

    write_vectors(tmp_path / "a.fvecs", vectors)
    write_vectors(tmp_path / "b.fbin", vectors)

    np.testing.assert_array_equal(plain_fvecs(tmp_path / "a.fvecs"), vectors)
    np.testing.assert_array_equal(plain_fbin(tmp_path / "b.fbin"), vectors)


def test_fvecs_and_fbin_made_by_a_plain_writer_are_read(tmp_path):
    rows = [[1.5, -2.0, 3.25], [0.5, 4.0, -1.0]]
    (tmp_path / "a.fvecs").write_bytes(b"".join(struct.pack("<i3f", 3, *row) for row in rows))
    (tmp_path / "b.fbin").write_bytes(struct.pack("<II6f", 2, 3, *rows[0], *rows[1]))

    for name in ("a.fvecs", "b.fbin"):
        assert read_vectors(tmp_path / name).array[:].tolist() == rows


def test_vectors_of_bytes_become_float32(tmp_path):
    rows = [[0, 128, 255], [1, 2, 3]]
    (tmp_path / "a.bvecs").write_bytes(b"".join(struct.pack("<i3B", 3, *row) for row in rows))
    (tmp_path / "b.u8bin").write_bytes(struct.pack("<II6B", 2, 3, *rows[0], *rows[1]))

    for name in ("a.bvecs", "b.u8bin"):
        found = read_vectors(tmp_path / name).array[:]
        assert found.dtype == np.float32
        assert found.tolist() == rows


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_float_type_and_order_is_read(dtype, order, tmp_path):
    vectors = np.asarray(some(), dtype=dtype, order=order)
    np.save(tmp_path / "v.npy", vectors)

    found = read_vectors(tmp_path / "v.npy").array[1:3]

    np.testing.assert_array_equal(found, vectors[1:3].astype(np.float32))


def test_numbers_beyond_float32_are_refused_not_turned_into_infinity(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[1e300, 1.0]]))
    rows = read_vectors(tmp_path / "v.npy").array

    with pytest.raises(VectorError, match=r"v\.npy: expected numbers between -3\.4e38 and 3\.4e38"):
        rows[:]


def test_ids_beside_a_npy_file_are_one_json_array(tmp_path):
    np.save(tmp_path / "v.npy", some(2))
    (tmp_path / "v.ids.json").write_text('["a", "b\\nc"]')

    assert read_vectors(tmp_path / "v.npy").ids == ["a", "b\nc"]


def test_overwriting_without_ids_removes_the_ids_of_the_old_vectors(tmp_path):
    path = tmp_path / "v.npy"
    write_vectors(path, some(2), ["a", "b"])

    write_vectors(path, some(2, seed=1), overwrite=True)

    assert read_vectors(path).ids == [0, 1]


class TestNamedArrays:
    def test_the_only_matrix_is_taken_and_its_ids(self, tmp_path):
        np.savez(tmp_path / "v.npz", stuff=some(2), weights=np.ones(3), ids=np.array(["x", "y"]))

        found = read_vectors(tmp_path / "v.npz")

        assert found.ids == ["x", "y"]
        np.testing.assert_array_equal(found.array[:], some(2))

    def test_a_usual_name_wins_among_several(self, tmp_path):
        np.savez_compressed(tmp_path / "v.npz", other=some(2), embeddings=some(2, seed=1))

        np.testing.assert_array_equal(read_vectors(tmp_path / "v.npz").array[:], some(2, seed=1))

    def test_several_without_a_usual_name_are_refused_with_the_list(self, tmp_path):
        np.savez(tmp_path / "v.npz", train=some(3), test=some(2))

        with pytest.raises(InputError, match=r"got train \(3, 4\), test \(2, 4\)\n.*by its name"):
            read_vectors(tmp_path / "v.npz")

    @pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".hdf5"])
    def test_an_array_is_chosen_by_name_and_an_unknown_name_lists_the_known(self, suffix, tmp_path):
        path = named_arrays(tmp_path / f"v{suffix}", train=some(3), test=some(2))

        np.testing.assert_array_equal(read_vectors(path, name="test").array[:], some(2))
        with pytest.raises(LookupError, match=r"is called 'tset'; did you mean 'test'\?\n.*train"):
            read_vectors(path, name="tset")

    def test_integer_ids_in_safetensors_are_read(self, tmp_path):
        path = named_arrays(tmp_path / "v.safetensors", vectors=some(2), ids=np.array([5, 3]))

        assert read_vectors(path).ids == [5, 3]

    def test_hdf5_of_ann_benchmarks_has_documents_in_train_and_queries_in_test(self, tmp_path):
        path = named_arrays(
            tmp_path / "v.hdf5",
            train=some(9),
            test=some(2),
            neighbors=np.zeros((2, 3), dtype=int),
            distances=np.zeros((2, 3), dtype=np.float32),
        )

        documents, queries = read_vectors(path), read_vectors(path, name="test")

        assert documents.side is Side.DOCUMENT
        assert queries.side is Side.QUERY
        assert (documents.array.shape, queries.array.shape) == ((9, 4), (2, 4))


def named_arrays(path, **arrays):
    needs(path.suffix)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(arrays, path)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


class TestTables:
    @pytest.fixture(autouse=True)
    def _pyarrow(self):
        pytest.importorskip("pyarrow")

    @staticmethod
    def lists(kind, rows):
        import pyarrow as pa

        types = {
            "fixed float32": pa.list_(pa.float32(), 2),
            "fixed float16": pa.list_(pa.float16(), 2),
            "float64": pa.list_(pa.float64()),
            "large float32": pa.large_list(pa.float32()),
            "float16": pa.list_(pa.float16()),
        }
        numbers = [row and [v if v is None else np.float16(v) for v in row] for row in rows]
        return pa.array(numbers if "float16" in kind else rows, type=types[kind])

    @staticmethod
    def save(path, **columns):
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyarrow import feather

        table = pa.table(columns)
        if path.suffix == ".parquet":
            pq.write_table(table, path, row_group_size=2)
        elif path.suffix == ".feather":
            feather.write_feather(table, path)
        else:
            with pa.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table, max_chunksize=2)
        return path

    @pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
    @pytest.mark.parametrize(
        "kind", ["fixed float32", "fixed float16", "float64", "large float32", "float16"]
    )
    def test_every_kind_of_list_column_is_read(self, suffix, kind, tmp_path):
        rows = [[1.5, 2.0], [-3.0, 0.25], [5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]
        path = self.save(tmp_path / f"v{suffix}", vector=self.lists(kind, rows), id=list("abcde"))

        found = read_vectors(path)

        assert found.array[:].tolist() == rows
        assert found.ids == list("abcde")

    def test_an_arrow_file_in_the_file_form_is_read_too(self, tmp_path):
        import pyarrow as pa

        table = pa.table({"e": self.lists("float64", [[1.0, 2.0]])})
        with pa.ipc.new_file(tmp_path / "v.arrow", table.schema) as file:
            file.write_table(table)

        assert read_vectors(tmp_path / "v.arrow").array[:].tolist() == [[1.0, 2.0]]

    @pytest.mark.parametrize("kind", ["float64", "large float32"])
    def test_ragged_lists_name_the_first_row_and_its_length(self, kind, tmp_path):
        rows = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0]]
        path = self.save(tmp_path / "v.parquet", vector=self.lists(kind, rows))

        with pytest.raises(
            VectorError, match=r"'vector': expected 2 numbers in every row .* got 3 in row 3"
        ):
            read_vectors(path)

    @pytest.mark.parametrize("kind", ["float64", "fixed float32"])
    @pytest.mark.parametrize("fault", [None, [1.0, None]])
    def test_a_null_names_its_row(self, kind, fault, tmp_path):
        rows = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], fault]
        path = self.save(tmp_path / "v.parquet", vector=self.lists(kind, rows))

        with pytest.raises(VectorError, match="got null in row 3"):
            read_vectors(path)

    def test_a_column_of_another_type_is_refused_with_those_that_would_do(self, tmp_path):
        path = self.save(
            tmp_path / "v.parquet",
            text=["a", "b"],
            counts=[[1], [2]],
            dense=self.lists("float64", [[1.0], [2.0]]),
        )

        with pytest.raises(VectorError, match=r"'text', got string\n  columns .* do: dense"):
            read_vectors(path, vector_column="text")
        with pytest.raises(VectorError, match=r"'counts', got list<.*int64>\n"):
            read_vectors(path, vector_column="counts")
        with pytest.raises(LookupError, match=r"called 'dens'; did you mean 'dense'"):
            read_vectors(path, vector_column="dens")

    def test_two_columns_that_would_do_must_be_told_apart(self, tmp_path):
        lists = self.lists("float64", [[1.0], [2.0]])
        path = self.save(tmp_path / "v.parquet", title_vector=lists, body_vector=lists)

        with pytest.raises(InputError, match=r"got 2 among: title_vector .*, body_vector"):
            read_vectors(path)
        assert read_vectors(path, vector_column="body_vector").array.shape == (2, 1)

    def test_a_null_id_is_refused_with_its_row(self, tmp_path):
        path = self.save(
            tmp_path / "v.parquet", vector=self.lists("float64", [[1.0], [2.0]]), id=["a", None]
        )

        with pytest.raises(InputError, match=r"v\.parquet: ids must be .* got None in row 1"):
            read_vectors(path)

    def test_what_we_write_pyarrow_reads_as_fixed_size_lists(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        write_vectors(tmp_path / "v.parquet", some(3), ["a", "b", "c"])

        table = pq.read_table(tmp_path / "v.parquet")
        assert table.schema.field("vector").type == pa.list_(pa.float32(), 4)
        assert table.column("vector").to_pylist() == some(3).tolist()


class TestJsonLines:
    @staticmethod
    def save(path, *records):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    def test_both_spellings_of_the_fields_are_read(self, tmp_path):
        path = self.save(
            tmp_path / "v.jsonl",
            {"_id": "a", "embedding": [1, 2.5]},
            {"_id": "b", "embedding": [3, 4]},
        )

        found = read_vectors(path)

        assert found.ids == ["a", "b"]
        assert found.array[:].tolist() == [[1.0, 2.5], [3.0, 4.0]]

    def test_named_fields_are_read(self, tmp_path):
        path = self.save(tmp_path / "v.jsonl", {"key": 7, "dense": [1.0]})

        found = read_vectors(path, id_column="key", vector_column="dense")

        assert found.ids == [7]

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ({"id": 2, "vector": [1.0]}, r"line 2: expected 2 numbers .* got 1"),
            (
                {"id": 2, "vector": ["1", "2"]},
                r"line 2, field 'vector': expected a list of numbers",
            ),
            ({"id": 2, "vector": [True, 1]}, r"line 2, field 'vector': expected a list of numbers"),
            ({"id": 2, "vector": None}, r"line 2, field 'vector': expected a list of numbers"),
            ({"id": 2, "vector": [10**400, 1]}, r"line 2.*float32"),
            (
                {"id": 2, "vektor": [1.0, 2.0]},
                r"line 2: .* vector or embedding, got 'id', 'vektor'",
            ),
            ({"vector": [1.0, 2.0]}, r"line 2: expected an id, got None"),
            ({"id": 1, "vector": [1.0, 2.0]}, r"v\.jsonl: ids must not repeat"),
            ({"id": 1.5, "vector": [1.0, 2.0]}, r"ids must be strings or integers, got 1\.5"),
        ],
    )
    def test_a_bad_line_is_named(self, second, message, tmp_path):
        path = self.save(tmp_path / "v.jsonl", {"id": 1, "vector": [1.0, 2.0]}, second)

        with pytest.raises(InputError, match=message):
            read_vectors(path)


class TestFolder:
    def test_nested_vectors_come_back_with_space_and_side(self, tmp_path):
        nested = NestedVectors.from_array(
            some(), list("abcdef"), space=SPACE, side=Side.QUERY, nesting=Nesting((2, 4))
        )

        write_vectors(tmp_path / "queries.matryo", nested)
        found = read_vectors(tmp_path / "queries.matryo")

        assert (found.space, found.side, found.name) == (SPACE, Side.QUERY, "queries")
        np.testing.assert_array_equal(found.array[:], some())

    def test_nested_vectors_can_be_written_to_other_formats(self, tmp_path):
        nested = NestedVectors.from_array(some(2), ["a", "b"], space=SPACE, side=Side.QUERY)

        write_vectors(tmp_path / "v.npz", nested)

        assert read_vectors(tmp_path / "v.npz").ids == ["a", "b"]

    def test_space_and_side_are_asked_for(self, tmp_path):
        with pytest.raises(InputError, match="needs their space and side, got none"):
            write_vectors(tmp_path / "v", some())

    def test_space_is_not_lost_in_silence(self, tmp_path):
        with pytest.raises(InputError, match=r"only a folder .* keeps space.*\n.*v\.matryo"):
            write_vectors(tmp_path / "v.npy", some(), space=SPACE, side=Side.QUERY)

    def test_codes_are_refused(self, tmp_path):
        from matryo.core import Precision

        NestedVectors(
            [0],
            [np.ones((1, 4), dtype=np.int8)],
            nesting=Nesting((4,)),
            space=SPACE,
            side=Side.DOCUMENT,
            precision=Precision.INT8,
            scales=np.ones(4, dtype=np.float32),
        ).save(tmp_path / "v")

        with pytest.raises(InputError, match="expected float vectors, got int8 codes"):
            read_vectors(tmp_path / "v")

    def test_a_folder_of_other_files_is_never_replaced(self, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")

        with pytest.raises(InputError, match="got a folder of other files"):
            write_vectors(tmp_path / "photos", some(), space=SPACE, side=Side.QUERY, overwrite=True)

        assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


class TestWriting:
    @pytest.mark.parametrize("suffix", WRITABLE)
    def test_an_existing_file_is_kept_unless_overwriting_is_allowed(self, suffix, tmp_path):
        path = tmp_path / f"v{suffix}"
        write(path, some())

        with pytest.raises(InputError, match=r"exists already\n"):
            write(path, some(seed=1))
        write(path, some(seed=2), overwrite=True)

        np.testing.assert_array_equal(read_vectors(path).array[:], some(seed=2))

    @pytest.mark.parametrize("suffix", WRITABLE)
    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.array([[1.0, 2.0], [np.nan, 1.0]]), r"1 row has NaN or infinity: 'b'"),
            (np.array([[0.0, 0.0], [1.0, 1.0]]), r"1 row has only zeros: 'a'"),
            (np.array([[1, 2], [3, 4]]), "floating point|float16, float32 or float64 numbers"),
            (np.ones((0, 2)), r"at least one vector.* got shape \(0, 2\)"),
        ],
    )
    def test_what_cannot_be_scored_is_not_written(self, suffix, vectors, message, tmp_path):
        ids = list("ab")[: len(vectors)]

        with pytest.raises(VectorError, match=message):
            write(tmp_path / f"v{suffix}", vectors, ids)

        assert not list(tmp_path.iterdir())

    def test_ids_must_be_one_per_row_and_unique(self, tmp_path):
        with pytest.raises(InputError, match="expected 3 ids, one per row, got 2"):
            write_vectors(tmp_path / "v.npy", some(3), ["a", "b"])
        with pytest.raises(InputError, match="ids must not repeat"):
            write_vectors(tmp_path / "v.npy", some(2), ["a", "a"])

    def test_a_format_that_cannot_be_written_lists_those_that_can(self, tmp_path):
        with pytest.raises(InputError, match=r"expected \.npy, .*\.fbin.* to write, got \.h5"):
            write_vectors(tmp_path / "v.h5", some())

    def test_rows_are_streamed_from_one_file_to_another(self, tmp_path):
        vectors = some(40_000, 8)
        write_vectors(tmp_path / "a.fvecs", vectors)

        write_vectors(tmp_path / "b.npy", read_vectors(tmp_path / "a.fvecs").array)

        np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), vectors)

    @pytest.mark.parametrize("suffix", WRITABLE)
    def test_a_full_disk_leaves_the_old_file(self, suffix, tmp_path):
        path = tmp_path / f"v{suffix}"
        write(path, some(2), ["a", "b"])
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        code = """
            import resource, sys
            import numpy as np
            from matryo.core import Side, Space
            from matryo.readers import write_vectors
            path = sys.argv[1]
            where = {}
            if path.endswith(".matryo"):
                where = {"space": Space("test-model", 64), "side": Side.DOCUMENT}
            rng = np.random.default_rng(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            try:
                write_vectors(path, rng.normal(size=(4000, 64)), overwrite=True, **where)
            except OSError as error:
                print("refused:", error)
        """

        assert run(code, path).stdout.startswith("refused:")

        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"},
    )
