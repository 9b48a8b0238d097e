from __future__ import annotations

import sqlite3
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matryo.core import FormatError, InputError, Side, SideSpec, Space, VectorError
from matryo.encoders import EncodingCache, Function, encode_texts

SPACE = Space("test-model", 8)


def vectors_of(texts):
    rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(8) for text in texts]
    return np.array(rows, dtype=np.float32)


class Counting:
    """A function that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return vectors_of(texts)

    @property
    def texts(self):
        return [text for batch in self.asked for text in batch]


@pytest.fixture
def cache(tmp_path):
    with EncodingCache(tmp_path / "encodings.sqlite") as opened:
        yield opened


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.sampled_from("abcdefgh"), max_size=30), batch_size=st.integers(1, 10))
def test_rows_stand_in_the_order_of_the_texts_and_each_is_encoded_once(texts, batch_size):
    fn = Counting()
    steps = []

    vectors = encode_texts(
        Function(fn, SPACE), texts, side=Side.QUERY, batch_size=batch_size, progress=steps.append
    )

    np.testing.assert_array_equal(vectors, vectors_of(texts).reshape(len(texts), 8))
    assert sorted(fn.texts) == sorted(set(texts))
    assert sum(steps) == len(texts)


def test_a_second_run_encodes_nothing_and_gives_the_same(cache):
    fn = Counting()
    texts = [f"text {number}" for number in range(2000)]
    first = encode_texts(Function(fn, SPACE), texts, side=Side.DOCUMENT, cache=cache)
    again = Counting()
    steps = []

    second = encode_texts(
        Function(again, SPACE), texts, side=Side.DOCUMENT, cache=cache, progress=steps.append
    )

    np.testing.assert_array_equal(second, first)
    assert again.asked == []
    assert steps == [2000]


def test_only_what_is_missing_is_encoded(cache):
    encode_texts(Function(Counting(), SPACE), ["a", "b"], side=Side.DOCUMENT, cache=cache)
    fn = Counting()

    vectors = encode_texts(
        Function(fn, SPACE), ["c", "b", "d", "a"], side=Side.DOCUMENT, cache=cache
    )

    assert fn.texts == ["c", "d"]
    np.testing.assert_array_equal(vectors, vectors_of(["c", "b", "d", "a"]))


@pytest.mark.parametrize(
    ("space", "side"),
    [
        (SPACE, Side.QUERY),
        (replace(SPACE, revision="2"), Side.DOCUMENT),
        (replace(SPACE, document=SideSpec(prompt="p: ")), Side.DOCUMENT),
    ],
)
def test_another_side_or_space_never_hits(cache, space, side):
    encode_texts(Function(Counting(), SPACE), ["a"], side=Side.DOCUMENT, cache=cache)
    fn = Counting()

    encode_texts(Function(fn, space), ["a"], side=side, cache=cache)

    assert len(fn.texts) == 1


def test_an_interrupted_run_keeps_what_was_done(cache):
    def breaks(texts):
        if "text 7" in texts:
            raise KeyboardInterrupt
        return vectors_of(texts)

    texts = [f"text {number}" for number in range(10)]
    with pytest.raises(KeyboardInterrupt):
        encode_texts(Function(breaks, SPACE), texts, side=Side.QUERY, cache=cache, batch_size=3)
    fn = Counting()

    encode_texts(Function(fn, SPACE), texts, side=Side.QUERY, cache=cache, batch_size=3)

    assert fn.texts == texts[6:]


def test_what_was_kept_is_there_in_a_new_process_and_the_texts_are_not(tmp_path):
    path = tmp_path / "encodings.sqlite"
    with EncodingCache(path) as cache:
        encode_texts(Function(Counting(), SPACE), ["secret text"], side=Side.QUERY, cache=cache)

    with EncodingCache(path) as cache:
        assert len(cache) == 1
    assert b"secret" not in path.read_bytes()


def test_two_processes_may_write_at_once(tmp_path):
    path = tmp_path / "encodings.sqlite"
    code = (
        "import sys, numpy as np; from matryo.core import Side, Space; "
        "from matryo.encoders import EncodingCache, Function, encode_texts; "
        "encode_texts(Function(lambda t: np.ones((len(t), 8)), Space('test-model', 8)), "
        "[f'text {i}' for i in range(int(sys.argv[2]), int(sys.argv[3]))], side=Side.QUERY, "
        "cache=EncodingCache(sys.argv[1]), batch_size=5)"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(start), str(start + 300)])
        for start in (0, 200, 400)
    ]

    assert [run.wait() for run in runs] == [0, 0, 0]
    with EncodingCache(path) as cache:
        assert len(cache) == 700


def test_a_row_that_is_not_finite_is_refused_by_its_id_and_not_kept(cache):
    def poisoned(texts):
        vectors = vectors_of(texts)
        vectors[texts.index("bad")] = np.nan
        return vectors

    with pytest.raises(VectorError, match=r"query encodings by test-model: 1 row .*: 'doc-3'"):
        encode_texts(
            Function(poisoned, SPACE),
            ["a", "a", "b", "bad"],
            side=Side.QUERY,
            cache=cache,
            ids=["doc-0", "doc-1", "doc-2", "doc-3"],
        )

    assert len(cache) == 0


def test_an_empty_text_is_refused_by_its_id():
    with pytest.raises(InputError, match="position 1, 'doc-1'"):
        encode_texts(
            Function(Counting(), SPACE), ["a", " "], side=Side.QUERY, ids=["doc-0", "doc-1"]
        )


def test_ids_that_do_not_match_the_texts_are_refused():
    with pytest.raises(InputError, match="got 1 ids for 2 texts"):
        encode_texts(Function(Counting(), SPACE), ["a", "b"], side=Side.QUERY, ids=["doc-0"])


def test_an_encoder_that_answers_with_another_width_is_refused():
    class Narrow(Function):
        def encode(self, texts, *, side):  # noqa: ARG002
            return vectors_of(texts)[:, :4]

    with pytest.raises(VectorError, match=r"with shape \(1, 8\), got \(1, 4\)"):
        encode_texts(Narrow(vectors_of, SPACE), ["a"], side=Side.QUERY)


def test_a_file_that_is_no_cache_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "encodings.sqlite"
    path.write_bytes(b"some other file\n" * 100)

    with pytest.raises(FormatError, match=r"none or is damaged .*\n  delete encodings.sqlite"):
        EncodingCache(path)


def test_a_damaged_page_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "encodings.sqlite"
    texts = [f"text {number}" for number in range(3000)]
    with EncodingCache(path) as cache:
        encode_texts(Function(Counting(), SPACE), texts, side=Side.QUERY, cache=cache)
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xff" * (len(content) - 8192 - 4096)
    path.write_bytes(content)

    with EncodingCache(path) as cache, pytest.raises(FormatError, match="is damaged"):
        encode_texts(Function(Counting(), SPACE), texts, side=Side.QUERY, cache=cache)


def test_a_database_of_another_kind_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(FormatError, match="got an SQLite file of another kind"):
        EncodingCache(path)

    assert path.read_bytes() == before


def test_a_cache_of_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "encodings.sqlite"
    EncodingCache(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version=2")
    newer.close()

    with pytest.raises(FormatError, match="of format 1, got 2"):
        EncodingCache(path)


def test_a_vector_of_the_wrong_length_is_refused(cache):
    encode_texts(Function(Counting(), SPACE), ["a"], side=Side.QUERY, cache=cache)
    other = sqlite3.connect(cache.path)
    with other:
        other.execute("UPDATE encodings SET vector = x'00000000'")
    other.close()

    with pytest.raises(FormatError, match="vectors of 32 bytes for test-model, got one of 4"):
        encode_texts(Function(Counting(), SPACE), ["a"], side=Side.QUERY, cache=cache)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(InputError, match=r"cannot be used: .*\n.*MATRYO_CACHE"):
        EncodingCache(tmp_path / "file" / "encodings.sqlite")


def test_the_folder_can_be_named_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MATRYO_CACHE", str(tmp_path / "here"))

    with EncodingCache() as cache:
        assert cache.path == tmp_path / "here" / "encodings.sqlite"


def test_by_default_the_cache_lies_in_the_users_cache_folder(tmp_path, monkeypatch):
    pytest.importorskip("platformdirs")
    monkeypatch.delenv("MATRYO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with EncodingCache() as cache:
        assert cache.path.parent.name == "matryo"
