"""Quality at every size and precision, from one encoding and one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import (
    METRICS,
    InputError,
    Metric,
    Nesting,
    Precision,
    TooFewError,
    check_vectors,
    name_rows,
)
from matryo.evaluation import measures
from matryo.evaluation.intervals import spearman_shares
from matryo.evaluation.records import Method, Record, Rules, compare, give_verdict, judge
from matryo.evaluation.shift import ScoreMap, fit_score_map, flipped
from matryo.readers import Rows
from matryo.search import MOST_TIES, Level, TopK, View, pair_scores, scan, stored_form
from matryo.transforms import Rotation, fit_scales, truncate

VOTERS = 5  # neighbours of the kNN accuracy
_FIT_ROWS = 20_000  # rows that int8 steps and rotations are fitted on at most
_MIN_FIT_ROWS = 32
_ASKED = 1000  # queries that score maps are fitted on at most
Map = Callable[[NDArray[np.floating]], NDArray[np.floating]]


@dataclass
class Curves:
    """Everything measured in one run.

    Attributes:
        records: One figure per size, precision, method and measure.
        comparisons: Rotation against plain cutting, at each size.
        score_maps: How scores move with the size.
        thresholds: A full-width threshold carried to each size, if one was asked for.
        per_query: Values of each query at each level of plain cutting, as `dim`, `precision`,
            `measure` and `values`; for scored pairs the score of each pair.
        how: Sentences that say how it was measured.
    """

    records: list[Record] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    score_maps: list[ScoreMap] = field(default_factory=list)
    thresholds: list[dict[str, Any]] = field(default_factory=list)
    per_query: list[dict[str, Any]] = field(default_factory=list)
    how: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Grid:
    """What to measure.

    Attributes:
        nesting: Sizes; the full width is always measured too, as the reference.
        precisions: Number formats of the cut vectors; float32 is always among them at full width.
        metric: What scores two vectors.
        baselines: Measure random dims and a fitted rotation beside plain cutting.
        seed: Seed of every random choice.
    """

    nesting: Nesting
    precisions: Sequence[Precision]
    metric: Metric = "cosine"
    baselines: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")

    def levels(self, full_dim: int) -> list[Level]:
        """Every level of plain cutting, the reference first."""
        wanted = [Level(dim, p) for dim in self.nesting for p in self.precisions]
        return list(dict.fromkeys([Level(full_dim), *wanted]))

    def baseline_levels(self, full_dim: int) -> list[Level]:
        """The float32 sizes at which baselines are measured."""
        return [Level(dim) for dim in self.nesting if dim < full_dim]


def measure_search(
    queries: NDArray[np.floating],
    corpus: Rows,
    grid: Grid,
    rules: Rules,
    *,
    k: int = 10,
    judged: tuple[Sequence[str], Sequence[str], Mapping[str, Mapping[str, int]]] | None = None,
    names: Sequence[str] = (),
    exclude: Sequence[NDArray[np.integer]] | None = None,
    ids: Sequence[str | int] | None = None,
    threshold: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Curves:
    """Measure search: fidelity to the full width, and relevance where there are judgments.

    Args:
        queries: `(q, full_dim)` whole query vectors.
        corpus: `(n, full_dim)` whole document vectors.
        grid: Sizes and precisions.
        rules: Floor, confidence and origin.
        k: Neighbours for `neighbor_recall@k`.
        judged: Query ids, document ids, and judgments with at least one positive per query.
        names: Relevance measures, as `nDCG@10`.
        exclude: For each query the rows it must not find.
        ids: Names of the rows, for messages.
        threshold: A full-width score to carry to every size.
        progress: Called with the number of corpus rows done since the last call.
    """
    full_dim = corpus.shape[1]
    levels, baseline = grid.levels(full_dim), grid.baseline_levels(full_dim)
    rules.check_enough(len(queries), max(1, len(levels) - 1))
    rng = np.random.default_rng(grid.seed)
    sample = fit_sample(corpus, grid.nesting, grid.metric, exclude=exclude, ids=ids, seed=rng)
    views = {"cut": View(levels, scales=fit_steps(sample, levels, grid.metric))}
    how = [
        f"Exact search by {grid.metric} over all {corpus.shape[0]:,} documents at every size, "
        "in one pass; prefixes are scaled to length 1 again for the cosine, and codes are made "
        "from them after that. Queries are not quantized.",
        "Ties at the k-th place count as found; documents with one score are ordered as trec_eval "
        "orders them, by descending id.",
    ]
    if views["cut"].scales:
        how.append(f"int8 steps were fitted on {len(sample):,} documents, none of them a query.")
    if grid.baselines and baseline:
        # no row that asks a question is used for fitting
        rotation = Rotation().fit(sample)
        order = rng.permutation(full_dim)
        views["random"] = View(baseline, map=lambda v: np.ascontiguousarray(v[:, order]))
        views["rotation"] = View(baseline, map=rotation_map(rotation))
        how.append(
            f"Baselines: a random order of the dimensions (seed {grid.seed}), and a rotation by "
            f"principal components fitted on {len(sample):,} documents without labels; no query "
            "was seen in fitting."
        )
    depth = max([k, *[measures.cutoff(name) for name in names]])
    top = scan(
        queries,
        corpus,
        views,
        k=max(k, min(depth, corpus.shape[0])),
        metric=grid.metric,
        exclude=exclude,
        tie_order=measures.trec_order(judged[1]) if judged else None,
        ids=ids,
        progress=progress,
    )
    truth = top["cut", Level(full_dim)]
    _refuse_endless_ties(truth)
    fidelity = f"neighbor_recall@{k}"
    values: dict[tuple[Method, Level], dict[str, NDArray[np.float64]]] = {}
    for (method, level), found in top.items():
        per_query = {fidelity: measures.neighbor_recall(found, truth, k)}
        if judged:
            query_ids, document_ids, qrels = judged
            per_query |= measures.relevance(
                found, query_ids=query_ids, document_ids=document_ids, qrels=qrels, names=names
            )
        values[method, level] = per_query  # type: ignore[index]
    curves = _judge_all(values, full_dim, rules)
    curves.how = how
    if len(queries) > 1:
        # near neighbours alone would leave the low scores out: as many random documents join them
        asked = min(len(queries), _ASKED)
        others = rng.integers(0, corpus.shape[0], (asked, k))
        rows = np.concatenate([truth.rows[:asked, :k], others], axis=1)
        table = _score_table(queries[:asked], corpus, rows, views["cut"], grid.metric)
        curves.score_maps, curves.thresholds = _fit_score_maps(table, Level(full_dim), threshold)
    return curves


def measure_pairs(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    truth: NDArray[np.floating],
    grid: Grid,
    rules: Rules,
) -> Curves:
    """Measure scored pairs: Spearman correlation of the score of each pair with its judgment.

    Args:
        first: `(n, full_dim)` vectors of the first texts, scored as queries.
        second: `(n, full_dim)` vectors of the second texts, scored as documents.
        truth: `(n,)` judgments, higher is more similar.
        grid: Sizes and precisions.
        rules: Floor, confidence and origin.
    """
    n, full_dim = first.shape
    if n < 2 * _MIN_FIT_ROWS:
        raise TooFewError(f"at least {2 * _MIN_FIT_ROWS} pairs are needed, got {n}", needed=64)
    if np.ptp(truth) == 0:
        raise InputError(
            f"expected judgments that differ, got {truth[0]:g} for all {n} pairs: they have no "
            "correlation with anything"
        )
    levels, baseline = grid.levels(full_dim), grid.baseline_levels(full_dim)
    rng = np.random.default_rng(grid.seed)
    scales = fit_steps(second, levels, grid.metric)
    rows: list[tuple[Method, Level]] = [("cut", level) for level in levels]
    scores = [
        pair_scores(first, second, level, metric=grid.metric, scales=scales.get(level.dim))
        for level in levels
    ]
    how = ["Every pair is scored at every size; Spearman's correlation with the judgments."]
    if grid.baselines and baseline:
        order = rng.permutation(full_dim)
        crossed = _cross_rotated(first, second, rng)
        for method, (left, right) in (
            ("random", (first[:, order], second[:, order])),
            ("rotation", crossed),
        ):
            for level in baseline:
                rows.append((method, level))  # type: ignore[arg-type]
                scores.append(pair_scores(left, right, level, metric=grid.metric))
        how.append(
            f"Baselines: a random order of the dimensions (seed {grid.seed}), and a rotation by "
            "principal components fitted on one half of the pairs and used on the other, both ways."
        )
    values, around, shares = spearman_shares(
        np.array(scores, dtype=np.float64),
        truth,
        reference=0,
        confidence=rules.confidence,
        family=max(1, len(levels) - 1),
        seed=grid.seed,
    )
    curves = Curves(how=how)
    curves.per_query = [
        _per_query(level, "spearman", numbers)
        for (method, level), numbers in zip(rows, scores, strict=True)
        if method == "cut"
    ]
    for (method, level), value, interval, share in zip(rows, values, around, shares, strict=True):
        reference = (method, level) == rows[0]
        curves.records.append(
            Record(
                dim=level.dim,
                precision=level.precision.value,
                method=method,
                measure="spearman",
                value=float(value),
                low=interval.low,
                high=interval.high,
                kept=float(value / values[0]),
                kept_low=share.low,
                kept_high=share.high,
                n=n,
                origin=rules.origin,
                verdict=give_verdict(share, rules, reference=reference),
                needed=None,
                bytes_per_vector=level.precision.bytes_per_vector(level.dim),
            )
        )
    _in_order(curves.records)
    return curves


def measure_labels(
    train: NDArray[np.floating],
    test: NDArray[np.floating],
    grid: Grid,
    rules: Rules,
    *,
    labels: Sequence[Any],
    truth: Sequence[Any],
    progress: Callable[[int], None] | None = None,
) -> Curves:
    """Measure labelled vectors: accuracy of nearest neighbours and of a linear probe.

    The probe is a logistic regression on float32 prefixes of plain cutting; it costs a fit per
    size. Neighbours are measured at every size, precision and baseline.

    Args:
        train: `(n, full_dim)` vectors with known labels.
        test: `(q, full_dim)` vectors to classify.
        grid: Sizes and precisions.
        rules: Floor, confidence and origin.
        labels: Labels of `train`.
        truth: Labels of `test`.
        progress: Called with the number of training rows done since the last call.
    """
    full_dim = train.shape[1]
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"expected at least two labels, got only {names.tolist()[0]!r}")
    places = {name: i for i, name in enumerate(names.tolist())}
    goal = np.array([places.get(label, -1) for label in np.asarray(truth).tolist()])
    levels, baseline = grid.levels(full_dim), grid.baseline_levels(full_dim)
    rules.check_enough(len(test), max(1, len(levels) - 1))
    rng = np.random.default_rng(grid.seed)
    sample = fit_sample(train, grid.nesting, grid.metric, seed=rng)
    views = {"cut": View(levels, scales=fit_steps(sample, levels, grid.metric))}
    how = [
        f"kNN: the {VOTERS} nearest of {len(train):,} training rows vote with their score. "
        "Linear probe: logistic regression (C = 10) on the float32 prefix.",
    ]
    if grid.baselines and baseline:
        order, rotation = rng.permutation(full_dim), Rotation().fit(sample)
        views["random"] = View(baseline, map=lambda v: np.ascontiguousarray(v[:, order]))
        views["rotation"] = View(baseline, map=rotation_map(rotation))
        how.append(
            f"Baselines: a random order of the dimensions (seed {grid.seed}), and a rotation by "
            f"principal components fitted on {len(sample):,} training rows; no test row was seen."
        )
    top = scan(test, train, views, k=VOTERS, metric=grid.metric, progress=progress)
    values: dict[tuple[Method, Level], dict[str, NDArray[np.float64]]] = {}
    for (method, level), found in top.items():
        per_query = {"accuracy_knn": measures.neighbor_votes(found, numbers, goal, VOTERS)}
        if method == "cut" and level.precision is Precision.FLOAT32:
            left, right = (stored_form(v, level, metric=grid.metric) for v in (train, test))
            per_query["accuracy_probe"] = measures.probe_hits(left, numbers, right, goal)
        values[method, level] = per_query  # type: ignore[index]
    curves = _judge_all(values, full_dim, rules)
    curves.how = how
    return curves


def fit_steps(
    sample: NDArray[np.floating], levels: Sequence[Level], metric: Metric
) -> dict[int, NDArray[np.float32]]:
    """int8 steps for every dim that has an int8 level, fitted on prefixes as they are stored."""
    dims = {level.dim for level in levels if level.precision is Precision.INT8}
    return {
        dim: fit_scales(truncate(sample, dim, normalize=metric == "cosine")) for dim in sorted(dims)
    }


def rotation_map(rotation: Rotation) -> Map:
    """The rotation as a float32 product, for chunks of a pass."""
    matrix = rotation.rotation_.astype(np.float32)
    return lambda vectors: vectors.astype(np.float32, copy=False) @ matrix


def _refuse_endless_ties(truth: TopK) -> None:
    """Without a list of every row that is as near as the k-th, recall would be too low."""
    endless = [i for i, rows in enumerate(truth.tied) if len(rows) >= MOST_TIES]
    if endless:
        raise InputError(
            f"more than {MOST_TIES:,} documents are exactly as near as the last neighbor of query "
            f"number {endless[0]}{f' and {len(endless) - 1} more' if endless[1:] else ''}: its "
            "neighbors are not defined",
            hint="leave out documents that repeat one another",
        )


def _in_order(records: list[Record]) -> None:
    """Plain cutting first, then sizes from small to large and formats from wide to narrow."""
    records.sort(key=lambda r: (r.method != "cut", r.method, r.dim, -r.bytes_per_vector))


def _judge_all(
    values: Mapping[tuple[Method, Level], Mapping[str, NDArray[np.float64]]],
    full_dim: int,
    rules: Rules,
) -> Curves:
    reference: tuple[Method, Level] = ("cut", Level(full_dim))
    curves = Curves()
    for (method, level), per_query in values.items():
        for measure, numbers in per_query.items():
            if method == "cut":
                curves.per_query.append(_per_query(level, measure, numbers))
            same = [m for m in values if m[0] == method and m != reference and measure in values[m]]
            curves.records.append(
                judge(
                    numbers,
                    values[reference][measure],
                    level,
                    measure=measure,
                    method=method,
                    family=max(1, len(same)),
                    rules=rules,
                    reference=(method, level) == reference,
                )
            )
    _in_order(curves.records)
    pairs: tuple[tuple[Method, Method], ...] = (("cut", "random"), ("rotation", "cut"))
    for a, b in pairs:
        shared = [level for method, level in values if method == a and (b, level) in values]
        for level in shared:
            for measure in values[a, level].keys() & values[b, level].keys():
                result = compare(
                    values[a, level][measure],
                    values[b, level][measure],
                    confidence=rules.confidence,
                    family=len(shared),
                )
                shown = {"a": a, "b": b, None: "no difference shown"}[result.pop("shown")]
                curves.comparisons.append(
                    {
                        "dim": level.dim,
                        "precision": level.precision.value,
                        "measure": measure,
                        "a": a,
                        "b": b,
                        **result,
                        "verdict": shown,
                    }
                )
    curves.comparisons.sort(key=lambda row: (row["measure"], row["a"], row["dim"]))
    return curves


def _per_query(level: Level, measure: str, values: NDArray[np.floating]) -> dict[str, Any]:
    precision = level.precision.value
    return {
        "dim": level.dim,
        "precision": precision,
        "measure": measure,
        "values": values.tolist(),
    }


def _score_table(
    queries: NDArray[np.floating],
    corpus: Rows,
    rows: NDArray[np.integer],
    view: View,
    metric: Metric,
) -> dict[Level, NDArray[np.float32]]:
    """Scores of given `(queries, m)` rows at every level of a view."""
    unique, inverse = np.unique(rows, return_inverse=True)
    documents, inverse = np.asarray(corpus[unique], np.float32), inverse.reshape(rows.shape)
    table = {level: np.empty(rows.shape, np.float32) for level in view.levels}
    for level, scores in table.items():
        for at in range(0, len(rows), 256):
            part = slice(at, at + 256)
            scores[part] = pair_scores(
                np.repeat(queries[part], rows.shape[1], axis=0),
                documents[inverse[part].ravel()],
                level,
                metric=metric,
                scales=view.scales.get(level.dim),
            ).reshape(-1, rows.shape[1])
    return table


def _fit_score_maps(
    table: Mapping[Level, NDArray[np.float32]], reference: Level, threshold: float | None
) -> tuple[list[ScoreMap], list[dict[str, Any]]]:
    """The map of every level, and where it carries the threshold."""
    maps, thresholds = [], []
    full = table[reference]
    for level, scores in table.items():
        if level == reference:
            continue
        fitted = fit_score_map(full, scores, level)
        maps.append(fitted)
        if threshold is not None:
            carried = fitted.carry(threshold)
            row = {"dim": level.dim, "precision": level.precision.value, "prefix": carried}
            thresholds.append({**row, "flipped": flipped(full, scores, threshold, carried)})
    return maps, thresholds


def fit_sample(
    corpus: Rows,
    nesting: Nesting,
    metric: Metric,
    *,
    exclude: Sequence[NDArray[np.integer]] | None = None,
    ids: Sequence[str | int] | None = None,
    seed: int | np.random.Generator = 0,
) -> NDArray[np.float32]:
    """Rows to fit on: at most 20,000 and half of the corpus, none that asks, in ascending order.

    Args:
        corpus: `(n, full_dim)` whole vectors.
        nesting: Sizes they will be cut to.
        metric: What scores them.
        exclude: For each query the rows that are the query itself.
        ids: Names of the rows, for messages.
        seed: Seed of the draw, or a generator to draw from.

    Raises:
        TooFewError: fewer than 32 rows are left.
        VectorError: a row that cannot be used.
    """
    kept_out = np.concatenate(exclude) if exclude else np.empty(0, np.int64)
    free = np.setdiff1d(np.arange(corpus.shape[0]), kept_out)
    if len(free) < _MIN_FIT_ROWS:
        raise TooFewError(
            f"at least {_MIN_FIT_ROWS} documents beside the queries are needed to fit int8 steps "
            f"and a rotation, got {len(free)}",
            hint="measure with more documents",
            needed=_MIN_FIT_ROWS,
        )
    size = min(_FIT_ROWS, max(_MIN_FIT_ROWS, len(free) // 2))
    rows = np.sort(np.random.default_rng(seed).choice(free, size, replace=False))
    sample = np.asarray(corpus[rows], np.float32)
    # whatever is fitted would name a bad row by its place in the sample, which nobody knows
    names = name_rows(rows, ids)
    check_vectors(sample, what="documents", ids=names)
    if metric == "cosine":
        dim = nesting.dims[0]
        check_vectors(sample[:, :dim], what=f"documents cut to {dim} numbers", ids=names)
    return sample


def _cross_rotated(
    first: NDArray[np.floating], second: NDArray[np.floating], rng: np.random.Generator
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Both sides rotated, each half of the pairs by the rotation fitted on the other half."""
    order = rng.permutation(len(first))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    left, right = np.empty_like(first), np.empty_like(second)
    for fitted, used in (halves, halves[::-1]):
        turn = rotation_map(Rotation().fit(np.concatenate([first[fitted], second[fitted]])))
        left[used], right[used] = turn(first[used]), turn(second[used])
    return left, right
