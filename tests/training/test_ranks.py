"""Two processes on this machine against one with the joined batch."""

from __future__ import annotations

import pytest
import torch
from tests.training.one_rank import DIMS, drawn, encoder, texts
from tests.training.plain import leaf
from tests.training.two_ranks import seen_by_two_ranks

from matryo.training import check_ranks_agree, gather_with_grad, nested_info_nce, own_targets


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two ranks saw."""
    return seen_by_two_ranks("one_rank.py", tmp_path_factory.mktemp("ranks"), timeout=120)


def joined(dims):
    model, (queries, candidates) = encoder(), texts()
    nested_info_nce(model(queries), model(candidates), dims).loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.slow
class TestTwoRanks:
    @pytest.mark.parametrize("name", ["all sizes", "drawn sizes", "cached"])
    def test_their_gradient_is_that_of_one_process_with_the_joined_batch(self, seen, name):
        wanted = joined(drawn() if name == "drawn sizes" else DIMS)

        for rank in seen:
            made = [torch.tensor(part, dtype=torch.float64) for part in rank[name]]
            torch.testing.assert_close(made, wanted, rtol=0, atol=1e-10)

    def test_other_settings_are_refused_on_every_rank(self, seen):
        for rank in seen:
            message = rank["other settings"]
            assert message.startswith("InputError: ranks must have the same settings, got chunk: ")
            assert "None on rank 0, 4 on rank 1" in message
            assert "dims: [2, 5, 12] on rank 0, [5, 12] on rank 1" in message
            assert "width" not in message

    def test_a_short_batch_is_refused_on_every_rank(self, seen):
        for rank in seen:
            assert "rank 0: 6 x 8 torch.float64; rank 1: 5 x 8" in rank["other rows"]
            assert "drop_last=True" in rank["other rows"]

    def test_another_type_is_refused_on_every_rank(self, seen):
        for rank in seen:
            assert "rank 0: 6 x 8 torch.float32; rank 1: 6 x 8" in rank["other type"]


def test_a_process_alone_gathers_nothing():
    vectors = leaf(4, 3)

    check_ranks_agree(dims=[1, 2])

    assert gather_with_grad(vectors) is vectors
    assert own_targets(4).tolist() == [0, 1, 2, 3]
