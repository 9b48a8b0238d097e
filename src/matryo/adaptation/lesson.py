"""What is known of vectors that a map is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, TooFewError, check_vectors
from matryo.readers import Rows

Pairs = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class Lesson:
    """Vectors of one space, and what is known of them; everything but the documents may be missing.

    Attributes:
        documents: `(n, full_dim)`.
        queries: `(m, full_dim)`.
        relevant: For each query the rows of the documents that answer it, at least one.
        pairs: `(p, full_dim)` and `(p, full_dim)` vectors, and `(p,)` graded similarities.
        labels: `(n,)` class number of each document.
        stream: All rows that the documents are a sample of, for what can learn from a stream.

    Raises:
        VectorError: NaN, infinity or a row of zeros; `ids` names the rows.
        TooFewError: fewer than 3 documents.
        InputError: parts that do not fit one another, or rows of documents that there are not.
    """

    documents: NDArray[np.floating]
    queries: NDArray[np.floating] | None = None
    relevant: Sequence[NDArray[np.integer]] | None = None
    pairs: Pairs | None = None
    labels: NDArray[np.integer] | None = None
    stream: Rows | None = None

    def __post_init__(self) -> None:
        check_vectors(self.documents, what="documents")
        n, width = self.documents.shape
        if n < 3:
            raise TooFewError(f"a map is fitted on at least 3 documents, got {n}", needed=3)
        left, right, grades = self.pairs or (None, None, None)
        for what, part in (("queries", self.queries), ("left", left), ("right", right)):
            if part is None:
                continue
            check_vectors(part, what=what)
            if part.shape[1] != width:
                raise InputError(
                    f"{what}: expected vectors of {width} numbers, as the documents have, "
                    f"got {part.shape[1]}"
                )
        if self.labels is not None and self.labels.shape != (n,):
            raise InputError(
                f"labels: expected one for each of the {n} documents, got {self.labels.shape}"
            )
        if grades is not None and not len(self.pairs[0]) == len(self.pairs[1]) == len(grades):  # type: ignore[index]
            raise InputError("pairs: expected as many left and right vectors as grades")
        if self.relevant is not None:
            self._check_relevant(n)

    def _check_relevant(self, n: int) -> None:
        if self.queries is None or self.relevant is None:
            raise InputError("relevant documents need queries, got none")
        if len(self.relevant) != len(self.queries) or not all(len(r) for r in self.relevant):
            raise InputError(
                f"expected at least one relevant document for each of the {len(self.queries)} "
                f"queries, got {sum(len(r) > 0 for r in self.relevant)} lists that are not empty"
            )
        rows = np.concatenate(list(self.relevant))
        if rows.min() < 0 or rows.max() >= n:
            raise InputError(
                f"relevant documents must be rows from 0 to {n - 1}, got {rows.min()} to "
                f"{rows.max()}"
            )
