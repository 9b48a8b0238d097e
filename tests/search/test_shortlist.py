"""Shortlists against plain scores, with ties, exclusions and bars read off a sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search import plain

from matryo.core import InputError, Precision
from matryo.search import NOWHERE, Level, View, shortlists

WIDTH = 16


def data(seed, n, *, twins=False):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, WIDTH)) * 0.9 ** np.arange(WIDTH) + 0.2
    if twins:
        rows = rows[rng.integers(0, n // 4, n)]
    return rows.astype(np.float32), (rng.normal(size=(5, WIDTH)) * 3).astype(np.float32)


@pytest.mark.parametrize(
    ("metric", "precision"),
    [(m, p) for m in ("cosine", "dot", "l2") for p in Precision if m == "cosine" or p.bits >= 8],
)
@pytest.mark.parametrize("twins", [False, True], ids=["distinct", "twins"])
@given(seed=st.integers(0, 2**16), dims=st.sets(st.integers(1, WIDTH), min_size=1, max_size=3))
def test_a_shortlist_is_the_head_of_the_plain_ranking(metric, precision, twins, seed, dims):
    corpus, queries = data(seed, 150, twins=twins)
    levels = [Level(dim, precision) for dim in dims]
    scales = {dim: plain.steps(corpus, dim, metric) for dim in dims}

    found = shortlists(
        queries, corpus, View(levels, scales=scales), cap=60, settle=20, metric=metric
    )

    for level in levels:
        expected = plain.plain_scores(
            queries, corpus, level.dim, metric, precision, scales[level.dim]
        )
        best = -np.sort(-expected, axis=1)[:, :60]
        lists = found[level]
        np.testing.assert_allclose(lists.scores, best, rtol=2e-5, atol=2e-5)
        own = np.take_along_axis(expected, lists.rows, axis=1)
        np.testing.assert_allclose(lists.scores, own, rtol=2e-5, atol=2e-5)
        assert all(len(set(rows)) == 60 for rows in lists.rows.tolist())
        head = lists.scores[:, : lists.settled]
        tied = head[:, 1:] == head[:, :-1]
        rising = lists.rows[:, 1 : lists.settled] > lists.rows[:, : lists.settled - 1]
        assert rising[tied].all()


def test_bars_read_off_a_sample_lose_no_row_that_is_asked_for():
    corpus, queries = data(0, 30_000)
    level = Level(8)

    lists = shortlists(queries, corpus, View([level]), cap=300, settle=10)[level]

    expected = plain.plain_top(plain.plain_scores(queries, corpus, 8), 300)
    assert not lists.whole
    assert [set(rows) for rows in lists.rows] == [set(rows) for rows in expected]


def test_a_short_list_read_off_a_sample_still_holds_what_is_settled():
    corpus, _ = data(0, 9_000)
    queries = np.random.default_rng(3).normal(size=(2000, WIDTH)).astype(np.float32)
    level = Level(8)

    lists = shortlists(queries, corpus, View([level]), cap=12, settle=10)[level]

    expected = plain.plain_top(plain.plain_scores(queries, corpus, 8), 10)
    assert (lists.rows[:, :10] != NOWHERE).all()
    np.testing.assert_array_equal(lists.rows[:, :10], expected)


def test_a_list_that_holds_everything_says_so_and_leaves_out_what_is_excluded():
    corpus, queries = data(0, 50)
    level = Level(8)

    lists = shortlists(
        queries, corpus, View([level]), cap=80, settle=3, exclude=[[3, 4], [], [], [], [0]]
    )[level]

    assert lists.whole
    assert set(lists.rows[0]) == {NOWHERE, *range(50)} - {3, 4}
    assert (lists.rows[0, -2:] == NOWHERE).all()
    assert np.isneginf(lists.scores[0, -2:]).all()
    assert set(lists.rows[1]) == {*range(50)}


def test_two_runs_on_many_threads_are_equal_where_rows_tie():
    corpus, queries = data(1, 20_000, twins=True)
    level = Level(4, Precision.BINARY)

    runs = [
        shortlists(queries, corpus, View([level]), cap=500, settle=10, threads=4)[level]
        for _ in range(3)
    ]

    for run in runs[1:]:
        np.testing.assert_array_equal(run.rows, runs[0].rows)


@pytest.mark.parametrize(("cap", "settle"), [(0, 1), (1, 0)])
def test_an_empty_shortlist_is_refused(cap, settle):
    corpus, queries = data(0, 50)

    with pytest.raises(InputError, match="must be at least 1, got"):
        shortlists(queries, corpus, View([Level(4)]), cap=cap, settle=settle)
