"""Dealing queries out, and trying a promise on those that had no part in choosing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryo.core import InputError, Promise, TooFewError
from matryo.planning import split_queries
from matryo.planning.certify import check_enough_for, needed_for, queries_needed, try_promise

MEAN = Promise("mean", "neighbor_recall@10", 0.95)
SHARE = Promise("share", "neighbor_recall@10", 0.95, query_floor=0.9)


@given(n=st.integers(8, 500), seed=st.integers(0, 99))
def test_every_query_is_in_exactly_one_part(n, seed):
    split = split_queries(n, seed=seed)

    dealt = np.concatenate([split.order, split.certify, split.report])

    assert sorted(dealt.tolist()) == list(range(n))
    assert abs(len(split.certify) - n / 2) <= 1


def test_every_part_has_its_share_of_every_group():
    groups = ["a"] * 40 + ["b"] * 400

    split = split_queries(440, groups=groups)

    for part, share in ((split.order, 0.25), (split.certify, 0.5), (split.report, 0.25)):
        assert sum(groups[i] == "a" for i in part) == 40 * share


def test_one_seed_deals_one_way():
    np.testing.assert_array_equal(
        split_queries(99, seed=3).certify, split_queries(99, seed=3).certify
    )
    assert (split_queries(99, seed=3).certify != split_queries(99, seed=4).certify).any()


def test_a_group_of_two_queries_is_refused_by_name():
    with pytest.raises(TooFewError, match=r"8 queries of the group 'tiny' .* got 2\n.* merge") as e:
        split_queries(102, groups=["tiny"] * 2 + ["large"] * 100)

    assert e.value.needed == 8


def test_groups_must_be_as_many_as_queries():
    with pytest.raises(InputError, match=r"one group for each of the 5 queries, got 4"):
        split_queries(5, groups=["a"] * 4)


@pytest.mark.parametrize(
    ("promise", "needed"),
    [
        (MEAN, 59),
        (SHARE, 59),
        (Promise("mean", "R@10", 0.99), 299),
        (Promise("share", "R@10", 0.9, 0.99, query_floor=1.0), 44),
        (Promise("expected", "R@10", 0.95, None), 19),
    ],
)
def test_too_few_queries_are_refused_with_the_number_that_would_do(promise, needed):
    assert needed_for(promise) == needed
    check_enough_for(promise, needed)
    with pytest.raises(TooFewError, match=f"at least {needed} queries .* got {needed - 1}"):
        check_enough_for(promise, needed - 1)


def test_fifty_nine_queries_without_a_failure_carry_a_share_and_fifty_eight_do_not():
    kept, whole = np.full(59, 0.9), np.ones(59)

    assert try_promise(SHARE, kept, whole).passed
    with pytest.raises(TooFewError, match="at least 59"):
        try_promise(SHARE, kept[:58], whole[:58])


def test_one_query_below_its_floor_counts_however_far_below():
    whole = np.ones(100)
    for lost in (0.89, 0.0):
        kept = np.ones(100)
        kept[:6] = lost
        assert not try_promise(SHARE, kept, whole).passed


def test_a_query_that_scores_nothing_at_full_width_cannot_fall_below():
    whole = np.zeros(100)

    assert try_promise(SHARE, np.zeros(100), whole).passed


def test_a_promise_for_groups_needs_every_group():
    good, bad = np.ones(200), np.full(100, 0.9)
    part, whole = np.concatenate([good, bad]), np.ones(300)
    groups = np.array(["good"] * 200 + ["bad"] * 100)
    each = Promise("mean", MEAN.measure, 0.95, groups=("bad", "good"))

    together = try_promise(Promise("mean", MEAN.measure, 0.95), part, whole)
    apart = try_promise(each, part, whole, groups=groups)

    assert together.passed
    assert not apart.passed
    assert apart.worst_group == "bad"


def test_groups_that_all_keep_the_floor_are_certified_together():
    part, whole = np.ones(200), np.ones(200)
    groups = np.array(["a", "b"] * 100)

    assert try_promise(
        Promise("mean", MEAN.measure, 0.95, groups=("a", "b")), part, whole, groups=groups
    ).passed


def test_stakes_learned_on_other_queries_sharpen_the_test():
    rng = np.random.default_rng(0)
    blind = taught = 0

    for _ in range(100):
        part, past = (1 - rng.binomial(10, 0.04, n) / 10 for n in (300, 150))
        blind += try_promise(MEAN, part, np.ones(300)).passed
        taught += try_promise(MEAN, part, np.ones(300), learned=(past, np.ones(150))).passed

    assert taught > blind + 10


def test_relevance_is_tried_on_the_difference_and_not_on_shares_per_query():
    rng = np.random.default_rng(1)
    whole = np.where(rng.random(2000) < 0.4, 0.0, rng.random(2000))
    part = np.clip(whole * 0.99 + np.where(rng.random(2000) < 0.02, -0.1, 0), 0, 1)

    assert try_promise(Promise("mean", "nDCG@10", 0.9), part, whole).passed
    assert not try_promise(Promise("mean", "nDCG@10", 0.99), part, whole).passed


def test_the_number_of_queries_that_would_do_really_does():
    rng = np.random.default_rng(2)
    part, whole = 1 - rng.binomial(10, 0.035, 100) / 10, np.ones(100)
    assert not try_promise(MEAN, part, whole).passed

    needed = queries_needed(MEAN, part, whole)

    times = -(-needed // 100)
    assert try_promise(MEAN, np.tile(part, times), np.ones(100 * times)).passed
    assert not try_promise(MEAN, np.tile(part, times - 1), np.ones(100 * (times - 1))).passed


def test_no_number_of_queries_carries_what_is_not_so():
    assert queries_needed(MEAN, np.full(100, 0.9), np.ones(100)) is None


@pytest.mark.parametrize("kind", ["mean", "share"])
def test_a_false_promise_is_issued_no_more_often_than_it_says(kind):
    rng = np.random.default_rng(3)
    promise = MEAN if kind == "mean" else Promise("share", MEAN.measure, 0.95, query_floor=1.0)
    issued = 0

    for _ in range(1000):
        part = (rng.random(300) < 0.95 - 1e-9).astype(float)
        past = (rng.random(150) < 0.95 - 1e-9).astype(float)
        issued += try_promise(promise, part, np.ones(300), learned=(past, np.ones(150))).passed

    assert issued <= 73  # chance alone exceeds this once in 1,000
