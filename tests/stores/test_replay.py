"""Power cuts under the writer of an index, and what the replay of its operations makes of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.stores.replay import (
    ROOT,
    SYNCS,
    Chance,
    Disk,
    Everything,
    Operation,
    Recording,
    bytes_after,
    lay_out,
    names_after,
    record,
)

from matryo.core import Funnel


@pytest.fixture
def strace():
    if shutil.which("strace") is None:
        pytest.skip("needs strace (Debian: apt-get install strace)")
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("strace may not trace here")


def replay(*given):
    script = Path(__file__).with_name("replay.py")
    # no disk is needed to think about one, and one in memory syncs in no time
    given = (*given, "--folder", "/dev/shm") if Path("/dev/shm").is_dir() else given
    return subprocess.run(
        [sys.executable, script, *map(str, given)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
class TestPowerCuts:
    def test_all_that_was_acknowledged_is_there_and_no_half_of_the_rest(self):
        seed = random.randrange(10**6)
        done = replay("--rounds", 1, "--changes", 12, "--seed", seed)

        assert done.returncode == 0, f"seed {seed}: {done.stderr}"
        counts = json.loads(done.stdout)
        assert counts["changes acknowledged"] == 13  # the first makes the index
        assert counts["states"] > 100
        assert counts["faults"] == {}

    @pytest.mark.parametrize("sync", SYNCS)
    def test_a_sync_that_is_left_out_is_missed(self, sync):
        done = replay("--rounds", 1, "--changes", 8, "--states", 3, "--without", sync)

        assert done.returncode == 1, done.stderr
        assert sum(json.loads(done.stdout)["faults"].values()) > 0

    def test_everything_together_is_what_the_writer_left(self, tmp_path):
        (tmp_path / "w").mkdir()
        operations = record(tmp_path / "w", Funnel.parse("16:5"), 4, 3)
        disk = Disk()
        for operation in operations:
            disk.take(operation)
        lay_out(disk.left_by(Everything()), tmp_path / "again")

        files = sorted(file for file in (tmp_path / "w").rglob("*") if file.is_file())
        assert len(files) >= 2
        for file in files:
            again = tmp_path / "again" / file.relative_to(tmp_path / "w")
            assert again.read_bytes() == file.read_bytes()


def hexed(text):
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


class TestRecording:
    def test_calls_become_operations_on_files_whatever_their_names(self):
        root, other = hexed("/r"), hexed("/elsewhere")
        part, final = hexed("/r/i/.a.part"), hexed("/r/i/a")
        recording = Recording("/r")
        for line in (
            f'mkdir("{hexed("/r/i")}", 0777) = 0',
            f'openat(AT_FDCWD<{other}>, "{other}", O_WRONLY|O_CREAT, 0666) = 3<{other}>',
            f'write(3<{other}>, "{hexed("unseen")}", 6) = 6',
            f'openat(AT_FDCWD<{other}>, "{part}", O_RDWR|O_CREAT|O_EXCL, 0600) = 4<{part}>',
            f'write(4<{part}>, "{hexed("abcd")}", 4) = 3',
            f'write(4<{part}>, "{hexed("d")}", 1) = 1',
            f'pwrite64(4<{part}>, "{hexed("X")}", 1, 1) = 1',
            f"close(4<{part}>) = 0",
            f'rename("{part}", "{final}") = 0',
            f'unlink("{part}") = -1 ENOENT (No such file or directory)',
            f'openat(AT_FDCWD<{other}>, "{root}", O_RDONLY) = 4<{root}>',
            f"fsync(4<{root}>) = 0",
            f'openat(AT_FDCWD<{other}>, "{final}", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 5<{final}>',
            f'write(1<{hexed("pipe:[7]")}>, "{hexed("done")}", 4) = 4',
            f'unlinkat(4<{root}>, "{hexed("i/a")}", 0) = 0',
            "+++ exited with 0 +++",
        ):
            recording.read(line)

        assert recording.operations == [
            Operation("folder", ROOT, name="i", other=1),
            Operation("file", 1, name=".a.part", other=2),
            Operation("write", 2, 0, b"abc"),
            Operation("write", 2, 3, b"d"),
            Operation("write", 2, 1, b"X"),
            Operation("move", 1, name="a", old=".a.part", other=2),
            Operation("sync", ROOT, name="."),
            Operation("cut", 2, 0),
            Operation("mark", ROOT, data=b"done"),
            Operation("remove", 1, name="a"),
        ]

    @pytest.mark.parametrize(
        "line",
        [
            f'link("{hexed("/r/a")}", "{hexed("/r/b")}") = 0',
            f"fallocate(9<{hexed('/r/a')}>, 0, 0, 4096) = 0",
            f'write(9<{hexed("/r/a")}>, "{hexed("a")}", 1) = 1',
            f'openat(AT_FDCWD<{hexed("/")}>, "{hexed("/r/a")}", O_WRONLY|O_APPEND) = 3',
        ],
    )
    def test_what_cannot_be_replayed_is_refused(self, line):
        with pytest.raises(NotImplementedError):
            Recording("/r").read(line)


class TestWhatADiskMayHold:
    BEFORE = (
        Operation("file", ROOT, name="part", other=1),
        Operation("write", 1, 0, b"a" * 10_000),
    )

    def states(self, *operations):
        disk = Disk()
        for operation in (*self.BEFORE, *operations):
            disk.take(operation)
        return [disk.left_by(Chance(random.Random(seed))) for seed in range(300)]

    def test_what_was_not_synced_may_be_there_or_not_or_in_pieces(self):
        contents = {state[1] for state in self.states()}

        assert {b"", b"a" * 10_000} < contents
        assert any(len(each) == 10_000 and each.count(b"a") < 9000 for each in contents)
        assert {frozenset(state[ROOT]) for state in self.states()} == {
            frozenset(),
            frozenset({"part"}),
        }

    def test_what_was_synced_is_there_but_perhaps_not_its_name(self):
        states = self.states(Operation("sync", 1))

        assert {state[1] for state in states} == {b"a" * 10_000}
        assert {len(state[ROOT]) for state in states} == {0, 1}

    def test_a_synced_folder_has_its_names_but_perhaps_not_what_is_in_the_files(self):
        states = self.states(Operation("sync", ROOT))

        assert all(state[ROOT] == {"part": 1} for state in states)
        assert len({state[1] for state in states}) > 2

    def test_a_move_is_there_or_not_and_never_half(self):
        move = Operation("move", ROOT, name="final", old="part", other=1)
        states = self.states(Operation("sync", 1), Operation("sync", ROOT), move)

        assert {tuple(state[ROOT].items()) for state in states} == {
            (("part", 1),),
            (("final", 1),),
        }

    def test_names_may_come_without_those_before_them(self):
        move = Operation("move", ROOT, name="final", old="part", other=1)

        assert names_after({}, [move]) == {"final": 1}
        assert names_after({"part": 7}, [move]) == {"part": 7, "final": 1}
        assert names_after({}, [Operation("remove", ROOT, name="part")]) == {}

    @pytest.mark.parametrize(
        ("operation", "expected"),
        [
            (Operation("write", 1, 6, b"xy"), b"abcd\0\0xy"),
            (Operation("write", 1, 1, b"xy"), b"axyd"),
            (Operation("cut", 1, 2), b"ab"),
            (Operation("cut", 1, 6), b"abcd\0\0"),
            (Operation("grow", 1, 2, b"wxyz"), b"abcdyz"),
            (Operation("grow", 1, 0, b"wx"), b"abcd"),
            (Operation("grow", 1, 6, b"w"), b"abcd\0\0w"),
        ],
    )
    def test_bytes_are_written_cut_and_grown(self, operation, expected):
        assert bytes_after(b"abcd", [operation]) == expected
