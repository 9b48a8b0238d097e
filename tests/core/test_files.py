"""Replacing files and folders without a moment in which they are half written."""

from __future__ import annotations

import stat

import pytest

from matryo.core import InputError, replacing, replacing_folder, write_atomically


class CrashError(Exception):
    """Stands for a crash in the middle of writing."""


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path):
    write_atomically(tmp_path / "t", "größe\n")
    write_atomically(str(tmp_path / "b"), b"\x00\xff")

    assert (tmp_path / "t").read_bytes() == "größe\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"


def test_an_older_file_is_replaced_whole(tmp_path):
    path = tmp_path / "t"
    write_atomically(path, "a long text before")

    write_atomically(path, "short")

    assert path.read_text() == "short"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_keeps_reading_the_old_one(tmp_path):
    path = tmp_path / "t"
    write_atomically(path, "old")

    with path.open() as reader:
        write_atomically(path, "new")
        seen = reader.read()

    assert (seen, path.read_text()) == ("old", "new")


def test_a_new_file_is_as_readable_as_any_other(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()

    write_atomically(tmp_path / "ours", "x")

    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_a_crash_while_writing_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "t"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise CrashError

    with pytest.raises(CrashError):
        write()

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, run_on_a_full_disk):
    path = tmp_path / "t"
    path.write_text("old")

    run = run_on_a_full_disk(
        "import sys\nfrom matryo.core import write_atomically\n"
        "def write(): write_atomically(sys.argv[1], b'x' * 100_000)",
        limit=10_000,
        args=[path],
    )

    assert "OSError" in run.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_atomically(path, "x"),
        lambda path: replacing_folder(path, overwrite=False).__enter__(),
    ],
    ids=["file", "folder"],
)
def test_a_parent_that_does_not_exist_is_refused(write, tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*x: the folder .*none does not exist"):
        write(tmp_path / "none" / "x")


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "d"

    with replacing_folder(path, overwrite=False) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()

    assert [p.name for p in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_folder_is_replaced_only_when_asked_to(tmp_path):
    path = tmp_path / "d"
    with replacing_folder(path, overwrite=False) as temporary:
        (temporary / "a").write_text("1")

    with (
        pytest.raises(InputError, match=r"d exists already\n  choose another name"),
        replacing_folder(path, overwrite=False),
    ):
        pass
    with replacing_folder(path, overwrite=True) as temporary:
        (temporary / "b").write_text("2")

    assert [p.name for p in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_may_replace_a_file(tmp_path):
    path = tmp_path / "d"
    path.write_text("a file")

    with replacing_folder(path, overwrite=True) as temporary:
        (temporary / "b").write_text("2")

    assert path.is_dir()
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_while_writing_keeps_the_old_folder(tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    (path / "a").write_text("old")

    def write():
        with replacing_folder(path, overwrite=True) as temporary:
            (temporary / "a").write_text("new")
            raise CrashError

    with pytest.raises(CrashError):
        write()

    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
