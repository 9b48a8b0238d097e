"""All that others may implement: an encoder, a transform, a store.

Each has a conformance suite in `matryo.testing`, which matryo's own implementations pass too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from matryo.core.plan import Funnel
from matryo.core.precision import Precision
from matryo.core.space import Side, Space


@runtime_checkable
class Encoder(Protocol):
    """A model that turns texts into whole vectors; cutting them is not its business."""

    @property
    def space(self) -> Space:
        """The space its vectors belong to, both sides."""

    @property
    def dims(self) -> tuple[int, ...] | None:
        """Dims the model was trained at, ascending; None where nobody knows."""

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:
        """Vectors `(len(texts), space.full_dim)` in the order of the texts.

        Prompts and every other step of `space` are applied, except the pre-step, the cut and the
        scaling to length 1, which belong to `matryo.transforms`.

        Raises:
            InputError: an empty text.
        """


@runtime_checkable
class Transform(Protocol):
    """Vectors in, vectors out; pure after `fit`. Learned state ends with an underscore."""

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:
        """Learn from `(n, dim)` vectors; returns itself."""

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[Any]:
        """Apply to `(n, dim)` vectors.

        Raises:
            NotFittedError: nothing was learned yet.
            DimError: the width is not the one seen by `fit`.
        """

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as named arrays for safetensors; empty if there is nothing."""

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the settings and everything learned, for fingerprints."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do by itself; anything else raises `UnsupportedError`."""

    precisions: frozenset[Precision]
    stages: int
    filters: bool
    delete: bool


@dataclass(frozen=True, slots=True)
class Hits:
    """Answers of a search, one row per query, best first.

    Attributes:
        ids: For each query its ids, at most k.
        scores: For each query its scores, higher is better.
        dim: Prefix length that the scores were computed at.
        precision: Number format that the scores were computed at.
        complete: For each query, whether as many rows were found as were asked for.
    """

    ids: list[list[str | int]]
    scores: list[NDArray[np.float32]]
    dim: int
    precision: Precision
    complete: list[bool]


@runtime_checkable
class Store(Protocol):
    """A place that keeps vectors and answers searches."""

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do by itself."""

    @property
    def space(self) -> Space:
        """The space of everything in it."""

    def add(
        self,
        ids: Sequence[str] | Sequence[int],
        vectors: NDArray[np.floating],
        fields: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows; once this returns they are kept and found. A refusal changes nothing.

        Args:
            ids: One per row, none of them known and none twice.
            vectors: `(n, full_dim)` whole vectors of documents.
            fields: For each field one value per row, None where a row has none.

        Raises:
            InputError: ids that are known or repeat.
            DimError: vectors that are not as wide as the space.
            VectorError: vectors that cannot be scored; `ids` names them.
            UnsupportedError: fields, where `capabilities.filters` is False.
        """

    def upsert(
        self,
        ids: Sequence[str] | Sequence[int],
        vectors: NDArray[np.floating],
        fields: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Add rows, or replace them with all their fields; see `add`."""

    def delete(self, ids: Sequence[str] | Sequence[int]) -> None:
        """Remove rows; unknown ids raise `InputError`."""

    def search(
        self,
        queries: NDArray[np.floating],
        *,
        k: int,
        funnel: Funnel,
        where: object | None = None,
    ) -> Hits:
        """The best `k` rows for each query, by `funnel`, among the rows that match `where`.

        A smaller `k` than the last stage keeps cuts the answer; for a larger one every stage keeps
        at least `k` rows. Of equal scores the smaller id goes first.

        Raises:
            InputError: `k` below 1, or a filter that does not fit.
            UnsupportedError: a funnel, or a filter, that the store cannot run.
        """

    def __len__(self) -> int:
        """Rows that can be found."""

    def close(self) -> None:
        """Give back files and sockets; closing twice is no error."""
