"""Queries and documents as vectors of one space, whatever they were given as."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import Encoder, InputError, Side, Space, TooFewError, check_vectors
from matryo.encoders import EncodingCache, encode_texts, encoder, find_preset
from matryo.jobs.sources import open_queries
from matryo.readers import RetrievalData, Rows, Texts, Vectors, read_qrels
from matryo.transforms import pre_step as apply_pre_step

Progress = Callable[[str, int, int], None]  # what is done, how many more are done, how many in all


@dataclass
class Opening:
    """How data are opened in one run, and what is learned of them on the way.

    Attributes:
        model: Encoder for texts, or its name.
        model_options: Options of an encoder that is named.
        cache: Where encodings are kept, or None.
        progress: Called with a stage's name, the number done since the last call, and the total.
        pre_step: Step on whole vectors from files that do not say.
        n_queries: How many queries are drawn where none are given.
        seed: Seed of the draw.
        space: Where the vectors come from, once that is known.
        trained: Dims the model was trained at, where that is known.
        left_out: What could not be used.
        seconds: What encoding took.
    """

    model: str | Encoder
    model_options: Mapping[str, Any]
    cache: EncodingCache | None
    progress: Progress
    pre_step: str | None
    n_queries: int
    seed: int
    space: Space | None = None
    trained: tuple[int, ...] | None = None
    left_out: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    _encoder: Encoder | None = None

    def encode(self, texts: Texts | Sequence[str], side: Side) -> NDArray[np.float32]:
        """Vectors of texts, after the pre-step of their side."""
        if self.pre_step is not None:
            raise InputError(
                f"the encoder knows its own pre-step, so none can be given, got {self.pre_step!r}"
            )
        started = time.perf_counter()
        if self._encoder is None:
            self._encoder = (
                encoder(self.model, **self.model_options)
                if isinstance(self.model, str)
                else self.model
            )
            self.space, self.trained = self._encoder.space, self._encoder.dims
        if isinstance(texts, Texts):
            self.note_left_out(f"{side} texts that are empty", texts.left_out)
            values, ids = texts.texts, texts.ids
        else:
            values, ids = list(texts), None
        vectors = encode_texts(
            self._encoder,
            values,
            side=side,
            cache=self.cache,
            ids=ids,
            progress=lambda done: self.progress(f"encoding {side} texts", done, len(values)),
        )
        spec = self._encoder.space.query if side is Side.QUERY else self._encoder.space.document
        prepared = apply_pre_step(vectors, spec.pre_step).astype(np.float32, copy=False)
        self.seconds += time.perf_counter() - started
        return prepared

    def note_left_out(self, what: str, ids: Sequence[object], count: int | None = None) -> None:
        """Keep in mind what could not be used."""
        number = len(ids) if count is None else count
        if number:
            self.left_out.append({"what": what, "count": number, "ids": list(ids)})

    def meet(self, vectors: Vectors, what: str, side: Side) -> None:
        """Check that vectors from a file belong to the space known so far, and to this side."""
        if vectors.space is None:
            return
        if self.pre_step is not None:
            raise InputError(
                f"{what} are stored after their pre-step already, so none can be given, "
                f"got {self.pre_step!r}"
            )
        if vectors.side is not None and vectors.side is not side:
            raise InputError(
                f"{what} must be {side} vectors, got a folder of {vectors.side} vectors",
                hint=f"encode them with: matryo encode … --side {side}",
            )
        if self.space is not None:
            self.space.require_same(vectors.space, here="the documents are", there=f"{what} are")
        self.space = vectors.space
        preset = find_preset(vectors.space.model)
        self.trained = preset.dims if preset else self.trained


@dataclass(frozen=True)
class Search:
    """Queries and documents, ready to be searched.

    Attributes:
        queries: `(q, full_dim)` vectors.
        corpus: `(n, full_dim)` vectors.
        ids: Id of each document.
        query_ids: Id of each query; None where they were drawn.
        how: Where the queries come from, as a sentence.
        judged: Ids of queries and documents, and judgments with a positive one for each query.
        exclude: For each query the rows it must not find.
        drawn: Whether the queries were drawn from the corpus.
    """

    queries: NDArray[np.float32]
    corpus: Rows
    ids: Sequence[str] | Sequence[int]
    how: str
    query_ids: Sequence[str] | None = None
    judged: tuple[Sequence[str], Sequence[str], Mapping[str, Mapping[str, int]]] | None = None
    exclude: list[NDArray[np.int64]] | None = None
    drawn: bool = False


def open_search(
    opening: Opening,
    source: RetrievalData | Texts | Vectors,
    queries: Any,
    qrels: str | Path | None,
    *,
    query_array: str | None,
) -> Search:
    """Bring queries and documents together, in one space.

    Args:
        opening: How texts become vectors, and what is learned on the way.
        source: A whole data set, or the documents.
        queries: Queries for the documents; without them some are drawn.
        qrels: File of judgments for these queries.
        query_array: Name of the array in a file of queries that holds several.

    Raises:
        InputError: judgments without queries, or of ids that are not there; texts as queries for
            vectors of an unknown model.
        SpaceMismatchError: queries and documents come from two spaces.
    """
    if isinstance(source, RetrievalData):
        opening.note_left_out("queries without a relevant document", source.left_out_queries)
        opening.note_left_out("judgments of documents left out", [], source.left_out_judgments)
        corpus: Rows = opening.encode(source.documents, Side.DOCUMENT)
        asked = opening.encode(source.queries, Side.QUERY)
        names = [str(i) for i in source.queries.ids], [str(i) for i in source.documents.ids]
        how = "Queries and judgments are those of the data set."
        judged = (*names, source.qrels) if source.qrels else None
        return Search(asked, corpus, source.documents.ids, how, names[0], judged)
    if isinstance(source, Texts):
        corpus, ids = opening.encode(source, Side.DOCUMENT), source.ids
    else:
        opening.meet(source, "the documents", Side.DOCUMENT)
        corpus, ids = prepared(source, opening.pre_step), source.ids
    if queries is None:
        if qrels is not None:
            raise InputError("judgments need the queries they judge: give queries too")
        asked, exclude, how = _draw(corpus, ids, opening.n_queries, opening.seed)
        return Search(asked, corpus, ids, how, exclude=exclude, drawn=True)
    opened = open_queries(queries, array=query_array)
    if isinstance(opened, Texts):
        if isinstance(source, Vectors) and source.space is None:
            raise InputError(
                "the queries are texts, but nothing says which model made the document vectors",
                hint="give query vectors, or encode the documents with matryo encode",
            )
        asked, query_ids = opening.encode(opened, Side.QUERY), opened.ids
        if isinstance(source, Vectors) and source.space is not None and opening.space is not None:
            source.space.require_same(
                opening.space, here="the documents are", there="the queries are"
            )
    else:
        opening.meet(opened, "the queries", Side.QUERY)
        asked = np.asarray(prepared(opened, opening.pre_step)[:], np.float32)
        query_ids = opened.ids
        check_vectors(asked, what="queries", ids=query_ids)
    how = f"Queries were given: {len(asked):,}."
    if qrels is None:
        return Search(asked, corpus, ids, how, [str(i) for i in query_ids])
    wanted, documents = read_qrels(qrels), [str(i) for i in ids]
    kept, judged_ids = _match(opening, wanted, [str(i) for i in query_ids], set(documents))
    return Search(asked[kept], corpus, ids, how, judged_ids, (judged_ids, documents, wanted))


def prepared(vectors: Vectors, pre_step: str | None) -> Rows:
    """Rows after the pre-step. Those of a known space are stored after it already."""
    if pre_step is None or vectors.space is not None:
        return vectors.array
    rows = np.asarray(vectors.array[:], np.float32)
    return apply_pre_step(rows, pre_step).astype(np.float32, copy=False)


def _match(
    opening: Opening,
    qrels: Mapping[str, Mapping[str, int]],
    query_ids: list[str],
    documents: set[str],
) -> tuple[NDArray[np.int64], list[str]]:
    """Rows and ids of the queries with a relevant document; refuses judgments of unknown ids."""
    for what, unknown in (
        ("queries", sorted(set(qrels) - set(query_ids))),
        ("documents", sorted({d for judged in qrels.values() for d in judged} - documents)),
    ):
        if unknown:
            raise InputError(
                f"the judgments name {len(unknown)} {what} that are not there: "
                f"{', '.join(map(repr, unknown[:5]))}",
                hint="check that the ids of all three files are written alike",
                ids=unknown,
            )
    good = [i for i, q in enumerate(query_ids) if any(s > 0 for s in qrels.get(q, {}).values())]
    if not good:
        raise InputError("the judgments hold no relevant document for any query")
    without = sorted(set(range(len(query_ids))) - set(good))
    opening.note_left_out("queries without a relevant document", [query_ids[i] for i in without])
    return np.array(good), [query_ids[i] for i in good]


def _draw(
    corpus: Rows, ids: Sequence[str | int], n_queries: int, seed: int
) -> tuple[NDArray[np.float32], list[NDArray[np.int64]], str]:
    """Queries from the corpus, and for each the rows equal to it, which it must not find."""
    n = corpus.shape[0]
    if n < 100:
        raise TooFewError(
            f"at least 100 documents are needed to draw queries from them, got {n}",
            hint="give queries of your own",
            needed=100,
        )
    picked = np.sort(np.random.default_rng(seed).choice(n, min(n_queries, n // 4), replace=False))
    asked = np.asarray(corpus[picked], np.float32)
    # Equal rows have equal products with any vector: only rows that agree there are compared whole.
    probe = np.random.default_rng(seed).standard_normal(corpus.shape[1])
    marks = np.empty(n)
    for at in range(0, n, 8192):
        rows = np.asarray(corpus[at : at + 8192])
        check_vectors(rows, what="documents", ids=ids[at : at + 8192], first_row=at)
        marks[at : at + 8192] = rows.astype(np.float64) @ probe
    order = np.argsort(marks, kind="stable")
    span = 1e-9 * np.abs(marks[picked]) + 1e-12
    first = np.searchsorted(marks[order], marks[picked] - span)
    last = np.searchsorted(marks[order], marks[picked] + span, side="right")
    exclude = []
    for row, query, start, stop in zip(picked, asked, first, last, strict=True):
        near = np.sort(order[start:stop])
        same = (
            near[(np.asarray(corpus[near], np.float32) == query).all(axis=1)] if len(near) else near
        )
        exclude.append(np.union1d(same, [row]))
    twins = sum(len(rows) - 1 for rows in exclude)
    how = (
        f"{len(picked):,} queries were drawn from the corpus (seed {seed}); none may find itself "
        f"or an equal row ({twins:,} such rows were passed over). Real queries may behave "
        "differently, so these are figures and no promise."
    )
    return asked, exclude, how
