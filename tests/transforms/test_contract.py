"""Every transform against the suite that plug-in authors use, and against scikit-learn's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from matryo.core import DimError, InputError, Transform, VectorError
from matryo.testing import transform_checks
from matryo.transforms import Chain, PreStep, Quantize, Reorder, Rotation, Truncate

FACTORIES = {
    "truncate": lambda: Truncate(6),
    "raw_prefix": lambda: Truncate(6, normalize=False),
    "pre_step": lambda: PreStep("layer_norm"),
    "no_pre_step": lambda: PreStep(),
    "float32": lambda: Quantize("float32"),
    "float16": lambda: Quantize("float16"),
    "int8": lambda: Quantize("int8"),
    "int4": lambda: Quantize("int4"),
    "int2": lambda: Quantize("int2"),
    "binary": lambda: Quantize("binary"),
    "rotation": lambda: Rotation(),
    "reorder": lambda: Reorder(),
    "chain": lambda: Chain([PreStep("layer_norm"), Rotation(), Truncate(8), Quantize("int8")]),
    "nested_chain": lambda: Chain([Chain([Rotation(), Truncate(8)]), Quantize("binary")]),
}
# Checks of scikit-learn that cannot hold here, each with its reason.
EXPECTED_FAILED_CHECKS = {
    "check_estimators_dtypes": "integers are codes, not vectors: they are refused by design",
}
MADE_SMALL = [  # scikit-learn tries one column and few rows
    Truncate(1),
    Truncate(1, normalize=False),
    PreStep("layer_norm"),
    PreStep(),
    Quantize("float16"),
    Quantize("int8", min_rows=1),
    Quantize("int4"),
    Quantize("binary"),
    Rotation(),
    Reorder(),
    Chain([Rotation(), Truncate(1)]),
]


@pytest.mark.parametrize("check", transform_checks(), ids=str)
@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_every_transform_keeps_the_contract(factory, check):
    check(factory)


class Doubles(Truncate):
    """Breaks the contract: it changes what it is given, in place."""

    def transform(self, vectors):
        vectors *= 2
        return vectors[:, : self.dim]


class Forgets(Rotation):
    """Breaks the contract: it answers before `fit`."""

    def transform(self, vectors):
        return super().transform(vectors) if self.is_fitted else vectors


class Widens(Truncate):
    """Breaks the contract: it takes any width."""

    def transform(self, vectors):
        return vectors[:, : self.dim].copy()


@pytest.mark.parametrize(
    ("factory", "name", "message"),
    [
        (lambda: Doubles(4), "leaves_its_input_alone", "changed its input"),
        (Forgets, "refuses_to_transform_before_fit_if_it_learns", "NotFittedError"),
        (lambda: Widens(4), "refuses_another_width", "must be refused with DimError"),
        (lambda: object(), "is_a_transform", "object lacks a part of Transform"),
    ],
)
def test_the_suite_finds_a_transform_that_breaks_a_rule(factory, name, message):
    check = next(check for check in transform_checks() if check.name == name)

    with pytest.raises(AssertionError, match=message):
        check(factory)


@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("estimator", MADE_SMALL, ids=repr)
def test_every_transform_passes_the_checks_of_scikit_learn(estimator):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")

    results = checks.check_estimator(
        estimator, expected_failed_checks=EXPECTED_FAILED_CHECKS, on_skip=None
    )

    failed = {result["check_name"] for result in results if result["status"] == "xfail"}
    passed = [result for result in results if result["status"] == "passed"]
    assert failed == set(EXPECTED_FAILED_CHECKS)
    assert len(passed) > 30


def test_all_transforms_are_transforms():
    assert all(isinstance(factory(), Transform) for factory in FACTORIES.values())


def test_importing_transforms_imports_neither_scikit_learn_nor_scipy():
    code = (
        "import sys, matryo.transforms;"
        "print([m for m in ('sklearn', 'scipy', 'safetensors', 'torch') if m in sys.modules])"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


def test_a_grid_search_finds_the_dim_that_holds_the_signal(rng):
    linear = pytest.importorskip("sklearn.linear_model")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    labels = rng.integers(0, 2, 120)
    rows = rng.standard_normal((120, 8)) + 0.01
    rows[:, 3] += 4 * (labels - 0.5)
    pipeline = make_pipeline(Rotation(), Truncate(8), linear.LogisticRegression())
    pipeline.set_params(rotation=PreStep())

    search = GridSearchCV(pipeline, {"truncate__dim": np.array([1, 2, 4])}, cv=3).fit(rows, labels)

    assert search.best_params_ == {"truncate__dim": 4}
    assert len(search.best_estimator_[:-1].get_feature_names_out()) == 4


def test_clones_have_the_settings_and_nothing_learned(rng):
    base = pytest.importorskip("sklearn.base")
    fitted = Chain([Rotation(), Truncate(2)]).fit(rng.standard_normal((9, 4)))

    copy = base.clone(fitted)

    assert repr(copy) == "Chain(steps=[Rotation(), Truncate(dim=2, normalize=True)])"
    assert not copy.is_fitted


def test_names_of_numbers_follow_the_numbers():
    rows = np.eye(3)

    assert list(Truncate(2).fit(rows).get_feature_names_out(["a", "b", "c"])) == ["a", "b"]
    assert list(PreStep().fit(rows).get_feature_names_out()) == ["x0", "x1", "x2"]
    assert list(Rotation().fit(rows).get_feature_names_out()) == [f"rotation{i}" for i in range(3)]


def test_names_of_another_number_are_refused():
    with pytest.raises(InputError, match=r"number of features \(3\), got 2"):
        Truncate(2).fit(np.eye(3)).get_feature_names_out(["a", "b"])


def test_an_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"Truncate has no parameter 'size'\n  known: dim, norm"):
        Truncate(2).set_params(size=3)


def test_lists_of_numbers_are_vectors_too():
    np.testing.assert_allclose(Truncate(2).fit_transform([[3.0, 4.0, 1.0]]), [[0.6, 0.8]])


def test_sparse_matrices_are_refused_with_a_way_out():
    sparse = pytest.importorskip("scipy.sparse")

    with pytest.raises(VectorError, match=r"dense array, got a sparse csr_array\n .*toarray"):
        Truncate(2).fit(sparse.csr_array(np.eye(3)))


def test_a_single_vector_is_refused_with_a_way_out():
    with pytest.raises(VectorError, match=r"got shape \(3,\)\n  .*v\[None\]"):
        Truncate(2).transform(np.ones(3))


def test_another_width_than_at_fit_is_refused():
    with pytest.raises(DimError, match="X has 4 features, but Truncate is expecting 3") as caught:
        Truncate(2).fit(np.eye(3)).transform(np.eye(4))

    assert caught.value.dim == 4


def test_no_rows_can_be_transformed_but_not_learned_from():
    none = np.empty((0, 3))

    assert Rotation().fit(np.eye(3)).transform(none).shape == (0, 3)
    with pytest.raises(VectorError, match=r"0 sample\(s\)"):
        Rotation().fit(none)
