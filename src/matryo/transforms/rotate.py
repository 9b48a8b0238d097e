"""An orthogonal map that puts the directions with the most weight first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from matryo.core import (
    Estimator,
    FormatError,
    InputError,
    NotFittedError,
    TooFewError,
    VectorError,
    check_vectors,
    write_atomically,
)
from matryo.readers import Rows

_CHUNK = 4096  # rows multiplied at a time; fewer would spend their time on adding up the products
_SAFE = (1e-12, 1e12)  # largest numbers of a chunk whose squares float32 can hold and add up
_ORTHOGONAL = 1e-6
_SAMPLED = 64
_KIND, _FORMAT = "matryo-unfinished-rotation", "1"


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

    @classmethod
    def of(cls, matrix: ArrayLike, *, spectrum: ArrayLike, n_samples_seen: int) -> Self:
        """A rotation that was learned elsewhere.

        Args:
            matrix: `(dim, dim)`, orthogonal: no entry of its product with its transpose is off by
                more than 1e-6. Vectors are multiplied by it from the right.
            spectrum: `(dim,)` mean squared length of the vectors along each column.
            n_samples_seen: Rows that it was learned from, at least 1.

        Raises:
            InputError: not orthogonal, or figures that do not fit.
        """
        rotation = np.array(matrix, np.float64)
        lengths = np.array(spectrum, np.float64)
        if rotation.ndim != 2 or rotation.shape[0] != rotation.shape[1] or not rotation.size:
            raise InputError(f"a rotation is a matrix (dim, dim), got shape {rotation.shape}")
        error = np.abs(rotation.T @ rotation - np.eye(len(rotation))).max()
        if not error <= _ORTHOGONAL:
            raise InputError(
                f"expected an orthogonal matrix, within {_ORTHOGONAL:g}, got one whose product "
                f"with its transpose is {error:.2g} away from the identity",
                hint="make it orthogonal in float64 (scipy.linalg.polar), or use Adaptor.linear",
                error=float(error),
            )
        if lengths.shape != (len(rotation),) or not (lengths >= 0).all() or np.isinf(lengths).any():
            raise InputError(
                f"expected a spectrum of {len(rotation)} finite numbers from 0 up, "
                f"got shape {lengths.shape}, smallest {lengths.min(initial=np.inf):g}"
            )
        if n_samples_seen < 1:
            raise InputError(f"n_samples_seen must be at least 1, got {n_samples_seen}")
        made = cls()
        made.set_tensors(
            {
                "rotation": rotation,
                "spectrum": lengths,
                "n_samples_seen": np.array([n_samples_seen], np.int64),
            }
        )
        return made

    def fit(self, vectors: NDArray[np.floating], y: object = None) -> Self:  # noqa: ARG002
        """Learn from `(n, dim)` vectors; a memory-mapped array is read in chunks.

        Fewer rows than dims are enough: directions that no row has complete the basis. Chunks of
        float32 and float16 are multiplied in float32 and added up in float64, which leaves the
        matrix orthogonal to 1e-14, and the spectrum within some 1e-7 of its largest value.

        Raises:
            TooFewError: fewer than 2 rows.
            VectorError: not floating point, NaN or infinity.
        """
        return self.fit_stream(self._rows_to_fit(vectors))

    def fit_stream(
        self,
        rows: Rows,
        *,
        checkpoint: str | Path | None = None,
        every: int = 262_144,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Learn from rows that are read once, in order, and may be more than memory holds.

        With a checkpoint, a fit that was interrupted goes on where it was last written, and learns
        the same to the last bit (on the same number of threads). It is removed at the end.

        Args:
            rows: `(n, dim)`, read by slices.
            checkpoint: File for the state of an unfinished fit.
            every: Rows between two checkpoints.
            progress: Called with the number of rows done since the last call.

        Raises:
            TooFewError: fewer than 2 rows.
            VectorError: not floating point, NaN or infinity.
            InputError: the checkpoint is of other rows, or its folder does not exist.
            FormatError: the checkpoint is damaged.
        """
        if len(rows.shape) != 2 or 0 in rows.shape:
            raise VectorError(f"expected vectors to learn from, (rows, numbers), got {rows.shape}")
        if every < 1:
            raise InputError(f"every must be at least 1 row, got {every}")
        count, dim = rows.shape
        file = None if checkpoint is None else Path(checkpoint)
        moment, start, belongs = np.zeros((dim, dim)), 0, ""
        if file is not None:
            belongs = _sample(rows)
            if file.exists():
                moment, start = _read_checkpoint(file, belongs)
        report = progress or (lambda _: None)
        report(start)
        saved = start
        for first in range(start, count, _CHUNK):
            part = rows[first : first + _CHUNK]
            moment += _product(part, first)
            report(len(part))
            done = first + len(part)
            if file is not None and done < count and done - saved >= every:
                _write_checkpoint(file, moment, done, belongs)
                saved = done
        self.n_features_in_, self.n_samples_seen_ = dim, count
        self._moment = moment
        self.__dict__.pop("_solved", None)
        _ = self._solved  # too few rows are refused now, and transform changes nothing any more
        if file is not None:
            file.unlink(missing_ok=True)
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
    for first in range(0, len(vectors), _CHUNK):
        moment += _product(vectors[first : first + _CHUNK], first)
    return moment


def _product(part: NDArray[np.floating], first_row: int) -> NDArray[np.floating]:
    """XᵀX of some rows: in float32, half the time, unless they are wider or their squares leave it.

    The products of one chunk are off by about 1e-7 of their size, and those of many chunks, added
    up in float64, by no more.
    """
    check_vectors(part, first_row=first_row, allow_zero=True)
    if part.dtype == np.float16:
        part = part.astype(np.float32)
    if part.dtype != np.float32 or not _SAFE[0] < max(part.max(), -part.min()) < _SAFE[1]:
        part = part.astype(np.float64)
    rows = np.asarray(part)
    product: NDArray[np.floating] = rows.T @ rows
    return product


def _sample(rows: Rows) -> str:
    """What tells these rows from others: their shape, type, and a few of them."""
    state = hashlib.sha256(f"{tuple(rows.shape)} {rows[:1].dtype.str} {_CHUNK}".encode())
    for row in np.unique(np.linspace(0, rows.shape[0] - 1, _SAMPLED).astype(np.int64)):
        state.update(np.ascontiguousarray(rows[row : row + 1], "<f8").tobytes())
    return state.hexdigest()


def _write_checkpoint(path: Path, moment: NDArray[np.float64], n_rows: int, belongs: str) -> None:
    from safetensors.numpy import save

    facts = {"kind": _KIND, "format": _FORMAT, "rows": str(n_rows), "of": belongs}
    write_atomically(path, save({"moment": moment}, {**facts, "sha256": _check(moment, facts)}))


def _read_checkpoint(path: Path, belongs: str) -> tuple[NDArray[np.float64], int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            facts, moment = dict(file.metadata()), file.get_tensor("moment")
        whole = facts.pop("sha256") == _check(moment, facts)
        known = (facts["kind"], facts["format"]) == (_KIND, _FORMAT)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path}: expected the state of an unfinished rotation, got {error!r}", path=path
        ) from error
    if not (whole and known):
        raise FormatError(
            f"{path}: expected a whole state of an unfinished rotation of format {_FORMAT}, got "
            + ("changed bytes" if known else f"{facts['kind']!r} of format {facts['format']}"),
            hint="remove it to start from the first row",
            path=path,
        )
    if facts["of"] != belongs:
        raise InputError(
            f"{path}: expected the state of a fit on these rows, got that of a fit on others",
            hint="remove it to start from the first row, or choose another name",
            path=path,
        )
    return moment, int(facts["rows"])


def _check(moment: NDArray[np.float64], facts: Mapping[str, str]) -> str:
    told = "\n".join(f"{name} {value}" for name, value in sorted(facts.items()))
    return hashlib.sha256(told.encode() + moment.astype("<f8", copy=False).tobytes()).hexdigest()
