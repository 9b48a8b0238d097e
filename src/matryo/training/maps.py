"""Maps of frozen vectors, learned with the nested losses and handed on as numpy arrays.

The vectors stay as they are; what is learned is one map that makes their prefixes good. An
orthogonal map changes no score at full width, so nothing can be lost there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from matryo.core import InputError, TooFewError
from matryo.training.contrastive import nested_info_nce
from matryo.training.distillation import nested_distillation
from matryo.training.heads import nested_cosine_softmax
from matryo.training.pairs import correlation, nested_pairs
from matryo.training.result import NestedLoss
from matryo.training.sizes import Dims, Sizes, sizes_of

MapKind = Literal["orthogonal", "linear", "residual"]
MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)

Pairs = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]
Map = Callable[[Tensor], Tensor]
Objective = Callable[[Map, torch.Generator], NestedLoss]


@dataclass(frozen=True)
class LearnedMap:
    """What was learned, as float32 arrays.

    Attributes:
        kind: `"orthogonal"` and `"linear"` have `matrix`, and map rows x to x @ matrix;
            `"residual"` has the rest, and maps them to start(x) + gelu(start(x) w1 + b1) w2.
        arrays: By name: `matrix`; or `start`, `w1`, `b1` and `w2`.
        losses: Loss of every step at every size, `(steps, sizes)`.
    """

    kind: MapKind
    arrays: dict[str, NDArray[np.float32]]
    losses: NDArray[np.float32] = field(repr=False)


def learn_map(
    documents: NDArray[np.floating],
    dims: Dims,
    *,
    queries: NDArray[np.floating] | None = None,
    relevant: Sequence[NDArray[np.integer]] | None = None,
    pairs: Pairs | None = None,
    labels: NDArray[np.integer] | None = None,
    kind: MapKind = "orthogonal",
    start: NDArray[np.floating] | None = None,
    weights: Sequence[float] | None = None,
    steps: int = 150,
    learning_rate: float = 3e-3,
    batch: int = 1024,
    scale: float = 20.0,
    stay: float = 0.5,
    seed: int = 0,
    watch: Callable[[int, LearnedMap], bool] | None = None,
    every: int = 50,
) -> LearnedMap:
    """Learn one map for all sizes.

    The loss is the most telling one that the data allow, in this order: the correlation of
    scores with the grades of pairs; the softmax over class means; InfoNCE of queries with their
    relevant documents; the divergence of scores between queries and documents from those at full
    width; and that between documents. The last two need no labels: they keep the neighbors that
    there are at full width.

    Args:
        documents: `(n, full_dim)`.
        dims: Sizes in ascending order, the full width among them.
        queries: `(m, full_dim)`.
        relevant: For each query the rows of the documents that answer it, at least one.
        pairs: `(p, full_dim)` and `(p, full_dim)` vectors, and `(p,)` graded similarities.
        labels: `(n,)` class number of each document.
        kind: `"orthogonal"`, by the Cayley transform; `"linear"`; or `"residual"`, a small network
            whose output is added (Yoon and others 2024, "Matryoshka-Adaptor").
        start: `(full_dim, full_dim)` orthogonal matrix to begin with; by default the identity.
        weights: What each size weighs; 1 by default.
        steps: Steps of Adam, whose rate falls to 0 in a straight line.
        learning_rate: Its first value.
        batch: Rows in one step.
        scale: What cosines are multiplied by in a softmax.
        stay: Weight of the divergence from scores at full width beside labels of queries.
        seed: Of the draw of batches.
        watch: Called with the number of steps done and the map so far, every `every` steps and at
            the end; True stops.
        every: Steps between two calls.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width.
        VectorError: NaN, infinity or a prefix of zeros.
        TooFewError: fewer rows than a loss needs.
        InputError: no such kind, no steps, or data that do not fit one another.
    """
    if kind not in MAP_KINDS:
        raise InputError(f"kind must be one of {', '.join(MAP_KINDS)}, got {kind!r}")
    if steps < 1 or batch < 2:
        raise InputError(f"expected at least 1 step of at least 2 rows, got {steps} of {batch}")
    width = documents.shape[1]
    sizes = sizes_of(dims, weights, full_dim=width)
    begin = np.eye(width) if start is None else np.asarray(start, np.float64)
    learner = _LEARNERS[kind](torch.from_numpy(np.ascontiguousarray(begin)))
    drawn = _Drawn(sizes, batch=batch, scale=scale)
    rows = _tensor(documents)
    if pairs is not None:
        objective = drawn.by_grades(*map(_tensor, pairs))
    elif labels is not None:
        objective = drawn.by_labels(rows, torch.as_tensor(labels))
    elif queries is None:
        objective = drawn.by_documents(rows)
    elif relevant is None:
        objective = drawn.by_queries(rows, _tensor(queries))
    else:
        objective = drawn.by_relevance(rows, _tensor(queries), relevant, stay)
    optimizer = torch.optim.Adam(learner.parameters(), lr=learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(seed)
    losses: list[Tensor] = []
    for step in range(1, steps + 1):
        made = objective(learner.now(), generator)
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
        falling.step()
        losses.append(made.per_size)
        if watch is None or (step % every and step < steps):
            continue
        if watch(step, learner.learned(losses)):
            break
    return learner.learned(losses)


class _Learner(nn.Module):
    """A map with parameters that starts as the identity after `start`."""

    kind: MapKind

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.start = start

    def now(self) -> Map:
        """The map with the parameters of this step, made once for all rows of the step."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Tensor]:
        """What the map is made of."""
        raise NotImplementedError

    def learned(self, losses: Sequence[Tensor]) -> LearnedMap:
        """A copy that later steps do not change."""
        with torch.no_grad():
            arrays = {name: array.numpy().copy() for name, array in self.arrays().items()}
        return LearnedMap(self.kind, arrays, torch.stack(list(losses)).numpy())


class _Orthogonal(_Learner):
    """start (I + S)⁻¹ (I - S) with S skew: the Cayley transform, orthogonal by construction."""

    kind: MapKind = "orthogonal"

    def __init__(self, start: Tensor) -> None:
        super().__init__(start)
        self.free = nn.Parameter(torch.zeros(start.shape))

    def now(self) -> Map:
        matrix = self._matrix(torch.float32)
        return lambda rows: rows @ matrix

    def arrays(self) -> dict[str, Tensor]:
        return {"matrix": self._matrix(torch.float64).float()}  # orthogonal to the last bit

    def _matrix(self, dtype: torch.dtype) -> Tensor:
        free, start = self.free.to(dtype), self.start.to(dtype)
        skew, unit = (free - free.T) / 2, torch.eye(len(free), dtype=dtype)
        turned: Tensor = torch.linalg.solve(unit + skew, unit - skew)
        return start @ turned


class _Linear(_Learner):
    kind: MapKind = "linear"

    def __init__(self, start: Tensor) -> None:
        super().__init__(start.float())
        self.change = nn.Parameter(torch.zeros(start.shape))

    def now(self) -> Map:
        matrix = self.arrays()["matrix"]
        return lambda rows: rows @ matrix

    def arrays(self) -> dict[str, Tensor]:
        return {"matrix": self.start + self.start @ self.change}


class _Residual(_Learner):
    kind: MapKind = "residual"

    def __init__(self, start: Tensor) -> None:
        super().__init__(start.float())
        width = len(start)
        made = torch.Generator().manual_seed(0)
        reach = width**-0.5
        self.w1 = nn.Parameter((torch.rand(width, width, generator=made) * 2 - 1) * reach)
        self.b1 = nn.Parameter(torch.zeros(width))
        self.w2 = nn.Parameter(torch.zeros(width, width))  # nothing is added at first

    def now(self) -> Map:
        def mapped(rows: Tensor) -> Tensor:
            turned = rows @ self.start
            return turned + functional.gelu(turned @ self.w1 + self.b1) @ self.w2

        return mapped

    def arrays(self) -> dict[str, Tensor]:
        return {"start": self.start, "w1": self.w1, "b1": self.b1, "w2": self.w2}


_LEARNERS: dict[MapKind, type[_Learner]] = {
    "orthogonal": _Orthogonal,
    "linear": _Linear,
    "residual": _Residual,
}


class _Drawn:
    """Losses of batches that are drawn anew for every step."""

    def __init__(self, sizes: Sizes, *, batch: int, scale: float) -> None:
        self.sizes, self.batch, self.scale = sizes, batch, scale

    def by_grades(self, left: Tensor, right: Tensor, grades: Tensor) -> Objective:
        """Correlation of the scores of pairs with what is known of them."""

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            rows = self._rows(len(grades), generator)
            return nested_pairs(
                correlation, mapped(left[rows]), mapped(right[rows]), grades[rows], self.sizes
            )

        return objective

    def by_labels(self, documents: Tensor, labels: Tensor) -> Objective:
        """Which class mean, mapped like any vector, is nearest."""
        classes, numbers = labels.unique(return_inverse=True)
        if len(classes) < 2:
            raise TooFewError(f"labels must name at least 2 classes, got {len(classes)}", needed=2)
        unit = functional.normalize(documents)
        means = torch.zeros(len(classes), unit.shape[1]).index_add_(0, numbers, unit)

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            rows = self._rows(len(documents), generator)
            return nested_cosine_softmax(
                mapped(documents[rows]), mapped(means), numbers[rows], self.sizes, scale=self.scale
            )

        return objective

    def by_documents(self, documents: Tensor) -> Objective:
        """Scores between documents, as they are at full width."""
        if len(documents) < 3:
            raise TooFewError(
                f"neighbors can be learned from 3 documents on, got {len(documents)}", needed=3
            )

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            rows = documents[self._rows(len(documents), generator)]
            return nested_distillation(mapped(rows), rows, self.sizes, kind="kl", scale=self.scale)

        return objective

    def by_queries(self, documents: Tensor, queries: Tensor) -> Objective:
        """Scores of queries with documents, as they are at full width."""

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            asked = queries[self._rows(len(queries), generator)]
            known = documents[self._rows(len(documents), generator)]
            return self._as_before(mapped, asked, known)

        return objective

    def by_relevance(
        self,
        documents: Tensor,
        queries: Tensor,
        relevant: Sequence[NDArray[np.integer]],
        stay: float,
    ) -> Objective:
        """InfoNCE against one relevant document of each query and random others."""
        empty = sum(not len(rows) for rows in relevant)
        if len(relevant) != len(queries) or empty:
            raise InputError(
                f"expected at least one relevant document for each of the {len(queries)} queries, "
                f"got {len(relevant)} lists, {empty} of them empty"
            )
        counts = torch.tensor([len(rows) for rows in relevant])
        first = counts.cumsum(0) - counts
        flat = torch.from_numpy(np.concatenate(list(relevant)).astype(np.int64))

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            rows = self._rows(len(queries), generator)
            which = (torch.rand(len(rows), generator=generator) * counts[rows]).long()
            others = self._rows(len(documents), generator)
            known = documents[torch.cat([flat[first[rows] + which], others])]
            found = nested_info_nce(
                mapped(queries[rows]), mapped(known), self.sizes, scale=self.scale
            )
            if not stay:
                return found
            kept = self._as_before(mapped, queries[rows], known)
            return NestedLoss(
                found.loss + stay * kept.loss, found.per_size + stay * kept.per_size, found.dims
            )

        return objective

    def _as_before(self, mapped: Map, asked: Tensor, known: Tensor) -> NestedLoss:
        return nested_distillation(
            mapped(asked),
            asked,
            self.sizes,
            candidates=(mapped(known), known),
            kind="kl",
            scale=self.scale,
        )

    def _rows(self, n: int, generator: torch.Generator) -> Tensor:
        """Different row numbers, as many as a batch holds or as there are."""
        return torch.randperm(n, generator=generator)[: self.batch]


def _tensor(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
