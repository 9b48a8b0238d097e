"""Kill the writer of an index with SIGKILL, again and again, and look at what is left.

    python tests/stores/kills.py --rounds 500 [--seed 0] [--folder FOLDER]

Every round a process opens the index and changes it until it is killed, at a random moment, and
says before each change what it is about to do and after it that it is done. What the index holds
then must be all that was done, with the change that was begun either whole or not there at all.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.stores.made import FUNNEL, QUERIES, SPACE, WIDTH, steps_for

from matryo.stores import Index

MOST_IDS = 60
LONGEST_WAIT = 0.15  # seconds from the start of a writer to its end


def vectors_of(rows):
    """A vector for every id and version, as `(id, version)` says."""
    draws = [np.random.default_rng([name, version]) for name, (version, _) in rows]
    return np.array([draw.normal(size=WIDTH) for draw in draws], np.float32)


def changed(rows, change):
    """What is held after a change."""
    after = dict(rows)
    for name, value in change["rows"]:
        if change["kind"] == "delete":
            del after[name]
        elif change["kind"] == "update":
            after[name] = (after[name][0], value[1])
        else:
            after[name] = tuple(value)
    return after


def some_change(rng, rows, number):
    """A change that fits what is held; `rows` of it are pairs of an id and a version and a year."""
    kind = rng.choice(["add", "add", "upsert", "delete", "update", "compact", "snapshot"])
    there, free = sorted(rows), sorted(set(range(MOST_IDS)) - rows.keys())
    pool = {"add": free, "upsert": range(MOST_IDS), "delete": there, "update": there}.get(kind, [])
    names = rng.sample(list(pool), min(len(pool), rng.randint(1, 9)))
    return {"kind": kind, "rows": [(n, (number, 2000 + number % 7)) for n in names]}


def make_change(index, change, folder):
    kind, rows = change["kind"], change["rows"]
    names = [name for name, _ in rows]
    fields = {"year": [year for _, (_, year) in rows]}
    if kind == "compact":
        index.compact()
    elif kind == "snapshot":
        index.snapshot(folder / f"snapshot-{change['number']}")
    elif not rows:
        return
    elif kind == "delete":
        index.delete(names)
    elif kind == "update":
        index.update_fields(names, fields)
    else:
        getattr(index, kind)(names, vectors_of(rows), fields)


def write_until_killed(folder, rows, seed, number, pipe):
    """The life of a writer."""
    rng = random.Random(seed)
    index = Index.open(folder / "i")
    while True:
        number += 1
        change = {**some_change(rng, rows, number), "number": number}
        os.write(pipe, (json.dumps({"begun": change}) + "\n").encode())
        make_change(index, change, folder)
        os.write(pipe, (json.dumps({"done": number}) + "\n").encode())
        rows = changed(rows, change)


def held(index):
    """What an index holds, by the vectors and fields that it gives back."""
    ids = index.ids()
    records = index.get(ids)
    rows = {}
    for place, name in enumerate(ids):
        vector = records.vectors[place]
        year = records.fields["year"][place]
        rows[name] = (vector.tobytes(), year)
    # every row must be found by its own vector, whatever the stages keep
    found = index.search(records.vectors, k=1).ids if ids else []
    assert [own[0] for own in found] == ids
    index.search(QUERIES, where=("year", ">", 2003))
    return rows


def expected(rows):
    pairs = list(rows.items())
    vectors = vectors_of(pairs) if pairs else []
    return {
        name: (vector.tobytes(), year)
        for (name, (_, year)), vector in zip(pairs, vectors, strict=True)
    }


def one_round(folder, rows, seed, number, counts):
    """Start a writer, kill it, compare; returns what is held and the number of the last change."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        try:
            write_until_killed(folder, rows, seed, number, sending)
        finally:
            os._exit(70)  # only an error ends it by itself
    os.close(sending)
    time.sleep(random.Random(seed).uniform(0, LONGEST_WAIT))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer failed before it was killed"
    with os.fdopen(receiving) as stream:
        lines = [json.loads(line) for line in stream.read().splitlines()]
    begun = None
    for line in lines:
        if "begun" in line:
            begun = line["begun"]
            number = begun["number"]
        else:
            rows = changed(rows, begun)
            counts["changes done"] += 1
            if begun["kind"] == "snapshot":
                with Index.open(folder / f"snapshot-{number}", verify="full") as copy:
                    assert held(copy) == expected(rows)
                counts["snapshots opened"] += 1
            begun = None
    with Index.open(folder / "i", read_only=True, verify="full") as reader:
        seen = held(reader)
    with Index.open(folder / "i", verify="full") as index:
        assert held(index) == seen
        files = {file.name for file in index.path.iterdir()}
        segments = {name for name in files if name.endswith(".seg")}
        # SQLite may leave a journal that has nothing to undo until the next commit
        assert files - {"catalog.sqlite-journal"} == {"catalog.sqlite", "lock", *segments}
        assert len(segments) == index.info()["segments"]
    if begun is None:
        counts["killed between changes"] += 1
    else:
        counts[f"killed in {begun['kind']}"] += 1
        if begun["rows"] and seen == expected(changed(rows, begun)):
            rows = changed(rows, begun)
            counts["changes whole though not acknowledged"] += 1
    assert seen == expected(rows)
    for left in folder.iterdir():
        if left.name != "i":
            shutil.rmtree(left)
    return rows, number


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    asked = parser.parse_args()
    counts = collections.Counter()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        scales = steps_for(FUNNEL)
        Index.create(folder / "i", SPACE, FUNNEL, scales=scales, fields={"year": int}).close()
        rows, number = {}, 0
        for turn in range(asked.rounds):
            rows, number = one_round(folder, rows, asked.seed * 1_000_000 + turn, number, counts)
            counts["rounds"] += 1
    print(json.dumps(dict(sorted(counts.items()))))  # noqa: T201


if __name__ == "__main__":
    main()
