"""Folders that say what a model may be cut to, and that anyone can load."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.training import st_models

from matryo.core import DimError, InputError, UnsupportedError

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("sentence_transformers")

from matryo.training.saving import save_nested  # noqa: E402

DIMS = [64, 128, 384]
TEXTS = ["a leaf of a tree", "the sea at night", "how to mend a bicycle"]
RESULTS = [
    {"dim": dim, "spearman": 0.8 + dim / 10_000, "of_base": share}
    for dim, share in zip(DIMS, (1.0512, 1.02, None), strict=True)
]


@pytest.fixture(scope="module")
def model():
    return st_models.minilm()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return save_nested(model, tmp_path_factory.mktemp("saved") / "made", DIMS, results=RESULTS)


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def read(file):
    return json.loads(file.read_text("utf-8"))


def test_plain_sentence_transformers_loads_it_and_gives_equal_vectors(model, saved):
    again = load(saved)

    assert again.truncate_dim is None
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    np.testing.assert_array_equal(again.encode(TEXTS, truncate_dim=64), model.encode(TEXTS)[:, :64])


def test_servers_find_the_sizes_where_they_look(saved):
    told = read(saved / "config.json")

    assert told["is_matryoshka"] is True
    assert told["matryoshka_dimensions"] == DIMS
    assert told["hidden_size"] == 384


def test_the_library_that_reads_configurations_has_them_as_attributes(saved):
    from transformers import AutoConfig

    told = AutoConfig.from_pretrained(saved)

    assert told.is_matryoshka
    assert told.matryoshka_dimensions == DIMS


def test_matryo_reads_them_too(saved):
    from matryo.encoders import encoder

    assert encoder(f"sentence-transformers:{saved}").dims == tuple(DIMS)


def test_the_model_card_has_a_table_of_sizes(saved):
    card = (saved / "README.md").read_text("utf-8")

    assert "The first 64, 128 or 384 numbers of a vector are an embedding by themselves." in card
    assert "| dim | spearman | of_base |\n| ---: | ---: | ---: |\n| 64 | 0.8064 | 1.0512 |" in card
    assert "| 384 | 0.8384 |  |" in card


def test_a_folder_that_is_saved_again_says_it_once(saved, tmp_path):
    again = save_nested(load(saved), tmp_path / "again", [32, 384])

    card = (again / "README.md").read_text("utf-8")
    assert card.count("## Sizes") == 1
    assert "The first 32 or 384 numbers" in card
    assert "0.8064" not in card
    assert read(again / "config.json")["matryoshka_dimensions"] == [32, 384]


def test_a_size_to_cut_to_is_written_only_if_it_is_asked_for(model, saved, tmp_path):
    asked = save_nested(model, tmp_path / "asked", DIMS, truncate_dim=128)

    assert load(asked).encode(TEXTS).shape == (3, 128)
    assert "truncate_dim" not in read(saved / "config_sentence_transformers.json")
    assert model.truncate_dim is None


def test_a_model_that_cuts_is_saved_whole(model, tmp_path):
    model.truncate_dim = 64
    try:
        folder = save_nested(model, tmp_path / "whole", DIMS)
    finally:
        model.truncate_dim = None

    assert load(folder).encode(TEXTS).shape == (3, 384)


def test_what_is_there_is_kept_unless_it_may_be_replaced(model, saved):
    before = read(saved / "config.json")

    with pytest.raises(InputError, match="made exists already"):
        save_nested(model, saved, [384])

    assert read(saved / "config.json") == before


@pytest.mark.parametrize(
    ("dims", "options", "error", "told"),
    [
        ([64, 512], {}, DimError, "between 1 and 384 .* got 512"),
        ([384, 64], {}, DimError, "dims must ascend"),
        (DIMS, {"truncate_dim": 100}, DimError, "one of the dims 64,128,384, got 100"),
        (DIMS, {"results": [{"dim": 32}]}, InputError, "a dim among 64,128,384, got 32"),
        (DIMS, {"results": [{"spearman": 0.5}]}, InputError, "got None"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    model, tmp_path, dims, options, error, told
):
    with pytest.raises(error, match=told):
        save_nested(model, tmp_path / "made", dims, **options)
    assert not any(tmp_path.iterdir())


def test_a_model_for_which_no_server_looks_anywhere_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="got a model that begins with StaticEmbedding"):
        save_nested(st_models.static_model(), tmp_path / "made", [8, 48])
    assert not any(tmp_path.iterdir())
