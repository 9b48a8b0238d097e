"""One of two processes with the drop-in loss: python one_st_rank.py RANK FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch import nn

from matryo.core import MatryoError
from matryo.training.sentence_transformers import MatryoshkaLoss

DIMS = [12, 2, 5]
N = 6  # rows of each rank
BOTH = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
KINDS = {
    "plain": (losses.MultipleNegativesRankingLoss, {}),
    "both directions": (losses.MultipleNegativesRankingLoss, BOTH),
    "cached": (losses.CachedMultipleNegativesRankingLoss, {"mini_batch_size": 4}),
    "cached, both directions": (
        losses.CachedMultipleNegativesRankingLoss,
        {"mini_batch_size": 4, **BOTH},
    ),
}


class Layers(nn.Module):
    """Rows through two layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12)).double()

    def forward(self, features):
        return {**features, "sentence_embedding": self.layers(features["rows"])}

    def get_embedding_dimension(self):
        return 12

    def save(self, *_args, **_options):
        """Nothing to keep."""


def encoder():
    torch.manual_seed(0)
    return SentenceTransformer(modules=[Layers()], device="cpu").train()


def rows():
    """`(3, 2 · N, 8)` anchors, positives and hard negatives of both ranks."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 2 * N, 8, generator=generator, dtype=torch.float64)


def slopes(model, name, batch, wrapped=None, **options):
    """Gradients of a loss, and the sizes that it took."""
    kind, settings = KINDS[name]
    loss = MatryoshkaLoss(model, kind(model, **settings), DIMS, [3.0, 1.0, 2.0], **options)
    loss.loss.gather_across_devices = True
    if wrapped is not None:
        loss.model = loss.loss.model = wrapped  # as the trainer does
    model.zero_grad()
    sum(loss([{"rows": column} for column in batch]).values()).backward()
    return [p.grad.tolist() for p in model.parameters()], loss.last.dims


def message(call):
    try:
        call()
    except MatryoError as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(rank, folder):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"  # a port might be taken before both have come
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    model = encoder()
    wrapped = nn.parallel.DistributedDataParallel(model)
    batch = rows()[:, rank * N : (rank + 1) * N]
    seen = {name: slopes(model, name, batch, wrapped)[0] for name in KINDS}
    seen["drawn"] = [slopes(model, "plain", batch, wrapped, n_dims_per_step=1)[1] for _ in range(2)]
    torch.manual_seed(rank)
    seen["other seeds"] = message(lambda: slopes(model, "plain", batch, wrapped, n_dims_per_step=1))
    seen["other seeds, all sizes"] = message(lambda: slopes(model, "plain", batch, wrapped))
    Path(folder, f"{rank}.json").write_text(json.dumps(seen), "utf-8")
    dist.barrier()  # gloo may hang where one rank leaves before the other is done
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
