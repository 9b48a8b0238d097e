"""Another order of the numbers of a vector, for stores that can only slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from matryo.core import Estimator, InputError, VectorError, check_vectors
from matryo.transforms._rows import slices


class Reorder(Estimator):
    """Put the numbers of every vector into another order, those with the largest squares first.

    `fit` sorts by mean squared value, descending. Of all orders this one leaves the least squared
    length behind the cut, at every dim at once; a rotation leaves less, since it may mix numbers.
    An order measured by other means (what a classifier or a recall needs) is taken by `of`. No
    number is changed, so that at full width every score stays what it was.

    Attributes:
        order_: `(dim,)` place that each number comes from: column i of the result was column
            `order_[i]`. Equal means keep their order.
        n_features_in_: Width seen by `fit`.

    Examples:
        >>> Reorder().fit(np.array([[1.0, 3.0, 0.0], [1.0, -3.0, 2.0]])).order_
        array([1, 2, 0])
        >>> Reorder.of([2, 0, 1]).transform(np.array([[5.0, 6.0, 7.0]]))
        array([[7., 5., 6.]])
    """

    preserves_dtype = ("float64", "float32", "float16")

    order_: NDArray[np.int64]

    @classmethod
    def of(cls, order: ArrayLike) -> Self:
        """An order that is known.

        Args:
            order: Every number from 0 to dim - 1 once: the place that each column comes from.

        Raises:
            InputError: it is anything else.
        """
        places = np.array(order)
        whole = places.ndim == 1 and places.size > 0 and places.dtype.kind in "iu"
        if not whole or not np.array_equal(np.sort(places), np.arange(len(places))):
            raise InputError(
                f"an order has every whole number from 0 to dim - 1 once, got {places.dtype} "
                f"numbers of shape {places.shape}: {np.array2string(places, threshold=8)}"
            )
        made = cls()
        made.set_tensors({"order": places.astype(np.int64)})
        return made

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Learn from `(n, dim)` vectors; a memory-mapped array is read in chunks.

        Raises:
            VectorError: not floating point, NaN or infinity, or squares beyond float64.
        """
        rows = self._rows_to_fit(vectors)
        squares = np.zeros(rows.shape[1])
        for part in slices(len(rows)):
            check_vectors(rows[part], first_row=part.start, allow_zero=True)
            with np.errstate(over="ignore"):  # refused below
                squares += np.square(rows[part].astype(np.float64)).sum(axis=0)
        if not np.isfinite(squares).all():
            raise VectorError("vectors: expected numbers whose squares float64 can hold, got more")
        self.order_ = np.argsort(-squares, kind="stable")
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        """Put `(n, dim)` vectors into the order; a new array of the same dtype."""
        rows = self._rows(vectors)
        check_vectors(rows, allow_zero=True)
        return np.ascontiguousarray(np.take(rows, self.order_, axis=1))

    @property
    def requires_fit(self) -> bool:
        """Always."""
        return True

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The order."""
        return {"order": self.order_} if self.is_fitted else {}

    def set_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `to_tensors` gave."""
        if tensors:
            self.order_ = tensors["order"]
            self.n_features_in_ = len(self.order_)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the numbers in their new order, for scikit-learn."""
        return self._input_names(input_features)[self.order_]
