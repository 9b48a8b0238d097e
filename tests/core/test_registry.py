"""Plug-ins by name, ours and those of other packages."""

from __future__ import annotations

import sys

import pytest

from matryo.core import Entry, MissingExtraError, Registry, UnknownNameError


@pytest.fixture
def registry():
    return Registry(
        "shape",
        "matryo.test_shapes",
        {
            "counter": Entry("collections:Counter", "Counts.", {}),
            "ghost": Entry("nowhere:Ghost", "Is not there.", {"nowhere": "no-where"}, "ghosts"),
            "deep": Entry(
                "nowhere.below:X", "Is not there.", {"nowhere.below": "no-where"}, "ghosts"
            ),
        },
    )


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A real installed package that announces a plug-in of its own."""
    (tmp_path / "outside_shapes.py").write_text("def star(): return 'star'\n")
    info = tmp_path / "outside_shapes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-shapes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[matryo.test_shapes]\nstar = outside_shapes:star\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("outside_shapes", None)


def test_a_name_gives_its_factory(registry):
    from collections import Counter

    assert registry.load("counter") is Counter


def test_names_are_listed_in_order_without_importing_anything(registry):
    assert list(registry) == ["counter", "deep", "ghost"]
    assert registry.about("counter").about == "Counts."


def test_what_is_installed_is_known_without_importing_it(registry):
    assert registry.is_installed("counter")
    assert not registry.is_installed("ghost")
    assert not registry.is_installed("deep")


@pytest.mark.parametrize("name", ["ghost", "deep"])
def test_a_plug_in_whose_package_is_missing_says_how_to_install_it(registry, name):
    with pytest.raises(
        MissingExtraError,
        match=rf"the shape '{name}' needs the package no-where\n  .* 'matryo\[ghosts\]'",
    ) as caught:
        registry.load(name)

    assert caught.value.package == "no-where"


def test_an_unknown_name_is_answered_with_the_nearest_and_all(registry):
    with pytest.raises(
        UnknownNameError,
        match=r"no shape is called 'cuonter'; did you mean 'counter'\?\n  known: counter, deep, gh",
    ):
        registry.load("cuonter")


def test_another_package_can_add_a_name(registry, outside):
    assert "star" in list(registry)
    assert registry.load("star")() == "star"
    assert registry.about("star") is None
    assert registry.is_installed("star")
