"""Choose a plan for vectors or texts, and check one that was chosen before."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from matryo.core import (
    Encoder,
    Funnel,
    InputError,
    Metric,
    Nesting,
    Plan,
    Precision,
    Promise,
    SideSpec,
    Space,
    Transform,
)
from matryo.encoders import EncodingCache
from matryo.evaluation import Judged, Origin, cutoff, parse_relevance
from matryo.jobs.measuring import require_trained
from matryo.jobs.opening import Opening, Progress, Search, open_search
from matryo.jobs.sources import Source, open_source
from matryo.planning import (
    Budget,
    Calibration,
    Choice,
    Choices,
    Machine,
    Minimize,
    Prices,
    choose,
    headline,
    this_machine,
)
from matryo.planning import check as check_plan
from matryo.readers import PairsData, RetrievalData, Texts, Vectors, read_texts
from matryo.search import FunnelSearch
from matryo.transforms import load_transform

PLANNING_FORMAT = 1
_TRIED = 50  # queries that are really searched to time a choice
_MOST_BYTES = 2e9  # vectors in memory beyond which nothing is timed
_RELEVANT = 0.8  # of the highest score: pairs that are as good as judged relevant


@dataclass(frozen=True)
class Planned:
    """What came of a run.

    Attributes:
        document: Everything that was found, as plain values; `matryo report` draws it.
        plans: The plan of each choice by name, from cheap to safe; empty if there is none.
    """

    document: dict[str, Any]
    plans: dict[str, Plan]


def plan(
    data: str | Path | NDArray[np.floating] | Source,
    *,
    queries: str | Path | NDArray[np.floating] | Vectors | None = None,
    qrels: str | Path | None = None,
    groups: str | Path | Mapping[str, str] | None = None,
    transform: str | Path | Transform | None = None,
    measure: str | None = None,
    kind: Literal["mean", "share", "expected"] = "mean",
    floor: float = 0.98,
    confidence: float = 0.95,
    query_floor: float = 0.9,
    k: int = 10,
    dims: str | Iterable[int] | None = None,
    precisions: str | Iterable[str] = "float32,int8,int4,int2,binary",
    minimize: Minimize = "bytes",
    budget: Budget | None = None,
    prices: Prices | None = None,
    machine: str | Path | Machine | None = None,
    threshold: float | None = None,
    stops: bool = True,
    model: str | Encoder = "default",
    model_options: Mapping[str, Any] | None = None,
    metric: Metric | None = None,
    pre_step: str | None = None,
    n_queries: int = 1000,
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
) -> Planned:
    """Choose the cheapest single size or funnel that keeps a floor, with a promise.

    Args:
        data: As for `measure`: a benchmark folder, a file of vectors or texts, or an array. Pairs
            of texts with scores are searched too: the first texts ask for the second ones.
        queries: Queries for a file of vectors or texts; without them some are drawn from the
            corpus, which gives figures but no promise.
        qrels: Judgments for `queries`; a benchmark folder brings its own.
        groups: Group of each query by its id, or a file with the columns `id` and `group`.
        transform: A fitted transform, or its file, to apply to both sides first.
        measure: What is promised: `neighbor_recall@k` (fidelity to the full width), or a ranking
            measure such as `nDCG@10` (relevance). By default relevance where there are judgments.
        kind: `mean`, `share` or `expected`; see `Promise`.
        floor: Share of the full-width value (mean, expected) or of queries (share) to promise.
        confidence: Of the promise; an expected one has none.
        query_floor: What a query must reach of its own full-width value, for `share`.
        k: Rows of an answer.
        dims: Sizes that a stage may have; by default powers of two from 16, and the full width.
        precisions: Number formats that may be stored.
        minimize: `bytes` read for a query, modelled `latency`, or `ram`.
        budget: What the plan may cost.
        prices: What memory costs.
        machine: Where the plan will run: a profile, its file, or by default this machine.
        threshold: Full-width score below which rows are left out of an answer.
        stops: Consider funnels that stop early for single queries; most stores cannot run them.
        model: Name of an encoder for texts, or an encoder.
        model_options: Options of the encoder.
        metric: `cosine`, `dot` or `l2`; by default the metric of the space, or cosine.
        pre_step: Step on whole vectors before the cut, for vectors from files that do not say.
        n_queries: How many queries are drawn where none are given.
        synthetic: Declare that these data were made up.
        strict: Refuse sizes that a known model was not trained at.
        split: Split of a benchmark folder, by default `test`.
        column: Column of the texts or vectors.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.
        query_array: The same for the file of queries.
        cache: Where encodings are kept; by default nowhere.
        seed: Seed of every random choice.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Raises:
        TooFewError: so few queries that no outcome could carry the promise.
        InputError: data or options that do not fit, or limits that contradict each other.
        FormatError: a file that is damaged or of no known format.
    """
    started = time.perf_counter()
    formats = Precision.parse_list(precisions)
    source = open_source(data, split=split, column=column, id_column=id_column, array=array)
    if isinstance(source, PairsData):
        source = pairs_as_retrieval(source, judged=_wants_judgments(measure))
    if not isinstance(source, (RetrievalData, Texts, Vectors)):
        raise InputError(
            f"{source.name} is labelled data: there is nothing to search in it",
            hint="matryo classify chooses how early a classifier may stop",
        )
    opening = Opening(
        model,
        model_options or {},
        cache,
        progress or (lambda *_: None),
        pre_step=pre_step,
        n_queries=n_queries,
        seed=seed,
    )
    search = open_search(opening, source, queries, qrels, query_array=query_array)
    name = measure or (f"nDCG@{k}" if search.judged else f"neighbor_recall@{k}")
    promise = _promise(name, kind, floor, confidence, query_floor, k=k)
    space = opening.space or Space(
        "vectors of an unnamed model", search.corpus.shape[1], metric=metric or "cosine"
    )
    if metric is not None and metric != space.metric:
        raise InputError(f"these vectors are of a {space.metric} space, got the metric {metric}")
    origin: Origin = "synthetic" if synthetic else "sample" if search.drawn else "real"
    calibration = _calibration(search, space, transform, groups, origin)
    full_dim = calibration.space.full_dim
    nesting = Nesting.halving(full_dim) if dims is None else Nesting.parse(dims, full_dim=full_dim)
    if nesting.full_dim != full_dim:
        nesting = Nesting((*nesting.dims, full_dim))
    if strict:
        require_trained(nesting, opening.trained, opening.space)
    where = this_machine() if machine is None else machine
    if not isinstance(where, Machine):
        where = Machine.load(where)
    n_rows = calibration.corpus.shape[0]
    planning = time.perf_counter()
    choices = choose(
        calibration,
        promise,
        nesting=nesting,
        precisions=formats,
        k=k,
        machine=where,
        minimize=minimize,
        budget=budget,
        prices=prices,
        threshold=threshold,
        stops=stops,
        seed=seed,
        progress=lambda done: opening.progress("weighing candidates", done, 2 * n_rows),
    )
    seconds = {"encode": opening.seconds, "plan": time.perf_counter() - planning}
    measured = _timings(choices, calibration)
    seconds["all"] = time.perf_counter() - started
    document = {
        "format": PLANNING_FORMAT,
        "kind": "plan",
        "matryo": version("matryo"),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {
            "name": source.name,
            "origin": origin,
            "documents": n_rows,
            "queries": len(calibration.queries),
            "left_out": opening.left_out,
        },
        "space": calibration.space.to_dict(),
        "fingerprint": calibration.space.fingerprint,
        "settings": {
            "dims": list(nesting),
            "precisions": [precision.value for precision in formats],
            "k": k,
            "minimize": minimize,
            "budget": asdict(budget) if budget else None,
            "metric": calibration.space.metric,
            "seed": seed,
        },
        "promise": asdict(choices.promise),
        "machine": where.to_dict(),
        "verdict": {
            "headline": headline(choices, full_dim=full_dim, drawn=search.drawn),
            "sentences": choices.notes,
        },
        "split": choices.split,
        "needed": choices.needed,
        "choices": [_row(choice, measured) for choice in choices.choices],
        "candidates": [
            {
                "funnel": str(Funnel(one.funnel.stages)),
                "stops": one.funnel.stop is not None,
                "kept": one.kept,
                "bytes_read": one.cost.bytes_read,
                "latency_ms": one.cost.latency_ms,
                "ram_bytes": one.cost.ram_bytes,
                "disk_bytes": one.cost.disk_bytes,
                "status": one.status,
                "p_value": one.p_value,
            }
            for one in choices.candidates
        ],
        "how": [search.how],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    return Planned(document, {choice.name: choice.plan for choice in choices.choices})


def check(
    plan: str | Path | Plan,
    data: str | Path | NDArray[np.floating] | Source,
    *,
    queries: str | Path | NDArray[np.floating] | Vectors | None = None,
    qrels: str | Path | None = None,
    groups: str | Path | Mapping[str, str] | None = None,
    transform: str | Path | Transform | None = None,
    model: str | Encoder = "default",
    model_options: Mapping[str, Any] | None = None,
    pre_step: str | None = None,
    split: str | None = None,
    column: str | None = None,
    id_column: str | None = None,
    array: str | None = None,
    query_array: str | None = None,
    cache: EncodingCache | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Certify the promise of a plan again, on queries that had no part in choosing it.

    Args:
        plan: A plan, or its file.
        data: As for `plan`.
        queries: As for `plan`; needed unless the data bring some.
        qrels: As for `plan`.
        groups: As for `plan`; needed where the promise has groups.
        transform: The transform that the plan names, or its file.
        model: As for `plan`; likewise all that follow.
        model_options: Options of the encoder.
        pre_step: Step on whole vectors before the cut.
        split: Split of a benchmark folder.
        column: Column of the texts or vectors.
        id_column: Column of the ids.
        array: Name of the array in a file that holds several.
        query_array: The same for the file of queries.
        cache: Where encodings are kept.
        progress: Called with a stage's name, the number done since the last call, and the total.

    Returns:
        The verdict with its figures, as plain values.

    Raises:
        SpaceMismatchError: the data are of another space than the plan.
        TooFewError: so few queries that no outcome could carry the promise.
    """
    chosen = plan if isinstance(plan, Plan) else Plan.load(plan)
    promise = chosen.promise
    source = open_source(data, split=split, column=column, id_column=id_column, array=array)
    if isinstance(source, PairsData):
        source = pairs_as_retrieval(
            source, judged=_wants_judgments(promise.measure if promise else None)
        )
    if not isinstance(source, (RetrievalData, Texts, Vectors)):
        raise InputError(f"{source.name} is labelled data: there is nothing to search in it")
    if queries is None and not isinstance(source, RetrievalData):
        raise InputError(
            "a promise is checked on queries of its own, got none", hint="give the new queries"
        )
    opening = Opening(
        model,
        model_options or {},
        cache,
        progress or (lambda *_: None),
        pre_step=pre_step,
        n_queries=1,
        seed=0,
    )
    search = open_search(opening, source, queries, qrels, query_array=query_array)
    fitted = load_transform(transform) if isinstance(transform, (str, Path)) else transform
    if opening.space is not None:
        mapped = opening.space if fitted is None else _mapped(opening.space, fitted)
        chosen.space.require_same(mapped, here="this plan is for", there="the data come from")
    judged = Judged(*search.judged) if search.judged else None
    done = check_plan(
        chosen,
        np.asarray(search.corpus[:], np.float32),
        search.queries,
        judged=judged,
        groups=_groups(groups, search),
        transform=fitted,
    )
    return {
        "format": PLANNING_FORMAT,
        "kind": "check",
        "matryo": version("matryo"),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {"name": source.name, "documents": search.corpus.shape[0]},
        "plan": chosen.to_dict(),
        **asdict(done),
    }


def pairs_as_retrieval(pairs: PairsData, *, judged: bool) -> RetrievalData:
    """Scored pairs as a search: the first texts ask for the second ones.

    Args:
        pairs: Pairs of texts.
        judged: Keep only the queries that have a relevant text, one whose score is at least 80 %
            of the highest; otherwise all of them, without judgments.
    """
    asked, found = list(dict.fromkeys(pairs.first)), list(dict.fromkeys(pairs.second))
    number = {text: str(place) for place, text in enumerate(found)}
    qrels: dict[str, dict[str, int]] = {}
    least = _RELEVANT * float(np.max(pairs.scores))
    name = {text: str(place) for place, text in enumerate(asked)}
    for first, second, score in zip(pairs.first, pairs.second, pairs.scores, strict=True):
        if judged and score >= least:
            qrels.setdefault(name[first], {})[number[second]] = 1
    kept = [text for text in asked if not judged or name[text] in qrels]
    return RetrievalData(
        name=pairs.name,
        documents=Texts(list(number.values()), found, [], pairs.name),
        queries=Texts([name[text] for text in kept], kept, [], pairs.name),
        qrels=qrels,
        left_out_queries=[],
        left_out_judgments=0,
    )


def _wants_judgments(measure: str | None) -> bool:
    return measure is not None and not measure.startswith("neighbor_recall")


def _promise(
    measure: str, kind: str, floor: float, confidence: float, query_floor: float, *, k: int
) -> Promise:
    """The promise that is asked for, with a measure that answers of k rows have."""
    if not (isinstance(floor, (int, float)) and 0 < floor < 1):
        raise InputError(
            f"floor must be above 0 and below 1, got {floor}",
            hint="the full width alone keeps a floor of 1",
            floor=floor,
        )
    if measure.startswith("neighbor_recall"):
        if measure != f"neighbor_recall@{k}":
            raise InputError(f"answers of {k} rows have neighbor_recall@{k}, got {measure}")
    else:
        parse_relevance([measure])
        if cutoff(measure) > k:
            raise InputError(
                f"answers of {k} rows cannot be measured by {measure}",
                hint=f"ask for answers of {cutoff(measure)} rows",
            )
    return Promise(
        kind,  # type: ignore[arg-type]  # the value checks it
        measure,
        floor,
        confidence=None if kind == "expected" else confidence,
        query_floor=query_floor if kind == "share" else None,
    )


def _calibration(
    search: Search,
    space: Space,
    transform: str | Path | Transform | None,
    groups: str | Path | Mapping[str, str] | None,
    origin: Origin,
) -> Calibration:
    """The data after the transform, with what is known of the queries."""
    fitted = load_transform(transform) if isinstance(transform, (str, Path)) else transform
    queries, corpus = search.queries, search.corpus
    if fitted is not None:
        queries = fitted.transform(queries)
        corpus = fitted.transform(np.asarray(corpus[:], np.float32))
        space = replace(_mapped(space, fitted), full_dim=corpus.shape[1])
    return Calibration(
        queries=queries,
        corpus=corpus,
        space=space,
        judged=Judged(*search.judged) if search.judged else None,
        exclude=search.exclude,
        groups=_groups(groups, search),
        ids=search.ids,
        origin=origin,
        drawn=search.drawn,
        transform=fitted.digest if fitted is not None else None,
    )


def _mapped(space: Space, fitted: Transform) -> Space:
    """The space after a map that both sides go through."""

    def after(side: SideSpec) -> SideSpec:
        return replace(side, map=fitted.digest)

    return replace(space, query=after(space.query), document=after(space.document))


def _groups(groups: str | Path | Mapping[str, str] | None, search: Search) -> list[str] | None:
    """Group of each query, in the order of the queries."""
    if groups is None:
        return None
    if search.query_ids is None:
        raise InputError("queries drawn from the corpus have no groups")
    if isinstance(groups, (str, Path)):
        table = read_texts(groups, column="group", id_column="id")
        groups = {str(name): group for name, group in zip(table.ids, table.texts, strict=True)}
    missing = [name for name in search.query_ids if name not in groups]
    if missing:
        raise InputError(
            f"{len(missing)} queries have no group, the first of them is {missing[0]!r}",
            hint="give every query a group, or none",
            ids=missing,
        )
    return [groups[name] for name in search.query_ids]


def _timings(choices: Choices, data: Calibration) -> dict[Funnel, dict[str, Any]]:
    """What the choices really take, by the in-memory search on a few queries."""
    n, full_dim = data.corpus.shape
    measured: dict[Funnel, dict[str, Any]] = {}
    if n * full_dim * 4 > _MOST_BYTES:
        return measured
    for choice in choices.choices:
        run = choice.plan.run
        if not isinstance(run, Funnel) or run in measured:
            continue
        engine = FunnelSearch(
            np.asarray(data.corpus[:], np.float32),
            run,
            metric=data.space.metric,
            scales=choice.plan.scales,
        )
        asked = data.queries[-_TRIED:]
        engine.search(asked[0])
        seconds, read = [], []
        with threadpool_limits(1, user_api="blas"):  # as the machine's profile was measured
            for query in asked:
                began = time.perf_counter()
                answer = engine.search(query)
                seconds.append(time.perf_counter() - began)
                read.append(answer.bytes_read)
        measured[run] = {
            "latency_ms": float(np.median(seconds) * 1e3),
            "latency_p95_ms": float(np.quantile(seconds, 0.95) * 1e3),
            "bytes_read": float(np.mean(read)),
            "queries": len(asked),
        }
    return measured


def _row(choice: Choice, measured: Mapping[Funnel, dict[str, Any]]) -> dict[str, Any]:
    run = choice.plan.run
    assert isinstance(run, Funnel)  # noqa: S101  # for the type checker
    return {
        "name": choice.name,
        "funnel": str(run),
        "kept": choice.kept,
        "low": choice.interval.low,
        "high": choice.interval.high,
        "n": choice.n,
        "cost": asdict(choice.cost),
        "measured": measured.get(run),
        "explanation": choice.plan.explain().splitlines(),
        "plan": choice.plan.to_dict(),
    }
