"""Learned maps, against torch and against their formula."""

from __future__ import annotations

import numpy as np
import pytest

from matryo.core import DimError, FormatError, InputError, NotFittedError, UnsupportedError
from matryo.testing import transform_checks
from matryo.transforms import Adaptor, Chain, Truncate, load_transform, save_transform


@pytest.fixture
def network(rng):
    return {
        "w1": rng.standard_normal((12, 30)),
        "b1": rng.standard_normal(30),
        "w2": rng.standard_normal((30, 12)) / 5,
        "b2": rng.standard_normal(12),
    }


@pytest.fixture
def rows(rng):
    return rng.standard_normal((3000, 12))


def test_a_linear_map_is_a_product_and_a_sum(rows, rng):
    matrix, bias = rng.standard_normal((12, 5)), rng.standard_normal(5)

    np.testing.assert_allclose(Adaptor.linear(matrix).transform(rows), rows @ matrix, rtol=1e-12)
    np.testing.assert_allclose(
        Adaptor.linear(matrix, bias).transform(rows), rows @ matrix + bias, atol=1e-12
    )


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_a_residual_map_agrees_with_torch(network, rows, dtype, atol):
    torch = pytest.importorskip("torch")
    rows = rows.astype(dtype)
    w1, b1, w2, b2 = (torch.from_numpy(w.astype(dtype)) for w in network.values())
    x = torch.from_numpy(rows)

    expected = x + torch.nn.GELU()(x @ w1 + b1) @ w2 + b2

    mapped = Adaptor.residual(**network).transform(rows)
    assert mapped.dtype == dtype
    np.testing.assert_allclose(mapped, expected.numpy(), atol=atol)


@pytest.mark.parametrize("check", transform_checks(dim=12), ids=str)
def test_in_all_but_fitting_it_keeps_the_contract(check, network):
    class Ready(Adaptor):
        """Takes its arrays where others are fitted, so that the suite can be run."""

        def fit(self, _, y=None):  # noqa: ARG002
            self.set_tensors(network)
            return self

    Ready.__name__ = "Adaptor"  # under which it is saved

    check(Ready)


def test_it_learns_nothing_itself(rows):
    with pytest.raises(UnsupportedError, match=r"learned elsewhere.*\n.*matryo adapt learns one"):
        Adaptor().fit(rows)


def test_without_arrays_it_maps_nothing(rows):
    with pytest.raises(NotFittedError, match="call fit first"):
        Adaptor().transform(rows)
    with pytest.raises(NotFittedError, match="no arrays yet"):
        _ = Adaptor().kind


def test_it_outlasts_saving_in_a_chain(network, rows, tmp_path):
    chain = Chain.of_fitted([Adaptor.residual(**network), Truncate(4)])

    save_transform(chain, tmp_path / "c.safetensors")
    loaded = load_transform(tmp_path / "c.safetensors")

    assert loaded.digest == chain.digest
    assert loaded.steps_[0].kind == "residual"
    np.testing.assert_array_equal(loaded.transform(rows), chain.transform(rows))


def test_the_digest_covers_every_array(network):
    digests = {Adaptor.residual(**network).digest}
    for name, array in network.items():
        digests.add(Adaptor.residual(**{**network, name: array * 2}).digest)
    digests.add(Adaptor.linear(network["w1"]).digest)
    digests.add(Adaptor.linear(network["w1"], network["b1"]).digest)

    assert len(digests) == 7


def test_another_width_is_refused(rows):
    with pytest.raises(DimError, match="X has 12 features, but Adaptor is expecting 3"):
        Adaptor.linear(np.eye(3)).transform(rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adaptor.linear(np.ones(3)), r"a matrix \(dim, numbers\) .* got \(3,\)"),
        (lambda: Adaptor.linear(np.eye(3), np.ones(2)), r"bias: expected shape \(3,\) .*\(2,\)"),
        (lambda: Adaptor.linear(np.eye(3, dtype=int)), "matrix: expected finite floating point"),
        (lambda: Adaptor.linear(np.full((2, 2), np.nan)), "matrix: expected finite"),
        (
            lambda: Adaptor.residual(np.ones((3, 5)), np.ones(5), np.ones((5, 4)), np.ones(4)),
            r"w2: expected shape \(5, 3\) beside a first matrix of \(3, 5\), got \(5, 4\)",
        ),
        (lambda: Adaptor().set_tensors({"w1": np.eye(2)}), "expected the arrays matrix .* got w1"),
    ],
)
def test_arrays_that_make_no_map_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_file_with_other_arrays_is_refused(tmp_path, network):
    adaptor = Adaptor.residual(**network)
    adaptor.weights_.pop("b2")
    save_transform(adaptor, tmp_path / "a.safetensors")

    with pytest.raises(FormatError, match="expected a transform, got InputError"):
        load_transform(tmp_path / "a.safetensors")
