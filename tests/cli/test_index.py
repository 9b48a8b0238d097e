"""`matryo index`, from files to an index and back, as a shell and a script meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from matryo.cli import main
from matryo.core import Funnel, Plan, Space
from matryo.jobs import demo_data
from matryo.readers import write_vectors
from matryo.stores import Index

ROWS = 2000
FUNNEL = "64@binary:200,128@int8:50,256:10"


@pytest.fixture(scope="module")
def glosses(tmp_path_factory):
    """2,000 entries of the demo data as JSONL, with a field."""
    pytest.importorskip("wordllama")
    documents = demo_data().documents
    path = tmp_path_factory.mktemp("data") / "glosses.jsonl"
    lines = [
        json.dumps({"id": name, "text": text, "length": len(text)})
        for name, text in zip(documents.ids[:ROWS], documents.texts[:ROWS], strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture
def vectors(tmp_path):
    rows = np.random.default_rng(1).standard_normal((300, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path / "rows.npy"


@pytest.fixture
def index(vectors, tmp_path):
    """An index of 300 rows with integer ids."""
    assert main(["index", "build", str(vectors), "-o", str(tmp_path / "i"), *funnel()]) == 0
    return tmp_path / "i"


def funnel(text="8@int8:50,16:5"):
    return "--funnel", text


def held(path):
    """All that an index holds, in the order of its ids."""
    with Index.open(path, verify="full") as opened:
        return opened.get(opened.ids())


def run(capsys, *arguments):
    """Run `matryo index …` in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(["index", *map(str, arguments)])
    return (code, *capsys.readouterr())


class TestBuild:
    def test_texts_become_an_index_that_says_what_it_is(self, glosses, tmp_path, capsys):
        code, out, err = run(
            capsys, "build", glosses, "-o", tmp_path / "i", *funnel(FUNNEL), "--field", "text:str",
            "--field", "length:int", "--no-cache",
        )  # fmt: skip

        assert (code, err) == (0, "")
        assert out.startswith(f"Built {tmp_path / 'i'} of 2,000 rows for {FUNNEL}\nSpace: wordl")
        with Index.open(tmp_path / "i") as opened:
            ids = opened.ids()[:5]
            fields = opened.get(ids).fields
            assert [len(text) for text in fields["text"]] == fields["length"]

    def test_json_says_it_for_machines(self, vectors, tmp_path, capsys):
        code, out, _ = run(capsys, "build", vectors, "-o", tmp_path / "i", *funnel(), "--json")

        built = json.loads(out)
        assert code == 0
        assert (built["rows"], built["funnel"], built["resumed_at"]) == (300, "8@int8:50,16:5", 0)

    def test_a_plan_brings_its_funnel_and_its_space(self, vectors, tmp_path, capsys):
        space = Space("m", 16, metric="l2")
        Plan(space, Funnel.parse("8:50,16:5")).save(tmp_path / "plan.json")

        run(capsys, "build", vectors, "-o", tmp_path / "i", "--plan", tmp_path / "plan.json")

        with Index.open(tmp_path / "i") as opened:
            assert (opened.space, str(opened.plan.run)) == (space, "8:50,16:5")

    @pytest.mark.parametrize("options", [(), ("--plan", "p.json", "--funnel", "8:5")])
    def test_a_plan_or_a_funnel_is_needed_and_not_both(self, options, vectors, tmp_path, capsys):
        code, _, err = run(capsys, "build", vectors, "-o", tmp_path / "i", *options)

        assert code == 2
        assert "give one of the two" in err

    def test_a_finished_build_is_refused_and_resuming_finds_it_done(self, index, vectors, capsys):
        code, _, err = run(capsys, "build", vectors, "-o", index, *funnel())
        assert code == 1
        assert f"{index} exists already" in err

        code, out, _ = run(capsys, "build", vectors, "-o", index, *funnel(), "--resume")
        assert code == 0
        assert out.startswith("300 rows were there already\nBuilt")

    def test_an_address_needs_a_model_that_has_one(self, vectors, tmp_path, capsys):
        code, _, err = run(
            capsys, "build", vectors, "-o", tmp_path / "i", *funnel(), "--base-url", "http://x"
        )

        assert code == 2
        assert "only openai: models have an address" in err

    @pytest.mark.slow
    def test_a_killed_build_of_texts_goes_on_with_the_same_rows(self, glosses, tmp_path, capsys):
        call = (
            "build", glosses, "--field", "text:str", *funnel(FUNNEL), "--batch", 20, "--no-cache"
        )  # fmt: skip
        command = [sys.executable, "-m", "matryo", "index", *map(str, call), "-o", tmp_path / "i"]

        started = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while len(list((tmp_path / "i.unfinished" / "index").glob("0*.seg"))) < 3:
            assert started.poll() is None
            time.sleep(0.01)
        started.send_signal(signal.SIGKILL)

        assert started.wait() == -signal.SIGKILL
        code, out, _ = run(capsys, *call, "-o", tmp_path / "i", "--resume", "--json")
        run(capsys, *call, "-o", tmp_path / "whole")
        assert code == 0
        assert 0 < json.loads(out)["resumed_at"] < ROWS
        one, two = held(tmp_path / "i"), held(tmp_path / "whole")
        np.testing.assert_array_equal(one.vectors, two.vectors)
        assert (one.ids, one.fields) == (two.ids, two.fields)


class TestVerbs:
    def test_rows_are_added_and_replaced(self, index, tmp_path, capsys):
        more = np.ones((2, 16), np.float32)
        write_vectors(tmp_path / "more.npy", more, [299, 300])

        code, _, err = run(capsys, "add", index, tmp_path / "more.npy")
        assert code == 1
        assert "1 of these ids is in the index already: 299" in err
        code, out, _ = run(capsys, "add", index, tmp_path / "more.npy", "--upsert")

        assert (code, out) == (0, f"Added 2 rows; {index} has 301\n")
        with Index.open(index) as opened:
            np.testing.assert_array_equal(opened.get([299, 300]).vectors, more)

    def test_rows_are_removed_by_ids_or_by_a_file_of_them(self, index, tmp_path, capsys):
        (tmp_path / "ids.txt").write_text("7\n8\n9\n")

        code, out, _ = run(capsys, "delete", index, "0", "5")
        assert (code, out) == (0, f"Removed 2 rows; {index} has 298\n")
        run(capsys, "delete", index, "--from", tmp_path / "ids.txt")

        with Index.open(index) as opened:
            assert opened.ids() == sorted(set(range(300)) - {0, 5, 7, 8, 9})

    @pytest.mark.parametrize(
        ("ids", "code", "message"),
        [
            (("5", "999"), 1, "1 of these ids is not in the index: 999"),
            (("5", "five"), 1, "the ids of this index are integers, got 'five'"),
            ((), 2, "give ids, or a file of them"),
        ],
    )
    def test_ids_that_cannot_be_removed_leave_all_rows(self, ids, code, message, index, capsys):
        got, _, err = run(capsys, "delete", index, *ids)

        assert got == code
        assert message in err
        with Index.open(index) as opened:
            assert len(opened) == 300

    def test_what_it_is_and_holds_is_shown(self, index, capsys, monkeypatch):
        monkeypatch.setenv("MATRYO_KERNEL", "numpy")
        run(capsys, "delete", index, "0")

        code, out, _ = run(capsys, "info", index)
        _, as_json, _ = run(capsys, "info", index, "--json")

        facts = json.loads(as_json)
        shown = dict(line.split(":", 1) for line in out.splitlines())
        assert code == 0
        assert {name: value.strip() for name, value in shown.items()} == {
            "rows": "299, and 1 that are dead",
            "segments": "1",
            "bytes": f"{facts['size_bytes']:,} ({facts['size_bytes'] / 1000:.1f} kB)",
            "space": f"vectors of an unnamed model @ 16 ({facts['fingerprint']})",
            "funnel": "8@int8:50,16:5",
            "transform": "none",
            "fields": "none",
            "clipped": f"{facts['clipped_share']['8@int8']:.2%} at 8@int8",
            "kernel": "numpy (the slow reference, as MATRYO_KERNEL says)",
        }

    def test_dead_rows_go_when_it_is_compacted(self, index, capsys):
        run(capsys, "delete", index, *range(100))

        code, out, _ = run(capsys, "compact", index)

        assert code == 0
        assert out.startswith("Merged 1 segments into 1: ")
        with Index.open(index) as opened:
            assert opened.info()["dead_rows"] == 0

    def test_a_copy_holds_the_same_while_another_writes(self, index, tmp_path, capsys):
        with Index.open(index) as writer:
            code, out, _ = run(capsys, "snapshot", index, tmp_path / "copy")
            refused, _, err = run(capsys, "compact", index)
            ids = writer.ids()

        assert (code, out) == (0, f"Copied 300 rows to {tmp_path / 'copy'}\n")
        assert refused == 1
        assert "an index has one writer" in err
        with Index.open(tmp_path / "copy", verify="full") as copy:
            assert copy.ids() == ids

    def test_a_folder_that_is_no_index_is_said(self, tmp_path, capsys):
        code, _, err = run(capsys, "info", tmp_path)

        assert code == 1
        assert "expected the folder of an index" in err
