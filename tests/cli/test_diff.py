"""`matryo diff` in a pipeline."""

from __future__ import annotations

import json

import numpy as np
import pytest

from matryo.cli import main

WORSE = "any dim: neighbor_recall@10 worse (p<0.05)"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Results of the same queries over documents that are nested, and that are not."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    nested = rng.standard_normal((300, 32)) * 0.8 ** np.arange(32)
    turned = nested @ np.linalg.qr(rng.standard_normal((32, 32)))[0]
    for name, rows in (("nested", nested), ("turned", turned)):
        np.save(folder / "documents.npy", rows[60:].astype(np.float32))
        np.save(folder / "queries.npy", rows[:60].astype(np.float32))
        code = main(
            ["measure", str(folder / "documents.npy"), "--queries", str(folder / "queries.npy"),
             "--dims", "8,16,32", "--no-baselines", "--out", str(folder / f"{name}.json")]
        )  # fmt: skip
        assert code == 0
    return folder


def run(capsys, *arguments):
    capsys.readouterr()
    code = main(["diff", *map(str, arguments)])
    return (code, *capsys.readouterr())


def test_a_condition_that_holds_fails_the_pipeline(runs, capsys):
    code, out, err = run(capsys, runs / "nested.json", runs / "turned.json", "--fail-if", WORSE)

    assert (code, err) == (1, "")
    assert "neighbor_recall@10 on 60 queries" in out
    assert f"{WORSE}: HOLDS" in " ".join(out.split())
    assert "adjusted over 3 dims (Holm)" in " ".join(out.split())


@pytest.mark.parametrize("fail_if", [[], ["--fail-if", WORSE]])
def test_a_run_passes_against_itself(fail_if, runs, capsys):
    code, out, _ = run(capsys, runs / "nested.json", runs / "nested.json", *fail_if)

    assert code == 0
    assert "HOLDS" not in out


def test_one_of_several_conditions_is_enough(runs, capsys):
    code, out, _ = run(
        capsys, runs / "nested.json", runs / "turned.json", "--json", "--fail-if",
        "dim 32: neighbor_recall@10 differs", "--fail-if", "dim 8: neighbor_recall@10 worse",
    )  # fmt: skip

    assert code == 1
    assert [c["holds"] for c in json.loads(out)["conditions"]] == [False, True]


def test_what_was_found_is_written_where_asked(runs, tmp_path, capsys):
    code, _, _ = run(
        capsys, runs / "nested.json", runs / "turned.json", "--results", tmp_path / "diff.json"
    )

    assert code == 0
    assert json.loads((tmp_path / "diff.json").read_text("utf-8"))["kind"] == "diff"


def test_a_condition_that_cannot_be_read_is_an_error_with_the_grammar(runs, capsys):
    code, out, err = run(
        capsys, runs / "nested.json", runs / "turned.json", "--fail-if", "recall worse"
    )

    assert (code, out) == (1, "")
    assert err.startswith("error: expected a condition, got 'recall worse'\n  write it as: any dim")
