"""Two processes on this machine against one with the joined batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.one_rank import DIMS, drawn, encoder, texts
from tests.training.plain import leaf

from matryo.training import check_ranks_agree, gather_with_grad, nested_info_nce, own_targets


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two ranks saw."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("one_rank.py")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]


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
