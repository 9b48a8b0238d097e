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

from matryo.core import InputError, TooFewError, check_dim
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

_ASKED, _AMONG = 4096, 65_536  # rows whose neighbors are found, and rows that they are found among
_NEAREST, _COMPANY = 10, 3  # neighbors that are known of a row, and those a batch takes along


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
    turned: int | None = None,
    weights: Sequence[float] | None = None,
    steps: int = 150,
    learning_rate: float = 3e-3,
    batch: int = 1024,
    scale: float = 20.0,
    stay: float = 1.0,
    seed: int = 0,
    watch: Callable[[int, LearnedMap], bool] | None = None,
    every: int = 50,
) -> LearnedMap:
    """Learn one map for all sizes.

    The loss is the most telling one that the data allow, in this order: the correlation of
    scores with the grades of pairs; the softmax over class means; InfoNCE of queries with their
    relevant documents; the divergence of scores between queries and documents from those at full
    width; and that between documents, which the two before have beside them. The last two need no
    labels: they keep the neighbors that there are at full width. A quarter of a batch of documents
    is random rows; the rest are some of their nearest neighbors, since random rows of a large
    corpus are hardly ever near one another, and the order of near ones is what a search is about.

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
        turned: How many dims, counted after `start`, an orthogonal map turns among themselves, the
            others staying as they are; by default all. A step takes time with its third power.
        weights: What each size weighs; 1 by default.
        steps: Steps of Adam, whose rate falls to 0 in a straight line.
        learning_rate: Its first value.
        batch: Rows in one step.
        scale: What cosines are multiplied by in a softmax.
        stay: Weight of the divergence between documents beside relevant documents of queries.
        seed: Of the draw of batches.
        watch: Called with the number of steps done and the map so far, every `every` steps and at
            the end; True stops.
        every: Steps between two calls.

    Raises:
        DimError: dims that do not ascend, that repeat, or beyond the width; or so many `turned`.
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
    learner = _LEARNERS[kind](
        torch.from_numpy(np.ascontiguousarray(begin)),
        turned=width if turned is None else check_dim(turned, width),
    )
    drawn = _Drawn(sizes, batch=batch, scale=scale, stay=stay)
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
        objective = drawn.by_relevance(rows, _tensor(queries), relevant)
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

    def __init__(self, start: Tensor, *, turned: int) -> None:
        super().__init__()
        self.start, self.turned = start, turned

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

    def __init__(self, start: Tensor, *, turned: int) -> None:
        super().__init__(start, turned=turned)
        self.free = nn.Parameter(torch.zeros(self.turned, self.turned))

    def now(self) -> Map:
        matrix = self._matrix(torch.float32)
        return lambda rows: rows @ matrix

    def arrays(self) -> dict[str, Tensor]:
        return {"matrix": self._matrix(torch.float64).float()}  # orthogonal to the last bit

    def _matrix(self, dtype: torch.dtype) -> Tensor:
        free, start = self.free.to(dtype), self.start.to(dtype)
        skew, unit = (free - free.T) / 2, torch.eye(len(free), dtype=dtype)
        first, others = start.split([len(free), len(start) - len(free)], 1)
        return torch.cat([first @ torch.linalg.solve(unit + skew, unit - skew), others], 1)


class _Linear(_Learner):
    kind: MapKind = "linear"

    def __init__(self, start: Tensor, *, turned: int) -> None:
        super().__init__(start.float(), turned=turned)
        self.change = nn.Parameter(torch.zeros(start.shape))

    def now(self) -> Map:
        matrix = self.arrays()["matrix"]
        return lambda rows: rows @ matrix

    def arrays(self) -> dict[str, Tensor]:
        return {"matrix": self.start + self.start @ self.change}


class _Residual(_Learner):
    kind: MapKind = "residual"

    def __init__(self, start: Tensor, *, turned: int) -> None:
        super().__init__(start.float(), turned=turned)
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

    def __init__(self, sizes: Sizes, *, batch: int, scale: float, stay: float) -> None:
        self.sizes, self.batch, self.scale, self.stay = sizes, batch, scale, stay

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

        drawn = self._company(documents)

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            return self._as_before(mapped, documents[drawn(generator)])

        return objective

    def by_queries(self, documents: Tensor, queries: Tensor) -> Objective:
        """Scores of queries with documents, and of documents, as they are at full width."""
        drawn = self._company(documents)
        nearest = _nearest(queries, documents, min(_NEAREST, len(documents)))

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            rows, others = self._half(len(queries), generator), drawn(generator)
            near = nearest[rows].gather(1, _some(1, nearest[rows], generator))[:, 0]
            known, asked = documents[torch.cat([near, others]).unique()], queries[rows]
            found = nested_distillation(
                mapped(asked),
                asked,
                self.sizes,
                candidates=(mapped(known), known),
                kind="kl",
                scale=self.scale,
            )
            return self._with_documents(found, mapped, documents[others], 1.0)

        return objective

    def by_relevance(
        self, documents: Tensor, queries: Tensor, relevant: Sequence[NDArray[np.integer]]
    ) -> Objective:
        """InfoNCE of one relevant document of each query against documents that no query wants."""
        empty = sum(not len(rows) for rows in relevant)
        if len(relevant) != len(queries) or empty:
            raise InputError(
                f"expected at least one relevant document for each of the {len(queries)} queries, "
                f"got {len(relevant)} lists, {empty} of them empty"
            )
        drawn = self._company(documents)
        counts = torch.tensor([len(rows) for rows in relevant])
        first = counts.cumsum(0) - counts
        flat = torch.from_numpy(np.concatenate(list(relevant)).astype(np.int64))

        def objective(mapped: Map, generator: torch.Generator) -> NestedLoss:
            rows, others = self._half(len(queries), generator), drawn(generator)
            which = (torch.rand(len(rows), generator=generator) * counts[rows]).long()
            wanted, targets = flat[first[rows] + which].unique(return_inverse=True)
            known = torch.cat([wanted, others[~torch.isin(others, flat)]])
            found = nested_info_nce(
                mapped(queries[rows]),
                mapped(documents[known]),
                self.sizes,
                targets=targets,
                scale=self.scale,
            )
            return self._with_documents(found, mapped, documents[others], self.stay)

        return objective

    def _with_documents(
        self, found: NestedLoss, mapped: Map, rows: Tensor, weight: float
    ) -> NestedLoss:
        """A loss of queries, and the divergence between documents beside it."""
        if not weight:
            return found
        kept = self._as_before(mapped, rows)
        return NestedLoss(
            found.loss + weight * kept.loss, found.per_size + weight * kept.per_size, found.dims
        )

    def _as_before(self, mapped: Map, rows: Tensor) -> NestedLoss:
        return nested_distillation(mapped(rows), rows, self.sizes, kind="kl", scale=self.scale)

    def _company(self, documents: Tensor) -> Callable[[torch.Generator], Tensor]:
        """A function that draws rows of documents: random ones, and some neighbors of each."""
        n = len(documents)
        if n <= self.batch:
            return lambda _: torch.arange(n)
        pool = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:_AMONG]
        near = _nearest(documents[pool[:_ASKED]], documents[pool], _NEAREST + 1)[:, 1:]

        def drawn(generator: torch.Generator) -> Tensor:
            rows = torch.randperm(len(near), generator=generator)
            rows = rows[: max(1, self.batch // (1 + _COMPANY))]
            along = near[rows].gather(1, _some(_COMPANY, near[rows], generator))
            return pool[torch.cat([rows, along.flatten()]).unique()]

        return drawn

    def _half(self, n: int, generator: torch.Generator) -> Tensor:
        """Half a batch of queries, since documents come beside them."""
        return self._rows(n, generator)[: self.batch // 2]

    def _rows(self, n: int, generator: torch.Generator) -> Tensor:
        """Different row numbers, as many as a batch holds or as there are."""
        return torch.randperm(n, generator=generator)[: self.batch]


def _nearest(rows: Tensor, among: Tensor, k: int) -> Tensor:
    """`(rows, k)` numbers of the nearest others by cosine, the nearest first."""
    others = functional.normalize(among).T
    parts = functional.normalize(rows).split(max(1, 2**24 // len(among)))
    return torch.cat([(part @ others).topk(k).indices for part in parts])


def _some(k: int, of: Tensor, generator: torch.Generator) -> Tensor:
    """`(rows, k)` different random places in each row."""
    return torch.rand(of.shape, generator=generator).topk(k).indices


def _tensor(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
