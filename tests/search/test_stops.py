"""Searches that stop early: by a margin, and once the answer is certain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.search import plain

from matryo.core import Exact, Funnel, Line, Margin, Precision, Side, Stage, UnsupportedError
from matryo.encoders import encode_texts, encoder
from matryo.readers import read_texts
from matryo.search import FunnelSearch, Level, View, Work, scan
from matryo.transforms import Rotation

CRANFIELD = Path(__file__).parents[2] / ".." / "shared" / "data" / "cranfield"
METRICS = ["cosine", "dot", "l2"]
WIDTH = 16
K = 5
seeds = st.integers(0, 2**16)


def data(seed, n=200):
    rng = np.random.default_rng(seed)
    corpus = rng.normal(size=(n, WIDTH)) * 0.9 ** np.arange(WIDTH)
    return corpus.astype(np.float32), rng.normal(size=WIDTH).astype(np.float32)


def answer_of(corpus, query, stages, stop=None, *, metric="cosine"):
    coded = {stage.dim for stage in stages if stage.precision is Precision.INT8}
    scales = {dim: plain.steps(corpus, dim, metric) for dim in coded}
    return FunnelSearch(corpus, Funnel(stages, stop), metric=metric, scales=scales).search(query)


def assert_same(answer, other):
    assert answer.rows.tolist() == other.rows.tolist()
    assert answer.scores.tobytes() == other.scores.tobytes()


def by_the_rule(corpus, query, stages, stop):
    """What a margin lets pass, from whole score vectors: the answer, and how many rows went on."""
    scores = []
    for stage in stages:
        scales = plain.steps(corpus, stage.dim)
        found = plain.plain_scores(
            query[None], corpus, stage.dim, "cosine", stage.precision, scales
        )
        scores.append(found[0].astype(np.float32))
    rows, counts = np.arange(len(corpus)), []
    for i, stage in enumerate(stages):
        ranked = rows[np.lexsort((rows, -scores[i][rows]))]
        if i == len(stages) - 1:
            return ranked[: stage.keep], counts
        probe, line = ranked[: stop.probe], stop.lines[i]
        bar = np.sort(scores[i + 1][probe])[::-1][: stages[-1].keep][-1]
        least = line.slope * float(bar) + line.level - stop.width * line.spread
        rest = ranked[stop.probe : stage.keep]
        rows = np.concatenate([probe, rest[scores[i][rest] >= least]])
        counts.append(len(rows))
    return None


class TestMargin:
    STAGES = (
        Stage(6, 90, Precision.BINARY),
        Stage(8, 40, Precision.INT8),
        Stage(WIDTH, K),
    )

    @given(
        seed=seeds,
        probe=st.integers(K, 120),
        width=st.floats(-2, 3),
        slope=st.sampled_from([0.0, 0.5, 1.0]),
        level=st.floats(-0.3, 0.3),
    )
    def test_it_lets_pass_what_its_rule_says(self, seed, probe, width, slope, level):
        corpus, query = data(seed)
        stop = Margin(probe, width, (Line(slope, level, 0.1), Line(slope, level, 0.05)))

        answer = answer_of(corpus, query, self.STAGES, stop)

        rows, counts = by_the_rule(corpus, query, self.STAGES, stop)
        np.testing.assert_array_equal(answer.rows, rows)
        assert [work.rows_kept for work in answer.stages] == [*counts, K]

    @given(seed=seeds, probe=st.integers(K, 40), spread=st.floats(1e-6, 10))
    def test_a_very_wide_margin_stops_nothing(self, seed, probe, spread):
        corpus, query = data(seed)
        stop = Margin(probe, 1e9, (Line(1.0, 0.0, spread),) * 2)

        answer = answer_of(corpus, query, self.STAGES, stop)

        without = answer_of(corpus, query, self.STAGES)
        assert_same(answer, without)
        assert answer.stages == without.stages

    @given(
        seed=seeds,
        precision=st.sampled_from(Precision),
        probe=st.integers(10, 60),
        widths=st.tuples(*[st.floats(-3, 3)] * 2).map(sorted),
    )
    def test_a_wider_margin_never_finds_fewer(self, seed, precision, probe, widths):
        corpus, query = data(seed)
        stages = (Stage(6, 100, precision), Stage(WIDTH, 10))
        truth = set(plain.plain_top(plain.plain_scores(query[None], corpus, WIDTH), 10)[0])

        narrow, wide = (
            answer_of(corpus, query, stages, Margin(probe, width, (Line(1.0, 0.0, 0.1),)))
            for width in widths
        )

        assert len(truth & set(narrow.rows)) <= len(truth & set(wide.rows))
        assert narrow.bytes_read <= wide.bytes_read

    @given(seed=seeds, probe=st.integers(K, 60))
    def test_the_probe_goes_on_in_any_case_and_is_read_once(self, seed, probe):
        corpus, query = data(seed)
        stages = (Stage(6, 30), Stage(WIDTH, K))

        answer = answer_of(corpus, query, stages, Margin(probe, 0.0, (Line(0.0, 9.0, 0.0),)))

        assert answer.stages == (
            Work(200, 200 * 6 * 4, probe),
            Work(probe, probe * WIDTH * 4, K),
        )
        probed = plain.plain_top(plain.plain_scores(query[None], corpus, 6), probe)[0]
        best = plain.plain_scores(query[None], corpus[probed], WIDTH)
        assert set(answer.rows) == set(probed[plain.plain_top(best, K)[0]])

    def test_fewer_rows_than_the_probe_all_go_on(self):
        corpus, query = data(0, n=4)

        answer = answer_of(corpus, query, self.STAGES, Margin(9, 0.0, (Line(0.0, 9.0, 0.0),) * 2))

        assert sorted(answer.rows) == [0, 1, 2, 3]


# numbers that rounding, cancelling and bounds find hard: nothing, next to nothing, and far too much
numbers = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e-8, -1e8, 1e12]),
    st.floats(-2, 2, width=32),
)
keeps = st.lists(st.integers(1, 30), min_size=3, max_size=3).map(lambda k: sorted(k, reverse=True))


def with_twins(rows, picks, factor):
    """More rows, equal to others or a multiple of them."""
    return np.concatenate([rows, rows[picks], rows[picks] * np.float32(factor)])


def certain(dims, keeps):
    return tuple(Stage(dim, keep) for dim, keep in zip(dims, keeps, strict=True))


class TestExact:
    @pytest.mark.parametrize("metric", METRICS)
    @given(
        rows=hnp.arrays(np.float32, (12, 7), elements=numbers),
        picks=hnp.arrays(np.int64, 6, elements=st.integers(0, 11)),
        factor=st.sampled_from([1.0, 3.0, -1.0, 1e5]),
        query=hnp.arrays(np.float32, 7, elements=numbers),
        borders=st.sampled_from([(1, 2, 7), (2, 6, 7), (1, 6, 7), (3, 4, 7)]),
        keeps=keeps,
    )
    @example(  # tails that cancel a head of a hundred million
        rows=np.array([[1e8, 1, -1e8, 0, 0, 0, 0], [1e8, -1, 1e8, 0, 0, 1e-8, 0]] * 6, np.float32),
        picks=np.arange(6),
        factor=1.0,
        query=np.ones(7, np.float32),
        borders=(1, 2, 7),
        keeps=[3, 2, 1],
    )
    def test_awkward_vectors_are_answered_as_by_exact_search(
        self, metric, rows, picks, factor, query, borders, keeps
    ):
        if metric == "cosine":  # which needs a direction
            rows[~rows.any(axis=1), 6] = 1
            query[6] = query[6] or 1
        corpus = with_twins(rows, picks, factor)

        answer = answer_of(corpus, query, certain(borders, keeps), Exact(), metric=metric)

        assert_same(answer, answer_of(corpus, query, (Stage(7, keeps[-1]),), metric=metric))

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    @given(
        corpus=hnp.arrays(
            np.float32, (40, 6), elements=st.sampled_from([0, 1, -1, 2, -700, 2**18])
        ),
        query=hnp.arrays(np.float32, 6, elements=st.sampled_from([0, 1, -1, 3, 2**12])),
        keeps=keeps,
    )
    def test_whole_numbers_are_answered_as_by_plain_arithmetic(self, metric, corpus, query, keeps):
        scores = plain.plain_scores(query[None], corpus, 6, metric).astype(np.float32)

        answer = answer_of(corpus, query, certain((1, 3, 6), keeps), Exact(), metric=metric)

        np.testing.assert_array_equal(answer.rows, plain.plain_top(scores, keeps[-1])[0])
        np.testing.assert_array_equal(answer.scores, scores[0, answer.rows])

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("tail", [0, 1e-9])
    def test_rows_that_rounding_confuses_are_told_apart(self, metric, tail):
        rng = np.random.default_rng(2)
        corpus = np.float32(rng.normal(size=100) + 1e-7 * rng.normal(size=(2000, 100)))
        corpus[:, 90:] *= np.float32(tail)
        query = rng.normal(size=100).astype(np.float32)

        stages = certain((60, 90, 100), (5, 5, 5))
        answer = answer_of(corpus, query, stages, Exact(), metric=metric)

        assert_same(answer, answer_of(corpus, query, stages[-1:], metric=metric))
        if metric != "cosine":
            scores = plain.plain_scores(query[None], corpus, 100, metric).astype(np.float32)
            np.testing.assert_array_equal(answer.rows, plain.plain_top(scores, 5)[0])

    @pytest.mark.parametrize("metric", METRICS)
    @given(seed=seeds, keeps=keeps, decay=st.sampled_from([0.5, 0.9, 1.0]))
    def test_it_finds_the_rows_of_a_scan(self, metric, seed, keeps, decay):
        rng = np.random.default_rng(seed)
        corpus = (rng.normal(size=(150, WIDTH)) * decay ** np.arange(WIDTH)).astype(np.float32)
        corpus = np.repeat(corpus, 2, axis=0)[rng.permutation(300)]
        query = rng.normal(size=WIDTH).astype(np.float32)
        level = Level(WIDTH)

        answer = answer_of(corpus, query, certain((2, 9, WIDTH), keeps), Exact(), metric=metric)

        views = {"": View([level])}
        exact = scan(query[None], corpus, views, k=keeps[-1], metric=metric)["", level]
        np.testing.assert_array_equal(answer.rows, exact.rows[0])
        np.testing.assert_allclose(answer.scores, exact.scores[0], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("metric", METRICS)
    def test_every_number_that_it_reads_is_counted(self, metric):
        corpus = np.zeros((40, 8), np.float32)
        corpus[:, 1] = 1
        corpus[7] = np.eye(8)[0]

        answer = answer_of(corpus, corpus[7], certain((4, 8), (1, 1)), Exact(), metric=metric)

        # four numbers of each row, the rest of the best one, and what bounds the other 39:
        # the length of their tails, and of whole rows where these have not all the same
        numbers = 40 * 4 + 4 + 39 + (0 if metric == "cosine" else 40)
        assert answer.rows.tolist() == [7]
        assert answer.stages == (Work(40, numbers * 4, 1), Work(0, 0, 1))
        assert answer.bytes_read == numbers * 4
        assert answer.dims_read == numbers / 40

    def test_what_is_passed_on_is_at_least_what_a_stage_keeps(self):
        corpus, query = data(3)

        answer = answer_of(corpus, query, certain((4, 8, WIDTH), (60, 30, K)), Exact())

        assert answer.stages[0].rows_kept >= 60
        assert answer.stages[1].rows_kept >= 30
        assert (answer.dim, answer.precision) == (WIDTH, Precision.FLOAT32)

    def test_more_rows_than_there_are_are_all_of_them(self):
        corpus, query = data(0, n=6)

        answer = answer_of(corpus, query, certain((4, WIDTH), (90, 50)), Exact())

        assert_same(answer, answer_of(corpus, query, (Stage(WIDTH, 50),)))
        assert len(answer.rows) == 6

    @pytest.mark.parametrize("metric", METRICS)
    def test_after_a_rotation_most_numbers_stay_unread(self, metric):
        # synthetic: a spectrum that decays as those of real embeddings do, in no order
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.normal(size=(128, 128)))[0]
        decay = (1 + np.arange(128)) ** -0.5
        corpus, queries = (
            ((rng.normal(size=(n, 128)) * decay) @ basis).astype(np.float32) for n in (3000, 8)
        )
        rotation = Rotation().fit(corpus)
        funnel = Funnel.parse("16:50,32:50,64:50,128:10,exact")

        read = {}
        for name, change in (("as it is", np.asarray), ("rotated", rotation.transform)):
            search = FunnelSearch(change(corpus), funnel, metric=metric)
            whole = FunnelSearch(change(corpus), Funnel(funnel.stages[-1:]), metric=metric)
            answers = [search.search(query) for query in change(queries)]
            for answer, query in zip(answers, change(queries), strict=True):
                assert_same(answer, whole.search(query))
            read[name] = np.mean([answer.dims_read for answer in answers])

        assert read["rotated"] < 40
        assert read["rotated"] < 0.5 * read["as it is"]

    @pytest.mark.parametrize("metric", METRICS)
    def test_where_all_directions_weigh_the_same_it_reads_nearly_everything(self, metric):
        rng = np.random.default_rng(1)
        corpus, query = rng.normal(size=(2000, 64)), rng.normal(size=64)

        stages = certain((16, 32, 64), (50, 50, 10))
        answer = answer_of(corpus, query, stages, Exact(), metric=metric)

        assert_same(answer, answer_of(corpus, query, stages[-1:], metric=metric))
        assert answer.dims_read > 60

    @pytest.mark.parametrize(
        "text",
        ["8@int8:9,16:5,exact", "8:9,12:5,exact", "8:9,8:7,16:5,exact", "16:9,8:5,exact"],
    )
    def test_stages_that_cannot_bound_the_full_width_are_refused(self, text):
        stages = text.removesuffix(",exact")
        with pytest.raises(UnsupportedError, match=rf"rise to the full width, 16, got {stages}"):
            FunnelSearch(data(0)[0], Funnel.parse(text))

    @pytest.mark.slow
    @pytest.mark.skipif(not CRANFIELD.is_dir(), reason="the data set is not here")
    @pytest.mark.parametrize("rotated", [False, True], ids=["as it is", "rotated"])
    def test_it_finds_what_exact_search_finds_for_every_query_of_cranfield(self, rotated):
        pytest.importorskip("wordllama")
        model = encoder("default")
        corpus, queries = (
            encode_texts(model, read_texts(CRANFIELD / f"{name}.jsonl").texts, side=side)
            for name, side in (("corpus", Side.DOCUMENT), ("queries", Side.QUERY))
        )
        if rotated:
            rotation = Rotation().fit(corpus)
            corpus, queries = rotation.transform(corpus), rotation.transform(queries)
        search = FunnelSearch(corpus, Funnel.parse("32:50,64:50,128:50,256:10,exact"))
        whole = FunnelSearch(corpus, Funnel.parse("256:10"))
        level = Level(256)
        scanned = scan(queries, corpus, {"": View([level])}, k=10)["", level]

        answers = [search.search(query) for query in queries]

        assert len(answers) == 225
        for answer, query, rows in zip(answers, queries, scanned.rows, strict=True):
            assert_same(answer, whole.search(query))
            np.testing.assert_array_equal(answer.rows, rows)
        assert np.mean([answer.dims_read for answer in answers]) < (128 if rotated else 256)
