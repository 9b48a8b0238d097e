"""The plan job on files, arrays, texts and pairs; and plans checked on other data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.planning.conftest import DIM, plain_machine, vectors

import matryo
from matryo.core import (
    FormatError,
    InputError,
    NestedVectors,
    Nesting,
    Plan,
    Side,
    Space,
    SpaceMismatchError,
    TooFewError,
    UnknownNameError,
)
from matryo.jobs import check, plan
from matryo.planning import Budget
from matryo.search import run
from matryo.transforms import Rotation, save_transform

SHARED = Path(__file__).parents[3] / "shared" / "data"
SPACE = Space("a model", DIM, revision="1")


@pytest.fixture(scope="module")
def corpus():
    return vectors(3000, 0)


@pytest.fixture(scope="module")
def queries():
    return vectors(600, 1)


@pytest.fixture(scope="module")
def planned(corpus, queries, machine):
    return plan(corpus, queries=queries, floor=0.95, machine=machine, synthetic=True)


@pytest.fixture(scope="module")
def machine():
    return plain_machine()


def folder_of(array, path, side, space=SPACE):
    stored = NestedVectors.from_array(
        array, [f"{side}{i}" for i in range(len(array))], space=space, side=side,
        nesting=Nesting.halving(DIM),
    )  # fmt: skip
    matryo.write_vectors(path, stored)
    return path


def test_the_document_holds_what_the_plans_say(planned):
    document = planned.document

    assert [row["name"] for row in document["choices"]] == list(planned.plans)
    assert document["data"]["origin"] == "synthetic"
    assert document["settings"]["minimize"] == "bytes"
    assert document["promise"]["measure"] == "neighbor_recall@10"
    assert json.loads(json.dumps(document, allow_nan=False))["verdict"] == document["verdict"]
    for row in document["choices"]:
        assert row["cost"]["origin"] == "modelled"
        assert row["measured"]["bytes_read"] == pytest.approx(row["cost"]["bytes_read"], rel=0.1)
        assert row["measured"]["latency_ms"] > 0
        assert len(row["explanation"]) == 5
    assert (
        "keeps 0.95 of full-width neighbor_recall@10, with 0.95 confidence"
        in (document["verdict"]["headline"])
    )


def test_files_and_arrays_give_one_plan(planned, corpus, queries, machine, tmp_path):
    np.save(tmp_path / "corpus.npy", corpus)
    np.save(tmp_path / "queries.npy", queries)

    from_files = plan(
        tmp_path / "corpus.npy", queries=tmp_path / "queries.npy", floor=0.95, machine=machine
    )

    assert [p.run for p in from_files.plans.values()] == [p.run for p in planned.plans.values()]


def test_a_plan_carries_the_space_of_its_vectors_and_refuses_another(
    corpus, queries, machine, tmp_path
):
    documents = folder_of(corpus, tmp_path / "d.matryo", Side.DOCUMENT)
    asked = folder_of(queries, tmp_path / "q.matryo", Side.QUERY)
    other = Space("another model", DIM)

    chosen = plan(documents, queries=asked, floor=0.95, machine=machine).plans["cheap"]

    assert chosen.space == SPACE
    with pytest.raises(SpaceMismatchError, match=r"this plan is for a model @ 64.*another model"):
        check(
            chosen,
            folder_of(corpus, tmp_path / "o.matryo", Side.DOCUMENT, other),
            queries=folder_of(queries, tmp_path / "p.matryo", Side.QUERY, other),
        )
    done = check(chosen, documents, queries=asked)
    assert done["same_data"]


def test_calibration_queries_of_another_space_are_refused(corpus, queries, machine, tmp_path):
    documents = folder_of(corpus, tmp_path / "d.matryo", Side.DOCUMENT)
    asked = folder_of(queries, tmp_path / "q.matryo", Side.QUERY, Space("another", DIM))

    with pytest.raises(SpaceMismatchError, match="their scores mean nothing"):
        plan(documents, queries=asked, machine=machine)


def test_a_transform_is_named_in_the_plan_and_needed_to_run_it(corpus, queries, machine, tmp_path):
    turned = Rotation().fit(corpus)
    save_transform(turned, tmp_path / "turn.safetensors")

    chosen = plan(
        corpus,
        queries=queries,
        floor=0.95,
        transform=tmp_path / "turn.safetensors",
        machine=machine,
    ).plans["cheap"]

    assert chosen.transform == turned.digest
    assert run(chosen, corpus, queries[:5], transform=turned)
    with pytest.raises(InputError, match="needs the transform with digest"):
        run(chosen, corpus, queries[:5])
    done = check(chosen, corpus, queries=vectors(600, 5), transform=turned)
    assert done["verdict"] == "holds"


def test_without_queries_there_are_figures_and_no_promise(corpus, machine):
    found = plan(corpus, floor=0.95, machine=machine, n_queries=400)

    assert found.plans["cheap"].promise is None
    assert found.document["data"]["origin"] == "sample"
    assert "no promise" in found.document["verdict"]["headline"]


def test_groups_come_from_a_file(corpus, queries, machine, write_lines):
    groups = write_lines(
        "groups.jsonl",
        [{"id": str(i), "group": "even" if i % 2 == 0 else "odd"} for i in range(len(queries))],
    )

    found = plan(corpus, queries=queries, floor=0.95, groups=groups, machine=machine)

    assert found.document["promise"]["groups"] == ("even", "odd")


def test_a_query_without_a_group_is_named(corpus, queries, machine):
    groups = {str(i): "all" for i in range(1, len(queries))}

    with pytest.raises(InputError, match=r"1 queries have no group, the first of them is '0'"):
        plan(corpus, queries=queries, groups=groups, machine=machine)


def test_a_saved_machine_gives_the_same_costs(planned, corpus, queries, machine, tmp_path):
    machine.save(tmp_path / "machine.json")

    again = plan(corpus, queries=queries, floor=0.95, machine=tmp_path / "machine.json")

    for one, other in zip(planned.document["choices"], again.document["choices"], strict=True):
        assert one["cost"] == other["cost"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"floor": 1.5}, InputError, r"floor must be above 0 and below 1, got 1\.5"),
        ({"floor": float("nan")}, InputError, "floor must be above 0 and below 1, got nan"),
        ({"floor": "0.9"}, InputError, r"floor must be above 0 and below 1, got 0\.9"),
        ({"floor": 1}, InputError, r"got 1\n  the full width alone keeps a floor of 1"),
        ({"confidence": 1.2}, InputError, r"confidence must be between 0 and 1, got 1\.2"),
        ({"kind": "median"}, InputError, "kind must be mean, share or expected, got 'median'"),
        ({"measure": "nDCG@20"}, InputError, r"10 rows cannot be measured by nDCG@20\n  ask for"),
        ({"measure": "nDCG"}, UnknownNameError, "no measure is called 'nDCG'"),
        ({"measure": "nDCG@10"}, InputError, "nDCG@10 needs judgments, and there are none"),
        ({"measure": "neighbor_recall@5"}, InputError, "have neighbor_recall@10, got"),
        ({"qrels": "q.tsv", "queries": None}, InputError, "judgments need the queries they judge"),
        ({"minimize": "time"}, UnknownNameError, "no cost is called 'time'"),
        ({"budget": Budget(ram_bytes=1)}, InputError, "no candidate stays within this limit"),
        ({"floor": 0.999}, TooFewError, "at least 2995 queries"),
        ({"metric": "dot", "precisions": "binary"}, NotImplementedError, "need the metric cosine"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused(corpus, queries, machine, options, error, message):
    with pytest.raises(error, match=message):
        plan(corpus, **{"queries": queries, "machine": machine, **options})


def test_labelled_data_are_sent_to_the_other_verb(write_lines, machine):
    for split in ("train", "test"):
        write_lines(f"data/{split}.tsv", [("text", "label"), ("a b", "x"), ("c d", "y")])

    with pytest.raises(InputError, match=r"nothing to search in it\n  matryo classify"):
        plan(write_lines("data/more.txt", [("a",)]).parent, machine=machine)


def test_a_check_needs_queries_of_its_own(planned, corpus):
    with pytest.raises(InputError, match="a promise is checked on queries of its own, got none"):
        check(planned.plans["cheap"], corpus)


def test_a_plan_file_with_a_changed_byte_or_without_its_steps_is_refused(
    planned, corpus, queries, tmp_path
):
    chosen = next(p for p in planned.plans.values() if p.scales)
    chosen.save(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text(
        (tmp_path / "plan.json").read_text().replace('"floor": 0.95', '"floor": 0.5')
    )
    with pytest.raises(FormatError, match="was changed after it was written"):
        check(tmp_path / "plan.json", corpus, queries=queries)

    chosen.save(tmp_path / "plan.json")
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(FormatError, match=r"int8 steps of this plan in plan\.safetensors"):
        check(tmp_path / "plan.json", corpus, queries=queries)


def test_texts_are_encoded_and_planned_for(words, write_lines, machine):
    rng = np.random.default_rng(0)
    things = [f"thing{i} colour{i % 7} shape{i % 11}" for i in range(400)]
    documents = write_lines("documents.txt", [(text,) for text in things])
    asked = write_lines(
        "queries.txt", [(things[i].replace("shape", "form"),) for i in rng.integers(0, 400, 300)]
    )

    found = plan(documents, queries=asked, model=words, floor=0.9, machine=machine)

    assert found.plans["cheap"].space == words.space
    assert found.document["choices"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not there")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cranfield", {"measure": "neighbor_recall@10", "floor": 0.9}),
        ("cranfield", {"floor": 0.9}),
        ("stsb/test.tsv", {"floor": 0.9}),
        ("stsb/test.tsv", {"measure": "nDCG@10", "floor": 0.9}),
        ("pubmedqa", {"floor": 0.95}),
    ],
)
def test_real_data_give_a_plan_or_say_what_is_missing(name, options, machine):
    found = plan(SHARED / name, machine=machine, **options)
    verdict = found.document["verdict"]["headline"]

    assert found.plans
    assert "keeps" in verdict or "Cannot tell" in verdict or "No cheaper plan" in verdict
    for one in found.plans.values():
        assert len(one.explain().splitlines()) == 5


def test_pairs_ask_for_their_second_text(write_lines, words, machine):
    rows = [("sentence1", "sentence2", "score")]
    rows += [(f"thing{i} colour{i % 7}", f"thing{i} shape{i % 5}", str(i % 6)) for i in range(300)]
    path = write_lines("pairs.tsv", rows)

    by_fidelity = plan(path, model=words, floor=0.9, machine=machine)
    by_judgment = plan(
        path, model=words, floor=0.9, measure="nDCG@10", k=10, machine=machine, confidence=0.9
    )

    assert by_fidelity.document["promise"]["measure"] == "neighbor_recall@10"
    assert by_fidelity.document["data"]["queries"] == 300
    # scores of 4 and 5 are at least 80 % of the highest
    assert by_judgment.document["data"]["queries"] == 100


def test_a_promise_without_a_group_file_cannot_be_checked_for_groups(corpus, queries, machine):
    groups = {str(i): "left" if i % 2 else "right" for i in range(len(queries))}
    chosen = plan(corpus, queries=queries, groups=groups, floor=0.95, machine=machine)

    with pytest.raises(InputError, match="holds in each of 2 groups: expected the group of every"):
        check(chosen.plans["cheap"], corpus, queries=vectors(600, 3))


def test_plans_of_one_seed_are_equal(planned, corpus, queries, machine):
    again = plan(corpus, queries=queries, floor=0.95, machine=machine, synthetic=True)

    for name, one in planned.plans.items():
        assert replace(again.plans[name]).to_dict() == one.to_dict()
        assert isinstance(one, Plan)
