"""The command line as a shell, a pipe and a script meet it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from matryo.cli import main

VERBS = (
    "demo",
    "measure",
    "plan",
    "explain",
    "check",
    "classify",
    "train",
    "diff",
    "adapt",
    "apply",
    "encode",
    "search",
    "index",
    "report",
    "formats",
    "models",
)
ROW = {
    "dim", "precision", "method", "measure", "value", "low", "high", "n", "origin", "verdict",
}  # fmt: skip


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(1)
    np.save(tmp_path / "corpus.npy", rng.standard_normal((300, 32)).astype(np.float32))
    np.save(tmp_path / "queries.npy", rng.standard_normal((60, 32)).astype(np.float32))
    return tmp_path / "corpus.npy", "--queries", tmp_path / "queries.npy", "--no-cache"


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"thing {i} of colour {i % 7}" for i in range(150)), "utf-8")
    return path


def matryo(*arguments, check=True):
    """Run the command in a process of its own, with pipes for both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "matryo", *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done


def run(capsys, *arguments):
    """Run the command in this process: exit code, stdout, stderr."""
    code = main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


class TestHelp:
    def test_all_verbs_are_listed(self, capsys):
        code, out, err = run(capsys, "--help")

        assert (code, err) == (0, "")
        assert all(f" {verb} " in out for verb in VERBS)

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_explains_itself(self, verb, capsys):
        code, out, err = run(capsys, verb, "--help")

        assert (code, err) == (0, "")
        assert f"matryo {verb}" in out
        assert "--help" in out

    def test_the_version_is_that_of_the_package(self, capsys):
        from importlib.metadata import version

        assert run(capsys, "--version") == (0, version("matryo") + "\n", "")

    def test_no_verb_at_all_shows_the_help_and_is_wrong_usage(self, capsys):
        code, out, err = run(capsys)

        assert code == 2
        assert "measure" in out + err


class TestMeasure:
    def test_a_table_for_people(self, vectors, capsys):
        code, out, err = run(capsys, "measure", *vectors, "--dims", "8,32")

        assert (code, err) == (0, "")
        assert "neighbor_recall@10" in out
        assert "floor 0.98" in out

    def test_json_is_one_document_on_stdout_and_nothing_else(self, vectors):
        done = matryo("measure", *vectors, "--json")

        results = json.loads(done.stdout)
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""
        assert results["kind"] == "measure"
        assert all(row.keys() >= ROW for row in results["results"])

    def test_options_reach_the_job(self, vectors, capsys):
        _, out, _ = run(
            capsys, "measure", *vectors, "--json", "--dims", "8,16", "--precisions", "float32,int8",
            "-k", 5, "--floor", 0.9, "--confidence", 0.8, "--seed", 7, "--metric", "l2",
            "--threshold", -60, "--no-baselines", "--synthetic",
        )  # fmt: skip

        results = json.loads(out)
        assert results["settings"] == {
            "dims": [8, 16], "precisions": ["float32", "int8"], "k": 5, "floor": 0.9,
            "confidence": 0.8, "metric": "l2", "seed": 7,
        }  # fmt: skip
        assert results["measures"][0]["name"] == "neighbor_recall@5"
        assert {row["method"] for row in results["results"]} == {"cut"}
        assert results["data"]["origin"] == "synthetic"
        assert results["threshold"]["full"] == -60

    def test_results_and_report_are_written_where_asked(self, vectors, tmp_path, capsys):
        pytest.importorskip("plotly")

        code, _, _ = run(
            capsys, "measure", *vectors, "--out", tmp_path / "r.json", "--report",
            tmp_path / "r.html",
        )  # fmt: skip

        assert code == 0
        assert json.loads((tmp_path / "r.json").read_text("utf-8"))["kind"] == "measure"
        assert "</html>" in (tmp_path / "r.html").read_text("utf-8")

    @pytest.mark.parametrize(
        ("row", "code"), [("32", 0), ("32@float32", 0), ("8", 3), ("8@binary", 3)]
    )
    def test_a_required_row_decides_the_exit_code(self, row, code, vectors, capsys):
        got, out, _ = run(capsys, "measure", *vectors, "--dims", "8,32", "--require", row, "--json")

        assert got == code
        assert json.loads(out)["kind"] == "measure"

    def test_a_required_row_that_was_not_measured_is_wrong_usage(self, vectors, capsys):
        code, _, err = run(capsys, "measure", *vectors, "--dims", "8,32", "--require", "12")

        assert code == 2
        assert "12 was not measured" in err

    def test_encodings_are_kept_for_the_next_run_unless_told_otherwise(
        self, texts, tmp_path, capsys, monkeypatch
    ):
        pytest.importorskip("wordllama")
        monkeypatch.setenv("MATRYO_CACHE", str(tmp_path / "cache"))

        run(capsys, "measure", texts, "--no-cache")
        assert not (tmp_path / "cache").exists()
        run(capsys, "measure", texts)

        assert (tmp_path / "cache" / "encodings.sqlite").is_file()


class TestEncode:
    @pytest.fixture(autouse=True)
    def _model(self):
        pytest.importorskip("wordllama")

    def test_what_was_written_is_said(self, texts, tmp_path, capsys):
        code, out, err = run(capsys, "encode", texts, "--out", tmp_path / "t.npy", "--no-cache")

        assert (code, err) == (0, "")
        assert out.startswith("Wrote 150 document vectors of 256 numbers as float32 to ")
        assert np.load(tmp_path / "t.npy").shape == (150, 256)

    def test_json_says_it_for_machines(self, texts, tmp_path, capsys):
        code, out, _ = run(
            capsys, "encode", texts, "-o", tmp_path / "t.matryo", "--dims", "64", "--precision",
            "int8", "--side", "query", "--no-cache", "--json",
        )  # fmt: skip

        written = json.loads(out)
        assert code == 0
        assert (written["rows"], written["dims"], written["precision"], written["side"]) == (
            150, [64], "int8", "query",
        )  # fmt: skip

    def test_empty_texts_are_named(self, tmp_path, capsys):
        (tmp_path / "t.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": ""}\n')

        _, out, _ = run(
            capsys, "encode", tmp_path / "t.jsonl", "-o", tmp_path / "t.npy", "--no-cache"
        )

        assert "Left out 1 empty texts: 'b'" in out

    def test_stored_documents_and_texts_as_queries_are_measured_together(
        self, texts, tmp_path, capsys
    ):
        run(capsys, "encode", texts, "-o", tmp_path / "t.matryo", "--no-cache")
        (tmp_path / "q.txt").write_text("\n".join(f"colour {i}" for i in range(20)))

        code, out, _ = run(
            capsys, "measure", tmp_path / "t.matryo", "--queries", tmp_path / "q.txt", "--json",
            "--no-cache",
        )  # fmt: skip

        assert code == 0
        assert json.loads(out)["data"]["queries"] == 20


class TestReport:
    @pytest.fixture
    def results(self, vectors, tmp_path, capsys):
        """A results file that holds texts, as the demonstration's does."""
        pytest.importorskip("plotly")
        run(capsys, "measure", *vectors, "--out", tmp_path / "r.json")
        results = json.loads((tmp_path / "r.json").read_text("utf-8"))
        answer = {"ids": ["d1"], "ms": 1.0, "bytes": 100}
        results["funnel"] = {
            "text": "8:50,32:10",
            "queries": [
                {"id": "q1", "text": "who asked this", "full": answer, "funnel": answer,
                 "overlap": 1}
            ],
            "documents": {"d1": "somebody answered that"},
        }  # fmt: skip
        (tmp_path / "r.json").write_text(json.dumps(results), "utf-8")
        return tmp_path / "r.json"

    @pytest.mark.parametrize("with_text", [True, False])
    def test_texts_are_there_only_if_asked_for(self, with_text, results, tmp_path, capsys):
        options = ["--with-text"] if with_text else []

        code, out, err = run(capsys, "report", results, "-o", tmp_path / "r.html", *options)

        page = (tmp_path / "r.html").read_text("utf-8")
        assert (code, err) == (0, "")
        assert out == f"Wrote {tmp_path / 'r.html'}\n"
        assert ("who asked this" in page) is with_text
        assert ("somebody answered that" in page) is with_text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("nonsense", "expected results as JSON, got"),
            ("[1]", "expected one JSON object, got list"),
            ("{}", "expected 'measure' or 'plan' or 'adapt' or 'train', got None"),
        ],
    )
    def test_a_file_that_holds_no_results_is_refused(self, content, message, tmp_path, capsys):
        (tmp_path / "r.json").write_text(content)

        code, out, err = run(capsys, "report", tmp_path / "r.json", "-o", tmp_path / "r.html")

        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert message in err
        assert not (tmp_path / "r.html").exists()

    def test_a_missing_file_is_named(self, tmp_path, capsys):
        code, _, err = run(capsys, "report", tmp_path / "nowhere.json")

        assert code == 1
        assert "nowhere.json" in err


class TestLists:
    def test_formats(self, capsys):
        _, shown, _ = run(capsys, "formats")
        code, out, _ = run(capsys, "formats", "--json")

        formats = {item["suffix"]: item for item in json.loads(out)}
        assert code == 0
        assert ".npy" in shown
        assert formats[".npy"]["reads"] == formats[".npy"]["writes"] == ["vectors"]
        assert formats[".parquet"]["extra"] == "parquet"

    def test_models(self, capsys):
        _, shown, _ = run(capsys, "models")
        code, out, _ = run(capsys, "models", "--json")

        known = json.loads(out)
        assert code == 0
        assert "wordllama" in shown
        assert {"default", "minilm", "openai"} <= {item["name"] for item in known["encoders"]}
        nomic = next(p for p in known["presets"] if p["name"] == "nomic-embed-text-v1.5")
        assert nomic["document"]["pre_step"] == "layer_norm"
        assert nomic["dims"] == [64, 128, 256, 512, 768]


@pytest.mark.slow
class TestDemo:
    @pytest.fixture(autouse=True)
    def _model(self):
        pytest.importorskip("wordllama")
        pytest.importorskip("plotly")

    def test_it_writes_results_and_a_report_without_texts_and_says_what_is_next(self, tmp_path):
        done = matryo("demo", "--out", tmp_path)

        results = json.loads((tmp_path / "results.json").read_text("utf-8"))
        page = (tmp_path / "report.html").read_text("utf-8")
        assert done.stderr == ""
        assert "matryo measure" in done.stdout
        assert results["verdict"]["headline"] in " ".join(done.stdout.split())
        assert [row["text"] for row in results["funnel"]["queries"]] == [None] * 3
        assert results["verdict"]["headline"] in page


class TestErrors:
    def test_one_line_on_stderr_without_a_traceback(self, tmp_path):
        done = matryo("measure", tmp_path / "nowhere.npy", check=False)

        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr == f"error: there is nothing at {tmp_path / 'nowhere.npy'}\n"

    def test_a_hint_stands_in_a_line_of_its_own(self, vectors, capsys):
        code, _, err = run(capsys, "measure", *vectors, "--dims", "16,8")

        assert code == 1
        assert err == "error: dims must ascend, got 8 after 16\n  write them as 8,16\n"

    def test_debug_shows_the_traceback(self, tmp_path):
        done = matryo("--debug", "measure", tmp_path / "nowhere.npy", check=False)

        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert "InputError: there is nothing at" in done.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ("mesure",),
            ("measure",),
            ("measure", "x.npy", "--dim", "64"),
            ("measure", "x.npy", "-k", "0"),
            ("measure", "x.npy", "--floor", "much"),
            ("measure", "x.txt", "--base-url", "http://127.0.0.1:9/v1"),
            ("encode", "x.txt"),
            ("encode", "x.txt", "-o", "x.npy", "--side", "both"),
            ("encode", "x.txt", "-o", "x.npy", "--base-url", "http://127.0.0.1:9/v1"),
        ],
    )
    def test_wrong_usage_exits_with_2_and_says_why(self, arguments, capsys):
        code, out, err = run(capsys, *arguments)

        assert (code, out) == (2, "")
        assert "Usage: " in err
        assert "Traceback" not in err

    def test_an_error_leaves_no_half_of_a_json_document(self, vectors, capsys):
        code, out, err = run(capsys, "measure", *vectors, "--json", "--dims", "64")

        assert (code, out) == (1, "")
        assert "between 1 and 32" in err


class TestProgress:
    def test_a_pipe_sees_none(self, texts):
        pytest.importorskip("wordllama")

        done = matryo("measure", texts, "--no-cache")

        assert done.stderr == ""
        assert "\x1b" not in done.stdout
        assert "encoding document" not in done.stdout

    @pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
    def test_a_terminal_sees_it_beside_a_clean_stdout(self, texts):
        pytest.importorskip("wordllama")
        ours, theirs = pty.openpty()

        done = subprocess.run(
            [sys.executable, "-m", "matryo", "measure", str(texts), "--no-cache"],
            stdout=subprocess.PIPE, stderr=theirs, text=True, check=False,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )  # fmt: skip
        os.close(theirs)
        shown = os.read(ours, 1 << 16).decode()
        os.close(ours)

        assert done.returncode == 0
        assert "encoding document texts" in shown
        assert "150/150" in shown
        assert "encoding document" not in done.stdout


def clusters(n, seed):
    """Rows whose weight lies in the first numbers."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(300, 64))
    rows = centres[rng.integers(0, 300, n)] + 0.7 * rng.normal(size=(n, 64))
    return (rows * 0.95 ** np.arange(64)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    np.save(folder / "corpus.npy", clusters(3000, 0))
    np.save(folder / "queries.npy", clusters(600, 1))
    np.save(folder / "new.npy", clusters(600, 2))
    return folder


@pytest.fixture(scope="module")
def planned(files):
    done = matryo(
        "plan", files / "corpus.npy", "--queries", files / "queries.npy", "--floor", "0.95",
        "--out", files / "plan.json", "--results", files / "results.json",
        "--report", files / "report.html", "--save-machine", files / "machine.json",
    )  # fmt: skip
    return done, files


class TestPlan:
    def test_three_choices_are_shown_with_what_they_cost_and_one_is_written(self, planned):
        done, files = planned

        assert "keeps 0.95 of full-width neighbor_recall@10" in " ".join(done.stdout.split())
        for word in ("cheap", "balanced", "safe", "RAM", "disk", "modelled", "measured"):
            assert word in done.stdout
        assert f"Wrote the cheap choice to {files / 'plan.json'}" in done.stderr
        assert (files / "report.html").stat().st_size > 1_000_000

    def test_the_plan_is_explained_in_five_lines(self, planned, capsys):
        code, out, _ = run(capsys, "explain", planned[1] / "plan.json")

        assert code == 0
        assert len(out.splitlines()) == 5
        assert out.startswith("Cheap: score every row by")

    def test_new_queries_confirm_the_plan(self, planned, capsys):
        files = planned[1]

        code, out, _ = run(
            capsys, "check", files / "plan.json", files / "corpus.npy",
            "--queries", files / "new.npy",
        )  # fmt: skip

        assert code == 0
        assert "of neighbor_recall@10 is kept on 600 queries" in out
        assert out.startswith(("Holds", "Cannot tell"))

    def test_queries_of_another_kind_end_with_three(self, planned, capsys, tmp_path):
        files = planned[1]
        other = np.random.default_rng(9).normal(size=(300, 64)) * 1.07 ** np.arange(64)
        np.save(tmp_path / "other.npy", other.astype(np.float32))

        code, out, _ = run(
            capsys, "check", files / "plan.json", files / "corpus.npy",
            "--queries", tmp_path / "other.npy", "--json",
        )  # fmt: skip

        assert code == 3
        assert json.loads(out)["verdict"] == "broken"

    def test_a_machine_profile_is_used_as_it_is(self, planned, capsys, tmp_path):
        files = planned[1]

        code, out, _ = run(
            capsys, "plan", files / "corpus.npy", "--queries", files / "queries.npy", "--floor",
            "0.95", "--machine", files / "machine.json", "--out", tmp_path / "p.json", "--json",
        )  # fmt: skip

        before = json.loads((files / "results.json").read_text("utf-8"))
        assert code == 0
        assert json.loads(out)["machine"] == before["machine"]

    def test_nothing_within_the_budget_ends_with_three_and_writes_no_plan(
        self, files, capsys, tmp_path
    ):
        code, out, _ = run(
            capsys, "plan", files / "corpus.npy", "--queries", files / "queries.npy",
            "--budget-disk", "31kB", "--out", tmp_path / "p.json",
        )  # fmt: skip

        assert code == 3
        assert "Nothing within the budget will do" in " ".join(out.split())
        assert not (tmp_path / "p.json").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--floor", "1.5"], "floor must be above 0 and below 1, got 1.5"),
            (["--budget-ram", "much"], "ram must be a number with its unit"),
            (["--budget-p95", "-3ms"], "p95 must be"),
            (["--kind", "median"], "kind must be mean, share or expected"),
        ],
    )
    def test_what_makes_no_sense_is_said_in_a_line(self, files, capsys, arguments, message):
        code, _, err = run(
            capsys, "plan", files / "corpus.npy", "--queries", files / "queries.npy", *arguments
        )

        assert code == 1
        assert message in err

    @pytest.mark.parametrize("arguments", [["--choice", "best"], ["--price-ram", "3"]])
    def test_wrong_usage_ends_with_two(self, files, capsys, arguments):
        code, _, _ = run(
            capsys, "plan", files / "corpus.npy", "--queries", files / "queries.npy", *arguments
        )

        assert code == 2

    def test_a_plan_of_a_newer_version_is_refused(self, planned, capsys, tmp_path):
        text = (planned[1] / "plan.json").read_text("utf-8")
        (tmp_path / "p.json").write_text(text.replace('"format": 1', '"format": 9', 1), "utf-8")

        code, _, err = run(capsys, "explain", tmp_path / "p.json")

        assert code == 1
        assert "expected a plan of format 1, got 9" in err
