"""One of two processes: python one_rank.py RANK FOLDER; what it saw goes there as JSON."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from matryo.core import MatryoError
from matryo.training import (
    SizeSampler,
    cached_step,
    check_ranks_agree,
    gather_with_grad,
    nested_info_nce,
    own_targets,
)

DIMS = [2, 5, 12]
N = 6  # rows of each rank


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12)).double()


def texts():
    """`(2, 2 · N, 8)` queries and candidates of both ranks."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 2 * N, 8, generator=generator, dtype=torch.float64)


def loss(queries, candidates, dims):
    everyone = gather_with_grad(candidates)
    targets = own_targets(len(queries))
    return nested_info_nce(queries, everyone, dims, targets=targets, chunk_rows=4)


def drawn():
    return SizeSampler(DIMS, 2).draw(torch.Generator().manual_seed(5))


def slopes(model):
    made = [parameter.grad.tolist() for parameter in model.parameters()]
    model.zero_grad()
    return made


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
    model = nn.parallel.DistributedDataParallel(encoder())
    queries, candidates = texts()[:, rank * N : (rank + 1) * N]
    seen = {}
    for name, dims in (("all sizes", DIMS), ("drawn sizes", drawn())):
        loss(model(queries), model(candidates), dims).loss.backward()
        seen[name] = slopes(model)
    columns = [queries.split(4), candidates.split(4)]
    cached_step(model, columns, partial(loss, dims=DIMS), no_sync=model.no_sync)
    seen["cached"] = slopes(model)
    check_ranks_agree(dims=DIMS, width=12)
    seen["other settings"] = message(
        lambda: check_ranks_agree(dims=DIMS[rank:], width=12, **({"chunk": 4} if rank else {}))
    )
    seen["other rows"] = message(lambda: gather_with_grad(queries[rank:]))
    seen["other type"] = message(lambda: gather_with_grad(queries if rank else queries.float()))
    Path(folder, f"{rank}.json").write_text(json.dumps(seen), "utf-8")
    dist.barrier()  # gloo may hang where one rank leaves before the other is done
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
