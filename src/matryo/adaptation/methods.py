"""The maps that can be fitted, from the cheapest to the most willing to learn.

Closed forms need numpy alone; learned maps need the extra `train` to be fitted, and numpy to be
applied. A method says what it needs, and is left out where that is missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matryo.adaptation.lesson import Lesson
from matryo.core import (
    InputError,
    MissingExtraError,
    Transform,
    UnknownNameError,
    check_vectors,
)
from matryo.readers import Rows
from matryo.search import Level, View, scan
from matryo.transforms import Adaptor, Chain, Reorder, Rotation

Both = tuple[Transform, Transform]  # map of queries, map of documents
Fit = Callable[[Lesson, tuple[int, ...], int], Both]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to fit a map.

    Attributes:
        what: One line for people.
        fit: Called with a lesson, the sizes up to the full width, and a seed.
        lossless: No score at full width changes beyond rounding.
        needs: Parts of the lesson that it learns from, beside the documents.
        learned: It needs torch to be fitted.
    """

    what: str
    fit: Fit
    lossless: bool
    needs: tuple[str, ...] = ()
    learned: bool = False


def fit_rotation(lesson: Lesson, _dims: tuple[int, ...], _seed: int) -> Both:
    """Principal components, not centred, of rows of length 1."""
    rows = lesson.documents if lesson.stream is None else lesson.stream
    return _same(Rotation().fit_stream(_UnitRows(rows)))


def fit_reorder(lesson: Lesson, _dims: tuple[int, ...], _seed: int) -> Both:
    """The dims as they are, those of the largest mean square first."""
    return _same(Reorder().fit(_unit(lesson.documents)))


def fit_query_rotation(lesson: Lesson, _dims: tuple[int, ...], _seed: int) -> Both:
    """Principal components of documents and queries, each side counting as much as the other."""
    queries = _queries(lesson)
    both = _moment(_unit(lesson.documents)) + _moment(_unit(queries))
    lengths, matrix = np.linalg.eigh(both)
    seen = len(lesson.documents) + len(queries)
    return _same(Rotation.of(matrix[:, ::-1], spectrum=lengths[::-1].clip(0), n_samples_seen=seen))


def fit_query_projection(lesson: Lesson, _dims: tuple[int, ...], _seed: int) -> Both:
    """Two maps whose prefixes keep the inner products of queries with documents (LeanVec).

    With C the second moment of queries and D that of documents, the singular vectors U of
    C^(1/2) D C^(1/2) give A = C^(-1/2) U for queries and B = C^(1/2) U for documents: of all pairs
    of maps to m numbers they leave the least mean squared error of ⟨Aq, Bx⟩ (Tepper and others
    2023, "LeanVec"; the closed form is that of its successor, 2024, "LeanVec-Sphering"). Directions
    that no query has are damped by a thousandth of the mean.
    """
    moment = _moment(_unit(_queries(lesson)))
    lengths, turn = np.linalg.eigh(
        moment + 1e-3 * np.trace(moment) / len(moment) * np.eye(len(moment))
    )
    root, inverse = (turn * lengths**0.5) @ turn.T, (turn * lengths**-0.5) @ turn.T
    singular, _, _ = np.linalg.svd(root @ _moment(_unit(lesson.documents)) @ root)
    return Adaptor.linear(inverse @ singular), Adaptor.linear(root @ singular)


def _fit_learned(kind: str, part: str) -> Fit:
    """A method that learns a map of some kind from some part of the lesson."""

    def fit(lesson: Lesson, dims: tuple[int, ...], seed: int) -> Both:
        from matryo.training import learn_map

        known = {
            name: getattr(lesson, name)
            for name in ("queries", "relevant", "pairs", "labels")
            if name in _PARTS[part]
        }
        documents, settings = _unit(lesson.documents), _SETTINGS[part]
        if part == "answers":
            known["relevant"] = list(_nearest(_queries(lesson), documents))
        below = [dim for dim in dims if dim < documents.shape[1]]
        made = learn_map(
            documents,
            dims,
            kind=kind,  # type: ignore[arg-type]  # from the table below
            start=Rotation().fit(documents).rotation_ if settings.rotated else None,
            # what lies behind twice the largest size is too little to be worth its time
            turned=min(2 * max(below), dims[-1]) if settings.rotated and below else None,
            steps=settings.steps,
            learning_rate=settings.rate if kind == "orthogonal" else settings.rate / 3,
            batch=settings.batch,
            stay=settings.stay,
            seed=seed,
            **known,
        )
        if kind == "orthogonal":
            return _same(_rotation(made.arrays["matrix"], documents))
        if kind == "linear":
            return _same(Adaptor.linear(made.arrays["matrix"]))
        arrays = made.arrays
        added = Adaptor.residual(
            arrays["w1"], arrays["b1"], arrays["w2"], np.zeros_like(arrays["b1"])
        )
        return _same(Chain.of_fitted([_rotation(arrays["start"], documents), added]))

    return fit


@dataclass(frozen=True, slots=True)
class _Settings:
    """How long and how fast a map is learned from a part of the lesson."""

    steps: int
    rate: float
    batch: int = 512
    rotated: bool = True
    stay: float = 8.0  # few queries are learned by heart with less


_PARTS = {
    "neighbors": (),
    "queries": ("queries",),
    "answers": ("queries",),
    "relevance": ("queries", "relevant"),
    "labels": ("labels",),
    "grades": ("pairs",),
}
_SETTINGS = {
    "neighbors": _Settings(150, 3e-3),
    "queries": _Settings(150, 3e-3),
    "answers": _Settings(100, 3e-3),
    "relevance": _Settings(100, 3e-3),
    "labels": _Settings(100, 3e-3),
    "grades": _Settings(30, 1e-2, rotated=False),  # more steps learn the pairs by heart
}
_KINDS = {
    "orthogonal": "an orthogonal map",
    "linear": "a linear map",
    "residual": "a small network, added",
}
_FROM = {
    "neighbors": "the neighbors that documents have at full width",
    "queries": "the neighbors that queries have at full width",
    "answers": "queries and the document nearest to each, as if it were relevant",
    "relevance": "queries and their relevant documents",
    "labels": "the labels of documents",
    "grades": "graded pairs",
}

METHODS: dict[str, Method] = {
    "rotation": Method("principal components", fit_rotation, lossless=True),
    "reorder": Method("a new order of the dims", fit_reorder, lossless=True),
    "query-rotation": Method(
        "principal components of documents and queries",
        fit_query_rotation,
        lossless=True,
        needs=("queries",),
    ),
    "query-projection": Method(
        "a map for each side that keeps their inner products (LeanVec)",
        fit_query_projection,
        lossless=False,
        needs=("queries",),
    ),
    **{
        f"{kind}-{part}": Method(
            f"{_KINDS[kind]} learned from {_FROM[part]}",
            _fit_learned(kind, part),
            lossless=kind == "orthogonal",
            needs=_PARTS[part],
            learned=True,
        )
        for part in _PARTS
        for kind in _KINDS
    },
}


def methods_for(lesson: Lesson, names: str = "auto") -> list[str]:
    """The methods that a lesson allows.

    Args:
        lesson: What there is to learn from.
        names: `"auto"` for all; or names with commas between them, which must be possible.

    Raises:
        UnknownNameError: no such method.
        InputError: a named method needs what the lesson does not have.
        MissingExtraError: a named method needs torch, which is not installed.
    """
    has_torch = importlib.util.find_spec("torch") is not None
    if names == "auto":
        return [
            name
            for name, method in METHODS.items()
            if (has_torch or not method.learned)
            and all(getattr(lesson, part) is not None for part in method.needs)
        ]
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise InputError("expected auto or at least one method, got none")
    for name in chosen:
        if name not in METHODS:
            raise UnknownNameError.among("method", name, ("auto", *METHODS))
        missing = [part for part in METHODS[name].needs if getattr(lesson, part) is None]
        if missing:
            raise InputError(f"the method {name} needs {' and '.join(missing)}, got none")
        if METHODS[name].learned and not has_torch:
            raise MissingExtraError.of(f"the method {name}", "torch", "train")
    return chosen


def _same(transform: Transform) -> Both:
    return transform, transform


def _rotation(matrix: NDArray[np.floating], documents: NDArray[np.floating]) -> Rotation:
    wide = np.asarray(matrix, np.float64)
    lengths = np.square(documents @ wide).mean(0)
    return Rotation.of(wide, spectrum=lengths, n_samples_seen=len(documents))


def _queries(lesson: Lesson) -> NDArray[np.floating]:
    if lesson.queries is None:
        raise InputError("this method learns from queries, got none")
    return lesson.queries


def _nearest(queries: NDArray[np.floating], documents: NDArray[np.floating]) -> NDArray[np.integer]:
    """`(queries, 1)` the row of the document nearest to each at full width."""
    level = Level(documents.shape[1])
    return scan(queries, documents, {"": View([level])}, k=1)["", level].rows


class _UnitRows:
    """Rows of length 1, made so as they are read: long ones shall not count for more."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.shape = rows, rows.shape

    def __getitem__(self, key: slice) -> NDArray[np.floating]:
        rows = np.asarray(self._rows[key])
        check_vectors(rows, what="documents", first_row=key.start or 0)
        return _unit(rows)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    lengths = np.linalg.norm(vectors.astype(np.float64, copy=False), axis=1, keepdims=True)
    scaled: NDArray[np.floating] = (vectors / lengths).astype(np.float32)
    return scaled


def _moment(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    moment: NDArray[np.float64] = wide.T @ wide / len(wide)
    return moment
