"""Encoders made of what a caller has already: a function, or vectors computed elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from matryo.core import InputError, Side, Space, VectorError, check_vectors, shorten
from matryo.encoders.texts import check_texts


class Function:
    """Any callable as an encoder.

    Args:
        fn: Takes a list of texts, each with its side's prompt in front, and returns one row of
            numbers per text, `(n, space.full_dim)`.
        space: Says which model this is and which prompts it wants. Change `revision` whenever `fn`
            changes, or cached vectors of the old one will be found.
        dims: Dims the model was trained at, if known.
    """

    def __init__(
        self,
        fn: Callable[[list[str]], NDArray[np.floating] | Sequence[Sequence[float]]],
        space: Space,
        dims: tuple[int, ...] | None = None,
    ) -> None:
        self._fn = fn
        self._space = space
        self._dims = dims
        self._prompts = {Side.QUERY: space.query.prompt, Side.DOCUMENT: space.document.prompt}

    @property
    def space(self) -> Space:
        """As given."""
        return self._space

    @property
    def dims(self) -> tuple[int, ...] | None:
        """As given."""
        return self._dims

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:
        """What `fn` answers, as float32 `(len(texts), full_dim)`.

        Raises:
            InputError: an empty text.
            VectorError: the answer has another shape.
        """
        checked = check_texts(texts)
        expected = (len(checked), self._space.full_dim)
        if not checked:
            return np.empty(expected, dtype=np.float32)
        prompt = self._prompts[side]
        vectors = np.asarray(self._fn([prompt + text for text in checked]), dtype=np.float32)
        if vectors.shape != expected:
            raise VectorError(
                f"the function behind {self._space.model} must answer with shape {expected} for "
                f"{len(checked)} texts, got {vectors.shape}"
            )
        return vectors


class Precomputed:
    """Vectors that were computed elsewhere, found again by their text.

    Args:
        space: The space they belong to.
        queries: Texts and their vectors `(n, space.full_dim)`, one row per text.
        documents: The same for documents.
        dims: Dims the model was trained at, if known.

    Raises:
        InputError: texts and rows differ in number, or one text has two different vectors.
        VectorError: rows of another width, not finite, or only zeros.
    """

    def __init__(
        self,
        space: Space,
        *,
        queries: tuple[Sequence[str], NDArray[np.floating]] | None = None,
        documents: tuple[Sequence[str], NDArray[np.floating]] | None = None,
        dims: tuple[int, ...] | None = None,
    ) -> None:
        self._space = space
        self._dims = dims
        given = {Side.QUERY: queries, Side.DOCUMENT: documents}
        self._known = {side: _Rows(side, space, part) for side, part in given.items() if part}

    @property
    def space(self) -> Space:
        """As given."""
        return self._space

    @property
    def dims(self) -> tuple[int, ...] | None:
        """As given."""
        return self._dims

    def encode(self, texts: Sequence[str], *, side: Side) -> NDArray[np.float32]:
        """The rows of these texts, float32 `(len(texts), full_dim)`.

        Raises:
            InputError: an empty text, or one that has no vector; `texts` names those.
        """
        checked = check_texts(texts)
        if side not in self._known:
            raise InputError(f"no {side} vectors were given, so no {side} can be encoded")
        return self._known[side].of(checked)


class _Rows:
    """The vectors of one side, by text."""

    def __init__(
        self, side: Side, space: Space, part: tuple[Sequence[str], NDArray[np.floating]]
    ) -> None:
        texts, vectors = check_texts(part[0]), np.asarray(part[1], dtype=np.float32)
        check_vectors(vectors, what=f"{side} vectors")
        if vectors.shape[1] != space.full_dim:
            raise VectorError(
                f"{side} vectors must have {space.full_dim} numbers each, the width of "
                f"{space.model}, got {vectors.shape[1]}"
            )
        if len(texts) != len(vectors):
            raise InputError(f"got {len(texts)} {side} texts for {len(vectors)} vectors")
        self._side = side
        self._vectors = vectors
        self._row: dict[str, int] = {}
        for row, text in enumerate(texts):
            first = self._row.setdefault(text, row)
            if not np.array_equal(vectors[first], vectors[row]):
                raise InputError(
                    f"the {side} text in rows {first} and {row} is the same, its vectors are not: "
                    f"{shorten([text])}",
                    rows=(first, row),
                )

    def of(self, texts: list[str]) -> NDArray[np.float32]:
        unknown = [text for text in texts if text not in self._row]
        if unknown:
            raise InputError(
                f"{len(unknown)} of {len(texts)} {self._side} texts have no vector here: "
                f"{shorten(unknown)}",
                hint="a text must be the very string whose vector was given",
                texts=unknown,
            )
        rows = np.fromiter((self._row[text] for text in texts), np.int64, count=len(texts))
        return self._vectors[rows]
