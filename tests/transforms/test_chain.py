"""Transforms one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from matryo.core import DimError, InputError, NotFittedError
from matryo.transforms import (
    Chain,
    PreStep,
    Quantize,
    Rotation,
    Truncate,
    encode,
    fit_scales,
    layer_norm,
    truncate,
)


@pytest.fixture
def rows(rng):
    return rng.standard_normal((60, 12))


def test_each_step_learns_from_the_output_of_the_one_before(rows):
    chain = Chain([PreStep("layer_norm"), Rotation(), Truncate(5), Quantize("int8")]).fit(rows)

    rotated = Rotation().fit_transform(layer_norm(rows))
    prefixes = truncate(rotated, 5)
    np.testing.assert_allclose(chain.steps_[3].scales_, fit_scales(prefixes), rtol=1e-6)
    np.testing.assert_array_equal(
        chain.transform(rows), encode(prefixes, "int8", scales=fit_scales(prefixes))
    )


def test_the_steps_that_were_given_stay_as_they_were(rows):
    rotation = Rotation()

    Chain([rotation]).fit(rows)

    assert not rotation.is_fitted


def test_steps_that_are_fitted_already_make_a_chain_that_is_ready(rows):
    rotation = Rotation().fit(rows)

    chain = Chain.of_fitted([rotation, Truncate(3)])

    np.testing.assert_array_equal(chain.transform(rows), truncate(rotation.transform(rows), 3))
    assert chain.n_features_in_ == 12
    with pytest.raises(DimError, match="X has 11 features, but Chain is expecting 12"):
        chain.transform(rows[:, :11])


def test_the_digest_covers_every_step(rows):
    fitted = Chain([Rotation(), Truncate(3)]).fit(rows)

    others = [
        Chain([Rotation(), Truncate(4)]).fit(rows),
        Chain([Rotation(), Truncate(3, normalize=False)]).fit(rows),
        Chain([Rotation(), Truncate(3)]).fit(rows[1:]),
        Chain([Rotation(), Truncate(3)]),
        Chain([Rotation(), PreStep(), Truncate(3)]).fit(rows),
    ]

    assert fitted.digest == Chain([Rotation(), Truncate(3)]).fit(rows).digest
    assert len({fitted.digest, *(other.digest for other in others)}) == 6


def test_a_chain_that_was_not_fitted_refuses_to_transform(rows):
    with pytest.raises(NotFittedError, match="Chain has learned nothing yet"):
        Chain([Truncate(3)]).transform(rows)


@pytest.mark.parametrize(
    ("steps", "message"),
    [([], "at least one step, got none"), ([Truncate(2), "int8"], "step 1 .* got 'int8'")],
)
def test_steps_that_are_no_transforms_are_refused(steps, message, rows):
    with pytest.raises(InputError, match=message):
        Chain(steps).fit(rows)
