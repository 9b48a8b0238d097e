"""Keeping a prefix of every vector, and what some models need before that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    Estimator,
    UnknownNameError,
    VectorError,
    check_dim,
    check_vectors,
    shorten,
)
from matryo.transforms._rows import slices


def truncate(
    vectors: NDArray[np.floating], dim: int, *, normalize: bool = True
) -> NDArray[np.floating]:
    """Keep the first `dim` numbers of every vector.

    Nested models put the most useful numbers first, so a prefix is itself an embedding. It is
    shorter than the vector it was cut from, by another factor in every row: where vectors are
    compared by their cosine, scale it to length 1 again (the default), or inner products of
    prefixes rank rows by how much length happened to fall into the prefix. In `dot` and `l2`
    spaces the length carries meaning: `normalize=False` keeps the raw numbers.

    Args:
        vectors: `(n, full_dim)` finite floating point numbers, after the pre-step of the model.
        dim: Numbers to keep, 1 to `full_dim`.
        normalize: Scale each prefix to length 1; its length is computed in float64.

    Returns:
        `(n, dim)`, a new array of the same dtype, never a view.

    Raises:
        DimError: `dim` is not between 1 and `full_dim`.
        VectorError: not floating point, NaN, infinity, or, where prefixes are normalised, a row
            or a prefix of only zeros; `ids` names the rows by number.

    Examples:
        >>> truncate(np.array([[3.0, 4.0, 12.0]]), 2)
        array([[0.6, 0.8]])
    """
    check_vectors(vectors, allow_zero=not normalize)
    prefix = vectors[:, : check_dim(dim, vectors.shape[1])]
    if not normalize:
        return np.array(prefix, order="C")
    zero = np.flatnonzero(~prefix.any(axis=1))
    if zero.size:
        raise VectorError(
            f"vectors cut to {dim} numbers: only zeros remain of {zero.size} "
            f"{'row' if zero.size == 1 else 'rows'}: {shorten(zero.tolist())}",
            hint="cut to more numbers, or leave these rows out; they have no direction to compare",
            ids=zero.tolist(),
        )
    unit = np.empty(prefix.shape, prefix.dtype)
    for rows in slices(len(prefix)):
        part = prefix[rows].astype(np.float64)
        if prefix.dtype == np.float64:
            # the largest number becomes 1 first: squares of 1e-200 would vanish even in float64
            part /= np.abs(part).max(axis=1, keepdims=True)
        part /= np.sqrt(np.einsum("ij,ij->i", part, part))[:, None]
        unit[rows] = part
    return unit


def normalize(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale every vector to length 1; `truncate` at full width.

    Raises:
        VectorError: as `truncate`.
    """
    return truncate(vectors, vectors.shape[-1])


def layer_norm(vectors: NDArray[np.floating], eps: float = 1e-5) -> NDArray[np.floating]:
    """Give the numbers of every vector mean 0 and variance 1, without learned weights.

    (x - mean(x)) / sqrt(var(x) + eps) with the biased variance, computed in float64 (Ba, Kiros and
    Hinton 2016, arXiv:1607.06450). Models such as nomic-embed-text-v1.5 were trained with this step
    between the whole vector and the cut; cutting first gives other vectors.

    Args:
        vectors: `(n, full_dim)` whole vectors.
        eps: Added to the variance.

    Returns:
        `(n, full_dim)`, a new array of the same dtype.

    Raises:
        VectorError: not floating point, NaN or infinity, or a row whose numbers are all equal:
            nothing but rounding would be left of it.
    """
    check_vectors(vectors, allow_zero=True)
    equal = np.flatnonzero((vectors == vectors[:, :1]).all(axis=1))
    if equal.size:
        raise VectorError(
            f"vectors before a layer norm: all numbers are equal in {equal.size} "
            f"{'row' if equal.size == 1 else 'rows'}: {shorten(equal.tolist())}",
            hint="leave these rows out or encode them again; nothing of them outlasts the norm",
            ids=equal.tolist(),
        )
    normed = np.empty(vectors.shape, vectors.dtype)
    for rows in slices(len(vectors)):
        part = vectors[rows].astype(np.float64)
        part -= part.mean(axis=1, keepdims=True)
        part /= np.sqrt(np.square(part).mean(axis=1, keepdims=True) + eps)
        normed[rows] = part
    return normed


PRE_STEPS: dict[str, Callable[[NDArray[np.floating]], NDArray[np.floating]]] = {
    "layer_norm": layer_norm
}


def pre_step(vectors: NDArray[np.floating], name: str | None) -> NDArray[np.floating]:
    """Apply the step that a model needs between its whole vectors and the cut.

    Args:
        vectors: `(n, full_dim)` raw output of the model.
        name: A name in `PRE_STEPS`, as in `SideSpec.pre_step`; None leaves `vectors` as they are.

    Raises:
        UnknownNameError: no pre-step has this name.
        VectorError: the step cannot be applied to these vectors.
    """
    if name is None:
        return vectors
    if name not in PRE_STEPS:
        raise UnknownNameError.among("pre-step", name, PRE_STEPS)
    return PRE_STEPS[name](vectors)


class Truncate(Estimator):
    """`truncate` as a transform; it learns nothing and may be used without `fit`.

    Args:
        dim: Numbers to keep.
        normalize: Scale each prefix to length 1.

    Attributes:
        n_features_in_: Width seen by `fit`.
    """

    preserves_dtype = ("float64", "float32", "float16")

    def __init__(self, dim: int, *, normalize: bool = True) -> None:
        self.dim = dim
        self.normalize = normalize

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Remember the width of `(n, full_dim)` vectors.

        Raises:
            DimError: `dim` is not between 1 and their width.
            VectorError: not floating point, NaN or infinity.
        """
        rows = self._rows_to_fit(vectors)
        check_vectors(rows, allow_zero=True)
        check_dim(self.dim, rows.shape[1])
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        """Cut `(n, full_dim)` vectors to `(n, dim)`; see `truncate`."""
        return truncate(self._rows(vectors), self.dim, normalize=self.normalize)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the numbers that are kept, for scikit-learn."""
        return self._input_names(input_features)[: self.dim]


class PreStep(Estimator):
    """`pre_step` as a transform; it learns nothing and may be used without `fit`.

    Args:
        name: A name in `PRE_STEPS`, or None to do nothing.

    Attributes:
        n_features_in_: Width seen by `fit`.
    """

    preserves_dtype = ("float64", "float32", "float16")

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Remember the width of `(n, full_dim)` vectors.

        Raises:
            UnknownNameError: no pre-step has this name.
            VectorError: not floating point, NaN or infinity.
        """
        rows = self._rows_to_fit(vectors)
        check_vectors(rows, allow_zero=True)
        pre_step(rows[:0], self.name)
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        """Apply the step to `(n, full_dim)` vectors; see `pre_step`."""
        rows = self._rows(vectors)
        check_vectors(rows, allow_zero=True)
        return pre_step(rows, self.name)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the numbers, unchanged, for scikit-learn."""
        return self._input_names(input_features)
