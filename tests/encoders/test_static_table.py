"""Static tables from a folder: the mean of the rows of a text's tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from matryo.core import FormatError, InputError, Side
from matryo.encoders import encoder
from matryo.testing import encoder_checks

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[UNK]", "a", "leaf", "of", "grass", "##es", "walt"]
CODES = np.random.default_rng(0).integers(-127, 128, (len(WORDS), 8)).astype(np.int8)
SCALES = np.linspace(0.01, 0.02, len(WORDS), dtype=np.float32)[:, None]


def write_table(folder, **manifest):
    """A table of seven tokens."""
    model = tokenizers.models.WordPiece(
        {word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"
    )
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    save_file({"codes": CODES, "scales": SCALES}, folder / "model.safetensors")
    told = {"name": "leaves-8", "dims": [2, 4, 8], **manifest}
    (folder / "manifest.json").write_text(json.dumps(told), "utf-8")
    return folder


@pytest.fixture
def table(tmp_path):
    return encoder(f"static:{write_table(tmp_path / 'table')}")


def means(*texts):
    rows = CODES * SCALES
    return np.stack([rows[[WORDS.index(word) for word in text]].mean(0) for text in texts])


@pytest.mark.parametrize("check", encoder_checks(), ids=str)
def test_a_static_table_keeps_the_contract(check, table):
    check(lambda: table)


def test_a_vector_is_the_mean_of_the_rows_of_its_tokens(table):
    texts = ["Leaf of grasses", "a\tleaf\n", "walt, leaf!", "\x01"]

    vectors = table.encode(texts, side=Side.QUERY)

    expected = means(
        ["leaf", "of", "grass", "##es"],
        ["a", "leaf"],
        ["walt", "[UNK]", "leaf", "[UNK]"],
        ["[UNK]"],
    )
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)


def test_words_seen_before_give_what_they_gave(table):
    first = table.encode(["a leaf", "grasses"], side=Side.DOCUMENT)

    again = table.encode(["grasses", "walt", "a leaf"], side=Side.DOCUMENT)

    np.testing.assert_array_equal(again[[2, 0]], first)


def test_name_dims_and_space_are_those_of_the_folder(table, tmp_path):
    other = encoder(f"static:{write_table(tmp_path / 'other', dims=[8])}")

    assert (table.space.model, table.space.full_dim, table.dims) == ("leaves-8", 8, (2, 4, 8))
    assert other.dims == (8,)
    assert other.space == table.space


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_missing_or_another_one_is_refused(name, tmp_path):
    folder = write_table(tmp_path / "table")
    (folder / name).write_text("[]", "utf-8")
    with pytest.raises(FormatError, match="expected a static table, got"):
        encoder(f"static:{folder}")

    (folder / name).unlink()
    with pytest.raises(FormatError, match=f"expected a static table, {name} is missing"):
        encoder(f"static:{folder}")


def test_the_folder_must_be_named():
    with pytest.raises(InputError, match="static:FOLDER"):
        encoder("static")
