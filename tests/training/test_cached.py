"""Large batches in small ones: the same gradient, whatever the encoder draws or keeps."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.training.plain import leaf
from torch import nn

from matryo.core import InputError
from matryo.training import cached_step, nested_info_nce

DIMS = [2, 5, 12]
loss = partial(nested_info_nce, dims=DIMS)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 12)
    return nn.Sequential(*layers).double()


def gradients(encoder):
    made = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    return made


def texts(n=14):
    return leaf(n, 8).detach(), leaf(n, 8, seed=1).detach()


@pytest.mark.parametrize("size", [1, 3, 14])
def test_small_batches_make_the_gradient_of_the_large_one(encoder, size):
    queries, candidates = texts()
    encoder.eval()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    whole = loss(encoder(queries), encoder(candidates), scale=scale)
    whole.loss.backward()
    wanted, wanted_scale = gradients(encoder), scale.grad.clone()
    scale.grad = None

    made = cached_step(
        encoder, [queries.split(size), candidates.split(size)], partial(loss, scale=scale)
    )

    torch.testing.assert_close(gradients(encoder), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scale.grad, wanted_scale, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.loss, whole.loss.detach())
    assert not made.loss.requires_grad


def test_dropout_drops_the_same_numbers_both_times(encoder):
    queries, candidates = texts()
    batches = [queries.split(5), candidates.split(5)]
    torch.manual_seed(3)
    kept = [[encoder(batch) for batch in column] for column in batches]
    loss(*map(torch.cat, kept)).loss.backward()
    wanted, later = gradients(encoder), torch.rand(3)

    torch.manual_seed(3)
    cached_step(encoder, batches, loss)

    torch.testing.assert_close(gradients(encoder), wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.rand(3), later)


def test_weights_converted_by_autocast_get_their_gradient(encoder):
    encoder.float().eval()
    queries, candidates = (column.float() for column in texts())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(encoder(queries), encoder(candidates)).loss.backward()
        wanted = gradients(encoder)
        cached_step(encoder, [queries.split(5), candidates.split(5)], loss)

    for ours, theirs in zip(gradients(encoder), wanted, strict=True):
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()


def test_only_the_last_small_batch_waits_for_other_ranks(encoder):
    queries, candidates = texts()
    told = []

    class Quiet:
        def __enter__(self):
            told.append("quiet")

        def __exit__(self, *_):
            told.append("over")

    def encode(batch):
        if torch.is_grad_enabled():
            told.append("encode")
        return encoder(batch)

    cached_step(encode, [queries.split(7), candidates.split(7)], loss, no_sync=Quiet)

    assert told == ["quiet", "encode", "over"] * 3 + ["encode"]


def test_a_column_that_the_loss_leaves_out_is_encoded_once(encoder):
    seen = []

    def encode(batch):
        seen.append(len(batch))
        return encoder(batch)

    queries, candidates = texts()
    cached_step(encode, [[queries], [candidates], [queries]], lambda a, b, _: loss(a, b))

    assert len(seen) == 5


@pytest.mark.parametrize("columns", [[], [[]]])
def test_nothing_to_encode(encoder, columns):
    with pytest.raises(InputError, match="at least one column of at least one small batch"):
        cached_step(encoder, columns, loss)
