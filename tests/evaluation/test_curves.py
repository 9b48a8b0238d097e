"""Whole measurements on small clustered data."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from scipy import stats
from tests.search import plain

from matryo.core import DimError, InputError, Nesting, Precision, TooFewError, VectorError
from matryo.evaluation import Grid, Rules, measure_labels, measure_pairs, measure_search

WIDTH, DIMS = 24, (4, 12, 24)
RULES = Rules(0.9, 0.95, "synthetic")
PRECISIONS = tuple(Precision.parse_list("float32,int8,int4,int2,binary"))


def clustered(n, seed):
    """Rows around eight centres, whose first numbers say most; and the centre of each."""
    spread = 0.85 ** np.arange(WIDTH)
    centres = np.random.default_rng(0).normal(size=(8, WIDTH)) * spread
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 8, n)
    return (centres[kind] + 0.4 * rng.normal(size=(n, WIDTH)) * spread).astype(np.float32), kind


def grid(dims=DIMS, precisions=PRECISIONS, **options):
    return Grid(Nesting(tuple(dims)), precisions, **options)


def row_of(curves, measure, dim, precision="float32", method="cut"):
    wanted = (measure, dim, precision, method)
    (row,) = [r for r in curves.records if (r.measure, r.dim, r.precision, r.method) == wanted]
    return row


def plain_recall(scores, full, k):
    found, truth = plain.plain_top(scores, k), plain.plain_top(full, k)
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(found, truth, strict=True)])


@pytest.fixture(scope="module")
def corpus():
    return clustered(400, 1)[0]


@pytest.fixture(scope="module")
def queries():
    return clustered(60, 2)[0]


@pytest.fixture(scope="module")
def judged():
    kinds, asked = clustered(400, 1)[1], clustered(60, 2)[1]
    documents, names = [f"d{i}" for i in range(400)], [f"q{i}" for i in range(60)]
    rng = np.random.default_rng(3)
    qrels = {
        name: {documents[row]: 1 for row in rng.choice(np.flatnonzero(kinds == kind), 5)}
        for name, kind in zip(names, asked, strict=True)
    }
    return names, documents, qrels


class TestSearch:
    def test_every_size_precision_and_baseline_is_there_once(self, queries, corpus):
        curves = measure_search(queries, corpus, grid(), RULES, k=5)

        assert [(r.method, r.dim, r.precision) for r in curves.records] == [
            *[("cut", dim, p) for dim in DIMS for p in PRECISIONS],
            *[(m, dim, "float32") for m in ("random", "rotation") for dim in (4, 12)],
        ]
        assert {(c["a"], c["b"], c["dim"]) for c in curves.comparisons} == {
            (a, b, dim) for a, b in (("cut", "random"), ("rotation", "cut")) for dim in (4, 12)
        }

    def test_the_full_width_is_the_reference_and_keeps_all(self, queries, corpus):
        curves = measure_search(queries, corpus, grid(), RULES, k=5)

        row = row_of(curves, "neighbor_recall@5", WIDTH)
        assert (row.value, row.low, row.high, row.kept, row.verdict) == (1, 1, 1, 1, "reference")

    @pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
    def test_neighbor_recall_is_that_of_plain_search(self, queries, corpus, metric):
        wanted = grid(precisions=PRECISIONS[:1], metric=metric)

        curves = measure_search(queries, corpus, wanted, RULES, k=5)

        full = plain.plain_scores(queries, corpus, WIDTH, metric)
        for dim in DIMS:
            expected = plain_recall(plain.plain_scores(queries, corpus, dim, metric), full, 5)
            assert row_of(curves, "neighbor_recall@5", dim).value == pytest.approx(expected)

    @pytest.mark.parametrize("dim", DIMS)
    def test_relevance_at_every_size_is_that_of_plain_search(self, queries, corpus, judged, dim):
        names, documents, qrels = judged
        run = {
            name: dict(zip(documents, map(float, row), strict=True))
            for name, row in zip(names, plain.plain_scores(queries, corpus, dim), strict=True)
        }
        expected = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)

        curves = measure_search(
            queries, corpus, grid(baselines=False), RULES, k=5, judged=judged, names=["nDCG@10"]
        )

        plainly = np.mean([expected[name]["ndcg_cut_10"] for name in names])
        assert row_of(curves, "nDCG@10", dim).value == pytest.approx(plainly)

    def test_one_seed_gives_one_result(self, queries, corpus):
        once, twice = (
            measure_search(queries, corpus, grid(seed=5), RULES, k=5, threshold=0.5)
            for _ in range(2)
        )

        assert once == twice

    def test_queries_from_the_corpus_do_not_find_themselves(self, corpus):
        asked = np.arange(0, 400, 8)
        rules = Rules(0.9, 0.95, "sample", drawn=True)
        exclude = [np.array([row]) for row in asked]

        curves = measure_search(
            corpus[asked], corpus, grid(baselines=False), rules, k=5, exclude=exclude
        )

        short, full = (plain.plain_scores(corpus[asked], corpus, dim) for dim in (4, WIDTH))
        short[np.arange(50), asked] = full[np.arange(50), asked] = -np.inf
        row = row_of(curves, "neighbor_recall@5", 4)
        assert row.value == pytest.approx(plain_recall(short, full, 5))
        assert row.verdict == "figure only"

    def test_a_threshold_is_carried_to_every_level(self, queries, corpus):
        curves = measure_search(queries, corpus, grid(), RULES, k=5, threshold=0.6)

        levels = {(t["dim"], t["precision"]) for t in curves.thresholds}
        assert len(levels) == len(curves.thresholds) == len(curves.score_maps) == 14
        assert all(0 <= t["flipped"] <= 1 for t in curves.thresholds)

    def test_without_baselines_there_are_none(self, queries, corpus):
        curves = measure_search(queries, corpus, grid(baselines=False), RULES, k=5)

        assert {row.method for row in curves.records} == {"cut"}
        assert curves.comparisons == []

    @pytest.mark.parametrize("precisions", [PRECISIONS[:1], PRECISIONS], ids=["float32", "all"])
    def test_a_size_beyond_the_width_is_refused(self, queries, corpus, precisions):
        with pytest.raises(DimError, match=r"24.* got 30"):
            measure_search(queries, corpus, grid((4, 30), precisions), RULES, k=5)

    def test_one_query_at_a_floor_it_could_not_decide_is_refused(self, queries, corpus):
        with pytest.raises(TooFewError, match=r"at least \d+ queries are needed .* got 1"):
            measure_search(queries[:1], corpus, grid(), Rules(0.5, 0.95, "real"), k=5)

    def test_too_few_documents_to_fit_on_are_refused(self, queries, corpus):
        with pytest.raises(TooFewError, match=r"at least 32 documents .* got 20") as caught:
            measure_search(queries, corpus[:20], grid(), RULES, k=5)
        assert caught.value.needed == 32

    def test_a_bad_document_is_named_by_its_id(self, queries, corpus):
        bad = corpus.copy()
        bad[123] = np.nan
        with pytest.raises(VectorError, match="'d123'"):
            measure_search(queries, bad, grid(), RULES, k=5, ids=[f"d{i}" for i in range(400)])

    def test_a_metric_that_is_none_is_refused(self):
        with pytest.raises(InputError, match="metric must be one of"):
            grid(metric="euclid")


class TestPairs:
    @pytest.fixture
    def pairs(self):
        rng = np.random.default_rng(4)
        first = clustered(200, 5)[0]
        second = first + (rng.uniform(0, 1.5, (200, 1)) * clustered(200, 6)[0]).astype(np.float32)
        truth = plain.plain_scores(first, second, WIDTH).diagonal()
        return first, second, truth + rng.normal(0, 0.1, 200)

    def test_the_figure_is_the_rank_correlation_of_the_cosines(self, pairs):
        first, second, truth = pairs

        curves = measure_pairs(first, second, truth, grid(), RULES)

        for dim in DIMS:
            scores = plain.plain_scores(first, second, dim).diagonal()
            expected = stats.spearmanr(scores, truth).statistic
            assert row_of(curves, "spearman", dim).value == pytest.approx(expected, abs=1e-4)
        assert row_of(curves, "spearman", WIDTH).verdict == "reference"
        assert {row.method for row in curves.records} == {"cut", "random", "rotation"}

    def test_verdicts_follow_from_the_shares(self, pairs):
        curves = measure_pairs(*pairs, grid(), RULES)

        for row in curves.records[:-1]:
            keeps, below = row.kept_low >= 0.9, row.kept_high < 0.9
            assert (row.verdict == "keeps") <= keeps
            assert (row.verdict == "below") == below

    def test_judgments_that_do_not_differ_are_refused(self, pairs):
        with pytest.raises(InputError, match="expected judgments that differ, got 3 for all 200"):
            measure_pairs(pairs[0], pairs[1], np.full(200, 3.0), grid(), RULES)

    def test_few_pairs_are_refused(self, pairs):
        with pytest.raises(TooFewError, match="at least 64 pairs are needed, got 63"):
            measure_pairs(*(part[:63] for part in pairs), grid(), RULES)


class TestLabels:
    def test_neighbors_and_a_probe_are_measured(self):
        (train, labels), (test, truth) = clustered(300, 7), clustered(80, 8)

        curves = measure_labels(train, test, grid(), RULES, labels=labels, truth=truth)

        assert row_of(curves, "accuracy_knn", WIDTH).value > 0.8
        assert row_of(curves, "accuracy_probe", WIDTH).value > 0.8
        assert row_of(curves, "accuracy_knn", WIDTH).verdict == "reference"
        probes = {r.precision for r in curves.records if r.measure == "accuracy_probe"}
        assert probes == {"float32"}

    def test_labels_of_any_kind_give_the_same_figures(self):
        (train, labels), (test, truth) = clustered(300, 7), clustered(80, 8)
        letters = np.array(list("abcdefgh"))
        named = {"labels": letters[labels].tolist(), "truth": letters[truth].tolist()}

        by_number = measure_labels(train, test, grid(), RULES, labels=labels, truth=truth)
        by_name = measure_labels(train, test, grid(), RULES, **named)

        assert by_name.records == by_number.records

    def test_one_label_is_refused(self):
        train, test = clustered(100, 7)[0], clustered(20, 8)[0]
        with pytest.raises(InputError, match="at least two labels, got only 'x'"):
            measure_labels(train, test, grid(), RULES, labels=["x"] * 100, truth=["x"] * 20)
