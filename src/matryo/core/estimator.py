"""The manners that scikit-learn expects of an estimator, without importing it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from matryo.core.errors import DimError, InputError, NotFittedError, VectorError

DIGEST_LENGTH = 32  # hexadecimal digits, as many as the fingerprint of a space has


class Estimator:
    """What every transform here shares: parameters, width, digest, and scikit-learn's tags.

    A subclass stores its parameters in `__init__` and nothing else, so that they can be read back
    from the signature. `n_features_in_` is there once `fit` has seen vectors.
    """

    n_features_in_: int
    preserves_dtype: ClassVar[tuple[str, ...]] = ()

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:
        """Learn from `(n, dim)` vectors."""
        raise NotImplementedError

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[Any]:
        """Apply to `(n, dim)` vectors."""
        raise NotImplementedError

    def fit_transform(self, vectors: NDArray[np.floating], y: object = None) -> NDArray[Any]:
        """Learn from vectors, then apply to the same ones."""
        return self.fit(vectors, y).transform(vectors)

    @property
    def requires_fit(self) -> bool:
        """Whether there is anything to learn before `transform`."""
        return False

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has seen vectors."""
        return "n_features_in_" in vars(self)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as named arrays for safetensors; empty if there is nothing."""
        return {}

    def set_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `to_tensors` gave."""

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over class, parameters and everything learned."""
        state = hashlib.sha256(canonical([type(self).__name__, self.get_params()]))
        for name, tensor in sorted(self.to_tensors().items()):
            little = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
            state.update(f"{name} {little.dtype.str} {little.shape}".encode())
            state.update(little.tobytes())
        return state.hexdigest()[:DIGEST_LENGTH]

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002
        """The parameters of the constructor, by name."""
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **params: Any) -> Self:
        """Change parameters of the constructor; `fit` again afterwards.

        Raises:
            InputError: a name that is no parameter.
        """
        known = self._parameters()
        for name, value in params.items():
            if name not in known:
                raise InputError(
                    f"{type(self).__name__} has no parameter {name!r}",
                    hint=f"known: {', '.join(known)}",
                )
            setattr(self, name, value)
        return self

    @classmethod
    def _parameters(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({shown})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=list(self.preserves_dtype)),
            input_tags=InputTags(),
            requires_fit=self.requires_fit,
        )

    def _rows_to_fit(self, vectors: Any) -> NDArray[np.floating]:
        """Vectors as an array that there is something to learn from."""
        array = _as_array(vectors)
        if 0 in array.shape:
            few = "feature(s)" if array.shape[1] == 0 else "sample(s)"
            raise VectorError(f"0 {few} (shape={array.shape}) while a minimum of 1 is required.")
        return array

    def _rows(self, vectors: Any) -> NDArray[np.floating]:
        """Vectors as an array, of the width that `fit` saw."""
        if self.requires_fit and not self.is_fitted:
            raise NotFittedError(f"{type(self).__name__} has learned nothing yet: call fit first")
        array = _as_array(vectors)
        width = vars(self).get("n_features_in_")
        if width is not None and array.shape[1] != width:
            # the wording is the one that scikit-learn's users know
            raise DimError(
                f"X has {array.shape[1]} features, but {type(self).__name__} is expecting "
                f"{width} features as input",
                hint="give vectors of the width that fit saw",
                dim=array.shape[1],
            )
        return array

    def _input_names(self, input_features: Any) -> NDArray[np.object_]:
        """Names of the columns that come in; x0, x1, … where nobody named them."""
        if not self.is_fitted:
            raise NotFittedError(f"{type(self).__name__} has seen no vectors yet: call fit first")
        if input_features is None:
            return np.array([f"x{i}" for i in range(self.n_features_in_)], dtype=object)
        if len(input_features) != self.n_features_in_:
            raise InputError(
                f"input_features should have length equal to number of features "
                f"({self.n_features_in_}), got {len(input_features)}"
            )
        return np.asarray(input_features, dtype=object)


def _as_array(vectors: Any) -> NDArray[np.floating]:
    """Vectors as an array; what is no array of real numbers is refused."""
    if type(vectors).__module__.startswith("scipy.sparse"):
        raise VectorError(
            f"expected a dense array, got a sparse {type(vectors).__name__}",
            hint="embeddings have no zeros to leave out: call .toarray() first",
        )
    array = np.asarray(vectors)
    if np.iscomplexobj(array):
        raise VectorError(f"Complex data not supported: expected real numbers, got {array.dtype}")
    if array.dtype == object:
        array = array.astype(np.float64)
    if array.ndim != 2:
        raise VectorError(
            f"expected one vector per row, (rows, numbers), got shape {array.shape}",
            hint="Reshape your data: a single vector v is v[None], one row",
        )
    return array


def canonical(values: Any) -> bytes:
    """JSON in one spelling; numpy's numbers, as a grid search sets them, count as plain ones."""
    return json.dumps(
        values, sort_keys=True, separators=(",", ":"), default=lambda value: value.item()
    ).encode()
