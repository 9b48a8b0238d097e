"""Measures against trec_eval itself, and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import UnknownNameError
from matryo.evaluation import neighbor_recall, parse_relevance, relevance, trec_order
from matryo.evaluation.measures import neighbor_votes, probe_hits
from matryo.search import Level, TopK, View, scan

TREC = {
    "nDCG@10": "ndcg_cut_10",
    "nDCG@5": "ndcg_cut_5",
    "R@20": "recall_20",
    "P@5": "P_5",
    "AP@10": "map_cut_10",
    "Success@1": "success_1",
}
LEVEL, VIEW = Level(8), {"c": View([Level(8)])}


def top(rows, scores, tied=()):
    return TopK(np.array(rows), np.array(scores, np.float32), [np.array(t, np.int64) for t in tied])


def judged_search(seed, *, tied):
    """Judgments and the full run; where tied, most documents are copies of a few."""
    rng = np.random.default_rng(seed)
    corpus = rng.normal(size=(120, 8)).astype(np.float32)
    corpus = corpus[rng.integers(0, 15, 120)] if tied else corpus
    queries = rng.normal(size=(12, 8)).astype(np.float32)
    documents = [f"{letter}{i}" for i, letter in enumerate(rng.choice(["d", "é", "Z", "1"], 120))]
    asked = [f"q{i}" for i in range(12)]
    qrels = {
        query: {documents[row]: int(rng.integers(0, 3)) for row in rng.choice(120, 25)}
        | {documents[rng.integers(120)]: 2}
        for query in asked
    }
    full = scan(queries, corpus, VIEW, k=120, tie_order=trec_order(documents))["c", LEVEL]
    run = {
        query: {documents[row]: float(score) for row, score in zip(rows, scores, strict=True)}
        for query, rows, scores in zip(asked, full.rows, full.scores, strict=True)
    }
    return queries, corpus, asked, documents, qrels, run


@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@given(seed=st.integers(0, 2**16))
def test_relevance_is_what_trec_eval_says_of_the_full_run(tied, seed):
    queries, corpus, asked, documents, qrels, run = judged_search(seed, tied=tied)
    wanted = {*TREC.values(), "recip_rank"}
    expected = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)

    found = scan(queries, corpus, VIEW, k=20, tie_order=trec_order(documents))["c", LEVEL]
    values = relevance(
        found, query_ids=asked, document_ids=documents, qrels=qrels, names=[*TREC, "RR@10"]
    )

    for name, theirs in TREC.items():
        np.testing.assert_allclose(values[name], [expected[query][theirs] for query in asked])
    ranks = np.array([expected[query]["recip_rank"] for query in asked])
    np.testing.assert_allclose(values["RR@10"], np.where(ranks >= 0.1 - 1e-9, ranks, 0))


def test_of_equal_scores_the_larger_id_goes_first_by_bytes():
    assert trec_order(["b", "a", "é", "Z", "10", "9"]).tolist() == [1, 2, 0, 3, 5, 4]


@pytest.mark.parametrize("name", ["nDCG", "nDCG@0", "nDCG@x", "recall@10", "@10", ""])
def test_a_measure_without_name_or_cutoff_is_refused_with_those_known(name):
    with pytest.raises(UnknownNameError, match=r"no measure is called[^\n]*\n[^\n]*nDCG@10"):
        parse_relevance([name])


class TestNeighborRecall:
    def test_it_is_the_share_of_the_true_ones(self):
        truth = top([[1, 2, 3, 4]], [[4, 3, 2, 1]], [[]])
        found = top([[2, 9, 1, 8]], [[9, 8, 7, 6]], [[]])

        assert neighbor_recall(found, truth, 4).tolist() == [0.5]
        assert neighbor_recall(found, truth, 2).tolist() == [0.5]

    @pytest.mark.parametrize(
        ("rows", "k", "recall"), [([1, 7, 8], 3, 1), ([7, 8, 2], 2, 1), ([7, 8, 9], 1, 0)]
    )
    def test_rows_tied_with_the_last_true_one_are_as_good(self, rows, k, recall):
        truth = top([[1, 2, 3]], [[4, 4, 4] if k == 2 else [5, 4, 4]], [[7, 8]])

        assert neighbor_recall(top([rows], [[3, 2, 1]], [[]]), truth, k).tolist() == [recall]

    def test_ties_below_the_last_true_one_do_not_count(self):
        truth = top([[1, 2, 3]], [[5, 4, 3]], [[7, 8]])

        assert neighbor_recall(top([[7, 8, 3]], [[3, 2, 1]], [[]]), truth, 2).tolist() == [0]

    @given(seed=st.integers(0, 2**16), k=st.integers(1, 10), deeper=st.integers(0, 10))
    def test_exact_search_finds_all_whatever_the_order_of_ties(self, seed, k, deeper):
        rng = np.random.default_rng(seed)
        corpus = rng.normal(size=(6, 8)).astype(np.float32)[rng.integers(0, 6, 40)]
        queries = rng.normal(size=(5, 8)).astype(np.float32)
        truth = scan(queries, corpus, VIEW, k=k + deeper)["c", LEVEL]

        found = scan(queries, corpus, VIEW, k=k, tie_order=rng.permutation(40))["c", LEVEL]

        np.testing.assert_array_equal(neighbor_recall(found, truth, k), np.ones(5))


class TestLabels:
    @given(seed=st.integers(0, 2**16), k=st.integers(1, 7))
    def test_votes_are_counted_as_in_a_loop(self, seed, k):
        rng = np.random.default_rng(seed)
        labels, truth = rng.integers(0, 4, 30), rng.integers(0, 4, 8)
        labels[0] = 3
        rows = np.array([rng.choice(30, 7, replace=False) for _ in truth])
        scores = -np.sort(-rng.uniform(-1, 1, rows.shape)).astype(np.float32)

        right = neighbor_votes(top(rows, scores, [[]] * 8), labels, truth, k)

        for i, goal in enumerate(truth):
            votes = dict.fromkeys(range(4), 0.0)
            for row, score in zip(rows[i, :k], scores[i, :k], strict=True):
                votes[labels[row]] += max(float(score), 0) + 1e-9
            assert right[i] == (max(votes, key=votes.get) == goal)

    def test_a_label_never_seen_is_never_right(self):
        found = top([[0, 1]], [[0.9, 0.8]], [[]])

        assert neighbor_votes(found, np.array([0, 0, 1]), np.array([-1]), 2).tolist() == [0]

    def test_a_probe_separates_what_a_line_separates(self):
        rows = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
        labels = (rows[:, 0] > 0).astype(int)
        rows[:, 0] += 2 * labels - 1

        hits = probe_hits(rows[:150], labels[:150], rows[150:], labels[150:])

        assert hits.shape == (50,)
        assert hits.mean() > 0.95
