from __future__ import annotations

import pytest

from matryo.core import InputError, Nesting, UnknownNameError
from matryo.encoders import PRESETS, find_preset
from matryo.encoders.presets import require_preset, side_specs


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_dims_of_a_preset_ascend_to_its_full_width(preset):
    assert Nesting.parse(preset.dims, full_dim=preset.full_dim).full_dim == preset.full_dim
    assert preset.any_from is None or 1 <= preset.any_from < preset.full_dim
    assert preset.source


def test_names_of_presets_differ():
    assert len({preset.name.lower() for preset in PRESETS}) == len(PRESETS)


@pytest.mark.parametrize(
    "model",
    [
        "nomic-embed-text-v1.5",
        "nomic-ai/nomic-embed-text-v1.5",
        "/models/Nomic-Embed-Text-v1.5/",
        "C:\\models\\nomic-embed-text-v1.5",
    ],
)
def test_a_model_is_found_by_the_last_part_of_its_name_in_any_case(model):
    assert find_preset(model).name == "nomic-embed-text-v1.5"


def test_a_model_whose_name_only_begins_alike_is_not_found():
    assert find_preset("nomic-embed-text-v1") is None


def test_a_listed_size_is_allowed_and_one_between_is_not():
    gemma = find_preset("embeddinggemma-300m")

    assert gemma.allows(256)
    assert not gemma.allows(300)


def test_any_size_is_allowed_from_the_smallest_up():
    qwen = find_preset("Qwen/Qwen3-Embedding-0.6B")

    assert [qwen.allows(dim) for dim in (31, 32, 33, 1024, 1025)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_nomic_wants_a_layer_norm_before_the_cut_on_both_sides():
    nomic = find_preset("nomic-embed-text-v1.5")

    assert nomic.query.pre_step == nomic.document.pre_step == "layer_norm"
    assert nomic.query.prompt == "search_query: "
    assert nomic.document.prompt == "search_document: "


def test_a_preset_that_must_exist_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'text-embedding-3-small'"):
        require_preset("text-embedding-3-smal")


def test_prompts_of_the_caller_go_before_those_of_the_preset():
    query, document = side_specs(find_preset("nomic-embed-text-v1.5"), {"query": ""})

    assert query.prompt == ""
    assert query.pre_step == "layer_norm"
    assert document.prompt == "search_document: "


def test_prompts_for_an_unknown_side_are_refused():
    with pytest.raises(InputError, match="'query' or 'document', got 'passage'"):
        side_specs(None, {"passage": "p: "})
