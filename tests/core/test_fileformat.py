"""Nested vectors on disk: what comes back, and what is refused."""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import (
    FormatError,
    InputError,
    NestedVectors,
    Nesting,
    Precision,
    Side,
    SideSpec,
    Space,
)
from matryo.core.fileformat import is_folder
from matryo.testing.strategies import ids, nestings, vectors

SPACE = Space("m", 12, query=SideSpec("suche: ", "layer_norm"))
EVERY_FILE = [
    "manifest.json",
    "ids.json",
    "block-00000-00004.npy",
    "block-00004-00012.npy",
    "norms.npy",
]


def make(rows, names, nesting=None, precision=Precision.FLOAT32, side=Side.DOCUMENT):
    return NestedVectors.from_array(
        rows, names, space=SPACE, side=side, nesting=nesting, precision=precision
    )


def read_all(folder):
    """Open a folder and read every number in it."""
    stored = NestedVectors.open(folder)
    return stored.ids, stored[:].copy(), stored.norms.copy(), stored.space


@pytest.fixture
def rows(rng):
    return rng.standard_normal((6, 12), dtype=np.float32)


@pytest.fixture
def folder(rows, tmp_path):
    path = tmp_path / "v.matryo"
    make(rows, ["a", "b", "ü", "d", "e", "f"], Nesting((4, 12))).save(path)
    return path


@given(
    data=st.data(),
    rows=vectors(12),
    nesting=nestings(12),
    precision=st.sampled_from([Precision.FLOAT32, Precision.FLOAT16]),
    side=st.sampled_from(Side),
)
def test_what_is_saved_is_what_is_opened(data, rows, nesting, precision, side):
    saved = make(rows, data.draw(ids(len(rows))), nesting, precision, side)

    with tempfile.TemporaryDirectory() as folder:
        saved.save(Path(folder) / "v")
        opened = NestedVectors.open(Path(folder) / "v")

        assert opened.ids == saved.ids
        assert [type(name) for name in opened.ids] == [type(name) for name in saved.ids]
        assert (opened.nesting, opened.space, opened.side) == (nesting, SPACE, side)
        assert opened.precision is precision
        assert opened.scales is None
        np.testing.assert_array_equal(opened.norms, saved.norms)
        np.testing.assert_array_equal(opened[:], saved[:])
        for dim in nesting:
            np.testing.assert_array_equal(opened.prefix(dim), saved.prefix(dim))
            assert opened.prefix(dim).dtype == saved.prefix(dim).dtype


@pytest.mark.parametrize(
    ("precision", "block", "scales"),
    [
        (Precision.INT8, np.arange(24, dtype=np.int8).reshape(2, 12), np.ones(12, np.float32) / 3),
        (Precision.BINARY, np.array([[1, 2], [3, 240]], np.uint8), None),
    ],
)
def test_codes_come_back_with_their_scales(precision, block, scales, tmp_path):
    NestedVectors(
        [1, 2],
        [block],
        nesting=Nesting((12,)),
        space=SPACE,
        side=Side.QUERY,
        precision=precision,
        scales=scales,
    ).save(tmp_path / "v")

    opened = NestedVectors.open(tmp_path / "v")

    np.testing.assert_array_equal(opened.blocks[0], block)
    np.testing.assert_array_equal(opened.scales, scales)
    assert opened.norms is None
    assert opened.is_codes


def test_no_rows_come_back_as_no_rows(tmp_path):
    make(np.empty((0, 12), np.float32), [], Nesting((4, 12))).save(tmp_path / "v")

    opened = NestedVectors.open(tmp_path / "v")

    assert opened.shape == (0, 12)
    assert opened[:].shape == (0, 12)


def test_the_folder_can_be_read_by_plain_numpy_and_json(folder, rows):
    manifest = json.loads((folder / "manifest.json").read_text())

    assert sorted(path.name for path in folder.iterdir()) == sorted(EVERY_FILE)
    assert manifest["fingerprint"] == SPACE.fingerprint
    assert (manifest["count"], manifest["dims"]) == (6, [4, 12])
    np.testing.assert_array_equal(np.load(folder / "block-00004-00012.npy"), rows[:, 4:])
    assert json.loads((folder / "ids.json").read_text()) == ["a", "b", "ü", "d", "e", "f"]


def test_an_opened_folder_can_be_saved_elsewhere_and_over_itself(folder, rows, tmp_path):
    NestedVectors.open(folder).save(tmp_path / "copy")
    NestedVectors.open(folder).save(folder, overwrite=True)

    np.testing.assert_array_equal(NestedVectors.open(folder)[:], rows)
    for name in EVERY_FILE:
        assert (folder / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


def test_an_existing_folder_is_replaced_only_when_asked_to(folder, rows):
    with pytest.raises(InputError, match=r"v\.matryo exists already"):
        make(rows[:2], [1, 2]).save(folder)

    make(rows[:2], [1, 2]).save(folder, overwrite=True)

    assert NestedVectors.open(folder).ids == [1, 2]


def test_such_a_folder_is_recognized(folder, tmp_path):
    assert is_folder(folder)
    assert not is_folder(tmp_path)
    assert not is_folder(folder / "ids.json")


@pytest.mark.parametrize("name", EVERY_FILE)
def test_every_changed_byte_is_refused_or_harmless(folder, name):
    """Harmless is what another reader of JSON would not see either, as a blank between fields."""
    file = folder / name
    whole = file.read_bytes()
    names, numbers, norms, space = read_all(folder)
    refused = 0

    places = random.Random(0).sample(range(len(whole)), min(len(whole), 250))
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = read_all(folder)
        except FormatError as error:
            assert name in str(error)  # noqa: PT017
            refused += 1
        else:
            assert name == "manifest.json"
            assert (found[0], found[3]) == (names, space)
            np.testing.assert_array_equal(found[1], numbers)
            np.testing.assert_array_equal(found[2], norms)

    assert refused == len(places) or (name == "manifest.json" and refused > len(places) / 2)


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("change", ["cut", "longer", "empty", "gone"])
def test_a_file_of_another_length_is_refused_and_named(folder, name, change):
    file = folder / name
    whole = file.read_bytes()
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": whole[:-3], "longer": whole + b"1", "empty": b""}[change])

    with pytest.raises(FormatError, match=re.escape(name)):
        NestedVectors.open(folder)


def test_a_damaged_block_does_not_keep_the_others_from_being_read(folder, rows):
    file = folder / "block-00004-00012.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    opened = NestedVectors.open(folder)

    np.testing.assert_array_equal(opened.prefix(4), rows[:, :4])
    for read in (lambda: opened.prefix(5), lambda: opened[:], lambda: np.asarray(opened.blocks[1])):
        with pytest.raises(FormatError, match=r"block-00004-00012\.npy: the file is damaged") as e:
            read()
        assert e.value.path == file


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"expected a folder of nested vectors, got one without"):
        NestedVectors.open(tmp_path)


@pytest.mark.parametrize("name", ["a-file", "not-there"])
def test_a_path_that_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "a-file").write_text("x")

    with pytest.raises(FormatError, match=f"{name}: expected a folder of nested vectors"):
        NestedVectors.open(tmp_path / name)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("not json", "expected a manifest as JSON"),
        ("[]", "expected a manifest as JSON"),
        ("{}", "expected a manifest as JSON"),
        (
            '{"kind": "index", "format": 1, "digest": ""}',
            "expected kind 'nested-vectors', got 'ind",
        ),
        (
            '{"kind": "nested-vectors", "format": 2, "digest": ""}',
            r"expected format 1, got 2\n  a newer matryo wrote this folder",
        ),
        (
            '{"kind": "nested-vectors", "format": 1, "digest": ""}',
            r"changed after it was written .*\n  restore the folder",
        ),
    ],
)
def test_a_manifest_of_another_kind_or_format_is_refused(folder, manifest, message):
    (folder / "manifest.json").write_text(manifest)

    with pytest.raises(FormatError, match=message) as caught:
        NestedVectors.open(folder)

    assert caught.value.path == folder / "manifest.json"


def replace_block(folder, array):
    """Put another array in place of the first block, as a writer of this format would."""
    file = folder / "block-00000-00004.npy"
    np.save(file, array, allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": checksum}
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_another_program_can_write_such_a_folder(folder, rows):
    replace_block(folder, rows[:, :4] * 2)

    np.testing.assert_array_equal(NestedVectors.open(folder).prefix(4), rows[:, :4] * 2)


@pytest.mark.parametrize(
    "array",
    [np.ones((6, 5), np.float32), np.ones((5, 4), np.float32), np.ones((6, 4))],
    ids=["width", "rows", "type"],
)
def test_a_block_that_is_not_what_the_manifest_says_is_refused(folder, array):
    replace_block(folder, array)

    with pytest.raises(FormatError, match=r"block-00000-00004\.npy: expected float32 numbers of"):
        NestedVectors.open(folder).prefix(4)


def test_nothing_is_ever_unpickled(folder):
    replace_block(folder, np.full((6, 4), print, dtype=object))

    with pytest.raises(FormatError, match=r"block-00000-00004\.npy"):
        NestedVectors.open(folder).prefix(4)


def test_a_full_disk_keeps_the_old_folder(folder, rows, run_on_a_full_disk):
    run = run_on_a_full_disk(
        "import sys\nimport numpy as np\n"
        "from matryo.core import NestedVectors, Side, Space\n"
        "many = NestedVectors.from_array(np.ones((5000, 12), np.float32), range(5000),\n"
        "    space=Space('m', 12), side=Side.DOCUMENT)\n"
        "def write(): many.save(sys.argv[1], overwrite=True)",
        limit=50_000,
        args=[folder],
    )

    assert "OSError" in run.stderr
    np.testing.assert_array_equal(NestedVectors.open(folder)[:], rows)
    assert list(folder.parent.iterdir()) == [folder]
