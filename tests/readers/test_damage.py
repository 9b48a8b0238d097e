"""Files that are cut, changed, of another format, or hostile."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matryo.core import FormatError, InputError, MatryoError, Side, Space, VectorError
from matryo.readers import FORMATS, open_dataset, read_texts, read_vectors, write_vectors

VECTORS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
SUFFIXES = [form.suffix for form in FORMATS if "vectors" in form.reads and form.suffix]


def make(path):
    if path.suffix in (".parquet", ".arrow", ".feather"):
        pa = pytest.importorskip("pyarrow")
    if path.suffix in (".hdf5", ".h5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["train"] = VECTORS
    elif path.suffix in (".arrow", ".feather"):
        table = pa.table({"vector": VECTORS.tolist()})
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    elif path.suffix == ".bvecs":
        path.write_bytes(struct.pack("<i4B", 4, 1, 2, 3, 4) * 6)
    elif path.suffix == ".u8bin":
        path.write_bytes(struct.pack("<II", 6, 4) + bytes(range(1, 25)))
    else:
        write_vectors(path, VECTORS, overwrite=True)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_is_refused_by_name(suffix, tmp_path):
    path = make(tmp_path / f"v{suffix}")
    path.write_bytes(b"")

    with pytest.raises(FormatError, match=rf"v\{suffix}: expected a \{suffix} file, got an empty"):
        read_vectors(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_refused_by_name(suffix, tmp_path):
    with pytest.raises(InputError, match=rf"gone\{suffix}: expected a file or folder, got nothing"):
        read_vectors(tmp_path / f"gone{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cut", [2, 7, 30])
def test_a_truncated_file_is_refused_by_name(suffix, cut, tmp_path):
    path = make(tmp_path / f"v{suffix}")
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises((FormatError, VectorError), match=rf"v\{suffix}"):
        read_vectors(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_gives_vectors_or_one_of_our_errors(suffix, place, value, tmp_path):
    path = make(tmp_path / f"v{suffix}")
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(data)

    try:
        shape = read_vectors(damaged).array[:].shape
    except MatryoError as error:
        assert f"damaged{suffix}" in str(error)  # noqa: PT017
    else:
        assert len(shape) == 2


def test_a_npy_shorter_than_its_header_says_both_sizes(tmp_path):
    path = make(tmp_path / "v.npy")
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(
        FormatError, match=r"expected 224 bytes \(a header of 128 and \(6, 4\) .* got 214\n"
    ):
        read_vectors(path)


def test_fvecs_of_broken_rows_says_how_much_is_whole(tmp_path):
    path = make(tmp_path / "v.fvecs")
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(
        FormatError, match=r"rows of 20 bytes .* got 117 bytes: 5 rows and 17 bytes"
    ):
        read_vectors(path)


def test_fvecs_with_a_row_of_another_length_names_the_row_when_it_is_read(tmp_path):
    good, bad = struct.pack("<i2f", 2, 1.0, 2.0), struct.pack("<i2f", 3, 1.0, 2.0)
    (tmp_path / "v.fvecs").write_bytes(good * 3 + bad + good)

    rows = read_vectors(tmp_path / "v.fvecs").array

    assert rows[:3].shape == (3, 2)
    with pytest.raises(
        FormatError, match="expected rows of 2 numbers as the first, got 3 in row 3"
    ):
        rows[np.array([4, 3])]


def test_fbin_whose_header_does_not_fit_its_size_says_both(tmp_path):
    (tmp_path / "v.fbin").write_bytes(struct.pack("<II3f", 2, 3, 1.0, 2.0, 3.0))

    with pytest.raises(FormatError, match=r"expected 32 bytes .*\(2, 3\) numbers.* got 20"):
        read_vectors(tmp_path / "v.fbin")


@pytest.mark.parametrize(("real", "claimed"), [(".npz", ".npy"), (".npy", ".npz"), (".npy", ".h5")])
def test_a_file_under_a_wrong_suffix_is_recognised(real, claimed, tmp_path):
    make(tmp_path / f"v{real}").rename(tmp_path / f"w{claimed}")

    with pytest.raises(FormatError, match=rf"expected a \{claimed} file.*\n.*looks like \{real}"):
        read_vectors(tmp_path / f"w{claimed}")


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    (tmp_path / "v.npy").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")

    with pytest.raises(FormatError, match=r"Git LFS pointer to one\n.*git lfs pull"):
        read_vectors(tmp_path / "v.npy")


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "v.bin").write_bytes(b"12345678")

    with pytest.raises(InputError, match=r"expected a folder .* \.npy, .*, got \.bin"):
        read_vectors(tmp_path / "v.bin")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickled_objects_are_never_loaded(tmp_path):
    objects = np.array([[Trap()]], dtype=object)
    np.save(tmp_path / "v.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "v.npz", vectors=objects)

    for name in ("v.npy", "v.npz"):
        with pytest.raises(FormatError, match=rf"{name}: .* got pickled Python objects, which are"):
            read_vectors(tmp_path / name)


def test_an_archive_whose_header_lies_does_not_take_the_memory_it_claims(tmp_path):
    header = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**5)}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as file:
        file.writestr("vectors.npy", header.getvalue() + b"1234")

    with pytest.raises(FormatError, match=r"expected 4000000000128 bytes .* got 132"):
        read_vectors(tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(6).reshape(2, 3), "expected float16, float32 or float64 numbers, got int64"),
        (np.ones((2, 3), dtype=np.uint8), "got uint8"),
        (np.ones((2, 3), dtype=complex), "got complex128"),
        (np.ones(3), r"as \(rows, numbers\), got shape \(3,\)"),
        (np.ones((2, 3, 4)), r"got shape \(2, 3, 4\)"),
        (np.ones((0, 3)), r"at least one vector.* got shape \(0, 3\)"),
        (np.ones((3, 0)), r"at least one vector.* got shape \(3, 0\)"),
    ],
)
def test_arrays_that_are_no_vectors_are_refused(array, message, tmp_path):
    np.save(tmp_path / "v.npy", array)

    with pytest.raises(VectorError, match=message):
        read_vectors(tmp_path / "v.npy")


def test_bfloat16_tensors_are_refused_by_their_type(tmp_path):
    header = b'{"v":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    (tmp_path / "v.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")

    with pytest.raises(VectorError, match="'v': expected F16, F32 or F64 numbers, got BF16"):
        read_vectors(tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["a"]', "expected 6 ids, one per row, got 1"),
        ('{"a": 1}', r"v\.ids\.json: expected ids as a JSON array, got dict"),
        ("a\nb\n", r"v\.ids\.json: expected ids as a JSON array, got: "),
        ("[" * 100_000, r"v\.ids\.json: expected ids as a JSON array, got: "),
        ("[1, 2, 3, 4, 5, 5]", r"v\.npy: ids must not repeat, got 1 a second time: 5"),
        ("[1, 2, 3, 4, 5, null]", r"v\.npy: ids must be strings or integers, got None in row 5"),
        ("", r"v\.ids\.json: .* got an empty one"),
    ],
)
def test_bad_ids_beside_a_file_are_refused(content, message, tmp_path):
    path = make(tmp_path / "v.npy")
    (tmp_path / "v.ids.json").write_text(content)

    with pytest.raises((FormatError, InputError), match=message):
        read_vectors(path)


def test_a_damaged_block_of_a_folder_is_found_and_named(tmp_path):
    path = tmp_path / "v.matryo"
    write_vectors(path, VECTORS, space=Space("m", 4), side=Side.DOCUMENT)
    block = path / "block-00000-00004.npy"
    data = bytearray(block.read_bytes())
    data[-1] ^= 1
    block.write_bytes(data)

    with pytest.raises(FormatError, match=r"block-00000-00004\.npy: the file is damaged"):
        read_vectors(path).array[:2]


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    with pytest.raises(FormatError, match="expected a folder of nested vectors, got one without"):
        read_vectors(tmp_path)


def test_an_option_that_the_format_does_not_have_is_refused(tmp_path):
    path = make(tmp_path / "v.npy")

    with pytest.raises(InputError, match="expected no name, which this format does not have"):
        read_vectors(path, name="train")
    with pytest.raises(InputError, match="expected no vector_column"):
        read_vectors(path, vector_column="dense")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".txt", ".parquet"])
def test_an_empty_or_missing_file_of_texts_is_refused(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t{suffix}"

    with pytest.raises(InputError, match=rf"t\{suffix}: expected a file, got nothing"):
        read_texts(path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match=rf"t\{suffix}: .* got an empty one"):
        read_texts(path)


def test_a_missing_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="gone: expected a data set, got nothing"):
        open_dataset(tmp_path / "gone")


@pytest.mark.parametrize(
    ("module", "suffix", "extra"), [("pyarrow", ".parquet", "parquet"), ("h5py", ".h5", "hdf5")]
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    module, suffix, extra, tmp_path, monkeypatch
):
    path = make(tmp_path / f"v{suffix}")
    monkeypatch.setitem(__import__("sys").modules, module, None)

    with pytest.raises(ImportError, match=rf"needs the package {module}\n.*'matryo\[{extra}\]'"):
        read_vectors(path)
