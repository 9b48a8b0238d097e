"""An orthogonal map that puts the directions with the most weight first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Estimator,
    NotFittedError,
    TooFewError,
    check_vectors,
)
from matryo.transforms._rows import slices


class Rotation(Estimator):
    """Rotate vectors so that their prefixes keep as much of every inner product as possible.

    The columns of `rotation_` are the eigenvectors of the second moment XᵀX / n, by descending
    eigenvalue: principal components without centring. Of all rotations this one leaves the least
    squared length behind the cut, at every dim at once (Eckart and Young 1936). The mean is kept
    because taking it away would change inner products; a rotation changes none of them beyond
    rounding, so that at full width every score stays what it was.

    Queries and documents must be rotated by the same rotation. Vectors that were trained as nested
    have an order of their own, which this one replaces: measure both.

    Attributes:
        rotation_: `(dim, dim)` float64 orthogonal matrix; the largest component of every column is
            positive, so that two fits of the same data agree.
        spectrum_: `(dim,)` float64 mean squared length along each column, descending.
        n_samples_seen_: Rows learned from.
        n_features_in_: Width seen by `fit`.

    Examples:
        >>> rotation = Rotation().fit(np.array([[0.1, 2.0], [-0.1, 2.0], [0.1, -2.0]]))
        >>> rotation.transform(np.array([[0.0, 2.0]])).round(1)
        array([[2., 0.]])
    """

    preserves_dtype = ("float64", "float32")

    # sum of xxᵀ over the rows seen; absent after loading, where rotation and spectrum stand for it
    _moment: NDArray[np.float64] | None = None

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Learn from `(n, dim)` vectors; a memory-mapped array is read in chunks.

        Fewer rows than dims are enough: directions that no row has complete the basis.

        Raises:
            TooFewError: fewer than 2 rows.
            VectorError: not floating point, NaN or infinity.
        """
        rows = self._rows_to_fit(vectors)
        moment = _moment(rows)
        self.n_features_in_, self.n_samples_seen_ = rows.shape[1], len(rows)
        self._moment = moment
        self.__dict__.pop("_solved", None)
        _ = self._solved  # too few rows are refused now, and transform changes nothing any more
        return self

    def partial_fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Learn from `(n, dim)` more vectors, after those seen so far.

        The eigenvectors are solved for when they are next needed, O(dim³).

        Raises:
            DimError: another width than the rows before.
            VectorError: not floating point, NaN or infinity.
        """
        rows = self._rows(vectors) if self.is_fitted else self._rows_to_fit(vectors)
        moment = _moment(rows)
        if self.is_fitted:
            moment += self._moment_so_far()
            self.n_samples_seen_ += len(rows)
        else:
            self.n_features_in_, self.n_samples_seen_ = rows.shape[1], len(rows)
        self._moment = moment
        self.__dict__.pop("_solved", None)
        return self

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        """Rotate `(n, dim)` vectors.

        Returns:
            `(n, dim)`, a new array: float64 for float64, float32 for float32 and float16.
        """
        rows = self._rows(vectors)
        check_vectors(rows, allow_zero=True)
        dtype = np.promote_types(rows.dtype, np.float32)
        rotation = self.rotation_.astype(dtype, copy=False)
        rotated: NDArray[np.floating] = rows.astype(dtype, copy=False) @ rotation
        return rotated

    @property
    def requires_fit(self) -> bool:
        """Always."""
        return True

    @property
    def rotation_(self) -> NDArray[np.float64]:
        """The orthogonal matrix; solved for when it is first needed."""
        return self._solved[0]

    @property
    def spectrum_(self) -> NDArray[np.float64]:
        """Mean squared length along each column of the rotation."""
        return self._solved[1]

    @cached_property
    def _solved(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._moment is None:
            raise NotFittedError("Rotation has learned nothing yet: call fit first")
        if self.n_samples_seen_ < 2:
            raise TooFewError(
                f"a rotation needs at least 2 samples, got {self.n_samples_seen_} sample",
                hint="give more vectors; a few times as many as they have numbers is good",
                needed=2,
            )
        values, vectors = np.linalg.eigh(self._moment / self.n_samples_seen_)
        rotation = np.ascontiguousarray(vectors[:, ::-1])
        largest = np.abs(rotation).argmax(axis=0)
        rotation *= np.where(rotation[largest, np.arange(len(rotation))] < 0, -1.0, 1.0)
        # eigenvalues of a sum of squares are never negative, save for rounding
        return rotation, np.maximum(values[::-1], 0.0)

    def _moment_so_far(self) -> NDArray[np.float64]:
        if self._moment is not None:
            return self._moment
        moment: NDArray[np.float64] = (
            self.rotation_ * (self.spectrum_ * self.n_samples_seen_)
        ) @ self.rotation_.T
        return moment

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Rotation, spectrum and the number of rows behind them."""
        if not self.is_fitted:
            return {}
        return {
            "rotation": self.rotation_,
            "spectrum": self.spectrum_,
            "n_samples_seen": np.array([self.n_samples_seen_], np.int64),
        }

    def set_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `to_tensors` gave."""
        if tensors:
            self._solved = tensors["rotation"], tensors["spectrum"]
            self.n_features_in_ = len(tensors["rotation"])
            self.n_samples_seen_ = int(tensors["n_samples_seen"][0])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """`rotation0`, `rotation1`, … for scikit-learn."""
        return np.array(
            [f"rotation{i}" for i in range(len(self._input_names(input_features)))], dtype=object
        )


def _moment(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum of xxᵀ over the rows, chunk by chunk."""
    moment = np.zeros((vectors.shape[1], vectors.shape[1]))
    for rows in slices(len(vectors)):
        check_vectors(vectors[rows], first_row=rows.start, allow_zero=True)
        part = vectors[rows].astype(np.float64)
        moment += part.T @ part
    return moment
