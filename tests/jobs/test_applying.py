"""Vectors of a file through a map: all formats, bounded memory, and runs that are interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from matryo.adaptation import NestedMap
from matryo.core import (
    DimError,
    FormatError,
    InputError,
    NestedVectors,
    Nesting,
    Side,
    Space,
    SpaceMismatchError,
    VectorError,
)
from matryo.jobs.applying import apply
from matryo.readers import read_vectors, write_vectors
from matryo.transforms import Adaptor, Rotation, truncate

WIDTH, ROWS = 12, 20_000
SPACE = Space("words", WIDTH, revision="1")
# in another process: map a file, and be killed once so many rows are done
RUN = """
import os, signal, sys
from matryo.jobs.applying import apply
done = 0
def progress(stage, more, total):
    global done
    done += more
    if done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
apply(*sys.argv[1:4], resume="resume" in sys.argv, dim=8, progress=progress)
"""


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def nested(rows):
    rng = np.random.default_rng(1)
    network = Adaptor.residual(
        rng.standard_normal((WIDTH, 20)) / 4, rng.standard_normal(20),
        rng.standard_normal((20, WIDTH)) / 5, np.zeros(WIDTH),
    )  # fmt: skip
    return NestedMap(network, Rotation().fit(rows), SPACE, (4, 8, 12))


@pytest.fixture
def vectors(rows, tmp_path):
    """The rows as a file with ids."""
    write_vectors(tmp_path / "rows.npy", rows, [f"r{i}" for i in range(ROWS)])
    return tmp_path / "rows.npy"


@pytest.mark.parametrize("name", ["out.npy", "out.parquet", "out.matryo", "out.fvecs"])
def test_whole_vectors_come_out_with_their_ids(name, nested, vectors, rows, tmp_path):
    written = apply(nested, vectors, tmp_path / name)

    out = read_vectors(tmp_path / name)
    np.testing.assert_allclose(out.array[:], nested.apply(rows, "document"), atol=1e-6)
    assert out.ids[-1] == f"r{ROWS - 1}"
    assert written == {
        "out": str(tmp_path / name), "rows": ROWS, "dim": 12, "side": "document",
        "fingerprint": nested.makes.fingerprint, "resumed_at": 0,
    }  # fmt: skip
    assert not (tmp_path / f"{name}.unfinished").exists()


def test_the_folder_keeps_the_space_the_side_and_a_block_for_each_size(
    nested, rows, vectors, tmp_path
):
    apply(nested, vectors, tmp_path / "out.matryo", side="query")

    out = NestedVectors.open(tmp_path / "out.matryo")
    assert out.space == nested.makes
    assert out.side is Side.QUERY
    assert out.nesting.dims == (4, 8, 12)
    mapped = nested.apply(rows, "query")
    np.testing.assert_allclose(out[:], mapped, atol=1e-6)
    np.testing.assert_allclose(out.norms[:, 0], np.linalg.norm(mapped[:, :4], axis=1), rtol=1e-5)


@pytest.mark.parametrize("name", ["out.npy", "out.matryo"])
def test_a_cut_has_length_1(name, nested, vectors, rows, tmp_path):
    apply(nested, vectors, tmp_path / name, dim=5)

    out = read_vectors(tmp_path / name).array
    np.testing.assert_allclose(out[:], truncate(nested.apply(rows, "document"), 5), atol=1e-6)


def test_where_length_counts_a_cut_keeps_it(rows, tmp_path):
    rotation = Rotation().fit(rows)
    dot = NestedMap(rotation, rotation, Space("words", WIDTH, metric="dot"), (4, 12))
    np.save(tmp_path / "rows.npy", rows)

    apply(dot, tmp_path / "rows.npy", tmp_path / "out.npy", dim=4)

    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), rotation.transform(rows)[:, :4], atol=1e-5
    )


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl", ".matryo"])
def test_other_formats_come_in(suffix, nested, rows, tmp_path):
    some, ids = rows[:9000], [f"r{i}" for i in range(9000)]
    file = tmp_path / f"rows{suffix}"
    if suffix == ".arrow":
        write_arrow(file, some, ids)
    elif suffix == ".matryo":
        write_vectors(file, some, ids, space=SPACE, side=Side.QUERY, nesting=Nesting((4, 12)))
    else:
        write_vectors(file, some, ids)

    written = apply(nested, file, tmp_path / "out.npy")

    side = "query" if suffix == ".matryo" else "document"
    assert written["side"] == side
    out = read_vectors(tmp_path / "out.npy")
    np.testing.assert_allclose(out.array[:], nested.apply(some, side), atol=1e-6)
    assert out.ids == ids


def write_arrow(file, rows, ids):
    pa = pytest.importorskip("pyarrow")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    table = pa.table({"id": ids, "vector": lists})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1234)


def test_rows_without_ids_stay_without(nested, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)

    apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy")

    assert sorted(f.name for f in tmp_path.iterdir()) == ["out.npy", "rows.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.npy", "out.parquet", "out.matryo"])
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(name, nested, rows, tmp_path):
    many = np.tile(rows, (8, 1))
    write_vectors(tmp_path / "rows.npy", many, [f"r{i}" for i in range(len(many))])
    nested.save(tmp_path / "map")
    apply(nested, tmp_path / "rows.npy", tmp_path / f"whole{name}", dim=8)
    done = []

    for rows_done in (50_000, 100_000, 140_000):
        options = [] if rows_done == 50_000 else ["resume"]
        kill_after(rows_done, tmp_path / "map", tmp_path / "rows.npy", tmp_path / name, *options)
        assert not (tmp_path / name).exists()
    written = apply(
        tmp_path / "map", tmp_path / "rows.npy", tmp_path / name, dim=8, resume=True,
        progress=lambda *told: done.append(told[1]),
    )  # fmt: skip

    assert written["resumed_at"] == done[0] == 2 * 65_536
    assert sum(done) == len(many)
    assert contents(tmp_path / name) == contents(tmp_path / f"whole{name}")
    assert not (tmp_path / f"{name}.unfinished").exists()


def kill_after(n_rows, *arguments):
    *paths, last = map(str, arguments)
    options = [last] if last == "resume" else []
    paths = paths if options else [*paths, last]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *paths, str(n_rows), *options], check=False, timeout=100
    )
    assert done.returncode == -signal.SIGKILL


def contents(path):
    """Bytes of a file and of the ids beside it, or of all files of a folder."""
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    beside = path.with_name(f"{path.stem}.ids.json")
    return path.read_bytes(), beside.read_bytes() if beside.exists() else b""


class TestUnfinished:
    @pytest.fixture
    def stopped(self, nested, rows, tmp_path):
        """A run over 160,000 rows that was stopped after half of them."""
        np.save(tmp_path / "rows.npy", np.tile(rows, (8, 1)))
        nested.save(tmp_path / "map")

        class StoppedError(Exception):
            pass

        def progress(stage, more, total, done=[0]):  # noqa: B006
            done[0] += more
            if done[0] > 80_000:
                raise StoppedError

        with pytest.raises(StoppedError):
            apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy", progress=progress)
        return tmp_path / "out.npy.unfinished"

    @pytest.mark.usefixtures("stopped")
    def test_it_is_not_begun_anew_in_silence(self, nested, tmp_path):
        with pytest.raises(InputError, match=r"holds an unfinished run\n  go on with it"):
            apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy")

    @pytest.mark.parametrize(
        ("change", "differing"),
        [({"dim": 8}, ["dim", "dims"]), ({"side": "query"}, ["map", "side"])],
    )
    @pytest.mark.usefixtures("stopped")
    def test_another_run_does_not_go_on_with_it(self, change, differing, nested, tmp_path):
        with pytest.raises(InputError, match="unfinished run of another kind") as caught:
            apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy", resume=True, **change)

        assert caught.value.differing == differing

    @pytest.mark.usefixtures("stopped")
    def test_nor_does_one_over_changed_vectors(self, nested, tmp_path):
        np.save(tmp_path / "rows.npy", np.load(tmp_path / "rows.npy") * 2)

        with pytest.raises(InputError, match="it differs in vectors"):
            apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy", resume=True)

    def test_a_block_cut_short_is_refused(self, stopped, nested, tmp_path):
        (block,) = stopped.glob("block-*")
        block.write_bytes(block.read_bytes()[:1000])

        with pytest.raises(FormatError, match=r"expected 65536 rows, as state\.json says"):
            apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy", resume=True)

    def test_a_damaged_state_is_refused(self, stopped, nested, tmp_path):
        (stopped / "state.json").write_text("{")

        with pytest.raises(FormatError, match="expected the state of an unfinished run"):
            apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy", resume=True)


class TestOutput:
    @pytest.mark.parametrize("name", ["out.npy", "out.matryo", "out.parquet"])
    def test_what_is_there_is_kept_and_resuming_finds_it_done(
        self, name, nested, vectors, tmp_path
    ):
        apply(nested, vectors, tmp_path / name)
        before = contents(tmp_path / name)

        with pytest.raises(InputError, match="exists already"):
            apply(nested, vectors, tmp_path / name)
        written = apply(nested, vectors, tmp_path / name, resume=True)

        assert written["resumed_at"] == ROWS
        assert contents(tmp_path / name) == before

    def test_resuming_does_not_take_another_file_for_its_own(self, nested, vectors, tmp_path):
        np.save(tmp_path / "out.npy", np.ones((3, 12), np.float32))

        with pytest.raises(InputError, match=r"not what this run would write: .*got \(3, 12\)"):
            apply(nested, vectors, tmp_path / "out.npy", resume=True)

    @pytest.mark.parametrize("resume", [False, True])
    def test_ids_of_others_beside_it_are_kept(self, resume, nested, vectors, tmp_path):
        (tmp_path / "out.ids.json").write_text("[]")

        with pytest.raises(InputError, match=r"out\.ids\.json exists already"):
            apply(nested, vectors, tmp_path / "out.npy", resume=resume)

    @pytest.mark.parametrize("name", ["out", "out.npz", "out.txt", "no/out.npy"])
    def test_a_name_that_cannot_be_written_is_refused_before_anything_is_read(
        self, name, nested, vectors, tmp_path
    ):
        with pytest.raises(InputError, match=r"ends in one of|does not exist"):
            apply(nested, vectors, tmp_path / name)

    @pytest.mark.slow
    def test_a_full_disk_leaves_a_run_that_can_go_on(
        self, nested, vectors, tmp_path, on_a_full_disk
    ):
        nested.save(tmp_path / "map")
        code = "import sys; from matryo.jobs.applying import apply; apply(*sys.argv[1:])"

        done = on_a_full_disk(code, tmp_path / "map", vectors, tmp_path / "out.npy", limit=300_000)

        assert done.returncode == 1
        assert not (tmp_path / "out.npy").exists()
        apply(nested, vectors, tmp_path / "out.npy", resume=True)
        apply(nested, vectors, tmp_path / "again.npy")
        assert contents(tmp_path / "out.npy") == contents(tmp_path / "again.npy")


class TestInput:
    def test_vectors_of_another_space_are_refused(self, nested, rows, tmp_path):
        other = Space("words", WIDTH, revision="2")
        write_vectors(
            tmp_path / "rows.matryo", rows[:50], range(50), space=other, side=Side.DOCUMENT
        )

        with pytest.raises(SpaceMismatchError, match="they differ in revision"):
            apply(nested, tmp_path / "rows.matryo", tmp_path / "out.npy")
        assert [file.name for file in tmp_path.iterdir()] == ["rows.matryo"]

    def test_the_other_side_of_what_a_folder_holds_is_refused(self, nested, rows, tmp_path):
        write_vectors(
            tmp_path / "rows.matryo", rows[:50], range(50), space=SPACE, side=Side.DOCUMENT
        )

        with pytest.raises(InputError, match="holds document vectors, got the side query"):
            apply(nested, tmp_path / "rows.matryo", tmp_path / "out.npy", side="query")

    def test_another_width_is_refused(self, nested, rows, tmp_path):
        np.save(tmp_path / "rows.npy", rows[:, :8])

        with pytest.raises(DimError, match="whole vectors of 12 numbers"):
            apply(nested, tmp_path / "rows.npy", tmp_path / "out.npy")

    def test_a_size_that_was_not_fitted_is_refused(self, nested, vectors, tmp_path):
        with pytest.raises(DimError, match="sizes from 4 up"):
            apply(nested, vectors, tmp_path / "out.npy", dim=2)

    @pytest.mark.parametrize("suffix", [".npy", ".parquet"])
    def test_a_row_that_is_not_finite_is_named_by_its_id(self, suffix, nested, rows, tmp_path):
        pytest.importorskip("pyarrow")
        bad = rows.copy()
        bad[12_345, 3] = np.nan
        np.save(tmp_path / "rows.npy", bad)
        write_one_group(tmp_path / "rows.parquet", bad)

        with pytest.raises(VectorError, match="1 row has NaN or infinity: 12345"):
            apply(nested, tmp_path / f"rows{suffix}", tmp_path / "out.npy")
        assert not list(tmp_path.glob("out*"))


def write_one_group(file, rows):
    """Parquet as most write it, a million rows to a group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    pq.write_table(pa.table({"vector": lists}), file, row_group_size=1_000_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "out"),
    [(".npy", "out.parquet"), (".parquet", "out.npy"), (".parquet", "out.matryo")],
)
def test_memory_stays_bounded(suffix, out, tmp_path):
    pytest.importorskip("pyarrow")
    rows = np.random.default_rng(0).standard_normal((150_000, 512), dtype=np.float32)
    if suffix == ".npy":
        np.save(tmp_path / "rows.npy", rows)
    else:
        write_one_group(tmp_path / "rows.parquet", rows)
    rotation = Rotation().fit(rows[:2000])
    NestedMap(rotation, rotation, Space("words", 512), (64, 256, 512)).save(tmp_path / "map")
    code = (
        "import sys; from matryo.jobs.applying import apply; import pyarrow.parquet\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon')) / 1024\n"
        "most, start = 0, anonymous()\n"
        "def progress(*_):\n"
        "    global most; most = max(most, anonymous())\n"
        "apply(*sys.argv[1:4], progress=progress)\n"
        "print(max(most, anonymous()) - start)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "map", tmp_path / f"rows{suffix}", tmp_path / out],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert float(done.stdout) < 230  # MB; the vectors are 307, and all of them would be twice that
