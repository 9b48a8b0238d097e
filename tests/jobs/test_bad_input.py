"""Every kind of input that cannot be used is refused at the front door, with what to do."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import matryo
from matryo.cli import main
from matryo.core import (
    DimError,
    EndpointError,
    FormatError,
    InputError,
    NestedVectors,
    Nesting,
    Side,
    Space,
    SpaceMismatchError,
    TooFewError,
    VectorError,
)
from matryo.readers import Vectors

WIDTH = 32


def named(rows, prefix="d"):
    return Vectors([f"{prefix}{i}" for i in range(len(rows))], rows, None, None, "vectors")


def folder(path, rows, model="apples", side=Side.DOCUMENT):
    NestedVectors.from_array(
        rows, range(len(rows)), space=Space(model, WIDTH), side=side, nesting=Nesting((16, 32))
    ).save(path)
    return path


class TestNumbers:
    @pytest.mark.parametrize("drawn", [True, False])
    @pytest.mark.parametrize(
        ("value", "fault"), [(np.nan, "NaN or inf"), (np.inf, "NaN or inf"), (0, "only zeros")]
    )
    def test_bad_documents_are_named_by_id(self, value, fault, drawn, corpus, queries):
        corpus[[7, 21]] = value

        with pytest.raises(VectorError, match=f"documents: . rows? ha.* {fault}.*'d(7|21)'") as e:
            matryo.measure(named(corpus), queries=None if drawn else queries)

        assert set(e.value.ids) <= {"d7", "d21"}
        assert "leave these rows out or encode them again" in e.value.hint

    @pytest.mark.parametrize("value", [np.nan, -np.inf, 0])
    def test_bad_queries_are_named_by_id(self, value, corpus, queries):
        queries[3] = value

        with pytest.raises(VectorError, match=r"queries: 1 row has .*: 'q3'"):
            matryo.measure(corpus, queries=named(queries, "q"))

    def test_a_prefix_of_zeros_is_named_by_id_and_dim(self, corpus, queries):
        corpus[300, :16] = 0
        for seed in range(3):  # whether the row is among those fitted on, or not
            with pytest.raises(
                VectorError, match=r"documents cut to 16 numbers: .*only zeros"
            ) as e:
                matryo.measure(named(corpus), queries=queries, seed=seed)

            assert e.value.ids == ["d300"]

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.ones(300, np.float32), r"one vector per row, .* got shape \(300,\)"),
            (np.ones((300, 8), np.int64), "expected floating point numbers, got int64"),
        ],
    )
    def test_what_is_no_matrix_of_floats_is_refused(self, vectors, message):
        with pytest.raises(VectorError, match=message):
            matryo.measure(vectors)


class TestMeetings:
    def test_widths_that_differ(self, corpus, queries):
        with pytest.raises(DimError, match=r"one width, got \(16,\) and \(32,\)\n.*same model"):
            matryo.measure(corpus, queries=queries[:, :16])

    def test_two_spaces(self, corpus, queries, tmp_path):
        documents = folder(tmp_path / "a.matryo", corpus)
        asked = folder(tmp_path / "b.matryo", queries, "pears", Side.QUERY)

        with pytest.raises(SpaceMismatchError, match=r"apples @ 32.* pears @ 32") as error:
            matryo.measure(documents, queries=asked)

        assert error.value.fields == ["model"]

    @pytest.mark.parametrize("which", ["queries", "documents"])
    def test_judgments_that_name_unknown_ids(self, which, corpus, queries, write_lines):
        pair = ("nobody", "5") if which == "queries" else ("5", "nothing")
        qrels = write_lines("qrels.tsv", [("1", "2", "1"), (*pair, "1")])

        with pytest.raises(InputError, match=rf"name 1 {which} that are not there: 'no.*'\n.*ids"):
            matryo.measure(corpus, queries=queries, qrels=qrels)

    @pytest.mark.parametrize(("row", "which"), [("nobody\td1", "queries"), ("q1\tx", "documents")])
    def test_judgments_of_a_benchmark_that_name_unknown_ids(self, row, which, beir, words):
        path = beir()
        with (path / "qrels.tsv").open("a") as stream:
            stream.write(f"{row}\t1\n")

        with pytest.raises(InputError, match=f"qrels.tsv: expected {which} of .*not there: "):
            matryo.measure(path, model=words)

    def test_fewer_queries_than_any_verdict_needs(self, corpus, queries):
        # five rows beside the reference share 5 %: the exact interval of n hits ends at α^(1/n)
        needed = next(n for n in range(1, 99) if (0.05 / 5 / 2) ** (1 / n) >= 0.5)

        with pytest.raises(
            TooFewError, match=rf"at least {needed} queries .* floor 0.5 .* got {needed - 1}"
        ) as error:
            matryo.measure(corpus, queries=queries[: needed - 1], floor=0.5, dims="16,32")

        assert error.value.needed == needed
        matryo.measure(corpus, queries=queries[:needed], floor=0.5, dims="16,32")


class TestDims:
    @pytest.mark.parametrize(
        ("dims", "message"),
        [
            ("0,16", "every dim must be a whole number of at least 1, got 0 in 0,16"),
            ("-8,16", "at least 1, got -8"),
            ("16,64", r"between 1 and 32 \(the width of these vectors\), got 64"),
            ("16,8", r"dims must ascend, got 8 after 16\n.*write them as 8,16"),
            ("8,8,16", "dims must not repeat, got 8 twice"),
            ("eight", "as in 64,256, got 'eight'"),
            ("", "at least one dim, got none"),
        ],
    )
    def test_dims_that_do_not_fit(self, dims, message, corpus, queries):
        with pytest.raises(DimError, match=message):
            matryo.measure(corpus, queries=queries, dims=dims)

    def test_untrained_dims_where_they_are_refused(self, beir, words):
        with pytest.raises(
            DimError, match=r"words was trained at dims 8, 16, 32, got 10\n.*choose"
        ):
            matryo.measure(beir(), model=words, dims="10", strict=True)


class TestFiles:
    SUFFIXES = (".npy", ".npz", ".safetensors", ".fvecs", ".fbin", ".jsonl", ".txt", ".tsv", ".h5")

    @pytest.mark.parametrize("suffix", [*SUFFIXES, ".parquet", ".arrow"])
    def test_an_empty_file(self, suffix, tmp_path):
        path = tmp_path / f"vectors{suffix}"
        path.touch()

        with pytest.raises(
            FormatError, match=rf"vectors\{suffix}: expected a .* file, got an empt"
        ):
            matryo.measure(path)

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".fvecs", ".fbin"])
    @pytest.mark.parametrize("keep", [0.02, 0.5, 0.999])
    def test_a_truncated_file(self, suffix, keep, corpus, tmp_path):
        path = tmp_path / f"vectors{suffix}"
        matryo.write_vectors(path, corpus)
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size) - 1])

        with pytest.raises(FormatError, match=rf"vectors\{suffix}"):
            matryo.measure(path)

    @pytest.mark.parametrize("column", [None, "vector"])
    def test_a_truncated_parquet_file(self, column, corpus, tmp_path):
        pytest.importorskip("pyarrow")
        path = tmp_path / "vectors.parquet"
        matryo.write_vectors(path, corpus)
        path.write_bytes(path.read_bytes()[:-200])

        with pytest.raises(FormatError, match=r"vectors.parquet: expected a whole Parquet file"):
            matryo.measure(path, column=column)

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".h5"])
    def test_wrong_magic(self, suffix, tmp_path):
        path = tmp_path / f"vectors{suffix}"
        path.write_bytes(bytes(range(128, 256)) * 4)

        with pytest.raises(FormatError, match=r"which starts with .* got one that starts with"):
            matryo.measure(path)

    def test_a_file_under_the_suffix_of_another(self, corpus, tmp_path):
        matryo.write_vectors(tmp_path / "v.npz", corpus)
        (tmp_path / "v.npz").rename(tmp_path / "v.npy")

        with pytest.raises(FormatError, match=r"looks like .npz: give it that suffix"):
            matryo.measure(tmp_path / "v.npy")

    @pytest.mark.parametrize("suffix", [".jsonl", ".txt", ".csv"])
    def test_a_file_that_is_not_utf8(self, suffix, tmp_path):
        path = tmp_path / f"texts{suffix}"
        path.write_bytes(b"text\xff\n")

        with pytest.raises(FormatError, match=rf"texts\{suffix}, line 1: expected UTF-8, got byte"):
            matryo.measure(path)

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_pickled_objects(self, suffix, tmp_path):
        objects = np.array([{"a": 1}] * 4, dtype=object)
        path = tmp_path / f"vectors{suffix}"
        if suffix == ".npy":
            np.save(path, objects, allow_pickle=True)
        else:
            np.savez(path, vectors=objects)

        with pytest.raises(FormatError, match="got pickled Python objects, which are never read"):
            matryo.measure(path)

    def test_a_folder_whose_checksum_is_wrong(self, corpus, tmp_path):
        path = folder(tmp_path / "v.matryo", corpus)
        block = path / "block-00016-00032.npy"
        data = bytearray(block.read_bytes())
        data[-5] ^= 1
        block.write_bytes(data)

        with pytest.raises(FormatError, match=r"block-00016-00032.npy.*"):
            matryo.measure(path)

    def test_a_parquet_column_of_the_wrong_type(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = pa.table({"vector": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64())), "n": [1, 2]})
        pq.write_table(table, tmp_path / "v.parquet")

        with pytest.raises(VectorError, match=r"lists of float16.* in column 'vector', got list"):
            matryo.measure(tmp_path / "v.parquet", column="vector")
        with pytest.raises(InputError, match=r"one column with lists of floats, got 0 among: vec"):
            matryo.measure(tmp_path / "v.parquet")

    def test_ragged_lists_in_parquet(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        rows = [[1.0, 2.0]] * 9 + [[1.0]]
        pq.write_table(pa.table({"vector": rows}), tmp_path / "v.parquet")

        with pytest.raises(VectorError, match=r"expected 2 numbers in every row .* got 1 in row 9"):
            matryo.measure(tmp_path / "v.parquet")

    def test_nothing_at_the_path(self, tmp_path):
        with pytest.raises(InputError, match=r"there is nothing at .*nowhere"):
            matryo.measure(tmp_path / "nowhere")


class TestEndpoint:
    """A real server that misbehaves, met through `model="openai:..."`."""

    WIDTH = 16

    @pytest.fixture(autouse=True)
    def _client(self):
        pytest.importorskip("openai")

    @contextmanager
    def serving(self, answer):
        """Serve `answer(texts)`, which gives a status and a body."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = answer(request["input"])
                data = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.send_header("retry-after-ms", "10")
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client gave up, as one test wants

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def embedded(self, texts, width=WIDTH):
        rows = [np.random.default_rng(len(t) * 1000 + ord(t[-1])).random(width) for t in texts]
        return [{"index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]

    def measured(self, url, texts, **options):
        given = {"base_url": url, "api_key": "secret", "max_retries": 1, "full_dim": 16, **options}
        return matryo.measure(texts, model="openai:test-model", model_options=given, dims="4,16")

    @pytest.fixture
    def texts(self, write_lines):
        return write_lines("texts.txt", [["x" * (i + 1) + f" {i}"] for i in range(120)])

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (401, r"refused 120 texts with status 401: .*\n.*check the key: set OPENAI_API_KEY"),
            (429, r"status 429 in up to 2 tries: .*\n.*wants fewer requests"),
            (500, r"status 500 in up to 2 tries: .*\n.*server's log"),
        ],
    )
    def test_refusals(self, status, message, texts):
        with (
            self.serving(lambda _: (status, {"error": {"message": "no"}})) as url,
            pytest.raises(EndpointError, match=message) as error,
        ):
            self.measured(url, texts)

        assert error.value.status == status

    def test_a_slow_one_is_given_up(self, texts):
        def slow(asked):
            time.sleep(0.6)
            return 200, {"data": self.embedded(asked)}

        with (
            self.serving(slow) as url,
            pytest.raises(EndpointError, match=r"no answer within 0.1 s in one try\n.*timeout"),
        ):
            self.measured(url, texts, timeout_seconds=0.1, max_retries=0)

    def test_answers_out_of_order_are_put_in_order(self, texts):
        with self.serving(lambda asked: (200, {"data": self.embedded(asked)})) as url:
            straight = self.measured(url, texts)
        with self.serving(lambda asked: (200, {"data": self.embedded(asked)[::-1]})) as url:
            shuffled = self.measured(url, texts)

        assert shuffled["results"] == straight["results"]

    def test_vectors_a_quarter_as_long(self, texts):
        with (
            self.serving(lambda asked: (200, {"data": self.embedded(asked, 4)})) as url,
            pytest.raises(EndpointError, match="16 numbers, got 4, a quarter of the expected"),
        ):
            self.measured(url, texts)

    def test_the_command_line_says_it_in_one_line_and_exits_with_1(
        self, texts, capsys, monkeypatch
    ):
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        with self.serving(lambda _: (401, {"error": {"message": "no such key"}})) as url:
            code = main(
                ["measure", str(texts), "--model", "openai:test-model", "--base-url", url,
                 "--no-cache"]
            )  # fmt: skip

        out, err = capsys.readouterr()
        assert code == 1
        assert out == ""
        assert err.startswith(f"error: {url}/embeddings refused")
        assert "OPENAI_API_KEY" in err
        assert "secret" not in err


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--out", "--report"])
def test_a_full_disk_while_writing_results_keeps_the_old_file(
    option, corpus, tmp_path, on_a_full_disk
):
    pytest.importorskip("plotly")
    np.save(tmp_path / "v.npy", corpus)
    (tmp_path / "old").write_text("the old one")

    done = on_a_full_disk(
        "import sys; from matryo.cli import main; sys.exit(main(sys.argv[1:]))",
        "measure", tmp_path / "v.npy", "--no-cache", option, tmp_path / "old", limit=4_000,
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "old").read_text() == "the old one"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["old", "v.npy"]
