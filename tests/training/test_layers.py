"""Layers with sizes of their own: what a plain loop over layers and sizes says, and a teacher."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from tests.training import plain
from tests.training.plain import assert_same, leaf
from torch import nn
from torch.nn import functional

from matryo.core import DimError, InputError, TooFewError, VectorError
from matryo.training import SizeSampler, cached_step, cosent, nested_info_nce, nested_pairs
from matryo.training.layers import nested_layers, pooled_layers

PAIRS = {2: 4, 4: 7, 6: 12}
GRID = {1: "3,12", 2: "3,5,12", 3: [3, 5, 12]}
loss = partial(nested_info_nce, scale=9.0)

shapes = pytest.mark.parametrize("dims", [PAIRS, GRID], ids=["pairs", "grid"])


def sizes(dims):
    """`(layer, list of dims)` as plain numbers."""
    parts = {layer: [d] if isinstance(d, int) else d for layer, d in dims.items()}
    return [
        (layer, [int(x) for x in d.split(",")] if isinstance(d, str) else d)
        for layer, d in parts.items()
    ]


def expected(queries, candidates, dims, weights, alignment=1.0):
    total = 0
    teacher = 20 * plain.cosines(queries[:, -1], candidates[:, -1], 12)
    wanted = teacher.detach().log_softmax(1)
    for at, (layer, own) in enumerate(sizes(dims)):
        pair = queries[:, at], candidates[:, at]
        part = plain.info_nce(*pair, own, scale=9.0)
        for dim in own:
            logs = (20 * plain.cosines(*pair, dim)).log_softmax(1)
            if layer != max(dims) or dim != 12:
                part = part + alignment * functional.kl_div(
                    logs, wanted, log_target=True, reduction="batchmean"
                )
        total = total + weights[at] * part
    return total


@shapes
@pytest.mark.parametrize("chunk_rows", [2, None])
@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 3.0]])
def test_gradients_are_those_of_a_plain_loop_over_layers_and_sizes(dims, chunk_rows, weights):
    queries, candidates = leaf(6, 3, 12), leaf(8, 3, 12, seed=1)

    assert_same(
        lambda: nested_layers(
            loss, queries, candidates, dims, weights=weights, alignment=0.7, chunk_rows=chunk_rows
        ),
        lambda: expected(queries, candidates, dims, weights or [1.0] * 3, alignment=0.7),
        queries,
        candidates,
    )


def test_the_teacher_is_not_moved_by_what_others_learn_from_it():
    queries, candidates = leaf(6, 3, 12), leaf(6, 3, 12, seed=1)
    slopes = []
    for alignment in (0.0, 5.0):
        made = nested_layers(loss, queries, candidates, PAIRS, alignment=alignment)
        slopes.append(torch.autograd.grad(made.loss, queries)[0])

    assert torch.equal(slopes[0][:, 2], slopes[1][:, 2])
    assert (slopes[0][:, 0] != slopes[1][:, 0]).any()


def test_a_layer_that_equals_the_last_one_has_nothing_to_learn_from_it():
    queries, candidates = leaf(6, 1, 12).detach(), leaf(6, 1, 12, seed=1).detach()

    made = nested_layers(
        loss, queries.expand(6, 2, 12), candidates.expand(6, 2, 12), {1: "4,12", 2: 12}
    )

    divergence = made.divergences[1].by_dim()
    assert divergence[12] == pytest.approx(0, abs=1e-15)
    assert divergence[4] > 0.01
    assert set(made.divergences) == {1}


@shapes
def test_the_parts_are_the_losses_of_each_layer_and_each_size(dims):
    queries, candidates = leaf(6, 3, 12), leaf(6, 3, 12, seed=1)
    weights = [0.5, 1.0, 3.0]

    made = nested_layers(loss, queries, candidates, dims, weights=weights)

    totals = {}
    for at, (layer, own) in enumerate(sizes(dims)):
        for dim in own:
            one = plain.info_nce(queries[:, at], candidates[:, at], [dim], scale=9.0).item()
            assert made.by_layer[layer].by_dim()[dim] == pytest.approx(one)
            totals[dim] = totals.get(dim, 0) + weights[at] * one
    assert made.by_dim() == pytest.approx(totals)
    assert made.dims == tuple(sorted(totals))
    assert not made.by_layer[max(dims)].loss.requires_grad


def test_a_loss_of_pairs_is_called_on_each_layer():
    left, right = leaf(6, 3, 12), leaf(6, 3, 12, seed=1)
    labels = torch.tensor([0.0, 1, 2, 3, 4, 5])

    made = nested_layers(
        partial(nested_pairs, cosent, labels=labels), left, right, PAIRS, alignment=0
    )

    wanted = sum(
        plain.cosent(plain.pair_scores(left[:, at], right[:, at], dim, "cosine"), labels)
        for at, dim in enumerate(PAIRS.values())
    )
    torch.testing.assert_close(made.loss, wanted)
    assert not made.divergences


def test_drawn_layers_have_the_loss_of_all_on_average():
    vectors = [leaf(6, 4, 12, seed=seed).detach() for seed in (0, 1)]
    dims = dict.fromkeys(range(1, 5), "5,12")
    whole = nested_layers(loss, *vectors, dims).loss
    sampler, generator = SizeSampler(list(dims), 2), torch.Generator().manual_seed(0)

    seen = {}
    for _ in range(40):
        draw = sampler.draw(generator)
        drawn = [part[:, [layer - 1 for layer in draw.dims]] for part in vectors]
        chosen = {layer: dims[layer] for layer in draw.dims}
        seen[draw.dims] = nested_layers(loss, *drawn, chosen, weights=draw.weights).loss

    assert len(seen) == 3
    torch.testing.assert_close(sum(seen.values()) / 3, whole)


def test_large_batches_are_made_of_small_ones():
    torch.manual_seed(0)
    steps = nn.ModuleList([nn.Linear(12, 12) for _ in range(3)]).double()

    def encode(rows):
        states = [rows]
        for step in steps:
            states.append(step(states[-1]).tanh())
        return torch.stack(states[1:], 1)

    def gradients():
        made = [parameter.grad.clone() for parameter in steps.parameters()]
        steps.zero_grad()
        return made

    columns = [leaf(9, 12, seed=seed).detach() for seed in (0, 1)]
    step = partial(nested_layers, loss, dims=GRID)
    whole = step(*map(encode, columns))
    whole.loss.backward()
    wanted = gradients()

    made = cached_step(encode, [column.split(2) for column in columns], step)

    torch.testing.assert_close(gradients(), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.loss, whole.loss.detach())
    assert made.by_dim() == pytest.approx(whole.by_dim())


def test_only_the_last_layer_is_asked_for_the_whole_width():
    queries, candidates = leaf(6, 3, 12), leaf(6, 3, 12, seed=1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nested_layers(loss, queries, candidates, PAIRS)
    with pytest.warns(UserWarning, match="the full width, 12, is not among the dims 7"):
        nested_layers(loss, queries, candidates, PAIRS | {6: 7})


class TestPooling:
    def states(self):
        return [leaf(3, 5, 4, seed=seed).detach() for seed in range(4)]

    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])

    def test_the_mean_is_over_the_tokens_of_a_text(self):
        states = self.states()

        made = pooled_layers(states, self.mask, [1, 3])

        assert made.shape == (3, 2, 4)
        for row, n in enumerate([5, 2, 1]):
            for at, layer in enumerate([1, 3]):
                torch.testing.assert_close(made[row, at], states[layer][row, :n].mean(0))

    def test_cls_is_the_first_token(self):
        states = self.states()

        made = pooled_layers(states, self.mask, PAIRS_OF_TWO, pooling="cls")

        torch.testing.assert_close(made[:, 0], states[2][:, 0])
        torch.testing.assert_close(made[:, 1], states[3][:, 0])

    def test_layers_beyond_the_last_one(self):
        with pytest.raises(InputError, match=r"between 1 and 3, .* got 2,4"):
            pooled_layers(self.states(), self.mask, [2, 4])

    @pytest.mark.parametrize("layers", [[], [0, 2], [2, 1], [2, 2], [1.5], [True]])
    def test_layers_that_are_none(self, layers):
        with pytest.raises(InputError, match="ascending order, each once, got"):
            pooled_layers(self.states(), self.mask, layers)

    def test_texts_without_tokens_are_named(self):
        mask = self.mask.clone()
        mask[1] = 0
        with pytest.raises(VectorError, match="1 row has no token: 1") as told:
            pooled_layers(self.states(), mask, [1])
        assert told.value.ids == [1]

    def test_padding_on_the_left_has_no_first_token(self):
        with pytest.raises(VectorError, match=r"2 rows have no first token: 1, 2\n.*right"):
            pooled_layers(self.states(), self.mask.flip(1), [1], pooling="cls")

    def test_a_mask_of_other_texts(self):
        with pytest.raises(InputError, match=r"expected shape \(3, 5\), got \(2, 5\)"):
            pooled_layers(self.states(), self.mask[:2], [1])

    def test_a_pooling_that_is_none(self):
        with pytest.raises(InputError, match='"mean" or "cls", got \'max\''):
            pooled_layers(self.states(), self.mask, [1], pooling="max")


PAIRS_OF_TWO = {2: 2, 3: 4}


class TestRefusals:
    def call(self, dims=PAIRS, n_layers=3, candidates=None, **options):
        candidates = leaf(6, n_layers, 12, seed=1) if candidates is None else candidates
        return nested_layers(loss, leaf(6, n_layers, 12), candidates, dims, **options)

    def test_vectors_of_other_layers(self):
        with pytest.raises(InputError, match="of the 3 layers 2,4,6, got those of 2"):
            self.call(n_layers=2)

    def test_vectors_of_one_layer_only(self):
        with pytest.raises(VectorError, match=r"\(rows, layers, numbers\), got shape \(6, 12\)"):
            self.call(candidates=leaf(6, 12))

    def test_layers_out_of_order(self):
        with pytest.raises(InputError, match="ascending order, each once, got 4,2,6"):
            self.call({4: 7, 2: 4, 6: 12})

    @pytest.mark.parametrize("layer", [2, 6])
    def test_a_dim_beyond_the_width(self, layer):
        with pytest.raises(DimError, match="between 1 and 12"):
            self.call(PAIRS | {layer: 13})

    def test_weights_that_do_not_fit(self):
        with pytest.raises(InputError, match="each of the 3 layers 2,4,6, got 2"):
            self.call(weights=[1, 2])
        with pytest.raises(InputError, match="at least 0, not all of them 0, got 1, -1, 1"):
            self.call(weights=[1, -1, 1])

    def test_an_alignment_below_zero(self):
        with pytest.raises(InputError, match="alignment must be a finite number of at least 0"):
            self.call(alignment=-1)

    def test_numbers_that_are_not_finite(self):
        bad = leaf(6, 3, 12).detach()
        bad[4, 0, 2] = math.nan
        with pytest.raises(VectorError, match="candidates: 1 row has NaN or infinity: 4"):
            self.call(candidates=bad)

    def test_a_single_candidate(self):
        with pytest.raises(TooFewError, match="at least 2 rows to choose from, got 1"):
            self.call(candidates=leaf(1, 3, 12))
