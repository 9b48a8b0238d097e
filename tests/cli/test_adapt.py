"""`matryo adapt`, from files to a map, a table and a report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from matryo.adaptation import NestedMap
from matryo.cli.adapt import run as verb
from matryo.core import MatryoError

WIDTH = 32


@pytest.fixture
def files(tmp_path):
    """Synthetic documents and queries whose last numbers say most, and documents without order."""
    rng = np.random.default_rng(1)
    for name, n, scale in (
        ("documents", 900, 1.15 ** np.arange(WIDTH)),
        ("queries", 120, 1.15 ** np.arange(WIDTH)),
        ("plain", 3000, np.ones(WIDTH)),
    ):
        np.save(tmp_path / f"{name}.npy", (rng.standard_normal((n, WIDTH)) * scale).astype("f4"))
    return tmp_path


def run(*arguments):
    """Run the verb: exit code, stdout with white space made one, error."""
    app = typer.Typer()
    app.command()(verb)
    shown = ["--no-cache", "--dims", "4,8", "--method", "rotation,reorder"]
    done = CliRunner().invoke(app, [*map(str, arguments), *shown])
    assert done.exception is None or isinstance(done.exception, (SystemExit, MatryoError))
    return done.exit_code, " ".join(done.stdout.split()), str(done.exception or done.stderr)


def test_a_map_that_helps_is_written_and_everything_is_said(files):
    out = files / "map"
    code, said, _ = run(
        files / "documents.npy", "--queries", files / "queries.npy", "-o", out,
        "--results", files / "results.json", "--report", files / "report.html",
        "--save-taught", files / "taught.json", "--synthetic",
    )  # fmt: skip

    document = json.loads((files / "results.json").read_text("utf-8"))
    taught = json.loads((files / "taught.json").read_text("utf-8"))
    assert code == 0
    assert document["verdict"]["headline"] in said
    assert "60 queries taught" in said
    assert "30 chose and 30 others judged, synthetic data" in said
    assert "neighbor_recall@10 on the items that judged" in said
    assert "less plain cutting" in said
    assert f"Wrote the map to {out}" in said
    assert f"matryo apply {out} {files / 'documents.npy'}" in said
    assert f"{files / 'queries.npy'} -o mapped-queries.matryo --side query" in said
    assert NestedMap.load(out).notes["split"] == document["split"]
    assert len(taught) == 60
    assert "neighbor_recall@10" in (files / "report.html").read_text("utf-8")


def test_advice_to_leave_the_vectors_alone_writes_no_map_and_is_no_error(files):
    code, said, _ = run(files / "plain.npy", "-o", files / "map")

    assert code == 0
    assert said.startswith("Leave the vectors alone: ")
    assert "No map was written; --anyway writes the best one." in said
    assert not (files / "map").exists()


def test_anyway_writes_the_best_map_with_the_advice_in_its_notes(files):
    code, said, _ = run(files / "plain.npy", "-o", files / "map", "--anyway")

    assert code == 0
    assert said.startswith("Leave the vectors alone: ")
    assert NestedMap.load(files / "map").notes["recommended"] is False


def test_json_is_one_document_and_options_reach_the_job(files):
    code, said, _ = run(
        files / "documents.npy", "-o", files / "map", "--json", "-k", 5, "--weights", "3,1",
        "--confidence", 0.9, "--seed", 4, "--second", files / "plain.npy",
    )  # fmt: skip

    document = json.loads(said)
    assert code == 0
    assert document["settings"] == {
        "dims": [4, 8, 32], "weights": [3.0, 1.0], "methods": "rotation,reorder", "k": 5,
        "confidence": 0.9, "metric": "cosine", "seed": 4,
    }  # fmt: skip
    assert {row["trial"] for row in document["elsewhere"]} == {"plain"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "no/where/map"], 1, "cannot write no/where/map"),
        (["-o", "map", "--report", "no/where.html"], 1, "cannot write no/where.html"),
        (["-o", "taken"], 1, "taken exists already"),
        (["-o", "map", "--weights", "1,x"], 2, "expected numbers with commas, got '1,x'"),
        (["-o", "map", "--base-url", "http://here"], 2, "only openai: models have an address"),
        ([], 2, "Missing option"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_fitted(
    arguments, code, message, files, monkeypatch
):
    monkeypatch.chdir(files)
    (files / "taken").mkdir()

    ended, said, error = run("documents.npy", *arguments)

    assert (ended, said) == (code, "")
    assert message in error or code == 2
    assert not (files / "map").exists()
