"""One pass over small and awkward data: every precision, ties, extreme lengths, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search import plain

from matryo.core import (
    DimError,
    InputError,
    NestedVectors,
    Nesting,
    Precision,
    Side,
    Space,
    UnsupportedError,
    VectorError,
)
from matryo.search import Level, View, pair_scores, scan, stored_form
from matryo.testing.strategies import vectors

WIDTH = 12
KINDS = [
    (metric, precision)
    for metric in ("cosine", "dot", "l2")
    for precision in Precision
    if metric == "cosine" or not precision.is_packed
]
corpora = vectors(WIDTH, min_rows=3, max_rows=40)
questions = vectors(WIDTH, max_rows=5)


def search(queries, corpus, level, *, k, metric="cosine", **options):
    scales = {level.dim: plain.steps(corpus, level.dim, metric)}
    view = {"cut": View([level], scales=scales)}
    return scan(queries, corpus, view, k=k, metric=metric, **options)["cut", level]


def random_rows(n, seed, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def with_twins(seed, kinds=12, copies=25):
    """Rows of which every one stands in the corpus many times, in random places."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat(np.arange(kinds), copies))
    return random_rows(kinds, seed)[kind], kind, rng.permutation(kinds * copies)


@pytest.mark.parametrize(("metric", "precision"), KINDS, ids=str)
@given(corpus=corpora, queries=questions, dim=st.integers(1, WIDTH), k=st.integers(1, 3))
def test_every_size_and_precision_is_exact_search_by_the_score_rule(
    metric, precision, corpus, queries, dim, k
):
    scales = plain.steps(corpus, dim, metric)
    scores = plain.plain_scores(queries, corpus, dim, metric, precision, scales)
    close = 1e-6 * max(1.0, np.abs(scores).max())

    found = search(queries, corpus, Level(dim, precision), k=k, metric=metric)

    best = -np.sort(-scores, axis=1)[:, :k]
    np.testing.assert_allclose(found.scores, best, atol=close)
    np.testing.assert_allclose(np.take_along_axis(scores, found.rows, 1), best, atol=close)
    assert all(len(set(rows)) == k for rows in found.rows)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@given(
    corpus=corpora,
    queries=questions,
    dims=st.sets(st.integers(1, WIDTH), min_size=2, max_size=3),
)
def test_all_levels_of_a_pass_equal_each_alone(metric, corpus, queries, dims):
    formats = [p for m, p in KINDS if m == metric and p is not Precision.FLOAT16]
    levels = [Level(dim, precision) for dim in dims for precision in formats]
    scales = {dim: plain.steps(corpus, dim, metric) for dim in dims}

    together = scan(queries, corpus, {"cut": View(levels, scales=scales)}, k=2, metric=metric)

    for level in levels:
        alone = search(queries, corpus, level, k=2, metric=metric)
        np.testing.assert_array_equal(together["cut", level].rows, alone.rows)
        np.testing.assert_array_equal(together["cut", level].scores, alone.scores)


@pytest.mark.parametrize(("metric", "precision"), KINDS, ids=str)
def test_threads_change_nothing(metric, precision):
    corpus, queries = random_rows(20_000, 1), random_rows(30, 2)
    level = Level(8, precision)

    one = search(queries, corpus, level, k=10, metric=metric, threads=1)
    two = search(queries, corpus, level, k=10, metric=metric, threads=2)

    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.scores, two.scores)
    assert [sorted(rows) for rows in one.tied] == [sorted(rows) for rows in two.tied]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("cuts", [(1500,), (9000, 9010), (5, 1024, 8192, 9999)])
def test_shards_merged_equal_the_whole(metric, cuts):
    corpus, queries, level = random_rows(10_004, 3), random_rows(20, 4), Level(10)
    whole = search(queries, corpus, level, k=5, metric=metric)

    parts = [search(queries, shard, level, k=5, metric=metric) for shard in np.split(corpus, cuts)]

    rows = np.hstack([part.rows + at for part, at in zip(parts, [0, *cuts], strict=True)])
    scores = np.hstack([part.scores for part in parts])
    order = [np.lexsort((r, -s))[:5] for r, s in zip(rows, scores, strict=True)]
    np.testing.assert_array_equal(whole.rows, np.take_along_axis(rows, np.array(order), 1))
    np.testing.assert_array_equal(whole.scores, np.take_along_axis(scores, np.array(order), 1))


@given(seed=st.integers(0, 2**16), precision=st.sampled_from(Precision))
def test_moving_the_rows_moves_the_answers_with_them(seed, precision):
    corpus, queries, level = random_rows(60, seed), random_rows(4, seed + 1), Level(6, precision)
    order = np.random.default_rng(seed).permutation(60)

    before = search(queries, corpus, level, k=7)
    after = search(queries, corpus[order], level, k=7, tie_order=order)

    np.testing.assert_array_equal(order[after.rows], before.rows)
    np.testing.assert_array_equal(after.scores, before.scores)


@pytest.mark.parametrize("name", plain.PACKED)
@given(seed=st.integers(0, 2**16), dim=st.integers(1, WIDTH), k=st.integers(1, 30))
def test_packed_codes_are_scored_to_the_last_bit_and_ranked_so(name, seed, dim, k):
    corpus, queries = random_rows(60, seed), random_rows(4, seed + 1)
    scores = plain.plain_scores(queries, corpus, dim, "cosine", name)

    found = search(queries, corpus, Level(dim, Precision(name)), k=k)

    np.testing.assert_array_equal(found.rows, plain.plain_top(scores, k))
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, found.rows, 1))


@pytest.mark.parametrize("name", plain.PACKED)
def test_rounding_a_query_moves_packed_scores_by_no_more_than_half_a_step_each(name):
    corpus, queries = random_rows(200, 3, 128), random_rows(20, 4, 128)
    largest = plain.PACKED[name][2]
    asked = plain.unit(queries)
    room = 0.5 * np.sqrt(128) * np.abs(asked).max(axis=1, keepdims=True) / largest

    scores = plain.plain_scores(queries, corpus, 128, "cosine", name)

    unrounded = asked @ plain.stored(corpus, 128, name, "cosine").T
    assert (np.abs(scores - unrounded) <= room + 1e-6).all()
    assert np.abs(scores - unrounded).mean() < room.mean() / 10


@pytest.mark.parametrize("precision", Precision)
def test_scores_are_those_of_pairs(precision):
    corpus, queries, level = random_rows(500, 5), random_rows(8, 6), Level(9, precision)
    scales = plain.steps(corpus, 9)

    found = search(queries, corpus, level, k=4)

    asked, documents = np.repeat(queries, 4, axis=0), corpus[found.rows.ravel()]
    pairs = pair_scores(asked, documents, level, metric="cosine", scales=scales)
    np.testing.assert_array_equal(found.scores.ravel(), pairs)


@pytest.mark.parametrize(("metric", "precision"), KINDS, ids=str)
def test_stored_documents_look_as_the_score_rule_says(metric, precision):
    corpus = random_rows(100, 7)
    scales = plain.steps(corpus, 5, metric)

    form = stored_form(corpus, Level(5, precision), metric=metric, scales=scales)

    np.testing.assert_allclose(form, plain.stored(corpus, 5, precision, metric, scales), atol=1e-6)
    assert form.dtype == np.float32


class TestTies:
    @pytest.mark.parametrize(("metric", "precision"), KINDS, ids=str)
    @pytest.mark.parametrize("seed", range(3))
    def test_equal_rows_score_the_same_and_go_by_the_stated_order(self, metric, precision, seed):
        corpus, kind, tie_order = with_twins(seed)
        queries, level = random_rows(10, seed + 50), Level(7, precision)

        found = search(queries, corpus, level, k=40, metric=metric, tie_order=tie_order)

        for rows, scores in zip(found.rows, found.scores, strict=True):
            np.testing.assert_array_equal(np.lexsort((tie_order[rows], -scores)), np.arange(40))
            # all copies of the best row have its score
            assert (scores[kind[rows] == kind[rows[0]]] == scores[0]).all()
            assert (scores == scores[0]).sum() >= 25

    @pytest.mark.parametrize(("metric", "precision"), KINDS, ids=str)
    def test_rows_tied_with_the_last_are_all_listed(self, metric, precision):
        corpus, kind, tie_order = with_twins(9)
        queries, level = random_rows(10, 10), Level(11, precision)

        found = search(queries, corpus, level, k=30, metric=metric, tie_order=tie_order)

        for rows, tied in zip(found.rows, found.tied, strict=True):
            assert set(np.flatnonzero(kind == kind[rows[-1]])) <= set(rows) | set(tied)
            assert not set(rows) & set(tied)
            assert len(set(tied)) == len(tied)

    def test_without_a_stated_order_the_earlier_row_goes_first(self):
        corpus = np.ones((900, 4), np.float32)

        found = search(corpus[:1], corpus, Level(4), k=3)

        assert found.rows.tolist() == [[0, 1, 2]]
        assert sorted(found.tied[0]) == list(range(3, 900))

    def test_few_bits_tie_many_rows_and_none_is_lost(self):
        corpus, queries, level = random_rows(2000, 1), random_rows(5, 2), Level(3, Precision.BINARY)

        found = search(queries, corpus, level, k=10)

        code = (corpus[:, :3] > 0) @ [4, 2, 1]
        for rows, tied in zip(found.rows, found.tied, strict=True):
            assert set(np.flatnonzero(code == code[rows[-1]])) == set(rows) | set(tied)


class TestExclusion:
    @given(seed=st.integers(0, 2**16), k=st.integers(1, 5))
    def test_what_is_left_is_searched_exactly(self, seed, k):
        rng = np.random.default_rng(seed)
        corpus, queries = random_rows(30, seed), random_rows(4, seed + 1)
        exclude = [rng.choice(30, rng.integers(0, 26), replace=False) for _ in range(4)]

        found = search(queries, corpus, Level(8), k=k, exclude=exclude)

        scores = plain.plain_scores(queries, corpus, 8)
        for row, out in zip(scores, exclude, strict=True):
            row[out] = -np.inf
        np.testing.assert_array_equal(found.rows, plain.plain_top(scores, k))

    def test_an_excluded_twin_is_not_among_the_tied(self):
        corpus = np.ones((50, 4), np.float32)

        found = search(corpus[:2], corpus, Level(4), k=3, exclude=[[0, 7], []])

        assert not {0, 7} & (set(found.rows[0]) | set(found.tied[0]))
        assert [len(tied) for tied in found.tied] == [45, 47]

    def test_more_neighbors_than_are_left_are_refused(self):
        corpus = random_rows(6, 0)
        with pytest.raises(InputError, match=r"documents to find, 4, got 5") as caught:
            search(corpus[:1], corpus, Level(4), k=5, exclude=[[0, 3]])
        assert caught.value.k == 5


class TestCorpora:
    def test_a_folder_of_nested_vectors_gives_what_memory_gives(self, tmp_path):
        corpus, queries = random_rows(300, 1), random_rows(5, 2)
        space, nesting = Space("m", WIDTH), Nesting((4, WIDTH))
        NestedVectors.from_array(
            corpus, range(300), space=space, side=Side.DOCUMENT, nesting=nesting
        ).save(tmp_path / "n")
        view = {"c": View([Level(4), Level(8)])}

        found = scan(queries, NestedVectors.open(tmp_path / "n"), view, k=5)

        for (_, level), top in found.items():
            np.testing.assert_array_equal(top.rows, search(queries, corpus, level, k=5).rows)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_a_mapped_file_of_any_float_gives_what_memory_gives(self, dtype, tmp_path):
        corpus, queries = random_rows(9000, 1).astype(dtype), random_rows(5, 2)
        np.save(tmp_path / "c.npy", corpus)
        view = {"c": View([Level(4), Level(WIDTH), Level(8, Precision.BINARY)])}

        mapped = scan(queries, np.load(tmp_path / "c.npy", mmap_mode="r"), view, k=5)

        memory = scan(queries, corpus, view, k=5)
        for key, top in mapped.items():
            np.testing.assert_array_equal(top.rows, memory[key].rows)
            np.testing.assert_array_equal(top.scores, memory[key].scores)

    def test_progress_adds_up_to_the_rows(self):
        done = []
        corpus = random_rows(10_000, 1)

        search(corpus[:2], corpus, Level(4), k=1, progress=done.append)

        assert sum(done) == 10_000


def test_a_map_is_applied_to_both_sides_of_its_own_view_only():
    corpus, queries, level = random_rows(400, 1), random_rows(6, 2), Level(4)
    order = np.random.default_rng(0).permutation(WIDTH)
    views = {"cut": View([level]), "random": View([level], map=lambda v: v[:, order])}

    both = scan(queries, corpus, views, k=5)

    alone = search(queries[:, order], corpus[:, order], level, k=5)
    np.testing.assert_array_equal(both["random", level].rows, alone.rows)
    cut = search(queries, corpus, level, k=5)
    np.testing.assert_array_equal(both["cut", level].rows, cut.rows)


class TestLengths:
    @pytest.mark.parametrize("width", [10, 80])
    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_a_query_may_be_as_short_or_long_as_a_document(self, size, width):
        corpus, queries = random_rows(500, 1, width), random_rows(6, 2, width)
        lengths = np.where(np.arange(500) % 3, size, 1 / size).astype(np.float32)[:, None]

        found = search(queries * np.float32(size), corpus * lengths, Level(width - 5), k=8)

        scores = plain.plain_scores(queries, corpus, width - 5)
        np.testing.assert_array_equal(found.rows, plain.plain_top(scores, 8))

    @pytest.mark.parametrize("precision", Precision)
    def test_a_prefix_may_hold_next_to_nothing_of_the_length(self, precision):
        corpus, queries = random_rows(500, 1, 40), random_rows(6, 2, 40)
        corpus[:, :36] *= np.float32(1e-12)
        queries[:, :36] *= np.float32(1e-12)

        found = search(queries, corpus, Level(36, precision), k=8)

        scales = plain.steps(corpus, 36)
        scores = plain.plain_scores(queries, corpus, 36, "cosine", precision, scales)
        np.testing.assert_allclose(found.scores, -np.sort(-scores)[:, :8], atol=1e-6)

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    @pytest.mark.parametrize("long", [slice(9000, None), slice(0, 9000)], ids=["last", "first"])
    def test_short_rows_and_long_ones_do_not_hide_each_other(self, metric, long):
        corpus, queries = random_rows(12_000, 1), random_rows(10, 2)
        corpus[long] *= np.float32(300)

        found = search(queries, corpus, Level(WIDTH), k=10, metric=metric, threads=1)

        scores = plain.plain_scores(queries, corpus, WIDTH, metric)
        np.testing.assert_array_equal(found.rows, plain.plain_top(scores, 10))

    def test_rows_that_rounding_confuses_are_told_apart(self):
        base = random_rows(1, 1, 200)
        queries = base + np.float32(1e-3) * random_rows(40, 3, 200)
        corpus = base + np.float32(1e-2) * random_rows(5000, 2, 200)

        found = search(queries, corpus, Level(200), k=20)

        scores = plain.plain_scores(queries, corpus, 200)
        lost = -np.sort(-scores)[:, :20] - np.take_along_axis(scores, found.rows, 1)
        assert np.abs(lost).max() < 6e-8  # half a step of float32 below 1, and a little


class TestRefusals:
    def test_a_size_beyond_the_width(self):
        corpus = random_rows(5, 0)
        with pytest.raises(DimError, match="dim must be at most 12, got 13") as caught:
            scan(corpus, corpus, {"c": View([Level(13)])}, k=1)
        assert caught.value.dim == 13

    @pytest.mark.parametrize(("value", "fault"), [(0, "only zeros"), (np.nan, "NaN or infinity")])
    def test_a_query_without_direction(self, value, fault):
        corpus, queries = random_rows(5, 0), random_rows(3, 1)
        queries[2] = value
        with pytest.raises(VectorError, match=rf"queries: 1 row has {fault}: 2"):
            search(queries, corpus, Level(4), k=1)

    def test_a_query_whose_prefix_is_zero(self):
        corpus, queries = random_rows(5, 0), random_rows(3, 1)
        queries[1, :4] = 0
        with pytest.raises(VectorError, match=r"queries cut to 4 numbers: only zeros .*: 1"):
            search(queries, corpus, Level(4), k=1)

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    def test_a_prefix_of_zeros_is_no_fault_where_lengths_count(self, metric):
        corpus, queries = random_rows(5, 0), random_rows(3, 1)
        corpus[1, :4] = 0

        found = search(queries, corpus, Level(4), k=5, metric=metric)

        scores = plain.plain_scores(queries, corpus, 4, metric)
        np.testing.assert_array_equal(found.rows, plain.plain_top(scores, 5))

    def test_a_prefix_of_zeros_is_named_by_id_wherever_it_stands(self):
        corpus, ids = random_rows(9000, 0), [f"doc-{i}" for i in range(9000)]
        corpus[[8500, 8999], :4] = 0
        with pytest.raises(VectorError, match="'doc-8500', 'doc-8999'") as caught:
            scan(corpus[:1], corpus, {"c": View([Level(4)])}, k=1, ids=ids)
        assert caught.value.ids == ["doc-8500", "doc-8999"]

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    @pytest.mark.parametrize("name", plain.PACKED)
    def test_packed_codes_without_the_cosine(self, metric, name):
        corpus = random_rows(5, 0)
        with pytest.raises(UnsupportedError, match=f"{name} .* the metric cosine, got {metric}"):
            search(corpus, corpus, Level(4, Precision(name)), k=1, metric=metric)

    @pytest.mark.parametrize("k", [0, -1])
    def test_fewer_neighbors_than_one(self, k):
        corpus = random_rows(5, 0)
        with pytest.raises(InputError, match=rf"k must be at least 1 .* got {k}"):
            search(corpus, corpus, Level(4), k=k)

    def test_a_metric_that_is_none(self):
        corpus = random_rows(5, 0)
        with pytest.raises(InputError, match="metric must be one of cosine, dot, l2, got 'cos'"):
            search(corpus, corpus, Level(4), k=1, metric="cos")

    def test_numbers_too_large_for_float16_are_named_by_id_wherever_they_stand(self):
        corpus, ids = random_rows(9000, 0), [f"doc-{i}" for i in range(9000)]
        corpus[8500, 2] = 1e5
        level = Level(4, Precision.FLOAT16)
        with pytest.raises(VectorError, match=r"float16.*'doc-8500'") as caught:
            search(corpus[:1], corpus, level, k=1, metric="dot", ids=ids)
        assert caught.value.ids == ["doc-8500"]

    def test_int8_without_its_steps(self):
        corpus = random_rows(5, 0)
        with pytest.raises(InputError, match="int8 codes need the step of every dimension"):
            scan(corpus, corpus, {"c": View([Level(4, Precision.INT8)])}, k=1)
