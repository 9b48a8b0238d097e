"""The demonstration on data that ships with the package."""

from __future__ import annotations

import json

import pytest

from matryo.jobs import demo, demo_data, without_text
from matryo.report import write_report


def test_its_data_have_their_stated_counts():
    data = demo_data()

    assert len(data.documents) == 25_000
    assert len(data.queries) == 1_500
    assert set(data.qrels) == set(data.queries.ids)
    known = set(data.documents.ids)
    assert all(len(right) == 1 and right.keys() <= known for right in data.qrels.values())


@pytest.fixture(scope="module")
def results():
    pytest.importorskip("wordllama")
    return demo()


@pytest.mark.slow
def test_it_comes_to_a_verdict(results):
    rows = {(r["dim"], r["precision"]): r for r in results["results"] if r["measure"] == "nDCG@10"}
    best = results["verdict"]["recommended"]

    assert rows[best["dim"], best["precision"]]["verdict"] == "keeps"
    assert results["data"]["origin"] == "real"
    assert {row["n"] for row in results["results"]} == {1_500}
    assert {"keeps", "below"} <= {row["verdict"] for row in results["results"]}


@pytest.mark.slow
def test_its_funnel_reads_fewer_bytes_and_finds_mostly_the_same(results):
    asked = results["funnel"]["queries"]

    assert len(asked) == 3
    for row in asked:
        assert row["full"]["bytes"] == 25_000 * 256 * 4
        assert row["funnel"]["bytes"] == 25_000 * 64 * 4 + 200 * 256 * 4
        assert row["overlap"] == len(set(row["full"]["ids"]) & set(row["funnel"]["ids"])) >= 5
        assert all(name in results["funnel"]["documents"] for name in row["funnel"]["ids"])


@pytest.mark.slow
def test_texts_can_be_left_out_and_the_report_still_stands(results, tmp_path):
    bare = without_text(results)

    write_report(bare, tmp_path / "report.html")

    shown = json.dumps(bare)
    page = (tmp_path / "report.html").read_text("utf-8")
    for text in [row["text"] for row in results["funnel"]["queries"]]:
        assert text not in shown
        assert text not in page
    assert all(row["text"] for row in results["funnel"]["queries"])  # the original is left alone
