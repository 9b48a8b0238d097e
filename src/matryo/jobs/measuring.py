"""Measure what every size and precision costs in quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    DimError,
    Encoder,
    InputError,
    Metric,
    Nesting,
    Precision,
    Side,
    Space,
    TooFewError,
    check_vectors,
)
from matryo.encoders import EncodingCache, encode_texts, encoder, find_preset
from matryo.evaluation import (
    Curves,
    Grid,
    Rules,
    measure_labels,
    measure_pairs,
    measure_search,
    parse_relevance,
)
from matryo.jobs.sources import Source, open_queries, open_source
from matryo.jobs.summary import summarize
from matryo.readers import (
    LabelledData,
    LabelledVectors,
    PairsData,
    RetrievalData,
    Rows,
    Texts,
    Vectors,
    read_qrels,
)
from matryo.transforms import pre_step as apply_pre_step

RESULTS_FORMAT = 1
DEFAULT_PRECISIONS = "float32,int8,binary"
DEFAULT_RELEVANCE = ("nDCG@10", "R@10", "RR@10")
Progress = Callable[[str, int, int], None]  # what is done, how many more are done, how many in all


@dataclass
class _Job:
    """The options of one run, and what is learned about its data on the way."""

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
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "measure": 0.0})
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
        self.seconds["encode"] += time.perf_counter() - started
        return prepared

    def note_left_out(self, what: str, ids: Sequence[object], count: int | None = None) -> None:
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


def measure(
    data: str | Path | NDArray[np.floating] | Source,
    *,
    queries: str | Path | NDArray[np.floating] | Vectors | None = None,
    qrels: str | Path | None = None,
    model: str | Encoder = "default",
    model_options: Mapping[str, Any] | None = None,
    dims: str | Iterable[int] | None = None,
    precisions: str | Iterable[str] | None = None,
    k: int = 10,
    relevance: Sequence[str] = DEFAULT_RELEVANCE,
    floor: float = 0.98,
    confidence: float = 0.95,
    metric: Metric | None = None,
    pre_step: str | None = None,
    threshold: float | None = None,
    n_queries: int = 1000,
    baselines: bool = True,
    synthetic: bool = False,
    strict: bool = False,
    split: str | None = None,
    column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
    query_array: str | None = None,
    cache: EncodingCache | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every size and precision from one encoding, with intervals and verdicts.

    Args:
        data: A benchmark folder (BEIR, STS pairs, labelled texts), a file of vectors or texts,
            matryo's own folder, an array of shape `(n, full_dim)`, or anything already read.
        queries: Queries for a file of vectors or texts; without them some are drawn from the corpus
            (never finding themselves), which gives figures but no promise.
        qrels: Judgments for `queries`; a benchmark folder brings its own.
        model: Name of an encoder for texts, or an encoder.
        model_options: Options of the encoder.
        dims: Sizes, ascending; by default powers of two from 16, and the full width.
        precisions: Number formats; by default float32, int8 and, for cosine, binary.
        k: Neighbours of `neighbor_recall@k`.
        relevance: Ranking measures, as ir-measures writes them; used where there are judgments.
        floor: Share of the full-width value to keep, above 0 and at most 1.
        confidence: With which all verdicts of a measure hold together.
        metric: `cosine`, `dot` or `l2`; by default the metric of the space, or cosine.
        pre_step: Step on whole vectors before the cut, for vectors from files that do not say.
        threshold: A full-width score to carry to every size.
        n_queries: How many queries are drawn where none are given.
        baselines: Measure random dims and a rotation too.
        synthetic: Declare that these data were made up; every figure is labelled so.
        strict: Refuse sizes that a known model was not trained at; without it they are marked.
        split: Split of a benchmark folder, by default `test`.
        column: Column of the texts or vectors.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.
        query_array: The same for the file of queries.
        cache: Where encodings are kept; by default nowhere.
        seed: Seed of every random choice.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Returns:
        The results document described in `docs/results-schema.md`.

    Raises:
        InputError: data or options that do not fit, with what to do.
        FormatError: a file that is damaged or of no known format.
    """
    started = time.perf_counter()
    job = _Job(
        model,
        model_options or {},
        cache,
        progress or (lambda *_: None),
        pre_step=pre_step,
        n_queries=n_queries,
        seed=seed,
    )
    given = Precision.parse_list(DEFAULT_PRECISIONS if precisions is None else precisions)
    _check_options(given, k=k, n_queries=n_queries)
    parse_relevance(relevance)
    source = open_source(data, split=split, column=column, id_column=id_column, array=array)
    if not isinstance(source, (Texts, Vectors)) and (queries is not None or qrels is not None):
        raise InputError(
            f"{source.name} is a whole data set, so no other queries or judgments can be given",
            hint="give its file of documents instead, with the queries and judgments for it",
        )
    rules = Rules(floor, confidence, "synthetic" if synthetic else "real")

    def grid_for(full_dim: int) -> Grid:
        nesting = (
            Nesting.halving(full_dim) if dims is None else Nesting.parse(dims, full_dim=full_dim)
        )
        if strict:
            require_trained(nesting, job.trained, job.space)
        used = metric or (job.space.metric if job.space else "cosine")
        # the default leaves out what the metric cannot score; what was asked for is refused there
        without = {Precision.BINARY} if precisions is None and used != "cosine" else set()
        wanted = [precision for precision in given if precision not in without]
        return Grid(nesting, wanted, used, baselines=baselines, seed=seed)

    if isinstance(source, PairsData):
        task = "pairs"
        grid, curves, counts = _measure_pairs(job, source, grid_for, rules)
    elif isinstance(source, (LabelledData, LabelledVectors)):
        task = "labelled"
        grid, curves, counts = _measure_labels(job, source, grid_for, rules)
    else:
        search = _open_search(job, source, queries, qrels, query_array=query_array)
        task = "retrieval" if search.judged else "fidelity"
        if search.drawn:
            rules = replace(rules, drawn=True, origin="synthetic" if synthetic else "sample")
        grid = grid_for(search.corpus.shape[1])
        rows = search.corpus.shape[0]
        curves = measure_search(
            search.queries,
            search.corpus,
            grid,
            rules,
            k=k,
            judged=search.judged,
            names=relevance if search.judged else (),
            exclude=search.exclude,
            ids=search.ids,
            threshold=threshold,
            progress=lambda done: job.progress("measuring", done, rows),
        )
        counts = {"documents": rows, "queries": len(search.queries)}
        curves.how.append(search.how)
    if threshold is not None and not curves.thresholds:
        raise InputError(f"a threshold can be carried for search data only, got {task} data")
    mark_trained(curves, job.trained, job.space)
    job.seconds["measure"] = time.perf_counter() - started - job.seconds["encode"]
    about = {
        "name": source.name,
        "task": task,
        "origin": rules.origin,
        **counts,
        "left_out": job.left_out,
    }
    settings = {
        "dims": list(grid.nesting),
        "precisions": [p.value for p in grid.precisions],
        "k": k,
        "floor": floor,
        "confidence": confidence,
        "metric": grid.metric,
        "seed": seed,
    }
    return {
        "format": RESULTS_FORMAT,
        "kind": "measure",
        "matryo": version("matryo"),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": about,
        "space": job.space.to_dict() if job.space else None,
        "fingerprint": job.space.fingerprint if job.space else None,
        "trained_dims": list(job.trained) if job.trained else None,
        "settings": settings,
        **summarize(curves, about, settings, drawn=rules.drawn),
        "results": [record.to_dict() for record in curves.records],
        "comparisons": curves.comparisons,
        "score_shift": [fitted.to_dict() for fitted in curves.score_maps],
        "threshold": {"full": threshold, "rows": curves.thresholds} if curves.thresholds else None,
        "funnel": None,
        "how": curves.how,
        "seconds": {name: round(value, 3) for name, value in job.seconds.items()},
    }


_GridFor = Callable[[int], Grid]
_Measured = tuple[Grid, Curves, dict[str, int]]


def _measure_pairs(job: _Job, source: PairsData, grid_for: _GridFor, rules: Rules) -> _Measured:
    job.note_left_out("pairs with an empty text", source.left_out)
    first = job.encode(source.first, Side.QUERY)
    second = job.encode(source.second, Side.DOCUMENT)
    grid = grid_for(first.shape[1])
    curves = measure_pairs(first, second, source.scores, grid, rules)
    return grid, curves, {"documents": len(second), "queries": len(first)}


def _measure_labels(
    job: _Job, source: LabelledData | LabelledVectors, grid_for: _GridFor, rules: Rules
) -> _Measured:
    if isinstance(source, LabelledData):
        train = job.encode(source.train, Side.DOCUMENT)
        test = job.encode(source.test, Side.QUERY)
    else:
        train = apply_pre_step(source.train, job.pre_step).astype(np.float32, copy=False)
        test = apply_pre_step(source.test, job.pre_step).astype(np.float32, copy=False)
    grid = grid_for(train.shape[1])
    curves = measure_labels(
        train,
        test,
        grid,
        rules,
        labels=list(source.train_labels),
        truth=list(source.test_labels),
        progress=lambda done: job.progress("measuring", done, len(train)),
    )
    return grid, curves, {"documents": len(train), "queries": len(test)}


def _check_options(precisions: Sequence[Precision], **counts: object) -> None:
    if not precisions:
        raise InputError("expected at least one precision, got none")
    for name, count in counts.items():
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {count!r}")


def require_trained(nesting: Nesting, trained: Sequence[int] | None, space: Space | None) -> None:
    """Refuse dims that a known model was not trained at.

    Raises:
        DimError: with the list of trained dims.
    """
    if trained is None:
        return
    wrong = _untrained(nesting, trained, space)
    if wrong:
        name = space.model if space else "this model"
        raise DimError(
            f"{name} was trained at dims {', '.join(map(str, trained))}, got "
            f"{', '.join(map(str, wrong))}",
            hint="choose trained dims, or allow untrained ones and measure what they cost",
            dims=wrong,
            trained=list(trained),
        )


def mark_trained(curves: Curves, trained: Sequence[int] | None, space: Space | None) -> None:
    """Say of every record whether the model was trained at its dim, where that is known."""
    if trained is not None:
        wrong = _untrained([record.dim for record in curves.records], trained, space)
        curves.records = [replace(r, trained=r.dim not in wrong) for r in curves.records]


def _untrained(dims: Iterable[int], trained: Sequence[int], space: Space | None) -> list[int]:
    """Dims that neither the model's own list nor its preset allows."""
    preset = find_preset(space.model) if space else None
    return [d for d in dims if d not in trained and not (preset and preset.allows(d))]


@dataclass(frozen=True)
class _Search:
    """Queries and documents, ready to be measured."""

    queries: NDArray[np.float32]
    corpus: Rows
    ids: Sequence[str] | Sequence[int]
    how: str
    judged: tuple[Sequence[str], Sequence[str], Mapping[str, Mapping[str, int]]] | None = None
    exclude: list[NDArray[np.int64]] | None = None
    drawn: bool = False


def _open_search(
    job: _Job,
    source: RetrievalData | Texts | Vectors,
    queries: Any,
    qrels: str | Path | None,
    *,
    query_array: str | None,
) -> _Search:
    if isinstance(source, RetrievalData):
        job.note_left_out("queries without a relevant document", source.left_out_queries)
        job.note_left_out("judgments of documents left out", [], source.left_out_judgments)
        corpus: Rows = job.encode(source.documents, Side.DOCUMENT)
        asked = job.encode(source.queries, Side.QUERY)
        names = [str(i) for i in source.queries.ids], [str(i) for i in source.documents.ids]
        how = "Queries and judgments are those of the data set."
        return _Search(asked, corpus, source.documents.ids, how, (*names, source.qrels))
    if isinstance(source, Texts):
        corpus, ids = job.encode(source, Side.DOCUMENT), source.ids
    else:
        job.meet(source, "the documents", Side.DOCUMENT)
        corpus, ids = _prepared(source, job.pre_step), source.ids
    if queries is None:
        if qrels is not None:
            raise InputError("judgments need the queries they judge: give queries too")
        asked, exclude, how = _draw(corpus, ids, job.n_queries, job.seed)
        return _Search(asked, corpus, ids, how, exclude=exclude, drawn=True)
    opened = open_queries(queries, array=query_array)
    if isinstance(opened, Texts):
        if isinstance(source, Vectors) and source.space is None:
            raise InputError(
                "the queries are texts, but nothing says which model made the document vectors",
                hint="give query vectors, or encode the documents with matryo encode",
            )
        asked, query_ids = job.encode(opened, Side.QUERY), opened.ids
        if isinstance(source, Vectors) and source.space is not None and job.space is not None:
            source.space.require_same(job.space, here="the documents are", there="the queries are")
    else:
        job.meet(opened, "the queries", Side.QUERY)
        asked = np.asarray(_prepared(opened, job.pre_step)[:], np.float32)
        query_ids = opened.ids
        check_vectors(asked, what="queries", ids=query_ids)
    how = f"Queries were given: {len(asked):,}."
    if qrels is None:
        return _Search(asked, corpus, ids, how)
    wanted, documents = read_qrels(qrels), [str(i) for i in ids]
    kept, judged_ids = _match(job, wanted, [str(i) for i in query_ids], set(documents))
    return _Search(asked[kept], corpus, ids, how, (judged_ids, documents, wanted))


def _prepared(vectors: Vectors, pre_step: str | None) -> Rows:
    """Rows after the pre-step. Those of a known space are stored after it already."""
    if pre_step is None or vectors.space is not None:
        return vectors.array
    rows = np.asarray(vectors.array[:], np.float32)
    return apply_pre_step(rows, pre_step).astype(np.float32, copy=False)


def _match(
    job: _Job, qrels: Mapping[str, Mapping[str, int]], query_ids: list[str], documents: set[str]
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
    job.note_left_out("queries without a relevant document", [query_ids[i] for i in without])
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
