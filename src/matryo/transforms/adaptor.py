"""A map that was learned elsewhere, applied in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from matryo.core import (
    Estimator,
    InputError,
    NotFittedError,
    UnsupportedError,
    check_vectors,
)
from matryo.transforms._rows import slices

_LINEAR = ("matrix", "bias")
_RESIDUAL = ("w1", "b1", "w2", "b2")


class Adaptor(Estimator):
    """A learned map: linear, or a small network added to the vector itself.

        linear    x @ matrix + bias
        residual  x + gelu(x @ w1 + b1) @ w2 + b2

    gelu is the exact one, x times the normal distribution's share below x, by the error function
    (Hendrycks and Gimpel 2016, arXiv:1606.08415), as `torch.nn.GELU()` has it. Unlike a rotation
    such a map changes scores at full width too.

    Attributes:
        weights_: The arrays by the names above, float32 or float64.
        n_features_in_: Width that comes in.
        n_features_out_: Width that comes out.

    Examples:
        >>> Adaptor.linear([[2.0], [1.0]], [0.5]).transform(np.array([[1.0, 3.0]]))
        array([[5.5]])
    """

    weights_: dict[str, NDArray[np.floating]]

    @classmethod
    def linear(cls, matrix: ArrayLike, bias: ArrayLike | None = None) -> Self:
        """The map x @ matrix + bias.

        Args:
            matrix: `(dim, dim_out)`.
            bias: `(dim_out,)`, or None for none.

        Raises:
            InputError: shapes that do not fit, or numbers that are not finite.
        """
        return cls._of(matrix=matrix, bias=bias)

    @classmethod
    def residual(cls, w1: ArrayLike, b1: ArrayLike, w2: ArrayLike, b2: ArrayLike) -> Self:
        """The map x + gelu(x @ w1 + b1) @ w2 + b2.

        Args:
            w1: `(dim, hidden)`.
            b1: `(hidden,)`.
            w2: `(hidden, dim)`.
            b2: `(dim,)`.

        Raises:
            InputError: shapes that do not fit, or numbers that are not finite.
        """
        return cls._of(w1=w1, b1=b1, w2=w2, b2=b2)

    @classmethod
    def _of(cls, **weights: ArrayLike | None) -> Self:
        made = cls()
        made.set_tensors({name: np.array(w) for name, w in weights.items() if w is not None})
        return made

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Not here.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "an Adaptor applies a map that was learned elsewhere; it learns nothing itself",
            hint="matryo adapt learns one; Adaptor.linear and Adaptor.residual take its arrays",
        )

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map `(n, dim)` vectors.

        Returns:
            `(n, dim_out)`, a new array: float64 for float64, float32 for float32 and float16.
        """
        rows = self._rows(vectors)
        check_vectors(rows, allow_zero=True)
        dtype = np.promote_types(rows.dtype, np.float32)
        weights = {name: w.astype(dtype, copy=False) for name, w in self.weights_.items()}
        mapped = np.empty((len(rows), self.n_features_out_), dtype)
        for part in slices(len(rows)):
            mapped[part] = _map(rows[part].astype(dtype, copy=False), weights)
        return mapped

    @property
    def kind(self) -> Literal["linear", "residual"]:
        """Which of the two maps it is.

        Raises:
            NotFittedError: it has no arrays yet.
        """
        if not self.is_fitted:
            raise NotFittedError("this Adaptor has no arrays yet: make one by Adaptor.linear")
        return "linear" if "matrix" in self.weights_ else "residual"

    @property
    def requires_fit(self) -> bool:
        """Always."""
        return True

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays, by name."""
        return dict(self.weights_) if self.is_fitted else {}

    def set_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `to_tensors` gave.

        Raises:
            InputError: arrays that make none of the two maps.
        """
        if not tensors:
            return
        width, out = _require_fit(tensors)
        self.weights_ = {
            name: np.ascontiguousarray(w, np.promote_types(w.dtype, np.float32))
            for name, w in tensors.items()
        }
        self.n_features_in_, self.n_features_out_ = width, out

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """`adaptor0`, `adaptor1`, … for scikit-learn."""
        self._input_names(input_features)
        return np.array([f"adaptor{i}" for i in range(self.n_features_out_)], dtype=object)


def gelu(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Exact: x Φ(x) = x (1 + erf(x / √2)) / 2."""
    from scipy.special import erf

    share = erf(x * x.dtype.type(np.sqrt(0.5)))
    share += 1
    share *= x
    share *= x.dtype.type(0.5)
    activated: NDArray[np.floating] = share
    return activated


def _map(
    rows: NDArray[np.floating], weights: Mapping[str, NDArray[np.floating]]
) -> NDArray[np.floating]:
    mapped: NDArray[np.floating]
    if "matrix" in weights:
        mapped = rows @ weights["matrix"]
        return mapped + weights["bias"] if "bias" in weights else mapped
    hidden = gelu(rows @ weights["w1"] + weights["b1"])
    mapped = rows + (hidden @ weights["w2"] + weights["b2"])
    return mapped


def _require_fit(tensors: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
    """Widths that come in and out, if names, shapes and numbers fit."""
    names = set(tensors)
    if not ({"matrix"} <= names <= set(_LINEAR) or names == set(_RESIDUAL)):
        raise InputError(
            f"expected the arrays matrix (and bias), or {', '.join(_RESIDUAL)}, "
            f"got {', '.join(sorted(names))}"
        )
    for name, array in tensors.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{name}: expected finite floating point numbers, got {array.dtype}")
    first = tensors["matrix" if "matrix" in names else "w1"]
    if first.ndim != 2 or not first.size:
        raise InputError(f"expected a matrix (dim, numbers) to begin with, got {first.shape}")
    width, inner = first.shape
    wanted = {"bias": (inner,), "b1": (inner,), "w2": (inner, width), "b2": (width,)}
    for name, shape in wanted.items():
        if name in tensors and tensors[name].shape != shape:
            raise InputError(
                f"{name}: expected shape {shape} beside a first matrix of {first.shape}, "
                f"got {tensors[name].shape}"
            )
    return width, inner if "matrix" in names else width
