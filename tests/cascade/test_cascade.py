"""Cascades against a loop over single rows, and plans that are run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cascade.made import DIMS, WIDTH, labelled

from matryo.cascade import Cascade, NestedClassifier, run
from matryo.core import (
    DimError,
    ExitPolicy,
    Funnel,
    InputError,
    NotFittedError,
    Plan,
    Space,
    UnsupportedError,
    VectorError,
)
from matryo.transforms import Rotation

FITTED = NestedClassifier(DIMS).fit(*labelled(0, 300))
VECTORS, LABELS = labelled(1, 120)
SPACE = Space("made", WIDTH)
NEVER, ALWAYS = 2.0, 0.0
thresholds = st.tuples(*[st.sampled_from([ALWAYS, 0.3, 0.6, 0.9, NEVER])] * 3)


def one_by_one(policy):
    """Classes and sizes, row by row."""
    for vector in VECTORS:
        for place, dim in enumerate(policy.dims):
            found = FITTED.predict_proba_at(vector[None], dim)[0]
            second, best = np.sort(found)[-2:]
            signal = best - second if policy.signal == "margin" else best
            if dim == policy.dims[-1] or signal >= policy.thresholds[place]:
                yield FITTED.classes_[found.argmax()], dim
                break


@given(limits=thresholds, signal=st.sampled_from(["margin", "probability"]))
def test_a_cascade_answers_as_a_loop_over_single_rows_does(limits, signal):
    policy = ExitPolicy(DIMS, limits, signal)

    answers = Cascade(FITTED, policy).classify(VECTORS)

    labels, dims = zip(*one_by_one(policy), strict=True)
    assert answers.labels.tolist() == list(labels)
    assert answers.dims.tolist() == list(dims)


@given(limits=st.tuples(thresholds, thresholds))
def test_higher_thresholds_never_read_less(limits):
    lower, higher = np.sort(np.array(limits), axis=0)

    few, many = (
        Cascade(FITTED, ExitPolicy(DIMS, tuple(some))).dims_used(VECTORS)
        for some in (lower, higher)
    )

    assert (few <= many).all()


def test_thresholds_that_are_never_reached_are_the_full_width():
    cascade = Cascade(FITTED, ExitPolicy(DIMS, (NEVER,) * 3))

    np.testing.assert_allclose(cascade.predict_proba(VECTORS), FITTED.predict_proba(VECTORS))
    assert (cascade.dims_used(VECTORS) == WIDTH).all()


def test_a_threshold_of_0_stops_everything():
    cascade = Cascade(FITTED, ExitPolicy((4, WIDTH), (ALWAYS,)))

    np.testing.assert_array_equal(
        cascade.predict_proba(VECTORS), FITTED.predict_proba_at(VECTORS, 4)
    )


def test_a_policy_may_leave_sizes_out():
    used = Cascade(FITTED, ExitPolicy((4, 8), (0.8,))).dims_used(VECTORS)

    assert set(used) == {4, 8}


def test_no_vectors_have_no_answers():
    answers = Cascade(FITTED, ExitPolicy(DIMS, (0.9,) * 3)).classify(VECTORS[:0])

    assert (len(answers.labels), answers.probabilities.shape) == (0, (0, 4))


def test_a_report_puts_cost_beside_accuracy():
    cascade = Cascade(FITTED, ExitPolicy(DIMS, (0.9,) * 3))

    report = cascade.report(VECTORS, LABELS)

    assert report.accuracy == cascade.score(VECTORS, LABELS)
    assert report.full_accuracy == FITTED.score(VECTORS, LABELS)
    assert report.expected_dims == cascade.dims_used(VECTORS).mean()
    assert report.expected_dims == pytest.approx(
        sum(dim * share for dim, share in report.stopped_at.items())
    )
    assert report.agreement == np.mean(cascade.predict(VECTORS) == FITTED.predict(VECTORS))
    assert (report.full_dim, report.n) == (WIDTH, 120)


def test_fit_teaches_a_copy_and_leaves_the_classifier_alone():
    before = FITTED.digest
    vectors, labels = labelled(7, 100)
    cascade = Cascade(FITTED, ExitPolicy(DIMS, (NEVER,) * 3)).fit(vectors, labels)

    expected = NestedClassifier(DIMS).fit(vectors, labels).predict_proba(VECTORS)
    np.testing.assert_allclose(cascade.predict_proba(VECTORS), expected)
    assert FITTED.digest == before


def test_it_ends_a_pipeline():
    from sklearn.pipeline import make_pipeline

    policy = ExitPolicy((4, WIDTH), (0.95,))
    vectors, labels = labelled(0, 300)
    pipeline = make_pipeline(Rotation(), Cascade(NestedClassifier(DIMS), policy))

    pipeline.fit(vectors, labels)

    assert pipeline.score(VECTORS, LABELS) > 0.8
    assert set(pipeline[-1].dims_used(pipeline[:-1].transform(VECTORS))) == {4, WIDTH}


@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_a_cascade_passes_the_checks_of_scikit_learn_but_for_what_one_number_can_tell():
    from sklearn.utils.estimator_checks import check_estimator

    check_estimator(
        Cascade(NestedClassifier("1"), ExitPolicy((1,), ())),
        expected_failed_checks={"check_classifiers_train": "three classes from one number"},
        on_skip=None,
    )


def test_a_clone_has_its_policy_and_a_classifier_that_has_learned_nothing():
    from sklearn.base import clone

    cascade = Cascade(FITTED, ExitPolicy(DIMS, (0.9,) * 3))

    copy = clone(cascade)

    assert copy.policy == cascade.policy
    assert not copy.is_fitted
    assert copy.fit(*labelled(0, 300)).digest == cascade.digest


class TestPlans:
    policy = ExitPolicy(DIMS, (0.9, 0.8, 0.7), "margin")

    def test_a_plan_is_run_as_its_policy(self):
        answers = run(Plan(SPACE, self.policy), FITTED, VECTORS)

        expected = Cascade(FITTED, self.policy).classify(VECTORS)
        np.testing.assert_array_equal(answers.labels, expected.labels)
        np.testing.assert_array_equal(answers.dims, expected.dims)

    def test_its_transform_comes_first(self):
        rotation = Rotation().fit(VECTORS)
        plan = Plan(SPACE, self.policy, transform=rotation.digest)

        answers = run(plan, FITTED, VECTORS, transform=rotation)

        expected = Cascade(FITTED, self.policy).predict(rotation.transform(VECTORS))
        np.testing.assert_array_equal(answers.labels, expected)

    @pytest.mark.parametrize(
        ("named", "given_", "message"),
        [
            ("0123", None, "needs the transform 0123 before it classifies, got none"),
            (None, Rotation().fit(np.eye(WIDTH)), "needs none before it classifies, got [0-9a-f]"),
        ],
    )
    def test_another_transform_than_it_names_is_refused(self, named, given_, message):
        with pytest.raises(InputError, match=message):
            run(Plan(SPACE, self.policy, transform=named), FITTED, VECTORS, transform=given_)

    def test_other_heads_than_it_was_made_for_are_refused(self):
        plan = Plan(SPACE, self.policy, evidence={"classifier": "0" * 32})

        with pytest.raises(InputError, match=f"made for the classifier {'0' * 32}, got"):
            run(plan, FITTED, VECTORS)

    def test_a_plan_for_a_search_is_refused_with_a_way_out(self):
        plan = Plan(SPACE, Funnel.parse("8:10"))

        with pytest.raises(UnsupportedError, match=r"a funnel, 8:10\n  search with matryo.search"):
            run(plan, FITTED, VECTORS)


class TestRefusals:
    def test_dims_that_the_classifier_has_no_head_for(self):
        with pytest.raises(DimError, match="stops at 3, the classifier has heads for 2, 4, 8, 16"):
            Cascade(FITTED, ExitPolicy((3, 8), (0.5,))).predict(VECTORS)

    def test_vectors_of_another_width(self):
        with pytest.raises(DimError, match="X has 8 features, but NestedClassifier is expecting"):
            Cascade(FITTED, ExitPolicy((8,), ())).predict(VECTORS[:, :8])

    def test_asking_before_anything_was_learned(self):
        with pytest.raises(NotFittedError, match="Cascade has learned nothing yet: call fit"):
            Cascade(NestedClassifier(), ExitPolicy((8,), ())).predict(VECTORS)

    def test_nan(self):
        with pytest.raises(VectorError, match="NaN or infinity"):
            Cascade(FITTED, ExitPolicy(DIMS, (0.9,) * 3)).predict(np.full((2, WIDTH), np.nan))

    def test_a_report_without_a_label_for_each_vector(self):
        with pytest.raises(InputError, match=r"each of 120 vectors.*got shape \(5,\)"):
            Cascade(FITTED, ExitPolicy((8,), ())).report(VECTORS, LABELS[:5])
