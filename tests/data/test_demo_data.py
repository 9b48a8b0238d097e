"""The data set that is shipped for the demo."""

from __future__ import annotations

import importlib.util
import lzma
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSES = ROOT / ".." / "shared" / "data" / "wordnet" / "glosses.tsv.gz"
DATA = files("matryo") / "data"


@pytest.fixture(scope="module")
def records():
    text = lzma.decompress((DATA / "wordnet-demo.tsv.xz").read_bytes()).decode("utf-8")
    return [line.split("\t") for line in text.splitlines()]


def _of(kind, records):
    return [record for record in records if record[0] == kind]


def test_it_is_large_enough_to_tell_sizes_apart_and_small_enough_to_ship(records):
    packed = (DATA / "wordnet-demo.tsv.xz").read_bytes()

    assert len(_of("document", records)) == 25_000
    assert len(_of("query", records)) == 1_500
    assert len(packed) < 1_500_000


def test_every_record_has_an_id_of_its_own_and_a_text(records):
    ids = [record[1] for record in records]

    assert {len(record) for record in records} == {4}
    assert len(set(ids)) == len(ids)
    assert all(record[2].strip() == record[2] != "" for record in records)


def test_every_query_has_one_relevant_document_and_no_two_queries_are_alike(records):
    documents = {record[1] for record in _of("document", records)}
    queries = _of("query", records)

    assert all(relevant in documents for *_, relevant in queries)
    assert not any(relevant for *_, relevant in _of("document", records))
    assert len({text for _, _, text, _ in queries}) == len(queries)


def test_the_license_of_wordnet_lies_beside_it_and_in_the_notice():
    license_text = (DATA / "wordnet-LICENSE.txt").read_text("utf-8")
    terms = license_text[license_text.index("This software and database is being provided") :]

    assert "WordNet 3.0 Copyright 2006 by Princeton University." in terms
    assert terms in (ROOT / "NOTICE").read_text("utf-8")


@pytest.mark.skipif(not GLOSSES.is_file(), reason="the table of WordNet glosses is not here")
def test_building_it_again_gives_the_shipped_bytes():
    spec = importlib.util.spec_from_file_location(
        "build_demo_data", ROOT / "tools" / "build_demo_data.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    packed = script.build(GLOSSES)

    assert packed == (DATA / "wordnet-demo.tsv.xz").read_bytes()
