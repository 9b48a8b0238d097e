"""Which vectors may meet."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import METRICS, InputError, SideSpec, Space, SpaceMismatchError

texts = st.text(max_size=12)
sides = st.builds(
    SideSpec, prompt=texts, pre_step=st.none() | st.just("layer_norm"), map=st.none() | texts
)
spaces = st.builds(
    Space,
    model=texts,
    full_dim=st.integers(1, 5000),
    revision=texts,
    metric=st.sampled_from(METRICS),
    score=texts,
    query=sides,
    document=sides,
)
PLAIN = Space("m", 64)
OTHERS = [
    Space("n", 64),
    Space("m", 65),
    Space("m", 64, revision="1"),
    Space("m", 64, metric="dot"),
    Space("m", 64, score="other"),
    Space("m", 64, query=SideSpec(prompt="q: ")),
    Space("m", 64, document=SideSpec(prompt="q: ")),
    Space("m", 64, query=SideSpec(pre_step="layer_norm")),
    Space("m", 64, query=SideSpec(map="q: ")),
]


@given(space=spaces)
def test_a_space_outlasts_json_with_its_fingerprint(space):
    back = Space.from_dict(json.loads(json.dumps(space.to_dict())))

    assert back == space
    assert back.fingerprint == space.fingerprint


@given(one=spaces, other=spaces)
def test_spaces_are_the_same_where_their_fingerprints_are(one, other):
    assert (one == other) == (one.fingerprint == other.fingerprint)


def test_every_field_of_both_sides_is_in_the_fingerprint():
    assert len({space.fingerprint for space in [PLAIN, *OTHERS]}) == 1 + len(OTHERS)


def test_the_fingerprint_does_not_change_between_versions():
    """It stands in every file: changing how it is computed makes all of them unreadable."""
    space = Space("m", 64, query=SideSpec(prompt="suche: ", pre_step="layer_norm"), metric="dot")

    assert space.fingerprint == "cb13d5e48a822cae5ab164691ca891e4"


def test_a_space_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.model = "n"


def test_the_same_space_may_meet():
    PLAIN.require_same(Space("m", 64), here="this index holds", there="the query comes from")


@pytest.mark.parametrize("other", OTHERS, ids=lambda space: space.describe())
def test_another_space_is_refused_with_both_sides_named(other):
    with pytest.raises(SpaceMismatchError, match=r"their scores mean nothing") as caught:
        PLAIN.require_same(other, here="this index holds", there="the query comes from")

    first_line = str(caught.value).splitlines()[0]
    assert first_line.startswith("this index holds m @ 64, the query comes from ")
    changed = [f for f in PLAIN.to_dict() if PLAIN.to_dict()[f] != other.to_dict()[f]]
    assert caught.value.fields == changed
    assert f"they differ in {', '.join(changed)}" in first_line


def test_the_description_names_whatever_departs_from_plain_use():
    space = Space(
        "nomic", 768, revision="abcdef0123456789", metric="dot", query=SideSpec("q: ", "layer_norm")
    )

    assert space.describe() == (
        "nomic @ 768, revision abcdef012345, dot, query prompt 'q: ', query pre_step 'layer_norm'"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "euclid"}, "one of cosine, dot, l2, got 'euclid'"),
        ({"full_dim": 0}, "at least 1, got 0"),
        ({"full_dim": 1.5}, r"whole number, got 1\.5"),
        ({"full_dim": True}, "whole number, got True"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Space(**{"model": "m", "full_dim": 4, **fields})


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"colour": "red"}, {"query": "q: "}, {"document": {"prompt": "", "x": 1}}],
    ids=str,
)
def test_values_that_are_no_space_are_refused(change):
    values = {**PLAIN.to_dict(), **change}
    values = {name: value for name, value in values.items() if value is not None}

    with pytest.raises(InputError, match="expected the fields of a Space"):
        Space.from_dict(values)
