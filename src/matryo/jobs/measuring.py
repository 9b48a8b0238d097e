"""Measure what every size and precision costs in quality."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    DIGEST_LENGTH,
    DimError,
    Encoder,
    InputError,
    Metric,
    Nesting,
    Precision,
    Side,
    Space,
    canonical,
)
from matryo.encoders import EncodingCache, find_preset
from matryo.evaluation import (
    Curves,
    Grid,
    Rules,
    measure_labels,
    measure_pairs,
    measure_search,
    parse_relevance,
)
from matryo.jobs.opening import Opening, Progress, open_search
from matryo.jobs.sources import Source, open_source
from matryo.jobs.summary import summarize
from matryo.readers import (
    LabelledData,
    LabelledVectors,
    PairsData,
    Texts,
    Vectors,
)
from matryo.transforms import pre_step as apply_pre_step

RESULTS_FORMAT = 1
DEFAULT_PRECISIONS = "float32,int8,binary"
DEFAULT_RELEVANCE = ("nDCG@10", "R@10", "RR@10")


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
    job = Opening(
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
        every = precisions is not None or used == "cosine"
        wanted = [precision for precision in given if every or not precision.is_packed]
        return Grid(nesting, wanted, used, baselines=baselines, seed=seed)

    if isinstance(source, PairsData):
        task = "pairs"
        grid, curves, counts, asked = _measure_pairs(job, source, grid_for, rules)
    elif isinstance(source, (LabelledData, LabelledVectors)):
        task = "labelled"
        grid, curves, counts, asked = _measure_labels(job, source, grid_for, rules)
    else:
        search = open_search(job, source, queries, qrels, query_array=query_array)
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
        asked = {
            "queries": None if search.query_ids is None else list(search.query_ids),
            "judgments": _digest_judgments(search.judged) if search.judged else None,
        }
        curves.how.append(search.how)
    if threshold is not None and not curves.thresholds:
        raise InputError(f"a threshold can be carried for search data only, got {task} data")
    mark_trained(curves, job.trained, job.space)
    seconds = {"encode": job.seconds, "measure": time.perf_counter() - started - job.seconds}
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
        "per_query": {
            **asked,
            "rows": [{**row, "values": _as_text(row["values"])} for row in curves.per_query],
        },
        "comparisons": curves.comparisons,
        "score_shift": [fitted.to_dict() for fitted in curves.score_maps],
        "threshold": {"full": threshold, "rows": curves.thresholds} if curves.thresholds else None,
        "funnel": None,
        "how": curves.how,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


_GridFor = Callable[[int], Grid]
_Measured = tuple[Grid, Curves, dict[str, int], dict[str, Any]]


def _measure_pairs(job: Opening, source: PairsData, grid_for: _GridFor, rules: Rules) -> _Measured:
    job.note_left_out("pairs with an empty text", source.left_out)
    first = job.encode(source.first, Side.QUERY)
    second = job.encode(source.second, Side.DOCUMENT)
    grid = grid_for(first.shape[1])
    curves = measure_pairs(first, second, source.scores, grid, rules)
    truth = _as_text(source.scores.tolist())
    asked = {"queries": None, "judgments": _digest(truth), "truth": truth}
    return grid, curves, {"documents": len(second), "queries": len(first)}, asked


def _measure_labels(
    job: Opening, source: LabelledData | LabelledVectors, grid_for: _GridFor, rules: Rules
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
    ids = list(source.test.ids) if isinstance(source, LabelledData) else None
    asked = {"queries": ids, "judgments": _digest([str(label) for label in source.test_labels])}
    return grid, curves, {"documents": len(train), "queries": len(test)}, asked


def _as_text(values: Iterable[float]) -> str:
    """Numbers with a space between: a thousand take one line of the document."""
    return " ".join(f"{value:.7g}" for value in values)


def _digest_judgments(
    judged: tuple[Sequence[str], Sequence[str], Mapping[str, Mapping[str, int]]],
) -> str:
    """Digest of the judgments of these queries, in whatever order they were read."""
    queries, _, qrels = judged
    return _digest([[query, sorted(qrels[query].items())] for query in sorted(queries)])


def _digest(values: object) -> str:
    return hashlib.sha256(canonical(values)).hexdigest()[:DIGEST_LENGTH]


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
