"""A map as a value, and as a folder."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from matryo.adaptation import NestedMap
from matryo.core import (
    DimError,
    FormatError,
    InputError,
    NotFittedError,
    Side,
    SideSpec,
    Space,
    SpaceMismatchError,
    UnknownNameError,
    VectorError,
)
from matryo.transforms import Adaptor, Rotation


class TestSpaces:
    def test_what_comes_out_belongs_to_a_space_with_the_digests_of_both_maps(self, two, space):
        assert two.makes.query.map == two.query.digest
        assert two.makes.document.map == two.document.digest
        assert two.makes.full_dim == space.full_dim
        assert two.expects is space
        assert two.makes.fingerprint != space.fingerprint

    def test_another_map_of_one_side_makes_another_space(self, one, two, space):
        assert one.makes.document == two.makes.document
        assert one.makes.fingerprint != two.makes.fingerprint
        assert NestedMap(one.query, one.document, space, (4,)).makes == one.makes

    def test_a_map_that_narrows_makes_a_narrower_space(self, transforms, space):
        narrow = NestedMap(transforms["linear"], transforms["linear"], space, (4, 12))

        assert narrow.makes.full_dim == 12
        with pytest.raises(DimError, match="between 1 and 12"):
            NestedMap(transforms["linear"], transforms["linear"], space, (4, 16))

    def test_a_map_over_mapped_vectors_does_not_look_like_one_over_the_model_s(self, one, space):
        again = NestedMap(one.query, one.document, one.makes, one.dims)

        assert again.makes.document.map not in (None, one.document.digest)
        assert again.makes.document.map == again.makes.query.map
        assert again.makes.fingerprint != NestedMap(one.query, one.query, space, (4,)).makes


class TestApply:
    @pytest.mark.parametrize("side", ["query", Side.DOCUMENT])
    def test_each_side_goes_through_its_own_map(self, two, rows, side):
        mapped = two.apply(rows, side, two.expects)

        chosen = two.query if side == "query" else two.document
        np.testing.assert_array_equal(mapped, chosen.transform(rows))

    def test_one_map_serves_both_sides(self, one, two, rows):
        assert one.is_symmetric
        assert not two.is_symmetric
        np.testing.assert_array_equal(one.apply(rows, "query"), one.apply(rows, "document"))

    def test_vectors_of_another_space_are_refused(self, one, rows):
        other = Space("words", 16, revision="2", document=SideSpec(prompt="passage: "))

        with pytest.raises(SpaceMismatchError, match="this map is for vectors of words @ 16") as e:
            one.apply(rows, "document", other)

        assert e.value.fields == ["revision", "document"]

    def test_mapping_twice_is_refused(self, one, rows):
        with pytest.raises(SpaceMismatchError):
            one.apply(one.apply(rows, "query"), "query", one.makes)

    def test_vectors_that_were_cut_before_are_refused(self, one, rows):
        with pytest.raises(DimError, match=r"whole vectors of 16 numbers .* got 8\n  map first"):
            one.apply(rows[:, :8], "document")

    def test_rows_that_are_not_finite_are_named(self, one, rows):
        rows[7, 3] = np.nan

        with pytest.raises(VectorError, match="1 row has NaN or infinity: 7"):
            one.apply(rows, "document")

    def test_an_unknown_side_is_refused(self, one, rows):
        with pytest.raises(UnknownNameError, match="no side is called 'both'"):
            one.apply(rows, "both")


class TestSizes:
    def test_sizes_between_the_fitted_ones_pass(self, one):
        assert one.check_dims("4,5,16").dims == (4, 5, 16)

    @pytest.mark.parametrize("dims", ["2,8", (3,)])
    def test_sizes_below_the_smallest_fitted_one_are_refused(self, one, dims):
        with pytest.raises(
            DimError, match=r"sizes from 4 up \(4, 8, 16\), got [23]\n  choose"
        ) as e:
            one.check_dims(dims)

        assert e.value.fitted == (4, 8, 16)

    def test_sizes_beyond_the_width_are_refused(self, one):
        with pytest.raises(DimError, match="between 1 and 16"):
            one.check_dims((32,))


class TestWhatIsNoMap:
    def test_one_that_was_not_fitted(self, space):
        with pytest.raises(NotFittedError, match="Rotation has learned nothing yet"):
            NestedMap(Rotation(), Rotation(), space, (4,))

    def test_one_of_another_width_than_the_space(self, space):
        narrow = Adaptor.linear(np.eye(8))

        with pytest.raises(DimError, match=r"document side takes 8 numbers, .* have 16"):
            NestedMap(narrow, narrow, space, (4,))

    def test_sides_that_come_out_with_two_widths(self, transforms, space):
        with pytest.raises(DimError, match="got 16 numbers for queries and 12 for documents"):
            NestedMap(transforms["rotation"], transforms["linear"], space, (4,))

    @pytest.mark.parametrize("notes", [{"loss": math.nan}, {"map": object()}, {1: {2, 3}}])
    def test_notes_that_json_cannot_hold(self, transforms, space, notes):
        with pytest.raises(InputError, match="notes must be plain values for JSON"):
            NestedMap(transforms["rotation"], transforms["rotation"], space, (4,), notes)

    @pytest.mark.parametrize("dims", [(), (8, 4), (4, 4)])
    def test_sizes_that_do_not_ascend(self, transforms, space, dims):
        with pytest.raises(DimError):
            NestedMap(transforms["rotation"], transforms["rotation"], space, dims)


class TestFolder:
    @pytest.mark.parametrize("name", ["one", "two"])
    def test_save_then_load_is_identity(self, name, rows, tmp_path, request):
        saved = request.getfixturevalue(name)

        saved.save(tmp_path / "map")
        loaded = NestedMap.load(tmp_path / "map")

        assert (loaded.makes, loaded.expects, loaded.dims) == (
            saved.makes, saved.expects, saved.dims,
        )  # fmt: skip
        assert loaded.notes == saved.notes
        for side in Side:
            np.testing.assert_array_equal(loaded.apply(rows, side), saved.apply(rows, side))

    @pytest.mark.parametrize("kind", ["reorder", "linear_with_bias", "network", "chain"])
    def test_every_kind_of_map_is_kept(self, kind, transforms, space, rows, tmp_path):
        saved = NestedMap(transforms[kind], transforms[kind], space, (4,))

        saved.save(tmp_path / "map")

        np.testing.assert_array_equal(
            NestedMap.load(tmp_path / "map").apply(rows, "query"), saved.apply(rows, "query")
        )

    def test_a_map_of_both_sides_is_one_file_and_one_object(self, one, two, tmp_path):
        one.save(tmp_path / "one")
        two.save(tmp_path / "two")

        assert _names(tmp_path / "one") == ["document.safetensors", "manifest.json"]
        assert "query.safetensors" in _names(tmp_path / "two")
        loaded = NestedMap.load(tmp_path / "one")
        assert loaded.query is loaded.document

    def test_another_process_makes_the_same_numbers(self, two, rows, tmp_path):
        two.save(tmp_path / "map")
        np.save(tmp_path / "rows.npy", rows)
        code = (
            "import sys, numpy as np; from matryo.adaptation import NestedMap\n"
            "mapped = NestedMap.load(sys.argv[1]).apply(np.load(sys.argv[2]), 'query')\n"
            "sys.stdout.buffer.write(mapped.tobytes())\n"
            "assert 'torch' not in sys.modules"
        )

        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "map", tmp_path / "rows.npy"],
            capture_output=True, check=True,
        )  # fmt: skip

        assert done.stdout == two.apply(rows, "query").tobytes()

    def test_every_changed_byte_is_refused_by_the_name_of_its_file(self, two, tmp_path):
        two.save(tmp_path / "map")
        for file in sorted((tmp_path / "map").iterdir()):
            whole = file.read_bytes()
            for place in range(0, len(whole), 23):
                file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
                with pytest.raises(FormatError, match=file.name.replace(".", r"\.")):
                    NestedMap.load(tmp_path / "map")
            file.write_bytes(whole)

    def test_a_missing_file_is_named(self, two, tmp_path):
        two.save(tmp_path / "map")
        (tmp_path / "map" / "query.safetensors").unlink()

        with pytest.raises(FormatError, match=r"query\.safetensors: expected \d+ bytes, got no"):
            NestedMap.load(tmp_path / "map")

    def test_a_newer_format_is_refused_with_what_to_do(self, one, tmp_path):
        one.save(tmp_path / "map")
        file = tmp_path / "map" / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))

        with pytest.raises(FormatError, match=r"expected format 1, got 2\n  a newer matryo wrote"):
            NestedMap.load(tmp_path / "map")

    def test_what_is_no_map_is_refused(self, tmp_path):
        with pytest.raises(FormatError, match="the folder of a map, got one without manifest"):
            NestedMap.load(tmp_path)
        (tmp_path / "manifest.json").write_text('{"kind": "x", "format": 1, "digest": ""}')
        with pytest.raises(FormatError, match="expected kind 'nested-map', got 'x'"):
            NestedMap.load(tmp_path)

    def test_an_older_map_is_replaced_only_if_told_and_other_files_never(self, one, two, tmp_path):
        one.save(tmp_path / "map")
        with pytest.raises(InputError, match="exists already"):
            two.save(tmp_path / "map")
        two.save(tmp_path / "map", overwrite=True)
        assert NestedMap.load(tmp_path / "map").makes == two.makes

        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(InputError, match="got a folder of other files"):
            one.save(tmp_path / "mine", overwrite=True)


def _names(folder):
    return sorted(file.name for file in folder.iterdir())
