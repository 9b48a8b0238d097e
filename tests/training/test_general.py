"""Any loss at every size, and sizes drawn at random."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training import plain
from tests.training.plain import leaf
from torch.nn import functional

from matryo.core import DimError, InputError, VectorError
from matryo.training import SizeSampler, nested, nested_info_nce

DIMS = [2, 5, 12]


def test_any_loss_is_called_on_scaled_prefixes_and_summed():
    left, right, labels = leaf(6, 12), leaf(6, 12, seed=1), torch.tensor([1, -1, 1, 1, -1, 1])

    plain.assert_same(
        lambda: nested(
            functional.cosine_embedding_loss,
            left,
            right,
            dims=DIMS,
            weights=[1, 2, 3],
            target=labels,
            margin=0.2,
        ),
        lambda: sum(
            weight
            * functional.cosine_embedding_loss(
                left[:, :dim], right[:, :dim], target=labels, margin=0.2
            )
            for dim, weight in zip(DIMS, (1, 2, 3), strict=True)
        ),
        left,
        right,
    )


def test_a_loss_of_distances_gets_prefixes_as_they_are():
    left, right = leaf(6, 12), leaf(6, 12, seed=1)

    made = nested(functional.mse_loss, left, right, dims=DIMS, normalize=False)

    wanted = sum(functional.mse_loss(left[:, :d], right[:, :d]) for d in DIMS)
    torch.testing.assert_close(made.loss, wanted)


def test_it_is_the_fused_loss_where_there_is_one_and_has_a_second_derivative():
    queries, candidates = leaf(6, 12), leaf(6, 12, seed=1)

    def flat(a, b):
        return functional.cross_entropy(20 * a @ b.T, torch.arange(6))

    made = nested(flat, queries, candidates, dims=DIMS)

    torch.testing.assert_close(made.loss, nested_info_nce(queries, candidates, DIMS).loss)
    (slope,) = torch.autograd.grad(made.loss, queries, create_graph=True)
    assert torch.autograd.grad(slope.square().sum(), candidates)[0].any()


class TestSizeSampler:
    @given(data=st.data(), keep_full=st.booleans())
    def test_the_expected_loss_of_draws_is_that_of_all_sizes(self, data, keep_full):
        dims = (2, 3, 5, 12)
        n = data.draw(st.integers(2 if keep_full else 1, 4))
        weights = [0.5, 1.0, 0.0, 3.0]
        losses = {2: 7.0, 3: 1.0, 5: 2.0, 12: 4.0}
        sampler = SizeSampler(dims, n, weights=weights, keep_full=keep_full)
        generator = torch.Generator().manual_seed(1)

        # every draw there is happens equally often, so that the mean over them is the expectation
        seen = {}
        for _ in range(300):
            draw = sampler.draw(generator)
            seen[draw.dims] = sum(weight * losses[dim] for dim, weight in draw)

        among = dims[:-1] if keep_full else dims
        last = (12,) if keep_full else ()
        possible = {(*some, *last) for some in itertools.combinations(among, n - len(last))}
        assert seen.keys() == possible
        wanted = sum(w * losses[dim] for dim, w in zip(dims, weights, strict=True))
        assert sum(seen.values()) / len(seen) == pytest.approx(wanted, rel=1e-12)

    def test_each_draw_is_as_likely_as_another(self):
        sampler = SizeSampler([2, 3, 5, 12], 2, keep_full=False)
        generator = torch.Generator().manual_seed(3)

        counts = {}
        for _ in range(3000):
            dims = sampler.draw(generator).dims
            counts[dims] = counts.get(dims, 0) + 1

        assert len(counts) == 6
        assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 20.5  # 5 degrees, 0.1 %

    def test_one_seed_draws_alike_whatever_else_is_drawn(self):
        sampler = SizeSampler(range(1, 13), 4)
        one, other = (torch.Generator().manual_seed(7) for _ in range(2))

        for seed in range(5):
            torch.manual_seed(seed)
            assert sampler.draw(one) == sampler.draw(other)

    def test_a_draw_goes_where_dims_go(self):
        queries, candidates = leaf(6, 12), leaf(6, 12, seed=1)
        draw = SizeSampler(DIMS, 1, weights=[1, 1, 1], keep_full=False).draw(
            torch.Generator().manual_seed(0)
        )

        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a draw may lack the full width
            made = nested_info_nce(queries, candidates, draw)

        wanted = plain.info_nce(queries, candidates, list(draw.dims), weights=[3.0])
        assert made.loss.item() == pytest.approx(wanted.item())

    @pytest.mark.parametrize(("n", "keep_full"), [(0, False), (4, False), (1, True), (4, True)])
    def test_more_or_fewer_than_can_be_drawn(self, n, keep_full):
        with pytest.raises(InputError, match=r"expected to draw from [12] to 3 of the dims 2,5,12"):
            SizeSampler(DIMS, n, keep_full=keep_full)

    def test_weights_beside_a_draw(self):
        draw = SizeSampler(DIMS, 2).draw(torch.Generator())
        with pytest.raises(InputError, match="have weights already"):
            nested_info_nce(leaf(6, 12), leaf(6, 12, seed=1), draw, weights=[1, 1])


class TestRefusals:
    def test_no_vectors(self):
        with pytest.raises(InputError, match="at least one tensor"):
            nested(functional.mse_loss, dims=DIMS)

    def test_widths_that_differ(self):
        with pytest.raises(InputError, match="tensor 0 and tensor 1 must be of one width"):
            nested(functional.mse_loss, leaf(6, 12), leaf(6, 10), dims=DIMS)

    def test_a_dim_beyond_the_width(self):
        with pytest.raises(DimError, match="between 1 and 12"):
            nested(functional.mse_loss, leaf(6, 12), leaf(6, 12), dims=[5, 13])

    def test_numbers_that_are_not_finite(self):
        bad = leaf(6, 12).detach().index_fill(0, torch.tensor(2), math.nan)
        with pytest.raises(VectorError, match="tensor 1: 1 row has NaN or infinity: 2"):
            nested(functional.mse_loss, leaf(6, 12), bad, dims=DIMS)

    def test_a_loss_that_is_not_one_number(self):
        with pytest.raises(InputError, match=r"must return one number, got .* shape \(6,\)"):
            nested(lambda a: a.sum(1), leaf(6, 12), dims=DIMS)
