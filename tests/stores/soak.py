"""Work of all kinds on one index for minutes, compared all the time with a plain dictionary.

    python tests/stores/soak.py [--minutes 10] [--seed 0] [--folder FOLDER]

One thread changes the index, takes snapshots of it, closes and opens it again. Meanwhile two
threads search it, a third and another process each have a reader of their own that follows, and
every answer must be that of `matryo.search.FunnelSearch` over what the dictionary held at a commit
that was the last at some moment of the search. Memory, open files and files in the folder late in
the run are compared with those early in it.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import queue
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.stores.made import FUNNEL, Model, columns, make, rows_of

from matryo.core import Funnel, InputError
from matryo.stores import Index

NUMBERS = 300  # ids are made of these
DRAWN = 200  # different vectors, so that scores are tied
LARGEST_BATCH = 40
SEARCHERS = 2
MOST_WAITING = 20  # answers that wait to be compared
LONGEST_REST = 0.05  # seconds between two searches of one thread, so that changes come through
SAMPLES = 100
MORE_MEMORY = 16e6  # bytes: late in the run, by the median, at most this much more than early
MORE_FILES = 8  # open, or in the folder: by the least that were seen


def _later(own):
    return own["year"] is not None and own["year"] >= 2000


WHERES = (
    (None, lambda _: True),
    (("year", ">=", 2000), _later),
    (("language", "in", ["en", "de"]), lambda own: own["language"] in ("en", "de")),
    (("not", ("year", "exists")), lambda own: own["year"] is None),
    (
        ("and", ("open", "==", True), ("not", ("price", "exists"))),
        lambda own: own["open"] is True and own["price"] is None,
    ),
    (
        ("or", ("price", "<", 0.3), ("not", ("year", ">=", 2000))),
        lambda own: (own["price"] is not None and own["price"] < 0.3) or not _later(own),
    ),
)


class Question(NamedTuple):
    """What is searched for: the seed of two queries, a place among `WHERES`, and `k`."""

    seed: int
    where: int
    k: int


class Found(NamedTuple):
    """What a search has found, and the last commits before and after it that its index knew of."""

    who: str
    first: int
    last: int
    question: Question
    hits: Any


class Got(NamedTuple):
    """All ids of an index as of a commit, and some records."""

    who: str
    first: int
    ids: list[Any]
    records: Any


class Copied(NamedTuple):
    """Where a snapshot of a commit is."""

    who: str
    first: int
    path: Path


class Beside:
    """An index, and a dictionary to which every change is made too.

    Attributes:
        index: Open for writing.
        versions: What the index held as of its commits, by their numbers. Rows are id to vector and
            fields, and never change.
        counts: What was done, by kind.
    """

    def __init__(self, folder, funnel=FUNNEL, *, text=True):
        self.folder, self.funnel, self.text = folder, funnel, text
        self.index = make(folder / "i", funnel)
        self.versions = {0: {}}
        self.counts = collections.Counter()

    @property
    def rows(self):
        """What the index holds."""
        return self.versions[max(self.versions)]

    def ids(self, numbers):
        return [f"doc {number}" if self.text else number for number in numbers]

    def add(self, numbers, seed):
        ids, (vectors, fields) = self.ids(numbers), some_rows(seed, len(numbers))
        known = [name for name in ids if name in self.rows]
        if known:
            self._refused(known, lambda: self.index.add(ids, vectors, columns(fields)))
        else:
            self.index.add(ids, vectors, columns(fields))
            self._put("add", ids, vectors, fields)

    def upsert(self, numbers, seed):
        ids, (vectors, fields) = self.ids(numbers), some_rows(seed, len(numbers))
        self.index.upsert(ids, vectors, columns(fields))
        self._put("upsert", ids, vectors, fields)

    def delete(self, numbers, _=0):
        ids = self.ids(numbers)
        missing = [name for name in ids if name not in self.rows]
        if missing:
            self._refused(missing, lambda: self.index.delete(ids))
        else:
            self.index.delete(ids)
            self._done("delete", {n: own for n, own in self.rows.items() if n not in set(ids)})

    def update(self, numbers, seed):
        ids, (_, fields) = self.ids(numbers), some_rows(seed, len(numbers))
        missing = [name for name in ids if name not in self.rows]
        new = [{key: own[key] for key in ("year", "price")} for own in fields]
        given = {key: [own[key] for own in new] for key in ("year", "price")}
        if missing:
            self._refused(missing, lambda: self.index.update_fields(ids, given))
            return
        self.index.update_fields(ids, given)
        after = dict(self.rows)
        for name, own in zip(ids, new, strict=True):
            vector, before = after[name]
            after[name] = vector, {**before, **own}
        self._done("update fields", after)

    def compact(self):
        self.index.compact()
        assert self.index.info()["segments"] <= 1
        assert self.index.info()["dead_rows"] == 0
        self._done("compact", self.rows)

    def snapshot(self):
        path = self.folder / f"copy-{self.counts['snapshot']}"
        self.index.snapshot(path)
        self.check_snapshot(path, self.rows)
        self.counts["snapshot"] += 1

    def reopen(self):
        self.index.close()
        self.index = Index.open(self.folder / "i", verify="full")
        self.check_files()
        self.counts["close and open"] += 1

    def check_all(self):
        self.check(self.index, self.rows)
        self.counts["all compared"] += 1

    def check(self, index, rows):
        """Compare all rows of an index, and two searches, with a version."""
        model = Model(self.funnel)
        model.rows = rows
        model.check(index)

    def check_snapshot(self, path, rows):
        with Index.open(path, verify="full") as copy:
            self.check(copy, rows)
        shutil.rmtree(path)

    def check_files(self):
        """The folder has the files of the last commit, and nothing that it once needed."""
        files = {file.name for file in (self.folder / "i").iterdir()}
        segments = {name for name in files if name.endswith(".seg")}
        assert files == {"catalog.sqlite", "lock", *segments}
        assert len(segments) == self.index.info()["segments"]

    def verify(self, seen):
        """Compare what an index has answered with the dictionary."""
        commits = sorted(self.versions)
        # an `add` may make two commits, of which the first only merges what is there
        start = max(commit for commit in commits if commit <= seen.first)
        rows = self.versions[start]
        if isinstance(seen, Copied):
            self.check_snapshot(seen.path, rows)
        elif isinstance(seen, Got):
            assert seen.ids == sorted(rows), seen
            for place, name in enumerate(seen.records.ids):
                vector, fields = rows[name]
                assert seen.records.vectors[place].tobytes() == vector.tobytes(), seen
                assert {k: each[place] for k, each in seen.records.fields.items()} == fields, seen
        else:
            possible = [self.versions[each] for each in commits if start <= each <= seen.last]
            assert any(self._answers(seen, rows) for rows in possible), seen
        self.counts[f"{type(seen).__name__.lower()} by {seen.who}"] += 1

    def close(self):
        self.index.close()

    def _answers(self, found, rows):
        _, where, k = found.question
        model = Model(widened(self.funnel, k))
        model.rows = rows
        try:
            answers = model.answers(queries_of(found.question), k, WHERES[where][1])
            model.compare(found.hits, answers, k)
        except AssertionError:
            return False
        return True

    def _refused(self, ids, change):
        refused = None
        try:
            change()
        except InputError as error:
            refused = error.ids
        assert refused == ids
        self.counts["change refused"] += 1

    def _put(self, kind, ids, vectors, fields):
        rows = zip(vectors, fields, strict=True)
        self._done(kind, {**self.rows, **dict(zip(ids, rows, strict=True))})

    def _done(self, kind, rows):
        self.versions[self.index.info()["commit"]] = rows
        self.counts[kind] += 1


def some_rows(seed, n):
    """Vectors, and for each of them all fields, None where it has none."""
    rng = random.Random(seed)
    vectors = [rows_of(rng.randrange(DRAWN), 1)[0] for _ in range(n)]
    fields = [
        {
            "year": rng.choice([None, *range(1998, 2003)]),
            "language": rng.choice([None, "en", "de", "fr", ""]),
            "open": rng.choice([None, True, False]),
            "price": rng.choice([None, rng.random()]),
        }
        for _ in range(n)
    ]
    return np.array(vectors), fields


def widened(funnel, k):
    """What an index runs for `k` rows."""
    stages = tuple(replace(stage, keep=max(stage.keep, k)) for stage in funnel.stages)
    return Funnel(stages, funnel.stop)


def queries_of(question):
    return rows_of(question.seed, 2)


def found(index, question, who):
    """Search an index."""
    first = index.info()["commit"]
    hits = index.search(queries_of(question), k=question.k, where=WHERES[question.where][0])
    return Found(who, first, index.info()["commit"], question, hits)


def some_question(rng):
    return Question(rng.randrange(10**6), rng.randrange(len(WHERES)), rng.choice([1, 5, 30]))


def one_change(beside, rng):
    """Change the index, or look at all of it."""
    changes = {"add": 5, "upsert": 5, "delete": 4, "update": 6}
    others = {"compact": 1, "snapshot": 0.3, "reopen": 0.5, "check_all": 1}
    kind = rng.choices([*changes, *others], [*changes.values(), *others.values()])[0]
    if kind in others:
        getattr(beside, kind)()
        return
    there = {number for number in range(NUMBERS) if beside.ids([number])[0] in beside.rows}
    free = set(range(NUMBERS)) - there
    pool = {"add": free, "upsert": free | there}.get(kind, there)
    if rng.random() < 0.05:
        pool = free | there  # some of which are refused
    numbers = rng.sample(sorted(pool), min(len(pool), rng.randint(1, LARGEST_BATCH)))
    if numbers:
        getattr(beside, kind)(numbers, rng.randrange(10**9))


def search_on(beside, who, seed, put, stopped):
    """The life of a thread that searches the index of the writer."""
    rng = random.Random(seed)
    while not stopped():
        time.sleep(rng.uniform(0, LONGEST_REST))
        try:
            put(found(beside.index, some_question(rng), who))
        except InputError as error:
            if "was closed" not in str(error):
                raise


def read_on(folder, who, seed, put, stopped):
    """The life of a reader that follows the writer."""
    rng, number = random.Random(seed), 0
    reader = Index.open(folder / "i", read_only=True)
    while not stopped():
        time.sleep(rng.uniform(0, LONGEST_REST))
        commit = reader.info()["commit"]
        kinds = {"search": 60, "refresh": 20, "get": 20, "snapshot": 1, "open": 1}
        kind = rng.choices([*kinds], [*kinds.values()])[0]
        if kind == "search":
            put(found(reader, some_question(rng), who))
        elif kind == "refresh":
            assert reader.refresh() == (reader.info()["commit"] > commit)
        elif kind == "get":
            ids = reader.ids()
            put(Got(who, commit, ids, reader.get(rng.sample(ids, min(len(ids), 10)))))
        elif kind == "snapshot":
            number += 1
            path = folder / f"copy of {who} {number}"
            reader.snapshot(path)
            put(Copied(who, commit, path))
        else:
            reader.close()
            reader = Index.open(folder / "i", read_only=True)
    reader.close()


def live(life, *values):
    """Lead a life to its end, and tell if it is an error; `put` is the last but one value."""
    try:
        life(*values)
    except BaseException:  # noqa: BLE001
        values[-2](traceback.format_exc())


def live_elsewhere(folder, who, seed, pipe, stop):
    """The life of another process."""
    live(read_on, folder, who, seed, pipe.send, stop.is_set)
    pipe.close()


class Watchers:
    """Threads and a process that read while the index is changed."""

    def __init__(self, beside, seed):
        self.beside = beside
        spawn = multiprocessing.get_context("spawn")
        self.seen, self.stop = queue.Queue(MOST_WAITING), spawn.Event()
        self.threads = []
        for number in range(SEARCHERS):
            self._start(search_on, beside, f"thread {number} of the writer", f"{seed} {number}")
        self._start(read_on, beside.folder, "a reader in a thread", f"{seed} reader")
        self.pipe, far = spawn.Pipe(duplex=False)
        who = "a reader in another process"
        values = (beside.folder, who, f"{seed} process", far, self.stop)
        self.process = spawn.Process(target=live_elsewhere, args=values, daemon=True)
        self.process.start()
        far.close()
        names = [f"thread {number} of the writer" for number in range(SEARCHERS)]
        self.at = dict.fromkeys([*names, "a reader in a thread", who], 0)

    def _start(self, life, *values):
        values = (life, *values, self.seen.put, self.stop.is_set)
        self.threads.append(threading.Thread(target=live, args=values, daemon=True))
        self.threads[-1].start()

    def told(self):
        """Some of what has been seen; there may be more meanwhile."""
        for _ in range(self.seen.qsize()):
            yield self.seen.get()
        try:
            for _ in range(MOST_WAITING):
                if self.pipe.poll():
                    yield self.pipe.recv()
        except EOFError:
            assert self.stop.is_set(), "the other process ended by itself"

    def verify(self):
        """Compare all that has been seen, and forget versions that nobody can see any more."""
        for seen in self.told():
            assert not isinstance(seen, str), seen
            self.beside.verify(seen)
            self.at[seen.who] = seen.first
        versions = self.beside.versions
        oldest = max(commit for commit in versions if commit <= min(self.at.values()))
        for commit in [commit for commit in versions if commit < oldest]:
            del versions[commit]

    def end(self):
        """Let all of them end; gives what they have still seen."""
        self.stop.set()
        left = []
        while self.process.is_alive() or any(thread.is_alive() for thread in self.threads):
            left.extend(self.told())
            time.sleep(0.01)
        return [*left, *self.told()]


class Sample(NamedTuple):
    """What is in use at a moment: bytes of memory that no file backs, open files, files."""

    memory: float
    memory_of_reader: float
    open_files: int
    open_files_of_reader: int
    files: int


def sample(beside, process):
    usage = []
    for pid in ("self", process.pid):
        status = Path(f"/proc/{pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
        usage.append((int(line.split()[1]) * 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))))
    files = len(list((beside.folder / "i").iterdir()))
    return Sample(usage[0][0], usage[1][0], usage[0][1], usage[1][1], files)


def leaks(samples):
    """For each thing in use: early, late, and the bound of late; early is after a tenth."""
    tenth = len(samples) // 10
    early, late = samples[tenth : 3 * tenth], samples[-2 * tenth :]
    for name in Sample._fields:
        typical = statistics.median if "memory" in name else min
        one, other = (typical(getattr(each, name) for each in part) for part in (early, late))
        yield name, one, other, one + (MORE_MEMORY if "memory" in name else MORE_FILES)


def soak(folder, funnel, minutes, seed):
    """Work for some minutes; gives counts by kind, and samples of what was in use."""
    rng, beside, samples = random.Random(seed), Beside(folder, funnel), []
    watchers = Watchers(beside, seed)
    start, seconds = time.monotonic(), minutes * 60
    try:
        while (passed := time.monotonic() - start) < seconds:
            one_change(beside, rng)
            watchers.verify()
            if passed >= len(samples) * seconds / SAMPLES:
                samples.append(sample(beside, watchers.process))
    finally:
        left = watchers.end()
    for seen in left:
        assert not isinstance(seen, str), seen
        beside.verify(seen)
    beside.check_all()
    beside.reopen()
    beside.close()
    return beside.counts, samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    parser.add_argument("--funnel", type=Funnel.parse, default=FUNNEL)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        counts, samples = soak(Path(folder), asked.funnel, asked.minutes, asked.seed)
    for kind, count in sorted(counts.items()):
        print(f"{kind:45} {count:9,}")  # noqa: T201
    grown = 0
    for name, early, late, bound in leaks(samples):
        print(f"{name:45} early {early:12,.0f}   late {late:12,.0f}   bound {bound:12,.0f}")  # noqa: T201
        grown += late > bound
    return 1 if grown else 0


if __name__ == "__main__":
    from tests.stores import soak as this  # by its name: classes are the same in both processes

    sys.exit(this.main())
