"""Figures of trials against plain implementations, and intervals that compare two maps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_rel

from matryo.adaptation.trials import LabelsTrial, PairsTrial, SearchTrial
from matryo.transforms import Reorder, Rotation

DIMS = (4, 8, 16)
rng = np.random.default_rng(0)
CORPUS = rng.standard_normal((120, 16)).astype(np.float32)
QUERIES = rng.standard_normal((25, 16)).astype(np.float32)
REVERSED = (Reorder.of(range(15, -1, -1)),) * 2


def scores(queries, corpus, dim):
    a, b = (x[:, :dim].astype(np.float64) for x in (queries, corpus))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (
        b / np.linalg.norm(b, axis=1, keepdims=True)
    ).T


def top(queries, corpus, dim, k, exclude=None):
    table = scores(queries, corpus, dim)
    for row, rows in zip(table, exclude or (), strict=False):
        row[rows] = -np.inf
    return np.argsort(-table, axis=1, kind="stable")[:, :k]


class TestSearch:
    @pytest.mark.parametrize("both", [None, REVERSED])
    def test_without_judgments_it_is_the_share_of_full_width_neighbors(self, both):
        figures = SearchTrial(QUERIES, CORPUS, k=5).figures(both, DIMS)

        truth = top(QUERIES, CORPUS, 16, 5)
        turn = slice(None, None, -1 if both else 1)
        for column, dim in enumerate(DIMS):
            found = top(QUERIES[:, turn], CORPUS[:, turn], dim, 5)
            plain = [len(set(a) & set(b)) / 5 for a, b in zip(found, truth, strict=True)]
            np.testing.assert_allclose(figures[:, column], plain)
        assert (figures[:, -1] == 1).all()

    def test_a_query_does_not_find_what_is_excluded(self):
        rows = np.arange(25)
        exclude = [np.array([row, row + 30]) for row in rows]

        trial = SearchTrial(CORPUS[rows], CORPUS, exclude=exclude, k=3)

        found = top(CORPUS[rows], CORPUS, 4, 3, exclude)
        truth = top(CORPUS[rows], CORPUS, 16, 3, exclude)
        plain = [len(set(a) & set(b)) / 3 for a, b in zip(found, truth, strict=True)]
        np.testing.assert_allclose(trial.figures(None, (4,))[:, 0], plain)

    def test_with_judgments_it_is_their_gain(self):
        names, ids = [f"q{i}" for i in range(25)], [f"d{i}" for i in range(120)]
        qrels = {name: {ids[i]: 1, ids[i + 50]: 1} for i, name in enumerate(names)}

        trial = SearchTrial(QUERIES, CORPUS, judged=(names, ids, qrels), k=10)

        gains = 1 / np.log2(np.arange(2, 12))
        plain = [
            gains[np.isin(found, (i, i + 50))].sum() / gains[:2].sum()
            for i, found in enumerate(top(QUERIES, CORPUS, 8, 10))
        ]
        np.testing.assert_allclose(trial.figures(None, (8,))[:, 0], plain, atol=1e-12)
        assert trial.measure == "nDCG@10"

    def test_a_map_of_queries_alone_changes_only_queries(self):
        rotation = Rotation().fit(CORPUS)
        figures = SearchTrial(QUERIES, CORPUS).figures((rotation, REVERSED[1]), (16,))

        assert figures.mean() < 0.5


def test_labels_are_voted_for_by_the_nearest_at_each_size():
    labels, truth = np.arange(120) % 3, np.arange(25) % 3
    figures = LabelsTrial(CORPUS, labels, QUERIES, truth).figures(None, DIMS)

    for column, dim in enumerate(DIMS):
        votes = labels[top(QUERIES, CORPUS, dim, 5)]
        counts = np.stack([(votes == c).sum(1) for c in range(3)], axis=1)
        sure = np.sort(counts, axis=1)[:, -1] > np.sort(counts, axis=1)[:, -2]
        hits = counts.argmax(1) == truth
        np.testing.assert_array_equal(figures[sure, column], hits[sure])


class TestPairs:
    GRADES = rng.integers(0, 6, 25).astype(float)
    TRIAL = PairsTrial(QUERIES, CORPUS[:25], GRADES)
    ALL = np.arange(25)

    def test_it_is_spearmans_correlation(self):
        values = self.TRIAL.means(self.TRIAL.figures(None, DIMS), self.ALL[5:])

        for value, dim in zip(values, DIMS, strict=True):
            cosines = np.diag(scores(QUERIES, CORPUS[:25], dim))[5:]
            assert value == pytest.approx(spearmanr(cosines, self.GRADES[5:]).statistic, abs=1e-6)

    def test_an_interval_lies_around_the_difference_and_grows_with_confidence(self):
        a, b = (self.TRIAL.figures(both, (4, 8)) for both in (REVERSED, None))
        weights = np.array([0.25, 0.75])
        gap = (self.TRIAL.means(a, self.ALL) - self.TRIAL.means(b, self.ALL)) @ weights

        narrow, wide = (
            self.TRIAL.difference(a, b, weights, self.ALL, confidence=c) for c in (0.8, 0.99)
        )

        assert wide.low < narrow.low < gap < narrow.high < wide.high
        assert (narrow.low + narrow.high) / 2 == pytest.approx(gap)

    def test_scores_that_are_all_alike_agree_with_nothing(self):
        flat = np.ones((25, 16), np.float32)

        trial = PairsTrial(flat, flat, self.GRADES)
        figures = trial.figures(None, (4,))

        assert trial.means(figures, self.ALL) == 0
        assert trial.difference(figures, figures, np.ones(1), self.ALL, confidence=0.9) == (0, 0)


class TestDifference:
    TRIAL = SearchTrial(QUERIES, CORPUS)
    ALL = np.arange(25)

    def test_it_is_students_t_on_pairs(self):
        a, b = (self.TRIAL.figures(both, (4, 8)) for both in (REVERSED, None))
        weights = np.array([0.25, 0.75])

        interval = self.TRIAL.difference(a, b, weights, self.ALL[3:], confidence=0.9)

        paired = ttest_rel(a[3:] @ weights, b[3:] @ weights).confidence_interval(0.9)
        np.testing.assert_allclose(interval, paired)

    def test_two_maps_that_answer_alike_do_not_differ(self):
        figures = self.TRIAL.figures(None, (4, 8))

        interval = self.TRIAL.difference(
            figures, figures, np.ones(2) / 2, self.ALL, confidence=0.95
        )

        assert interval == (0, 0)
