"""Cut the power under the writer of an index, on paper, and look at what a disk may hold then.

    python tests/stores/replay.py --rounds 5 [--changes 25] [--seed 0] [--folder FOLDER]

A process that is killed leaves all that it wrote in the page cache, so `kills.py` cannot see that a
sync is missing. Here every round records the system calls of a writer with strace, and stops after
each of them in turn. What was synced before that moment is kept. What was not is left to chance, as
POSIX leaves it:

    bytes    each 512 or 4,096 of a write may be there, may be missing, or may be a place in a file
             that has grown and holds zeros or what the disk held before
    names    each new name, move and removal in a folder may be there or not, with those before it
             or without them; a sync of a file says nothing of its name

The folder that comes out must open as it is and hold all that was acknowledged, with the change
that was begun either whole or not there at all; it must also take further changes.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.stores.kills import changed, expected, held, make_change, some_change, vectors_of
from tests.stores.made import FUNNEL, SPACE, steps_for

from matryo.core import Funnel
from matryo.stores import Index

CALLS = {
    "make": "open openat creat mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir",
    "write": "write pwrite64 ftruncate",
    "sync": "fsync fdatasync",
    "place": "lseek close",
    # none of these is expected on a file of the index: what they did could not be replayed
    "refuse": "writev pwritev pwritev2 truncate fallocate copy_file_range sendfile splice "
    "link linkat symlink symlinkat sync_file_range dup dup2 dup3",
}
SHARES = (0, 0.1, 0.5, 0.9, 1)  # of what was not synced, how much is there
SYNCS = {  # what can be left out, to see that it is missed
    "segments": r"i/\..*\.seg\..*\.part",
    "catalog": r"i/catalog\.sqlite",
    "journal": r"i/catalog\.sqlite-journal",
    "folder": r"i",
}
ROOT = 0
EXTRA = 1000  # an id that no change has


class Operation(NamedTuple):
    """One thing that a writer did to a file or a folder, both of which are numbers here.

    Attributes:
        kind: `write` and `cut` of a file; `file`, `folder` (new ones), `move` and `remove` in a
            folder; `sync` of either; `mark` for what the writer said.
        node: The file or folder.
        place: Where in a file.
        data: What was written or said.
        name: In a folder, or for `sync` the path of the node.
        old: The name before a move.
        other: The file or folder that has the name from now on.
    """

    kind: str
    node: int
    place: int = 0
    data: bytes = b""
    name: str = ""
    old: str = ""
    other: int = 0


class Recording:
    """Lines of strace as operations on what lies below a folder that was empty before."""

    def __init__(self, root):
        self.root = root
        self.operations = []
        self.folders = {ROOT: {}}  # names that each folder has now
        self.nodes = 1
        self.open = {}  # descriptor: node, place

    def read(self, line):
        """Take one line: all texts are in hexadecimal, so that commas only stand between values."""
        match = re.fullmatch(r"(\w+)\((.*)\)\s+= (-?\d+)\b.*", line)
        if match is None or match[3].startswith("-"):
            return  # signals and the exit of the process; calls that failed
        call, values, result = match[1], match[2].split(", "), int(match[3])
        if call in CALLS["refuse"].split():
            if any(self._path(value) or self._path("<", value) for value in values):
                raise NotImplementedError(f"{call} on a file of the index cannot be replayed")
        elif call in CALLS["make"].split():
            self._make(call, values, result)
        else:
            self._use(call, values, result)

    def _use(self, call, values, result):
        descriptor = int(values[0].partition("<")[0])
        if call == "write" and descriptor == 1:
            self._did("mark", ROOT, data=_text(values[1]))
            return
        if descriptor not in self.open:
            if self._path(values[0]) and call not in ("close", "lseek"):
                raise NotImplementedError(f"{call} on a file whose opening was not seen")
            return
        node, place = self.open[descriptor]
        if call == "write":
            self._did("write", node, place, _text(values[1])[:result])
            self.open[descriptor] = node, place + result
        elif call == "pwrite64":
            self._did("write", node, int(values[3]), _text(values[1])[:result])
        elif call == "ftruncate":
            self._did("cut", node, int(values[1]))
        elif call == "lseek":
            self.open[descriptor] = node, result
        elif call == "close":
            del self.open[descriptor]
        else:
            self._did("sync", node, name=self._path(values[0]))

    def _make(self, call, values, result):
        if call in ("open", "creat", "mkdir", "rename", "unlink", "rmdir"):
            values = [f"AT_FDCWD<{values[0]}>", *values]
            if call == "rename":
                values = [values[0], values[1], values[0], values[2]]
        path = self._path(values[0], values[1])
        if not path:
            return
        folder, name = self._place_of(path)
        names = self.folders[folder]
        if call.startswith("rename"):
            target, new = self._place_of(self._path(values[2], values[3]))
            if target != folder:
                raise NotImplementedError("a move to another folder cannot be replayed")
            names[new] = names.pop(name)
            self._did("move", folder, name=new, old=name, other=names[new])
        elif call.startswith(("unlink", "rmdir")):
            del names[name]
            self._did("remove", folder, name=name)
        elif call.startswith("mkdir"):
            self.folders[self._new("folder", folder, name)] = {}
        else:
            flags = "O_CREAT|O_TRUNC" if call == "creat" else values[2]
            if "O_APPEND" in flags:
                raise NotImplementedError("a file opened with O_APPEND cannot be replayed")
            there = name in names if name else True
            node = (names[name] if name else folder) if there else self._new("file", folder, name)
            if there and "O_TRUNC" in flags:
                self._did("cut", node)
            self.open[result] = node, 0

    def _new(self, kind, folder, name):
        node = self.nodes
        self.nodes += 1
        self.folders[folder][name] = node
        self._did(kind, folder, name=name, other=node)
        return node

    def _did(self, kind, node, place=0, data=b"", **names):
        self.operations.append(Operation(kind, node, place, data, **names))

    def _path(self, folder, path=""):
        """A path below the root, `.` for the root, or nothing for another one."""
        whole = Path("/", _text(folder.partition("<")[2]).decode(), _text(path).decode())
        return str(whole.relative_to(self.root)) if whole.is_relative_to(self.root) else ""

    def _place_of(self, path):
        """The number of a folder, and the name in it; no name for the root."""
        *folders, name = [part for part in path.split("/") if part != "."] or [""]
        node = ROOT
        for each in folders:
            node = self.folders[node][each]
        return node, name


def _text(value):
    return bytes.fromhex("".join(re.findall(r"\\x(..)", value)))


class Disk:
    """What is on the disk for certain, and what was not synced yet, in its order."""

    def __init__(self):
        self.files, self.folders = {}, {ROOT: {}}
        self.waiting = collections.defaultdict(list)

    def take(self, operation):
        """Go on by one operation."""
        if operation.kind == "file":
            self.files[operation.other] = b""
        elif operation.kind == "folder":
            self.folders[operation.other] = {}
        if operation.kind == "sync":
            self.sync(operation.node)
        elif operation.kind != "mark":
            self.waiting[operation.node].append(operation)

    def sync(self, node):
        """Make certain what was done to a file or a folder."""
        waiting = self.waiting.pop(node, [])
        if node in self.folders:
            self.folders[node] = names_after(self.folders[node], waiting)
        else:
            self.files[node] = bytes_after(self.files[node], waiting)

    def left_by(self, chance):
        """Files with their bytes and folders with their names, as they may be after a crash."""
        left = {**self.files, **self.folders}
        for node, waiting in self.waiting.items():
            if node in self.folders:
                left[node] = names_after(left[node], chance.names(waiting))
            else:
                left[node] = bytes_after(left[node], chance.bytes(waiting))
        return left


class Everything:
    """The chance that all is there."""

    def names(self, waiting):
        return waiting

    def bytes(self, waiting):
        return waiting


class Chance:
    """What is there of operations that were not synced."""

    def __init__(self, rng):
        self.rng = rng
        self.share_of_bytes, self.share_of_names = rng.choice(SHARES), rng.choice(SHARES)
        self.size, self.in_order = rng.choice([512, 4096]), rng.random() < 0.3
        self.grown = rng.choice([0, 0.5])

    def names(self, waiting):
        """Those of the operations in a folder that are there."""
        if self.in_order:
            return waiting[: self.rng.randint(0, len(waiting))]
        return [each for each in waiting if self.rng.random() < self.share_of_names]

    def bytes(self, waiting):
        """Those of the pieces that were written which are there, and how the file has grown."""
        for piece in (piece for operation in waiting for piece in pieces(operation, self.size)):
            if self.rng.random() < self.share_of_bytes:
                yield piece
            elif piece.kind == "write" and self.rng.random() < self.grown:
                length = len(piece.data)
                other = self.rng.choice([bytes(length), self.rng.randbytes(length)])
                yield piece._replace(kind="grow", data=other)


def pieces(operation, size):
    """A write, cut at the multiples of a size; another operation as it is."""
    if operation.kind != "write":
        yield operation
        return
    place, end = operation.place, operation.place + len(operation.data)
    while place < end:
        stop = min(end, (place // size + 1) * size)
        data = operation.data[place - operation.place : stop - operation.place]
        yield operation._replace(place=place, data=data)
        place = stop


def names_after(names, operations):
    """The names in a folder after these operations, of which some before them may be missing."""
    after = dict(names)
    for operation in operations:
        if operation.kind == "move" and after.get(operation.old) == operation.other:
            del after[operation.old]
        if operation.kind == "remove":
            after.pop(operation.name, None)
        else:
            after[operation.name] = operation.other
    return after


def bytes_after(content, operations):
    """The bytes of a file after these operations; `grow` puts bytes beyond its end only."""
    after = bytearray(content)
    for kind, _, start, data, *_ in operations:
        end = start + len(data)
        if kind == "cut":
            del after[start:]
        elif kind == "grow":
            data = data[max(len(after) - start, 0) :]
            start = end - len(data)
        if data or kind == "cut":
            after.extend(bytes(max(start - len(after), 0)))
        after[start:end] = data
    return bytes(after)


def lay_out(nodes, folder, node=ROOT):
    """Write the files and folders below a node."""
    folder.mkdir()
    for name, other in nodes.get(node, {}).items():
        content = nodes.get(other, b"")
        if isinstance(content, dict):
            lay_out(nodes, folder / name, other)
        else:
            (folder / name).write_bytes(content)


def record(folder, funnel, changes, seed):
    """The operations of a writer that works in a folder, which must be empty."""
    trace = folder.with_suffix(".trace")
    subprocess.run(
        [
            *("strace", "-y", "-xx", "-s", str(1 << 24), "-o", trace),
            *("-e", "trace=" + ",".join(" ".join(CALLS.values()).split())),
            *(sys.executable, __file__, "--funnel", str(funnel), "--seed", str(seed)),
            *("--changes", str(changes), "--write", folder),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    recording = Recording(folder.resolve())
    with trace.open() as lines:
        for line in lines:
            recording.read(line.rstrip("\n"))
    trace.unlink()
    return recording.operations


def write(folder, funnel, changes, seed):
    """The life of a writer."""
    rng = random.Random(seed)
    say({"begun": {"kind": "create", "number": 0, "rows": []}})
    index = Index.create(
        folder / "i", SPACE, funnel, scales=steps_for(funnel), fields={"year": int}
    )
    say({"done": 0})
    rows = {}
    for number in range(1, changes + 1):
        change = some_change(rng, rows, number)
        while change["kind"] == "compact" and rng.random() < 0.8:  # leave `add` some to merge
            change = some_change(rng, rows, number)
        change["number"] = number
        say({"begun": change})
        make_change(index, change, folder)
        say({"done": number})
        rows = changed(rows, change)
        if rng.random() < 0.1:
            index.close()
            index = Index.open(folder / "i")


def say(what):
    os.write(1, json.dumps(what).encode())


class Told:
    """What a writer has said up to a moment."""

    def __init__(self):
        self.created = False
        self.rows, self.begun = {}, None
        self.snapshot = None  # name and rows of the last

    def hear(self, data):
        said = json.loads(data)
        if "begun" in said:
            self.begun = said["begun"]
            return
        self.created = True
        self.rows = changed(self.rows, self.begun)
        if self.begun["kind"] == "snapshot":
            self.snapshot = f"snapshot-{said['done']}", self.rows
        self.begun = None


def same_file_tree(one, other):
    """Whether two folders have the same files and folders."""
    trees = [
        {
            file.relative_to(folder): file.read_bytes() if file.is_file() else None
            for file in folder.rglob("*")
        }
        for folder in (one, other)
    ]
    return trees[0] == trees[1]


def kept(index):
    """What an index gives back, as `held`, without a search for every row."""
    ids = index.ids()
    records = index.get(ids)
    rows = zip(records.vectors, records.fields["year"], strict=True)
    return {name: (vector.tobytes(), year) for name, (vector, year) in zip(ids, rows, strict=True)}


def fault(folder, told, *, reader_first):
    """What is wrong with a folder, after what was told: in short and at length, or None."""
    kind = told.begun["kind"] if told.begun else None
    if not told.created and not (folder / "i").exists():
        return None
    try:
        step, read = "a reader cannot open the index and read", None
        if reader_first:
            with Index.open(folder / "i", read_only=True, verify="full") as reader:
                read = kept(reader)
        step = "the index does not open"
        with Index.open(folder / "i", verify="full") as index:
            step = "a row cannot be read or found"
            seen = held(index)
            step = "a row is lost, wrong, or half of a change"
            rows = told.rows
            if told.begun is not None and seen != expected(rows):
                rows = changed(rows, told.begun)
            assert seen == expected(rows)
            assert read in (None, seen)
            step = "a file is left behind"
            files = {file.name for file in index.path.iterdir()}
            segments = {name for name in files if name.endswith(".seg")}
            assert files - {"catalog.sqlite-journal"} == {"catalog.sqlite", "lock", *segments}
            assert len(segments) == index.info()["segments"]
            step = "the index takes no further change"
            more = {**rows, EXTRA: (0, 2000)}
            index.add([EXTRA], vectors_of([(EXTRA, (0, 2000))]), {"year": [2000]})
            index.compact()
        with Index.open(folder / "i", read_only=True, verify="full") as index:
            assert kept(index) == expected(more)
        step = "a snapshot is lost, wrong or half there"
        snapshots = [told.snapshot] if told.snapshot else []
        if kind == "snapshot" and (folder / f"snapshot-{told.begun['number']}").exists():
            snapshots.append((f"snapshot-{told.begun['number']}", told.rows))
        for name, rows in snapshots:
            with Index.open(folder / name, verify="full") as copy:
                assert kept(copy) == expected(rows)
    except Exception as error:  # noqa: BLE001
        return step, f"{type(error).__name__}: {error}"
    return None


def one_round(folder, asked, seed, counts):
    """Record a writer and stop after each of its operations; gives what is wrong, if anything."""
    (folder / "w").mkdir()
    operations = record(folder / "w", asked.funnel, asked.changes, seed)
    disk, told = Disk(), Told()
    for operation in operations:
        disk.take(operation)
    lay_out(disk.left_by(Everything()), folder / "all")
    assert same_file_tree(folder / "w", folder / "all"), "the recording is not complete"
    disk = Disk()
    for point, operation in enumerate(operations):
        counts[f"{operation.kind} operations"] += 1
        if operation.kind == "mark":
            told.hear(operation.data)
            counts["changes acknowledged"] += told.begun is None
        without = asked.without and re.fullmatch(SYNCS[asked.without], operation.name)
        if not (operation.kind == "sync" and without):
            disk.take(operation)
        counts["crash points"] += 1
        rng = random.Random(f"{seed} {point}")
        for _ in range(asked.states):
            lay_out(disk.left_by(Chance(rng)), folder / "s")
            counts["states"] += 1
            counts[f"states in {told.begun['kind'] if told.begun else 'no change'}"] += 1
            wrong = fault(folder / "s", told, reader_first=rng.random() < 0.5)
            shutil.rmtree(folder / "s")
            if wrong:
                yield {"seed": seed, "point": point, "fault": wrong[0], "error": wrong[1]}
    for each in ("w", "all"):
        shutil.rmtree(folder / each)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="writers to record")
    parser.add_argument("--changes", type=int, default=25, help="that each of them makes")
    parser.add_argument("--states", type=int, default=1, help="to look at after each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work; by default a temporary folder")
    parser.add_argument("--funnel", type=Funnel.parse, default=FUNNEL)
    parser.add_argument("--without", choices=SYNCS, help="a sync to leave out: must be found wrong")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        write(asked.write, asked.funnel, asked.changes, asked.seed)
        return 0
    if shutil.which("strace") is None:
        parser.error("needs strace, which records system calls (Debian: apt-get install strace)")
    counts, faults = collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        for turn in range(asked.rounds):
            counts["rounds"] += 1
            folder = Path(name) / str(turn)
            folder.mkdir()
            for wrong in one_round(folder, asked, asked.seed * 1_000_000 + turn, counts):
                faults[wrong["fault"]] += 1
                if faults.total() <= 5:
                    print(json.dumps(wrong), file=sys.stderr)  # noqa: T201
    print(json.dumps({**dict(sorted(counts.items())), "faults": faults}))  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
