"""The nested classifier as scikit-learn, a file and a careless user meet it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from tests.cascade.made import DIMS, WIDTH, labelled

from matryo.cascade import HEADS, NestedClassifier
from matryo.core import (
    DimError,
    FormatError,
    InputError,
    NotFittedError,
    UnknownNameError,
    VectorError,
)
from matryo.transforms import Rotation


@pytest.fixture(params=HEADS)
def fitted(request):
    return NestedClassifier(DIMS, request.param).fit(*labelled(0, 300))


@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("head", HEADS)
def test_every_head_passes_the_checks_of_scikit_learn(head):
    from sklearn.utils.estimator_checks import check_estimator

    results = check_estimator(NestedClassifier(head=head), on_skip=None)

    passed = [result for result in results if result["status"] == "passed"]
    assert len(passed) > 45


def test_by_default_sizes_are_powers_of_two_from_8_and_the_full_width():
    def sizes(width):
        vectors = np.random.default_rng(0).standard_normal((10, width))
        return NestedClassifier(head="nearest_mean").fit(vectors, [0, 1] * 5).dims_

    assert sizes(40) == (8, 16, 32, 40)
    assert sizes(5) == (5,)


def test_the_full_width_is_always_among_the_sizes():
    fitted = NestedClassifier("2, 4").fit(*labelled(0, 50))

    assert fitted.dims_ == (2, 4, WIDTH)
    np.testing.assert_array_equal(
        fitted.predict_proba(labelled(1, 9)[0]), fitted.predict_proba_at(labelled(1, 9)[0], WIDTH)
    )


def test_probabilities_are_probabilities_at_every_size(fitted):
    vectors, _ = labelled(1, 40)

    for dim in DIMS:
        found = fitted.predict_proba_at(vectors, dim)
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1)


def test_numbers_beyond_the_size_are_not_looked_at(fitted):
    vectors, _ = labelled(1, 40)
    spoiled = vectors.copy()
    spoiled[:, 4:] = 1e6

    np.testing.assert_allclose(
        fitted.predict_proba_at(spoiled, 4), fitted.predict_proba_at(vectors, 4)
    )


def test_a_prefix_of_only_zeros_is_answered_by_the_biases(fitted):
    vectors, _ = labelled(1, 2)
    vectors[0, :4] = 0

    found = fitted.predict_proba_at(vectors, 4)[0]

    biases = np.exp(fitted.heads_.biases[1].astype(np.float64))
    np.testing.assert_allclose(found, biases / biases.sum())


def test_it_ends_a_pipeline_and_a_grid_search_chooses_its_settings():
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    vectors, labels = labelled(0, 200)
    pipeline = make_pipeline(Rotation(), NestedClassifier())
    grid = {"nestedclassifier__head": ["tied", "nearest_mean"], "nestedclassifier__C": [1e-6, 10.0]}

    search = GridSearchCV(pipeline, grid, cv=3).fit(vectors, labels)

    assert search.best_params_["nestedclassifier__C"] == 10.0
    assert search.best_estimator_.score(*labelled(1, 200)) > 0.8


def test_clones_have_the_settings_and_nothing_learned(fitted):
    from sklearn.base import clone

    copy = clone(fitted)

    assert copy.get_params() == fitted.get_params()
    assert not copy.is_fitted


def test_importing_it_imports_neither_scikit_learn_nor_scipy():
    code = (
        "import sys, matryo.cascade;"
        "print([m for m in ('sklearn', 'scipy', 'safetensors', 'torch') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


class TestHeadsFromElsewhere:
    weights = np.random.default_rng(5).standard_normal((3, 4))
    biases = np.array([0.1, -0.2, 0.3])
    vectors = np.random.default_rng(6).standard_normal((6, 4))

    def test_one_matrix_serves_every_size_in_the_order_of_its_classes(self):
        made = NestedClassifier.from_heads(
            (2, 4), self.weights, self.biases, ["b", "c", "a"], normalize=False
        )

        answers = made.classes_of(made.predict_proba_at(self.vectors, 2))

        logits = self.vectors[:, :2] @ self.weights[:, :2].T + self.biases
        assert answers.tolist() == [["b", "c", "a"][i] for i in logits.argmax(axis=1)]

    def test_one_array_for_each_size(self):
        each = [self.weights[:, :2], -self.weights]
        biases = np.array([self.biases, 2 * self.biases])

        made = NestedClassifier.from_heads((2, 4), each, biases, [0, 1, 2], normalize=False)

        logits = -self.vectors @ self.weights.T + 2 * self.biases
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(made.predict_proba(self.vectors), expected)

    @pytest.mark.parametrize(
        ("dims", "weights", "biases", "classes", "message"),
        [
            ((2, 3), weights, biases, "abc", r"\(3, 2\), \(3, 3\), got \(3, 4\)"),
            ((2, 4), [weights[:, :2]], biases, "abc", r"\(3, 2\), \(3, 4\), got \(3, 2\)"),
            ((2, 4), weights, biases[:2], "abc", r"biases of shape \(3,\) or \(2, 3\), got \(2,\)"),
            ((2, 4), weights, biases, "aba", r"different classes, got \['a', 'b', 'a'\]"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, dims, weights, biases, classes, message):
        with pytest.raises(InputError, match=message):
            NestedClassifier.from_heads(dims, weights, biases, list(classes), normalize=True)


class TestSaving:
    def test_loaded_is_what_was_saved(self, fitted, tmp_path):
        vectors, _ = labelled(1, 30)
        fitted.save(tmp_path / "heads.safetensors")

        loaded = NestedClassifier.load(tmp_path / "heads.safetensors")

        assert loaded.digest == fitted.digest
        assert loaded.classes_.dtype == fitted.classes_.dtype
        for dim in DIMS:
            np.testing.assert_array_equal(
                loaded.predict_proba_at(vectors, dim), fitted.predict_proba_at(vectors, dim)
            )

    @pytest.mark.parametrize("labels", [[3, 7], [True, False], [0.5, 1.5], ["é", "z"]], ids=str)
    def test_labels_of_every_kind_come_back(self, labels, tmp_path):
        vectors = np.random.default_rng(0).standard_normal((8, 4))
        made = NestedClassifier.from_heads((4,), vectors[:2], np.zeros(2), labels, normalize=True)

        made.save(tmp_path / "heads.safetensors")

        loaded = NestedClassifier.load(tmp_path / "heads.safetensors")
        assert loaded.predict(vectors).tolist() == made.predict(vectors).tolist()

    def test_a_tied_matrix_is_written_once(self, tmp_path):
        sizes = {}
        for head in ("tied", "separate"):
            path = tmp_path / f"{head}.safetensors"
            NestedClassifier(tuple(range(1, 17)), head).fit(*labelled(0, 60)).save(path)
            sizes[head] = path.stat().st_size

        assert sizes["tied"] < sizes["separate"] / 2

    @pytest.mark.slow
    def test_a_changed_byte_is_refused_or_changes_nothing(self, tmp_path):
        path, vectors = tmp_path / "heads.safetensors", labelled(1, 5)[0]
        fitted = NestedClassifier((4,), "tied").fit(*labelled(0, 40))
        fitted.save(path)
        raw = path.read_bytes()

        for at in range(len(raw)):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            try:
                loaded = NestedClassifier.load(path)
            except FormatError:
                continue
            np.testing.assert_array_equal(
                loaded.predict_proba(vectors), fitted.predict_proba(vectors)
            )

    def test_a_damaged_file_and_one_of_another_kind_are_told_apart(self, fitted, tmp_path):
        from matryo.transforms import save_transform

        path = tmp_path / "heads.safetensors"
        save_transform(Rotation().fit(np.eye(3)), path)
        with pytest.raises(FormatError, match="expected kind 'matryo-classifier', got 'matryo-tr"):
            NestedClassifier.load(path)
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(FormatError, match=r"expected a classifier as \.safetensors"):
            NestedClassifier.load(path)
        fitted.save(path)
        raw = bytearray(path.read_bytes())
        raw[raw.find(fitted.heads_.weights[-1].tobytes()[:8])] ^= 1
        path.write_bytes(raw)
        with pytest.raises(FormatError, match=r"was changed after it was written.*\n  restore"):
            NestedClassifier.load(path)

    def test_nothing_learned_is_nothing_to_save(self, tmp_path):
        with pytest.raises(NotFittedError, match="has learned nothing yet"):
            NestedClassifier().save(tmp_path / "heads.safetensors")


class TestRefusals:
    def test_asking_before_fit_in_the_words_of_both_libraries(self):
        from sklearn.exceptions import NotFittedError as SklearnNotFittedError

        for error in (NotFittedError, SklearnNotFittedError):
            with pytest.raises(error, match="NestedClassifier has learned nothing yet: call fit"):
                NestedClassifier().predict(np.ones((1, 2)))

    def test_a_size_without_a_head(self, fitted):
        with pytest.raises(DimError, match="heads for the dims 2, 4, 8, 16, got 5"):
            fitted.predict_proba_at(labelled(0, 1)[0], 5)

    def test_one_class(self):
        with pytest.raises(InputError, match="at least two classes, got one class"):
            NestedClassifier().fit(np.eye(3), ["a"] * 3)

    def test_not_one_label_for_each_vector(self):
        with pytest.raises(InputError, match="each of the 3 vectors, got 2"):
            NestedClassifier().fit(np.eye(3), ["a", "b"])

    def test_an_unknown_head(self):
        with pytest.raises(UnknownNameError, match="no head is called 'teid'; did you mean 'tied'"):
            NestedClassifier(head="teid").fit(*labelled(0, 20))

    def test_a_penalty_without_strength(self):
        with pytest.raises(InputError, match="C must be above 0, got 0"):
            NestedClassifier(C=0).fit(*labelled(0, 20))

    def test_means_of_raw_prefixes(self):
        with pytest.raises(InputError, match="compared by their cosine: leave normalize on"):
            NestedClassifier(head="nearest_mean", normalize=False).fit(*labelled(0, 20))

    def test_a_size_beyond_the_width(self):
        with pytest.raises(DimError, match="between 1 and 16"):
            NestedClassifier("8,32").fit(*labelled(0, 20))

    def test_codes_instead_of_vectors(self):
        with pytest.raises(VectorError, match=r"got int8\n  codes are no vectors yet"):
            NestedClassifier().fit(np.eye(3, dtype=np.int8), ["a", "b", "c"])

    def test_nan_with_the_row(self, fitted):
        vectors, _ = labelled(1, 5)
        vectors[3, 0] = np.nan
        with pytest.raises(VectorError, match="NaN or infinity: 3"):
            fitted.predict(vectors)

    def test_transforming(self):
        with pytest.raises(AttributeError, match="transforms nothing: call predict"):
            NestedClassifier().transform(np.eye(3))
