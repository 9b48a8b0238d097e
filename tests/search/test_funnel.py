"""Funnels against exact search, with ties, codes and counted bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
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
from matryo.search import FunnelSearch, Level, View, Work, scan

WIDTH = 16
DENSE = [Precision.FLOAT32, Precision.FLOAT16, Precision.INT8]
PACKED = [Precision.INT4, Precision.INT2, Precision.BINARY]


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
    dim=st.integers(1, WIDTH),
    k=st.integers(1, 20),
    drawn=st.data(),
)
def test_keeping_everything_is_exact_search_at_the_last_stage(metric, twins, seed, dim, k, drawn):
    formats = st.sampled_from([*DENSE, *PACKED] if metric == "cosine" else DENSE)
    first, last = drawn.draw(formats), drawn.draw(formats)
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
    assert answer.stages == (Work(200, 400, 60), Work(60, 600, 20), Work(20, 640, 5))
    assert answer.dims_read == (200 * 12 + 60 * 10 + 20 * 16) / 200
    assert (answer.dim, answer.precision) == (16, Precision.FLOAT16)
    assert len(answer.rows) == 5


def test_a_keep_beyond_the_corpus_keeps_all_of_it():
    answer = answer_of(*data(1, n=8), Stage(4, 500), Stage(16, 100))

    assert sorted(answer.rows) == list(range(8))
    assert (np.diff(answer.scores) <= 0).all()


@pytest.mark.parametrize("metric", ["dot", "l2"])
@given(
    corpus=hnp.arrays(np.float32, (30, 9), elements=st.sampled_from([0, 1, -1, 3, -1000, 2**20])),
    query=hnp.arrays(np.float32, 9, elements=st.sampled_from([0, 1, -2, 5, 2**15])),
    k=st.integers(1, 30),
)
def test_whole_numbers_of_any_size_are_ranked_without_an_error(metric, corpus, query, k):
    scores = plain.plain_scores(query[None], corpus, 9, metric).astype(np.float32)

    answer = answer_of(corpus, query, Stage(9, k), metric=metric)

    np.testing.assert_array_equal(answer.rows, plain.plain_top(scores, k)[0])
    np.testing.assert_array_equal(answer.scores, scores[0, answer.rows])


@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
def test_distances_far_from_the_origin_are_as_good_as_near_it(offset):
    corpus, query = data(4, n=2000)
    corpus, query = np.float32(corpus + offset), np.float32(query + offset)
    scores = plain.plain_scores(query[None], corpus, WIDTH, "l2").astype(np.float32)

    answer = answer_of(corpus, query, Stage(WIDTH, 50), metric="l2")

    np.testing.assert_array_equal(answer.rows, plain.plain_top(scores, 50)[0])


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16])
def test_packed_codes_that_fill_no_byte_are_scored_to_the_last_bit(dim, precision):
    corpus, query = data(5, n=3000)
    scores = plain.plain_scores(query[None], corpus, dim, "cosine", precision)

    answer = answer_of(corpus, query, Stage(dim, 40, precision))

    np.testing.assert_array_equal(answer.rows, plain.plain_top(scores, 40)[0])
    np.testing.assert_array_equal(answer.scores, scores[0, answer.rows])


@pytest.mark.parametrize("precision", PACKED)
def test_a_later_stage_of_packed_codes_scores_the_rows_that_it_is_given(precision):
    corpus, query = data(7)
    first = plain.plain_top(plain.plain_scores(query[None], corpus, 4), 60)[0]
    scores = plain.plain_scores(query[None], corpus, 13, "cosine", precision)

    answer = answer_of(corpus, query, Stage(4, 60), Stage(13, 10, precision))

    ranked = first[np.lexsort((first, -scores[0, first]))][:10]
    np.testing.assert_array_equal(answer.rows, ranked)
    np.testing.assert_array_equal(answer.scores, scores[0, ranked])


@pytest.mark.parametrize("precision", PACKED)
def test_a_query_of_any_length_scores_packed_codes_alike(precision):
    corpus, query = data(8)

    answers = [
        answer_of(corpus, query * np.float32(2.0**power), Stage(11, 20, precision))
        for power in (-60, 0, 60)
    ]

    for answer in answers:
        np.testing.assert_array_equal(answer.rows, answers[1].rows)
        np.testing.assert_array_equal(answer.scores, answers[1].scores)


def test_steps_far_apart_are_scored_like_others():
    corpus, query = data(6)
    steps = plain.steps(corpus, WIDTH) * np.float32(10.0) ** np.arange(-3, 5).repeat(2)
    scores = plain.plain_scores(query[None], corpus, WIDTH, "cosine", "int8", steps)[0]

    funnel = Funnel((Stage(WIDTH, 20, Precision.INT8),))
    answer = FunnelSearch(corpus, funnel, scales={WIDTH: steps}).search(query)

    np.testing.assert_allclose(answer.scores, -np.sort(-scores)[:20], rtol=1e-6)
    np.testing.assert_allclose(scores[answer.rows], answer.scores, rtol=1e-6)


def test_equal_rows_go_by_their_number():
    corpus, query = np.ones((30, WIDTH), np.float32), np.ones(WIDTH, np.float32)

    answer = answer_of(corpus, query, Stage(4, 20), Stage(16, 6))

    assert answer.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(set(answer.scores)) == 1


class TestRefusals:
    def test_inverted_lists(self):
        with pytest.raises(UnsupportedError, match=r"reads every row .* lists in 8\[4x2\]:10,16:5"):
            FunnelSearch(data(0)[0], Funnel.parse("8[4x2]:10,16:5"))

    @pytest.mark.parametrize("shape", [(0, 16), (16,)])
    def test_no_rows(self, shape):
        with pytest.raises(VectorError, match=r"at least one vector, .* got shape"):
            FunnelSearch(np.ones(shape, np.float32), Funnel.parse("8:10"))

    @pytest.mark.parametrize("text", ["16:5", "8:9,16:5,exact"])
    @pytest.mark.parametrize("metric", ["dot", "l2"])
    def test_scores_beyond_float32(self, metric, text):
        corpus, query = data(0)
        search = FunnelSearch(corpus * np.float32(1e19), Funnel.parse(text), metric=metric)
        with pytest.raises(InputError, match=rf"scores below 1e\+37, .* for the metric {metric}"):
            search.search(query * np.float32(1e19))
        with pytest.raises(InputError, match=r"scores below 1e\+37"):
            search.search(query.astype(float) * 1e200)

    def test_a_stage_beyond_the_width(self):
        with pytest.raises(DimError, match="stage 17:5 is wider than the vectors, 16"):
            FunnelSearch(data(0)[0], Funnel.parse("8:10,17:5"))

    @pytest.mark.parametrize("precision", PACKED)
    def test_packed_codes_without_the_cosine(self, precision):
        with pytest.raises(UnsupportedError, match=f"{precision} .* the metric cosine, got dot"):
            FunnelSearch(data(0)[0], Funnel((Stage(8, 10, precision),)), metric="dot")

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


def test_a_float16_query_is_scaled_with_the_digits_of_float32():
    corpus, _ = data(3)
    search = FunnelSearch(corpus, Funnel.parse("16:5"))
    short = corpus[7].astype(np.float16)
    found, expected = search.search(short), search.search(short.astype(np.float32))
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.rows[0] == 7
