"""InfoNCE at every size against the plain sum over sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training import plain
from tests.training.plain import assert_same, leaf

from matryo.core import DimError, InputError, Nesting, TooFewError, UnsupportedError, VectorError
from matryo.training import nested_info_nce

DIMS = [2, 5, 12]


def batch(n=9, m=9, width=12, seed=0):
    queries = leaf(n, width, seed=seed)
    candidates = leaf(m, width, seed=seed + 1)
    with torch.no_grad():  # a query is near its own candidate, as in training
        candidates[: min(n, m)] += queries[: min(n, m)]
    return queries, candidates


@pytest.mark.parametrize("normalize", [True, False], ids=["cosine", "dot"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["one-way", "both-ways"])
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(2, 12),
    extra=st.integers(0, 7),
    dims=st.sets(st.integers(1, 11), max_size=5).map(lambda some: sorted({*some, 12})),
    chunk_rows=st.integers(1, 14),
    scale=st.sampled_from([0.05, 1.0, 20.0, 100.0]),
    data=st.data(),
)
def test_loss_and_gradients_are_those_of_the_plain_sum_over_sizes(
    normalize, symmetric, seed, n, extra, dims, chunk_rows, scale, data
):
    queries, candidates = batch(n, n + extra, seed=seed)
    weight = st.sampled_from([0.0, 0.3, 1.0, 4.0])
    weights = data.draw(st.lists(weight, min_size=len(dims), max_size=len(dims)).filter(any))
    targets = torch.tensor(data.draw(st.permutations(range(n + extra)))[:n])
    form = {"weights": weights, "targets": targets, "symmetric": symmetric, "normalize": normalize}
    learned = torch.tensor(scale, dtype=torch.float64, requires_grad=True)

    assert_same(
        lambda: nested_info_nce(
            queries, candidates, dims, scale=learned, chunk_rows=chunk_rows, **form
        ),
        lambda: plain.info_nce(queries, candidates, dims, scale=learned, **form),
        queries,
        candidates,
        learned,
    )


def test_scores_so_far_apart_that_a_probability_vanishes_keep_their_loss():
    queries, candidates = batch()
    queries, candidates = (t.detach().float().requires_grad_() for t in (queries, candidates))
    targets = torch.arange(9).flip(0)

    assert_same(
        lambda: nested_info_nce(queries, candidates, DIMS, scale=500.0, targets=targets),
        lambda: plain.info_nce(queries, candidates, DIMS, scale=500.0, targets=targets),
        queries,
        candidates,
        tolerance=1e-4,
    )


def test_each_size_tells_its_own_loss_before_weighting():
    queries, candidates = batch()

    made = nested_info_nce(queries, candidates, "2,5,12", weights=[0.5, 0.0, 3.0])

    alone = {dim: plain.info_nce(queries, candidates, [dim]).item() for dim in DIMS}
    assert made.by_dim() == pytest.approx(alone, rel=1e-12)
    assert made.loss.item() == pytest.approx(0.5 * alone[2] + 3 * alone[12], rel=1e-12)
    assert not made.per_size.requires_grad


@pytest.mark.parametrize("wanted", ["queries", "candidates", "scale", "queries and scale"])
def test_only_what_wants_a_gradient_gets_one(wanted):
    queries, candidates = batch()
    leaves = {
        "queries": queries,
        "candidates": candidates,
        "scale": torch.tensor(9.0, dtype=torch.float64, requires_grad=True),
    }
    for name, tensor in leaves.items():
        tensor.requires_grad_(name in wanted)
    given = [tensor for name, tensor in leaves.items() if name in wanted]
    queries, candidates, scale = leaves.values()

    assert_same(
        lambda: nested_info_nce(queries, candidates, DIMS, scale=scale, chunk_rows=4),
        lambda: plain.info_nce(queries, candidates, DIMS, scale=scale),
        *given,
    )
    assert all(tensor.grad is None for name, tensor in leaves.items() if name not in wanted)


def test_vectors_may_be_parts_of_others_and_reach_further_than_the_dims():
    whole = leaf(20, 30)

    message = "the full width, 20, is not among the dims 4,16: .* after the first 16"
    with pytest.warns(UserWarning, match=message) as warned:
        assert_same(
            lambda: nested_info_nce(whole[::2, 5:25], whole[1::2, 5:25], [4, 16]),
            lambda: plain.info_nce(whole[::2, 5:25], whole[1::2, 5:25], [4, 16]),
            whole,
        )
    assert warned[0].filename == __file__


def test_hard_negatives_are_further_candidates():
    queries, positives = batch()
    negatives = leaf(18, 12, seed=5)

    made = nested_info_nce(queries, torch.cat([positives, negatives]), DIMS)

    alone = plain.info_nce(queries, torch.cat([positives, negatives]), DIMS)
    assert made.loss.item() == pytest.approx(alone.item(), rel=1e-12)


def test_gradients_of_several_batches_add_up():
    queries, candidates = batch(12, 12)
    parts = [slice(0, 6), slice(6, 12)]
    for part in parts:
        (nested_info_nce(queries[part], candidates[part], DIMS).loss / 2).backward()
    ours = queries.grad

    queries.grad = None
    sum(plain.info_nce(queries[part], candidates[part], DIMS) / 2 for part in parts).backward()

    torch.testing.assert_close(ours, queries.grad, rtol=0, atol=1e-12)


def test_going_back_twice_through_a_kept_graph_doubles_the_gradient():
    queries, candidates = batch()
    made = nested_info_nce(queries, candidates, DIMS)
    made.loss.backward(retain_graph=True)
    once = queries.grad.clone()

    made.loss.backward()

    torch.testing.assert_close(queries.grad, 2 * once)


def test_without_a_graph_there_is_the_same_loss():
    queries, candidates = batch()
    wanted = nested_info_nce(queries, candidates, DIMS, chunk_rows=4)

    with torch.no_grad():
        made = nested_info_nce(queries, candidates, DIMS, chunk_rows=4)

    assert not made.loss.requires_grad
    torch.testing.assert_close(made.loss, wanted.loss.detach())
    torch.testing.assert_close(made.per_size, wanted.per_size)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(kind):
    queries, candidates = (tensor.detach().to(kind).requires_grad_() for tensor in batch())
    exact = [tensor.detach().float().requires_grad_() for tensor in (queries, candidates)]

    made = nested_info_nce(queries, candidates, DIMS)
    made.loss.backward()
    wanted = nested_info_nce(*exact, DIMS)
    wanted.loss.backward()

    assert made.loss.dtype == torch.float32
    assert queries.grad.dtype == kind
    torch.testing.assert_close(made.loss, wanted.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(queries.grad.float(), exact[0].grad, rtol=1e-2, atol=1e-3)


def test_under_autocast_it_is_within_a_hundredth_of_full_precision():
    torch.manual_seed(2)
    layer, inputs = torch.nn.Linear(16, 12), torch.randn(64, 16)

    def slope(*, low):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            vectors = layer(inputs)
            made = nested_info_nce(vectors[:32], vectors[32:], DIMS, scale=5.0)
        made.loss.backward()
        return made.loss.detach(), layer.weight.grad.clone()

    (low_loss, low_slope), (loss, wanted) = slope(low=True), slope(low=False)

    assert low_loss.dtype == torch.float32
    assert low_loss.item() == pytest.approx(loss.item(), rel=1e-2)
    assert (low_slope - wanted).norm() < 1e-2 * wanted.norm()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_step_has_the_same_gradients():
    layer = torch.nn.Linear(12, 12, dtype=torch.float64)
    inputs, others = (tensor.detach() for tensor in batch())

    def step():
        vectors = torch.tanh(layer(inputs))
        return nested_info_nce(vectors, torch.tanh(layer(others)), DIMS).loss * 2

    wanted = plain.slopes_of(step, layer.weight)
    made = plain.slopes_of(torch.compile(step, backend="aot_eager"), layer.weight)

    assert torch._dynamo.utils.counters["graph_break"].total() == 1
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-12)


def test_what_is_kept_for_the_way_back_does_not_grow_with_the_number_of_sizes():
    queries, candidates = batch(64, 64)

    def kept(dims):
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: numbers.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            nested_info_nce(queries, candidates, dims, chunk_rows=8)
        return sum(numbers)

    assert kept(range(1, 13)) == kept([12]) <= queries.numel() + candidates.numel() + 12


class TestRefusals:
    @pytest.mark.parametrize(
        ("dims", "message"),
        [
            ([4, 16], "between 1 and 12 .* got 16"),
            ([8, 4], "must ascend, got 4 after 8"),
            ([4, 4, 12], "must not repeat, got 4 twice"),
            ([], "at least one dim"),
            ([0, 12], "at least 1, got 0"),
            (Nesting((5, 13)), "between 1 and 12 .* got 13"),
        ],
    )
    def test_dims_that_do_not_fit(self, dims, message):
        with pytest.raises(DimError, match=message):
            nested_info_nce(*batch(), dims)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1.0, 2.0], "one weight for each of the 3 dims 2,5,12, got 2"),
            ([1.0, -1.0, 1.0], "at least 0, .* got 1, -1, 1"),
            ([0.0, 0.0, 0.0], "not all of them 0"),
            ([1.0, math.nan, 1.0], "finite numbers"),
        ],
    )
    def test_weights_that_do_not_fit(self, weights, message):
        with pytest.raises(InputError, match=message):
            nested_info_nce(*batch(), DIMS, weights=weights)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("side", ["queries", "candidates"])
    @pytest.mark.parametrize("normalize", [True, False])
    def test_numbers_that_are_not_finite_before_any_gradient(self, value, side, normalize):
        queries, candidates = batch()
        with torch.no_grad():
            {"queries": queries, "candidates": candidates}[side][[3, 7], 11] = value

        with pytest.raises(VectorError, match=rf"{side}: 2 rows have NaN or inf.*: 3, 7") as caught:
            nested_info_nce(queries, candidates, DIMS, normalize=normalize)

        assert caught.value.ids == [3, 7]
        assert queries.grad is None

    def test_a_prefix_of_zeros_has_no_cosine(self):
        queries, candidates = batch()
        with torch.no_grad():
            candidates[4, :2] = 0

        with pytest.raises(VectorError, match="candidates: 1 row has only zeros in the first 2 "):
            nested_info_nce(queries, candidates, DIMS)
        assert nested_info_nce(queries, candidates, DIMS, normalize=False).loss.isfinite()

    @pytest.mark.parametrize("value", [1e30, 1e-30])
    def test_numbers_that_cannot_be_squared(self, value):
        queries, candidates = (tensor.detach().float() for tensor in batch())
        with pytest.raises(
            VectorError, match="row has numbers whose squares are beyond float32: 2"
        ):
            nested_info_nce(queries.index_fill(0, torch.tensor(2), value), candidates, DIMS)

    @pytest.mark.parametrize("symmetric", [False, True])
    def test_a_batch_of_one(self, symmetric):
        with pytest.raises(TooFewError, match=r"at least 2 rows to choose from, got 1") as caught:
            nested_info_nce(*batch(1, 1), DIMS, symmetric=symmetric)
        assert caught.value.needed == 2
        assert nested_info_nce(*batch(1, 2), DIMS).loss > 0

    def test_candidates_that_are_all_equal(self):
        queries, candidates = batch()
        same = candidates[:1].expand(9, -1)
        with pytest.raises(InputError, match=r"candidates: all 9 rows are equal, .* no query can"):
            nested_info_nce(queries, same, DIMS)

    def test_fewer_candidates_than_queries(self):
        with pytest.raises(InputError, match="a candidate for each of the 9 queries, got 5"):
            nested_info_nce(*batch(9, 5), DIMS)

    @pytest.mark.parametrize("wrong", [-1, 9])
    def test_targets_that_are_no_candidates(self, wrong):
        targets = torch.arange(9)
        targets[4] = wrong
        message = rf"targets: .* from 0 to 8, got {wrong} in row 4 \(1 of 9"
        with pytest.raises(InputError, match=message) as caught:
            nested_info_nce(*batch(), DIMS, targets=targets)
        assert caught.value.rows == [4]

    def test_widths_that_differ(self):
        with pytest.raises(InputError, match="of one width, got 12 and 10 numbers"):
            nested_info_nce(leaf(4, 12), leaf(4, 10), [4, 10])

    @pytest.mark.parametrize("shape", [(12,), (0, 12), (2, 3, 12)])
    def test_what_are_no_rows_of_vectors(self, shape):
        with pytest.raises(VectorError, match="queries: expected one vector per row"):
            nested_info_nce(torch.ones(shape), torch.ones(shape), DIMS)

    def test_whole_numbers(self):
        with pytest.raises(VectorError, match=r"floating point numbers, got torch.int64"):
            nested_info_nce(torch.ones(3, 12, dtype=torch.long), leaf(3, 12), DIMS)

    @pytest.mark.parametrize("scale", [0.0, -1.0, math.inf])
    def test_a_scale_that_is_none(self, scale):
        with pytest.raises(InputError, match=r"scale must be .* above 0, got"):
            nested_info_nce(*batch(), DIMS, scale=scale)

    def test_no_rows_at_a_time(self):
        with pytest.raises(InputError, match="chunk_rows must be at least 1, got 0"):
            nested_info_nce(*batch(), DIMS, chunk_rows=0)

    def test_a_second_derivative(self):
        queries, candidates = batch()
        made = nested_info_nce(queries, candidates, DIMS)
        with pytest.raises(UnsupportedError, match="no second derivative"):
            torch.autograd.grad(made.loss, queries, create_graph=True)
