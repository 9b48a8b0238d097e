"""The exact stop that goes by the angles of packed codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tests.stores.made import SPACE, WIDTH

from matryo.core import Funnel, Precision, UnsupportedError
from matryo.search import CertifiedSearch, FunnelSearch, Level, cosines_of, kernel
from matryo.search.certified import between
from matryo.search.stored import Stored
from matryo.stores import Index
from matryo.transforms import decode, encode, truncate

PACKED = [precision for precision in Precision if precision.is_packed]


def clustered(seed, n, width=WIDTH):
    """Synthetic rows near a few centres, some of them repeated."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 20), width))
    rows = centres[rng.integers(0, len(centres), n)] + 0.3 * rng.normal(size=(n, width))
    rows[rng.random(n) < 0.2] = rows[0]
    return rows.astype(np.float32)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 300),
    k=st.integers(1, 20),
    dim=st.integers(1, WIDTH),
    precision=st.sampled_from(PACKED),
)
def test_the_answer_is_that_of_reading_everything(seed, n, k, dim, precision):
    rows = clustered(seed, n)
    queries = np.concatenate([clustered(seed + 1, 3), rows[:2]])
    funnel = Funnel.parse(f"{dim}@{precision}:{max(k, 5)},{WIDTH}:{k},exact")
    certain, plain = FunnelSearch(rows, funnel), FunnelSearch(rows, Funnel.parse(f"{WIDTH}:{k}"))
    for query in queries:
        found, expected = certain.search(query), plain.search(query)
        assert_array_equal(found.rows, expected.rows)
        assert_array_equal(found.scores, expected.scores)


@given(seed=st.integers(0, 10_000), dim=st.integers(1, WIDTH), precision=st.sampled_from(PACKED))
def test_every_score_lies_between_its_bounds(seed, dim, precision):
    rows, query = clustered(seed, 200), clustered(seed + 1, 1)[0]
    level = Level(dim, precision)
    forms = decode(encode(truncate(rows, dim), precision), precision, dim=dim)
    unit = truncate(rows, WIDTH)
    scores = Stored(rows, level, metric="cosine").scores(query)
    low, high = between(scores, query, level, cosines_of(unit, forms))
    true = unit.astype(float) @ truncate(query[None].astype(float), WIDTH)[0]
    assert (low <= true).all()
    assert (true <= high).all()


def test_codes_near_their_rows_leave_few_to_read_whole():
    rows = clustered(3, 3000, 64)
    search = FunnelSearch(rows, Funnel.parse("64@int4:10,64:10,exact"))
    works = [search.search(query).stages for query in rows[1:6]]
    assert np.median([codes.rows_kept for codes, _ in works]) < 0.1 * len(rows)


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        (f"8@int4:9,{WIDTH}:5,exact", "dot"),
        (f"8@int4:9,{WIDTH}:5,exact", "l2"),
        (f"8@int4:9,{WIDTH - 1}:5,exact", "cosine"),
        (f"8@int4:9,{WIDTH}@int8:5,exact", "cosine"),
        (f"4@binary:9,8@int4:9,{WIDTH}:5,exact", "cosine"),
        (f"{WIDTH}@int4:5,exact", "cosine"),
    ],
)
def test_stages_that_give_no_certainty_are_refused(text, metric):
    with pytest.raises(UnsupportedError, match="an exact stop over packed codes"):
        CertifiedSearch(clustered(0, 20), Funnel.parse(text).stages, metric=metric)


@pytest.mark.parametrize("target", [*(kernel().instruction_sets() if kernel() else []), "numpy"])
@pytest.mark.parametrize("precision", PACKED)
def test_the_index_answers_as_reading_everything_does(tmp_path, monkeypatch, target, precision):
    monkeypatch.setenv("MATRYO_KERNEL", target)
    rows = clustered(1, 700)
    run = Funnel.parse(f"{WIDTH}@{precision}:10,{WIDTH}:10,exact")
    plain = Funnel.parse(f"{WIDTH}:10")
    queries = np.concatenate([clustered(2, 6), rows[:4]])
    with Index.create(tmp_path / "i", SPACE, run, fields={"odd": bool}) as index:
        for start in range(0, 700, 200):
            ids = list(range(start, min(start + 200, 700)))
            # interleaved ids, so that ties between segments are settled by id
            names = [(name * 3) % 700 for name in ids]
            index.add(names, rows[ids], {"odd": [bool(name % 2) for name in names]})
        for where in (None, ("odd", "==", True), ("odd", "exists")):
            for threads in (1, 3):
                found = index.search(queries, where=where, threads=threads)
                expected = index.search(queries, where=where, funnel=plain, threads=threads)
                assert found.ids == expected.ids
                assert_array_equal(np.array(found.scores), np.array(expected.scores))
        index.delete(list(range(0, 700, 3)))
        index.compact()
        found, expected = index.search(queries, k=30), index.search(queries, k=30, funnel=plain)
        assert found.ids == expected.ids
        (codes, _), *_ = index.explain(queries)
        assert codes.rows_read == len(index)
