"""Early layers as encoders of their own: pairs of a layer and its sizes, trained together.

One forward pass gives the vectors of every layer, and every layer learns with its own sizes, short
ones for early layers (Zhuang and others 2024, "Starbucks"). Beside its loss, what is smaller learns
the scores that the last layer gives at full width.

    dims = {2: 64, 4: 128, 6: 384}
    out = encoder(**tokens, output_hidden_states=True)
    vectors = pooled_layers(out.hidden_states, tokens["attention_mask"], dims)
    made = nested_layers(nested_info_nce, vectors[queries], vectors[candidates], dims)

Every layer at every size, as in 2D Matryoshka (Li and others 2024), is the same with
`dict.fromkeys(range(1, 7), "32,64,128,384")`. To take only some earlier layers in a step, draw them
with a `SizeSampler` of layers: `draw.dims` are the layers, `draw.weights` their weights, and the
expected gradient is that of all. `extract` saves the first layers as a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from matryo.core import InputError, Nesting, TooFewError, VectorError, check_dim, shorten
from matryo.training.checks import prefixes
from matryo.training.distillation import nested_distillation
from matryo.training.opaque import opaque
from matryo.training.result import NestedLoss
from matryo.training.sizes import Dims, Sizes, sizes_of


@dataclass(frozen=True, slots=True)
class LayersLoss(NestedLoss):
    """A loss summed over layers and sizes, and its parts.

    `per_size` has every size that occurs, summed over the layers that have it by their weights,
    the divergences left out.

    Attributes:
        by_layer: The loss of each layer before weighting, detached.
        divergences: What each layer has to learn from the last one at full width, at each of its
            sizes, before weighting, detached. The last layer is here for its smaller sizes only.
    """

    by_layer: dict[int, NestedLoss]
    divergences: dict[int, NestedLoss]


@opaque
def nested_layers(
    loss: Callable[..., NestedLoss],
    queries: Tensor,
    candidates: Tensor,
    dims: Mapping[int, int | Dims],
    *,
    weights: Sequence[float] | None = None,
    alignment: float = 1.0,
    scale: float = 20.0,
    chunk_rows: int | None = None,
) -> LayersLoss:
    """Sum a nested loss over layers, each with its own sizes, and teach them the last one's scores.

    A layer's part is its loss, and `alignment` times the sum over its sizes of the divergence
    Σ p · log(p / q), the mean over queries, of its softmax q over the candidates from the softmax p
    of the last layer at full width, which gets no gradient from it.

    Args:
        loss: Called as `loss(queries, candidates, dims=dims)` for every layer: `nested_info_nce`,
            or another loss of two columns with its options bound by `functools.partial`.
        queries: `(n, layers, full_dim)`, as from `pooled_layers`.
        candidates: `(m, layers, full_dim)`.
        dims: Layers in ascending order, and one size or several for each. The last one is the
            teacher, at the whole width of the vectors.
        weights: What each layer weighs, in the same order; 1 by default.
        alignment: What divergences weigh; 0 leaves them out.
        scale: What cosines are multiplied by in the softmax of the divergence.
        chunk_rows: Queries whose scores are held at the same time; by default as many as pay off.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        VectorError: not one vector per row and layer, NaN, infinity or a prefix of zeros.
        TooFewError: a single candidate.
        InputError: layers that do not ascend or are not as many as the vectors have; weights that
            do not fit; an alignment below 0.

    Warns:
        UserWarning: the full width is not among the dims of the last layer.
    """
    layers = _layers_of(dims)
    _check_stacked("queries", queries, layers)
    _check_stacked("candidates", candidates, layers)
    shares = _shares(layers, weights)
    if not 0 <= alignment < torch.inf:
        raise InputError(f"alignment must be a finite number of at least 0, got {alignment}")
    if len(candidates) < 2:
        raise TooFewError(
            f"candidates: a softmax needs at least 2 rows to choose from, got {len(candidates)}",
            needed=2,
        )
    teacher, known = queries[:, -1].detach(), candidates[:, -1].detach()
    total = queries.new_zeros((), dtype=torch.promote_types(queries.dtype, torch.float32))
    by_layer: dict[int, NestedLoss] = {}
    divergences: dict[int, NestedLoss] = {}
    for at, (layer, share) in enumerate(zip(layers, shares, strict=True)):
        sizes = _sizes_at(dims[layer])
        rows, columns = queries[:, at], candidates[:, at]
        if layer != layers[-1]:  # only of the last layer is the whole width expected
            check_dim(sizes.dims[-1], queries.shape[2])
            rows, columns = prefixes(sizes.dims[-1], rows, columns)
        made = loss(rows, columns, dims=sizes)
        total = total + share * made.loss
        by_layer[layer] = _detached(made)
        learners = _smaller(sizes, queries.shape[2]) if layer == layers[-1] else sizes
        if alignment and learners is not None:
            aligned = nested_distillation(
                rows[:, : learners.dims[-1]],
                teacher,
                learners,
                candidates=(columns[:, : learners.dims[-1]], known),
                kind="kl",
                scale=scale,
                chunk_rows=chunk_rows,
            )
            total = total + share * alignment * aligned.loss
            divergences[layer] = _detached(aligned)
    per_size = _summed(by_layer, shares)
    return LayersLoss(
        total, torch.stack(list(per_size.values())), tuple(per_size), by_layer, divergences
    )


def pooled_layers(
    hidden_states: Sequence[Tensor],
    attention_mask: Tensor,
    layers: Iterable[int],
    *,
    pooling: Literal["mean", "cls"] = "mean",
) -> Tensor:
    """One vector per text and layer, from the hidden states of an encoder.

    Args:
        hidden_states: `(rows, tokens, full_dim)` for the embeddings and then each layer, as
            transformers returns them with `output_hidden_states=True`.
        attention_mask: `(rows, tokens)`, 0 where a text has ended.
        layers: Which, ascending, 1 for the first; the keys of a dictionary will do.
        pooling: `"mean"` over the tokens of a text, or `"cls"`, the first token.

    Returns:
        `(rows, layers, full_dim)`, with a gradient. `cached_step` takes such vectors too.

    Raises:
        InputError: layers that do not ascend, or that the encoder does not have; a mask of another
            shape; or no such pooling.
        VectorError: a text without tokens, or, for `"cls"`, without a first one; `ids` names the
            rows.
    """
    if pooling not in ("mean", "cls"):
        raise InputError(f'pooling must be "mean" or "cls", got {pooling!r}')
    chosen = _layers_of(layers)
    n_layers = len(hidden_states) - 1
    if chosen[-1] > n_layers:
        raise InputError(
            f"layers must be between 1 and {n_layers}, the layers of these hidden states, got "
            f"{_join(chosen)}",
            hint=None if n_layers else "ask the encoder for all: output_hidden_states=True",
            layers=chosen,
        )
    states = torch.stack([hidden_states[layer] for layer in chosen], 1)
    rows, _, tokens, _ = states.shape
    if attention_mask.shape != (rows, tokens):
        raise InputError(
            f"attention_mask: expected shape {(rows, tokens)}, got {tuple(attention_mask.shape)}"
        )
    kept = attention_mask.to(states.dtype)
    counts = kept.sum(1) if pooling == "mean" else kept[:, 0]
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if empty:
        what = "no token" if pooling == "mean" else "no first token"
        raise VectorError(
            f"attention_mask: {len(empty)} {'row has' if len(empty) == 1 else 'rows have'} {what}: "
            f"{shorten(empty)}",
            hint="leave empty texts out"
            if pooling == "mean"
            else "pad on the right, so that the first token comes first",
            ids=empty,
        )
    if pooling == "cls":
        return states[:, :, 0]
    return torch.einsum("nltd,nt->nld", states, kept) / counts[:, None, None]


def _layers_of(layers: Iterable[int]) -> list[int]:
    chosen = list(layers)
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in chosen)
    if not chosen or not whole or chosen[0] < 1 or chosen != sorted(set(chosen)):
        raise InputError(
            "layers must be whole numbers of at least 1 in ascending order, each once, got "
            f"{_join(chosen) or 'none'}",
            layers=chosen,
        )
    return chosen


def _check_stacked(what: str, vectors: Tensor, layers: list[int]) -> None:
    if vectors.ndim != 3 or not vectors.numel():
        raise VectorError(
            f"{what}: expected one vector per row and layer, (rows, layers, numbers), got shape "
            f"{tuple(vectors.shape)}",
            hint="make them with pooled_layers, or torch.stack(one tensor for each layer, dim=1)",
        )
    if vectors.shape[1] != len(layers):
        raise InputError(
            f"{what}: expected vectors of the {len(layers)} layers {_join(layers)}, got those of "
            f"{vectors.shape[1]}",
            hint="give pooled_layers the same layers as here",
        )


def _shares(layers: list[int], weights: Sequence[float] | None) -> tuple[float, ...]:
    """The weight of each layer, by the rules for sizes."""
    if weights is not None and len(weights) != len(layers):
        raise InputError(
            f"expected one weight for each of the {len(layers)} layers {_join(layers)}, got "
            f"{len(weights)}",
            weights=weights,
        )
    return sizes_of(layers, weights).weights


def _sizes_at(dims: int | Dims) -> Sizes:
    return sizes_of([dims] if isinstance(dims, int) else dims)


def _smaller(sizes: Sizes, full_dim: int) -> Sizes | None:
    """The sizes of the last layer that have something to learn from the full width."""
    kept = [(dim, weight) for dim, weight in sizes if dim < full_dim]
    if not kept:
        return None
    dims, weights = zip(*kept, strict=True)
    return Sizes(Nesting(dims), weights, drawn=True)


def _summed(by_layer: Mapping[int, NestedLoss], shares: Sequence[float]) -> dict[int, Tensor]:
    """The loss of every size, over all layers that have it."""
    totals: dict[int, Tensor] = {}
    for made, share in zip(by_layer.values(), shares, strict=True):
        for dim, value in zip(made.dims, made.per_size, strict=True):
            totals[dim] = totals.get(dim, 0) + share * value
    return dict(sorted(totals.items()))


def _detached(made: NestedLoss) -> NestedLoss:
    return NestedLoss(made.loss.detach(), made.per_size, made.dims)


def _join(layers: Iterable[object]) -> str:
    return ",".join(str(layer) for layer in layers)
