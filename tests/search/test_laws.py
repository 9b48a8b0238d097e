"""Laws of the one pass and of the funnel, against plain numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search.plain import plain_scores, plain_top

from matryo.core import DimError, Funnel, InputError, Precision, UnsupportedError, VectorError
from matryo.search import FunnelSearch, Level, View, scan
from matryo.transforms import Rotation, fit_scales, truncate

DIMS = (4, 8, 24)


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    scale = 0.9 ** np.arange(24)
    corpus = (rng.normal(size=(3000, 24)) * scale).astype(np.float32)
    return (rng.normal(size=(50, 24)) * scale).astype(np.float32), corpus


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_every_size_of_one_pass_is_exact_search_at_that_size(data, metric):
    queries, corpus = data
    levels = [Level(dim) for dim in DIMS]

    top = scan(queries, corpus, {"cut": View(levels)}, k=10, metric=metric)

    for level in levels:
        scores = plain_scores(queries, corpus, level.dim, metric)
        np.testing.assert_array_equal(top["cut", level].rows, plain_top(scores, 10))
        best = np.take_along_axis(scores, top["cut", level].rows, 1)
        np.testing.assert_allclose(top["cut", level].scores, best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT8])
def test_codes_are_made_after_the_cut_and_scored_with_their_scale(data, precision):
    queries, corpus = data
    level = Level(8, precision)
    prefix = truncate(corpus, 8)
    scales = fit_scales(prefix)
    decoded = {
        Precision.FLOAT16: prefix.astype(np.float16).astype(float),
        Precision.INT8: np.clip(np.rint(prefix / scales), -127, 127) * scales.astype(float),
    }[precision]
    asked = truncate(queries, 8).astype(float)

    found = scan(queries, corpus, {"cut": View([level], scales={8: scales})}, k=10)["cut", level]

    scores = asked @ decoded.T
    best = np.take_along_axis(scores, found.rows, 1)
    np.testing.assert_allclose(found.scores, best, atol=2e-6)
    np.testing.assert_allclose(best[:, -1], np.sort(scores, axis=1)[:, -10], atol=2e-6)


def test_sizes_together_equal_sizes_alone_whatever_the_threads(data):
    queries, corpus = data
    levels = [Level(dim) for dim in DIMS]
    together = scan(queries, corpus, {"cut": View(levels)}, k=7, threads=2)

    for level in levels:
        alone = scan(queries, corpus, {"cut": View([level])}, k=7, threads=1)

        np.testing.assert_array_equal(together["cut", level].rows, alone["cut", level].rows)
        np.testing.assert_array_equal(together["cut", level].scores, alone["cut", level].scores)


def test_equal_rows_are_ties_and_go_by_the_stated_order():
    rng = np.random.default_rng(0)
    corpus = np.repeat(rng.normal(size=(50, 12)).astype(np.float32), 40, axis=0)
    order = rng.permutation(len(corpus))
    corpus, level = corpus[order], Level(12)
    tie_order = rng.permutation(len(corpus))

    found = scan(corpus[:20], corpus, {"c": View([level])}, k=5, tie_order=tie_order)["c", level]

    for i in range(20):
        twins = np.flatnonzero((corpus == corpus[i]).all(axis=1))
        np.testing.assert_array_equal(found.rows[i], twins[np.argsort(tie_order[twins])][:5])
        assert set(found.tied[i]) == set(twins) - set(found.rows[i])


def test_excluded_rows_are_never_found(data):
    _, corpus = data
    level = Level(24)
    exclude = [np.array([i, i + 1]) for i in range(40)]

    found = scan(corpus[:40], corpus, {"c": View([level])}, k=10, exclude=exclude)["c", level]

    scores = plain_scores(corpus[:40], corpus, 24, "cosine")
    for i, rows in enumerate(exclude):
        scores[i, rows] = -np.inf
    np.testing.assert_array_equal(found.rows, plain_top(scores, 10))


def test_a_rotation_changes_nothing_at_full_width(data):
    queries, corpus = data
    rotation = Rotation().fit(corpus)
    level = Level(24)
    views = {"cut": View([level]), "rotation": View([level], map=rotation.transform)}

    top = scan(queries, corpus, views, k=10)

    np.testing.assert_array_equal(top["cut", level].rows, top["rotation", level].rows)


def test_a_mapped_file_gives_what_memory_gives(data, tmp_path):
    queries, corpus = data
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    view = {"c": View([Level(8), Level(24)])}

    a, b = scan(queries, corpus, view, k=3), scan(queries, mapped, view, k=3)

    for key in a:
        np.testing.assert_array_equal(a[key].rows, b[key].rows)


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e18, 1e30])
def test_lengths_far_from_one_do_not_matter_to_a_cosine(data, size):
    queries, corpus = data
    lengths = np.where(np.arange(len(corpus)) % 2, size, 1.0).astype(np.float32)
    level = Level(8)

    scaled = scan(queries, corpus * lengths[:, None], {"c": View([level])}, k=10)["c", level]

    np.testing.assert_array_equal(
        scaled.rows, plain_top(plain_scores(queries, corpus, 8, "cosine"), 10)
    )


class TestRefusals:
    def test_zero_nan_and_infinite_rows_are_named(self, data):
        queries, corpus = data
        ids = [f"doc-{i}" for i in range(len(corpus))]
        for value, fault in ((0.0, "only zeros"), (np.nan, "NaN"), (np.inf, "infinity")):
            bad = corpus.copy()
            bad[2000] = value
            with pytest.raises(VectorError, match=rf"{fault}.*doc-2000"):
                scan(queries, bad, {"c": View([Level(8)])}, k=3, ids=ids)

    def test_a_prefix_of_zeros_has_no_cosine(self, data):
        queries, corpus = data
        corpus[7, :4] = 0
        with pytest.raises(VectorError, match=r"cut to 4 numbers.*7"):
            scan(queries, corpus, {"c": View([Level(4), Level(24)])}, k=3)

    def test_widths_must_agree(self, data):
        queries, corpus = data
        with pytest.raises(DimError, match=r"one width, got \(20,\) and \(24,\)"):
            scan(queries[:, :20], corpus, {"c": View([Level(8)])}, k=3)

    def test_more_neighbors_than_rows_are_refused(self, data):
        queries, corpus = data
        with pytest.raises(InputError, match=r"at most .* 5, got 6"):
            scan(queries, corpus[:5], {"c": View([Level(8)])}, k=6)

    def test_binary_needs_the_cosine(self, data):
        queries, corpus = data
        with pytest.raises(UnsupportedError, match="need the metric cosine, got dot"):
            scan(queries, corpus, {"c": View([Level(8, Precision.BINARY)])}, k=3, metric="dot")


class TestFunnel:
    @pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
    def test_keeping_everything_equals_exact_search_at_the_last_stage(self, data, metric):
        queries, corpus = data
        level = Level(24)
        funnel = FunnelSearch(corpus, Funnel.parse("4:3000,24:10"), metric=metric)
        exact = scan(queries, corpus, {"c": View([level])}, k=10, metric=metric)["c", level]

        found = np.array([funnel.search(query).rows for query in queries])

        np.testing.assert_array_equal(found, exact.rows)

    def test_of_equal_rows_at_the_border_the_earlier_ones_stay(self):
        rng = np.random.default_rng(1)
        corpus = np.repeat(rng.normal(size=(10, 8)).astype(np.float32), 30, axis=0)
        corpus = corpus[rng.permutation(300)]

        answer = FunnelSearch(corpus, Funnel.parse("8:7")).search(corpus[0])

        twins = np.flatnonzero((corpus == corpus[0]).all(axis=1))
        np.testing.assert_array_equal(answer.rows, twins[:7])

    @given(keeps=st.tuples(st.integers(10, 400), st.integers(10, 400)), seed=st.integers(0, 99))
    def test_a_larger_keep_never_finds_fewer_true_neighbors(self, keeps, seed):
        rng = np.random.default_rng(seed)
        corpus = rng.normal(size=(400, 16)).astype(np.float32)
        query = rng.normal(size=16).astype(np.float32)
        truth = set(plain_top(plain_scores(query[None], corpus, 16, "cosine"), 10)[0])

        found = [
            len(truth & set(FunnelSearch(corpus, Funnel.parse(f"4:{k},16:10")).search(query).rows))
            for k in sorted(keeps)
        ]

        assert found[0] <= found[1]

    def test_bytes_read_are_those_of_the_codes(self, data):
        queries, corpus = data
        scales = {8: fit_scales(truncate(corpus, 8))}

        answer = FunnelSearch(corpus, Funnel.parse("8@int8:100,24:10"), scales=scales).search(
            queries[0]
        )

        assert answer.bytes_read == 3000 * 8 + 100 * 24 * 4


def test_ties_beyond_what_is_kept_still_go_by_the_stated_order():
    corpus = np.ones((3000, 4), np.float32)
    reversed_order = np.arange(3000)[::-1]

    top = scan(corpus[:2], corpus, {"c": View([Level(2), Level(4)])}, k=3, tie_order=reversed_order)

    for found in top.values():
        np.testing.assert_array_equal(found.rows, [[2999, 2998, 2997]] * 2)
        assert all(len(rows) == 1024 for rows in found.tied)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_distances_far_from_the_origin_are_right(precision):
    rng = np.random.default_rng(0)
    corpus = (1000 + rng.normal(size=(9000, 16))).astype(np.float32)
    queries = (1000 + rng.normal(size=(80, 16))).astype(np.float32)
    level, scales = Level(16, precision), {16: fit_scales(corpus)}

    found = scan(queries, corpus, {"c": View([level], scales=scales)}, k=5, metric="l2")["c", level]

    stored = corpus.astype(float)
    if precision is Precision.INT8:
        stored = np.clip(np.rint(corpus / scales[16]), -127, 127) * scales[16].astype(float)
    scores = plain_scores(queries, stored, 16, "l2")
    best = np.take_along_axis(scores, found.rows, 1)
    np.testing.assert_allclose(best, -np.sort(-scores, axis=1)[:, :5], rtol=1e-6)


def test_numbers_too_small_for_float32_have_no_cosine():
    corpus = np.ones((50, 4), np.float32)
    corpus[7] = 1e-40

    with pytest.raises(VectorError, match=r"less than 1e-37\) remain of 1 of them.*: 7"):
        scan(corpus[:2], corpus, {"c": View([Level(4)])}, k=3)
