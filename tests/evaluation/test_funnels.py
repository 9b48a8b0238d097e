"""What funnels would answer, read off shortlists, against what they really answer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.search import plain

from matryo.core import (
    Funnel,
    InputError,
    Line,
    Margin,
    Precision,
    Side,
    Stage,
    UnknownNameError,
    UnsupportedError,
)
from matryo.encoders import encode_texts, encoder
from matryo.evaluation import FunnelTable, Judged, fit_steps, neighbor_recall, relevance
from matryo.readers import read_texts
from matryo.search import NOWHERE, FunnelSearch, Level, TopK, View, scan, shortlists

CRANFIELD = Path(__file__).parents[2] / ".." / "shared" / "data" / "cranfield"
WIDTH, N, K, SETTLED = 16, 200, 5, 20
METRICS = ["cosine", "dot", "l2"]
KINDS = pytest.mark.parametrize("twins", [False, True], ids=["distinct", "twins"])
# two scores that differ in their last digit may be ranked otherwise by a search: no surprises here
fixed = settings(derandomize=True, max_examples=20)


def data(seed, *, twins=False, n=N):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, WIDTH)) * 0.9 ** np.arange(WIDTH) + 0.1
    if twins:
        rows = rows[rng.integers(0, n // 4, n)]
    return rows.astype(np.float32), (rng.normal(size=(4, WIDTH)) * 3).astype(np.float32)


class Case(NamedTuple):
    """Data, and what is told and what is found of funnels on them."""

    table: FunnelTable
    corpus: np.ndarray
    queries: np.ndarray
    metric: str
    scales: dict
    lists: dict
    judged: Judged

    def search(self, funnel):
        search = FunnelSearch(self.corpus, funnel, metric=self.metric, scales=self.scales)
        return [search.search(query) for query in self.queries]

    def rows(self, funnel):
        return np.array([answer.rows for answer in self.search(funnel)])

    def values(self, funnel, measure):
        """What is measured on the answers of a search, in the order in which they are given."""
        rows, k = self.rows(funnel), self.table.k
        found = TopK(rows, np.broadcast_to(-np.arange(k, dtype=np.float32), rows.shape), [])
        if measure.startswith("neighbor_recall"):
            full = Level(self.corpus.shape[1])
            views = {"": View([full])}
            truth = scan(self.queries, self.corpus, views, k=k, metric=self.metric)["", full]
            return neighbor_recall(found, truth, k)
        return relevance(
            found,
            query_ids=self.judged.queries,
            document_ids=self.judged.documents,
            qrels=self.judged.qrels,
            names=[measure],
        )[measure]


def case(corpus, queries, funnels, *, metric="cosine", cap=N, k=K, settle=SETTLED):
    full = corpus.shape[1]
    levels = {Level(s.dim, s.precision) for f in funnels for s in f.stages} | {Level(full)}
    scales = {level.dim: plain.steps(corpus, level.dim, metric) for level in levels}
    lists = shortlists(
        queries, corpus, View(sorted(levels), scales=scales), cap=cap, settle=settle, metric=metric
    )
    rng = np.random.default_rng(0)
    documents, names = [f"d{i}" for i in range(len(corpus))], [f"q{i}" for i in range(len(queries))]
    best = plain.plain_top(plain.plain_scores(queries, corpus, full, metric), 12)
    qrels = {
        name: {documents[row]: int(grade) for row, grade in zip(rows, grades, strict=True)}
        for name, rows, grades in zip(names, best, rng.integers(1, 4, best.shape), strict=True)
    }
    judged = Judged(names, documents, qrels)
    return Case(FunnelTable(lists, k, judged), corpus, queries, metric, scales, lists, judged)


def formats(metric):
    return [p for p in Precision if metric == "cosine" or not p.is_packed]


@st.composite
def funnels(draw, metric, n_stages, *, lasts=None, margin=False, k=K):
    """Funnels of any levels; of a single number under the cosine only the sign would be left."""
    keeps = sorted(draw(st.lists(st.integers(k, 90), min_size=n_stages - 1, max_size=n_stages - 1)))
    dims, kinds = st.integers(2, WIDTH), st.sampled_from(formats(metric))
    stages = [Stage(draw(dims), keep, draw(kinds)) for keep in reversed(keeps)]
    if lasts is None:
        stages.append(Stage(draw(dims), k, draw(kinds)))
    else:
        stages.append(Stage(WIDTH, k, draw(st.sampled_from(lasts))))
    if not margin:
        return Funnel(tuple(stages))
    slopes, levels = st.sampled_from([-0.5, 0.0, 0.5, 1.0]), st.floats(-0.3, 0.3)
    lines = tuple(Line(draw(slopes), draw(levels), 0.1) for _ in stages[1:])
    return Funnel(tuple(stages), Margin(draw(st.integers(k, 40)), draw(st.floats(-2, 3)), lines))


def assert_agrees(told, found):
    """Rows told stand in what was found, no later; without gaps they are what was found."""
    for mine, theirs in zip(told, found, strict=True):
        if (mine != NOWHERE).all():
            np.testing.assert_array_equal(mine, theirs)
        place = {row: i for i, row in enumerate(theirs.tolist())}
        assert all(place[row] <= i for i, row in enumerate(mine.tolist()) if row != NOWHERE), (
            f"told {mine.tolist()}, found {theirs.tolist()}"
        )


@KINDS
@pytest.mark.parametrize("metric", METRICS)
class TestAgainstSearch:
    @fixed
    @given(data_=st.data(), seed=st.integers(0, 2**16), cap=st.sampled_from([40, N]))
    def test_sizes_and_funnels_of_two_stages_answer_what_a_search_answers(
        self, metric, twins, data_, seed, cap
    ):
        lasts = [Precision.FLOAT32, Precision.INT8]
        size = data_.draw(funnels(metric, 1))
        two = data_.draw(funnels(metric, 2, lasts=lasts))
        some = case(*data(seed, twins=twins), [size, two], metric=metric, cap=cap)

        for funnel in (size, two):
            told = some.table.answer(funnel)

            assert_agrees(told, some.rows(funnel))
            whole = (told != NOWHERE).all(axis=1)
            for measure in (f"neighbor_recall@{K}", "nDCG@5"):
                values = some.table.values([funnel], measure)[0]
                found = some.values(funnel, measure)
                np.testing.assert_allclose(values[whole], found[whole], rtol=1e-12)
                assert (values <= found + 1e-12).all()

    @pytest.mark.slow
    @fixed
    @given(data_=st.data(), seed=st.integers(0, 2**16), cap=st.sampled_from([40, 90, N]))
    def test_no_funnel_is_told_to_be_better_than_it_is(self, metric, twins, data_, seed, cap):
        some_funnels = [
            data_.draw(funnels(metric, n, margin=margin))
            for n, margin in ((3, False), (2, True), (3, True))
        ]
        some = case(*data(seed, twins=twins), some_funnels, metric=metric, cap=cap)

        for funnel in some_funnels:
            assert_agrees(some.table.answer(funnel), some.rows(funnel))
            for measure in (f"neighbor_recall@{K}", "nDCG@5"):
                told = some.table.values([funnel], measure)[0]
                assert (told <= some.values(funnel, measure) + 1e-12).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "text",
    [
        "16:5",
        "6@int8:5",
        "5@float16:31,16:5",
        "4@int8:60,16@int8:5",
        "6:70,9@int8:25,16:5",
        "3:90,8@float16:40,12@int8:15,16:5",
        "6@int8:70,16:5,margin[10;0.5;0.5/-0.1/0.3]",
        "6:80,9@int8:40,16:5,margin[10;0.5;0.5/-0.1/0.3;0.9/-0.1/0.2]",
    ],
)
def test_nothing_is_left_open_where_lists_hold_all_rows_and_none_tie(metric, text):
    funnel = Funnel.parse(text)
    some = case(*data(1), [funnel], metric=metric)

    told = some.table.answer(funnel)

    np.testing.assert_array_equal(told, some.rows(funnel))


@pytest.mark.parametrize("text", ["8@int8:10", "4@binary:50,16@int8:10", "4:50,8@int8:20,16:10"])
def test_rows_that_a_query_must_not_find_are_found_by_no_stage(text):
    funnel = Funnel.parse(text)
    corpus, queries = data(3)
    exclude = [np.argsort(-scores)[:8] for scores in plain.plain_scores(queries, corpus, WIDTH)]
    levels = sorted({Level(s.dim, s.precision) for s in funnel.stages} | {Level(WIDTH)})
    scales = {level.dim: plain.steps(corpus, level.dim) for level in levels}

    lists = shortlists(
        queries, corpus, View(levels, scales=scales), cap=N, settle=40, exclude=exclude
    )
    told = FunnelTable(lists, 10).answer(funnel)

    for query, rows, gone in zip(queries, told, exclude, strict=True):
        left = np.setdiff1d(np.arange(N), gone)
        search = FunnelSearch(corpus[left], funnel, scales=scales)
        assert_agrees(rows[None], left[search.search(query).rows][None])


def test_a_tie_at_the_end_of_a_stage_is_left_open_and_holds_its_place():
    # eight equal rows, of which the first stage keeps four: that is for the search to choose
    corpus, queries = data(2, n=60)
    corpus[10:18, :4] = queries[0, :4]
    funnel = Funnel.parse("4:4,16:4")
    some = case(corpus, queries[:1], [funnel], k=4, settle=4, cap=6)

    told = some.table.answer(funnel)

    assert (told == NOWHERE).any()
    assert_agrees(told, some.rows(funnel))


@pytest.mark.parametrize(("metric", "spread"), [("l2", 100), ("dot", 1000)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_whose_rounding_is_larger_than_they_are_leave_rows_open(metric, spread, seed):
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(5, WIDTH))
    corpus, queries = (
        (centres[rng.integers(0, 5, n)] + rng.normal(size=(n, WIDTH))).astype(np.float32)
        for n in (600, 8)
    )
    some_funnels = [Funnel.parse(f"8:{keep},16:5") for keep in (10, 30, 60, 100)]
    some = case(corpus, queries, some_funnels, metric=metric, cap=110)

    for funnel in some_funnels:
        assert_agrees(some.table.answer(funnel), some.rows(funnel))


class TestRows:
    @fixed
    @given(data_=st.data(), seed=st.integers(0, 2**16), metric=st.sampled_from(METRICS))
    def test_plain_funnels_read_the_rows_that_a_search_reads(self, data_, seed, metric):
        funnel = data_.draw(funnels(metric, data_.draw(st.integers(1, 3))))
        some = case(*data(seed), [funnel], metric=metric, cap=40)

        read = some.table.rows(funnel, N)

        for answer in some.search(funnel):
            assert read == tuple(work.rows_read for work in answer.stages)

    def test_no_more_rows_are_read_than_there_are(self):
        funnel = Funnel.parse("4:90,8:60,16:5")
        some = case(*data(0, n=30), [funnel], cap=30)

        assert some.table.rows(funnel, 30) == (30, 30, 30)

    @fixed
    @given(data_=st.data(), seed=st.integers(0, 2**16), metric=st.sampled_from(METRICS))
    def test_margins_read_about_the_rows_that_a_search_reads(self, data_, seed, metric):
        funnel = data_.draw(funnels(metric, data_.draw(st.integers(2, 3)), margin=True))
        some = case(*data(seed), [funnel], metric=metric)

        told = np.array(some.table.rows(funnel, N))

        found = [[work.rows_read for work in answer.stages] for answer in some.search(funnel)]
        read = np.mean(found, axis=0)
        assert (told >= read - 1e-9).all()
        assert (told <= 1.1 * read + 1).all()
        assert (np.diff(told) <= 0).all()

    def test_a_probe_beyond_what_a_stage_keeps_is_read(self):
        funnel = Funnel.parse("4:8,16:5,margin[20;0.0;0.0/9.0/0.0]")
        some = case(*data(0), [funnel])

        assert some.table.rows(funnel, N) == (N, 20)
        assert [work.rows_read for work in some.search(funnel)[0].stages] == [N, 20]
        np.testing.assert_array_equal(some.table.answer(funnel), some.rows(funnel))


class TestBeyondTheList:
    def test_what_a_stage_keeps_beyond_its_list_counts_as_lost(self):
        within, beyond = Funnel.parse("3:40,16:5"), Funnel.parse("3:90,16:5")
        some = case(*data(5), [within, beyond], cap=40)

        told = some.table.answer(beyond)

        # a neighbor that is not listed may have passed, and holds its place
        neighbors = some.lists[Level(WIDTH)].rows[:, :K]
        listed = (neighbors[:, :, None] == some.lists[Level(3)].rows[:, None, :]).any(axis=2)
        assert not listed.all()
        np.testing.assert_array_equal(told, np.where(listed, neighbors, NOWHERE))
        assert_agrees(told, some.rows(beyond))
        both = some.table.values([within, beyond], "neighbor_recall@5")
        np.testing.assert_array_equal(both[0], both[1])

    def test_a_margin_that_looks_beyond_a_list_lets_nothing_pass_for_that(self):
        # of the rows probed hardly one is in the short list of the next stage
        funnel = Funnel.parse("2@binary:80,16:5,margin[10;0.0;1.0/-0.2/0.0]")
        some = case(*data(6), [funnel], cap=SETTLED)

        told = some.table.values([funnel], "neighbor_recall@5")[0]

        assert (told <= some.values(funnel, "neighbor_recall@5")).all()

    def test_the_shortest_list_says_how_much_is_known(self):
        some = case(*data(0), [Funnel.parse("8:5")], cap=60)
        short = case(*data(0), [Funnel.parse("4:5")], cap=40)

        table = FunnelTable({**some.lists, Level(4): short.lists[Level(4)]}, K)

        assert table.cap == 40
        assert table.n_queries == 4


class TestAnswerScores:
    @fixed
    @given(data_=st.data(), seed=st.integers(0, 2**16), metric=st.sampled_from(METRICS))
    def test_they_are_those_of_the_search_and_of_the_full_width(self, data_, seed, metric):
        funnel = data_.draw(funnels(metric, data_.draw(st.integers(1, 2))))
        some = case(*data(seed), [funnel], metric=metric)
        told = some.table.answer(funnel)

        own, whole = some.table.answer_scores(funnel)

        full = plain.plain_scores(some.queries, some.corpus, WIDTH, metric)
        known = told != NOWHERE
        near = {"rtol": 2e-5, "atol": 2e-5}
        expected = np.take_along_axis(full, np.maximum(told, 0), axis=1)
        np.testing.assert_allclose(whole[known], expected[known], **near)
        complete = known.all(axis=1)
        found = np.array([answer.scores for answer in some.search(funnel)])
        np.testing.assert_allclose(own[complete], found[complete], **near)
        assert np.isneginf(own[~known]).all()
        assert np.isneginf(whole[~known]).all()

    def test_rows_beyond_the_list_of_the_full_width_have_no_score_there(self):
        funnel = Funnel.parse("2@int8:5")
        some = case(*data(4), [funnel], cap=25)

        own, whole = some.table.answer_scores(funnel)

        listed = [
            [row in rows for row in mine]
            for mine, rows in zip(
                some.table.answer(funnel), some.lists[Level(WIDTH)].rows, strict=True
            )
        ]
        assert not np.all(listed)
        np.testing.assert_array_equal(np.isfinite(whole), listed)
        assert np.isfinite(own).all()

    def test_lists_of_different_lengths_keep_their_scores_apart(self):
        funnel = Funnel.parse("2@int8:5")
        some, short = (case(*data(4), [funnel], cap=cap) for cap in (N, 25))

        table = FunnelTable({**some.lists, Level(2, Precision.INT8): short.lists[2, "int8"]}, K)

        np.testing.assert_array_equal(
            table.answer_scores(funnel)[1], some.table.answer_scores(funnel)[1]
        )


class TestMarginGaps:
    @pytest.mark.parametrize("cap", [60, N])
    def test_they_are_bars_and_scores_of_the_true_neighbors(self, cap):
        stages = Funnel.parse("4@binary:50,8@int8:20,16:5").stages
        corpus, queries = data(7)
        some = case(corpus, queries, [Funnel(stages)], cap=cap)

        gaps = some.table.margin_gaps(stages, 10)

        scores = [
            plain.plain_scores(queries, corpus, s.dim, "cosine", s.precision, some.scales[s.dim])
            for s in stages
        ]
        neighbors = plain.plain_top(scores[-1], K)
        for place, pairs in enumerate(gaps):
            expected = []
            for query, rows in enumerate(neighbors):
                here, there = scores[place][query], scores[place + 1][query]
                first, listed = np.argsort(-here, kind="stable"), np.argsort(-there, kind="stable")
                ahead = sorted(there[np.intersect1d(first[:10], listed[:cap])], reverse=True)
                bar = ahead[K - 1] if len(ahead) >= K else None
                expected += [
                    (bar, here[row]) for row in rows if row in first[:cap] and bar is not None
                ]
            np.testing.assert_allclose(sorted(pairs.tolist()), sorted(expected), atol=2e-5)
        assert len(gaps) == 2


class TestRefusals:
    LISTS = ("8:5", "16@int8:5")

    def table(self, **options):
        return case(*data(0), [Funnel.parse(text) for text in self.LISTS], **options).table

    def test_no_list_of_the_full_width(self):
        lists = dict(self.table().lists)
        del lists[Level(WIDTH)]

        with pytest.raises(InputError, match="expected a shortlist of 16@float32, the full width"):
            FunnelTable(lists, K)

    @pytest.mark.parametrize("k", [0, 21])
    def test_answers_longer_than_the_exact_part_of_a_list(self, k):
        with pytest.raises(InputError, match=rf"exact rows of every list, 20, got {k}"):
            FunnelTable(self.table().lists, k)

    def test_a_query_that_finds_too_few_rows(self):
        corpus, queries = data(0, n=8)
        exclude = [[], [1, 2, 3, 4], [], []]
        lists = shortlists(queries, corpus, View([Level(WIDTH)]), cap=8, settle=8, exclude=exclude)

        with pytest.raises(InputError, match="holds 5 rows, but query number 1 can find only 4"):
            FunnelTable(lists, 5)

    def test_relevance_without_judgments(self):
        table = FunnelTable(self.table().lists, K)

        with pytest.raises(InputError, match="nDCG@5 needs judgments, and there are none"):
            table.values([Funnel.parse("8:5")], "nDCG@5")

    def test_a_measure_of_more_rows_than_an_answer_holds(self):
        with pytest.raises(InputError, match="answers of 5 rows cannot be measured by nDCG@10"):
            self.table().values([Funnel.parse("8:5")], "nDCG@10")

    @pytest.mark.parametrize("measure", ["nDCG", "accuracy", "neighbor_recall@4"])
    def test_what_is_no_measure_of_answers(self, measure):
        with pytest.raises(UnknownNameError, match=f"measure is called {measure!r}"):
            self.table().values([Funnel.parse("8:5")], measure)

    def test_a_stage_without_a_list(self):
        table = self.table()

        for told in (table.answer, table.answer_scores, lambda funnel: table.rows(funnel, N)):
            with pytest.raises(InputError, match=r"no shortlist of 4@int8, which 4@int8:20,16:5"):
                told(Funnel.parse("4@int8:20,16:5"))

    @pytest.mark.parametrize("text", ["8:4", "8:20,16:6"])
    def test_answers_of_another_length(self, text):
        with pytest.raises(InputError, match=rf"a last stage that keeps 5 rows, got {text}"):
            self.table().answer(Funnel.parse(text))

    @pytest.mark.parametrize("text", ["8[4x2]:20,16:5", "8:20,16:5,exact"])
    def test_what_shortlists_cannot_tell(self, text):
        with pytest.raises(UnsupportedError, match="what stages that read every row keep"):
            self.table().values([Funnel.parse(text)], "neighbor_recall@5")


@cache
def cranfield():
    """Cranfield as the embedded model encodes it, with its judgments and a table of many levels."""
    model, k = encoder("default"), 10
    texts = [read_texts(CRANFIELD / f"{name}.jsonl") for name in ("corpus", "queries")]
    corpus, queries = (
        encode_texts(model, some.texts, side=side)
        for some, side in zip(texts, (Side.DOCUMENT, Side.QUERY), strict=True)
    )
    qrels = {}
    for line in (CRANFIELD / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    levels = [Level(dim, p) for dim in (32, 64, 128, 256) for p in formats("cosine")]
    scales = fit_steps(corpus[::2], levels, "cosine")
    lists = shortlists(queries, corpus, View(levels, scales=scales), cap=400, settle=4 * k)
    judged = Judged(texts[1].ids, texts[0].ids, qrels)
    return Case(FunnelTable(lists, k, judged), corpus, queries, "cosine", scales, lists, judged)


@pytest.mark.slow
@pytest.mark.skipif(not CRANFIELD.is_dir(), reason="the data set is not here")
class TestCranfield:
    @pytest.fixture(autouse=True)
    def _model(self):
        pytest.importorskip("wordllama")

    @pytest.mark.parametrize(
        "text",
        [
            "256:10",
            "64:10",
            "256@int8:10",
            "64@binary:10",
            "32@float16:250,256:10",
            "64@binary:300,256:10",
            "64@binary:300,256@int8:10",
            "128@int8:25,256:10",
            "128@int8:25,256@int8:10",
        ],
    )
    def test_sizes_and_two_stages_are_told_exactly(self, text):
        some, funnel = cranfield(), Funnel.parse(text)

        np.testing.assert_array_equal(some.table.answer(funnel), some.rows(funnel))
        for measure in ("neighbor_recall@10", "nDCG@10"):
            told = some.table.values([funnel], measure)[0]
            np.testing.assert_allclose(told, some.values(funnel, measure), rtol=1e-12)
        read = [[work.rows_read for work in answer.stages] for answer in some.search(funnel)]
        assert some.table.rows(funnel, len(some.corpus)) == tuple(np.mean(read, axis=0))

    @pytest.mark.parametrize(
        "text", ["64@binary:200,256@int8:20,256:10", "128@binary:271,256@binary:30,256:10"]
    )
    def test_three_stages_are_told_closely_and_never_too_well(self, text):
        some, funnel = cranfield(), Funnel.parse(text)

        self.assert_close(some, funnel)

    @pytest.mark.parametrize("width", [0.5, 2.0])
    @pytest.mark.parametrize(
        "text",
        [
            "128@binary:271,256:10",
            "128@int8:132,256@int8:80,256:10",
            "64@binary:300,256@int8:60,256:10",
        ],
    )
    def test_margins_are_told_closely_and_never_too_well(self, text, width):
        some, stages = cranfield(), Funnel.parse(text).stages
        lines = []
        for bar, score in (gaps.T for gaps in some.table.margin_gaps(stages, 20)):
            slope, level = np.polyfit(bar, score, 1)
            lines.append(Line(slope, level, float(np.std(score - slope * bar - level))))
        funnel = Funnel(stages, Margin(20, width, tuple(lines)))

        self.assert_close(some, funnel)
        read = [[work.rows_read for work in answer.stages] for answer in some.search(funnel)]
        told = some.table.rows(funnel, len(some.corpus))
        np.testing.assert_allclose(told, np.mean(read, axis=0), rtol=0.02)

    def assert_close(self, some, funnel):
        assert_agrees(some.table.answer(funnel), some.rows(funnel))
        for measure in ("neighbor_recall@10", "nDCG@10"):
            told, found = some.table.values([funnel], measure)[0], some.values(funnel, measure)
            assert (told <= found + 1e-12).all()
            assert told.mean() >= found.mean() - 0.002
