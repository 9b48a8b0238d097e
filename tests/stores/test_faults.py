"""Damage, full disks, killed writers: refused by name or without effect, never a wrong answer."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.stores.made import FIELDS, QUERIES, WIDTH, Model, columns, make, rows_of

from matryo.core import FormatError, Funnel, MatryoError
from matryo.search import FunnelSearch
from matryo.stores import Index

FUNNEL = Funnel.parse("8@binary:40,12@int8:20,16:5")


def filled(path, *, text=True, rows=60):
    """An index with three segments, dead rows and all kinds of fields, and what it holds."""
    model = Model(FUNNEL)
    names = [f"d{i:03d}" if text else i for i in range(rows)]
    values = [
        {"year": 1990 + i % 20, "language": "ed"[i % 2], "open": i % 3 == 0, "price": i / 7}
        for i in range(rows)
    ]
    with make(path) as index:
        for start in range(0, rows, rows // 3):
            part = slice(start, start + rows // 3)
            index.add(names[part], rows_of(7, rows)[part], columns(values[part]))
        index.delete(names[3:6])
    model.put(names, rows_of(7, rows), {key: [v[key] for v in values] for key in FIELDS})
    for name in names[3:6]:
        del model.rows[name]
    return model


def flipped(file, place, mask):
    with file.open("r+b") as stream:
        stream.seek(place)
        old = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([old ^ mask]))


def harmless_or_refused(path, model, verify):
    """Whether damage is refused; if it is not, everything must be as it was."""
    try:
        with Index.open(path, read_only=True, verify=verify) as index:
            model.check(index)
    except (MatryoError, OSError) as error:
        named = str(path) in str(error)
    else:
        return False
    assert named
    return True


class TestDamage:
    def flip_some(self, path, model, places_of, verify="touch"):
        refused = {}
        for file in sorted(path.iterdir()):
            places = places_of(file)
            count = 0
            for place, mask in places:
                flipped(file, place, mask)
                count += harmless_or_refused(path, model, verify)
                flipped(file, place, mask)
            refused[file.suffix] = refused.get(file.suffix, 0) + count / max(len(places), 1)
        assert not harmless_or_refused(path, model, "full")
        return refused

    @pytest.mark.parametrize("text", [True, False])
    def test_a_flipped_byte_is_refused_by_name_or_changes_nothing(self, tmp_path, text):
        model, rng = filled(tmp_path / "i", text=text), random.Random(3)

        def places(file):
            size = file.stat().st_size
            return [(rng.randrange(size), rng.randrange(1, 256)) for _ in range(15 if size else 0)]

        refused = self.flip_some(tmp_path / "i", model, places)

        assert refused[".seg"] == 3  # files this small have one page: all of them, all the time

    @pytest.mark.slow
    def test_every_byte_of_the_records_may_be_flipped(self, tmp_path):
        model = filled(tmp_path / "i", rows=6)
        file = tmp_path / "i" / "catalog.sqlite"
        content = file.read_bytes()
        rng = random.Random(5)
        with contextlib.closing(sqlite3.connect(file)) as catalog:
            records = [data for (data,) in catalog.execute("SELECT data FROM record")]
        commit = content.index(next(data for data in records if b"next_segment" in data))
        length = len(next(data for data in records if b"next_segment" in data))
        within = range(commit - 40, commit + length)

        def places(each):
            some = rng.sample(range(len(content)), 500)
            return [(p, 1 << rng.randrange(8)) for p in (*within, *some)] if each == file else []

        assert self.flip_some(tmp_path / "i", model, places)[".sqlite"] > 0

    def test_a_page_that_is_never_read_is_found_by_a_full_check(self, tmp_path):
        vectors = rows_of(1, 4000)
        with make(tmp_path / "i", Funnel.parse("4:1,16:1"), {}) as index:
            index.add(range(4000), vectors)
            (file,) = index.path.glob("*.seg")
        # the middle of the whole rows, of which a search reads one
        place = file.read_bytes().index(vectors[2000].tobytes())
        flipped(file, place, 1)

        with Index.open(index.path) as again:
            assert again.search(vectors[:1]).ids == [[0]]
            with pytest.raises(FormatError, match=r"\.seg: the file is damaged \(its bytes"):
                again.search(vectors[2000:2001])
            with pytest.raises(FormatError, match="damaged"):
                again.snapshot(tmp_path / "copy")
            with pytest.raises(FormatError, match="damaged"):
                again.get([2000])
        with pytest.raises(FormatError, match="damaged"):
            Index.open(index.path, verify="full")
        assert {file.name for file in tmp_path.iterdir()} == {"i"}

    @pytest.mark.parametrize("left", [0, 1, 0.5, -1])
    @pytest.mark.parametrize("suffix", ["seg", "sqlite"])
    def test_files_cut_short_are_named(self, tmp_path, suffix, left):
        model = filled(tmp_path / "i")
        file = next(iter((tmp_path / "i").glob(f"*.{suffix}")))
        size = file.stat().st_size
        os.truncate(file, int(size * left) if isinstance(left, float) else left % size)

        refused = harmless_or_refused(tmp_path / "i", model, "touch")

        assert refused or (suffix, left) == ("sqlite", -1)  # SQLite can do without its last byte

    @pytest.mark.parametrize("suffix", ["seg", "sqlite"])
    def test_files_that_are_gone_are_named(self, tmp_path, suffix):
        filled(tmp_path / "i")
        next(iter((tmp_path / "i").glob(f"*.{suffix}"))).unlink()

        with pytest.raises(FormatError, match=r"got no file|without catalog\.sqlite"):
            Index.open(tmp_path / "i")

    def test_a_chunk_that_is_gone_is_missed(self, tmp_path):
        filled(tmp_path / "i")
        with contextlib.closing(sqlite3.connect(tmp_path / "i" / "catalog.sqlite")) as catalog:
            catalog.execute("DELETE FROM chunk WHERE segment = 2 AND field = 1")
            catalog.commit()

        with pytest.raises(FormatError, match=r"chunk \(2, 1, 0\) is missing"):
            Index.open(tmp_path / "i")

    def test_two_chunks_that_changed_places_are_noticed(self, tmp_path):
        filled(tmp_path / "i")
        with contextlib.closing(sqlite3.connect(tmp_path / "i" / "catalog.sqlite")) as catalog:
            for old, new in ((2, 9), (1, 2), (9, 1)):
                catalog.execute("UPDATE chunk SET segment = ? WHERE segment = ?", (new, old))
            catalog.commit()

        with pytest.raises(FormatError, match="do not match their checksum"):
            Index.open(tmp_path / "i")

    def test_a_newer_format_is_refused_as_such(self, tmp_path):
        filled(tmp_path / "i")
        with contextlib.closing(sqlite3.connect(tmp_path / "i" / "catalog.sqlite")) as catalog:
            (data,) = catalog.execute("SELECT data FROM record WHERE name = 0").fetchone()
            body = json.dumps({**json.loads(data[32:]), "format": 2, "novel": []}).encode()
            data = hashlib.sha256(body).digest() + body
            catalog.execute("UPDATE record SET data = ? WHERE name = 0", (data,))
            catalog.commit()

        with pytest.raises(FormatError, match=r"format 1, got 2(.|\n)*pip install -U matryo"):
            Index.open(tmp_path / "i")

    @pytest.mark.parametrize("content", [None, b"", b"some text\n" * 100])
    def test_other_folders_are_refused(self, tmp_path, content):
        if content is not None:
            (tmp_path / "catalog.sqlite").write_bytes(content)

        with pytest.raises(FormatError, match=r"catalog\.sqlite"):
            Index.open(tmp_path)


@contextlib.contextmanager
def files_up_to(size):
    """No file can grow beyond this size; Python lets such a write fail instead of the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


CHANGES = {
    "add": lambda index: index.add(["new"], rows_of(9, 1), columns([{"language": "x" * 9000}])),
    "upsert": lambda index: index.upsert(["d001"], rows_of(9, 1)),
    "delete": lambda index: index.delete(["d001"]),
    "update": lambda index: index.update_fields(["d001"], {"language": ["y" * 9000]}),
    "compact": lambda index: index.compact(),
}


def after(model, change):
    """The model after one of the changes."""
    empty = dict.fromkeys(FIELDS)
    if change == "add":
        model.rows["new"] = rows_of(9, 1)[0], {**empty, "language": "x" * 9000}
    elif change == "upsert":
        model.rows["d001"] = rows_of(9, 1)[0], empty
    elif change == "delete":
        del model.rows["d001"]
    elif change == "update":
        model.rows["d001"][1]["language"] = "y" * 9000


class TestFailingWrites:
    @pytest.mark.parametrize("change", CHANGES)
    def test_a_full_disk_leaves_the_last_commit_and_the_index_at_work(self, tmp_path, change):
        model = filled(tmp_path / "start")
        failures = 0
        for size in (0, 600, 4096, 8192, 20_000):
            folder = tmp_path / f"i{size}"
            shutil.copytree(tmp_path / "start", folder)
            with Index.open(folder) as index:
                error = None
                try:
                    with files_up_to(size):
                        CHANGES[change](index)
                except OSError as raised:
                    error = str(raised)
                if error is not None:
                    failures += 1
                    assert "unchanged" in error
                    assert str(folder) in error
                    model.check(index)
                    CHANGES[change](index)
            expected = copy.deepcopy(model)
            after(expected, change)
            with Index.open(folder, verify="full") as again:
                expected.check(again)
                assert len(list(folder.glob("*.seg"))) == again.info()["segments"]
        assert failures >= 3

    @pytest.mark.parametrize("change", ["add", "compact"])
    def test_any_fsync_that_fails_is_an_error_that_changes_nothing(
        self, tmp_path, monkeypatch, change
    ):
        model, sync = filled(tmp_path / "i"), os.fsync
        with Index.open(tmp_path / "i") as index:
            for failing in range(2):  # of the file, and of the folder
                calls = iter(range(9))

                def fail(handle, calls=calls, failing=failing):
                    if next(calls) == failing:
                        raise OSError(errno.EIO, "no more disk")
                    sync(handle)

                monkeypatch.setattr(os, "fsync", fail)
                with pytest.raises(OSError, match=r"unchanged: no more disk.*\.seg"):
                    CHANGES[change](index)
                monkeypatch.setattr(os, "fsync", sync)
                model.check(index)

        with Index.open(tmp_path / "i", verify="full") as again:
            model.check(again)
            assert len(list(again.path.glob("*.seg"))) == again.info()["segments"]

    def test_a_snapshot_that_cannot_be_written_leaves_nothing(self, tmp_path):
        model = filled(tmp_path / "i")
        with Index.open(tmp_path / "i") as index:
            with files_up_to(5000), pytest.raises(OSError, match="copy"):
                index.snapshot(tmp_path / "copy")
            model.check(index)

        assert {file.name for file in tmp_path.iterdir()} == {"i"}


class TestKilledWriters:
    def test_what_one_leaves_behind_goes_and_other_files_stay(self, tmp_path):
        model = filled(tmp_path / "i")
        folder = tmp_path / "i"
        ours = ["000009-0123abcd.seg", ".000009-0123abcd.seg.k3j_x.part"]
        for name in (*ours, "notes.seg", "mine.part"):
            (folder / name).write_bytes(b"half")

        with Index.open(folder, read_only=True) as reader:
            model.check(reader)
        assert (folder / ours[0]).exists()
        with Index.open(folder) as index:
            model.check(index)

        left = {file.name for file in folder.iterdir()}
        assert not left & set(ours)
        assert {"notes.seg", "mine.part"} <= left

    def test_a_reader_undoes_half_a_commit_that_one_left_in_the_catalog(self, tmp_path):
        model = filled(tmp_path / "i")
        code = f"""
import os, sqlite3
catalog = sqlite3.connect({str(tmp_path / "i" / "catalog.sqlite")!r}, isolation_level=None)
catalog.execute("PRAGMA cache_size=1")
catalog.execute("BEGIN IMMEDIATE")
catalog.execute("UPDATE record SET data = zeroblob(9000)")
catalog.execute("UPDATE chunk SET data = zeroblob(90000)")
os._exit(9)
"""
        subprocess.run([sys.executable, "-c", code], check=False)
        assert (tmp_path / "i" / "catalog.sqlite-journal").stat().st_size > 0

        with Index.open(tmp_path / "i", read_only=True, verify="full") as reader:
            model.check(reader)

    @pytest.mark.slow
    def test_every_acknowledged_row_outlives_a_kill_and_no_half_is_seen(self):
        script = Path(__file__).with_name("kills.py")
        seed = str(random.randrange(10**6))
        done = subprocess.run(
            [sys.executable, script, "--rounds", "30", "--seed", seed],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

        assert done.returncode == 0, f"seed {seed}: {done.stderr}"
        assert json.loads(done.stdout)["rounds"] == 30


class TestReadersOfAWriter:
    def test_a_reader_sees_whole_commits_only_while_rows_are_merged(self, tmp_path):
        """Every commit has rows of one version, and each reader answers for one of them."""
        vectors = [rows_of(version, 40) for version in range(12)]
        whole = [
            [FunnelSearch(rows, Funnel.parse("4:9,16:3")).search(q).rows.tolist() for q in QUERIES]
            for rows in vectors
        ]
        stop, failures, seen = threading.Event(), [], set()

        def read():
            try:
                with Index.open(tmp_path / "i", read_only=True) as reader:
                    while not stop.is_set():
                        reader.refresh()
                        kept = reader.get([0, 39]).vectors
                        found = reader.search(QUERIES).ids
                        version = whole.index(found)
                        assert kept.tobytes() == vectors[version][[0, 39]].tobytes()
                        assert len(reader) == 40
                        seen.add(version)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        with make(tmp_path / "i", Funnel.parse("4:9,16:3"), {}) as index:
            index.add(range(40), vectors[0])
            readers = [threading.Thread(target=read) for _ in range(2)]
            for reader in readers:
                reader.start()
            for rows in vectors[1:]:
                index.upsert(range(40), rows)
                index.compact()
            stop.set()
            for reader in readers:
                reader.join()

        assert failures == []
        assert len(seen) > 1

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of maps")
    def test_files_that_nobody_sees_any_more_are_given_back_at_once(self, tmp_path):
        filled(tmp_path / "i")

        def mapped():
            maps = Path("/proc/self/maps").read_text()
            return maps.count(str(tmp_path)), maps.count("(deleted)")

        with Index.open(tmp_path / "i") as index:
            index.search(QUERIES, where=("year", "exists"))
            before = mapped()
            with Index.open(tmp_path / "i", read_only=True) as reader:
                index.compact()
                assert mapped()[1] == before[1] + 3  # the reader's
                reader.refresh()
                assert mapped()[1] == before[1]
        assert before[0] == 3
        assert mapped()[0] == 0

    def test_one_in_another_process_keeps_files_that_were_merged_away(self, tmp_path):
        code = f"""
import sys, numpy as np
from matryo.stores import Index
queries = np.load({str(tmp_path / "q.npy")!r})
with Index.open({str(tmp_path / "i")!r}, read_only=True) as reader:
    print(len(reader), flush=True)
    sys.stdin.readline()
    print(reader.search(queries).ids, flush=True)
    reader.refresh()
    print(reader.search(queries).ids, flush=True)
"""
        model = filled(tmp_path / "i")
        np.save(tmp_path / "q.npy", QUERIES)
        with Index.open(tmp_path / "i") as index:
            before = index.search(QUERIES).ids
            reader = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            with reader:
                assert reader.stdout.readline() == "57\n"
                index.delete(before[0])
                index.compact()
                out, _ = reader.communicate("\n")
            now = index.search(QUERIES).ids

        assert out == f"{before}\n{now}\n"
        assert len(list((tmp_path / "i").glob("*.seg"))) == 1
        assert len(model.rows) == 57
        assert np.shape(QUERIES) == (5, WIDTH)
