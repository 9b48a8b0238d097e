"""Several processes: one gather with a gradient, and settings that must be equal everywhere.

With `DistributedDataParallel`, which takes the mean of the gradients of all ranks, each rank finds
its own queries among the candidates of all:

    everyone = gather_with_grad(candidates)
    made = nested_info_nce(queries, everyone, dims, targets=own_targets(len(queries)))

has the gradient of one process with the joined batch. The gather takes whole vectors, once, however
many sizes the loss has.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from matryo.core import InputError

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_shared() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        ctx.n = len(vectors)
        parts = [torch.empty_like(vectors) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, vectors)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *flows: Tensor) -> Tensor:
        # every rank's loss has seen these rows: what reaches them is the sum over ranks
        flow = flows[0].contiguous()
        dist.all_reduce(flow)
        first = dist.get_rank() * ctx.n
        return flow[first : first + ctx.n]


def gather_with_grad(vectors: Tensor) -> Tensor:
    """The vectors of all ranks under one another, rank 0 first; gradients go back to each rank.

    Alone, or where nothing is initialised, it hands the vectors back as they are.

    Args:
        vectors: `(n, full_dim)` of this rank; n, the width and the type must be those of the
            others.

    Returns:
        `(ranks · n, full_dim)`.

    Raises:
        InputError: ranks have different shapes or types; raised on every rank.
    """
    if not is_shared():
        return vectors
    code = _TYPES.index(vectors.dtype) if vectors.dtype in _TYPES else -1
    mine = torch.tensor([*vectors.shape, code], device=vectors.device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    shapes = [part.tolist() for part in everyone]
    if any(shape != shapes[0] for shape in shapes) or code < 0:
        told = "; ".join(
            f"rank {rank}: {n} x {width} {_TYPES[at] if at >= 0 else 'not floating point'}"
            for rank, (n, width, at) in enumerate(shapes)
        )
        raise InputError(
            f"vectors of all ranks must have one shape and type, got {told}",
            hint="leave a last short batch out: drop_last=True",
            shapes=shapes,
        )
    gathered: Tensor = _Gather.apply(vectors.contiguous())  # type: ignore[no-untyped-call]
    return gathered


def own_targets(n: int, *, device: torch.device | str | None = None) -> Tensor:
    """`(n,)` places of this rank's rows among those of `gather_with_grad`."""
    first = dist.get_rank() * n if is_shared() else 0
    return torch.arange(first, first + n, device=device)


def check_ranks_agree(**settings: object) -> None:
    """Refuse to start if the ranks were given different settings.

    Call it once on every rank before the first step, for instance with the width, the dims, their
    weights and `chunk_rows`: ranks that differ would hang in a collective call, or train on losses
    that do not belong together.

    Args:
        settings: Numbers, text, lists and dictionaries of them.

    Raises:
        InputError: on every rank, naming what differs and where.
    """
    if not is_shared():
        return
    told = [json.loads(text) for text in _exchange(json.dumps(settings, default=str))]
    names = sorted({name for one in told for name in one})
    differing = [name for name in names if any(one.get(name) != told[0].get(name) for one in told)]
    if differing:
        lines = (
            f"{name}: " + ", ".join(f"{one.get(name)!r} on rank {i}" for i, one in enumerate(told))
            for name in differing
        )
        raise InputError(
            f"ranks must have the same settings, got {'; '.join(lines)}",
            hint="give every rank the same configuration",
            differing=differing,
        )


def _exchange(message: str) -> list[str]:
    """The messages of all ranks, as bytes in tensors, so that nothing is unpickled."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    raw = torch.frombuffer(bytearray(message.encode()), dtype=torch.uint8).to(device)
    lengths = [
        torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(lengths, torch.tensor([len(raw)], device=device))
    longest = max(int(length) for length in lengths)
    padded = torch.cat([raw, raw.new_zeros(longest - len(raw))])
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return [
        bytes(part[: int(length)].tolist()).decode()
        for part, length in zip(parts, lengths, strict=True)
    ]
