"""Batches larger than the memory for an encoder's graph (Gao and others 2021, "GradCache")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from matryo.core import InputError
from matryo.training.result import NestedLoss


def cached_step(
    encode: Callable[[Any], Tensor],
    columns: Sequence[Sequence[Any]],
    loss: Callable[..., NestedLoss],
    *,
    no_sync: Callable[[], AbstractContextManager[object]] | None = None,
) -> NestedLoss:
    """Make the gradient of a large batch, encoding one small batch at a time.

    Everything is encoded twice: first without a graph, to make the loss and its gradient by the
    vectors; then again, small batch by small batch, to send that gradient into the encoder. The
    second time dropout sees the random numbers of the first. Gradients are added to `grad` of the
    parameters, as `backward` does, those of a learned scale in the first part; the optimizer is the
    caller's to step.

    Args:
        encode: From one small batch, whatever it is, to `(rows, full_dim)` vectors.
        columns: Small batches of each column, queries and candidates for instance.
        loss: Called as `loss(*vectors)` with the `(n, full_dim)` vectors of each column.
        no_sync: That of a `DistributedDataParallel` encoder, so that only the last small batch
            waits for other ranks.

    Returns:
        The loss, detached: its gradient is made.

    Raises:
        InputError: no columns, or a column without batches.
    """
    if not columns or not all(len(column) for column in columns):
        raise InputError(
            "expected at least one column of at least one small batch, got "
            f"{[len(column) for column in columns]} batches"
        )
    vectors, drawn = [], []
    with torch.no_grad():
        for column in columns:
            parts = []
            for batch in column:
                drawn.append(_Randomness())
                parts.append(encode(batch))
            vectors.append(parts)
    # autocast keeps the weights that it has converted, those of this pass without a graph
    torch.clear_autocast_cache()
    whole = [torch.cat(parts).requires_grad_() for parts in vectors]
    made = loss(*whole)
    made.loss.backward()
    batches = [batch for column in columns for batch in column]
    flows = [
        flow
        for parts, all_rows in zip(vectors, whole, strict=True)
        for flow in _split(all_rows.grad, [len(part) for part in parts])
    ]
    again = [i for i, flow in enumerate(flows) if flow is not None]
    del vectors, whole
    after = _Randomness()
    for i in again:
        with nullcontext() if no_sync is None or i == again[-1] else no_sync():
            drawn[i].restore()
            encode(batches[i]).backward(flows[i])
    after.restore()
    return replace(made, loss=made.loss.detach())


def _split(flow: Tensor | None, lengths: list[int]) -> list[Tensor | None]:
    return [None] * len(lengths) if flow is None else list(flow.split(lengths))


class _Randomness:
    """Where the generators of all devices stand."""

    def __init__(self) -> None:
        self._host = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Draw again what was drawn from here on."""
        torch.set_rng_state(self._host)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)
