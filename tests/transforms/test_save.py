"""A fitted transform as a file."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from matryo.core import FormatError, InputError, NotFittedError, UnknownNameError
from matryo.transforms import (
    Chain,
    PreStep,
    Quantize,
    Rotation,
    Truncate,
    load_transform,
    save_transform,
)


@pytest.fixture
def rows(rng):
    return rng.standard_normal((40, 6), dtype=np.float32)


@pytest.fixture
def chain(rows):
    return Chain([PreStep("layer_norm"), Rotation(), Truncate(4), Quantize("int8")]).fit(rows)


@pytest.fixture
def file(chain, tmp_path):
    path = tmp_path / "chain.safetensors"
    save_transform(chain, path)
    return path


def test_another_process_reads_the_same_digest_and_gives_the_same_codes(
    chain, file, rows, tmp_path
):
    np.save(tmp_path / "rows.npy", rows)
    code = (
        "import sys, numpy as np, matryo.transforms as t\n"
        "chain = t.load_transform(sys.argv[1])\n"
        "print(chain.digest, chain.transform(np.load(sys.argv[2])).tobytes().hex())"
    )

    run = subprocess.run(
        [sys.executable, "-c", code, file, tmp_path / "rows.npy"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout.split() == [chain.digest, chain.transform(rows).tobytes().hex()]


def test_the_digest_does_not_change_between_versions():
    """A digest stands in plans and fingerprints: changing how it is computed breaks them."""
    quantize = Quantize("int8", min_rows=1).fit(np.array([[127.0, -254.0]]))

    assert Truncate(64).digest == "77a4caa70ba306b5e0c5a982f1809904"
    assert quantize.digest == "01dd1ba1224a02110d1844d60d969069"


def test_a_dim_from_numpy_has_the_digest_of_a_plain_one(tmp_path):
    save_transform(Truncate(np.int64(64)), tmp_path / "t.safetensors")

    loaded = load_transform(tmp_path / "t.safetensors")

    assert loaded.digest == Truncate(64).digest == Truncate(np.int64(64)).digest
    assert not loaded.is_fitted


def test_the_header_can_be_read_by_any_reader_of_safetensors(chain, file):
    with safe_open(file, framework="numpy") as opened:
        metadata, names = opened.metadata(), set(opened.keys())

    assert metadata["kind"] == "matryo-transform"
    assert metadata["format"] == "1"
    assert metadata["digest"] == chain.digest
    steps = json.loads(metadata["transform"])["steps"]
    assert [step["class"] for step in steps] == ["PreStep", "Rotation", "Truncate", "Quantize"]
    assert steps[2]["params"] == {"dim": 4, "normalize": True}
    assert names == {"1.rotation", "1.spectrum", "1.n_samples_seen", "3.scales"}


def test_every_changed_byte_is_refused(file):
    whole = file.read_bytes()

    for place in range(len(whole)):
        for flip in (0x01, 0x29, 0x80):  # 0x29 turns the blank that pads the header into a tab
            file.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            with pytest.raises(FormatError):
                load_transform(file)


@pytest.mark.parametrize("rest", [0, 5, 8, 100, 500, -1])
def test_a_file_cut_short_is_refused(file, rest):
    file.write_bytes(file.read_bytes()[:rest])

    with pytest.raises(FormatError, match=r"chain\.safetensors: ") as caught:
        load_transform(file)

    assert caught.value.path == file


def test_a_changed_number_is_refused_with_what_to_do(file):
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    with pytest.raises(FormatError, match=r"its SHA-256 does not match\)\n  restore the file"):
        load_transform(file)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"

    save_file({"w": np.ones(3)}, path)
    with pytest.raises(FormatError, match=r"expected a transform as \.safetensors, got KeyError"):
        load_transform(path)

    save_file({"w": np.ones(3)}, path, {"kind": "model", "format": "1", "sha256": "0"})
    with pytest.raises(FormatError, match="expected kind 'matryo-transform', got 'model'"):
        load_transform(path)


def test_a_newer_format_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "new.safetensors"
    save_file({"w": np.ones(3)}, path, {"kind": "matryo-transform", "format": "2", "sha256": "0"})

    with pytest.raises(FormatError, match=r"expected format 1, got 2\n  a newer matryo wrote"):
        load_transform(path)


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_transform(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "transform", [Rotation(), Chain([Truncate(2)]), Chain.of_fitted([Truncate(2), Quantize()])]
)
def test_what_has_learned_nothing_is_not_saved(transform, tmp_path):
    with pytest.raises(NotFittedError, match="call fit before saving it"):
        save_transform(transform, tmp_path / "t.safetensors")

    assert not list(tmp_path.iterdir())


def test_a_class_that_could_not_be_loaded_again_is_not_saved(rows, tmp_path):
    class Mine(Rotation):
        pass

    with pytest.raises(UnknownNameError, match="no transform is called 'Mine'"):
        save_transform(Mine().fit(rows), tmp_path / "t.safetensors")


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        save_transform(Truncate(2), tmp_path / "no" / "t.safetensors")
