"""What the heads learn, against plain implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cascade.made import DIMS, WIDTH, labelled

from matryo.cascade import NestedClassifier
from matryo.cascade.heads import inverse_lengths, tied_loss
from matryo.transforms import truncate


def plain_tied_loss(matrix, biases, rows, codes, dims, *, strength, normalize):
    total = 0.0
    for bias, dim in zip(biases, dims, strict=True):
        for row, code in zip(rows, codes, strict=True):
            length = np.linalg.norm(row[:dim])
            prefix = row[:dim] / length if normalize and length else row[:dim]
            logits = matrix[:, :dim] @ prefix + bias
            total += np.log(np.exp(logits).sum()) - logits[code]
        total += np.square(matrix[:, :dim]).sum() / (2 * strength)
    return total


@pytest.fixture(params=[True, False], ids=["unit prefixes", "raw prefixes"])
def tied(request):
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((12, 7))
    rows[4, :3] = 0
    codes = np.array([0, 1, 2] * 4)
    dims = (1, 3, 7)
    factors = inverse_lengths(rows, dims) if request.param else np.ones((3, 12))
    return rng.standard_normal(3 * 7 + 3 * 3), rows, codes, dims, factors, request.param


def test_the_loss_of_tied_heads_is_the_sum_over_all_sizes(tied):
    parameters, rows, codes, dims, factors, normalize = tied

    loss, _ = tied_loss(parameters, rows, codes, dims, factors, C=2.0)

    matrix, biases = parameters[:21].reshape(3, 7), parameters[21:].reshape(3, 3)
    plain = plain_tied_loss(matrix, biases, rows, codes, dims, strength=2.0, normalize=normalize)
    assert loss == pytest.approx(plain, rel=1e-12)


def test_the_gradient_of_tied_heads_is_that_of_finite_differences(tied):
    parameters, rows, codes, dims, factors, _ = tied

    def loss_at(where):
        return tied_loss(where, rows, codes, dims, factors, C=2.0)[0]

    _, gradient = tied_loss(parameters, rows, codes, dims, factors, C=2.0)

    steps = 1e-6 * np.eye(len(parameters))
    slopes = [(loss_at(parameters + s) - loss_at(parameters - s)) / 2e-6 for s in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)


def test_tied_heads_of_a_single_size_are_a_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    vectors, labels = labelled(0, 300)

    ours = NestedClassifier((WIDTH,), "tied", C=1.0).fit(vectors, labels)

    theirs = LogisticRegression(C=1.0, tol=1e-6).fit(truncate(vectors, WIDTH), labels)
    expected = theirs.predict_proba(truncate(vectors, WIDTH))
    np.testing.assert_allclose(ours.predict_proba(vectors), expected, atol=0.01)


def test_tied_heads_share_one_matrix_and_lose_little():
    vectors, labels = labelled(0, 2000)
    others, truth = labelled(1, 2000)

    tied = NestedClassifier(DIMS, "tied").fit(vectors, labels)

    separate = NestedClassifier(DIMS).fit(vectors, labels)
    for weight, dim in zip(tied.heads_.weights, DIMS, strict=True):
        np.testing.assert_array_equal(weight, tied.heads_.weights[-1][:, :dim])
        found, best = (
            np.mean(one.classes_of(one.predict_proba_at(others, dim)) == truth)
            for one in (tied, separate)
        )
        assert found > best - 0.03


@pytest.mark.parametrize("classes", [2, 5])
def test_separate_heads_are_logistic_regressions_on_unit_prefixes(classes):
    from sklearn.linear_model import LogisticRegression

    vectors, labels = labelled(0, 200, classes=classes)

    ours = NestedClassifier(DIMS, C=3.0).fit(vectors, labels)

    for dim in DIMS:
        prefix = truncate(vectors, dim)
        theirs = LogisticRegression(C=3.0, max_iter=1000).fit(prefix, labels)
        expected = theirs.predict_proba(prefix)
        np.testing.assert_allclose(ours.predict_proba_at(vectors, dim), expected, atol=1e-5)


@given(seed=st.integers(0, 2**16), each=st.integers(1, 4), dim=st.sampled_from(DIMS))
def test_nearest_means_answer_the_class_whose_mean_has_the_largest_cosine(seed, each, dim):
    rng = np.random.default_rng(seed)
    vectors, labels = rng.standard_normal((5 * each, WIDTH)), np.repeat(np.arange(5), each)
    others = rng.standard_normal((20, WIDTH))

    fitted = NestedClassifier(DIMS, "nearest_mean").fit(vectors, labels)

    unit = truncate(vectors, dim)
    means = np.array([unit[labels == label].mean(axis=0) for label in range(5)])
    cosines = truncate(others, dim) @ truncate(means, dim).T
    answers = fitted.classes_of(fitted.predict_proba_at(others, dim))
    np.testing.assert_array_equal(answers, cosines.argmax(axis=1))


def test_nearest_means_are_no_surer_than_examples_left_out_allow():
    rng = np.random.default_rng(0)
    noise, labels = rng.standard_normal((400, WIDTH)), np.repeat(np.arange(100), 4)
    vectors, truth = labelled(0, 400)

    unsure = NestedClassifier(head="nearest_mean").fit(noise, labels).predict_proba(noise)
    sure = NestedClassifier(head="nearest_mean").fit(vectors, truth).predict_proba(vectors)

    assert unsure.max() < 0.02
    assert sure.max() > 0.9


def test_a_class_of_a_few_examples_counts_as_much_as_a_large_one():
    vectors, labels = labelled(0, 2000, classes=2)
    rare = np.flatnonzero(labels == "class 1")[5:]
    others, truth = labelled(1, 1000, classes=2)

    fitted = NestedClassifier(head="nearest_mean").fit(
        np.delete(vectors, rare, axis=0), np.delete(labels, rare)
    )

    hits = fitted.predict(others) == truth
    assert hits[truth == "class 1"].mean() > 0.85
