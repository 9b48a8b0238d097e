"""`matryo apply`, from a folder of a map and a file of vectors to mapped vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from matryo.adaptation import NestedMap
from matryo.cli.apply import run as verb
from matryo.core import MatryoError, NestedVectors, Side, Space
from matryo.readers import read_vectors, write_vectors
from matryo.transforms import Rotation

SPACE = Space("words", 16, revision="1")


@pytest.fixture
def rows():
    return np.random.default_rng(3).standard_normal((500, 16)).astype(np.float32)


@pytest.fixture
def nested(rows, tmp_path):
    rotation = Rotation().fit(rows)
    nested = NestedMap(rotation, Rotation().fit(rows[:100]), SPACE, (4, 8, 16))
    nested.save(tmp_path / "map")
    return nested


def run(*arguments):
    """Run the verb: exit code, stdout, error."""
    app = typer.Typer()
    app.command()(verb)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, (SystemExit, MatryoError))
    return done.exit_code, done.stdout, str(done.exception or "")


def test_what_was_written_is_said_with_the_whole_fingerprint(nested, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)

    code, out, _ = run(tmp_path / "map", tmp_path / "rows.npy", "-o", tmp_path / "out.npy")

    assert code == 0
    assert out == (
        f"Wrote 500 document vectors of 16 numbers to {tmp_path / 'out.npy'} "
        f"(space {nested.makes.fingerprint})\n"
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), nested.apply(rows, "document"), atol=1e-6
    )


def test_json_says_it_for_machines(nested, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)

    code, out, _ = run(
        tmp_path / "map", tmp_path / "rows.npy", "-o", tmp_path / "out.matryo", "--side", "query",
        "--dim", 8, "--json",
    )  # fmt: skip

    assert code == 0
    assert json.loads(out) == {
        "out": str(tmp_path / "out.matryo"), "rows": 500, "dim": 8, "side": "query",
        "fingerprint": nested.makes.fingerprint, "resumed_at": 0,
    }  # fmt: skip
    stored = NestedVectors.open(tmp_path / "out.matryo")
    assert (stored.side, stored.space, stored.shape) == (Side.QUERY, nested.makes, (500, 8))


def test_the_columns_of_a_table_can_be_chosen(nested, rows, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    lists = [pa.array(list(part)) for part in (rows, rows * 2)]
    table = pa.table({"a": lists[0], "b": lists[1], "key": [f"k{i}" for i in range(500)]})
    pq.write_table(table, tmp_path / "rows.parquet")

    code, _, _ = run(
        tmp_path / "map", tmp_path / "rows.parquet", "-o", tmp_path / "out.parquet", "--column",
        "b", "--id-column", "key",
    )  # fmt: skip

    out = read_vectors(tmp_path / "out.parquet")
    assert code == 0
    assert out.ids[:2] == ["k0", "k1"]
    np.testing.assert_allclose(out.array, 2 * nested.apply(rows, "document"), atol=1e-5)


def test_an_existing_output_is_refused_and_resuming_finds_it_done(nested, rows, tmp_path):
    write_vectors(tmp_path / "rows.npy", rows)
    call = tmp_path / "map", tmp_path / "rows.npy", "-o", tmp_path / "out.npy"
    run(*call)

    code, _, error = run(*call)
    assert code == 1
    assert "exists already" in error

    code, out, _ = run(*call, "--resume")
    assert code == 0
    assert out.startswith("500 rows were there already\nWrote 500")


def test_a_size_below_the_smallest_is_refused(nested, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)

    code, _, error = run(
        tmp_path / "map", tmp_path / "rows.npy", "-o", tmp_path / "out.npy", "--dim", 2
    )

    assert code == 1
    assert "fitted for sizes from 4 up (4, 8, 16), got 2" in error
    assert not (tmp_path / "out.npy").exists()


def test_it_asks_for_an_output():
    assert run("map", "rows.npy")[0] == 2
