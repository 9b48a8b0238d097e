"""Certified exit policies: what they are, what they refuse, and how often they break."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.cascade.made import DIMS, WIDTH, labelled

from matryo.cascade import Cascade, NestedClassifier, run
from matryo.core import ExitPolicy, InputError, NotFittedError, Plan, Promise, Space, TooFewError
from matryo.planning import split_queries
from matryo.planning.exits import certify_dim, certify_exits

FITTED = NestedClassifier(DIMS).fit(*labelled(0, 2000))
VECTORS, LABELS = labelled(1, 1600)
SPACE = Space("made", WIDTH)
MEAN = Promise("mean", "accuracy", 0.95)
AGREEMENT = Promise("share", "agreement@full", 0.95, query_floor=1.0)
RIGHT = Promise("share", "accuracy", 0.95, query_floor=1.0)
EXPECTED = Promise("expected", "agreement@full", 0.95, confidence=None)


@pytest.mark.parametrize("promise", [MEAN, AGREEMENT, RIGHT, EXPECTED], ids=str)
def test_a_cascade_is_certified_that_reads_less_than_any_fixed_size(promise):
    found = certify_exits(FITTED, VECTORS, LABELS, promise)
    fixed = certify_dim(FITTED, VECTORS, LABELS, promise)

    assert found.certified
    assert found.evidence["expected_dims"] < fixed.evidence["expected_dims"] <= WIDTH
    assert found.promise == promise


def test_the_figures_are_those_of_the_cascade_on_examples_that_chose_nothing():
    found = certify_exits(FITTED, VECTORS, LABELS, MEAN, seed=3)

    split = split_queries(len(LABELS), seed=3)
    report = Cascade(FITTED, found.policy).report(VECTORS[split.report], LABELS[split.report])
    evidence = found.evidence
    assert evidence["split"] == {"ordering": 400, "certifying": 800, "reporting": 400}
    assert evidence["expected_dims"] == pytest.approx(report.expected_dims)
    assert evidence["accuracy"] == pytest.approx(report.accuracy)
    assert evidence["full_accuracy"] == pytest.approx(report.full_accuracy)
    assert evidence["agreement"] == pytest.approx(report.agreement)
    assert evidence["stopped_at"] == {str(d): s for d, s in report.stopped_at.items()}
    for name in ("expected_dims", "accuracy", "kept", "agreement"):
        low, high = evidence[f"{name}_interval"]
        assert low <= evidence[name] <= high


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), signal=st.sampled_from(["margin", "probability"]))
def test_candidates_go_from_the_one_that_reads_most_and_stop_at_the_first_that_fails(seed, signal):
    found = certify_exits(FITTED, VECTORS, LABELS, MEAN, seed=seed, signal=signal)

    tried = found.evidence["candidates"]
    read = [one["expected_dims"] for one in tried]
    passed = [one["certified"] for one in tried]
    assert read == sorted(read, reverse=True)
    assert passed == sorted(passed, reverse=True)
    assert all(one["p_value"] <= 0.05 for one in tried if one["certified"])
    after = [one["p_value"] for one in tried if not one["certified"]]
    assert after == [] or (after[0] > 0.05 and set(after[1:]) <= {None})
    assert found.policy.signal == signal


def test_two_runs_with_one_seed_are_equal_and_the_seed_matters():
    first, second, other = (
        certify_exits(FITTED, VECTORS, LABELS, MEAN, seed=seed) for seed in (1, 1, 2)
    )

    assert first == second
    assert first.policy != other.policy


def test_a_higher_floor_reads_more():
    lower, higher = (
        certify_exits(FITTED, VECTORS, LABELS, Promise("mean", "accuracy", floor))
        for floor in (0.9, 0.98)
    )

    assert lower.evidence["expected_dims"] < higher.evidence["expected_dims"]


def test_a_size_where_everything_agrees_is_where_all_rows_stop():
    vectors, labels = labelled(0, 600, noise=0.05)
    fitted = NestedClassifier(DIMS).fit(vectors, labels)

    found = certify_exits(fitted, *labelled(1, 600, noise=0.05), MEAN)

    assert found.policy.dims[-1] < WIDTH
    assert certify_dim(fitted, *labelled(1, 600, noise=0.05), MEAN).policy == ExitPolicy(
        found.policy.dims[-1:], (), "margin"
    )


def test_where_nothing_is_certified_the_full_width_stays_with_the_number_that_would_do():
    fitted = NestedClassifier((1,), "nearest_mean").fit(*labelled(0, 600, noise=1.5))
    vectors, labels = labelled(1, 130, noise=1.5)

    found = certify_exits(fitted, vectors, labels, MEAN)

    assert not found.certified
    assert found.policy == ExitPolicy((WIDTH,), (), "margin")
    assert found.evidence["expected_dims"] == WIDTH
    first = found.explain().splitlines()[0]
    assert first.startswith("Read all 16 numbers: nothing smaller could be certified")
    needed = found.evidence["needed"]
    assert needed is None or (needed > 130 and f"about {needed:,} examples like these" in first)


def test_about_as_many_examples_as_are_said_to_be_needed_certify_something():
    promise = Promise("mean", "accuracy", 0.98)
    few = certify_exits(FITTED, VECTORS[:300], LABELS[:300], promise)
    assert not few.certified

    vectors, labels = labelled(5, few.evidence["needed"])

    assert 300 < len(labels) < 1000
    assert certify_exits(FITTED, vectors, labels, promise).certified


def test_a_cascade_stands_for_its_classifier():
    cascade = Cascade(FITTED, ExitPolicy((2,), ()))

    assert certify_exits(cascade, VECTORS, LABELS, MEAN) == certify_exits(
        FITTED, VECTORS, LABELS, MEAN
    )


class TestPlans:
    def test_a_plan_is_saved_loaded_and_run_as_it_was_certified(self, tmp_path):
        found = certify_exits(FITTED, VECTORS, LABELS, MEAN)
        found.to_plan(SPACE, transform=None).save(tmp_path / "plan.json")

        plan = Plan.load(tmp_path / "plan.json")

        answers = run(plan, FITTED, VECTORS)
        expected = Cascade(FITTED, found.policy).classify(VECTORS)
        assert (plan.run, plan.promise) == (found.policy, MEAN)
        assert plan.evidence == json.loads(json.dumps(found.evidence))
        np.testing.assert_array_equal(answers.dims, expected.dims)

    def test_it_belongs_to_the_heads_it_was_certified_for(self):
        plan = certify_exits(FITTED, VECTORS, LABELS, MEAN).to_plan(SPACE)
        others = NestedClassifier(DIMS).fit(*labelled(7, 500))

        with pytest.raises(InputError, match="this plan was made for the classifier"):
            run(plan, others, VECTORS)

    def test_it_explains_itself_in_five_sentences(self):
        plan = certify_exits(FITTED, VECTORS, LABELS, MEAN).to_plan(SPACE)

        what, promise, cost, neighbors, evidence = plan.explain().splitlines()

        assert what.startswith("Read ")
        assert "while the margin of the likeliest class is below" in what
        assert promise.startswith("With 0.95 confidence, the accuracy is at least 0.95 of the full")
        assert "numbers on average" in cost
        assert "passed, from the safest on; the next one" in neighbors
        assert "400 examples put the policies in order, 800 others certified" in evidence

    @pytest.mark.parametrize(
        ("promise", "words"),
        [
            (AGREEMENT, "at least 0.95 of all answers are those of the full width"),
            (RIGHT, "at least 0.95 of all answers are right wherever the full width's are"),
            (EXPECTED, "The expected share of answers that are those of the full width is at"),
        ],
    )
    def test_every_kind_of_promise_has_its_words(self, promise, words):
        assert words in certify_exits(FITTED, VECTORS, LABELS, promise).explain()


class TestRefusals:
    @pytest.mark.parametrize(("promise", "needed"), [(MEAN, 118), (EXPECTED, 38)])
    def test_too_few_examples_with_the_number_that_would_do(self, promise, needed):
        with pytest.raises(
            TooFewError, match=f"at least {needed} labelled examples are needed"
        ) as caught:
            certify_exits(FITTED, VECTORS[: needed - 1], LABELS[: needed - 1], promise)

        assert caught.value.needed == needed
        certify_exits(FITTED, VECTORS[:needed], LABELS[:needed], promise)

    def test_labels_of_one_class(self):
        with pytest.raises(InputError, match="at least two classes, got only 'class 0'"):
            certify_exits(FITTED, VECTORS, ["class 0"] * 1600, MEAN)

    def test_not_one_label_for_each_vector(self):
        with pytest.raises(InputError, match=r"each of the 1600 vectors, got shape \(3,\)"):
            certify_exits(FITTED, VECTORS, LABELS[:3], MEAN)

    def test_a_measure_of_searches(self):
        with pytest.raises(InputError, match="accuracy or agreement@full, got 'nDCG@10'"):
            certify_exits(FITTED, VECTORS, LABELS, Promise("mean", "nDCG@10", 0.9))

    def test_an_expected_accuracy_with_the_reason(self):
        promise = Promise("expected", "accuracy", 0.9, confidence=None)

        with pytest.raises(InputError, match=r"can go either way\n  promise agreement@full"):
            certify_exits(FITTED, VECTORS, LABELS, promise)

    @pytest.mark.parametrize("floor", [0.0, 1.0])
    def test_a_floor_that_needs_no_proof_or_has_none(self, floor):
        with pytest.raises(InputError, match="floor must be above 0 and below 1"):
            certify_exits(FITTED, VECTORS, LABELS, Promise("mean", "accuracy", floor))

    def test_groups(self):
        promise = Promise("mean", "accuracy", 0.9, groups=("a", "b"))

        with pytest.raises(InputError, match="all examples together, got the groups a, b"):
            certify_exits(FITTED, VECTORS, LABELS, promise)

    def test_an_unknown_signal(self):
        with pytest.raises(InputError, match="probability or margin, got 'entropy'"):
            certify_exits(FITTED, VECTORS, LABELS, MEAN, signal="entropy")

    def test_heads_of_a_single_size(self):
        whole = NestedClassifier((WIDTH,)).fit(*labelled(0, 100))

        with pytest.raises(InputError, match="at least two sizes to stop between, got 16 alone"):
            certify_exits(whole, VECTORS, LABELS, MEAN)

    def test_heads_that_have_learned_nothing(self):
        with pytest.raises(NotFittedError, match="call fit first"):
            certify_exits(NestedClassifier(), VECTORS, LABELS, MEAN)


POOL, POOL_LABELS = labelled(2, 4000, noise=0.9)
POOL_FITTED = NestedClassifier(DIMS).fit(*labelled(3, 1500, noise=0.9))
RUNS = 150


def truth_of(policy):
    """Accuracy of cascade and full width, and agreement, over the whole pool."""
    report = Cascade(POOL_FITTED, policy).report(POOL, POOL_LABELS)
    return report.accuracy, report.full_accuracy, report.agreement


def drawn_from_the_pool(n):
    """Calibration sets drawn with replacement, and a seed for each."""
    rng = np.random.default_rng(17)
    for seed in range(RUNS):
        rows = rng.integers(0, len(POOL), n)
        yield POOL[rows], POOL_LABELS[rows], seed


@pytest.mark.slow
@pytest.mark.parametrize(
    "promise",
    [
        Promise("mean", "accuracy", 0.95, confidence=0.9),
        Promise("share", "agreement@full", 0.9, confidence=0.9, query_floor=1.0),
    ],
    ids=["mean", "share"],
)
def test_a_promise_breaks_no_more_often_than_it_says(promise):
    broken = certified = 0
    for vectors, labels, seed in drawn_from_the_pool(500):
        found = certify_exits(POOL_FITTED, vectors, labels, promise, seed=seed)
        accuracy, full, agreement = truth_of(found.policy)
        broken += (accuracy / full if promise.kind == "mean" else agreement) < promise.floor
        certified += found.certified

    assert broken <= stats.binom.ppf(0.999, RUNS, 0.1)
    assert certified > RUNS / 2


@pytest.mark.slow
def test_a_fixed_size_just_below_the_floor_is_certified_no_more_often_than_that():
    accuracy, full, _ = truth_of(ExitPolicy((8,), ()))
    promise = Promise("mean", "accuracy", accuracy / full + 0.001, confidence=0.9)

    found = [certify_dim(POOL_FITTED, *some, promise, seed=seed) for *some, seed in
             drawn_from_the_pool(500)]  # fmt: skip

    assert sum(one.certified for one in found) <= stats.binom.ppf(0.999, RUNS, 0.1)


@pytest.mark.slow
def test_an_expected_promise_is_kept_on_average():
    promise = Promise("expected", "agreement@full", 0.9, confidence=None)
    agreements = []
    for vectors, labels, seed in drawn_from_the_pool(400):
        found = certify_exits(POOL_FITTED, vectors, labels, promise, seed=seed)
        agreements.append(truth_of(found.policy)[2])

    error = np.std(agreements) / np.sqrt(RUNS)
    assert np.mean(agreements) >= 0.9 - 3 * error
