"""A classifier on frozen vectors that can answer from any of its sizes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from matryo.cascade.heads import HeadKind, Heads, fit_heads, prefixes_of
from matryo.core import (
    DimError,
    Estimator,
    FormatError,
    InputError,
    Nesting,
    NotFittedError,
    VectorError,
    canonical,
    check_vectors,
    write_atomically,
)

FORMAT = 1
KIND = "matryo-classifier"


class Classifier(Estimator):
    """What classifiers here share beside the manners of every estimator."""

    classes_: NDArray[Any]

    def predict(self, vectors: NDArray[np.floating]) -> NDArray[Any]:
        """The likeliest class of each of `(n, full_dim)` vectors."""
        classes: NDArray[Any] = self.classes_of(self.predict_proba(vectors))
        return classes

    def predict_proba(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """`(n, classes)` probabilities, in the order of `classes_`."""
        raise NotImplementedError

    def score(self, vectors: NDArray[np.floating], y: Any) -> float:
        """Accuracy: the share of vectors whose likeliest class is their label in `y`."""
        return float(np.mean(self.predict(vectors) == np.asarray(y)))

    def classes_of(self, probabilities: NDArray[np.floating]) -> NDArray[Any]:
        """The likeliest class of each row of probabilities."""
        classes: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return classes

    @property
    def requires_fit(self) -> bool:
        """Always."""
        return True

    # scikit-learn takes whatever has these two for a transformer
    @property
    def transform(self) -> Any:
        """Not there: a classifier predicts."""
        raise AttributeError(f"{type(self).__name__} transforms nothing: call predict")

    @property
    def fit_transform(self) -> Any:
        """Not there: a classifier predicts."""
        raise AttributeError(f"{type(self).__name__} transforms nothing: call fit, then predict")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(),
            requires_fit=True,
        )

    def _rows(self, vectors: Any) -> NDArray[np.floating]:
        if not self.is_fitted:
            raise _not_fitted(type(self).__name__)
        return _as_floats(super()._rows(vectors))

    def _rows_to_fit(self, vectors: Any) -> NDArray[np.floating]:
        return _as_floats(super()._rows_to_fit(vectors))


class NestedClassifier(Classifier):
    """One linear head for every size, on frozen vectors.

    The heads are `"separate"` logistic regressions; or `"tied"`, one matrix whose first columns
    serve the smaller sizes, learned for all sizes at once; or `"nearest_mean"`, the cosine to the
    mean of each class, for a few examples per class and for classes of very different sizes.

    Args:
        dims: Sizes, as numbers or as text; the full width is always among them. By default powers
            of two from 8 up.
        head: `"separate"`, `"tied"` or `"nearest_mean"`.
        C: Inverse strength of the penalty on squared weights; means need none.
        normalize: Scale every prefix to length 1. A prefix of only zeros stays as it is, and the
            biases alone answer.

    Attributes:
        classes_: Labels, sorted.
        dims_: Sizes, ascending.
        heads_: Weights and biases of every size.
        n_features_in_: The full width.

    Examples:
        >>> vectors = np.array([[1.0, 0.2], [0.9, -0.2], [-1.0, 0.1], [-0.8, -0.1]])
        >>> fitted = NestedClassifier("1,2").fit(vectors, ["in", "in", "out", "out"])
        >>> fitted.predict_proba_at(vectors[:1], 1).round(2)
        array([[0.93, 0.07]])
    """

    def __init__(
        self,
        dims: str | Sequence[int] | None = None,
        head: HeadKind = "separate",
        *,
        C: float = 10.0,  # noqa: N803  # the name that scikit-learn gave it
        normalize: bool = True,
    ) -> None:
        self.dims = dims
        self.head = head
        self.C = C
        self.normalize = normalize

    @classmethod
    def from_heads(
        cls,
        dims: Iterable[int],
        weights: NDArray[np.floating] | Sequence[NDArray[np.floating]],
        biases: NDArray[np.floating] | Sequence[NDArray[np.floating]],
        classes: Sequence[Any] | NDArray[Any],
        *,
        normalize: bool,
    ) -> Self:
        """A classifier that is ready: its heads were learned elsewhere, for instance in training.

        Args:
            dims: Ascending sizes, the last one the full width.
            weights: `(classes, full_dim)`, one matrix for all sizes, or a `(classes, dim)` array
                for each size.
            biases: `(classes,)` for all sizes, or `(sizes, classes)`.
            classes: Labels, in the order of the rows.
            normalize: Whether the heads were learned on prefixes of length 1.

        Raises:
            DimError: arrays that do not fit the dims or the classes.
            InputError: labels that repeat, or fewer than two.
        """
        sizes, labels = Nesting.parse(dims).dims, np.asarray(classes)
        tied = isinstance(weights, np.ndarray) and weights.ndim == 2
        each = [weights[:, :dim] for dim in sizes] if tied else list(weights)  # type: ignore[call-overload]
        wanted = [(len(labels), dim) for dim in sizes]
        found = [np.shape(weight) for weight in each]
        if found != wanted or (tied and np.shape(weights)[1] != sizes[-1]):
            raise DimError(
                f"expected weights of shape (classes, dim), {', '.join(map(str, wanted))}, "
                f"got {np.shape(weights) if tied else ', '.join(map(str, found))}"
            )
        shape = np.shape(biases)
        if shape not in ((len(labels),), (len(sizes), len(labels))):
            raise DimError(
                f"expected biases of shape ({len(labels)},) or ({len(sizes)}, {len(labels)}), "
                f"got {shape}"
            )
        if len(labels) < 2 or len(np.unique(labels)) < len(labels):
            raise InputError(f"expected two or more different classes, got {labels.tolist()}")
        made = cls(sizes, "tied" if tied else "separate", normalize=normalize)
        order = np.argsort(labels)
        rows = np.broadcast_to(np.asarray(biases), (len(sizes), len(labels)))
        made.classes_, made.dims_, made.n_features_in_ = labels[order], sizes, sizes[-1]
        if tied:
            whole = np.asarray(weights)[order]
            each = [whole[:, :dim] for dim in sizes]
        else:
            each = [np.asarray(weight)[order] for weight in each]
        made.heads_ = Heads(each, rows[:, order])
        return made

    def fit(self, vectors: NDArray[np.floating], y: Any = None) -> Self:
        """Learn the heads of all sizes.

        Args:
            vectors: `(n, full_dim)` vectors; a prefix of them is what a smaller size sees.
            y: `(n,)` labels.

        Raises:
            InputError: fewer than two classes, not one label for each vector, or a setting that
                does not fit.
            VectorError: NaN, infinity, or codes instead of vectors.
        """
        from sklearn.utils import column_or_1d
        from sklearn.utils.multiclass import check_classification_targets

        rows = self._rows_to_fit(vectors)
        check_vectors(rows, allow_zero=True)
        if y is None:
            raise InputError("requires y to be passed, but the target y is None")
        check_classification_targets(y)
        labels = column_or_1d(y, warn=True)
        if len(labels) != len(rows):
            raise InputError(
                f"expected one label for each of the {len(rows)} vectors, got {len(labels)}"
            )
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"expected at least two classes, got one class: {classes[0]!r}")
        if not self.C > 0:
            raise InputError(f"C must be above 0, got {self.C}")
        if self.head == "nearest_mean" and not self.normalize:
            raise InputError("nearest means are compared by their cosine: leave normalize on")
        full_dim = rows.shape[1]
        nesting = (
            Nesting.halving(full_dim, smallest=8)
            if self.dims is None
            else Nesting.parse(self.dims, full_dim=full_dim)
        )
        dims = tuple(sorted({*nesting, full_dim}))
        self.heads_ = fit_heads(
            self.head,
            rows,
            codes,
            dims,
            C=self.C,
            normalize=self.normalize,
        )
        self.classes_, self.dims_, self.n_features_in_ = classes, dims, full_dim
        return self

    def predict_proba(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """`(n, classes)` probabilities at the full width, in the order of `classes_`."""
        rows = self._rows(vectors)
        return self.predict_proba_at(rows, self.dims_[-1])

    def predict_proba_at(self, vectors: NDArray[np.floating], dim: int) -> NDArray[np.float64]:
        """`(n, classes)` probabilities from the first `dim` numbers of every vector.

        Raises:
            DimError: no head was learned for this size.
            VectorError: NaN or infinity.
        """
        rows = self._rows(vectors)
        if dim not in self.dims_:
            raise DimError(
                f"this classifier has heads for the dims {', '.join(map(str, self.dims_))}, "
                f"got {dim!r}",
                dim=dim,
            )
        check_vectors(rows, allow_zero=True)
        prefixes = prefixes_of(rows, dim, normalize=self.normalize)
        return self.heads_.probabilities(prefixes, self.dims_.index(dim))

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Classes (as JSON), dims, and the heads; a tied matrix once."""
        if not self.is_fitted:
            return {}
        heads = self.heads_
        each = heads.weights[-1:] if self.head == "tied" else heads.weights
        labels = canonical([str(self.classes_.dtype), self.classes_.tolist()])
        return {
            "classes": np.frombuffer(labels, np.uint8),
            "dims": np.array(self.dims_, np.int64),
            "biases": heads.biases,
            **{f"weights.{weight.shape[1]}": weight for weight in each},
        }

    def set_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `to_tensors` gave."""
        dtype, values = json.loads(tensors["classes"].tobytes())
        self.classes_ = np.array(values, dtype)
        self.dims_ = tuple(tensors["dims"].tolist())
        full_dim = self.dims_[-1]
        weights = [
            tensors[f"weights.{full_dim}"][:, :dim]
            if self.head == "tied"
            else tensors[f"weights.{dim}"]
            for dim in self.dims_
        ]
        self.heads_ = Heads(weights, tensors["biases"])
        self.n_features_in_ = full_dim

    def save(self, path: str | Path) -> None:
        """Write settings and heads as one .safetensors file; an older file is replaced when done.

        Raises:
            NotFittedError: nothing was learned yet.
            InputError: the folder of `path` does not exist.
        """
        from safetensors.numpy import save

        if not self.is_fitted:
            raise _not_fitted(type(self).__name__)
        tensors = {name: np.ascontiguousarray(t) for name, t in self.to_tensors().items()}
        header = {
            "kind": KIND,
            "format": str(FORMAT),
            "digest": self.digest,
            "params": canonical(self.get_params()).decode(),
        }
        write_atomically(path, save(tensors, header))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a classifier written by `save`.

        Raises:
            FormatError: not such a file, a newer format, or a changed byte.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        raw = Path(path).read_bytes()
        try:
            header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
            kind, number, digest = header["kind"], header["format"], header["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path}: expected a classifier as .safetensors, got {error!r}", path=path
            ) from error
        if kind != KIND:
            raise FormatError(f"{path}: expected kind {KIND!r}, got {kind!r}", path=path)
        if number != str(FORMAT):
            raise FormatError(
                f"{path}: expected format {FORMAT}, got {number}",
                hint="a newer matryo wrote this file: pip install -U matryo",
                path=path,
            )
        try:
            made = cls(**json.loads(header["params"]))
            made.set_tensors(load(raw))
            found = made.digest
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            raise FormatError(f"{path}: expected a classifier, got {error!r}", path=path) from error
        if found != digest:
            raise FormatError(
                f"{path}: this file was changed after it was written (its digest does not match)",
                hint="restore the file, or fit the classifier again",
                path=path,
            )
        return made


def _as_floats(array: NDArray[Any]) -> NDArray[np.floating]:
    """Whole numbers as float64; single bytes, which are codes of vectors, are refused."""
    if array.dtype.kind not in "iub":
        floats: NDArray[np.floating] = array
        return floats
    if array.dtype.itemsize == 1:
        raise VectorError(
            f"expected floating point numbers, got {array.dtype}",
            hint="codes are no vectors yet: decode them first",
        )
    return array.astype(np.float64)


def _not_fitted(name: str) -> NotFittedError:
    """An error that is scikit-learn's too, whose tools catch only theirs."""
    from sklearn.exceptions import NotFittedError as Theirs

    class BothError(NotFittedError, Theirs):  # type: ignore[misc]
        pass

    return BothError(f"{name} has learned nothing yet: call fit first")
