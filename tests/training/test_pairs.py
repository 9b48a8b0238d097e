"""Scores of pairs and losses on them, against one score per size."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training import plain
from tests.training.plain import assert_same, leaf
from torch.nn import functional

from matryo.core import DimError, InputError, TooFewError, VectorError
from matryo.training import (
    PAIR_METRICS,
    contrastive,
    correlation,
    cosent,
    nested_pair_scores,
    nested_pairs,
    nested_triplet,
)

DIMS = [2, 4, 10]
LABELS = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.0, 1.0, 0.3], dtype=torch.float64)

LOSSES = {
    "cosent": (cosent, plain.cosent),
    "cosine MSE": (functional.mse_loss, lambda scores, labels: (scores - labels).square().mean()),
    "correlation": (
        correlation,
        lambda scores, labels: 1 - torch.corrcoef(torch.stack([scores, labels]))[0, 1],
    ),
    "contrastive": (
        lambda scores, labels: contrastive(scores, (labels > 0.4).double()),
        lambda scores, labels: (
            torch.where(labels > 0.4, 1 - scores, (scores - 0.5).relu()).square().mean() / 2
        ),
    ),
}


def pairs(n=7):
    return leaf(n, 10), leaf(n, 10, seed=1)


@pytest.mark.parametrize("metric", PAIR_METRICS)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 9))
def test_scores_and_their_gradients_are_those_of_each_size(metric, seed, n):
    left, right, shares = leaf(n, 10, seed=seed), leaf(n, 10, seed=seed + 1), leaf(3, n, seed=3)

    assert nested_pair_scores(left, right, DIMS, metric=metric).shape == (3, n)
    assert_same(
        lambda: (nested_pair_scores(left, right, DIMS, metric=metric) * shares).sum(),
        lambda: sum(
            (plain.pair_scores(left, right, dim, metric) * share).sum()
            for dim, share in zip(DIMS, shares, strict=True)
        ),
        left,
        right,
    )


@pytest.mark.parametrize("metric", PAIR_METRICS)
@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_of_scores_is_summed_over_sizes(name, metric):
    left, right = pairs()
    ours, theirs = LOSSES[name]

    assert_same(
        lambda: nested_pairs(
            ours, left, right, LABELS, DIMS, weights=[0.5, 1.0, 2.0], metric=metric
        ),
        lambda: sum(
            weight * theirs(plain.pair_scores(left, right, dim, metric), LABELS)
            for dim, weight in zip(DIMS, (0.5, 1.0, 2.0), strict=True)
        ),
        left,
        right,
    )


@given(
    labels=st.lists(st.sampled_from([0, 1, 2, 5]), min_size=2, max_size=9), seed=st.integers(0, 99)
)
def test_cosent_by_sorting_is_the_sum_over_all_pairs_of_pairs(labels, seed):
    labels, scores = torch.tensor(labels), leaf(2, len(labels), seed=seed)

    assert_same(
        lambda: cosent(scores, labels).sum(),
        lambda: sum(plain.cosent(row, labels) for row in scores),
        scores,
    )


def test_cosent_of_equal_labels_asks_for_nothing():
    scores = leaf(4)
    loss = cosent(scores, torch.ones(4))
    loss.backward()

    assert loss == 0
    assert not scores.grad.any()


def test_the_angle_of_a_prefix_pairs_the_same_numbers_as_that_of_the_whole():
    left, right = pairs()

    short = nested_pair_scores(left[:, :4], right[:, :4], [2, 4], metric="angle")

    torch.testing.assert_close(short, nested_pair_scores(left, right, [2, 4], metric="angle"))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_triplets_are_summed_over_sizes(metric):
    left, right = pairs()
    other = leaf(7, 10, seed=2)

    assert_same(
        lambda: nested_triplet(left, right, other, DIMS, margin=0.3, metric=metric),
        lambda: sum(
            (
                0.3
                - plain.pair_scores(left, right, dim, metric)
                + plain.pair_scores(left, other, dim, metric)
            )
            .clamp_min(0)
            .mean()
            for dim in DIMS
        ),
        left,
        right,
        other,
    )


class TestRefusals:
    def test_odd_dims_for_an_angle(self):
        with pytest.raises(DimError, match="every dim must be even, got 3 in 3,10"):
            nested_pair_scores(*pairs(), [3, 10], metric="angle")

    def test_a_metric_that_is_none(self):
        with pytest.raises(InputError, match="must be one of cosine, dot, l2, angle, got 'l1'"):
            nested_pair_scores(*pairs(), DIMS, metric="l1")

    def test_rows_without_a_partner(self):
        with pytest.raises(InputError, match="a row for each pair, got 7 and 6 rows"):
            nested_pair_scores(leaf(7, 10), leaf(6, 10), DIMS)

    def test_a_dim_beyond_the_width(self):
        with pytest.raises(DimError, match="between 1 and 10"):
            nested_pairs(cosent, *pairs(), LABELS, [4, 12])

    def test_numbers_that_are_not_finite(self):
        left, right = pairs()
        with torch.no_grad():
            right[2, 3] = math.inf
        with pytest.raises(VectorError, match="right: 1 row has NaN or infinity: 2"):
            nested_pairs(cosent, left, right, LABELS, DIMS)

    @pytest.mark.parametrize(
        "labels", [LABELS[:3], LABELS.index_fill(0, torch.tensor(1), math.nan)]
    )
    def test_a_pair_without_a_label(self, labels):
        with pytest.raises(InputError, match="labels: expected 7 finite numbers"):
            nested_pairs(cosent, *pairs(), labels, DIMS)

    def test_a_correlation_of_equal_numbers(self):
        with pytest.raises(TooFewError, match="at least 2 different labels"):
            nested_pairs(correlation, *pairs(), torch.ones(7), DIMS)
        with pytest.raises(TooFewError, match="2 different scores, got 7 pairs"):
            correlation(torch.ones(7), LABELS)

    def test_a_loss_for_each_pair_instead_of_one(self):
        with pytest.raises(
            InputError, match=r"must return one number, got a tensor of shape \(7,\)"
        ):
            nested_pairs(lambda scores, labels: scores - labels, *pairs(), LABELS, DIMS)

    @pytest.mark.parametrize("margin", [0, -1, math.nan])
    def test_a_margin_that_is_none(self, margin):
        with pytest.raises(InputError, match="margin must be above 0"):
            nested_triplet(*pairs(), leaf(7, 10), DIMS, margin=margin)
