"""Funnels against exact search, with ties, codes and counted bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.search import plain

from matryo.core import (
    DimError,
    Funnel,
    InputError,
    Precision,
    Stage,
    UnsupportedError,
    VectorError,
)
from matryo.search import FunnelSearch, Level, View, scan

WIDTH = 16
DENSE = [Precision.FLOAT32, Precision.FLOAT16, Precision.INT8]


def data(seed, n=200, *, twins=False):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n // 4 if twins else n, WIDTH)) * 0.9 ** np.arange(WIDTH)
    corpus = np.repeat(rows, 4, axis=0)[rng.permutation(n)] if twins else rows
    return corpus.astype(np.float32), rng.normal(size=WIDTH).astype(np.float32)


def answer_of(corpus, query, *stages, metric="cosine"):
    scales = {stage.dim: plain.steps(corpus, stage.dim, metric) for stage in stages}
    return FunnelSearch(corpus, Funnel(stages), metric=metric, scales=scales).search(query)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("twins", [False, True], ids=["distinct", "twins"])
@given(
    seed=st.integers(0, 2**16),
    first=st.sampled_from(DENSE),
    last=st.sampled_from(DENSE),
    dim=st.integers(1, WIDTH),
    k=st.integers(1, 20),
)
def test_keeping_everything_is_exact_search_at_the_last_stage(
    metric, twins, seed, first, last, dim, k
):
    corpus, query = data(seed, twins=twins)
    level = Level(WIDTH, last)
    view = View([level], scales={WIDTH: plain.steps(corpus, WIDTH, metric)})
    exact = scan(query[None], corpus, {"c": view}, k=k, metric=metric)["c", level]

    answer = answer_of(
        corpus, query, Stage(dim, len(corpus), first), Stage(WIDTH, k, last), metric=metric
    )

    np.testing.assert_array_equal(answer.rows, exact.rows[0])
    np.testing.assert_allclose(answer.scores, exact.scores[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("twins", [False, True], ids=["distinct", "twins"])
@given(
    seed=st.integers(0, 2**16),
    precision=st.sampled_from(Precision),
    dim=st.integers(1, WIDTH),
    keeps=st.tuples(st.integers(10, 200), st.integers(10, 200)).map(sorted),
)
def test_a_larger_keep_never_finds_fewer_even_where_few_bits_tie_many_rows(
    twins, seed, precision, dim, keeps
):
    corpus, query = data(seed, twins=twins)
    truth = set(plain.plain_top(plain.plain_scores(query[None], corpus, WIDTH), 10)[0])

    fewer, more = (
        answer_of(corpus, query, Stage(dim, keep, precision), Stage(WIDTH, 10)) for keep in keeps
    )

    assert len(truth & set(fewer.rows)) <= len(truth & set(more.rows))


@given(seed=st.integers(0, 2**16), precision=st.sampled_from(Precision), k=st.integers(1, 30))
def test_one_stage_is_exact_search_at_its_level(seed, precision, k):
    corpus, query = data(seed)
    scales = plain.steps(corpus, 8)
    scores = plain.plain_scores(query[None], corpus, 8, "cosine", precision, scales)[0]

    answer = answer_of(corpus, query, Stage(8, k, precision))

    np.testing.assert_allclose(answer.scores, -np.sort(-scores)[:k], atol=1e-6)
    np.testing.assert_allclose(scores[answer.rows], answer.scores, atol=1e-6)


def test_each_stage_reads_its_own_codes_of_the_rows_it_is_given():
    answer = answer_of(
        *data(1),
        Stage(12, 60, Precision.BINARY),
        Stage(10, 20, Precision.INT8),
        Stage(16, 5, Precision.FLOAT16),
    )

    assert answer.bytes_read == 200 * 2 + 60 * 10 + 20 * 16 * 2
    assert len(answer.rows) == 5


def test_a_keep_beyond_the_corpus_keeps_all_of_it():
    answer = answer_of(*data(1, n=8), Stage(4, 500), Stage(16, 100))

    assert sorted(answer.rows) == list(range(8))
    assert (np.diff(answer.scores) <= 0).all()


def test_equal_rows_go_by_their_number():
    corpus, query = np.ones((30, WIDTH), np.float32), np.ones(WIDTH, np.float32)

    answer = answer_of(corpus, query, Stage(4, 20), Stage(16, 6))

    assert answer.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(set(answer.scores)) == 1


class TestRefusals:
    @pytest.mark.parametrize("text", ["8[4x2]:10,16:5", "8:10,16:5,exact"])
    def test_lists_and_stop_rules_by_their_text(self, text):
        with pytest.raises(UnsupportedError, match="plain stages only, got 8"):
            FunnelSearch(data(0)[0], Funnel.parse(text))

    def test_a_stage_beyond_the_width(self):
        with pytest.raises(DimError, match="stage 17:5 is wider than the vectors, 16"):
            FunnelSearch(data(0)[0], Funnel.parse("8:10,17:5"))

    def test_binary_codes_without_the_cosine(self):
        with pytest.raises(UnsupportedError, match="need the metric cosine, got dot"):
            FunnelSearch(data(0)[0], Funnel.parse("8@binary:10"), metric="dot")

    def test_int8_without_its_steps(self):
        with pytest.raises(InputError, match="int8 codes need the step"):
            FunnelSearch(data(0)[0], Funnel.parse("8@int8:10"))

    def test_rows_of_zeros(self):
        corpus = data(0)[0]
        corpus[7] = 0
        with pytest.raises(VectorError, match="only zeros: 7"):
            FunnelSearch(corpus, Funnel.parse("8:10"))

    def test_several_queries_at_once(self):
        corpus, query = data(0)
        with pytest.raises(InputError, match=r"one query vector.* got shape \(2, 16\)"):
            FunnelSearch(corpus, Funnel.parse("8:10")).search(np.stack([query, query]))

    @pytest.mark.parametrize("width", [12, 20])
    def test_a_query_of_another_width(self, width):
        search = FunnelSearch(data(0)[0], Funnel.parse("8:10"))
        with pytest.raises(InputError, match=rf"16 numbers, got shape \({width},\)"):
            search.search(np.ones(width, np.float32))

    def test_a_query_with_nan(self):
        with pytest.raises(VectorError, match="NaN or infinity"):
            FunnelSearch(data(0)[0], Funnel.parse("8:10")).search(np.full(16, np.nan))
