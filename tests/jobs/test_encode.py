"""Texts become stored vectors, whole, cut or coded."""

from __future__ import annotations

import re

import numpy as np
import pytest

import matryo
from matryo.core import DimError, InputError, NestedVectors, Precision, Side, UnknownNameError
from matryo.encoders import encoder
from matryo.transforms import decode, truncate

pytest.importorskip("wordllama")

TEXTS = [f"thing number {i} of colour {i % 7}" for i in range(60)]


@pytest.fixture
def texts(write_lines):
    return write_lines("texts.jsonl", [{"id": f"t{i}", "text": t} for i, t in enumerate(TEXTS)])


@pytest.fixture(scope="module")
def whole():
    return encoder("default").encode(TEXTS, side=Side.DOCUMENT)


def test_a_folder_holds_whole_vectors_in_blocks_of_the_trained_dims(texts, whole, tmp_path):
    written = matryo.encode(texts, tmp_path / "t.matryo")

    stored = NestedVectors.open(tmp_path / "t.matryo")
    np.testing.assert_array_equal(stored[:], whole)
    assert stored.ids == [f"t{i}" for i in range(60)]
    assert stored.nesting.dims == (64, 128, 256)
    assert stored.side is Side.DOCUMENT
    assert (
        written["fingerprint"] == stored.space.fingerprint == encoder("default").space.fingerprint
    )
    assert (written["rows"], written["dims"]) == (60, [64, 128, 256])


def test_a_npy_file_holds_the_same_and_ids_beside_it(texts, whole, tmp_path):
    matryo.encode(texts, tmp_path / "t.npy")

    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), whole)
    assert matryo.read_vectors(tmp_path / "t.npy").ids[:2] == ["t0", "t1"]


def test_a_cut_is_scaled_to_length_1_and_keeps_the_space(texts, whole, tmp_path):
    matryo.encode(texts, tmp_path / "t.matryo", dims="64", side="query")

    stored = NestedVectors.open(tmp_path / "t.matryo")
    np.testing.assert_allclose(stored[:], truncate(whole, 64), rtol=1e-6)
    assert stored.shape == (60, 64)
    assert stored.space.full_dim == 256
    assert stored.side is Side.QUERY


@pytest.mark.parametrize(("precision", "error"), [("float16", 6e-4), ("int8", 4e-3)])
def test_codes_and_halves_stand_for_the_vectors(precision, error, texts, whole, tmp_path):
    matryo.encode(texts, tmp_path / "t.matryo", dims="64", precision=precision)

    stored = NestedVectors.open(tmp_path / "t.matryo")
    found = decode(
        np.asarray(stored.blocks[0]), precision, dim=64, scales=stored.scales
    )  # fmt: skip
    assert stored.precision is Precision.parse(precision)
    np.testing.assert_allclose(found, truncate(whole, 64), atol=error)


def test_binary_codes_are_the_signs_of_the_prefix(texts, whole, tmp_path):
    matryo.encode(texts, tmp_path / "t.matryo", dims="64", precision="binary")

    stored = NestedVectors.open(tmp_path / "t.matryo")
    bits = np.unpackbits(np.asarray(stored.blocks[0]), axis=1)
    np.testing.assert_array_equal(bits == 1, whole[:, :64] > 0)
    with pytest.raises(InputError, match="expected float vectors, got binary codes"):
        matryo.measure(tmp_path / "t.matryo")


def test_codes_belong_to_one_dim(texts, tmp_path):
    with pytest.raises(InputError, match="binary codes belong to one dim, got dims 64,128,256"):
        matryo.encode(texts, tmp_path / "t.matryo", precision="binary")

    assert not (tmp_path / "t.matryo").exists()


def test_an_untrained_dim_is_refused_unless_allowed(texts, tmp_path):
    with pytest.raises(DimError, match="was trained at dims 64, 128, 256, got 32"):
        matryo.encode(texts, tmp_path / "t.npy", dims="32")

    matryo.encode(texts, tmp_path / "t.npy", dims="32", allow_untrained=True)

    assert np.load(tmp_path / "t.npy").shape == (60, 32)


def test_empty_texts_are_left_out_and_reported(write_lines, tmp_path):
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "  "}, {"id": "c", "text": "two"}]
    file = write_lines("texts.jsonl", rows)

    written = matryo.encode(file, tmp_path / "t.matryo")

    assert written["left_out"] == ["b"]
    assert written["rows"] == 2
    assert NestedVectors.open(tmp_path / "t.matryo").ids == ["a", "c"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "float16"}, InputError, r"stored in matryo's own folder.*\n.*\.matryo"),
        ({"dims": ""}, DimError, "at least one dim, got none"),
        ({"dims": "64,512"}, DimError, "between 1 and 256 .* got 512"),
        ({"side": "both"}, UnknownNameError, r"no side is called 'both'\n.*document, query"),
        ({"model": "defalt"}, UnknownNameError, "'defalt'; did you mean 'default'"),
    ],
)
def test_options_that_do_not_fit_are_refused_and_nothing_is_written(
    options, error, message, texts, tmp_path
):
    with pytest.raises(error, match=message):
        matryo.encode(texts, tmp_path / "t.npy", **options)

    assert not (tmp_path / "t.npy").exists()


@pytest.mark.parametrize("name", ["t.npy", "t.matryo"])
def test_an_older_result_is_kept_unless_overwriting_is_allowed(name, texts, tmp_path):
    matryo.encode(texts, tmp_path / name)

    with pytest.raises(InputError, match="exists already"):
        matryo.encode(texts, tmp_path / name, dims="64")
    matryo.encode(texts, tmp_path / name, dims="64", overwrite=True)

    assert matryo.read_vectors(tmp_path / name).array.shape == (60, 64)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_overwriting_never_removes_a_folder_of_other_files(precision, texts, tmp_path):
    (tmp_path / "mine.matryo").mkdir()
    (tmp_path / "mine.matryo" / "thesis.txt").write_text("years of work")

    with pytest.raises(InputError, match="got a folder of other files"):
        matryo.encode(
            texts, tmp_path / "mine.matryo", dims="64", precision=precision, overwrite=True
        )

    assert (tmp_path / "mine.matryo" / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t.npy", "t.matryo"])
def test_a_full_disk_keeps_the_old_vectors(name, texts, tmp_path, on_a_full_disk):
    matryo.encode(texts, tmp_path / name, dims="64")
    before = matryo.read_vectors(tmp_path / name).array[:].copy()
    code = "import sys; from matryo.cli import main; sys.exit(main(sys.argv[1:]))"

    done = on_a_full_disk(
        code, "encode", texts, "--out", tmp_path / name, "--overwrite", "--no-cache", limit=20_000
    )

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    # numpy says itself what could not be written, without the reason of the system
    assert re.search("File too large|requested and .* written", done.stderr)
    assert "Traceback" not in done.stderr
    np.testing.assert_array_equal(matryo.read_vectors(tmp_path / name).array[:], before)
    assert not [file.name for file in tmp_path.iterdir() if file.name.endswith(".part")]
