"""Inverted lists over the codes of a first stage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.stores.made import SPACE, WIDTH, make

from matryo.core import Funnel, UnsupportedError
from matryo.search import kernel
from matryo.stores import Index
from matryo.stores.embedded import packed

TARGETS = [*(kernel().instruction_sets() if kernel() else []), "numpy"]
LEVELS = ["8@int4[8x{}]", "16@int2[16x{}]", "16@binary[12x{}]"]


@pytest.fixture(autouse=True)
def short_lists(monkeypatch):
    """Segments of 300 rows have lists here."""
    monkeypatch.setattr(packed, "FEWEST_LISTED", 300)


def clustered(seed, n):
    """Synthetic rows near 40 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(40, WIDTH))
    return (centres[rng.integers(0, 40, n)] + 0.4 * rng.normal(size=(n, WIDTH))).astype(np.float32)


def filled(path, text):
    """An index with two segments in lists, one that is too small for them, and dead rows."""
    index = make(path, Funnel.parse(f"{text}:60,16@int8:20,16:5"), fields={"odd": bool})
    rows = clustered(1, 1000)
    rows[100:150] = rows[0]
    ids = [(number * 7) % 1000 for number in range(1000)]
    for start, stop in ((0, 450), (450, 900), (900, 1000)):
        names = ids[start:stop]
        index.add(names, rows[start:stop], {"odd": [bool(name % 2) for name in names]})
    index.delete(ids[20:60])
    return index


QUERIES = np.concatenate([clustered(2, 8), clustered(1, 3)])


@pytest.mark.parametrize("level", LEVELS)
def test_all_lists_together_are_every_row(tmp_path, level):
    with filled(tmp_path / "i", level.format(10_000)) as index:
        whole = Funnel.parse(level[: level.index("[")] + ":60,16@int8:20,16:5")
        for _ in range(2):
            found, expected = index.search(QUERIES), index.search(QUERIES, funnel=whole)
            assert found.ids == expected.ids
            assert_array_equal(np.array(found.scores), np.array(expected.scores))
            index.compact()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("probes", [1, 4])
def test_every_kernel_reads_the_same_lists(tmp_path, monkeypatch, level, probes):
    answers = []
    filled(tmp_path / "i", level.format(probes)).close()
    for target in TARGETS:
        monkeypatch.setenv("MATRYO_KERNEL", target)
        with Index.open(tmp_path / "i", read_only=True) as index:
            for where in (None, ("odd", "==", True)):
                found = index.search(QUERIES, where=where, threads=2)
                steps = index.explain(QUERIES[:2], where=where)
                read = [[(step.rows_read, step.rows_kept) for step in own] for own in steps]
                answers.append((target, where, found.ids, np.array(found.scores).tolist(), read))
    for where in (None, ("odd", "==", True)):
        own = [answer[2:] for answer in answers if answer[1] == where]
        assert all(answer == own[0] for answer in own)


def test_more_lists_find_more_and_read_more(tmp_path):
    with filled(tmp_path / "i", LEVELS[0].format(1)) as index:
        index.compact()
        expected = index.search(QUERIES, funnel=Funnel.parse("16:5")).ids
        shares, read = [], []
        for probes in (1, 4, 16, 10_000):
            funnel = Funnel.parse(f"{LEVELS[0].format(probes)}:60,16@int8:20,16:5")
            found = index.search(QUERIES, funnel=funnel).ids
            both = zip(found, expected, strict=True)
            shares.append(np.mean([len({*a} & {*b}) / 5 for a, b in both]))
            read.append(index.explain(QUERIES, funnel=funnel)[0][0].rows_read)
        assert shares == sorted(shares)
        assert shares[-1] > shares[0] + 0.2
        assert read == sorted(read)
        assert read[0] < len(index) / 5
        assert read[-1] == len(index)


def test_rows_that_repeat_make_empty_lists_and_no_trouble(tmp_path):
    with make(tmp_path / "i", Funnel.parse("8@int4[8x2]:60,16:5")) as index:
        index.add(list(range(500)), np.repeat(clustered(1, 3), [200, 200, 100], axis=0))
        assert index.search(QUERIES).complete == [True] * len(QUERIES)
        assert index.search(clustered(1, 1)).ids == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("8[8x2]:9,16:5", "inverted lists need a first stage of int4"),
        ("8@int8[8x2]:9,16:5", "inverted lists need a first stage of int4"),
        ("8@int4[9x2]:9,16:5", "no more dims than it has"),
        ("8@int4[8x2]:9,8@int4:6,16:5", "can serve the first stage alone"),
        ("8@int4[8x2]:9,16:5,exact", "an exact stop needs every row"),
    ],
)
def test_lists_that_cannot_be_are_refused(tmp_path, text, wording):
    with pytest.raises(UnsupportedError, match=wording):
        make(tmp_path / "i", Funnel.parse(text))
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("text", ["16@int2[8x2]:9,16:5", "8@int4[4x2]:9,16:5", "8[8x2]:9,16:5"])
def test_lists_that_an_index_does_not_have_are_refused(tmp_path, text):
    with (
        Index.create(tmp_path / "i", SPACE, Funnel.parse("8@int4[8x2]:9,16:5")) as index,
        pytest.raises(UnsupportedError, match="inverted lists"),
    ):
        index.search(QUERIES, funnel=Funnel.parse(text))
